"""Parts of an ONNX model, made to find out where it goes wrong. None of them is ever certified."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from alexc.graph.graph import Graph, Node

if TYPE_CHECKING:
    import onnx


def instrumented(model: Path, graph: Graph) -> bytes:
    """The model with every named tensor as an output; its weights stay in their file."""
    copy = _load(model)
    already = {output.name for output in copy.graph.output}
    made = {name for node in copy.graph.node for name in node.output}
    stated = {value.name: value for value in copy.graph.value_info}
    between = []
    for node in graph.nodes:
        if node.name in made and node.name not in already:
            copy.graph.output.append(_declared(node.name, stated))
            between.append(node.name)
    # A tensor may not be declared both as an output and as one between nodes.
    kept = [value for name, value in stated.items() if name not in between]
    del copy.graph.value_info[:]
    copy.graph.value_info.extend(kept)
    return bytes(copy.SerializeToString())


def parameters(model: Path, graph: Graph) -> dict[str, NDArray[np.float32]]:
    """The graph's weights as the model has them, by whole name; without those that it lacks.

    Weights in a file beside the model are mapped, not read. A weight whose bytes are not all there
    counts as lacking.
    """
    from onnx import TensorProto, numpy_helper
    from onnx.external_data_helper import ExternalDataInfo

    found: dict[str, NDArray[np.float32]] = {}
    for tensor in _load(model).graph.initializer:
        if tensor.name not in graph.parameters or tensor.data_type != TensorProto.FLOAT:
            continue
        if tensor.data_location != TensorProto.EXTERNAL:
            found[tensor.name] = numpy_helper.to_array(tensor)
            continue
        place: Any = ExternalDataInfo(tensor)
        shape = tuple(tensor.dims)
        file, offset = model.parent / place.location, int(place.offset or 0)
        with suppress(OSError, ValueError):
            found[tensor.name] = np.memmap(file, np.dtype("<f4"), "r", offset, shape)
    return found


def weights_file(model: Path, graph: Graph) -> Path | None:
    """The one file beside the model that all of the graph's weights lie in; None if there is none.

    It is taken to be a safetensors file if its name says so.
    """
    from onnx.external_data_helper import ExternalDataInfo

    places = set()
    for tensor in _load(model).graph.initializer:
        if tensor.name in graph.parameters:
            place: Any = ExternalDataInfo(tensor)
            places.add(str(place.location))
    if len(places) != 1 or not (name := places.pop()).endswith(".safetensors"):
        return None
    return model.parent / name


def given_name(layer: str, source: str) -> str:
    """What the input `source` of `layer` is called where the layers are detached."""
    return f"{source} -> {layer}"


def detached(
    model: Path,
    graph: Graph,
    layers: Sequence[Node],
    fixed: Mapping[str, NDArray[np.float32]] | None = None,
) -> tuple[bytes, set[str]]:
    """The model's layers side by side, each with inputs and weights of its own to be fed.

    The weights in `fixed` are written into the model instead; some kernels take only constants.
    Also returns the names that would be fed but that no layer reads: a weight that the model does
    not use shows in the results.
    """
    from onnx import TensorProto, helper, numpy_helper

    whole = _load(model)
    producers = {name: node for node in whole.graph.node for name in node.output}
    initializers = {tensor.name: tensor for tensor in whole.graph.initializer}
    stated = {value.name: value for value in (*whole.graph.input, *whole.graph.value_info)}
    stands_for = _stands_for(graph, producers)
    weights = graph.parameters
    nodes: list[onnx.NodeProto] = []
    inputs: dict[str, onnx.ValueInfoProto] = {}
    constants: dict[str, onnx.TensorProto] = {}
    outputs, wanted = [], set()

    def fed(name: str, shape: Sequence[str | int]) -> str:
        inputs[name] = helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        return name

    for layer in layers:
        wanted |= {given_name(layer.name, source) for source in layer.inputs}
        wanted |= set(layer.parameter_names().values())
        outputs.append(helper.make_tensor_value_info(layer.name, TensorProto.FLOAT, None))
        own: dict[str, str] = {}  # what the layer's tensors are called here

        def adopt(name: str, layer: Node = layer, own: dict[str, str] = own) -> str:
            """The name here of a tensor that a node of this layer reads."""
            if name in own:
                return own[name]
            if fixed is not None and name in fixed:
                constants[name] = numpy_helper.from_array(fixed[name], name)
                own[name] = name
            elif name in weights:
                own[name] = fed(name, list(weights[name].shape))
            elif (source := stands_for.get(name)) is not None:
                given = fed(given_name(layer.name, source), ["batch", *graph.shapes[source]])
                type_ = _declared(name, stated).type.tensor_type.elem_type or TensorProto.FLOAT
                own[name] = given
                if type_ != TensorProto.FLOAT:
                    own[name] = f"{layer.name}: {name}"
                    nodes.append(helper.make_node("Cast", [given], [own[name]], to=type_))
            elif name in initializers:
                constants[name] = initializers[name]
                own[name] = name
            return own.get(name, name)

        for node in _slice(layer.name, producers, stands_for):
            read = [adopt(name) for name in node.input]
            for name in node.output:
                own[name] = f"{layer.name}: {name}"
            part = helper.make_node(
                node.op_type,
                read,
                [own[name] for name in node.output],
                node.name,
                domain=node.domain,
            )
            part.attribute.extend(node.attribute)
            nodes.append(part)
        if layer.name in own:
            nodes.append(
                helper.make_node("Cast", [own[layer.name]], [layer.name], to=TensorProto.FLOAT)
            )
    body = helper.make_graph(
        nodes, "detached", list(inputs.values()), outputs, list(constants.values())
    )
    parts = helper.make_model(body, opset_imports=whole.opset_import, ir_version=whole.ir_version)
    return bytes(parts.SerializeToString()), wanted - set(inputs) - set(constants)


def _stands_for(graph: Graph, producers: dict[str, onnx.NodeProto]) -> dict[str, str]:
    """The tensors of the model that hold a named one: itself, and what an output was cast from."""
    found = {name: name for name in graph.shapes}
    for name in graph.outputs:
        node = producers.get(name)
        if node is not None and node.op_type == "Cast" and node.input[0] not in graph.shapes:
            found[node.input[0]] = name
    return found


def _declared(name: str, stated: dict[str, onnx.ValueInfoProto]) -> onnx.ValueInfoProto:
    """A tensor with the type that the model states; float32 where it states none."""
    from onnx import TensorProto, helper

    value = stated.get(name)
    type_ = TensorProto.FLOAT if value is None else value.type.tensor_type.elem_type
    return helper.make_tensor_value_info(name, type_, None)


def _slice(
    layer: str, producers: dict[str, onnx.NodeProto], named: Mapping[str, str]
) -> list[onnx.NodeProto]:
    """The nodes from the named tensors before it to the layer's own, in order."""
    found: dict[int, onnx.NodeProto] = {}

    def visit(name: str) -> None:
        node = producers.get(name)
        if node is None or id(node) in found:
            return
        for source in node.input:
            if named.get(source, layer) == layer:  # not named, or the layer before its cast
                visit(source)
        found[id(node)] = node

    visit(layer)
    return list(found.values())


def _load(model: Path) -> onnx.ModelProto:
    import onnx

    return onnx.load(str(model), load_external_data=False)
