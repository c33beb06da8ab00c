"""Who is told how a run goes, and the clock that knows how fast it goes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Protocol, TypeVar

Thing = TypeVar("Thing")


def seconds_in_words(seconds: float) -> str:
    """`0.41 s`, `7.3 s`, `68 s`, `5,412 s`: two figures, or whole seconds."""
    if seconds >= 9.95:
        return f"{seconds:,.0f} s"
    return f"{seconds:.1f} s" if seconds >= 0.995 else f"{seconds:.2f} s"


class Reporter(Protocol):
    """Who is told how it goes. Called by the first worker only."""

    def begin(self, name: str, step: int, steps: int, per_epoch: int) -> None: ...

    def step(self, step: int, values: Mapping[str, float]) -> None: ...

    def epoch(self, epoch: int, values: Mapping[str, float]) -> None: ...

    def say(self, text: str) -> None: ...


class Clock:
    """Measures how much of the time goes by in waiting for images."""

    def __init__(self) -> None:
        self._lap = time.monotonic()
        self._waited = 0.0
        self._steps = 0
        self.steps_in_lap = 0

    def waiting(self, source: Iterator[Thing]) -> Iterator[Thing]:
        """The same batches, the time until each is there counted."""
        while True:
            before = time.monotonic()
            batch = next(source, None)
            self._waited += time.monotonic() - before
            if batch is None:
                return
            yield batch
            self._steps += 1

    def lap(self) -> tuple[float, float]:
        """Seconds since the last lap, and the share of them that was waiting."""
        now = time.monotonic()
        seconds = max(1e-9, now - self._lap)
        waited, self._waited = self._waited, 0.0
        self.steps_in_lap, self._steps = self._steps + 1, -1
        self._lap = now
        return seconds, waited / seconds
