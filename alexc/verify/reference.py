"""The float64 reference of a graph: every named tensor, and how far rounding may move it.

The ops' own references, in numpy alone, give the values. What a backend reads is float32, so that
is what the reference reads too: weights and inputs are float32 numbers cast up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from alexc.graph.graph import INPUT, Graph, Node
from alexc.graph.quantization import Quantization, on_grid
from alexc.ops.base import Array
from alexc.ops.conv import Conv
from alexc.ops.dense import Linear
from alexc.verify import tolerance
from alexc.verify.grid import by_lot, inputs_on_grid, result_on_grid, settled, weight_steps
from alexc.verify.precision import FP32, Precision
from alexc.verify.rounding import Call, Rounding, Weights, rounding

# A linear layer is evaluated in slices of its units with about this many weights each, so that its
# weights never lie in memory whole in float64.
_SLICE = 1 << 22

# Images are evaluated together while all draws of their largest tensor have about so many numbers:
# 16 MB, which an allocator gives again and again without asking the system for fresh pages.
_TOGETHER = 1 << 21


@dataclass(frozen=True)
class Expectation:
    """What every named tensor of a net must be for one batch.

    By name: `values` in float64 and `tolerances`, both `(batch, *shape)`; `peaks`, for each image
    the largest magnitude that the computation of the tensor passes through.
    """

    values: Mapping[str, Array]
    tolerances: Mapping[str, Array]
    peaks: Mapping[str, Array]


def evaluate(graph: Graph, weights: Weights, inputs: NDArray[np.float32]) -> dict[str, Array]:
    """Every named tensor of the graph in float64, the input's included."""
    values: dict[str, Array] = {INPUT: inputs.astype(np.float64)}
    for node in graph.nodes:
        grid = graph.quantized.get(node.name)
        given = inputs_on_grid([values[source] for source in node.inputs], grid)
        value, _ = apply(node, given, local_weights(node, weights), grid=grid)
        values[node.name] = result_on_grid(value, grid)
    return values


def expect(
    graph: Graph,
    weights: Weights,
    inputs: NDArray[np.float32],
    precisions: Mapping[str, Precision] | None = None,
    seed: int = 0,
) -> Expectation:
    """Every named tensor with its tolerance; `precisions` by layer, fp32 where it says nothing.

    The batch is evaluated once as it is and, in the same pass, some times more with errors drawn
    from the rounding model added to each layer's result. What a quantized layer rounds to its grid
    is rounded stochastically there: the least error decides which neighbour a number near a tie
    goes to, so that after some layers any two backends round as if by lot.
    """
    return _Pass(graph, weights, inputs, precisions or {}, seed).expectation()


@dataclass(frozen=True)
class _Stage:
    """Nodes that are evaluated one after the other for some images, then for the next.

    A linear layer is a stage for all images at once, since its weights weigh more than they do.
    """

    nodes: Sequence[Node]
    images: int

    @staticmethod
    def of(graph: Graph, images: int, rows: int) -> list[_Stage]:
        """The graph in stages, for a batch of `images`, each of them evaluated in `rows`."""
        stages = []
        for linear, run in groupby(graph.nodes, lambda node: isinstance(node.op, Linear)):
            nodes = list(run)
            largest = max(math.prod(shape) for n in nodes for shape in (n.shape, *n.input_shapes))
            together = images if linear else _TOGETHER // (rows * largest)
            stages.append(_Stage(nodes, max(1, together)))
        return stages


class _Pass:
    """The evaluation of a batch with all its draws, of which the tolerances are taken.

    A tensor has a row for each draw, the first without any error, `(draws + 1, images, *shape)`;
    one that no error has reached yet has that first row alone.
    """

    def __init__(
        self,
        graph: Graph,
        weights: Weights,
        inputs: NDArray[np.float32],
        precisions: Mapping[str, Precision],
        seed: int,
    ) -> None:
        self._graph = graph
        self._weights = weights
        self._inputs = inputs
        self._precisions = precisions
        self._draws = tolerance.draws_for(graph.macs, len(inputs))
        self._generator = np.random.default_rng(seed)
        images = len(inputs)
        shapes = {name: (images, *shape) for name, shape in graph.shapes.items() if name != INPUT}
        exact = inputs.astype(np.float64)
        self._values = {INPUT: exact} | {name: np.empty(shape) for name, shape in shapes.items()}
        self._tolerances = {INPUT: np.zeros_like(exact)}
        self._tolerances |= {name: np.empty(shape) for name, shape in shapes.items()}
        self._peaks = {name: np.empty(images) for name in shapes}

    def expectation(self) -> Expectation:
        """Evaluate every node, stage after stage."""
        images, rows = len(self._inputs), self._draws + 1
        kept = {INPUT: self._values[INPUT][np.newaxis]}
        stages = _Stage.of(self._graph, images, rows)
        for index, stage in enumerate(stages):
            later = {source for s in stages[index + 1 :] for n in s.nodes for source in n.inputs}
            made = {
                n.name: np.empty((rows, images, *n.shape)) for n in stage.nodes if n.name in later
            }
            for first in range(0, images, stage.images):
                part = slice(first, first + stage.images)
                tensors = {name: array[:, part] for name, array in kept.items()}
                self._through(stage.nodes, tensors, part, later)
                for name, array in made.items():
                    array[:, part] = tensors[name]
            kept = {name: array for name, array in (kept | made).items() if name in later}
        return Expectation(self._values, self._tolerances, self._peaks)

    def _through(
        self, nodes: Sequence[Node], tensors: dict[str, Array], part: slice, later: set[str]
    ) -> None:
        """Evaluate a stage's nodes for some images, `tensors` being what there is of them."""
        last_reader = {source: node.name for node in nodes for source in node.inputs}
        for node in nodes:
            tensors[node.name] = self._result(node, tensors, part)
            for source in set(node.inputs) - later:
                if last_reader[source] == node.name:
                    del tensors[source]

    def _result(self, node: Node, tensors: Mapping[str, Array], part: slice) -> Array:
        """All rows of one node's tensor, with its errors drawn; what is expected of it is kept."""
        generator, draws = self._generator, self._draws
        precision = self._precisions.get(node.name, FP32)
        grid = self._graph.quantized.get(node.name)
        given = [tensors[source] for source in node.inputs]
        images = given[0].shape[1]
        rows = max(len(array) for array in given) if grid is None else draws + 1
        given = [np.broadcast_to(array, (rows, *array.shape[1:])) for array in given]
        given = [array.reshape(-1, *array.shape[2:]) for array in given]
        if grid is not None:
            given = inputs_on_grid(given, grid, by_lot(generator, given[0].shape, images))
        own = local_weights(node, self._weights)
        result, local = _evaluate(node, given, images, own, precision, grid)
        if grid is not None:
            result = result_on_grid(result, grid, by_lot(generator, result.shape, images))
        result = result.reshape(rows, images, *node.shape)
        self._values[node.name][part] = result[0]
        self._peaks[node.name][part] = local.peak
        allowed = tolerance.own(local, self._values[node.name].size)
        if grid is not None and grid.output_step is not None:
            allowed = allowed + grid.output_step  # the neighbour on the grid is right too
        if rows > 1:
            departures = np.abs(result[1:] - result[0]).reshape(draws, images, -1)
            carried = tolerance.carried(departures).reshape(images, *[1] * len(node.shape))
            allowed = allowed + carried
        self._tolerances[node.name][part] = allowed
        if local.sigma.any():
            if rows == 1:
                result = np.repeat(result, draws + 1, axis=0)
            elif not result.flags.writeable:  # an op that passes its input on
                result = result.copy()
            result[1:] += tolerance.draw(generator, local, draws)
        return result


def layer_alone(
    node: Node,
    inputs: Sequence[NDArray[np.float32]],
    weights: Weights,
    precision: Precision,
    grid: Quantization | None = None,
) -> tuple[Array, Array, Array]:
    """The value of one layer for these inputs, the tolerance of each element, and the peaks.

    `weights` are the layer's own, by their local names. Of a quantized layer neither they nor the
    inputs may lie near a tie (see `grid.off_ties`).
    """
    given = inputs_on_grid([array.astype(np.float64) for array in inputs], grid)
    value, local = _evaluate(node, given, len(given[0]), weights, precision, grid)
    value, allowed = settled(value, tolerance.own(local), grid)
    return value, allowed, local.peak


def apply(
    node: Node,
    inputs: Sequence[Array],
    weights: Weights,
    images: int = 0,
    grid: Quantization | None = None,
) -> tuple[Array, Array | None]:
    """The layer's value, and for conv and linear Σ (weight · input)² for the first `images`.

    The weights of a quantized layer are put on their `grid` here, the inputs by the caller.
    """
    op = node.op
    steps = None if grid is None else weight_steps(grid, weights["weight"])
    if isinstance(op, Linear):
        value = np.empty((len(inputs[0]), op.out_features))
        squares = np.empty((images, op.out_features))
        step = max(1, _SLICE // inputs[0].shape[1])
        squared = inputs[0][:images] ** 2
        for first in range(0, op.out_features, step):
            part = slice(first, first + step)
            own = {name: array[part].astype(np.float64) for name, array in weights.items()}
            if grid is not None and steps is not None:
                own["weight"] = on_grid(own["weight"], steps[part], grid.format)
            slice_op = Linear(out_features=len(own["weight"]), bias=op.bias)
            value[:, part] = slice_op.reference(inputs, own)
            if images:
                np.square(own["weight"], out=own["weight"])
                squares[:, part] = squared @ own["weight"].T
        return value, squares
    own = {name: array.astype(np.float64) for name, array in weights.items()}
    if grid is not None and steps is not None:
        own["weight"] = on_grid(own["weight"], steps, grid.format)
    value = op.reference(inputs, own)
    if isinstance(op, Conv) and images:
        zero = {name: np.zeros_like(array) for name, array in own.items() if name == "bias"}
        squared_weights = {"weight": own["weight"] ** 2, **zero}
        return value, op.reference([inputs[0][:images] ** 2], squared_weights)
    return value, None


def local_weights(node: Node, weights: Weights) -> Weights:
    """A layer's own weights by their local names."""
    return {local: weights[whole] for local, whole in node.parameter_names().items()}


def _evaluate(
    node: Node,
    inputs: Sequence[Array],
    images: int,
    weights: Weights,
    precision: Precision,
    grid: Quantization | None = None,
) -> tuple[Array, Rounding]:
    """The value for all rows, and the rounding errors for the first `images` of them.

    Of a quantized layer it is the value before it is rounded to the grid.
    """
    value, squares = apply(node, inputs, weights, images, grid)
    first = [array[:images] for array in inputs]
    call = Call(node, first, value[:images], weights, precision, squares)
    return value, rounding(call)
