"""The graph: named nodes in the order of their computation, with shapes, parameters and MACs.

It is immutable. A pass is a plain function from Graph to Graph; it rewires layers and calls
`Graph.build`, which derives everything else, so that nothing in a graph can contradict itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeVar

from alexc.graph.quantization import Quantization
from alexc.ops.base import Op, Parameter, Shape
from alexc.ops.norm import Lrn
from alexc.ops.pixels import Pixels
from alexc.spec.model import Precision

# Ways to write a local response normalisation over channels without ONNX's own node for it.
LrnForm = Literal["banded", "windowed"]

T = TypeVar("T")

INPUT = "input"  # the name of the graph's one input, in every backend


@dataclass(frozen=True)
class Node:
    """One layer: `name` is also the name of its output tensor, in every backend.

    `shape` is the output's, without the batch; `input_shapes` go with `inputs`. Parameters are
    keyed by their local name (`weight`); `parameter_names` gives the whole ones (`conv1.weight`).
    """

    name: str
    op: Op
    inputs: tuple[str, ...]
    input_shapes: tuple[Shape, ...]
    shape: Shape
    parameters: Mapping[str, Parameter]
    macs: int

    @property
    def parameter_count(self) -> int:
        """Trainable parameters: the statistics of batch norm are not counted."""
        return sum(p.count for p in self.parameters.values() if p.trainable)

    def parameter_names(self) -> dict[str, str]:
        """Local name → name in the weights file: `weight` → `conv1.weight`."""
        return {local: f"{self.name}.{local}" for local in self.parameters}


@dataclass(frozen=True)
class Graph:
    """A directed acyclic graph, nodes in topological order, from one image to its outputs."""

    name: str
    input_shape: Shape
    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]
    # The layers that are not in fp32. The graph's input and outputs are fp32 always.
    precisions: Mapping[str, Precision] = field(default_factory=dict)
    # The layers whose operands are numbers of eight bits. What they compute with them is fp32.
    quantized: Mapping[str, Quantization] = field(default_factory=dict)
    # The layers that are written in another form than the op's own, which computes the same.
    forms: Mapping[str, LrnForm] = field(default_factory=dict)

    @staticmethod
    def build(
        name: str,
        input_shape: Shape,
        layers: Iterable[tuple[str, Op, tuple[str, ...]]],
        outputs: tuple[str, ...],
        precisions: Mapping[str, Precision] | None = None,
        quantized: Mapping[str, Quantization] | None = None,
        forms: Mapping[str, LrnForm] | None = None,
    ) -> Graph:
        """The graph of `(name, op, inputs)` triples given in topological order.

        Raises ShapeFault where shapes don't fit, and ValueError where the triples are no graph.
        """
        shapes: dict[str, Shape] = {INPUT: input_shape}
        nodes = []
        for layer, op, inputs in layers:
            if layer in shapes:
                raise ValueError(f"two nodes are named {layer}")
            if missing := [source for source in inputs if source not in shapes]:
                raise ValueError(f"{layer} reads {', '.join(missing)}, not computed before it")
            node = make_node(layer, op, inputs, tuple(shapes[source] for source in inputs))
            shapes[layer] = node.shape
            nodes.append(node)
        graph = Graph(
            name,
            input_shape,
            tuple(nodes),
            outputs,
            precisions or {},
            quantized or {},
            forms or {},
        )
        graph.check()
        return graph

    def check(self) -> None:
        """Raise ValueError unless this is a legal graph. Cheap; tests call it after every pass."""
        known = {INPUT: self.input_shape}
        for node in self.nodes:
            if node.name in known:
                raise ValueError(f"two nodes are named {node.name}")
            for source, shape in zip(node.inputs, node.input_shapes, strict=True):
                if known.get(source) != shape:
                    raise ValueError(f"{node.name} reads {source} as {shape}, {known.get(source)}")
            if node.op.output_shape(*node.input_shapes) != node.shape:
                raise ValueError(f"{node.name}: the shape {node.shape} is not the op's")
            known[node.name] = node.shape
        if not self.outputs or len(set(self.outputs)) != len(self.outputs):
            raise ValueError("a graph has one or more outputs, each once")
        for output in self.outputs:
            if output not in known or output == INPUT:
                raise ValueError(f"the output {output} is no node")
        if strangers := [name for name in self.precisions if name not in known or name == INPUT]:
            raise ValueError(f"a precision is given of {', '.join(strangers)}, which is no node")
        for name, quantization in self.quantized.items():
            weight = self.by_name[name].parameters.get("weight") if name in self.by_name else None
            if weight is None or weight.shape[0] != len(quantization.weight_steps):
                raise ValueError(f"{name} can't be quantized so: it has other weights, or none")
            if self.precision_of(name) != "fp32":
                raise ValueError(f"{name} is quantized and in {self.precision_of(name)} as well")
        readers = [node.op for node in self.nodes if INPUT in node.inputs]
        for node in self.nodes:
            if isinstance(node.op, Pixels) and (node.inputs != (INPUT,) or len(readers) > 1):
                raise ValueError(f"{node.name} must be all that reads the input, and read it alone")
        for name in self.forms:
            op = self.by_name[name].op if name in self.by_name else None
            if not isinstance(op, Lrn) or op.region != "across_channels":
                raise ValueError(f"{name} is no normalisation over channels, and has a form of one")

    @cached_property
    def by_name(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """The shape of every named tensor, the input's included, without the batch."""
        return {INPUT: self.input_shape} | {node.name: node.shape for node in self.nodes}

    @cached_property
    def parameters(self) -> dict[str, Parameter]:
        """Every tensor of weights by its whole name, in the order of the nodes."""
        return {
            whole: node.parameters[local]
            for node in self.nodes
            for local, whole in node.parameter_names().items()
        }

    @property
    def parameter_count(self) -> int:
        return sum(node.parameter_count for node in self.nodes)

    @property
    def macs(self) -> int:
        """Multiply–accumulates per image."""
        return sum(node.macs for node in self.nodes)

    @property
    def pixels(self) -> Pixels | None:
        """What normalises the input, if that is uint8 pixels; float32 otherwise."""
        ops = (node.op for node in self.nodes if INPUT in node.inputs)
        return next((op for op in ops if isinstance(op, Pixels)), None)

    def precision_of(self, layer: str) -> Precision:
        return self.precisions.get(layer, "fp32")

    def rebuilt(
        self,
        layers: Iterable[tuple[str, Op, tuple[str, ...]]] | None = None,
        *,
        outputs: tuple[str, ...] | None = None,
        precisions: Mapping[str, Precision] | None = None,
        quantized: Mapping[str, Quantization] | None = None,
        forms: Mapping[str, LrnForm] | None = None,
    ) -> Graph:
        """The graph with what is given in place of its own: what every pass ends in.

        What is said of a layer (precision, grid, form) stays said of it if the layer stays.
        """
        triples = list(self.layers() if layers is None else layers)
        names = {name for name, _, _ in triples}

        def staying(said: Mapping[str, T]) -> dict[str, T]:
            return {name: what for name, what in said.items() if name in names}

        return Graph.build(
            self.name,
            self.input_shape,
            triples,
            self.outputs if outputs is None else outputs,
            staying(self.precisions) if precisions is None else precisions,
            staying(self.quantized) if quantized is None else quantized,
            staying(self.forms) if forms is None else forms,
        )

    def layers(self) -> list[tuple[str, Op, tuple[str, ...]]]:
        """The triples that `build` takes: where a pass starts from."""
        return [(node.name, node.op, node.inputs) for node in self.nodes]

    def to_json(self) -> dict[str, Any]:
        """Everything that determines the computation, and nothing else."""
        precisions = {name: self.precision_of(name) for name in self.precisions}
        quantized = {name: each.to_json() for name, each in self.quantized.items()}
        return {
            "input_shape": list(self.input_shape),
            "nodes": [
                {
                    "name": node.name,
                    "op": node.op.kind,
                    "attributes": node.op.model_dump(mode="json"),
                    "inputs": list(node.inputs),
                }
                for node in self.nodes
            ],
            "outputs": list(self.outputs),
            **({"precisions": precisions} if precisions else {}),
            **({"quantized": quantized} if quantized else {}),
            **({"forms": dict(self.forms)} if self.forms else {}),
        }

    def digest(self) -> str:
        """SHA-256 of `to_json`. Of the same digest: the same function of the same weights."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def make_node(name: str, op: Op, inputs: tuple[str, ...], input_shapes: tuple[Shape, ...]) -> Node:
    """A node with its derived facts. Raises ShapeFault if the input shapes don't fit the op."""
    return Node(
        name=name,
        op=op,
        inputs=inputs,
        input_shapes=input_shapes,
        shape=op.output_shape(*input_shapes),
        parameters=op.parameters(*input_shapes),
        macs=op.macs(*input_shapes),
    )
