"""Weights in `.safetensors` files: written once, referred to by every backend, read with suspicion.

This room writes the format itself, because the bytes must be the same on every run and machine;
`header` has the format. Nothing here is ever unpickled.

A weights file is input from outside, as a spec is: whatever its bytes are, reading it ends in
arrays that fit the graph or in an AlexcError that names everything that is wrong.

What it accepts: float32 as it is; float16 and bfloat16 widened to float32, which is exact.
What it refuses: float64, since float32 can't hold its values, and integers, which are no weights.
"""

from __future__ import annotations

import difflib
import math
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexc.diagnostics import AlexcError, Diagnostic
from alexc.files import whole_file
from alexc.graph.graph import Graph
from alexc.ops.base import Parameter, Shape, format_shape
from alexc.weights.header import Extent, extents, open_file, parse, render, shown

__all__ = ["Extent", "extents", "read", "write"]

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


def write(path: Path, tensors: Mapping[str, NDArray[Any]]) -> dict[str, Extent]:
    """Write the tensors in the order of the mapping, and say where each one lies.

    The order of a graph's own is `graph.parameters`, which `draw` and `read` keep. The same tensors
    in the same order give the same bytes. The file appears whole or not at all, and what was at
    `path` before stays until then; an array may be mapped from the very file that is replaced.

    Raises UsageError if the file can't be written there, AlexcError if the disk is full or fails.
    """
    places: dict[str, tuple[int, int, str, Shape]] = {}
    end = 0
    for name, array in tensors.items():
        places[name] = (end, end + array.nbytes, _NAME_OF_DTYPE[array.dtype], array.shape)
        end += array.nbytes
    header = render(places)
    start = 8 + len(header)
    with whole_file(path) as file:
        file.write(len(header).to_bytes(8, "little"))
        file.write(header)
        # The bytes of a contiguous array are written from where they lie, without a copy.
        arrays = map(np.ascontiguousarray, tensors.values())
        file.writelines(array.reshape(-1).view(np.uint8).data for array in arrays)
    return {
        name: Extent(start + first, last - first, dtype, shape, path.name)
        for name, (first, last, dtype, shape) in places.items()
    }


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
    with open_file(path) as file:
        found = parse(path, file)
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
        f"{shown(name)} ({format_shape(extent.shape)}) is in {path} and not in the spec",
        help=f"did you mean {close[0]}?" if close else None,
    )


def _further(code: str, names: list[str]) -> list[Diagnostic]:
    """One line for the tensors beyond those that are told one by one."""
    more = len(names) - _SHOWN
    return [Diagnostic(code, f"and {more:,} more tensors like these")] if more > 0 else []
