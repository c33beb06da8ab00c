"""YAML 1.2 → values that remember where they were written.

This room owns text, syntax and places. It knows nothing of networks: keys and values are checked
by the rooms below. The parser is ruamel.yaml's; the tree is composed here from its events, because
every value must keep its place through merges, because scalars follow the YAML 1.2 core schema
(`1e-4` is a number, `no` is a word), and because hostile input (alias bombs, deep nesting, huge
files) must end in an error and not in a lack of memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from alexc.diagnostics import AlexcError, Diagnostic, Place, SourceText, UsageError

MAX_BYTES = 1_000_000
MAX_DEPTH = 32
MAX_VALUES = 200_000

# ruamel.yaml's events have no common type that knows their attributes.
_Event = Any


@dataclass(frozen=True, slots=True, eq=False)
class Scalar:
    """A string, number, truth value or null; `raw` is the text that wrote it."""

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
        entry = self.entries.get(key)
        return entry.value if entry else None


Node = Scalar | Listing | Mapping


def mapping(entries: dict[str, Entry], place: Place) -> Mapping:
    """A mapping put together from values that have been read."""
    return Mapping(entries, place, 1 + sum(entry.value.size for entry in entries.values()))


def sequence(items: Sequence[Node], place: Place) -> Listing:
    """A sequence put together from values that have been read."""
    return Listing(tuple(items), place, 1 + sum(item.size for item in items))


def read(path: Path, *, shown_as: str | None = None) -> Mapping:
    """The root mapping of a YAML file; `shown_as` is the path that diagnostics print.

    Raises UsageError if there is no such file and AlexcError if it is not one YAML mapping.
    """
    return parse(read_bytes(path), shown_as or str(path))


def read_bytes(path: Path) -> bytes:
    """The bytes of a spec file, refused when they can't be one."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise UsageError(Diagnostic("file/missing", f"there is no file {path}")) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(Diagnostic("file/unreadable", f"{path}: {reason}")) from None
    if len(data) > MAX_BYTES:
        raise AlexcError(
            Diagnostic(
                "yaml/too-large",
                f"{path} is larger than {MAX_BYTES:,} bytes, which no spec needs",
                help="a spec describes layers; weights belong in a .safetensors file",
            )
        )
    return data


def parse(data: bytes, shown_as: str) -> Mapping:
    """The root mapping of YAML text in UTF-8; AlexcError with a place for every fault found."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise AlexcError(
            Diagnostic(
                "yaml/encoding",
                f"{shown_as}: byte {error.start} (line {line}) is not UTF-8",
                help="save the file as UTF-8",
            )
        ) from None
    source = SourceText(shown_as, tuple(re.split(r"\r\n|\r|\n", text)))
    return _Composer(source).compose(text)


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


@dataclass(slots=True)
class _Open:
    """A collection whose end has not been read yet."""

    place: Place
    flow: bool
    anchor: str | None
    entries: dict[str, Entry] | None  # a mapping when present, otherwise a sequence
    items: list[Node] = field(default_factory=list)
    key: tuple[str, Place] | None = None
    duplicate: bool = False
    size: int = 1


class _Composer:
    """Builds the tree from the parser's events, without recursion."""

    def __init__(self, source: SourceText) -> None:
        self.source = source
        self.faults: list[Diagnostic] = []
        self.anchors: dict[str, Node] = {}
        self.stack: list[_Open] = []
        self.values = 0

    def compose(self, text: str) -> Mapping:
        root: Node | None = None
        documents = 0
        for event in self._events(text):
            kind = type(event).__name__
            if kind == "DocumentStartEvent":
                documents += 1
                version = getattr(event, "version", None)
                if version is not None and tuple(version) != (1, 2):
                    self._stop("yaml/version", "a spec is YAML 1.2", self._place(event))
                if documents > 1:
                    message = "a spec file holds one YAML document, and here a second one starts"
                    self._stop("yaml/documents", message, self._place(event))
            node = self._take(event, kind)
            if node is not None:
                root = node
        if self.faults:
            raise AlexcError(*self.faults)
        if not isinstance(root, Mapping):
            place = root.place if root else Place(self.source, 1, 1)
            what = "empty" if root is None else "not a mapping"
            self._stop(
                "yaml/not-a-mapping",
                f"the file is {what}; a spec is a mapping of keys to values",
                place,
                help="start with `alexc: 1`, `name:`, `input:` and `layers:`",
            )
        return root

    def _events(self, text: str) -> Iterator[_Event]:
        from ruamel.yaml import YAML
        from ruamel.yaml.error import MarkedYAMLError, YAMLError
        from ruamel.yaml.reader import ReaderError

        try:
            yield from YAML(typ="safe", pure=True).parse(text)
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = Place(self.source, mark.line + 1, mark.column + 1) if mark else None
            problem = " ".join(str(error.problem or error.context).split())
            notes = [
                f"the {'{' if opened.entries is not None else '['} opened at "
                f"line {opened.place.line}, column {opened.place.column} is not closed"
                for opened in self.stack[-1:]
                if opened.flow
            ]
            if error.context:
                notes.append(" ".join(str(error.context).split()))
            help = "indent with spaces" if "'\\t'" in problem else None
            self._stop("yaml/syntax", problem, place, notes=tuple(notes), help=help)
        except ReaderError as error:
            before = text[: error.position]
            line = before.count("\n") + 1
            column = error.position - (before.rfind("\n") + 1) + 1
            message = f"the control character U+{ord(text[error.position]):04X} is not allowed"
            self._stop("yaml/character", message, Place(self.source, line, column))
        except (YAMLError, ValueError, AssertionError, LookupError, AttributeError) as error:
            # ruamel.yaml lets a few plain Python errors out on malformed text.
            self._stop("yaml/syntax", f"this is not YAML: {error}", Place(self.source, 1, 1))

    def _take(self, event: _Event, kind: str) -> Node | None:
        """Handle one event; the root value when this event completes it."""
        node: Node
        match kind:
            case "MappingStartEvent" | "SequenceStartEvent":
                self._push(event, is_mapping=kind.startswith("Mapping"))
                return None
            case "MappingEndEvent" | "SequenceEndEvent":
                node, anchor = self._pop()
            case "ScalarEvent":
                node, anchor = self._scalar(event), event.anchor
            case "AliasEvent":
                name = event.anchor
                if name not in self.anchors:
                    self._stop("yaml/alias", f"there is no anchor &{name}", self._place(event))
                node, anchor = self.anchors[name], None
            case _:
                return None
        if anchor:
            self.anchors[anchor] = node
        self.values += 1
        if not self.stack:
            self._limit(node.size, event)
            return node
        self._add(node, event)
        return None

    def _push(self, event: _Event, *, is_mapping: bool) -> None:
        place = self._place(event)
        if len(self.stack) >= MAX_DEPTH:
            message = f"values are nested more than {MAX_DEPTH} deep"
            self._stop("yaml/depth", message, place)
        self._check_tag(event)
        flow = bool(event.flow_style)
        self.stack.append(_Open(place, flow, event.anchor, {} if is_mapping else None))

    def _pop(self) -> tuple[Node, str | None]:
        done = self.stack.pop()
        node: Node
        if done.entries is None:
            node = Listing(tuple(done.items), done.place, done.size)
        else:
            node = Mapping(done.entries, done.place, done.size)
        return node, done.anchor

    def _add(self, node: Node, event: _Event) -> None:
        top = self.stack[-1]
        if top.entries is None:
            top.items.append(node)
        elif top.key is None:
            top.key = self._key(node, top.entries)
            top.duplicate = top.key[0] in top.entries
        else:
            name, place = top.key
            if not top.duplicate:
                top.entries[name] = Entry(place, node)
            top.key = None
        top.size += node.size
        self._limit(top.size, event)

    def _limit(self, size: int, event: _Event) -> None:
        if size > MAX_VALUES:
            message = f"the file stands for more than {MAX_VALUES:,} values (aliases written out)"
            self._stop("yaml/too-many-values", message, self._place(event))

    def _key(self, node: Node, entries: dict[str, Entry]) -> tuple[str, Place]:
        if not isinstance(node, Scalar):
            self._stop("yaml/key", "a key must be a plain word", node.place)
        # A key is a name, whatever it looks like: `1:` and `null:` are the names "1" and "null".
        name = node.raw
        if name in entries:
            first = entries[name].key
            self.faults.append(
                Diagnostic(
                    "yaml/duplicate-key",
                    f"the key {name} is given twice",
                    node.place,
                    notes=(f"first given at line {first.line}",),
                )
            )
        return name, node.place

    def _scalar(self, event: _Event) -> Scalar:
        self._check_tag(event)
        raw: str = event.value
        place = self._place(event)
        if not event.implicit[0]:  # quoted, or tagged as a string
            return Scalar(raw, raw, place)
        try:
            return Scalar(resolve(raw), raw, place)
        except ValueError:
            message = f"{raw[:40]}{'…' * (len(raw) > 40)} is too large a number"
            self.faults.append(Diagnostic("yaml/number", message, place))
            return Scalar(0, raw, place)

    def _check_tag(self, event: _Event) -> None:
        tag = event.tag
        if tag is not None and str(tag) not in ("tag:yaml.org,2002:str", "!"):
            self._stop("yaml/tag", "tags (a word after !) have no meaning here", self._place(event))

    def _place(self, event: _Event) -> Place:
        start, end = event.start_mark, event.end_mark
        same_line = end is not None and end.line == start.line
        return Place(
            self.source,
            start.line + 1,
            start.column + 1,
            max(1, end.column - start.column) if same_line else 1,
        )

    def _stop(
        self,
        code: str,
        message: str,
        place: Place | None,
        *,
        notes: tuple[str, ...] = (),
        help: str | None = None,
    ) -> NoReturn:
        """Raise with the faults so far and this one, after which no more can be read."""
        last = Diagnostic(code, message, place, notes=notes, help=help)
        raise AlexcError(*self.faults, last) from None


_INT = re.compile(r"[-+]?[0-9]+\Z|0o[0-7]+\Z|0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_WORDS: dict[str, bool | float | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}


def resolve(raw: str) -> str | int | float | bool | None:
    """The value of a plain scalar by YAML 1.2's core schema (chapter 10.3.2 of its specification).

    Raises ValueError for an integer of more than 64 bits.
    """
    if raw in _WORDS:
        return _WORDS[raw]
    if _INT.match(raw):
        if len(raw) > 25:
            raise ValueError(raw)
        number = int(raw, {"0o": 8, "0x": 16}.get(raw[:2], 10))
        if abs(number) >= 2**63:
            raise ValueError(raw)
        return number
    if _FLOAT.match(raw):
        return float(raw)
    return raw
