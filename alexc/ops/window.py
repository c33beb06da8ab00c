"""Windows that slide over an image: how many fit along an axis, and the view that shows them all.

Convolution and pooling share this arithmetic, and the lowerings read the overhang from it, so that
no backend's own rounding mode is ever asked.
"""

from __future__ import annotations

from dataclasses import dataclass

from alexc.ops.base import Array, Padding, Shape, ShapeFault, require_size


@dataclass(frozen=True, slots=True)
class Axis:
    """The rows or the columns of an image, and the windows that slide along them.

    `size` pixels lie between `before` and `after` pixels of padding. A window has `kernel` taps,
    `dilation` pixels apart; windows start `stride` pixels apart, the first at the padding's edge.
    `ceil` keeps a last window that hangs over the edge, unless it starts past the image.
    """

    name: str  # "rows" or "columns"
    size: int
    before: int
    after: int
    kernel: int
    stride: int
    dilation: int = 1
    ceil: bool = False

    def pixels(self, number: int) -> str:
        """`1 row`, `2 columns`: how a message speaks of so many pixels along this axis."""
        return f"{number} {self.name[:-1] if number == 1 else self.name}"

    @property
    def span(self) -> int:
        """Pixels from a window's first tap to its last, both included."""
        return self.dilation * (self.kernel - 1) + 1

    @property
    def padded(self) -> int:
        return self.before + self.size + self.after

    @property
    def count(self) -> int:
        """Windows along the axis: ⌊(padded − span) / stride⌋ + 1, or ⌈…⌉ + 1; below 1 if none fits.

        In ceil mode the last window is dropped if it would start past the image's last pixel, where
        it could see nothing but padding. Caffe and PyTorch do the same.
        """
        room = self.padded - self.span
        if not self.ceil:
            return room // self.stride + 1
        steps = -(-room // self.stride)
        if steps * self.stride >= self.before + self.size:
            steps -= 1
        return steps + 1

    @property
    def arithmetic(self) -> str:
        """How `count` comes about, with its numbers: `⌊(227 − 11) / 4⌋ + 1 = 55`."""
        left, right = "⌈⌉" if self.ceil else "⌊⌋"
        padded = f"{self.size}"
        if self.before or self.after:
            padded = f"{self.before} + {self.size} + {self.after}"
        span = f"{self.span}"
        if self.dilation > 1:
            span = f"({self.dilation}·({self.kernel} − 1) + 1)"
        return f"{left}({padded} − {span}) / {self.stride}{right} + 1 = {self.count}"

    @property
    def reach(self) -> int:
        """Pixels from the first window's start to the last window's end."""
        return (self.count - 1) * self.stride + self.span

    @property
    def overhang(self) -> int:
        """Pixels by which the last window leaves the padded image. Only ceil mode has any."""
        return max(0, self.reach - self.padded)

    @property
    def unread(self) -> int:
        """Pixels at the end of the padded image that no window reads: rounding down drops them."""
        return max(0, self.padded - self.reach)


def image_axes(
    shape: tuple[int, int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: Padding,
    dilation: tuple[int, int] = (1, 1),
    ceil: bool = False,
) -> tuple[Axis, Axis]:
    """Rows and columns of a (channels, height, width) image under these windows.

    Raises ShapeFault if no window fits, or if the padded image could not be held in memory.
    """
    sides = padding.top, padding.left, padding.bottom, padding.right
    top, left, bottom, right = sides
    rows = Axis("rows", shape[1], top, bottom, kernel[0], stride[0], dilation[0], ceil)
    columns = Axis("columns", shape[2], left, right, kernel[1], stride[1], dilation[1], ceil)
    for axis in (rows, columns):
        if axis.count < 1:
            raise _kernel_too_large(axis)
    extent = [max(axis.padded, axis.reach) for axis in (rows, columns)]
    require_size("the padded input", (shape[0], *extent), field="padding")
    return rows, columns


def sliding_windows(array: Array, axes: tuple[Axis, Axis], fill: float) -> Array:
    """Every window of `array` (batch, channels, height, width), padding and overhang being `fill`.

    A view (batch, channels, windows down, windows across, kernel rows, kernel columns).
    """
    import numpy as np
    from numpy.lib.stride_tricks import sliding_window_view

    rows, columns = axes
    sides = [(axis.before, axis.after + axis.overhang) for axis in axes]
    padded = np.pad(array, [(0, 0), (0, 0), *sides], constant_values=fill)
    every = sliding_window_view(padded, (rows.span, columns.span), axis=(2, 3))
    placed = every[:, :, :: rows.stride, :: columns.stride, :: rows.dilation, :: columns.dilation]
    return placed[:, :, : rows.count, : columns.count]


def windowed_shape(channels: int, axes: tuple[Axis, Axis]) -> Shape:
    """(channels, windows down, windows across). Raises ShapeFault if that is absurdly large."""
    return require_size("the output", (channels, axes[0].count, axes[1].count))


def _kernel_too_large(axis: Axis) -> ShapeFault:
    # In ceil mode a window may hang over the edge by up to stride − 1 pixels.
    available = axis.padded + (axis.stride - 1 if axis.ceil else 0)
    largest = (available - 1) // axis.dilation + 1
    return ShapeFault(
        "shape/kernel-too-large",
        f"the kernel spans {axis.pixels(axis.span)} and the padded image has {axis.padded}: "
        f"{axis.arithmetic}",
        field="kernel_size",
        help=f"a kernel_size of at most {axis.pixels(largest)}, "
        f"or {axis.pixels(axis.span - available)} more of padding or of input",
    )
