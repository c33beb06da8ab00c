"""Numbers of eight bits: how a layer's operands lie on a grid, and what rounding to it does.

A quantized layer (conv or linear) reads its input x and its weights w as multiples of a step,

    x ≈ step · q,   q = saturate(round(x / step)),   ties to even, no zero point,

one step for the input, one for each output channel of the weights, and in the end rounds its result
to a step of its own. That is ONNX's QuantizeLinear followed by DequantizeLinear.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

QuantizedFormat = Literal["int8", "fp8"]

# The largest number that a range is fitted to. The int8 below it, −128, is left unused by what is
# fitted; an activation beyond its range saturates there. fp8 is e4m3 without infinities.
LARGEST: dict[QuantizedFormat, float] = {"int8": 127.0, "fp8": 448.0}
_FP8_FRACTION_BITS, _FP8_SMALLEST_EXPONENT = 3, -6


@dataclass(frozen=True, slots=True)
class Quantization:
    """The grids of one layer: steps of its input, of each output channel's weights, of its result.

    `output_step` is None where the result is an output of the graph, which stays as it is computed.
    """

    format: QuantizedFormat
    input_step: float
    weight_steps: tuple[float, ...]
    output_step: float | None

    def to_json(self) -> dict[str, Any]:
        """As it goes into the graph's digest."""
        return {
            "format": self.format,
            "input_step": self.input_step,
            "weight_steps": list(self.weight_steps),
            "output_step": self.output_step,
        }


def step_for(limit: float, format: QuantizedFormat) -> float:
    """The step, a float32 number, at which `limit` is the largest number. For a limit of 0, 1."""
    step = np.float32(limit / LARGEST[format])
    if limit == 0:
        return 1.0
    return float(max(step, np.finfo(np.float32).tiny))


def on_grid(
    values: NDArray[np.floating[Any]],
    step: NDArray[np.float64] | float,
    format: QuantizedFormat,
    jitter: NDArray[np.float64] | float = 0.0,
) -> NDArray[np.float64]:
    """`values` as multiples of `step`, in float64. `step` broadcasts against them.

    `jitter`, between −½ and ½ of the distance between neighbours of the grid, moves what is
    rounded: drawn uniformly it makes the rounding stochastic.
    """
    scaled = values / np.asarray(step, np.float64)
    if format == "int8":
        scaled += jitter
        np.rint(scaled, out=scaled)
        return np.asarray(np.clip(scaled, -128.0, 127.0) * step, np.float64)
    scaled = np.clip(scaled, -LARGEST["fp8"], LARGEST["fp8"])
    _, exponent = np.frexp(scaled)  # scaled = m · 2^exponent, m from ½ to 1
    exponent = np.maximum(exponent - 1, _FP8_SMALLEST_EXPONENT)
    unit = np.ldexp(1.0, exponent - _FP8_FRACTION_BITS)
    rounded = np.rint(scaled / unit + jitter) * unit
    return np.asarray(np.clip(rounded, -LARGEST["fp8"], LARGEST["fp8"]) * step, np.float64)


def distance_to_tie(values: NDArray[np.floating[Any]], step: float) -> NDArray[np.float64]:
    """How far each value is from the nearest that int8 would round another way.

    Beyond the largest number there is no other way, and the distance is ∞.
    """
    scaled = np.abs(values / step)
    to_tie = np.abs(scaled % 1.0 - 0.5)
    return np.asarray(np.where(scaled > LARGEST["int8"] + 1, np.inf, to_tie) * step, np.float64)
