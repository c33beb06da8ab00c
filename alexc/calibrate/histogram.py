"""How often each magnitude occurs in a tensor, over all images, in one pass."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BINS = 4096


class Histogram:
    """Counts of magnitudes in bins of equal width, which doubles as larger ones are met.

    Zeros are left out: every grid has them, and behind a ReLU they would outweigh all the rest.
    """

    def __init__(self) -> None:
        self.counts = np.zeros(BINS, np.int64)
        self.width = 0.0
        self.largest = 0.0

    def add(self, values: NDArray[np.float32]) -> None:
        """Count the magnitudes of `values`, all of them finite."""
        magnitudes = np.abs(values[values != 0]).astype(np.float64)
        if not magnitudes.size:
            return
        largest = float(magnitudes.max())
        self.largest = max(self.largest, largest)
        if self.width == 0.0:
            # Any power of two will do: it is the same however the images are split up.
            self.width = float(2.0 ** np.ceil(np.log2(largest / BINS)))
        while largest >= self.width * BINS:
            self.counts[: BINS // 2] = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts[BINS // 2 :] = 0
            self.width *= 2
        bins = np.minimum((magnitudes / self.width).astype(np.int64), BINS - 1)
        self.counts += np.bincount(bins, minlength=BINS)

    @property
    def centres(self) -> NDArray[np.float64]:
        """The middle of each bin."""
        return np.asarray((np.arange(BINS) + 0.5) * self.width, np.float64)
