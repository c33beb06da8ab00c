"""Ways to make an ONNX model compute something else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.mutants.planting import PlantOnnx


def node_of(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    """The node that makes a tensor."""
    found: onnx.NodeProto = next(node for node in model.graph.node if name in node.output)
    return found


def attributes(layer: str, **values: Any) -> PlantOnnx:
    """Attributes of the node changed, added, or with None taken away."""

    def plant(model: onnx.ModelProto) -> None:
        node = node_of(model, layer)
        kept = [a for a in node.attribute if a.name not in values]
        del node.attribute[:]
        node.attribute.extend(kept)
        for name, value in values.items():
            if value is not None:
                node.attribute.append(helper.make_attribute(name, value))

    return plant


def attribute_scaled(layer: str, attribute: str, factor: float) -> PlantOnnx:
    """A number among the node's attributes multiplied."""

    def plant(model: onnx.ModelProto) -> None:
        for each in node_of(model, layer).attribute:
            if each.name == attribute:
                each.f *= factor

    return plant


def other_operator(layer: str, op_type: str, **attributes: Any) -> PlantOnnx:
    """Another operator with these attributes alone."""

    def plant(model: onnx.ModelProto) -> None:
        node = node_of(model, layer)
        node.op_type = op_type
        del node.attribute[:]
        node.attribute.extend(helper.make_attribute(n, v) for n, v in attributes.items())

    return plant


def reads(layer: str, change: Callable[[list[str]], Sequence[str]]) -> PlantOnnx:
    """The names that the node reads changed."""

    def plant(model: onnx.ModelProto) -> None:
        node = node_of(model, layer)
        names = list(change(list(node.input)))
        del node.input[:]
        node.input.extend(names)

    return plant


def node_before(
    layer: str, index: int, op_type: str, constants: Sequence[Any] = (), **attributes: Any
) -> PlantOnnx:
    """A node put before the layer's input of this index."""

    def plant(model: onnx.ModelProto) -> None:
        position = next(i for i, n in enumerate(model.graph.node) if layer in n.output)
        node = model.graph.node[position]
        names = [node.input[index]]
        for number, value in enumerate(constants):
            name = f"{layer}.planted{number}"
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
            names.append(name)
        planted = f"{layer}.planted"
        node.input[index] = planted
        model.graph.node.insert(position, helper.make_node(op_type, names, [planted], **attributes))

    return plant


def node_behind(
    layer: str, op_type: str, constants: Sequence[Any] = (), **attributes: Any
) -> PlantOnnx:
    """A node put behind the layer, which takes its name."""

    def plant(model: onnx.ModelProto) -> None:
        position = next(i for i, n in enumerate(model.graph.node) if layer in n.output)
        node = model.graph.node[position]
        node.output[0] = f"{layer}.right"
        names = [f"{layer}.right"]
        for number, value in enumerate(constants):
            name = f"{layer}.planted{number}"
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
            names.append(name)
        model.graph.node.insert(
            position + 1, helper.make_node(op_type, names, [layer], **attributes)
        )

    return plant


def through_type(layer: str, index: int, to: int) -> PlantOnnx:
    """The layer's input of this index rounded to a narrower format and back."""

    def plant(model: onnx.ModelProto) -> None:
        node_before(layer, index, "Cast", to=TensorProto.FLOAT)(model)
        position = next(i for i, n in enumerate(model.graph.node) if f"{layer}.planted" in n.output)
        node = model.graph.node[position]
        narrow = f"{layer}.narrow"
        model.graph.node.insert(
            position, helper.make_node("Cast", [node.input[0]], [narrow], to=to)
        )
        node.input[0] = narrow

    return plant


def number_changed(name: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> PlantOnnx:
    """A number that is written into the model changed."""

    def plant(model: onnx.ModelProto) -> None:
        tensor = next(t for t in model.graph.initializer if t.name == name)
        values = change(numpy_helper.to_array(tensor)).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(values, np.float32), name))

    return plant


def pool1_before_norm1(model: onnx.ModelProto) -> None:
    """norm1 and pool1 swapped, as CaffeNet has them."""
    norm, pool, conv = (node_of(model, name) for name in ("norm1", "pool1", "conv2"))
    pool.input[0], norm.input[0], conv.input[0] = "relu1", "pool1", "norm1"
    nodes = list(model.graph.node)
    first, second = nodes.index(norm), nodes.index(pool)
    nodes[first], nodes[second] = nodes[second], nodes[first]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    for value in list(model.graph.value_info):
        if value.name in ("norm1", "pool1"):
            model.graph.value_info.remove(value)


def mean_without_square(model: onnx.ModelProto) -> None:
    """norm2's mean taken of its input, not of the square."""
    node = node_of(model, "norm2.mean")
    node.input[0] = "relu2"


def lrn_shifted(model: onnx.ModelProto) -> None:
    """norm1 as squares, a band of ones one off its place, and a power."""
    position = next(i for i, n in enumerate(model.graph.node) if "norm1" in n.output)
    channels = 12
    band = np.zeros((channels, channels, 1, 1), np.float32)
    for row in range(channels):
        for column in range(row - 1, row + 4):
            if 0 <= column < channels:
                band[row, column] = 1e-4
    for name, values in (("band", band), ("k", np.float32(2.0)), ("beta", np.float32(0.75))):
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(values), f"norm1.{name}"))
    del model.graph.node[position]
    steps = [
        helper.make_node("Mul", ["relu1", "relu1"], ["norm1.square"]),
        helper.make_node("Conv", ["norm1.square", "norm1.band"], ["norm1.sum"]),
        helper.make_node("Add", ["norm1.sum", "norm1.k"], ["norm1.base"]),
        helper.make_node("Pow", ["norm1.base", "norm1.beta"], ["norm1.power"]),
        helper.make_node("Div", ["relu1", "norm1.power"], ["norm1"]),
    ]
    for offset, node in enumerate(steps):
        model.graph.node.insert(position + offset, node)
