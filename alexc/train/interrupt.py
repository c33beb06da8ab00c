"""Being asked to stop: after SIGTERM or Ctrl-C the step at hand ends, and the state is saved."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any


@dataclass(slots=True)
class Stop:
    """Whether somebody has asked. It is the handler of both signals."""

    asked: bool = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt  # the second Ctrl-C waits for nothing
        self.asked = True


@contextmanager
def stoppable() -> Iterator[Stop]:
    """While this is open, SIGTERM and Ctrl-C are requests; then they mean again what they meant."""
    stop = Stop()
    before: dict[signal.Signals, Any] = {}
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            before[number] = signal.signal(number, stop)
    except ValueError:
        pass  # not in the main thread: nobody can ask
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
