"""From the magnitudes of a tensor to the largest that its grid represents; the rest saturates.

    max         the largest met: nothing saturates, and one outlier makes all steps coarse
    percentile  99.99 % of what is not zero
    mse         the least squared error of rounding and saturating together
    entropy     the least divergence (Kullback, Leibler) of the rounded distribution from the true
                one; as in Migacz, "8-bit inference with TensorRT", GTC 2017, for any grid

None is best for every net, so all are tried (see `calibration`).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from alexc.calibrate.histogram import BINS, Histogram
from alexc.graph.quantization import LARGEST, QuantizedFormat, on_grid

_PERCENTILE = 0.9999
# Limits that `mse` and `entropy` try: from a 64th of the largest magnitude, in equal ratios.
_TRIED = np.geomspace(1 / 64, 1.0, 97)


def largest(histogram: Histogram, format: QuantizedFormat) -> float:
    """The largest magnitude."""
    del format
    return histogram.largest


def percentile(histogram: Histogram, format: QuantizedFormat) -> float:
    """The magnitude that all but 1 in 10,000 of those that are not zero stay below."""
    del format
    total = np.cumsum(histogram.counts)
    index = int(np.searchsorted(total, _PERCENTILE * total[-1]))
    return min((index + 1) * histogram.width, histogram.largest)


def least_squares(histogram: Histogram, format: QuantizedFormat) -> float:
    """The limit of the least Σ (x − rounded x)²."""
    centres = histogram.centres

    def error(limit: float) -> float:
        rounded = on_grid(centres, limit / LARGEST[format], format)
        return float(histogram.counts @ (centres - rounded) ** 2)

    return min((float(share) * histogram.largest for share in _TRIED), key=error)


def entropy(histogram: Histogram, format: QuantizedFormat) -> float:
    """The limit of the least divergence Σ p·ln(p / q).

    p is the distribution with all that saturates in the last bin below the limit. q has for each
    number of the grid its own share, without what saturates, spread evenly over the bins that are
    rounded to it and that hold anything.
    """
    centres = histogram.centres
    counts = histogram.counts.astype(np.float64)

    def divergence(limit: float) -> float:
        bins = min(max(1, int(np.ceil(limit / histogram.width))), BINS)
        kept = counts[:bins]
        p = kept.copy()
        p[-1] += counts[bins:].sum()
        rounded = on_grid(centres[:bins], limit / LARGEST[format], format)
        _, number = np.unique(rounded, return_inverse=True)
        filled = p > 0
        share = np.bincount(number, kept)
        among = np.maximum(np.bincount(number, filled), 1)
        q = np.where(filled, (share / among)[number], 0.0)
        # A bin that only saturated values fill has no share: as good as infinitely far.
        q = np.maximum(q[filled] / max(q.sum(), 1.0), 1e-12)
        p = p[filled] / p.sum()
        return float(np.sum(p * np.log(p / q)))

    return min((float(share) * histogram.largest for share in _TRIED), key=divergence)


METHODS: dict[str, Callable[[Histogram, QuantizedFormat], float]] = {
    "max": largest,
    "percentile": percentile,
    "mse": least_squares,
    "entropy": entropy,
}


def limit(method: str, histogram: Histogram, format: QuantizedFormat) -> float:
    """The largest magnitude that a tensor's grid is to represent; 0 if all of it is zero."""
    return METHODS[method](histogram, format) if histogram.largest else 0.0
