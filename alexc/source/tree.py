"""What a file says, as a tree of values, each with the place that wrote it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from alexc.diagnostics import Place

MAX_DEPTH = 32
MAX_VALUES = 50_000


@dataclass(frozen=True, slots=True, eq=False)
class Scalar:
    """A string, number, truth value or null; `raw` is the text that wrote it, without quotes."""

    value: str | int | float | bool | None
    raw: str
    place: Place
    size: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Listing:
    """A sequence of values. `size` counts all values below, aliases written out."""

    items: tuple[Node, ...]
    place: Place
    size: int


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One `key: value` of a mapping."""

    key: Place
    value: Node


@dataclass(frozen=True, slots=True, eq=False)
class Mapping:
    """A mapping from strings to values, in the order of the file."""

    entries: dict[str, Entry]
    place: Place
    size: int

    def get(self, key: str) -> Node | None:
        """The value under the key, or None."""
        entry = self.entries.get(key)
        return entry.value if entry else None


Node = Scalar | Listing | Mapping


def mapping(entries: dict[str, Entry], place: Place) -> Mapping:
    """A mapping put together from values that have been read."""
    return Mapping(entries, place, 1 + sum(entry.value.size for entry in entries.values()))


def sequence(items: Sequence[Node], place: Place) -> Listing:
    """A sequence put together from values that have been read."""
    return Listing(tuple(items), place, 1 + sum(item.size for item in items))


def plain(node: Node) -> Any:
    """The value as ordinary dicts, lists and scalars."""
    if isinstance(node, Mapping):
        return {key: plain(entry.value) for key, entry in node.entries.items()}
    if isinstance(node, Listing):
        return [plain(item) for item in node.items]
    return node.value


def locate(node: Node, path: Sequence[str | int], *, key: bool = False) -> Place:
    """The place of the value at `path`, or of its key; if it is absent, of the value above it."""
    place = node.place
    for step in path:
        if isinstance(node, Mapping) and step in node.entries:
            entry = node.entries[str(step)]
            place, node = (entry.key if key else entry.value.place), entry.value
        elif isinstance(node, Listing) and isinstance(step, int) and step < len(node.items):
            node = node.items[step]
            place = node.place
        else:
            break
    return place
