"""An ONNX model as nodes, constants and who makes what; constants are worked out when asked for.

What depends on the batch is worked out for two batches that no net would have, and holds if it is
the same for both; see `Model.shapes_of`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alexc.diagnostics import fault
from alexc.importers.builder import MAX_LAYERS
from alexc.importers.onnx_model.evaluation import Evaluation, Known, NotConstantError
from alexc.importers.onnx_model.node import Node, nodes_of
from alexc.importers.onnx_model.schema import SCHEMAS
from alexc.importers.onnx_model.tensors import Array, Tensors
from alexc.importers.proto import Message, shortest
from alexc.importers.wire import Mapped, decode
from alexc.importers.wire import read as read_wire
from alexc.ops.base import Shape

# Nodes of a model: exporters write up to forty for one layer.
_MAX_NODES = 8 * MAX_LAYERS
_MAX_SUBGRAPH = 10_000  # bytes
# The keys of a ModelProto's fields: each is 8 · number + type, and ir_version is written first.
_FIRST_BYTES = frozenset(bytes.fromhex("08 12 1a 22 28 32 3a 42 72 a2 ca"))


@dataclass
class Model:
    """The parts of a model that an importer looks up."""

    path: Path
    name: str
    producer: str
    opset: int
    nodes: list[Node]
    inputs: list[Message]
    outputs: list[str]
    stated_outputs: list[Message]
    initializers: dict[str, Message]
    mapped: Mapped
    tensors: Tensors
    producers: dict[str, Node] = field(default_factory=dict)
    readers: dict[str, list[Node]] = field(default_factory=dict)
    # (channels, height, width) of the tensors that were translated so far
    shapes: dict[str, Shape] = field(default_factory=dict)
    # the batch where the model has a fixed one
    batch: int | None = None
    # Answers to costly questions about a constant: a thousand layers may share one.
    answers: dict[tuple[str, ...], Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._known = Known(self.tensors, self.initializers, self.producers, self.shapes)

    def is_constant(self, name: str) -> bool:
        """Whether a tensor is an initializer, or computed from initializers alone."""
        try:
            self.constant(name)
        except NotConstantError:
            return False
        return True

    def constant(self, name: str, batch: int | None = None) -> Array:
        """The value of a tensor that depends on the input's shape at most.

        Raises NotConstantError if it depends on more, or if nothing here computes it.
        """
        return Evaluation(self._known, batch).value(name)

    def scalar(self, name: str) -> float:
        """The one number of a constant, as the shortest decimal of its float32."""
        value = self.constant(name)
        if value.size != 1:
            raise NotConstantError
        return shortest(float(value.reshape(-1)[0]))

    def shapes_of(self, name: str) -> list[tuple[int, tuple[int, ...]]]:
        """What a tensor that holds a shape says, for each of some batches.

        For the model's own batch if that is fixed; otherwise for two, so that a number which
        only happens to be the batch is told from one that follows it.
        """
        batches = (7, 11) if self.batch is None else (self.batch,)
        found = []
        for batch in batches:
            value = self.constant(name, batch).reshape(-1)
            if value.size > 16 or value.dtype.kind not in "iu":
                raise NotConstantError
            found.append((batch, tuple(int(n) for n in value)))
        return found

    def release(self) -> None:
        for mapped in (self.mapped, *self.tensors.external.values()):
            mapped.release()


def read_model(path: Path) -> Model:
    """The model of a file. Raises AlexcError if it is damaged or holds no graph."""
    mapped = Mapped(path)
    if not _begins_as_a_model(bytes(mapped.bytes[:16])):
        raise fault("import/damaged", f"{path} is no ONNX model")
    message = read_wire(mapped, SCHEMAS["Model"], SCHEMAS)
    if not message.has("graph"):
        raise fault("import/damaged", f"{path} holds no graph, so it is no ONNX model")
    graph = message.message("graph")
    opsets = [
        one.integer("version")
        for one in message.messages("opset_import")
        if one.text("domain") in ("", "ai.onnx")
    ]
    if graph.has("sparse_initializer"):
        raise fault("import/unsupported-field", f"{path}: sparse weights are not read")
    nodes = nodes_of(graph)
    if len(nodes) > _MAX_NODES:
        raise fault("import/too-many-layers", f"{path} holds more than {_MAX_NODES:,} nodes")
    model = Model(
        path,
        graph.text("name"),
        message.text("producer_name"),
        max(opsets, default=1),
        nodes,
        list(graph.messages("input")),
        [one.text("name") for one in graph.messages("output")],
        list(graph.messages("output")),
        {one.text("name"): one for one in graph.messages("initializer")},
        mapped,
        Tensors(path),
    )
    for node in nodes:
        for output in filter(None, node.outputs):
            model.producers.setdefault(output, node)
        for name in filter(None, node.inputs):
            model.readers.setdefault(name, []).append(node)
    return model


def _begins_as_a_model(start: bytes) -> bool:
    """Whether a file that begins so may be a ModelProto: of its fields one, and not all text."""
    text = all(byte >= 0x20 or byte in b"\t\r\n" for byte in start)
    return start[0] in _FIRST_BYTES and not text


def subgraph(node: Node, name: str, model: Model) -> list[Node]:
    """The nodes of a graph that is an attribute: a branch of an If."""
    if name not in node.attributes:
        return []
    values = node.attributes[name].values.get("g", [])
    if not values or len(values[-1]) > _MAX_SUBGRAPH:
        return []
    message = decode(memoryview(values[-1]), str(model.path), SCHEMAS["Graph"], SCHEMAS)
    return nodes_of(message)


def only(values: Sequence[Any]) -> Any:
    """The single item of a sequence, or None."""
    return values[0] if len(values) == 1 else None
