"""What keeps Python out of TensorRT's way while it works."""

from __future__ import annotations

import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from alexc_runtime.engines.collection import without_collection


@contextmanager
def undisturbed() -> Iterator[None]:
    """Let nothing of TensorRT be destroyed while it calls back, nor outlive the work.

    TensorRT logs while it holds a lock that destroying a builder takes too. So if Python's garbage
    collector ran in the middle of a log message and found a forgotten builder, it would wait for
    ever. An error keeps the frames that it came through, and with them builders, networks and their
    weights; these are let go here.

    Ctrl-C would be raised in whichever callback runs at the moment, where TensorRT swallows it. It
    is noted instead, and raised when TensorRT returns, a second or two later.
    """
    with without_collection():
        try:
            with _interrupts_later():
                yield
        except BaseException as error:
            _clear_frames(error)
            raise


@contextmanager
def _interrupts_later() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM in the block mean after it what they meant before."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python handles signals in the main thread alone
        return
    came: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: came.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def _clear_frames(error: BaseException) -> None:
    """Empty the variables of every ended call that the error remembers; where it arose stays told.

    An error out of a callback remembers the calls that led to TensorRT by way of `f_back` alone.
    """
    cause: BaseException | None = error
    while cause is not None:
        for frame, _ in traceback.walk_tb(cause.__traceback__):
            for caller, _ in traceback.walk_stack(frame):
                with suppress(RuntimeError):  # it is still running
                    caller.clear()
        cause = cause.__context__
