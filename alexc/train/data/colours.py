"""The principal components of a data set's colours, for PCA noise: `alexc data pca`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alexc.diagnostics import fault
from alexc.train.data.dataset import Dataset


@dataclass(frozen=True, slots=True)
class Colours:
    """Mean, deviation and covariance of pixels in [0, 1]; λ the largest first, p as rows."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    eigenvalues: tuple[float, ...]
    eigenvectors: tuple[tuple[float, ...], ...]
    images: int


def components(data: Dataset) -> Colours:
    """From every pixel of every image. Raises AlexcError if none can be read.

    Sums are kept as whole numbers, so that no order of the images changes the result. The sign of a
    vector is chosen so that its largest part is positive.
    """
    channels = data.shape[2]
    total = np.zeros(channels, np.int64)
    products = np.zeros((channels, channels), np.int64)
    images = 0
    for first in range(0, len(data), 64):
        pixels, labels = data.read(np.arange(first, min(first + 64, len(data))))
        flat = pixels[labels >= 0].reshape(-1, channels)
        # 64 images of 4000×4000 pixels are 255²·10⁹ < 2⁵³: exact in float64, where BLAS multiplies.
        wide = flat.astype(np.float64)
        total += wide.sum(axis=0).astype(np.int64)
        products += (wide.T @ wide).astype(np.int64)
        images += int((labels >= 0).sum())
    count = images * data.shape[0] * data.shape[1]
    if not count:
        raise fault("data/empty", f"no image of {data.name} can be read")
    mean = total / count
    covariance = products / count - np.outer(mean, mean)
    values, columns = np.linalg.eigh(covariance / 255**2)
    order = np.argsort(-values)
    vectors = columns.T[order]
    for vector in vectors:
        vector *= np.sign(vector[np.abs(vector).argmax()])
    return Colours(
        mean=tuple((mean / 255).tolist()),
        std=tuple(np.sqrt(np.diag(covariance) / 255**2).tolist()),
        eigenvalues=tuple(np.maximum(values[order], 0).tolist()),
        eigenvectors=tuple(tuple(row) for row in vectors.tolist()),
        images=images,
    )
