"""What training and testing need of a set of labelled images, and the two ways it can be held.

Images are uint8 (n, height, width, channels), channels in the order R, G, B: as they were stored,
before any augmentation or normalisation, which run batch-wise on the device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]
Indices = NDArray[np.int64]

DAMAGED = -1  # the label of an image that could not be read: it counts for nothing


@dataclass(frozen=True, slots=True)
class ImageForm:
    """What the net wants of stored images: planes, size, and how many classes there may be.

    `size` is [height, width] that photographs are stored in (the shorter side to it, then the
    centre). Sets of a fixed size ignore it: they are enlarged batch-wise, where that costs less.
    `labels` are the names of the classes in the order of the net's outputs, where the spec has any.
    """

    channels: int
    size: tuple[int, int]
    classes: int
    labels: tuple[str, ...] | None = None


class Dataset(ABC):
    """Labelled images by number, 0 … count − 1. Reading one twice gives the same pixels."""

    in_memory: bool = False
    damaged: tuple[str, ...] = ()  # why images were left out when the set was opened

    def __init__(self, name: str, labels: Labels, classes: tuple[str, ...] | None) -> None:
        self.name = name
        self.labels = labels
        self.classes = classes

    def __len__(self) -> int:
        return len(self.labels)

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of every image."""

    @abstractmethod
    def read(self, indices: Indices) -> tuple[Images, Labels]:
        """Images (n, height, width, channels) and labels; DAMAGED where one can't be read."""

    def __getitems__(self, indices: Sequence[int]) -> tuple[Images, Labels]:
        """What torch's DataLoader calls in its worker processes, once a batch."""
        return self.read(np.asarray(indices, np.int64))


class ArrayDataset(Dataset):
    """All images decoded, in memory."""

    in_memory = True

    def __init__(
        self, name: str, images: Images, labels: Labels, classes: tuple[str, ...] | None = None
    ) -> None:
        super().__init__(name, labels, classes)
        self.images = images

    @property
    def shape(self) -> tuple[int, int, int]:
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    def read(self, indices: Indices) -> tuple[Images, Labels]:
        return self.images[indices], self.labels[indices]


def with_channels(images: Images, channels: int) -> Images:
    """Images (n, h, w, 1 or 3) with the planes that the net takes: grey repeated, or ITU-R 601."""
    have = images.shape[-1]
    if have == channels:
        return images
    if have == 1:
        return np.repeat(images, channels, axis=-1)
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    grey = np.empty((*images.shape[:-1], 1), np.uint8)
    for first in range(0, len(images), 1024):
        part = images[first : first + 1024].astype(np.float32) @ weights
        grey[first : first + 1024, ..., 0] = np.rint(part).astype(np.uint8)
    return grey
