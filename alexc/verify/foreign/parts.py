"""Copies of a foreign file that say more than it does, to find out where it goes wrong.

None of them is ever certified. The nodes stay as they are; a copy has other outputs, or only the
nodes of one layer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from alexc.ops.base import Shape

if TYPE_CHECKING:
    import onnx


class Parts:
    """The nodes of the model at `path`. Its weights are read only where they are needed."""

    def __init__(self, path: Path) -> None:
        import onnx

        self.path = path
        self._model = onnx.load(str(path), load_external_data=False)
        self._producers = {
            name: node for node in self._model.graph.node for name in node.output if name
        }
        self._initializers = {tensor.name: tensor for tensor in self._model.graph.initializer}

    @cached_property
    def _types(self) -> dict[str, onnx.ValueInfoProto]:
        """What the model and ONNX's inference say of its tensors."""
        from onnx import shape_inference

        graph = shape_inference.infer_shapes(self._model, data_prop=True).graph
        return {value.name: value for value in (*graph.value_info, *graph.output)}

    def shape(self, tensor: str) -> Shape | None:
        """A tensor's shape without the batch, None where it can't be told without running."""
        value = self._types.get(tensor)
        if value is None or not value.type.tensor_type.HasField("shape"):
            return None
        sizes = [dim.dim_value for dim in value.type.tensor_type.shape.dim[1:]]
        return tuple(sizes) if all(size > 0 for size in sizes) else None

    def element_type(self, tensor: str) -> int:
        """ONNX's number for a tensor's type; float32's where it can't be told without running."""
        from onnx import TensorProto

        value = self._types.get(tensor)
        return (value.type.tensor_type.elem_type if value is not None else 0) or TensorProto.FLOAT

    def instrumented(self, tensors: Collection[str]) -> bytes:
        """The model with these tensors as outputs, too; its weights stay where they are."""
        import onnx

        copy = onnx.ModelProto()
        copy.CopyFrom(self._model)
        already = {output.name for output in copy.graph.output}
        added = [name for name in tensors if name not in already and name in self._producers]
        copy.graph.output.extend(self._declared(name) for name in added)
        # A tensor may not be declared both as an output and as one between nodes.
        kept = [value for value in copy.graph.value_info if value.name not in added]
        del copy.graph.value_info[:]
        copy.graph.value_info.extend(kept)
        return bytes(copy.SerializeToString())

    def between(self, tensor: str, named: Collection[str]) -> tuple[set[str], set[str]]:
        """Of the nodes that lead from the tensors `named` to `tensor`: which of `named` they read,
        and what they make."""
        nodes = self._nodes_to(tensor, named)
        read = {name for node in nodes for name in _read(node) if name in named and name != tensor}
        return read, {name for node in nodes for name in node.output}

    def alone(self, tensor: str, given: Mapping[str, Sequence[int | str]]) -> bytes:
        """The nodes that lead from the tensors `given`, with their shapes, to `tensor`, with all
        weights inside.
        """
        import onnx
        from onnx import TensorProto, helper
        from onnx.external_data_helper import load_external_data_for_tensor

        nodes = self._nodes_to(tensor, given)
        read = {name for node in nodes for name in _read(node)}
        inputs = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in given.items()
            if name in read
        ]
        weights = []
        for name in sorted(read & self._initializers.keys()):
            weight = onnx.TensorProto()
            weight.CopyFrom(self._initializers[name])
            if weight.data_location == TensorProto.EXTERNAL:
                load_external_data_for_tensor(weight, str(self.path.parent))
                weight.data_location = TensorProto.DEFAULT
            weights.append(weight)
        body = helper.make_graph(nodes, "layer", inputs, [self._declared(tensor)], weights)
        whole = self._model
        layer = helper.make_model(
            body,
            opset_imports=whole.opset_import,
            ir_version=whole.ir_version,
            functions=list(whole.functions),
        )
        return bytes(layer.SerializeToString())

    def _nodes_to(self, tensor: str, named: Collection[str]) -> list[onnx.NodeProto]:
        """The nodes from the tensors `named` to this one, each after those that it reads."""
        found: dict[int, onnx.NodeProto] = {}
        waiting = [(tensor, False)]
        while waiting:
            name, ready = waiting.pop()
            node = self._producers.get(name)
            if node is None or id(node) in found or (name in named and name != tensor):
                continue
            if ready:
                found[id(node)] = node
                continue
            waiting.append((name, True))
            waiting += [(source, False) for source in _read(node)]
        return list(found.values())

    def _declared(self, name: str) -> onnx.ValueInfoProto:
        """A tensor with the type that is known of it; float32 where none is."""
        from onnx import helper

        return helper.make_tensor_value_info(name, self.element_type(name), None)


def _read(node: onnx.NodeProto) -> Iterator[str]:
    """The tensors that a node reads, those read by graphs within it included."""
    yield from filter(None, node.input)
    for attribute in node.attribute:
        for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            own = {tensor.name for tensor in graph.initializer}
            own |= {value.name for value in graph.input}
            for inner in graph.node:
                yield from (name for name in _read(inner) if name not in own)
                own |= set(inner.output)
            yield from (output.name for output in graph.output if output.name not in own)
