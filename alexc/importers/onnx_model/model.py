"""An ONNX model as nodes, constants and who makes what; constants are worked out when asked for.

Exporters write shapes as little programs (Shape, Gather, Concat, …) and constants through copies
and transposes. `Model.constant` evaluates those. What depends on the batch is worked out for two
batches that no net would have, and holds if it is the same for both; see `Model.shapes_of`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from alexc.diagnostics import fault
from alexc.importers.builder import MAX_LAYERS
from alexc.importers.foreign import Origin
from alexc.importers.onnx_model.schema import SCHEMAS
from alexc.importers.onnx_model.tensors import DTYPES, Array, Tensors
from alexc.importers.proto import Message, shortest
from alexc.importers.wire import Mapped, decode
from alexc.importers.wire import read as read_wire
from alexc.ops.base import Shape

# Nodes of a model: exporters write up to forty for one layer.
_MAX_NODES = 8 * MAX_LAYERS
# Programs that compute shapes are short, and their values few.
_MAX_STEPS = 200
_MAX_SUBGRAPH = 10_000  # bytes
_MAX_COMPUTED = 100_000
# What ConstantOfShape may stand for in all: more than any layer of AlexNet has.
_MAX_FILLED = 2**26


class NotConstantError(Exception):
    """A tensor that depends on the input, or on an op that is not worked out here."""


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One node; `index` is its place in the model. Attributes are read by their names."""

    index: int
    op: str
    name: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Message]

    @property
    def origin(self) -> Origin:
        return Origin(self.name or (self.outputs[0] if self.outputs else ""), self.op)

    @property
    def output(self) -> str:
        return self.outputs[0] if self.outputs else ""

    def input(self, position: int) -> str:
        """The name of an input, empty where it is left out."""
        return self.inputs[position] if position < len(self.inputs) else ""

    def integer(self, name: str, default: int = 0) -> int:
        return self.attributes[name].integer("i") if name in self.attributes else default

    def number(self, name: str, default: float) -> float:
        return self.attributes[name].number("f") if name in self.attributes else default

    def text(self, name: str, default: str) -> str:
        if name not in self.attributes:
            return default
        values = self.attributes[name].values.get("s", [b""])
        return bytes(values[-1]).decode("utf-8", "replace")

    def integers(self, name: str) -> list[int] | None:
        return self.attributes[name].integers("ints") if name in self.attributes else None


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
    # What was worked out already, by name and batch, and what is known to depend on the input.
    arrays: dict[tuple[str, int | None], Array] = field(default_factory=dict)
    variable: set[str] = field(default_factory=set)
    # Answers to costly questions about a constant: a thousand layers may share one.
    answers: dict[tuple[str, ...], Any] = field(default_factory=dict)

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
        return _Evaluation(self, batch).value(name)

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


def nodes_of(graph: Message) -> list[Node]:
    """The nodes of a graph in its order."""
    return [
        Node(
            index,
            message.text("op_type"),
            message.text("name"),
            message.text("domain"),
            tuple(message.texts("input")),
            tuple(message.texts("output")),
            {one.text("name"): one for one in message.messages("attribute")},
        )
        for index, message in enumerate(graph.messages("node"))
    ]


def subgraph(node: Node, name: str, model: Model) -> list[Node]:
    """The nodes of a graph that is an attribute: a branch of an If."""
    if name not in node.attributes:
        return []
    values = node.attributes[name].values.get("g", [])
    if not values or len(values[-1]) > _MAX_SUBGRAPH:
        return []
    message = decode(memoryview(values[-1]), str(model.path), SCHEMAS["Graph"], SCHEMAS)
    return nodes_of(message)


# ---- constants that are computed -----------------------------------------------------------------


class _Evaluation:
    """Works out one constant, for one batch; every step costs, so that it ends soon."""

    def __init__(self, model: Model, batch: int | None) -> None:
        self.model = model
        self.batch = batch
        self.left = _MAX_STEPS

    def value(self, name: str) -> Array:
        self.left -= 1
        model = self.model
        known = model.arrays.get((name, None))
        if known is None:
            known = model.arrays.get((name, self.batch))
        if known is not None:
            return known
        if self.left < 0 or not name or (self.batch is None and name in model.variable):
            raise NotConstantError
        if name in model.initializers:
            model.arrays[name, None] = model.tensors.array(model.initializers[name])
            return model.arrays[name, None]
        try:
            array = self._computed(name)
        except NotConstantError:
            if self.batch is None:
                model.variable.add(name)
            raise
        model.arrays[name, self.batch] = array
        return array

    def _computed(self, name: str) -> Array:
        node = self.model.producers.get(name)
        if node is None or node.domain not in ("", "ai.onnx") or name != node.output:
            raise NotConstantError
        evaluate = _EVALUATIONS.get(node.op)
        if evaluate is None:
            raise NotConstantError
        try:
            return evaluate(self, node)
        except (ValueError, IndexError, TypeError, OverflowError, ZeroDivisionError):
            raise NotConstantError from None

    def small(self, name: str) -> Array:
        """A value that may be computed with: shapes are short, weights are only passed on."""
        value = self.value(name)
        if value.size > _MAX_COMPUTED:
            raise NotConstantError
        return value

    def axes(self, node: Node) -> tuple[int, ...]:
        """Axes, which were an attribute up to opset 12 and are an input from 13 on."""
        listed = node.integers("axes")
        if listed is None:
            listed = [int(n) for n in self.small(node.input(1)).reshape(-1)]
        return tuple(listed)


def _constant(run: _Evaluation, node: Node) -> Array:
    if "value" in node.attributes:
        return run.model.tensors.array(node.attributes["value"].message("t"))
    for name, dtype in (("value_float", "<f4"), ("value_int", "<i8")):
        if name in node.attributes:
            one = node.attributes[name]
            return np.array(one.number("f") if dtype == "<f4" else one.integer("i"), dtype)
    if "value_ints" in node.attributes:
        return np.array(node.integers("value_ints"), "<i8")
    if "value_floats" in node.attributes:
        return node.attributes["value_floats"].array("floats")
    raise NotConstantError


def _constant_of_shape(run: _Evaluation, node: Node) -> Array:
    """A shape filled with one number. It takes no memory, however large the shape is."""
    shape = [int(n) for n in run.small(node.input(0)).reshape(-1)]
    if any(n < 0 for n in shape) or math.prod(shape) > _MAX_FILLED or len(shape) > 16:
        raise NotConstantError
    fill: Array = np.zeros(1, "<f4")
    if "value" in node.attributes:
        fill = run.model.tensors.array(node.attributes["value"].message("t"))
    return np.broadcast_to(fill.reshape(()), shape)


def _shape(run: _Evaluation, node: Node) -> Array:
    name = node.input(0)
    if name in run.model.shapes:
        if run.batch is None:
            raise NotConstantError
        shape = (run.batch, *run.model.shapes[name])
    else:
        shape = run.value(name).shape
    start, end = node.integer("start", 0), node.integer("end", len(shape))
    return np.array(shape[start:end], "<i8")


def _gather(run: _Evaluation, node: Node) -> Array:
    return np.take(
        run.small(node.input(0)),
        run.small(node.input(1)).astype(np.int64),
        axis=node.integer("axis", 0),
    )


def _concat(run: _Evaluation, node: Node) -> Array:
    return np.concatenate([run.small(name) for name in node.inputs], axis=node.integer("axis", 0))


def _slice(run: _Evaluation, node: Node) -> Array:
    data = run.small(node.input(0))
    if node.integers("starts") is not None:
        starts, ends = node.integers("starts") or [], node.integers("ends") or []
        axes, steps = node.integers("axes"), None
    else:
        starts, ends = (run.small(node.input(i)).reshape(-1).tolist() for i in (1, 2))
        axes = run.small(node.input(3)).reshape(-1).tolist() if node.input(3) else None
        steps = run.small(node.input(4)).reshape(-1).tolist() if node.input(4) else None
    where = [slice(None)] * data.ndim
    for position, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis = axes[position] if axes is not None else position
        step = steps[position] if steps is not None else 1
        # Below −size the end means "past the first", which Python writes as None.
        stop = None if step < 0 and end < -data.shape[axis] else end
        where[axis] = slice(start, stop, step)
    return data[tuple(where)]


def _unsqueeze(run: _Evaluation, node: Node) -> Array:
    return np.expand_dims(run.value(node.input(0)), run.axes(node))


def _squeeze(run: _Evaluation, node: Node) -> Array:
    data = run.value(node.input(0))
    if node.integers("axes") is None and not node.input(1):
        return data.squeeze()
    return data.squeeze(run.axes(node))


def _cast(run: _Evaluation, node: Node) -> Array:
    kind = node.integer("to")
    data = run.value(node.input(0))
    if kind not in DTYPES:
        raise NotConstantError
    dtype = np.dtype(DTYPES[kind])
    if data.dtype == dtype:
        return data
    if data.size > _MAX_COMPUTED and not (data.dtype.kind == dtype.kind == "f"):
        raise NotConstantError
    with np.errstate(all="ignore"):
        return data.astype(dtype)


def _transpose(run: _Evaluation, node: Node) -> Array:
    return run.value(node.input(0)).transpose(node.integers("perm"))


def _reshape(run: _Evaluation, node: Node) -> Array:
    data = run.value(node.input(0))
    wanted = [int(n) for n in run.small(node.input(1)).reshape(-1)]
    if not node.integer("allowzero", 0):
        wanted = [data.shape[i] if n == 0 else n for i, n in enumerate(wanted)]
    return data.reshape(wanted)


def _arithmetic(compute: Callable[[Array, Array], Array]) -> Callable[[_Evaluation, Node], Array]:
    def evaluate(run: _Evaluation, node: Node) -> Array:
        left, right = run.small(node.input(0)), run.small(node.input(1))
        with np.errstate(all="ignore"):
            return np.asarray(compute(left, right))

    return evaluate


def _divide(left: Array, right: Array) -> Array:
    if left.dtype.kind == "f":
        return left / right
    if not right.all():
        raise NotConstantError
    # ONNX rounds towards zero.
    quotient: Array = np.trunc(left / right).astype(left.dtype)
    return quotient


_EVALUATIONS: Mapping[str, Callable[[_Evaluation, Node], Array]] = {
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Shape": _shape,
    "Gather": _gather,
    "Concat": _concat,
    "Slice": _slice,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Cast": _cast,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Identity": lambda run, node: run.value(node.input(0)),
    "Add": _arithmetic(lambda a, b: a + b),
    "Sub": _arithmetic(lambda a, b: a - b),
    "Mul": _arithmetic(lambda a, b: a * b),
    "Div": _arithmetic(_divide),
    "Equal": _arithmetic(lambda a, b: a == b),
    "ReduceProd": lambda run, node: np.array(run.small(node.input(0)).prod()),
    "Flatten": lambda run, node: run.value(node.input(0)).reshape(
        math.prod(run.value(node.input(0)).shape[: node.integer("axis", 1)]), -1
    ),
}


def only(values: Sequence[Any]) -> Any:
    """The single item of a sequence, or None."""
    return values[0] if len(values) == 1 else None
