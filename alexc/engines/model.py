"""The ONNX file as engines are given it: what is in it, and copies with more outputs.

The file of a bundle is never written here. A copy that makes every tensor an output is another
model: engines fuse less in it, and may round differently. It serves to say where a difference
arises, never to certify that there is none.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray

from alexc.diagnostics import AlexcError, Diagnostic, UsageError


@dataclass(frozen=True, slots=True)
class Input:
    """The model's one input: `(batch, *shape)` of `dtype`."""

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]


def load(path: Path) -> onnx.ModelProto:
    """The model without its weights, which stay in the file beside it.

    Raises UsageError if there is no such file, AlexcError `engine/model` if it is no ONNX model.
    """
    try:
        model: onnx.ModelProto = onnx.load_model(path, format="protobuf", load_external_data=False)
    except FileNotFoundError:
        raise UsageError(Diagnostic("file/missing", f"there is no file {path}")) from None
    except OSError as error:
        raise UsageError(
            Diagnostic("file/unreadable", f"{path}: {error.strerror or error}")
        ) from None
    except (DecodeError, ValueError):
        raise AlexcError(Diagnostic("engine/model", f"{path} is no ONNX model")) from None
    if not model.graph.node:
        raise AlexcError(Diagnostic("engine/model", f"{path} is an ONNX model without a node"))
    return model


def model_input(path: Path, model: onnx.ModelProto) -> Input:
    """The one input that is no weight. AlexcError if there are more, or its shape is open."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise AlexcError(
            Diagnostic("engine/model", f"{path} must have one input, and it has {names}")
        )
    tensor = inputs[0].type.tensor_type
    shape = tuple(dimension.dim_value for dimension in tensor.shape.dim[1:])
    if not shape or min(shape) < 1:
        raise AlexcError(
            Diagnostic(
                "engine/model",
                f"{path}: the shape of its input {inputs[0].name} is open beyond the batch",
            )
        )
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    return Input(inputs[0].name, dtype, shape)


def tensor_names(model: onnx.ModelProto) -> tuple[str, ...]:
    """Every tensor that a node computes, in the order of computation."""
    return tuple(name for node in model.graph.node for name in node.output if name)


def output_names(model: onnx.ModelProto) -> tuple[str, ...]:
    """The outputs that the model has by itself."""
    return tuple(value.name for value in model.graph.output)


def require_tensors(path: Path, model: onnx.ModelProto, names: Sequence[str]) -> None:
    """Raise AlexcError for every name that no node of the model computes."""
    known = tensor_names(model)
    faults = []
    for name in dict.fromkeys(names):
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            message = f"no node of {path} computes a tensor {name}"
            help = f"did you mean {close[0]}?" if close else None
            faults.append(Diagnostic("engine/no-such-tensor", message, help=help))
    if faults:
        raise AlexcError(*faults)


def instrumented(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy of the model whose outputs are the tensors `names`, in this order.

    ONNX wants a type for each output; where the model does not state one it is left to the engine,
    which infers it.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    stated = {value.name: value for value in (*model.graph.value_info, *model.graph.output)}
    del copy.graph.output[:]
    copy.graph.output.extend(stated.get(name) or onnx.ValueInfoProto(name=name) for name in names)
    # A tensor may not be declared both as an output and as one between nodes.
    between = [value for value in copy.graph.value_info if value.name not in names]
    del copy.graph.value_info[:]
    copy.graph.value_info.extend(between)
    return copy


def check_batch(engine: str, expected: Input, batch: NDArray[np.generic]) -> None:
    """Raise AlexcError unless `batch` is what the model takes: some engines convert in silence."""
    if batch.dtype != expected.dtype or batch.shape[1:] != expected.shape or not len(batch):
        raise AlexcError(
            Diagnostic(
                "engine/input",
                f"{engine}: {expected.name} takes {expected.dtype} of "
                f"{_sizes('batch', *expected.shape)}, "
                f"and is given {batch.dtype} of {_sizes(*batch.shape)}",
            )
        )


def _sizes(*sizes: int | str) -> str:
    return "×".join(map(str, sizes)) or "no axis"
