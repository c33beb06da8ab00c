"""How large an error may be before it is a fault: from rounding errors to tolerances.

For a layer alone the rounding model gives a standard deviation for each element, and the tolerance
is the quantile that no element of the tensor exceeds, but by a chance of FALSE_ALARM. For a tensor
of the whole net the errors of all layers before it have come through the layers between; that is
followed by drawing them: the float64 reference is evaluated a few more times with rounding errors
added to each layer's result, and the tolerance follows from the largest departure.

Nothing here is fitted to a net. docs/verification.md has the derivation and what it was held to.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from alexc.ops.base import Array

# The chance, if the model of rounding holds, that a tensor without a fault is called faulty.
FALSE_ALARM = 1e-9
# The chance that the draws are so much smaller than typical that they give too tight a tolerance.
UNLUCKY_DRAWS = 1e-4

# Draws of the whole net: as many as this many multiply–accumulates pay for, within these limits.
_DRAWN_MACS = 1.2e10
FEWEST_DRAWS, MOST_DRAWS = 6, 32

_NORMAL = NormalDist()


def quantile(elements: int) -> float:
    """The multiple of σ that none of so many normal errors exceeds, but by FALSE_ALARM."""
    return -_NORMAL.inv_cdf(FALSE_ALARM / (2 * max(elements, 1)))


def largest_drawn(elements: int, draws: int) -> float:
    """The multiple of σ that the largest of so many drawn errors reaches, but by UNLUCKY_DRAWS."""
    below = UNLUCKY_DRAWS ** (1 / max(elements * draws, 1))
    return _NORMAL.inv_cdf((1 + below) / 2)


def factor(elements: int, draws: int) -> float:
    """The tolerance over the largest error drawn, for a tensor of so many elements."""
    return quantile(elements) / largest_drawn(elements, draws)


def draws_for(macs: int, images: int) -> int:
    """How many times to draw: often where that is cheap, since few elements need many draws."""
    affordable = _DRAWN_MACS / max(macs * images, 1)
    return int(min(max(affordable, FEWEST_DRAWS), MOST_DRAWS))


def draw(generator: np.random.Generator, sigma: Array, draws: int) -> Array:
    """Rounding errors `(draws, batch, *shape)` of standard deviation `sigma` `(batch, *shape)`.

    Sums of the same numbers round alike: a constant image gives each channel one and the same
    error at every pixel. So every second draw is of errors that agree, in turn over a channel and
    over the whole result, and the others are independent from element to element.
    """
    errors = np.empty((draws, *sigma.shape))
    for index, error in enumerate(errors):
        shape: Sequence[int] = sigma.shape
        if index % 2 == 0:
            error[...] = generator.standard_normal(shape, dtype=np.float32)
        else:
            axes = 2 if index % 4 == 1 else 1
            agreeing = (*shape[:axes], *[1] * (len(shape) - axes))
            error[...] = generator.choice((-1.0, 1.0), agreeing)
        error *= sigma
    return errors


def independent(draws: int) -> int:
    """How many of so many draws are independent from element to element."""
    return math.ceil(draws / 2)
