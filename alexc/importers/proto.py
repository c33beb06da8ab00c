"""Messages of protocol buffers, whichever way they were written: as text or as bytes.

A schema is a table of fields; `prototext` and `wire` fill the same `Message` from it, so that
whoever reads a net does not see which of the two it came from. Only the messages that an importer
reads have a schema. What a schema doesn't know is kept by name (`Message.unknown`) when it comes
from text, and passed over when it comes from bytes, where it has no name.

A schema is written as the fields of one message a line, `name=number:kind`, a `*` for a repeated
field, a kind in capitals for another message or an enumeration:

    BlobShape     dim=1:int*
    InputParameter shape=1:BlobShape*
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from alexc.diagnostics import Place, SourceText

Kind = Literal["int", "bool", "float", "double", "string", "bytes", "enum", "message"]
_SCALARS: dict[str, Kind] = {
    "int": "int",
    "bool": "bool",
    "float": "float",
    "double": "double",
    "string": "string",
    "bytes": "bytes",
}


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message. `type` names the message or the enumeration that it holds."""

    number: int
    name: str
    kind: Kind
    repeated: bool
    type: str = ""


@dataclass(frozen=True, slots=True)
class Schema:
    """The fields of one message, by name and by number."""

    name: str
    by_name: Mapping[str, Field]
    by_number: Mapping[int, Field]


class Schemas:
    """The messages and enumerations of one format."""

    def __init__(self, messages: str, enums: Mapping[str, Mapping[str, int]]) -> None:
        self.enums = {name: dict(values) for name, values in enums.items()}
        self._names = {
            name: {number: word for word, number in values.items()}
            for name, values in enums.items()
        }
        self._schemas: dict[str, Schema] = {}
        for line in messages.strip().splitlines():
            if words := line.split("#")[0].split():
                fields = [self._field(word) for word in words[1:]]
                old = self._schemas.get(words[0])
                fields += old.by_name.values() if old else ()
                self._schemas[words[0]] = Schema(
                    words[0],
                    {one.name: one for one in fields},
                    {one.number: one for one in fields},
                )

    def __getitem__(self, name: str) -> Schema:
        return self._schemas[name]

    def enum_name(self, enum: str, number: int) -> str:
        """The word for a number of an enumeration, or the number where there is none."""
        return self._names[enum].get(number, str(number))

    def _field(self, word: str) -> Field:
        name, _, rest = word.partition("=")
        number, _, kind = rest.partition(":")
        repeated = kind.endswith("*")
        kind = kind.rstrip("*")
        if kind in _SCALARS:
            return Field(int(number), name, _SCALARS[kind], repeated)
        found: Kind = "enum" if kind in self.enums else "message"
        return Field(int(number), name, found, repeated, kind)


class Document:
    """The file that a message was read from; for text, where its lines begin."""

    def __init__(self, path: str, text: str | None = None) -> None:
        self.path = path
        self._starts: NDArray[np.int64] | None = None
        self._source: SourceText | None = None
        if text is not None:
            lines = text.split("\n")
            self._source = SourceText(path, tuple(line.rstrip("\r") for line in lines))
            self._starts = np.cumsum([0, *(len(line) + 1 for line in lines[:-1])])

    def place(self, offset: int, length: int = 1) -> Place | None:
        """The place of a character of the text; None where the file is no text."""
        if self._source is None or self._starts is None:
            return None
        line = int(np.searchsorted(self._starts, offset, side="right"))
        return Place(self._source, line, offset - int(self._starts[line - 1]) + 1, length)


@dataclass(slots=True)
class Message:
    """The fields of one message as they were written, and where.

    A getter gives the last value of a field that is not repeated, as the format's rules say, and
    the default where there is none. `offset` and `length` are those of the word that opened it.
    """

    schema: Schema
    document: Document
    offset: int = 0
    length: int = 1
    values: dict[str, list[Any]] = field(default_factory=dict)
    offsets: dict[str, list[int]] = field(default_factory=dict)
    unknown: list[tuple[str, int]] = field(default_factory=list)

    def add(self, name: str, value: Any, offset: int) -> None:
        """Take one more value of a field."""
        self.values.setdefault(name, []).append(value)
        self.offsets.setdefault(name, []).append(offset)

    def has(self, name: str) -> bool:
        return name in self.values

    @property
    def place(self) -> Place | None:
        """Where the message was opened."""
        return self.document.place(self.offset, self.length)

    def place_of(self, name: str) -> Place | None:
        """Where a field was written; the message's own place where it was not."""
        if name in self.offsets:
            return self.document.place(self.offsets[name][-1], len(name))
        return self.place

    def integer(self, name: str, default: int = 0) -> int:
        return int(self._last(name, default))

    def number(self, name: str, default: float = 0.0) -> float:
        return float(self._last(name, default))

    def flag(self, name: str, default: bool = False) -> bool:
        return bool(self._last(name, default))

    def text(self, name: str, default: str = "") -> str:
        """A string, or the word of an enumeration."""
        return str(self._last(name, default))

    def message(self, name: str) -> Message:
        """A message; an empty one where there is none, since every field has a default."""
        value = self._last(name, None)
        if isinstance(value, Message):
            return value
        return Message(_EMPTY, self.document, self.offset, self.length)

    def messages(self, name: str) -> Sequence[Message]:
        return self.values.get(name, ())

    def texts(self, name: str) -> list[str]:
        return [str(value) for value in self.values.get(name, ())]

    def integers(self, name: str) -> list[int]:
        return [int(value) for value in self.values.get(name, ())]

    def numbers(self, name: str) -> list[float]:
        """The values of a repeated float field, of which there are few."""
        return [float(value) for value in self.array(name).tolist()]

    def array(self, name: str, dtype: str = "<f4") -> NDArray[Any]:
        """The values of a repeated float or double field in one array, mapped where they can be."""
        chunks = [
            value if isinstance(value, np.ndarray) else np.asarray([value], np.float64)
            for value in self.values.get(name, ())
        ]
        if not chunks:
            return np.empty(0, dtype)
        return chunks[0] if len(chunks) == 1 else np.concatenate(chunks)

    def _last(self, name: str, default: Any) -> Any:
        values = self.values.get(name)
        return values[-1] if values else default


_EMPTY = Schema("nothing", {}, {})


def shortest(value: float) -> float:
    """The shortest decimal that is the same float32: 0.0001, where the bytes say 9.9999997e-05."""
    return float(str(np.float32(value)))
