"""What steps have found: judged, and added to the sums of the epoch.

A GPU is not waited for at every step, so there its losses are looked at together, some steps later.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from alexc.diagnostics import AlexcError
from alexc.train.checkpoint import State
from alexc.train.guard import Guard

if TYPE_CHECKING:
    from alexc.train.learner import Found

# What is wrong, and the step (from 1) that it was found in → the fault to stop with.
Diagnose = Callable[[str, int], AlexcError]


class Tally:
    """Findings that nobody has looked at yet, and the sums of those that somebody has.

    `every` is the number of steps between two looks.
    """

    def __init__(self, state: State, guard: Guard, diagnose: Diagnose, every: int) -> None:
        self._state, self._guard, self._diagnose, self._every = state, guard, diagnose, every
        self._unsettled: list[Found] = []

    def add(self, found: Found) -> None:
        """Take what a step has found. Raises what `settle` raises, if it is time to look."""
        self._unsettled.append(found)
        if len(self._unsettled) == self._every:
            self.settle()

    def settle(self) -> None:
        """Look at the losses of the last steps: judge them, and add them to the epoch's sums.

        Raises AlexcError if nothing is learnt. Called before anything is told or saved, so that no
        checkpoint holds what a step that went wrong has made.
        """
        state = self._state
        for found in self._unsettled:
            loss, correct = found.sums.tolist()
            images = int(found.known)
            if images and (verdict := self._guard.verdict(loss, found.step)) is not None:
                raise self._diagnose(verdict, found.step)
            state.guard_loss = self._guard.mean
            state.sums.images += images
            state.sums.damaged += found.count - images
            state.sums.loss += loss * images
            state.sums.correct += int(correct)
        self._unsettled.clear()
