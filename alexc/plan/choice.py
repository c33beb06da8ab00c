"""From what was measured to what is chosen, and why everything else lost.

These are functions of the measurements alone: the same give the same plan. Of two that can't be
told apart the more exact one is chosen, then the one that runs more batches, since each that is
chosen holds the weights for itself, then the one that stands first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import sqrt
from statistics import median

from alexc.plan.budget import Budget, Error
from alexc.plan.timing import Times, compare
from alexc.plan.variant import Variant
from alexc_runtime.manifest import BatchRange

# What is slower than this in every round is slower outside the noise of a short race.
_CLEARLY = 1.03
_FEWEST_ROUNDS = 2
# What takes more than this share of another's time in every round is no faster in a short race.
_FASTER = 0.98
# So many stay beside the fastest few of a short race, if it can't tell them from the last of those:
# each of AlexNet takes half a gigabyte and two seconds of the next race.
_MOST_TIES = 1
# A tie gives away this much at most, by the median of its rounds.
_MOST_GIVEN_AWAY = 0.02


@dataclass
class Tried:
    """What a search knows of one variant.

    `fault` is why it could not be run or measured on. `dropped` is why the search went on without
    it. `verified` is None before the cross-check, then its verdict; `rejection` is why it is false.
    `short` and `final` are times by batch: of the last short race, and of the race of the best.
    """

    variant: Variant
    error: Error | None = None
    fault: str | None = None
    dropped: str | None = None
    verified: bool | None = None
    rejection: str | None = None
    top1: float | None = None
    top5: float | None = None
    short: dict[int, Times] = field(default_factory=dict)
    final: dict[int, Times] = field(default_factory=dict)

    def usable(self, budget: Budget) -> bool:
        """Whether it may be chosen, as far as its numbers go."""
        return (
            self.fault is None
            and self.verified is True
            and self.error is not None
            and budget.excess(self.error) is None
        )


def racing(tried: Sequence[Tried], batch: int) -> list[Tried]:
    """Those that have times of a short race for a batch and are still in, the fastest first.

    What disturbs a race for a while falls on a whole round. So each is ranked by the median, over
    the rounds, of how many times as long it took as the middle one of that round.
    """
    here = [each for each in tried if each.fault is None and batch in each.short]
    rounds = zip(*(each.short[batch].medians for each in here), strict=False)
    middle = [median(taken) for taken in rounds]

    def pace(each: Tried) -> float:
        medians = each.short[batch].medians
        return float(median(a / b for a, b in zip(medians, middle, strict=False)))

    return sorted(here, key=lambda each: (pace(each), tried.index(each)))


def first(ranked: Sequence[Tried], batch: int, most: int) -> list[Tried]:
    """Of those that `racing` has ranked the fastest, at most so many; and up to _MOST_TIES more
    that the race can't tell from the last of them."""
    kept, others = list(ranked[:most]), ranked[most:]
    level = [each for each in others if not _slower_each_time(each, kept[-1], batch, 1.0)]
    return [*kept, *level[:_MOST_TIES]]


def leaders(tried: Sequence[Tried], batches: Sequence[int], most: int) -> list[Tried]:
    """At each batch the `first` so many of a short race that are not clearly slower than the best.

    One that was in no round faster than another that stands before it would lose to that in a tie,
    and is left out as well. In the order of `tried`; those left out are marked as dropped, and say
    why.
    """
    kept: set[int] = set()
    for batch in batches:
        here = racing(tried, batch)
        close = [each for each in here if not _slower_each_time(each, here[0], batch, _CLEARLY)]
        worth: list[Tried] = []
        for each in sorted(close, key=tried.index):
            if not any(_slower_each_time(each, other, batch, _FASTER) for other in worth):
                worth.append(each)
        in_rank = [each for each in close if any(each is one for one in worth)]
        kept |= {id(each) for each in first(in_rank, batch, most)}
    for each in tried:
        if each.fault is None and id(each) not in kept:
            each.dropped = each.dropped or _behind(each, tried, batches)
    return [each for each in tried if id(each) in kept]


def _slower_each_time(one: Tried, other: Tried, batch: int, times: float) -> bool:
    """Whether one took more than so many times as long as the other in every round of a short race.

    Of two that are alike, one does so in all of six rounds once in 64 races.
    """
    ratios = _ratios(one.short[batch], other.short[batch])
    return one is not other and len(ratios) >= _FEWEST_ROUNDS and min(ratios) > times


def _ratio(one: Tried, other: Tried, batch: int) -> float:
    """How many times as long one took as the other, the median over rounds."""
    return median(_ratios(one.short[batch], other.short[batch]))


def _ratios(one: Times, best: Times) -> list[float]:
    """How many times as long one took as the other, round by round."""
    return [a / b for a, b in zip(one.medians, best.medians, strict=False)]


def _behind(one: Tried, tried: Sequence[Tried], batches: Sequence[int]) -> str:
    """In words, how much slower it was than the fastest of a short race."""
    parts = []
    for batch in batches:
        if batch in one.short:
            best = racing(tried, batch)[0]
            if best is not one:
                ratio = _ratio(one, best, batch)
                parts.append(f"{ratio:.2f} × the time of {best.variant.label} at batch {batch}")
    return "in a short race " + "; ".join(parts) if parts else "not raced"


def choose(tried: Sequence[Tried], budget: Budget, batches: Sequence[int]) -> dict[int, Tried]:
    """The way that each batch is to be run, of those that may be chosen and were in the last race.

    A batch at which there is none is left out.
    """
    alike: dict[int, list[Tried]] = {}
    for batch in batches:
        here = [each for each in tried if each.usable(budget) and batch in each.final]
        if here:
            best = min(here, key=lambda each: (each.final[batch].p50, tried.index(each)))
            level = [each for each in here if tied(each, best, batch)]
            most_exact = min(map(_inexactness, level))
            alike[batch] = [each for each in level if _inexactness(each) == most_exact]
    return _fewest(alike, tried)


def _fewest(alike: Mapping[int, Sequence[Tried]], tried: Sequence[Tried]) -> dict[int, Tried]:
    """Of each batch's one, and few different ones: again and again the one of the most batches that
    are left, of several the first."""
    chosen: dict[int, Tried] = {}

    def batches_of(one: Tried) -> list[int]:
        left = (batch for batch in alike if batch not in chosen)
        return [batch for batch in left if any(each is one for each in alike[batch])]

    while len(chosen) < len(alike):
        best = max(tried, key=lambda each: len(batches_of(each)))
        chosen |= dict.fromkeys(batches_of(best), best)
    return {batch: chosen[batch] for batch in alike}


def tied(one: Tried, best: Tried, batch: int) -> bool:
    """Whether the two can't be told apart at a batch, or are the same."""
    if one is best:
        return True
    compared = compare(one.final[batch].medians, best.final[batch].medians)
    return compared.verdict == "tie" and compared.ratio >= 1 - _MOST_GIVEN_AWAY


def _inexactness(each: Tried) -> float:
    """Exact ones are all alike: what is left of them is rounding."""
    assert each.error is not None
    return 0.0 if each.error.exact else each.error.rel_l2


def ranges(batches: Sequence[int]) -> list[tuple[int, int | None]]:
    """The sizes that each measured batch stands for: those nearest to it in proportion.

    The first goes down to one image, the last has no end.
    """
    ordered = sorted(batches)
    found: list[tuple[int, int | None]] = []
    start = 1
    for batch, following in pairwise(ordered):
        last = max(int(sqrt(batch * following)), start)
        found.append((start, last))
        start = last + 1
    return [*found, (start, None)]


def sizes(batch: BatchRange) -> tuple[int, ...]:
    """The batch sizes that are measured: the smallest, the usual and the largest, each once."""
    return tuple(sorted({batch.min, batch.opt, batch.max}))


def verdict(one: Tried, tried: Sequence[Tried], chosen: Mapping[int, Tried], budget: Budget) -> str:
    """In words, why it was chosen, or why it lost."""
    won = [batch for batch, winner in chosen.items() if winner is one]
    if won:
        return "chosen at batch " + ", ".join(map(str, won))
    if one.fault is not None:
        return one.fault
    if one.error is not None and (excess := budget.excess(one.error)) is not None:
        return f"over the budget: {excess}"
    if one.verified is False:
        return f"not verified: {one.rejection}"
    parts = []
    for batch, winner in chosen.items():
        if batch in one.final:
            runs_more = sum(other is winner for other in chosen.values()) > 1
            parts.append(_lost(one, winner, tried, batch, runs_more))
    if parts:
        return "; ".join(parts)
    return one.dropped or "not raced to the end"


def _lost(one: Tried, winner: Tried, tried: Sequence[Tried], batch: int, runs_more: bool) -> str:
    reason = None
    if tied(one, winner, batch):
        if _inexactness(winner) < _inexactness(one):
            reason = "is more exact"
        elif tried.index(winner) < tried.index(one):
            reason = "stands first"
        elif runs_more:
            reason = "runs other batches, too"
    if reason is not None:
        return f"tied with {winner.variant.label} at batch {batch}, which {reason}"
    compared = compare(one.final[batch].medians, winner.final[batch].medians)
    return (
        f"{1 / compared.ratio:.2f} × the time of {winner.variant.label} at batch {batch} "
        f"({1 / compared.high:.2f}–{1 / compared.low:.2f})"
    )
