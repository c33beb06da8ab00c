"""The binary form of protocol buffers → a Message; long runs of numbers stay where they are.

This is the form of caffemodels, mean files and ONNX models. The file is mapped into memory and
nothing in it is believed: a length is held against the bytes that are left, and the number of
fields is bounded, so that a file of any content ends soon in a Message or in an AlexcError that
names the byte. Packed floats, which are nearly all of such a file, become arrays that are views of
the mapping: no byte of the weights is copied here.

A field is a varint `number << 3 | type` and a value: 0 a varint, 1 eight bytes, 2 a varint length
and so many bytes, 5 four bytes. Types 3 and 4 (groups) went out of use before all of these formats.
"""

from __future__ import annotations

import mmap
import stat
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from alexc.diagnostics import AlexcError, Diagnostic, UsageError
from alexc.importers.proto import Document, Field, Message, Schema, Schemas, shortest

# A net of a thousand layers has some 50,000 fields. Each costs about a microsecond and 200 bytes.
MAX_FIELDS = 200_000

_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5
_WIRE_TYPE = {"int": _VARINT, "bool": _VARINT, "enum": _VARINT, "float": _FOUR, "double": _EIGHT}
_PACKED: dict[str, np.dtype[Any]] = {"float": np.dtype("<f4"), "double": np.dtype("<f8")}

# Strings and bytes stand as they are, unless they are long enough to be worth a view.
_LONG = 4096


class Mapped:
    """A file mapped into memory, to be read where it lies.

    Raises UsageError if there is no such file, AlexcError if it is empty.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # A pipe would block the opening, and a device could not be mapped.
            if not stat.S_ISREG(path.stat().st_mode):
                raise UsageError(Diagnostic("file/unreadable", f"{path} is not an ordinary file"))
            with path.open("rb") as file:
                if not path.stat().st_size:
                    raise AlexcError(Diagnostic("import/damaged", f"{path} is empty"))
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError:
            raise UsageError(Diagnostic("file/missing", f"there is no file {path}")) from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UsageError(Diagnostic("file/unreadable", f"{path}: {reason}")) from None
        self.bytes = memoryview(self._map)

    def __len__(self) -> int:
        return len(self.bytes)

    def release(self) -> None:
        """Let go of the pages that were read; a later look reads them again."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)


def read(file: Mapped, schema: Schema, schemas: Schemas) -> Message:
    """The message that a mapped file holds. Raises AlexcError `import/damaged` if it holds none."""
    return decode(file.bytes, str(file.path), schema, schemas)


def decode(data: memoryview, shown_as: str, schema: Schema, schemas: Schemas) -> Message:
    """The message that these bytes stand for. Raises AlexcError `import/damaged`."""
    reader = _Reader(data, shown_as, schemas)
    message = Message(schema, Document(shown_as))
    reader.fields(message, 0, len(data))
    return message


class _Reader:
    def __init__(self, data: memoryview, shown_as: str, schemas: Schemas) -> None:
        self.data = data
        self.shown_as = shown_as
        self.schemas = schemas
        self.document = Document(shown_as)
        self.left = MAX_FIELDS

    def fields(self, message: Message, offset: int, end: int) -> None:
        """Read the fields between two offsets into the message. Schemas don't contain themselves,
        so the depth of this recursion is that of the format."""
        by_number = message.schema.by_number
        while offset < end:
            self._count(1, offset)
            start = offset
            key, offset = self._varint(offset, end)
            number, wire_type = key >> 3, key & 7
            known = by_number.get(number)
            if number == 0:
                self._stop(start, "a field has the number 0")
            if wire_type == _BYTES:
                length, offset = self._varint(offset, end)
                if length > end - offset:
                    name = known.name if known else f"field {number}"
                    self._stop(
                        start,
                        f"{name} claims {length:,} bytes and {end - offset:,} are left",
                    )
                if known is not None:
                    self._take_bytes(message, known, offset, length)
                offset += length
            elif wire_type in (_FOUR, _EIGHT):
                size = 4 if wire_type == _FOUR else 8
                if end - offset < size:
                    self._stop(start, f"a number of {size} bytes is cut off")
                if known is None:
                    offset += size
                elif known.repeated:
                    offset = self._run(message, known, start, offset, end, wire_type)
                else:
                    self._check(known, wire_type, start)
                    value = np.frombuffer(self.data, _PACKED[known.kind], 1, offset)[0]
                    message.add(known.name, _float(known, value), start)
                    offset += size
            elif wire_type == _VARINT:
                value, offset = self._varint(offset, end)
                if known is not None:
                    self._check(known, wire_type, start)
                    message.add(known.name, self._integer(known, value), start)
            else:
                self._stop(start, f"field {number} has the type {wire_type}, which is none")

    def _take_bytes(self, message: Message, known: Field, offset: int, length: int) -> None:
        """Take a field that is a stretch of bytes: a message, a text or packed numbers."""
        match known.kind:
            case "message":
                old = message.values.get(known.name)
                if old and not known.repeated and isinstance(old[-1], Message):
                    inner = old[-1]  # a message given in parts is their sum
                else:
                    inner = Message(self.schemas[known.type], self.document, offset, length)
                    message.add(known.name, inner, offset)
                self.fields(inner, offset, offset + length)
            case "string":
                try:
                    text = str(self.data[offset : offset + length], "utf-8")
                except UnicodeDecodeError:
                    self._stop(offset, f"the text of {known.name} is not UTF-8")
                message.add(known.name, text, offset)
            case "bytes":
                view = self.data[offset : offset + length]
                message.add(known.name, view if length > _LONG else bytes(view), offset)
            case "float" | "double":
                dtype = _PACKED[known.kind]
                if not known.repeated or length % dtype.itemsize:
                    self._stop(offset, f"{known.name} can't be of {length:,} bytes")
                count = length // dtype.itemsize
                message.add(known.name, np.frombuffer(self.data, dtype, count, offset), offset)
            case _:
                if not known.repeated:
                    self._stop(offset, f"{known.name} is one number and comes as bytes")
                end = offset + length
                while offset < end:
                    self._count(1, offset)
                    value, offset = self._varint(offset, end)
                    message.add(known.name, self._integer(known, value), offset)

    def _run(
        self, message: Message, known: Field, start: int, offset: int, end: int, wire_type: int
    ) -> int:
        """Numbers of fixed size that are not packed: as many as follow under the same key, at once.

        One by one, the weights of a net would take minutes.
        """
        self._check(known, wire_type, start)
        dtype = _PACKED[known.kind]
        key_length = offset - start
        step = key_length + dtype.itemsize
        most = (end - start) // step
        rows: NDArray[np.uint8] = np.frombuffer(self.data, np.uint8, most * step, start)
        rows = rows.reshape(most, step)
        count = 1
        while count < most:  # in blocks, so that a short run in a long file is cheap
            block = rows[count : count + max(64, count)]
            same = (block[:, :key_length] == rows[0, :key_length]).all(axis=1)
            count += len(same) if same.all() else int(same.argmin())
            if not same.all():
                break
        values = np.ascontiguousarray(rows[:count, key_length:]).view(dtype).reshape(-1)
        message.add(known.name, values, start)
        return start + count * step

    def _integer(self, known: Field, value: int) -> Any:
        """A varint as what its field holds: negative numbers come as their two's complement."""
        if known.kind == "bool":
            return bool(value)
        if known.kind == "enum":
            return self.schemas.enum_name(known.type, value)
        return value - 2**64 if value >= 2**63 else value

    def _varint(self, offset: int, end: int) -> tuple[int, int]:
        """The number whose digits of seven bits begin at an offset, and the offset behind it."""
        data = self.data
        value = shift = 0
        start = offset
        while True:
            if offset >= end or shift >= 70:
                problem = "a number is cut off" if offset >= end else "a number has no end"
                self._stop(start, problem)
            byte = data[offset]
            offset += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & (2**64 - 1), offset
            shift += 7

    def _check(self, known: Field, wire_type: int, offset: int) -> None:
        if _WIRE_TYPE.get(known.kind) != wire_type:
            self._stop(offset, f"{known.name} is of another type than the format says")

    def _count(self, fields: int, offset: int) -> None:
        self.left -= fields
        if self.left < 0:
            self._stop(offset, f"it holds more than {MAX_FIELDS:,} fields")

    def _stop(self, offset: int, problem: str) -> NoReturn:
        raise AlexcError(
            Diagnostic("import/damaged", f"{self.shown_as}: byte {offset:,}: {problem}")
        ) from None


def _float(known: Field, value: Any) -> float:
    return shortest(float(value)) if known.kind == "float" else float(value)
