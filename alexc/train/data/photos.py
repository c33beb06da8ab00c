"""Sets of encoded photographs: decoded once into memory where that has room, else batch by batch.

Which files there are, with which labels, is known when the set is opened. A photo that turns out to
be damaged later is a black image with the label DAMAGED, so that it counts for nothing, and the
others keep their places in the order.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from alexc.diagnostics import fault
from alexc.train.data.dataset import (
    DAMAGED,
    ArrayDataset,
    Dataset,
    ImageForm,
    Images,
    Indices,
    Labels,
)
from alexc.train.data.photo import UnreadablePhotoError
from alexc_runtime.cores import affinity

_SHARE_OF_MEMORY = 0.25  # of what is free, that decoded images may take
_SHOWN = 5


class PhotoDataset(Dataset):
    """Photographs that are decoded when they are read. Decoding is done by threads."""

    def __init__(
        self, name: str, labels: Labels, classes: tuple[str, ...] | None, form: ImageForm
    ) -> None:
        super().__init__(name, labels, classes)
        self.form = form
        self.threads = len(affinity())

    @property
    def shape(self) -> tuple[int, int, int]:
        return (*self.form.size, self.form.channels)

    @abstractmethod
    def decode(self, index: int) -> Images:
        """One image, (height, width, channels). Raises UnreadablePhotoError."""

    def read(self, indices: Indices) -> tuple[Images, Labels]:
        images, labels, _ = self.decoded(indices)
        return images, labels

    def decoded(self, indices: Indices) -> tuple[Images, Labels, list[str]]:
        """As `read`, and why those can't be read that can't."""
        images = np.zeros((len(indices), *self.shape), np.uint8)
        labels = self.labels[indices]
        reasons: list[str] = []

        def fill(place: int) -> None:
            try:
                images[place] = self.decode(int(indices[place]))
            except UnreadablePhotoError as error:
                labels[place] = DAMAGED
                reasons.append(str(error))

        if self.threads == 1:
            for place in range(len(indices)):
                fill(place)
        else:
            with ThreadPoolExecutor(self.threads) as threads:
                list(threads.map(fill, range(len(indices))))
        return images, labels, sorted(reasons)


def held(data: PhotoDataset) -> Dataset:
    """The same set decoded in memory, without the damaged ones, or as it is if it is too large.

    Raises AlexcError if every photo is damaged.
    """
    if len(data) * int(np.prod(data.shape)) > _SHARE_OF_MEMORY * _free_memory():
        return data
    images, labels, reasons = data.decoded(np.arange(len(data)))
    known = labels >= 0
    if not known.any() and len(data):
        raise fault("data/damaged", f"no photo of {data.name} can be read; the first: {reasons[0]}")
    kept = ArrayDataset(data.name, images[known], labels[known], data.classes)
    kept.damaged = tuple(reasons)
    return kept


def told(reasons: Sequence[str]) -> str:
    """The damaged ones in a sentence: how many, and the first few."""
    first = "; ".join(reasons[:_SHOWN])
    more = f"; and {len(reasons) - _SHOWN:,} more" if len(reasons) > _SHOWN else ""
    return f"{len(reasons):,} damaged images are left out: {first}{more}"


def _free_memory() -> int:
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 2**31
