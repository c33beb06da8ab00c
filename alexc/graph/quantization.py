"""Numbers of eight bits: how a layer's operands lie on a grid, and what rounding to it does.

A quantized layer (conv or linear) reads its input x and its weights w as multiples of a step,

    x ≈ step · q,   q = saturate(round(x / step)),   ties to even, no zero point,

q with a sign, or without where x is never negative, and then twice as fine; one step for the input,
one for each output channel of the weights. In the end it rounds its result to a step of its own.
That is ONNX's QuantizeLinear followed by DequantizeLinear.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

QuantizedFormat = Literal["int8", "uint8", "fp8"]

# The largest number that a range is fitted to. The int8 below it, −128, is left unused by what is
# fitted; an activation beyond its range saturates there. fp8 is e4m3 without infinities.
LARGEST: dict[QuantizedFormat, float] = {"int8": 127.0, "uint8": 255.0, "fp8": 448.0}
_INTEGERS: dict[QuantizedFormat, tuple[float, float]] = {
    "int8": (-128.0, 127.0),
    "uint8": (0, 255.0),
}

# What a net is quantized to. `u8s8` is ONNX Runtime's name for activations without a sign, where
# they are never negative, and weights with one: what processors multiply fastest, and TensorRT
# does not take.
Scheme = Literal["int8", "u8s8", "fp8"]
WEIGHTS: dict[Scheme, QuantizedFormat] = {"int8": "int8", "u8s8": "int8", "fp8": "fp8"}
_FP8_FRACTION_BITS, _FP8_SMALLEST_EXPONENT = 3, -6


@dataclass(frozen=True, slots=True)
class Quantization:
    """The grids of one layer: steps of its input, of each output channel's weights, of its result.

    `format` is that of the weights, and of input and result unless these are `unsigned`.
    `input_step` is None where the weights alone are on a grid, and `output_step` where the result
    stays as it is computed, as an output of the graph does.
    """

    format: QuantizedFormat
    input_step: float | None
    weight_steps: tuple[float, ...]
    output_step: float | None
    unsigned_input: bool = False
    unsigned_output: bool = False

    @property
    def input_format(self) -> QuantizedFormat:
        return "uint8" if self.unsigned_input else self.format

    @property
    def output_format(self) -> QuantizedFormat:
        return "uint8" if self.unsigned_output else self.format

    def to_json(self) -> dict[str, Any]:
        """As it goes into the graph's digest."""
        return {
            "format": self.format,
            "input_step": self.input_step,
            "weight_steps": list(self.weight_steps),
            "output_step": self.output_step,
            "unsigned_input": self.unsigned_input,
            "unsigned_output": self.unsigned_output,
        }


def step_for(limit: float, format: QuantizedFormat) -> float:
    """The step, a float32 number, at which `limit` is the largest number. For a limit of 0, 1."""
    import numpy as np

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
    import numpy as np

    scaled = values / np.asarray(step, np.float64)
    if format in _INTEGERS:
        scaled += jitter
        np.rint(scaled, out=scaled)
        return np.asarray(np.clip(scaled, *_INTEGERS[format]) * step, np.float64)
    scaled = np.clip(scaled, -LARGEST["fp8"], LARGEST["fp8"])
    _, exponent = np.frexp(scaled)  # scaled = m · 2^exponent, m from ½ to 1
    exponent = np.maximum(exponent - 1, _FP8_SMALLEST_EXPONENT)
    unit = np.ldexp(1.0, exponent - _FP8_FRACTION_BITS)
    rounded = np.rint(scaled / unit + jitter) * unit
    return np.asarray(np.clip(rounded, -LARGEST["fp8"], LARGEST["fp8"]) * step, np.float64)


def distance_to_tie(
    values: NDArray[np.floating[Any]], step: float, format: QuantizedFormat
) -> NDArray[np.float64]:
    """How far each value is from the nearest that the integers `format` would round another way.

    Beyond the smallest and the largest there is no other way, and the distance is ∞.
    """
    import numpy as np

    smallest, largest = _INTEGERS[format]
    scaled = values / step
    to_tie = np.abs(np.abs(scaled) % 1.0 - 0.5)
    beyond = (scaled < smallest) | (scaled > largest)
    return np.asarray(np.where(beyond, np.inf, to_tie) * step, np.float64)


def width(step: float, format: QuantizedFormat) -> float:
    """From the least to the largest number that a range is fitted to."""
    return LARGEST[format] * step * (1 if format == "uint8" else 2)
