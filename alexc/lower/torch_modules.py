"""The modules that a net needs and PyTorch does not have."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from alexc.ops.base import Shape
from alexc.ops.conv import Conv
from alexc.ops.norm import Lrn
from alexc.ops.pool import AvgPool
from alexc.ops.window import Axis

# Parameters are made without values, which `to_torch` brings: drawing them would be wasted time.
UNSET = torch.device("meta")


class PaddedConv2d(nn.Conv2d):
    """A convolution whose padding differs between opposite sides."""

    def __init__(self, channels: int, op: Conv) -> None:
        super().__init__(
            channels,
            op.out_channels,
            op.kernel_size,
            op.stride,
            dilation=op.dilation,
            groups=op.groups,
            bias=op.bias,
            device=UNSET,
        )
        p = op.padding
        self.sides = p.left, p.right, p.top, p.bottom

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(functional.pad(images, self.sides))


class DividedAvgPool2d(nn.Module):
    """An average whose divisor differs from window to window: the sum, and then the division."""

    divisors: Tensor

    def __init__(self, op: AvgPool, shape: Shape) -> None:
        super().__init__()
        self.kernel_size, self.stride = op.kernel_size, op.steps
        self.sides = sides(op.axes(shape))
        divisors = torch.tensor(op.divisors(shape), dtype=torch.float32)
        self.register_buffer("divisors", divisors, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        padded = functional.pad(images, self.sides)
        sums = functional.avg_pool2d(padded, self.kernel_size, self.stride, divisor_override=1)
        return sums / self.divisors


class ResponseNorm(nn.Module):
    """Local response normalisation: a / (k + A · Σ a²)^beta.

    PyTorch's own goes through a three-dimensional pool, which takes more than twice as long, has no
    bfloat16 on the CPU, and overflows in float16 where a² passes 65504. Here the squares of narrow
    types are summed in float32.
    """

    def __init__(self, op: Lrn) -> None:
        super().__init__()
        self.size, self.region = op.size, op.region
        self.alpha, self.beta, self.k = op.alpha_per_element, op.beta, op.k

    def forward(self, images: Tensor) -> Tensor:
        a = images.float() if images.dtype in (torch.float16, torch.bfloat16) else images
        across = self.region == "across_channels"
        sums = self._over_channels(a * a) if across else self._over_pixels(a * a)
        return (a / (self.k + self.alpha * sums) ** self.beta).to(images.dtype)

    def _over_channels(self, squares: Tensor) -> Tensor:
        """The sum over the channels around each: the image laid over itself, a channel further."""
        channels = squares.shape[1]
        reach = min(self.size // 2, channels)
        padded = functional.pad(squares, (0, 0, 0, 0, reach, reach))
        sums = padded[:, :channels]
        for first in range(1, 2 * reach + 1):
            sums = sums + padded[:, first : first + channels]
        return sums

    def _over_pixels(self, squares: Tensor) -> Tensor:
        """The sum over size×size pixels around each."""
        return functional.avg_pool2d(squares, self.size, 1, self.size // 2, divisor_override=1)

    def extra_repr(self) -> str:
        return f"{self.size}, {self.region}, A={self.alpha}, beta={self.beta}, k={self.k}"


class Sum(nn.Module):
    """The sum of its inputs."""

    def forward(self, *tensors: Tensor) -> Tensor:
        total = tensors[0]
        for tensor in tensors[1:]:
            total = total + tensor
        return total


class ConcatChannels(nn.Module):
    """Its inputs' channels, one input after the other."""

    def forward(self, *tensors: Tensor) -> Tensor:
        return torch.cat(tensors, dim=1)


def sides(axes: tuple[Axis, Axis]) -> tuple[int, int, int, int]:
    """Padding as PyTorch lists it: left, right, top, bottom, with what hangs over in ceil mode."""
    rows, columns = axes
    return (
        columns.before,
        columns.after + columns.overhang,
        rows.before,
        rows.after + rows.overhang,
    )
