"""How far a fast way to run a net may lie from the net itself.

    exact        every output within what rounding in fp32 explains, by derived tolerances
    1e-3         the relative error of the outputs in the Euclidean norm
    top1:99.5%   the share of photographs whose first class is the reference's

Several, with commas between, must all hold: `1e-2,top1:99%`. The reference is the net as trained,
in float64.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from alexc.diagnostics import UsageError, usage_fault

# The fewest photographs of which an agreement means anything.
FEWEST_PHOTOGRAPHS = 16

# What a budget may consist of, and how each is written.
_EXACT, _ERROR, _SHARE = "“exact”", "relative error", "share of photographs"
_KINDS = {
    _EXACT: "exact",
    _ERROR: r"\d*\.?\d+([eE][-+]?\d+)?",
    _SHARE: r"top1:\d+(\.\d+)?%",
}


@dataclass(frozen=True)
class Error:
    """What was measured of a candidate. `agreement` is None without photographs."""

    rel_l2: float
    exact: bool
    agreement: float | None = None


@dataclass(frozen=True)
class Budget:
    """What an error is held to; None asks for nothing. `text` is how the user wrote it."""

    text: str
    exact: bool = False
    rel_l2: float | None = None
    agreement: float | None = None

    def excess(self, error: Error) -> str | None:
        """In words, how the error is over the budget; None if it is within."""
        if self.exact and not error.exact:
            return f"an error of {error.rel_l2:.1e} is more than rounding in fp32 explains"
        if self.rel_l2 is not None and not error.rel_l2 <= self.rel_l2:
            return f"an error of {error.rel_l2:.1e}, where {self.rel_l2:g} is allowed"
        if self.agreement is None:
            return None
        if error.agreement is None:
            return "its agreement with the reference was not measured"
        if error.agreement < self.agreement:
            return (
                f"the reference's first class for {error.agreement:.2%} of the photographs, where "
                f"{self.agreement:.2%} is asked for"
            )
        return None

    def taking(self, error: Error) -> str | None:
        """The least change of this budget that takes an error: what `--budget` would say.

        None if no budget does: an error of 1 or more, or no agreement at all.
        """
        parts = []
        if self.exact or self.rel_l2 is not None:
            if not (error.rel_l2 < 1 and (rounded := _rounded_up(error.rel_l2)) < 1):
                return None
            parts.append(f"{max(rounded, self.rel_l2 or 0.0):g}")
        if self.agreement is not None and error.agreement is not None:
            share = math.floor(min(error.agreement, self.agreement) * 1e4) / 1e2
            if share == 0:
                return None
            parts.append(f"top1:{share:g}%")
        return ",".join(parts)

    @property
    def narrow(self) -> bool:
        """Whether a precision below fp32 can be within it at all."""
        return not self.exact


def parse_budget(text: str) -> Budget:
    """What `--budget` says. Raises UsageError plan/budget."""
    parts = [part.strip() for part in text.split(",")]
    kinds = [_kind(part) for part in parts]
    for kind in _KINDS:
        if kinds.count(kind) > 1:
            alike = " and ".join(
                part for part, own in zip(parts, kinds, strict=True) if own == kind
            )
            raise _fault(f"a budget has one {kind}, and this one has {alike}")
    said = dict(zip(kinds, parts, strict=True))
    rel_l2, agreement = None, None
    if (share := said.get(_SHARE)) is not None:
        agreement = float(share.removeprefix("top1:").removesuffix("%")) / 100
        if not 0 < agreement <= 1:
            raise _fault(f"a share of {share.removeprefix('top1:')} is not above 0 % up to 100 %")
    if (error := said.get(_ERROR)) is not None:
        rel_l2 = float(error)
        if not 0 < rel_l2 < 1:
            raise _fault(f"a relative error of {error} is not between 0 and 1")
    return Budget(text.replace(" ", ""), _EXACT in said, rel_l2, agreement)


def _kind(part: str) -> str:
    """Which of _KINDS a part of a budget is. Raises UsageError if it is none."""
    for kind, pattern in _KINDS.items():
        if re.fullmatch(pattern, part, re.ASCII):
            return kind
    if not part:
        raise _fault("a budget, or a part of one, is empty")
    raise _fault(f"{part if len(part) <= 40 else part[:40] + '…'!r} is no budget")


def nearest(budget: Budget, errors: Sequence[Error]) -> int | None:
    """The index of the error that is the least over the budget; None if there is none."""

    def over(index: int) -> tuple[float, float]:
        error = errors[index]
        allowed = budget.rel_l2 if budget.rel_l2 is not None else 1e-7 if budget.exact else math.inf
        lacking = 0.0
        if budget.agreement is not None:
            lacking = max(0.0, budget.agreement - (error.agreement or 0.0))
        return max(1.0, error.rel_l2 / allowed) - 1 + lacking, error.rel_l2

    return min(range(len(errors)), key=over, default=None)


def _rounded_up(value: float) -> float:
    """To two figures, never down."""
    if value == 0:
        return 0.0
    scale = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / scale * (1 - 1e-12)) * scale:.1e}")


def _fault(message: str) -> UsageError:
    return usage_fault("plan/budget", message, help="for example exact, 1e-3 or top1:99.5%")
