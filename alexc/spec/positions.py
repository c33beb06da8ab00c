"""`after` and `before`: where a layer of a variant stands among those of its base."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from alexc.diagnostics import AlexcError, Diagnostic, Place
from alexc.source import Entry, Mapping, Node, Scalar, mapping
from alexc.spec.names import Names, clip

POSITIONS = ("after", "before")  # keys of a layer that is put beside another


@dataclass(frozen=True, slots=True)
class Anchor:
    """Where a layer wants to stand: after or before which other."""

    word: str  # of POSITIONS
    name: str
    place: Place


def refuse_positions(tree: Mapping) -> None:
    """`after` and `before` mean something only to a patch."""
    layers = tree.get("layers")
    if not isinstance(layers, Mapping):
        return
    faults = [
        Diagnostic(
            "extends/position",
            f"{clip(name)}: `{word}` is for a spec that extends another",
            entry.value.entries[word].key,
            help="here a layer stands where it is written",
        )
        for name, entry in layers.entries.items()
        if isinstance(entry.value, Mapping)
        for word in POSITIONS
        if word in entry.value.entries
    ]
    if faults:
        raise AlexcError(*faults)


def split_position(name: str, entry: Entry, faults: list[Diagnostic]) -> tuple[Node, Anchor | None]:
    """The layer without `after` and `before`, and where it wants to stand."""
    if not isinstance(entry.value, Mapping):
        return entry.value, None
    words = [word for word in POSITIONS if word in entry.value.entries]
    if not words:
        return entry.value, None
    rest = {k: e for k, e in entry.value.entries.items() if k not in words}
    layer = mapping(rest, entry.value.place)
    target = entry.value.entries[words[0]].value
    if len(words) == 2:
        message = f"{clip(name)}: give `after` or `before`, not both"
        faults.append(Diagnostic("extends/position", message, entry.value.entries["before"].key))
        return layer, None
    if not isinstance(target, Scalar) or not isinstance(target.value, str):
        message = f"{clip(name)}: `{words[0]}` must be the name of a layer"
        faults.append(Diagnostic("extends/position", message, target.place))
        return layer, None
    return layer, Anchor(words[0], target.value, target.place)


def rearranged(
    names: Collection[str],
    moves: dict[str, Anchor],
    base: Collection[str],
    faults: list[Diagnostic],
) -> list[str]:
    """The names in the order that `moves` make of theirs; `base` tells which were there before."""
    order = _Order(names)
    known = Names(base)
    for name, anchor in _anchors_first(moves):
        if anchor.name == name:
            message = f"{clip(name)} can't stand {anchor.word} itself"
            faults.append(Diagnostic("extends/position", message, anchor.place))
        elif anchor.name not in names:
            gone = "has been removed" if anchor.name in base else "is not there"
            message = f"{clip(name)} can't stand {anchor.word} {clip(anchor.name)}, which {gone}"
            help = known.did_you_mean(anchor.name)
            faults.append(Diagnostic("extends/position", message, anchor.place, help=help))
        else:
            order.move(name, anchor.word, anchor.name)
    return order.names()


def _anchors_first(moves: dict[str, Anchor]) -> Iterator[tuple[str, Anchor]]:
    """The moves, each after that of the layer it is put beside, which may be moved too.

    So a move means the same wherever it is written. Layers that are put beside each other (`x`
    after `y`, `y` before `x`) are moved in the order of the file.
    """
    done: set[str] = set()
    for start in moves:
        chain: list[str] = []
        name = start
        while name in moves and name not in done and name not in chain:
            chain.append(name)
            name = moves[name].name
        circle = chain[chain.index(name) :] if name in chain else []
        waiting = chain[: len(chain) - len(circle)]
        yield from ((moved, moves[moved]) for moved in moves if moved in circle)
        yield from ((moved, moves[moved]) for moved in reversed(waiting))
        done.update(chain)


class _Order:
    """Names in a row, from which one is taken out and put beside another in constant time."""

    _START = ""  # stands before the first; no key of a file is empty

    def __init__(self, names: Iterable[str]) -> None:
        row = [self._START, *names, self._START]
        self._next = dict(pairwise(row))
        self._before = dict(pairwise(reversed(row)))

    def move(self, name: str, word: str, anchor: str) -> None:
        self._link(self._before[name], self._next[name])
        left = anchor if word == "after" else self._before[anchor]
        right = self._next[left]
        self._link(left, name)
        self._link(name, right)

    def _link(self, left: str, right: str) -> None:
        self._next[left] = right
        self._before[right] = left

    def names(self) -> list[str]:
        row = []
        name = self._next[self._START]
        while name != self._START:
            row.append(name)
            name = self._next[name]
        return row
