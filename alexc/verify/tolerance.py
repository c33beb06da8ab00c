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
from statistics import NormalDist

import numpy as np

from alexc.ops.base import Array
from alexc.verify.rounding import Rounding

# The chance, if the model of rounding holds, that a tensor without a fault is called faulty.
FALSE_ALARM = 1e-6
# The chance that the draws are so much smaller than typical that they give too tight a tolerance.
UNLUCKY_DRAWS = 1e-4

# Draws of the whole net: as many as this many multiply–accumulates pay for, within these limits.
_DRAWN_MACS = 1.2e10
FEWEST_DRAWS, MOST_DRAWS = 6, 32

# Departures of one image that the fourth moment is taken of, about.
_LOOKED_AT = 1 << 18

_NORMAL = NormalDist()


def own(local: Rounding, elements: int | None = None) -> Array:
    """The tolerance of each element for a layer's own rounding errors.

    None of so many `elements`, by default those given, exceeds it, but by FALSE_ALARM: of a normal
    error, and of one with the tails of Laplace's distribution, where P(|e| > z·σ) = e^(−√2·z).
    """
    elements = elements or local.sigma.size
    allowed: Array = _normal_quantile(elements) * local.sigma
    if local.wandering is not None:
        allowed += math.log(elements / FALSE_ALARM) / math.sqrt(2) * local.wandering
    return allowed + local.floor


def carried(departures: Array) -> Array:
    """The tolerance for errors that come from earlier layers, for each image.

    `departures` are what drawn errors did to a result: `(draws, images, elements)`, absolute, of
    draws as `draw` makes them. The tolerance is the largest departure times `factor`. The fourth
    moment over the square of the second is 3 for normal errors of one size, which is what those of
    many layers add up to. It is 6 where they have kept Laplace's tails, and 3·n where only one of n
    elements errs at all, so that the largest draw is one of few.
    """
    draws, images, elements = departures.shape
    step = max(1, draws * elements // _LOOKED_AT)
    drawn = independent(draws)
    tolerances = np.zeros(images)
    for image in range(images):
        largest = float(departures[:, image].max(initial=0.0))
        if largest == 0.0:
            continue
        # Every second draw is independent from element to element. Zeros are no errors: they are
        # what a ReLU cuts off.
        squares = (departures[::2, image, ::step] / largest) ** 2
        squares = squares[squares > 0]
        erring = max(1, squares.size * step // drawn)
        moment = 3.0 * erring
        if squares.size:
            moment = float((squares**2).mean() / squares.mean() ** 2)
        tail = min(max((moment - 3) / 3, 0.0), 1.0)
        few = max(1, round(3 * erring / moment))
        multiple = max(factor(erring, drawn, tail), factor(few, drawn))
        tolerances[image] = multiple * largest
    return tolerances


def factor(elements: int, draws: int, tail: float = 0.0) -> float:
    """The tolerance over the largest error drawn, for a tensor of so many elements.

    It is the quantile that none of the elements exceeds, but by FALSE_ALARM, over what the largest
    of all drawn errors reaches, but by UNLUCKY_DRAWS: between that of normal errors (`tail` 0) and
    that of errors with Laplace's tails (`tail` 1).
    """
    log_below = math.log(UNLUCKY_DRAWS) / (elements * draws)  # of the chance to be below, each
    normal = _normal_quantile(elements) / _NORMAL.inv_cdf((1 + math.exp(log_below)) / 2)
    long = math.log(elements / FALSE_ALARM) / -math.log(-math.expm1(log_below))
    return (1 - tail) * normal + tail * long


def _normal_quantile(elements: int) -> float:
    return -_NORMAL.inv_cdf(FALSE_ALARM / (2 * elements))


def draws_for(macs: int, images: int) -> int:
    """How many times to draw: often where that is cheap, since few elements need many draws."""
    affordable = _DRAWN_MACS / max(macs * images, 1)
    return int(min(max(affordable, FEWEST_DRAWS), MOST_DRAWS))


def draw(generator: np.random.Generator, local: Rounding, draws: int) -> Array:
    """Rounding errors of one layer: `(draws, batch, *shape)`.

    Sums of the same numbers round alike: a constant image gives each channel one and the same
    error at every pixel. So every second draw is of errors that agree, in turn over a channel and
    over the whole result, and the others are independent from element to element.
    """
    shape = local.sigma.shape
    wandering = np.zeros(()) if local.wandering is None else local.wandering
    agreeing = np.sqrt(local.sigma**2 + wandering**2)
    errors = np.empty((draws, *shape))
    for index, error in enumerate(errors):
        if index % 2 == 0:
            error[...] = generator.standard_normal(shape, dtype=np.float32)
            error *= local.sigma
            if wandering.ndim:
                # The difference of two exponential numbers has Laplace's distribution.
                tails = generator.standard_exponential(shape, dtype=np.float32)
                tails -= generator.standard_exponential(shape, dtype=np.float32)
                tails *= np.float32(math.sqrt(0.5))
                error += wandering * tails
        else:
            axes = 2 if index % 4 == 1 else 1
            ones = (*shape[:axes], *[1] * (len(shape) - axes))
            np.multiply(agreeing, generator.choice((-1.0, 1.0), ones), out=error)
    return errors


def independent(draws: int) -> int:
    """How many of so many draws are independent from element to element."""
    return math.ceil(draws / 2)
