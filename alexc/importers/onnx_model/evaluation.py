"""Constants that an ONNX model computes.

Exporters write shapes as little programs (Shape, Gather, Concat, …) and constants through copies
and transposes. `_EVALUATIONS` is the dictionary from those ops to what they compute.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from alexc.importers.onnx_model.node import Node
from alexc.importers.onnx_model.tensors import DTYPES, Array, Tensors
from alexc.importers.proto import Message
from alexc.ops.base import Shape

# Programs that compute shapes are short, and their values few.
_MAX_STEPS = 200
_MAX_COMPUTED = 100_000
# What ConstantOfShape may stand for in all: more than any layer of AlexNet has.
_MAX_FILLED = 2**26


class NotConstantError(Exception):
    """A tensor that depends on the input, or on an op that is not worked out here."""


@dataclass
class Known:
    """What constants are worked out from; `arrays` and `variable` are what was worked out already.

    `arrays` are by name and batch. `variable` names those that are known to depend on the input;
    `shapes` has no batch.
    """

    tensors: Tensors
    initializers: Mapping[str, Message]
    producers: Mapping[str, Node]
    shapes: Mapping[str, Shape]
    arrays: dict[tuple[str, int | None], Array] = field(default_factory=dict)
    variable: set[str] = field(default_factory=set)


class Evaluation:
    """Works out one constant, for one batch; every step costs, so that it ends soon."""

    def __init__(self, known: Known, batch: int | None) -> None:
        self.known = known
        self.batch = batch
        self.left = _MAX_STEPS

    def value(self, name: str) -> Array:
        """The value of a tensor. Raises NotConstantError if it has none here."""
        self.left -= 1
        known = self.known
        array = known.arrays.get((name, None))
        if array is None:
            array = known.arrays.get((name, self.batch))
        if array is not None:
            return array
        if self.left < 0 or not name or (self.batch is None and name in known.variable):
            raise NotConstantError
        if name in known.initializers:
            array = known.arrays[name, None] = known.tensors.array(known.initializers[name])
            return array
        try:
            array = self._computed(name)
        except NotConstantError:
            if self.batch is None:
                known.variable.add(name)
            raise
        known.arrays[name, self.batch] = array
        return array

    def _computed(self, name: str) -> Array:
        node = self.known.producers.get(name)
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


def _constant(run: Evaluation, node: Node) -> Array:
    if "value" in node.attributes:
        return run.known.tensors.array(node.attributes["value"].message("t"))
    for name, dtype in (("value_float", "<f4"), ("value_int", "<i8")):
        if name in node.attributes:
            one = node.attributes[name]
            return np.array(one.number("f") if dtype == "<f4" else one.integer("i"), dtype)
    if "value_ints" in node.attributes:
        return np.array(node.integers("value_ints"), "<i8")
    if "value_floats" in node.attributes:
        return node.attributes["value_floats"].array("floats")
    raise NotConstantError


def _constant_of_shape(run: Evaluation, node: Node) -> Array:
    """A shape filled with one number. It takes no memory, however large the shape is."""
    shape = [int(n) for n in run.small(node.input(0)).reshape(-1)]
    if any(n < 0 for n in shape) or math.prod(shape) > _MAX_FILLED or len(shape) > 16:
        raise NotConstantError
    fill: Array = np.zeros(1, "<f4")
    if "value" in node.attributes:
        fill = run.known.tensors.array(node.attributes["value"].message("t"))
    return np.broadcast_to(fill.reshape(()), shape)


def _shape(run: Evaluation, node: Node) -> Array:
    name = node.input(0)
    if name in run.known.shapes:
        if run.batch is None:
            raise NotConstantError
        shape = (run.batch, *run.known.shapes[name])
    else:
        shape = run.value(name).shape
    start, end = node.integer("start", 0), node.integer("end", len(shape))
    return np.array(shape[start:end], "<i8")


def _gather(run: Evaluation, node: Node) -> Array:
    return np.take(
        run.small(node.input(0)),
        run.small(node.input(1)).astype(np.int64),
        axis=node.integer("axis", 0),
    )


def _concat(run: Evaluation, node: Node) -> Array:
    return np.concatenate([run.small(name) for name in node.inputs], axis=node.integer("axis", 0))


def _slice(run: Evaluation, node: Node) -> Array:
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


def _unsqueeze(run: Evaluation, node: Node) -> Array:
    return np.expand_dims(run.value(node.input(0)), run.axes(node))


def _squeeze(run: Evaluation, node: Node) -> Array:
    data = run.value(node.input(0))
    if node.integers("axes") is None and not node.input(1):
        return data.squeeze()
    return data.squeeze(run.axes(node))


def _cast(run: Evaluation, node: Node) -> Array:
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


def _transpose(run: Evaluation, node: Node) -> Array:
    return run.value(node.input(0)).transpose(node.integers("perm"))


def _reshape(run: Evaluation, node: Node) -> Array:
    data = run.value(node.input(0))
    wanted = [int(n) for n in run.small(node.input(1)).reshape(-1)]
    if not node.integer("allowzero", 0):
        wanted = [data.shape[i] if n == 0 else n for i, n in enumerate(wanted)]
    return data.reshape(wanted)


def _arithmetic(compute: Callable[[Array, Array], Array]) -> Callable[[Evaluation, Node], Array]:
    def evaluate(run: Evaluation, node: Node) -> Array:
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


_EVALUATIONS: Mapping[str, Callable[[Evaluation, Node], Array]] = {
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
