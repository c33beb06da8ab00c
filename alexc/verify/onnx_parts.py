"""Parts of an ONNX model, made to find out where it goes wrong. None of them is ever certified."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from alexc.graph.graph import INPUT, Graph, Node

if TYPE_CHECKING:
    import onnx


def instrumented(model: Path, graph: Graph) -> bytes:
    """The model with every named tensor as an output; its weights stay in their file."""
    from onnx import TensorProto, helper

    copy = _load(model)
    already = {output.name for output in copy.graph.output}
    made = {name for node in copy.graph.node for name in node.output}
    for node in graph.nodes:
        if node.name in made and node.name not in already:
            copy.graph.output.append(
                helper.make_tensor_value_info(node.name, TensorProto.FLOAT, None)
            )
    return bytes(copy.SerializeToString())


def given_name(layer: str, source: str) -> str:
    """What the input `source` of `layer` is called where the layers are detached."""
    return f"{source} -> {layer}"


def detached(model: Path, graph: Graph, layers: Sequence[Node]) -> tuple[bytes, set[str]]:
    """The model's layers side by side, each with inputs and weights of its own to be fed.

    Also returns the names that would be fed but that no layer reads: a weight that the model does
    not use shows in the results.
    """
    from onnx import TensorProto, helper

    whole = _load(model)
    producers = {name: node for node in whole.graph.node for name in node.output}
    initializers = {tensor.name: tensor for tensor in whole.graph.initializer}
    named = {INPUT, *(node.name for node in graph.nodes)}
    weights = graph.parameters
    nodes: list[onnx.NodeProto] = []
    inputs: dict[str, onnx.ValueInfoProto] = {}
    constants: dict[str, onnx.TensorProto] = {}
    outputs, wanted = [], set()
    for layer in layers:
        wanted |= {given_name(layer.name, source) for source in layer.inputs}
        wanted |= set(layer.parameter_names().values())
        outputs.append(helper.make_tensor_value_info(layer.name, TensorProto.FLOAT, None))
        for node in _slice(layer.name, producers, named):
            part = helper.make_node(node.op_type, [], node.output, node.name, domain=node.domain)
            part.attribute.extend(node.attribute)
            for name in node.input:
                shape: list[str | int] | None = None
                if name in named:
                    shape = ["batch", *graph.shapes[name]]
                    name = given_name(layer.name, name)
                elif name in weights:
                    shape = list(weights[name].shape)
                elif name in initializers:
                    constants[name] = initializers[name]
                if shape is not None:
                    inputs[name] = helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
                part.input.append(name)
            nodes.append(part)
    body = helper.make_graph(
        nodes, "detached", list(inputs.values()), outputs, list(constants.values())
    )
    parts = helper.make_model(body, opset_imports=whole.opset_import, ir_version=whole.ir_version)
    return bytes(parts.SerializeToString()), wanted - set(inputs)


def _slice(
    layer: str, producers: dict[str, onnx.NodeProto], named: set[str]
) -> list[onnx.NodeProto]:
    """The nodes from the named tensors before it to the layer's own, in order."""
    found: dict[int, onnx.NodeProto] = {}

    def visit(name: str) -> None:
        node = producers.get(name)
        if node is None or id(node) in found:
            return
        for source in node.input:
            if source not in named:
                visit(source)
        found[id(node)] = node

    visit(layer)
    return list(found.values())


def _load(model: Path) -> onnx.ModelProto:
    import onnx

    return onnx.load(str(model), load_external_data=False)
