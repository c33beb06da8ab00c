"""Weights in `.safetensors` files: written once, referred to by every backend, read with suspicion.

A file is eight bytes that give the header's length, a JSON header that gives each tensor's type,
shape and stretch of bytes, and the bytes themselves, little-endian, one tensor behind the other.
This room writes the format itself, because the bytes must be the same on every run and machine,
and parses the header itself, because `model.onnx` refers to the same bytes by offset and length.
Nothing here is ever unpickled.

A weights file is input from outside, as a spec is: whatever its bytes are, reading it ends in
arrays that fit the graph or in an AlexcError that names everything that is wrong.

What it accepts: float32 as it is; float16 and bfloat16 widened to float32, which is exact.
What it refuses: float64, since float32 can't hold its values, and integers, which are no weights.
"""

from __future__ import annotations

import difflib
import json
import math
import mmap
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
from numpy.typing import NDArray

from alexc.diagnostics import AlexcError, Diagnostic, UsageError
from alexc.files import whole_file
from alexc.graph.graph import Graph
from alexc.ops.base import Parameter, Shape, format_shape

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

_NAME_OF_DTYPE = {
    np.dtype("<f4"): "F32",
    np.dtype("<f2"): "F16",
    np.dtype("<f8"): "F64",
    np.dtype("i1"): "I8",
    np.dtype("u1"): "U8",
    np.dtype("<i4"): "I32",
    np.dtype("<i8"): "I64",
}

# This many missing and extra tensors are told one by one; then one line says how many more there
# are. Each is compared with this many others to find the one that was meant.
_SHOWN = 40
_COMPARED = 200
_SHOWN_CHARACTERS = 100


@dataclass(frozen=True, slots=True)
class Extent:
    """Where a tensor lies: `length` bytes from byte `offset` of the file, C order.

    `dtype` is the format's own name of the type: F32, F16, BF16, I8 and so on.
    """

    offset: int
    length: int
    dtype: str
    shape: Shape


def write(path: Path, tensors: Mapping[str, NDArray[Any]]) -> dict[str, Extent]:
    """Write the tensors in the order of the mapping, and say where each one lies.

    The order of a graph's own is `graph.parameters`, which `draw` and `read` keep. The same tensors
    in the same order give the same bytes. The file appears whole or not at all, and what was at
    `path` before stays until then; an array may be mapped from the very file that is replaced.

    Raises UsageError if the file can't be written.
    """
    places: dict[str, tuple[int, int, str, Shape]] = {}
    end = 0
    for name, array in tensors.items():
        places[name] = (end, end + array.nbytes, _NAME_OF_DTYPE[array.dtype], array.shape)
        end += array.nbytes
    header = _header(places)
    start = 8 + len(header)
    with whole_file(path) as file:
        file.write(len(header).to_bytes(8, "little"))
        file.write(header)
        # The bytes of a contiguous array are written from where they lie, without a copy.
        arrays = map(np.ascontiguousarray, tensors.values())
        file.writelines(array.reshape(-1).view(np.uint8).data for array in arrays)
    return {
        name: Extent(start + first, last - first, dtype, shape)
        for name, (first, last, dtype, shape) in places.items()
    }


def _header(places: Mapping[str, tuple[int, int, str, Shape]]) -> bytes:
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
    with _open(path) as file:
        return _extents(path, file)


def read(path: Path, graph: Graph) -> dict[str, NDArray[np.float32]]:
    """The graph's weights from a file, in the order of `graph.parameters`, all values finite.

    float32 tensors are memory-mapped, copy on write: the arrays may be changed, the file does not
    change with them. float16 and bfloat16 are widened to float32, exactly.

    PyTorch's count of batches in batch norm (`bn1.num_batches_tracked`) is passed over: no result
    depends on it, and every state dict of such a net holds it.

    Raises UsageError if there is no such file. Raises AlexcError with every fault of the file:
    weights/unreadable   it is no whole safetensors file
    weights/missing      a tensor that the graph needs is not there
    weights/extra        a tensor is there that the graph does not know
    weights/shape        a tensor has another shape than the graph's
    weights/dtype        a tensor's type is neither float32 nor exactly widened to it
    weights/not-finite   a tensor holds an infinity or a NaN
    """
    with _open(path) as file:
        found = _extents(path, file)
        bytes_of_file = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    wanted = graph.parameters
    counters = {
        f"{node.name}.num_batches_tracked"
        for node in graph.nodes
        if "running_mean" in node.parameters
    }
    extra = [name for name in found if name not in wanted and name not in counters]
    missing = [name for name in wanted if name not in found]

    faults = [_missing(path, name, wanted[name], extra, found) for name in missing[:_SHOWN]]
    faults += _further("weights/missing", missing)
    faults += [_extra(path, name, found[name], missing) for name in extra[:_SHOWN]]
    faults += _further("weights/extra", extra)
    misfits: list[Diagnostic] = []
    weights: dict[str, NDArray[np.float32]] = {}
    for name, parameter in wanted.items():
        if name not in found:
            continue
        if faulty := _misfit(path, name, found[name], parameter):
            misfits.append(faulty)
            continue
        array = _values(bytes_of_file, found[name])
        if faulty := _not_finite(path, name, array):
            misfits.append(faulty)
        weights[name] = array
    if faults := faults + misfits:
        raise AlexcError(*faults)
    return weights


# ---- the header ----------------------------------------------------------------------------------


def _open(path: Path) -> BinaryIO:
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


def _extents(path: Path, file: BinaryIO) -> dict[str, Extent]:
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
                f"tensor {_shown(name)} {what}: it starts at byte {extent.offset:,}, "
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
        _unreadable(path, f"its header is not JSON: {_shown(str(error))}")
    if not isinstance(entries, dict):
        _unreadable(path, "its header is not a mapping")
    return entries


def _extent(path: Path, name: str, entry: Any, start: int) -> Extent:
    """One tensor's entry, checked for itself; offsets in it count from `start`."""

    def refuse(problem: str) -> NoReturn:
        _unreadable(path, f"tensor {_shown(name)}: {problem}")

    if not name.isprintable():  # control characters, halves of surrogate pairs
        refuse("its name holds characters that can't be printed")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        refuse("its entry must hold dtype, shape and data_offsets and nothing else")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
        refuse(f"the type {_shown(str(dtype))} is unknown")
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
    return Extent(start + offsets[0], length, dtype, tuple(shape))


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


# ---- the tensors ---------------------------------------------------------------------------------


def _values(buffer: mmap.mmap, extent: Extent) -> NDArray[np.float32]:
    """The tensor as float32: mapped if it is stored so, widened if it is stored as 16 bits."""
    count = math.prod(extent.shape)
    flat: NDArray[np.float32]
    if count == 0:  # a buffer may not be empty at the end of a file
        flat = np.empty(0, np.float32)
    elif extent.dtype == "F32":
        flat = np.frombuffer(buffer, "<f4", count, extent.offset)
        if not flat.flags.aligned:  # headers of any length are legal, and torch needs alignment
            flat = flat.copy()
    elif extent.dtype == "F16":
        flat = np.frombuffer(buffer, "<f2", count, extent.offset).astype(np.float32)
    else:
        upper = np.frombuffer(buffer, "<u2", count, extent.offset).astype(np.uint32)
        flat = (upper << 16).view(np.float32)  # a bfloat16 is the upper half of a float32
    return flat.reshape(extent.shape)


def _misfit(path: Path, name: str, extent: Extent, parameter: Parameter) -> Diagnostic | None:
    if extent.dtype not in ("F32", "F16", "BF16"):
        return Diagnostic(
            "weights/dtype",
            f"{name} is stored as {extent.dtype} in {path}; weights are float32",
            help="convert it knowingly, for example with tensor.float(): values would be rounded"
            if extent.dtype == "F64"
            else "float32, float16 and bfloat16 are read",
        )
    if extent.shape != parameter.shape:
        note: tuple[str, ...] = ()
        if extent.shape[::-1] == parameter.shape and len(parameter.shape) == 2:
            note = ("the file's is the transpose: (in, out) where PyTorch writes (out, in)",)
        elif math.prod(extent.shape) == parameter.count:
            note = ("both have the same number of values",)
        return Diagnostic(
            "weights/shape",
            f"{name} is {format_shape(extent.shape)} in {path} "
            f"and {format_shape(parameter.shape)} in the spec",
            notes=note,
        )
    return None


def _not_finite(path: Path, name: str, array: NDArray[np.float32]) -> Diagnostic | None:
    with np.errstate(over="ignore", invalid="ignore"):
        # A sum is finite only if every term is: one quick pass over the memory. Where it is not,
        # it may still be a mere overflow, and every value is looked at.
        if math.isfinite(array.sum()):
            return None
    (where,) = np.nonzero(~np.isfinite(array.reshape(-1)))
    if not len(where):
        return None
    index = [int(i) for i in np.unravel_index(where[0], array.shape)]
    value = float(array[tuple(index)])
    return Diagnostic(
        "weights/not-finite",
        f"{name}{index} is {value} in {path}",
        notes=(f"{len(where):,} of {array.size:,} values of {name} are not finite",),
        help="the training that wrote it has diverged, or the file is damaged",
    )


# ---- names ---------------------------------------------------------------------------------------


def _missing(
    path: Path, name: str, parameter: Parameter, extra: list[str], found: Mapping[str, Extent]
) -> Diagnostic:
    """A tensor that is wanted, with the tensor of the file that is likely meant for it."""
    help = None
    alike = [other for other in extra[:_COMPARED] if found[other].shape == parameter.shape]
    if close := difflib.get_close_matches(name, alike or extra[:_COMPARED], n=1, cutoff=0.6):
        help = f"did you mean {close[0]}, which the file holds?"
    elif len(alike) == 1:
        help = f"{alike[0]} is the one tensor left in the file with this shape; rename it to {name}"
    shape = format_shape(parameter.shape)
    return Diagnostic("weights/missing", f"{name} ({shape}) is not in {path}", help=help)


def _extra(path: Path, name: str, extent: Extent, missing: list[str]) -> Diagnostic:
    close = difflib.get_close_matches(name, missing[:_COMPARED], n=1, cutoff=0.6)
    return Diagnostic(
        "weights/extra",
        f"{_shown(name)} ({format_shape(extent.shape)}) is in {path} and not in the spec",
        help=f"did you mean {close[0]}?" if close else None,
    )


def _further(code: str, names: list[str]) -> list[Diagnostic]:
    """One line for the tensors beyond those that are told one by one."""
    more = len(names) - _SHOWN
    return [Diagnostic(code, f"and {more:,} more tensors like these")] if more > 0 else []


def _shown(text: str) -> str:
    """A name or message from the file, fit to be printed on a terminal in one line."""
    short = text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"
    return short if short.isprintable() else ascii(short)
