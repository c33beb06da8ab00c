"""The parser's events → the tree, without recursion and within limits."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

from alexc.diagnostics import AlexcError, Diagnostic, Place, SourceText
from alexc.source.scalars import resolve
from alexc.source.syntax import Open, explain
from alexc.source.tree import MAX_DEPTH, MAX_VALUES, Entry, Listing, Mapping, Node, Scalar

# The parser's events come from C and have no types.
_Event = Any

MAX_KEY = 200  # characters; a name that long is a mistake
_MOST_SHOWN = 40
_TEXT_TAGS = ("tag:yaml.org,2002:str", "!")  # `!` says: text, whatever it looks like
_PROPERTIES = re.compile(r"(?:[&!]\S*[ \t]+)+")


def compose(source: SourceText, text: str) -> Mapping:
    """The root mapping of the text. Raises AlexcError with every fault that was found."""
    return _Composer(source).compose(text)


@dataclass(slots=True)
class _Collection(Open):
    """A collection whose end has not been read yet."""

    anchor: str | None = None
    entries: dict[str, Entry] | None = None  # a mapping when present, otherwise a sequence
    items: list[Node] = field(default_factory=list)
    size: int = 1


class _Composer:
    def __init__(self, source: SourceText) -> None:
        self._source = source
        self._faults: list[Diagnostic] = []
        self._anchors: dict[str, Node] = {}
        self._stack: list[_Collection] = []
        # For faults that are found only behind what caused them: the last scalar, and the column of
        # a block collection that has just ended.
        self._last: _Event = None
        self._closed = -1

    def compose(self, text: str) -> Mapping:
        root: Node | None = None
        for event in self._events(text):
            kind = type(event).__name__
            if kind == "ScalarEvent":
                self._last, self._closed = event, -1
                node: Node | None = self._complete(self._scalar(event), event.anchor)
            elif kind in ("MappingStartEvent", "SequenceStartEvent"):
                self._open(event, is_mapping=kind == "MappingStartEvent")
                continue
            elif kind in ("MappingEndEvent", "SequenceEndEvent"):
                node = self._close(event)
            elif kind == "AliasEvent":
                node = self._complete(self._alias(event), None)
            else:
                if kind == "DocumentStartEvent":
                    self._start_document(event, root)
                continue
            root = node if node is not None else root
        if self._faults:
            raise AlexcError(*self._faults)
        if isinstance(root, Mapping):
            return root
        place = root.place if root else Place(self._source, 1, 1)
        what = "empty" if root is None else "a list" if isinstance(root, Listing) else "one text"
        message = f"the file is {what}; a spec is a mapping of keys to values"
        help = "start with `alexc: 1`, `name:`, `input:` and `layers:`"
        return self._stop(Diagnostic("yaml/not-a-mapping", message, place, help=help))

    def _events(self, text: str) -> Iterator[_Event]:
        from ruamel.yaml import YAML
        from ruamel.yaml.error import MarkedYAMLError, YAMLError

        try:
            # Not `pure`, so that the events come from libyaml, which is ten times faster.
            yield from YAML(typ="safe").parse(text)
        except MarkedYAMLError as error:
            self._stop(explain(error, self._source, self._stack, self._closed, self._last))
        except YAMLError as error:
            place = Place(self._source, 1, 1)
            self._stop(Diagnostic("yaml/syntax", f"this is not YAML: {error}", place))

    def _start_document(self, event: _Event, root: Node | None) -> None:
        if event.version is not None and tuple(event.version) != (1, 2):
            message = "a spec is YAML 1.2"
            help = "take the line away; yes, no, 0777 and 1_000 are then not what they were"
            place = self._place(event)
            self._stop(Diagnostic("yaml/version", message, place, help=help))
        if event.tags:
            message = "%TAG has no meaning in a spec"
            place = self._place(event)
            self._stop(Diagnostic("yaml/directive", message, place, help="take the line away"))
        if root is not None:
            message = "a spec file holds one YAML document, and here a second one starts"
            place = self._place(event)
            self._stop(Diagnostic("yaml/documents", message, place, help="one file for each net"))

    # ---- values ----------------------------------------------------------------------------------

    def _scalar(self, event: _Event) -> Scalar:
        raw: str = event.value
        place = self._place(event)
        if not event.implicit[0] or event.tag is not None:  # quoted, or tagged as text
            self._check_tag(event)
            return Scalar(raw, raw, place)
        if not raw and self._stack and self._stack[-1].key is not None:
            place = self._stack[-1].key[1]  # a value that isn't there is shown by its key
        try:
            return Scalar(resolve(raw), raw, place)
        except ValueError:
            shown = raw if len(raw) <= _MOST_SHOWN else raw[: _MOST_SHOWN - 1] + "…"
            message = f"{shown} is too large a number"
            help = f"whole numbers end at {2**63 - 1:,}"
            self._faults.append(Diagnostic("yaml/number", message, place, help=help))
            return Scalar(0, raw, place)

    def _alias(self, event: _Event) -> Node:
        name = event.anchor
        if name not in self._anchors:
            message = f"there is no anchor &{name[:_MOST_SHOWN]} before this"
            help = "an alias *name repeats the value that was written as &name value"
            self._stop(Diagnostic("yaml/alias", message, self._place(event), help=help))
        return self._anchors[name]

    def _open(self, event: _Event, *, is_mapping: bool) -> None:
        self._check_tag(event)
        place = self._place(event)
        if len(self._stack) >= MAX_DEPTH:
            message = f"values are nested more than {MAX_DEPTH} deep"
            help = "no spec needs more than ten"
            self._stop(Diagnostic("yaml/depth", message, place, help=help))
        entries: dict[str, Entry] | None = {} if is_mapping else None
        flow = bool(event.flow_style)
        self._stack.append(_Collection(place, flow, anchor=event.anchor, entries=entries))

    def _close(self, event: _Event) -> Node | None:
        done = self._stack.pop()
        place, end = done.place, event.end_mark
        if not done.flow:
            self._closed = place.column - 1
        elif end.line + 1 == place.line:
            place = Place(place.source, place.line, place.column, end.column + 1 - place.column)
        node: Node
        if done.entries is None:
            node = Listing(tuple(done.items), place, done.size)
        else:
            if not done.flow and done.entries:
                place = next(iter(done.entries.values())).key
            node = Mapping(done.entries, place, done.size)
        return self._complete(node, done.anchor)

    def _complete(self, node: Node, anchor: str | None) -> Node | None:
        """Put a value into the collection that is open; without one it is the root."""
        if anchor:
            self._anchors[anchor] = node
        if not self._stack:
            return node
        top = self._stack[-1]
        if top.entries is None:
            top.items.append(node)
        elif top.key is None:
            top.key = self._key(node)
            return None
        else:
            self._put(top.entries, *top.key, node)
            top.last_key, top.key = top.key, None
        top.size += node.size
        if top.size > MAX_VALUES:
            message = f"the file stands for more than {MAX_VALUES:,} values (aliases written out)"
            help = "a net of so many layers is beyond any machine; is an alias repeated too often?"
            self._stop(Diagnostic("yaml/too-many-values", message, node.place, help=help))
        return None

    def _key(self, node: Node) -> tuple[str, Place]:
        if not isinstance(node, Scalar):
            message = "a key must be a word, not a list or a mapping"
            self._stop(Diagnostic("yaml/key", message, node.place, help="key: value"))
        # A key is a name, whatever it looks like: `1:` and `null:` are the names "1" and "null".
        if not node.raw:
            self._stop(Diagnostic("yaml/key", "there is no key before the colon", node.place))
        if len(node.raw) > MAX_KEY:
            message = f"a key is longer than {MAX_KEY} characters"
            self._stop(Diagnostic("yaml/key", message, node.place))
        return node.raw, node.place

    def _put(self, entries: dict[str, Entry], name: str, place: Place, value: Node) -> None:
        if name in entries:
            first = entries[name].key
            message = f"the key {name[:_MOST_SHOWN]} is given twice"
            note = f"it is first given at line {first.line}"
            help = "one of them would be lost: remove it, or give it another name"
            fault = Diagnostic("yaml/duplicate-key", message, place, notes=(note,), help=help)
            self._faults.append(fault)
        elif name == "<<":
            message = "YAML 1.2 has no merge key <<"
            help = "a variant of a file is written with `extends`, layers that recur as a block"
            self._faults.append(Diagnostic("yaml/merge-key", message, place, help=help))
        else:
            entries[name] = Entry(place, value)

    def _check_tag(self, event: _Event) -> None:
        if event.tag is not None and str(event.tag) not in _TEXT_TAGS:
            message = "tags (a word after !) have no meaning in a spec"
            mark = event.start_mark
            text = self._source.lines[mark.line][mark.column :].split()[0]
            place = Place(self._source, mark.line + 1, mark.column + 1, len(text))
            self._stop(Diagnostic("yaml/tag", message, place, help="take it away"))

    # ---- places ----------------------------------------------------------------------------------

    def _place(self, event: _Event) -> Place:
        """Where the event's value is written: behind its anchor and tag."""
        start, end = event.start_mark, event.end_mark
        line, column = start.line, start.column
        text = self._source.lines[line] if line < len(self._source.lines) else ""
        if text[column : column + 1] in ("&", "!"):
            properties = _PROPERTIES.match(text, column)
            column = properties.end() if properties else column
        length = end.column - column if end.line == line else len(text) - column
        return Place(self._source, line + 1, column + 1, max(1, length))

    def _stop(self, last: Diagnostic) -> NoReturn:
        """Raise with the faults so far and this one, after which no more can be read."""
        raise AlexcError(*self._faults, last) from None
