"""What a quantized layer does in the reference: its operands on their grids, ties kept away from.

Whether a number near a tie goes up or down is decided by the last bit of what came before. In the
whole net that can't be foretold, so it is drawn (see `reference.expect`); for a layer alone the
numbers are chosen so that nothing is left to the last bit, and integer kernels can be held to the
accuracy of float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexc.graph.quantization import (
    Quantization,
    QuantizedFormat,
    distance_to_tie,
    on_grid,
    width,
)
from alexc.ops.base import Array
from alexc.verify.precision import FP32

# Weights are moved in slices of about so many, so that they never lie in memory whole in float64.
_SLICE = 1 << 22


def inputs_on_grid(
    inputs: Sequence[Array], grid: Quantization | None, jitter: Array | float = 0.0
) -> list[Array]:
    """The inputs of a layer as it reads them."""
    if grid is None or grid.input_step is None:
        return list(inputs)
    return [on_grid(inputs[0], grid.input_step, grid.input_format, jitter), *inputs[1:]]


def result_on_grid(value: Array, grid: Quantization | None, jitter: Array | float = 0.0) -> Array:
    """The result of a layer as it writes it."""
    if grid is None or grid.output_step is None:
        return value
    return on_grid(value, grid.output_step, grid.output_format, jitter)


def weight_steps(grid: Quantization, weight: NDArray[np.floating[Any]]) -> Array:
    """The steps of a layer's weights, to be broadcast against them."""
    return np.array(grid.weight_steps).reshape(-1, *[1] * (weight.ndim - 1))


def by_lot(generator: np.random.Generator, shape: tuple[int, ...], images: int) -> Array:
    """The jitter that makes rounding stochastic in all rows but the first `images`."""
    jitter = generator.uniform(-0.5, 0.5, shape)
    jitter[:images] = 0.0
    return jitter


def off_ties(
    values: NDArray[np.float32], step: Array | float, format: QuantizedFormat
) -> NDArray[np.float32]:
    """`values` moved a tenth of the way to where they are rounded to; saturated ones stay."""
    moved = np.empty_like(values)
    rows = max(1, _SLICE // max(1, math.prod(values.shape[1:])))
    for first in range(0, len(values), rows):
        part = slice(first, first + rows)
        own = step[part] if isinstance(step, np.ndarray) else step
        rounded = on_grid(values[part], own, format)
        away = values[part] - rounded
        saturated = np.abs(away) > np.abs(rounded) / 8 + own
        moved[part] = np.where(saturated, values[part], rounded + 0.9 * away)
    return moved


def settled(value: Array, allowed: Array, grid: Quantization | None) -> tuple[Array, Array]:
    """The result of a layer alone on its grid, and what is tolerated there.

    `allowed` is the tolerance before rounding: where that reaches over a tie, the neighbour on the
    grid is right too, and elsewhere only the float32 product of step and integer can err, or where
    the grid is told by its ends, a multiple of their distance.
    """
    if grid is None or grid.output_step is None:
        return value, allowed
    # Integer kernels keep the bias as a multiple of input step · weight step.
    bias = (grid.input_step or 0.0) * weight_steps(grid, value[0])
    undecided = distance_to_tie(value, grid.output_step, grid.output_format) <= allowed + bias / 2
    rounded = result_on_grid(value, grid)
    whole = width(grid.output_step, grid.output_format)
    exact = np.full(rounded.shape, 4 * FP32.result * whole)
    return rounded, np.where(undecided, exact + grid.output_step, exact)
