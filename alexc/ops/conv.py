"""Convolution, with groups, dilation and padding on each side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, final

from pydantic import Field

from alexc.ops.base import (
    Array,
    Op,
    Padding,
    PaddingField,
    Pair,
    Parameter,
    Positive,
    Shape,
    ShapeFault,
    require_image,
    require_size,
)
from alexc.ops.window import Axis, image_axes, sliding_windows, windowed_shape


@final
class Conv(Op):
    """Convolution of an image (a cross-correlation, as every library has it).

    b[o, y, x] = bias[o] + Σ weight[o, c, i, j] · a[c, y·stride + i·dilation, x·stride + j·dilation]
    over the kernel's i and j and over the channels c of o's group, a being the padded input.
    """

    kind: ClassVar[str] = "conv"

    out_channels: Positive = Field(
        description="Number of kernels, which is the number of channels of the output.",
        examples=[96],
    )
    kernel_size: Pair = Field(
        description="Size of a kernel in pixels: one number, or [rows, columns].",
        examples=[11, [3, 5]],
    )
    stride: Pair = Field(
        (1, 1),
        description="Pixels from one window to the next: one number, or [down, across].",
        examples=[4, [2, 1]],
    )
    padding: PaddingField = Field(
        Padding(),
        description="Pixels of zeros around the image: one number, or [rows, columns], or the "
        "sides by name.",
        examples=[2, [1, 2], {"top": 0, "left": 0, "bottom": 1, "right": 1}],
    )
    dilation: Pair = Field(
        (1, 1),
        description="Pixels between neighbouring taps of a kernel: one number, or [rows, columns].",
        examples=[1, [2, 3]],
    )
    groups: Positive = Field(
        1,
        description="Number of groups that the channels are split into. A kernel sees only the "
        "channels of its own group, 2 being the two columns of the 2012 paper. Divides the "
        "input's channels and out_channels.",
        examples=[2],
    )
    bias: bool = Field(
        True,
        description="Whether a learned number is added to each output channel.",
        examples=[False],
    )

    def axes(self, shape: Shape) -> tuple[Axis, Axis]:
        """Rows and columns of the input under this op's windows. Raises ShapeFault."""
        image = require_image("conv", shape)
        return image_axes(image, self.kernel_size, self.stride, self.padding, self.dilation)

    def output_shape(self, *inputs: Shape) -> Shape:
        (shape,) = inputs
        channels, _, _ = require_image("conv", shape)
        for count, which in ((channels, "input"), (self.out_channels, "output")):
            if count % self.groups:
                raise ShapeFault(
                    "shape/groups",
                    f"{count} {which} channels do not divide into groups={self.groups}",
                    field="groups",
                    help=f"divisors of {channels} and {self.out_channels}: "
                    + _common_divisors(channels, self.out_channels),
                )
        output = windowed_shape(self.out_channels, self.axes(shape))
        require_size("the weight", self._weight_shape(channels), field="out_channels")
        return output

    def parameters(self, *inputs: Shape) -> dict[str, Parameter]:
        (shape,) = inputs
        parameters = {"weight": Parameter(self._weight_shape(shape[0]))}
        if self.bias:
            parameters["bias"] = Parameter((self.out_channels,))
        return parameters

    def macs(self, *inputs: Shape) -> int:
        """Every output number takes one kernel: out · height · width · (in / groups) · kh · kw."""
        (shape,) = inputs
        return math.prod(self.output_shape(shape)) * math.prod(self._weight_shape(shape[0])[1:])

    def reference(self, inputs: Sequence[Array], parameters: Mapping[str, Array]) -> Array:
        import numpy as np

        (images,) = inputs
        windows = sliding_windows(images, self.axes(images.shape[1:]), fill=0.0)
        output = np.empty((len(images), *self.output_shape(images.shape[1:])))
        reads = images.shape[1] // self.groups
        writes = self.out_channels // self.groups
        for group in range(self.groups):
            seen = slice(group * reads, (group + 1) * reads)
            made = slice(group * writes, (group + 1) * writes)
            kernels = parameters["weight"][made]
            for image, result in zip(windows, output, strict=True):
                # (channels, down, across, i, j) with (out, channels, i, j), over channels, i and j
                sums = np.tensordot(kernels, image[seen], axes=([1, 2, 3], [0, 3, 4]))
                result[made] = sums
        if self.bias:
            output += parameters["bias"][:, np.newaxis, np.newaxis]
        return output

    def _weight_shape(self, channels: int) -> Shape:
        return (self.out_channels, channels // self.groups, *self.kernel_size)


def _common_divisors(first: int, second: int, at_most: int = 16) -> str:
    common = math.gcd(first, second)
    small = [n for n in range(1, math.isqrt(common) + 1) if common % n == 0]
    divisors = sorted({*small, *(common // n for n in small)})
    return ", ".join(map(str, divisors[:at_most])) + (", …" if len(divisors) > at_most else "")
