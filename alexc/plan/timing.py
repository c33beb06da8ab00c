"""What a row says of its times, and when one row is faster than another.

Contestants run in turns, round after round. What disturbs the machine for a while disturbs a whole
round, so that two contestants are compared by the ratio of their medians within each round; and the
interval of the median ratio says whether there is a difference at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from statistics import median
from typing import Literal

import numpy as np

# The least chance that the interval of a comparison holds the true median ratio.
CONFIDENCE = 0.95
# With fewer no interval is that sure: 1 − 2 · 2^−5 = 0.94.
_FEWEST_ROUNDS = 6

Verdict = Literal["faster", "slower", "tie"]


@dataclass(frozen=True)
class Times:
    """Milliseconds of one contestant for one batch size: each run, round by round."""

    rounds: tuple[tuple[float, ...], ...]

    @property
    def runs(self) -> list[float]:
        return [taken for each in self.rounds for taken in each]

    @property
    def p50(self) -> float:
        return median(self.runs)

    @property
    def p99(self) -> float:
        return float(np.percentile(self.runs, 99))

    @property
    def quartiles(self) -> tuple[float, float]:
        """Between them lies the middle half of all runs."""
        low, high = np.percentile(self.runs, [25, 75])
        return float(low), float(high)

    @property
    def medians(self) -> list[float]:
        """One for each round."""
        return [median(each) for each in self.rounds]


@dataclass(frozen=True)
class Comparison:
    """How many times as fast one is as another: the median over rounds, and its interval."""

    ratio: float
    low: float
    high: float
    rounds: int

    @property
    def verdict(self) -> Verdict:
        """A tie if the interval holds 1, or comes of too few rounds to say anything."""
        if self.rounds < _FEWEST_ROUNDS:
            return "tie"
        if self.low > 1:
            return "faster"
        return "slower" if self.high < 1 else "tie"


def compare(one: Sequence[float], other: Sequence[float]) -> Comparison:
    """From the medians of each round, in their order."""
    ratios = sorted(b / a for a, b in zip(one, other, strict=True))
    low, high = median_interval(len(ratios))
    return Comparison(median(ratios), ratios[low], ratios[high], len(ratios))


def median_interval(count: int) -> tuple[int, int]:
    """The indices between which, of so many sorted samples, the true median lies with CONFIDENCE.

    Each sample is as likely above the median as below, so how many are below is a number of heads
    in `count` tosses. Of fewer than six samples it is all of them, and not that sure.
    """
    outside, low = 0.0, 0
    for heads in range(count // 2):
        outside += 2 * comb(count, heads) / 2**count
        if outside > 1 - CONFIDENCE:
            break
        low = heads
    return low, count - 1 - low
