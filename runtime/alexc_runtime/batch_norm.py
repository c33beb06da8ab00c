"""Batch normalisation where nothing is trained any more: of each channel one factor, one summand.

    (x + before − mean) / √(variance + eps) · γ + β  =  x · scale + shift
    scale = γ / √(variance + eps),  shift = before · scale + (β − mean · scale)

`before` is the bias of the layer that x comes from, where that is left to the batch norm to add.
What computes with these two alone, as a folded layer or a plan does, takes them from here.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Number = TypeVar("Number", np.float32, np.float64)


def scale_and_shift(
    mean: NDArray[Number],
    variance: NDArray[Number],
    eps: float,
    weight: NDArray[Number] | None = None,
    bias: NDArray[Number] | None = None,
    before: NDArray[Number] | None = None,
) -> tuple[NDArray[Number], NDArray[Number]]:
    """Both, of shape (channels,), computed in the arrays' own type, rounded at each step.

    Without a weight γ is 1, without a bias β is 0. A variance below −eps gives NaN.
    """
    ones, zeros = np.ones_like(variance), np.zeros_like(mean)
    with np.errstate(all="ignore"):  # what training has left there is not judged here
        root = np.sqrt(variance + variance.dtype.type(eps))
        scale = (ones if weight is None else weight) / root
        shift = (zeros if bias is None else bias) - mean * scale
        if before is not None:
            shift = before * scale + shift
    return scale, shift
