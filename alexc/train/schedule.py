"""The learning rate as a factor: a function of the place in the run, and of plateaus so far."""

from __future__ import annotations

import math
from dataclasses import dataclass

from alexc.spec.recipe import ScheduleSpec


@dataclass(slots=True)
class Plateau:
    """What `plateau` has seen: the best error, epochs since, and how often the rate went down."""

    best: float = math.inf
    waited: int = 0
    lowered: int = 0

    def see(self, error: float, spec: ScheduleSpec) -> None:
        """An epoch has ended with this validation error, a share of the images."""
        if error < self.best:
            self.best, self.waited = error, 0
            return
        self.waited += 1
        if self.waited >= spec.patience and self.lowered < spec.times:
            self.lowered += 1
            self.waited = 0


def factor(spec: ScheduleSpec, epoch: float, epochs: int, plateau: Plateau) -> float:
    """What the rate is multiplied by at `epoch`, a fraction counted from 0, of `epochs`."""
    if epoch < spec.warmup:
        return epoch / spec.warmup
    share = (epoch - spec.warmup) / (epochs - spec.warmup)
    match spec.name:
        case "plateau":
            return spec.factor**plateau.lowered
        case "step":
            return spec.factor ** (int(epoch) // spec.every)
        case "cosine":
            return spec.last + (1 - spec.last) * (1 + math.cos(math.pi * share)) / 2
        case "linear":
            return 1 + (spec.last - 1) * share
        case "constant":
            return 1.0
