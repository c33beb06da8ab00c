"""Tensors on grids of eight bits (see `graph.quantization`), as nodes of ONNX.

A quantized layer reads inputs and weights through QuantizeLinear and DequantizeLinear, for which
engines put integer kernels (the scheme of Jacob et al., 2018). Weights are put on their grid when
the model is loaded, so that the weights file stays as it is. Of a tensor `x` the numbers of eight
bits are called `x.int8`, `x.uint8` or `x.fp8`, and what they stand for `x.rounded`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from alexc.graph.quantization import QuantizedFormat
from alexc.lower.onnx_model import NUMPY_TYPES, TYPES, ModelWriter
from alexc.ops.base import Shape


def tensor_on_grid(
    writer: ModelWriter, name: str, shape: Shape, step: float, format: QuantizedFormat
) -> str:
    """The name under which a tensor is to be had on a grid."""
    rounded = f"{name}.rounded"
    if rounded not in writer.tensors:
        round_to_grid(writer, name, rounded, shape, step, format)
    return rounded


def round_to_grid(
    writer: ModelWriter, name: str, rounded: str, shape: Shape, step: float, format: QuantizedFormat
) -> None:
    """Add the two nodes that put the tensor `name` on a grid and call the result `rounded`."""
    grid = _grid(writer, rounded.removesuffix(".rounded"), np.float32(step), format)
    small = f"{rounded.removesuffix('.rounded')}.{format}"
    writer.add(small, shape, format, "QuantizeLinear", [name, *grid], {})
    writer.add(rounded, shape, "fp32", "DequantizeLinear", [small, *grid], {})


def weight_on_grid(
    writer: ModelWriter, name: str, steps: Sequence[float], format: QuantizedFormat
) -> str:
    """The name under which a weight is to be had on a grid for each output channel."""
    grid = _grid(writer, name, np.array(steps, np.float32), format)
    small = writer.derive(f"{name}.{format}", "QuantizeLinear", [name, *grid], axis=0)
    return writer.derive(f"{name}.rounded", "DequantizeLinear", [small, *grid], axis=0)


def weight_alone_on_grid(
    writer: ModelWriter, name: str, steps: Sequence[float], format: QuantizedFormat
) -> str:
    """The name under which the weight of a linear layer is to be had that is rounded alone.

    Not by QuantizeLinear and DequantizeLinear: for these engines look for layers whose input is
    rounded, too, and where it is not, OpenVINO (2026.4) writes the weights out in float32 and
    ONNX Runtime (1.31) does so on every run. A cast from int8 that is scaled OpenVINO keeps as
    int8, and ONNX Runtime computes once.
    """
    column = np.array(steps, np.float32)[:, np.newaxis]
    step = writer.constant(f"{name}.step", column)
    info = np.iinfo(NUMPY_TYPES[format])
    limits = [
        writer.constant(f"{format}.{what}", np.array(value, np.float32))
        for what, value in (("least", info.min), ("most", info.max))
    ]
    scaled = writer.derive(f"{name}.scaled", "Div", [name, step])
    whole = writer.derive(f"{name}.whole", "Round", [scaled])
    inside = writer.derive(f"{name}.inside", "Clip", [whole, *limits])
    small = writer.derive(f"{name}.{format}", "Cast", [inside], to=TYPES[format])
    back = writer.derive(f"{name}.back", "Cast", [small], to=TYPES["fp32"])
    return writer.derive(f"{name}.rounded", "Mul", [back, step])


def _grid(writer: ModelWriter, name: str, steps: Any, format: QuantizedFormat) -> list[str]:
    """The steps, and the zero point that says the type: all zeros, as TensorRT wants it."""
    zeros = np.zeros(np.shape(steps), NUMPY_TYPES[format])
    return [
        writer.constant(f"{name}.step", np.asarray(steps)),
        writer.constant(f"{name}.zero", zeros),
    ]
