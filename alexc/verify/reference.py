"""The float64 reference of a graph: every named tensor, and how far rounding may move it.

The ops' own references, in numpy alone, give the values. What a backend reads is float32, so that
is what the reference reads too: weights and inputs are float32 numbers cast up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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

# So many numbers of one tensor, for all images and draws of a pass: 256 MB.
_ROWS_OF_A_TENSOR = 1 << 25


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
    draws = tolerance.draws_for(graph.macs, len(inputs))
    largest = max(math.prod(shape) for shape in graph.shapes.values())
    at_once = max(1, _ROWS_OF_A_TENSOR // ((draws + 1) * largest))
    parts = [
        _expect(graph, weights, inputs[first : first + at_once], precisions, draws, (seed, first))
        for first in range(0, len(inputs), at_once)
    ]
    return Expectation(
        _joined([part.values for part in parts]),
        _joined([part.tolerances for part in parts]),
        _joined([part.peaks for part in parts]),
    )


def _joined(parts: Sequence[Mapping[str, Array]]) -> Mapping[str, Array]:
    """The images of all parts as one batch."""
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _expect(
    graph: Graph,
    weights: Weights,
    inputs: NDArray[np.float32],
    precisions: Mapping[str, Precision] | None,
    draws: int,
    seed: tuple[int, int],
) -> Expectation:
    """What `expect` gives, for images that are evaluated in one pass."""
    images = len(inputs)
    generator = np.random.default_rng(seed)
    rows: dict[str, Array] = {INPUT: np.repeat(inputs.astype(np.float64)[np.newaxis], draws + 1, 0)}
    values, tolerances, peaks = {INPUT: rows[INPUT][0]}, {}, {}
    last_reader = {source: node.name for node in graph.nodes for source in node.inputs}
    for node in graph.nodes:
        given = [rows[source].reshape(-1, *rows[source].shape[2:]) for source in node.inputs]
        precision = (precisions or {}).get(node.name, FP32)
        grid = graph.quantized.get(node.name)
        if grid is not None:
            given = inputs_on_grid(given, grid, by_lot(generator, given[0].shape, images))
        own = local_weights(node, weights)
        result, local = _evaluate(node, given, images, own, precision, grid)
        if grid is not None:
            result = result_on_grid(result, grid, by_lot(generator, result.shape, images))
        result = result.reshape(draws + 1, images, *node.shape)
        departures = np.abs(result[1:] - result[0]).reshape(draws, images, -1)
        propagated = tolerance.carried(departures)
        allowed = tolerance.own(local)
        if grid is not None and grid.output_step is not None:
            allowed = allowed + grid.output_step  # the neighbour on the grid is right too
        tolerances[node.name] = allowed + propagated.reshape(images, *[1] * (allowed.ndim - 1))
        if local.sigma.any():
            result[1:] += tolerance.draw(generator, local, draws)
        values[node.name], peaks[node.name] = result[0].copy(), local.peak
        rows[node.name] = result
        for source in set(node.inputs):
            if last_reader[source] == node.name:
                del rows[source]
    return Expectation(values, tolerances, peaks)


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
