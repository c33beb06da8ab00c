"""Graph → ONNX: `LOWERINGS` is the dictionary from each op to the nodes that compute it.

The model is built here and not by an exporter, so that it has the layers' names, one node for one
layer wherever ONNX has the op, and nothing that depends on the batch. Rounding modes are never left
to a backend: every pad is written out, and ceil_mode stays 0, because engines and exporters have
often disagreed on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from alexc.graph.graph import INPUT, Graph
from alexc.lower.onnx_layer import Layer
from alexc.lower.onnx_lrn import write_lrn
from alexc.lower.onnx_model import TYPES, ModelWriter
from alexc.ops.base import Op
from alexc.ops.conv import Conv
from alexc.ops.dense import Linear
from alexc.ops.norm import BatchNorm, Lrn
from alexc.ops.pixels import Pixels
from alexc.ops.pointwise import Dropout, Relu, Sigmoid, Softmax, Tanh
from alexc.ops.pool import AdaptiveAvgPool, AvgPool, MaxPool
from alexc.ops.structure import Add, Concat, Flatten
from alexc.ops.window import Axis
from alexc.weights.store import Extent


def to_onnx(graph: Graph, extents: Mapping[str, Extent]) -> onnx.ModelProto:
    """The model of a graph in its inference form (see `passes.inference`).

    `extents` says where each of the graph's weights lies: in which file beside the model, and at
    which bytes. The input is called `input`, uint8 if the graph takes pixels, each layer's result
    as the layer; where a layer takes several nodes, the tensors between them are
    `<layer>.<what it is>`. The first dimension of every tensor is the symbol `batch`.

    Raises AlexcError if a weight is not in `extents`, or is not float32 of the graph's shape.
    """
    writer = ModelWriter(graph)
    for name, parameter in graph.parameters.items():
        writer.weight(name, parameter.shape, extents.get(name))
    for node in graph.nodes:
        LOWERINGS[type(node.op)](Layer(writer, node, node.op))
    return writer.finish()


def serialize(model: onnx.ModelProto) -> bytes:
    """The model's bytes, the same for the same model on every run."""
    data: bytes = model.SerializeToString(deterministic=True)
    return data


# ---- the dictionary ------------------------------------------------------------------------------


def _pixels(layer: Layer[Pixels]) -> None:
    """A Cast, which TensorRT wants to be the first, and x = p · factor + offset by channels.

    What would change nothing is left out.
    """
    op, shape = layer.op, layer.node.shape
    mean, std = np.array(op.mean), np.array(op.std)
    factor, offset = op.scale / std, -mean / std
    arithmetic = [("Mul", "factor", factor)] if np.any(factor != 1) else []
    arithmetic += [("Add", "offset", offset)] if np.any(offset) else []
    if not arithmetic:
        layer.emit("Cast", [INPUT], to=TYPES["fp32"])
        return
    x = layer.step("float", shape, "Cast", [INPUT], to=TYPES["fp32"])
    for op_type, what, values in arithmetic:
        constant = layer.constant(what, values[:, np.newaxis, np.newaxis].astype(np.float32))
        if what == arithmetic[-1][1]:
            layer.emit(op_type, [x, constant])
        else:
            x = layer.step("scaled", shape, op_type, [x, constant])


def _conv(layer: Layer[Conv]) -> None:
    weights = layer.parameters()
    layer.emit(
        "Conv",
        [layer.x(), *weights.values()],
        kernel_shape=layer.op.kernel_size,
        strides=layer.op.stride,
        pads=_pads(layer.op.axes(layer.node.input_shapes[0])),
        dilations=layer.op.dilation,
        group=layer.op.groups,
    )


def _linear(layer: Layer[Linear]) -> None:
    layer.emit("Gemm", [layer.x(), *layer.parameters().values()], transB=1)


def _max_pool(layer: Layer[MaxPool]) -> None:
    axes = layer.op.axes(layer.node.input_shapes[0])
    layer.emit(
        "MaxPool",
        [layer.x()],
        kernel_shape=layer.op.kernel_size,
        strides=layer.op.steps,
        pads=_pads(axes),
    )


def _avg_pool(layer: Layer[AvgPool]) -> None:
    """What hangs over the edge must not count in the divisor, even where the padding does.

    ONNX has one switch for both. So where there are both, the padding becomes part of the image.
    """
    shape = layer.node.input_shapes[0]
    rows, columns = layer.op.axes(shape)
    overhang = [0, 0, rows.overhang, columns.overhang]
    x, pads, counted = layer.x(), _pads((rows, columns)), layer.op.count_include_pad
    if counted and any(overhang):
        if layer.op.padding:
            p = layer.op.padding
            sides = np.array([0, 0, p.top, p.left, 0, 0, p.bottom, p.right], np.int64)
            padded = (shape[0], rows.padded, columns.padded)
            x = layer.step("padded", padded, "Pad", [x, layer.constant("pads", sides)])
        pads, counted = overhang, False
    layer.emit(
        "AveragePool",
        [x],
        kernel_shape=layer.op.kernel_size,
        strides=layer.op.steps,
        pads=pads,
        count_include_pad=int(counted),
    )


def _adaptive_avg_pool(layer: Layer[AdaptiveAvgPool]) -> None:
    """Bins of one size are an ordinary pool. Others are two products: rows · image · columnsᵀ."""
    channels, height, width = layer.node.input_shapes[0]
    down, across = layer.op.output_size
    if height % down == 0 and width % across == 0:
        size = [height // down, width // across]
        layer.emit("AveragePool", [layer.x()], kernel_shape=size, strides=size)
        return
    rows, columns = layer.op.bins((channels, height, width))
    average_rows = layer.constant("average_rows", _averaging(rows, height))
    average_columns = layer.constant("average_columns", _averaging(columns, width).T.copy())
    bands = layer.step("rows", (channels, down, width), "MatMul", [average_rows, layer.x()])
    layer.emit("MatMul", [bands, average_columns])


def _batch_norm(layer: Layer[BatchNorm]) -> None:
    names = layer.parameters()
    channels = layer.node.shape[0]
    if not layer.op.affine:
        names["weight"] = layer.constant("ones", np.ones(channels, np.float32))
        names["bias"] = layer.constant("zeros", np.zeros(channels, np.float32))
    order = ("weight", "bias", "running_mean", "running_var")
    inputs = [layer.x(), *(names[name] for name in order)]
    layer.emit("BatchNormalization", inputs, epsilon=layer.op.eps)


def _sum(layer: Layer[Add]) -> None:
    inputs = layer.inputs()
    layer.emit("Add" if len(inputs) == 2 else "Sum", inputs)


def _one_node(op_type: str, **attributes: Any) -> Callable[[Layer[Any]], None]:
    """The lowering of an op that ONNX has under another name."""
    return lambda layer: layer.emit(op_type, layer.inputs(), **attributes)


def _pads(axes: tuple[Axis, Axis]) -> list[int]:
    """Padding as ONNX lists it: top, left, bottom, right, the last two with what hangs over."""
    return [axis.before for axis in axes] + [axis.after + axis.overhang for axis in axes]


def _averaging(bins: Sequence[tuple[int, int]], size: int) -> NDArray[np.float32]:
    """The matrix (bins, size) whose product with `size` pixels is the average of each bin."""
    matrix = np.zeros((len(bins), size), np.float32)
    for row, (first, last) in zip(matrix, bins, strict=True):
        row[first:last] = 1 / (last - first)
    return matrix


# What each op is in ONNX.
LOWERINGS: dict[type[Op], Callable[[Layer[Any]], None]] = {
    Conv: _conv,
    Linear: _linear,
    MaxPool: _max_pool,
    AvgPool: _avg_pool,
    AdaptiveAvgPool: _adaptive_avg_pool,
    Lrn: write_lrn,
    BatchNorm: _batch_norm,
    Relu: _one_node("Relu"),
    Tanh: _one_node("Tanh"),
    Sigmoid: _one_node("Sigmoid"),
    Softmax: _one_node("Softmax", axis=1),
    Dropout: _one_node("Identity"),  # only where it is an output: see passes.inference
    Flatten: _one_node("Flatten", axis=1),
    Add: _sum,
    Concat: _one_node("Concat", axis=1),
    Pixels: _pixels,  # where the model normalises: see passes.read_pixels
}
