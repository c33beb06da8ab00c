"""The ONNX file as a plan is built from it. The file of a bundle is never written here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from alexc.diagnostics import AlexcError, Diagnostic, UsageError

if TYPE_CHECKING:
    import onnx


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
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

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
    import onnx

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


def weights_files(model: onnx.ModelProto) -> tuple[str, ...]:
    """The files beside the model that its weights lie in, each once, in the order of the model."""
    tensors = model.graph.initializer
    places = (entry for tensor in tensors for entry in tensor.external_data)
    return tuple(dict.fromkeys(entry.value for entry in places if entry.key == "location"))
