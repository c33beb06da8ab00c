"""Pooling: the maximum or the average of windows, and the average of a given number of bins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, final

from pydantic import Field

from alexc.ops.base import (
    Array,
    Op,
    Padding,
    PaddingField,
    Pair,
    Shape,
    ShapeFault,
    require_image,
    require_size,
)
from alexc.ops.window import Axis, image_axes, sliding_windows, windowed_shape


class _WindowPool(Op):
    """What pooling over sliding windows has in common: the fields and the shape rule."""

    kernel_size: Pair = Field(
        description="Size of a window in pixels: one number, or [rows, columns].",
        examples=[3, [2, 3]],
    )
    stride: Pair | None = Field(
        None,
        description="Pixels from one window to the next: one number, or [down, across]. "
        "By default the kernel_size, so that windows neither overlap nor leave gaps.",
        examples=[2, [2, 1]],
    )
    padding: PaddingField = Field(
        Padding(),
        description="Pixels around the image, fewer than the window has: one number, or "
        "[rows, columns], or the sides by name.",
        examples=[1, [0, 1], {"top": 0, "left": 0, "bottom": 1, "right": 1}],
    )
    ceil_mode: bool = Field(
        False,
        description="Whether to round the output's size up, as Caffe does: a last window may hang "
        "over the edge, unless it would start past the image.",
        examples=[True],
    )

    @property
    def steps(self) -> tuple[int, int]:
        """The stride, with its default filled in."""
        return self.stride or self.kernel_size

    def axes(self, shape: Shape) -> tuple[Axis, Axis]:
        """Rows and columns of the input under this op's windows. Raises ShapeFault."""
        image = require_image(self.kind, shape)
        padding = self.padding
        sides = (padding.top, padding.bottom), (padding.left, padding.right)
        for side, kernel, name in zip(sides, self.kernel_size, ("row", "column"), strict=True):
            if max(side) >= kernel:
                raise ShapeFault(
                    "shape/padding-too-large",
                    f"padding of {max(side)} and a window of {kernel} {name}{'s' * (kernel > 1)}: "
                    "a window could see nothing of the image",
                    field="padding",
                    help=f"padding of at most {kernel - 1} on a side",
                )
        return image_axes(image, self.kernel_size, self.steps, padding, ceil=self.ceil_mode)

    def output_shape(self, *inputs: Shape) -> Shape:
        (shape,) = inputs
        return windowed_shape(shape[0], self.axes(shape))


@final
class MaxPool(_WindowPool):
    """The maximum of each window. Padding counts as minus infinity, so it never wins."""

    kind: ClassVar[str] = "max_pool"

    def reference(self, inputs: Sequence[Array], parameters: Mapping[str, Array]) -> Array:
        import numpy as np

        (images,) = inputs
        windows = sliding_windows(images, self.axes(images.shape[1:]), fill=-np.inf)
        # Tap by tap: numpy is slow at many maxima of few numbers each.
        maximum = np.full(windows.shape[:-2], -np.inf)
        for i, j in np.ndindex(windows.shape[-2:]):
            np.maximum(maximum, windows[..., i, j], out=maximum)
        return maximum


@final
class AvgPool(_WindowPool):
    """The average of each window: its sum over the number of its pixels that count.

    With count_include_pad these are the pixels in the image and its padding, without it those in
    the image. What hangs over the edge in ceil mode never counts.
    """

    kind: ClassVar[str] = "avg_pool"

    count_include_pad: bool = Field(
        True,
        description="Whether pixels of the padding count in the divisor (their value is zero).",
        examples=[False],
    )

    def reference(self, inputs: Sequence[Array], parameters: Mapping[str, Array]) -> Array:
        (images,) = inputs
        axes = self.axes(images.shape[1:])
        sums = sliding_windows(images, axes, fill=0.0).sum(axis=(-2, -1))
        average: Array = sums / self.divisors(images.shape[1:])
        return average

    def divisors(self, shape: Shape) -> Array:
        """The number of pixels that count in each window: (windows down, windows across)."""
        import numpy as np

        counts = []
        for axis in self.axes(shape):
            first, last = axis.before, axis.before + axis.size
            if self.count_include_pad:
                first, last = 0, axis.padded
            starts = np.arange(axis.count) * axis.stride
            inside = np.minimum(starts + axis.kernel, last) - np.maximum(starts, first)
            counts.append(inside.astype(np.float64))
        return np.outer(*counts)


@final
class AdaptiveAvgPool(Op):
    """The average of each of output_size bins that cover the image.

    Bin i of n over h rows is [⌊i·h / n⌋, ⌈(i + 1)·h / n⌉): bins share pixels where n does not
    divide h.
    """

    kind: ClassVar[str] = "adaptive_avg_pool"

    output_size: Pair = Field(
        description="Size of the output in pixels: one number, or [rows, columns].",
        examples=[6, [6, 1]],
    )

    def output_shape(self, *inputs: Shape) -> Shape:
        (shape,) = inputs
        channels, _, _ = require_image(self.kind, shape)
        return require_size("the output", (channels, *self.output_size), field="output_size")

    def bins(self, shape: Shape) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """The half-open ranges of rows and of columns that the bins cover."""
        rows, columns = (
            [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]
            for size, count in zip(shape[1:], self.output_size, strict=True)
        )
        return rows, columns

    def reference(self, inputs: Sequence[Array], parameters: Mapping[str, Array]) -> Array:
        import numpy as np

        (images,) = inputs
        rows, columns = self.bins(images.shape[1:])
        # A bin is a rectangle: its average is that, over its columns, of the averages of its rows.
        bands = np.stack([images[:, :, a:b].mean(axis=2) for a, b in rows], axis=2)
        return np.stack([bands[:, :, :, a:b].mean(axis=3) for a, b in columns], axis=3)
