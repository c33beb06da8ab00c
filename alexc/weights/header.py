"""The header of a `.safetensors` file: what tensors it holds, and at which bytes each lies.

A file is eight bytes that give the header's length, a JSON header that gives each tensor's type,
shape and stretch of bytes, and the bytes themselves, little-endian, one tensor behind the other.
It is parsed here and not by a library, because `model.onnx` refers to the same bytes by offset and
length, and because a file may come from anywhere: nothing in it is believed before it is checked.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from alexc.diagnostics import AlexcError, Diagnostic, UsageError
from alexc.ops.base import Shape, format_shape

# A header of this size describes 80,000 tensors; a longer one is not worth the memory to parse.
MAX_HEADER_BYTES = 8 * 2**20
MAX_DIMENSIONS = 32

# Tensors start where a cache line does (if their sizes allow), so that a memory-mapped matrix can
# be loaded with aligned vector instructions. The header is padded with spaces, as the format says.
_ALIGNMENT = 64

_ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip

_SHOWN_CHARACTERS = 100


@dataclass(frozen=True, slots=True)
class Extent:
    """Where a tensor lies: `length` bytes from byte `offset` of the file, C order.

    `dtype` is the format's own name of the type: F32, F16, BF16, I8 and so on. `file` is the name
    of the file without its folder, which is how a model beside it refers to it.
    """

    offset: int
    length: int
    dtype: str
    shape: Shape
    file: str


def render(places: Mapping[str, tuple[int, int, str, Shape]]) -> bytes:
    """The JSON header, padded so that the first tensor is aligned."""
    record = {
        name: {"dtype": dtype, "shape": list(shape), "data_offsets": [first, last]}
        for name, (first, last, dtype, shape) in places.items()
    }
    text = json.dumps(record, separators=(",", ":"), ensure_ascii=False).encode()
    return text + b" " * (-(8 + len(text)) % _ALIGNMENT)


def extents(path: Path) -> dict[str, Extent]:
    """Every tensor of the file, in the order of its bytes. Reads the header and nothing else.

    Raises UsageError if there is no such file, AlexcError `weights/unreadable` if its header is not
    one of a whole safetensors file: every byte behind it belongs to exactly one tensor.
    """
    with open_file(path) as file:
        return parse(path, file)


def open_file(path: Path) -> BinaryIO:
    """The file, open for reading; UsageError if there is none or it is no ordinary file."""
    try:
        # A pipe would block the opening, and a device could not be mapped.
        if not stat.S_ISREG(path.stat().st_mode):
            raise UsageError(Diagnostic("file/unreadable", f"{path} is not an ordinary file"))
        return path.open("rb")
    except FileNotFoundError:
        raise UsageError(Diagnostic("file/missing", f"there is no file {path}")) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(Diagnostic("file/unreadable", f"{path}: {reason}")) from None


def parse(path: Path, file: BinaryIO) -> dict[str, Extent]:
    """Parse the header, believing nothing in it before it is checked against the file's size."""
    size = os.fstat(file.fileno()).st_size
    first = file.read(8)
    if len(first) < 8:
        _unreadable(path, f"it has {size} bytes and a safetensors file has 8 or more", first)
    length = int.from_bytes(first, "little")
    if length > size - 8:
        _unreadable(
            path,
            f"its header claims {length:,} bytes and the file has {size - 8:,} more",
            first,
        )
    if length > MAX_HEADER_BYTES:
        limit = f"at most {MAX_HEADER_BYTES:,} are read"
        _unreadable(path, f"its header claims {length:,} bytes; {limit}", first)
    entries = _header_entries(path, file.read(length))
    tensors = {
        name: _extent(path, name, entry, 8 + length)
        for name, entry in entries.items()
        if name != "__metadata__"
    }
    # In a whole file the tensors lie end to end: no gap for anything to hide in, no overlap.
    in_order = sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].length))
    end = 8 + length
    for name, extent in in_order:
        if extent.offset != end:
            what = "overlaps the tensor before it" if extent.offset < end else "leaves a gap"
            _unreadable(
                path,
                f"tensor {shown(name)} {what}: it starts at byte {extent.offset:,}, "
                f"and the one before it ends at {end:,}",
            )
        end += extent.length
    if end != size:
        what = "it is cut off" if end > size else "bytes follow that belong to no tensor"
        _unreadable(path, f"its tensors end at byte {end:,} and the file at {size:,}: {what}")
    return dict(in_order)


def _header_entries(path: Path, text: bytes) -> dict[str, Any]:
    """The header's JSON as one mapping. Duplicate keys, NaN and the like are refused."""

    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        record = dict(pairs)
        if len(record) != len(pairs):
            raise ValueError("a key is given twice")
        return record

    def constant(word: str) -> NoReturn:
        raise ValueError(f"{word} is no number of JSON")

    try:
        entries = json.loads(text.decode(), object_pairs_hook=mapping, parse_constant=constant)
    except RecursionError:
        _unreadable(path, "its header is nested too deeply")
    except ValueError as error:  # not UTF-8, not JSON, a number of thousands of digits
        _unreadable(path, f"its header is not JSON: {shown(str(error))}")
    if not isinstance(entries, dict):
        _unreadable(path, "its header is not a mapping")
    return entries


def _extent(path: Path, name: str, entry: Any, start: int) -> Extent:
    """One tensor's entry, checked for itself; offsets in it count from `start`."""

    def refuse(problem: str) -> NoReturn:
        _unreadable(path, f"tensor {shown(name)}: {problem}")

    if not name.isprintable():  # control characters, halves of surrogate pairs
        refuse("its name holds characters that can't be printed")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        refuse("its entry must hold dtype, shape and data_offsets and nothing else")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
        refuse(f"the type {shown(str(dtype))} is unknown")
    if not _naturals(shape) or len(shape) > MAX_DIMENSIONS:
        refuse(f"its shape must be at most {MAX_DIMENSIONS} whole numbers, none negative")
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        refuse("its data_offsets must be a first and a last byte, in this order")
    length = offsets[1] - offsets[0]
    if math.prod(shape) * _ITEM_BYTES[dtype] != length:
        refuse(
            f"{format_shape(tuple(shape))} of {dtype} takes "
            f"{math.prod(shape) * _ITEM_BYTES[dtype]:,} bytes, and its data_offsets hold {length:,}"
        )
    return Extent(start + offsets[0], length, dtype, tuple(shape), path.name)


def _naturals(values: Any) -> bool:
    """Whether this is a list of whole numbers that a 64-bit size can hold."""
    return isinstance(values, list) and all(
        type(value) is int and 0 <= value < 2**63 for value in values
    )


def _unreadable(path: Path, problem: str, first: bytes = b"") -> NoReturn:
    help = None
    if first.startswith((b"PK\x03\x04", b"\x80")):  # what torch.save writes: a zip, or a pickle
        help = (
            "this looks like a pickle of torch.save, which could run any code when it is opened; "
            "where you trust it, write it anew: "
            "safetensors.torch.save_file(torch.load(FILE, weights_only=True), NEW)"
        )
    raise AlexcError(
        Diagnostic("weights/unreadable", f"{path} is no safetensors file: {problem}", help=help)
    ) from None


def shown(text: str) -> str:
    """A name or message from the file, fit to be printed on a terminal in one line."""
    short = text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"
    return short if short.isprintable() else ascii(short)
