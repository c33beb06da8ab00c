"""Which layers of two columns are one layer over both: pairs such as conv4a and conv4b.

A pair is joined where that is the same function. It is not for a normalisation across channels,
whose windows end at the column's edge; such layers, and those of the column before them, stay as
they are. So do pairs of which somebody reads only one half.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from alexc.importers.cuda_convnet.sections import Section


@dataclass(frozen=True, slots=True)
class Unit:
    """What becomes one layer: a layer of the file, or a pair of columns that is joined."""

    name: str
    members: tuple[Section, ...]

    @property
    def first(self) -> Section:
        return self.members[0]

    @property
    def columns(self) -> int:
        return len(self.members)

    @property
    def inputs(self) -> list[set[str]]:
        """What each member reads."""
        return [set(member.inputs) for member in self.members]


def units(
    wanted: Sequence[Section],
    by_name: Mapping[str, Section],
    parameters: Mapping[str, Section],
) -> list[Unit]:
    """The layers, those of two columns that are one function joined to one."""
    twins = _twins(wanted, by_name, parameters)
    apart = _apart(wanted, twins, by_name)
    kept = {s.name for s in by_name.values() if s.name not in twins or s.name in apart}
    found = []
    for section in wanted:
        twin = twins.get(section.name)
        if twin is None or section.name in apart:
            found.append(Unit(section.name, (section,)))
        elif section.name < twin:
            joined = section.name[:-1]
            stem = section.name if joined in kept or not joined else joined
            found.append(Unit(stem, (section, by_name[twin])))
    return _in_order(found)


def _twins(
    wanted: Sequence[Section],
    by_name: Mapping[str, Section],
    parameters: Mapping[str, Section],
) -> dict[str, str]:
    """Each layer's counterpart in the other column: of the same name but for a last a or b,
    doing the same, with inputs that are the same or counterparts."""
    twins: dict[str, str] = {}
    seen: set[str] = set()
    for section in wanted:
        seen.add(section.name)
        other = section.name[:-1] + {"a": "b", "b": "a"}.get(section.name[-1:], "")
        # Judged at the later one of the two: whatever they read has been judged by then.
        if other in seen and other != section.name:
            first, second = sorted((section.name, other))
            if _alike(by_name[first], by_name[second], twins, parameters):
                twins[first], twins[second] = second, first
    return twins


def _alike(
    first: Section,
    second: Section,
    twins: Mapping[str, str],
    parameters: Mapping[str, Section],
) -> bool:
    """Whether two layers of different columns do the same."""
    ignored = {"gpu", "inputs", "partialsum"}

    def said(section: Section) -> dict[str, str]:
        kept = {key: v for key, v in section.values.items() if key not in ignored}
        own = parameters.get(section.name)
        meant = {"scale", "pow", "mindiv", "enable"}
        extra = {k: v for k, v in own.values.items() if k in meant} if own else {}
        return kept | extra

    if said(first) != said(second) or first.type == "data":
        return False
    # Within the column, or from both columns in whichever order, or from what has no columns.
    same = set(first.inputs) == set(second.inputs)
    within = [twins.get(name, name) for name in first.inputs] == list(second.inputs)
    return within or same


def _apart(
    wanted: Sequence[Section], twins: Mapping[str, str], by_name: Mapping[str, Section]
) -> set[str]:
    """Layers of columns that stay branches: normalisations across channels, and all before.

    `wanted` is in the order of the file, so whoever reads a layer has been looked at before it.
    """
    apart: set[str] = set()
    for section in reversed(wanted):
        if section.name in twins and section.type == "cmrnorm":
            apart.add(section.name)
        # So do columns of which somebody outside reads only one.
        other = by_name[twins.get(section.name, section.name)]
        for name in section.inputs:
            if name in twins and twins[name] not in section.inputs and name in other.inputs:
                apart |= {name, twins[name]}
        if section.name in apart and section.name in twins:
            own = [name for name in section.inputs if twins.get(name) not in section.inputs]
            apart |= {name for name in own if name in twins}
            apart |= {twins[name] for name in own if name in twins}
    return apart


def _in_order(found: Sequence[Unit]) -> list[Unit]:
    """Every unit after those that it reads, and where it can be right after one of them: a column
    is written as a whole before the next one."""
    owner = {member.name: unit for unit in found for member in unit.members}
    readers: dict[str, list[Unit]] = {unit.name: [] for unit in found}
    waiting: dict[str, int] = {}
    for unit in found:
        sources = {owner[name].name for member in unit.members for name in member.inputs}
        waiting[unit.name] = len(sources)
        for source in sources:
            readers[source].append(unit)
    ready = [unit for unit in reversed(found) if not waiting[unit.name]]
    order = []
    while ready:
        unit = ready.pop()
        order.append(unit)
        for reader in reversed(readers[unit.name]):
            waiting[reader.name] -= 1
            if not waiting[reader.name]:
                ready.append(reader)
    return order
