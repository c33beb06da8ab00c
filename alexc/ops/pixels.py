"""Pixels of eight bits, which a model normalises itself. No spec names this op: a build adds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, final

from alexc.ops.base import Array, Op, Shape, require_image


@final
class Pixels(Op):
    """Pixels 0 to 255 as the net takes them, channel by channel: b = (a · scale − mean) / std.

    What it reads is uint8, and nothing but the graph's input.
    """

    kind: ClassVar[str] = "pixels"

    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def output_shape(self, *inputs: Shape) -> Shape:
        channels, height, width = require_image(self.kind, inputs[0])
        if not len(self.mean) == len(self.std) == channels:
            raise ValueError(
                f"{channels} channels, {len(self.mean)} of mean and {len(self.std)} of std"
            )
        return channels, height, width

    def reference(self, inputs: Sequence[Array], parameters: Mapping[str, Array]) -> Array:
        import numpy as np

        (values,) = inputs
        mean, std = (np.array(each).reshape(-1, 1, 1) for each in (self.mean, self.std))
        normalised: Array = (values * self.scale - mean) / std
        return normalised
