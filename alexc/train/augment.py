"""From stored pixels to the net's input, a batch at a time, on the device, straight from uint8.

    enlarge   to `resize`, where the stored images are smaller (28 → 224)
    crop      anywhere in the image with `padding` around it; flip, every second image
    pixels    x = (pixel · scale − mean) / std, and PCA noise, as one product and one sum
    erase     a square set to 0

What is drawn depends on seed and step alone and is drawn for the whole batch, of which each worker
takes its part: the number of workers and a restart change nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from alexc.diagnostics import fault
from alexc.graph.graph import Graph
from alexc.ops.base import format_shape
from alexc.spec.model import Preprocess
from alexc.spec.recipe import AugmentSpec
from alexc.train.data.order import chance

Shape = tuple[int, int, int]

# Rows and columns of the ten views: corners and centre, as shares of the room there is.
_CORNERS = ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (0.5, 0.5))


@dataclass(frozen=True, slots=True)
class Draw:
    """What chance says for every image of a batch; all of length n but `noise` (n, 3)."""

    row: Tensor  # a share of the room, in [0, 1)
    column: Tensor
    mirrored: Tensor
    erased_row: Tensor
    erased_column: Tensor
    noise: Tensor  # standard normal

    @staticmethod
    def of(seed: int, step: int, count: int) -> Draw:
        """Drawn on the CPU, so that every device sees the same."""
        generator = torch.Generator()
        generator.manual_seed(chance(seed, "augment", step))
        uniform = torch.rand(5, count, generator=generator, dtype=torch.float64)
        noise = torch.randn(count, 3, generator=generator, dtype=torch.float64)
        row, column, mirrored, erased_row, erased_column = uniform
        return Draw(row, column, mirrored < 0.5, erased_row, erased_column, noise)

    def part(self, which: slice) -> Draw:
        return Draw(
            self.row[which],
            self.column[which],
            self.mirrored[which],
            self.erased_row[which],
            self.erased_column[which],
            self.noise[which],
        )


class Pixels:
    """uint8 (n, height, width, channels) → the net's input (n, channels, height, width).

    `shape` is that of the stored images. With the `dtype` uint8 pixels stay as they are, for a
    model that normalises by itself. Raises AlexcError if the net's input can't be cut out of them,
    or noise of three colours is asked for where there is one.
    """

    def __init__(
        self,
        graph: Graph,
        preprocess: Preprocess | None,
        augment: AugmentSpec,
        shape: Shape,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> None:
        channels, self.height, self.width = graph.input_shape
        self.augment = augment
        self.dtype = dtype
        self.device = device or torch.device("cpu")
        self.resized = _enlarged(shape[:2], preprocess)
        room = self.resized or shape[:2]
        if room[0] < self.height or room[1] < self.width or shape[2] != channels:
            raise fault(
                "data/size",
                f"the images are {format_shape((shape[2], *room))}, too small for the input "
                f"{format_shape(graph.input_shape)} of {graph.name}",
                help="`preprocess.resize` in the spec enlarges them",
            )
        self.reversed = preprocess is not None and preprocess.channels == "bgr"
        exact = torch.float32 if dtype == torch.uint8 else dtype
        self.factor, self.offset = _affine(preprocess, channels, exact, self.device)
        self.colours = None
        if augment.noise is not None:
            if channels != 3:
                raise fault(
                    "recipe/noise",
                    f"PCA noise is for three colours, and {graph.name} takes {channels}",
                    help="train.augment.noise: null",
                )
            values = torch.tensor(augment.noise.eigenvalues, dtype=torch.float64)
            vectors = torch.tensor(augment.noise.eigenvectors, dtype=torch.float64)
            # Rows α·λ times the matrix of rows p give Σ αᵢ·λᵢ·pᵢ, in units of [0, 1].
            self.colours = augment.noise.std * values[:, None] * vectors

    def for_training(self, images: Tensor, draw: Draw) -> Tensor:
        """The batch as it is learnt from."""
        images = self._placed(images)
        chosen = self.augment
        if chosen.padding:
            images = _padded(images, chosen.padding, chosen.border)
        room_y, room_x = images.shape[1] - self.height, images.shape[2] - self.width
        top = (draw.row * (room_y + 1)).long()
        left = (draw.column * (room_x + 1)).long()
        mirrored = draw.mirrored if chosen.flip else torch.zeros_like(draw.mirrored)
        if room_y or room_x or chosen.flip:
            images = cut(images, top, left, mirrored, self.height, self.width)
        inputs = self._scaled(images, draw.noise)
        if chosen.erase:
            _erase(inputs, chosen.erase, draw)
        return inputs

    def for_testing(self, images: Tensor, views: int = 1) -> Tensor:
        """The centre of each image, or its ten views, one after the other: (n·views, c, h, w)."""
        images = self._placed(images)
        count = len(images)
        room_y, room_x = images.shape[1] - self.height, images.shape[2] - self.width
        if views == 1 and not room_y and not room_x:
            return self._scaled(images)
        corners = _CORNERS if views == 10 else _CORNERS[-1:]
        cuts = []
        for down, right in corners:
            # The centre is rounded as Pillow and the runtime round it, to even.
            top, left = round(down * room_y), round(right * room_x)
            view = images[:, top : top + self.height, left : left + self.width]
            cuts += [view, view.flip(2)] if views == 10 else [view]
        stacked = torch.stack(cuts, dim=1)
        return self._scaled(stacked.reshape(count * len(cuts), *stacked.shape[2:]))

    def _placed(self, images: Tensor) -> Tensor:
        images = images.to(self.device, non_blocking=True)
        if self.resized is None:
            return images
        planes = images.permute(0, 3, 1, 2).float()
        large = functional.interpolate(
            planes, self.resized, mode="bilinear", align_corners=False, antialias=True
        )
        return large.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1)

    def _scaled(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """(n, h, w, c) as (n, c, h, w) in memory order channels last."""
        if self.dtype == torch.uint8:
            return (images.flip(3) if self.reversed else images).permute(0, 3, 1, 2)
        offset = self.offset.expand(len(images), 1, 1, -1)
        if noise is not None and self.colours is not None:
            # Noise is in units of [0, 1] RGB: a shift of 255 · noise in stored pixels.
            shift = (255.0 * noise @ self.colours).to(self.device, self.dtype)
            shift = (shift.flip(1) if self.reversed else shift) * self.factor
            offset = offset + shift[:, None, None, :]
        if self.reversed:
            images = images.flip(3)
        inputs = images.to(self.dtype).mul_(self.factor).add_(offset)
        return inputs.permute(0, 3, 1, 2)


def cut(
    images: Tensor, top: Tensor, left: Tensor, mirrored: Tensor, height: int, width: int
) -> Tensor:
    """From each image (n, H, W, c) the window at (top, left), mirrored or not: (n, h, w, c)."""
    device = images.device
    rows = top[:, None] + torch.arange(height)
    columns = torch.arange(width).expand(len(top), -1)
    columns = left[:, None] + torch.where(mirrored[:, None], width - 1 - columns, columns)
    if device.type == "cpu" and height * width > 64 * 64:
        # Rows of a large image are copied whole, which an index for every pixel is not.
        out = images.new_empty((len(images), height, width, images.shape[3]))
        places = zip(top.tolist(), left.tolist(), mirrored.tolist(), strict=True)
        for image, target, (y, x, turned) in zip(images, out, places, strict=True):
            window = image[y : y + height, x : x + width]
            target.copy_(window.flip(1) if turned else window)
        return out
    number = torch.arange(len(images), device=device)[:, None, None]
    return images[number, rows.to(device)[:, :, None], columns.to(device)[:, None, :]]


def _padded(images: Tensor, padding: int, border: str) -> Tensor:
    sides = (padding, padding, padding, padding)
    if border == "zero":
        return functional.pad(images, (0, 0, *sides))
    if padding >= min(images.shape[1:3]):
        raise fault(
            "recipe/padding",
            f"an image of {images.shape[1]}×{images.shape[2]} can't be mirrored {padding} pixels "
            "beyond its edge",
        )
    rows = _mirror(images.shape[1], padding, images.device)
    columns = _mirror(images.shape[2], padding, images.device)
    return images[:, rows[:, None], columns]


def _mirror(size: int, padding: int, device: torch.device) -> Tensor:
    """… 2 1 | 0 1 2 … n−1 | n−2 … : the edge itself is not repeated."""
    place = torch.arange(-padding, size + padding, device=device).abs()
    return torch.where(place >= size, 2 * (size - 1) - place, place)


def _erase(inputs: Tensor, side: int, draw: Draw) -> None:
    """Set a square around a point of each input to 0, which is the mean where one is subtracted."""
    height, width = inputs.shape[2:]
    device = inputs.device
    y = (draw.erased_row * height).long().to(device)[:, None]
    x = (draw.erased_column * width).long().to(device)[:, None]
    down = torch.arange(height, device=device) - y + side // 2
    right = torch.arange(width, device=device) - x + side // 2
    inside = ((down >= 0) & (down < side))[:, :, None] & ((right >= 0) & (right < side))[:, None]
    inputs.masked_fill_(inside[:, None], 0.0)


def _affine(
    preprocess: Preprocess | None, channels: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """(x·scale − mean) / std as x·factor + offset, a value for each channel of the input."""
    scale, mean, std = 1.0, (0.0,) * channels, (1.0,) * channels
    if preprocess is not None:
        scale = preprocess.scale
        mean = preprocess.mean or mean
        std = preprocess.std or std
    deviation = torch.tensor(std, dtype=torch.float64)
    factor = scale / deviation
    offset = -torch.tensor(mean, dtype=torch.float64) / deviation
    return factor.to(device, dtype), offset.to(device, dtype)


def _enlarged(stored: tuple[int, int], preprocess: Preprocess | None) -> tuple[int, int] | None:
    """The size that stored images are brought to, the shorter side to `resize`; None if as is."""
    resize = preprocess.resize if preprocess is not None else None
    if resize is None or resize <= min(stored):
        return None
    height, width = stored
    if height <= width:
        return resize, int(resize * width / height)
    return int(resize * height / width), resize
