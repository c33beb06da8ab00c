"""Python's garbage collector, kept from running where TensorRT and CUDA could not bear it.

TensorRT logs while it holds a lock that destroying one of its objects takes too: a collection that
found a forgotten one in a log message would wait for ever. And where a thread records a CUDA graph,
one that gave memory back would end the recording.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager


class _Collector:
    """The collector, which any number of threads keep from running at a time."""

    def __init__(self) -> None:
        # A collection may begin while it is held, and end an engine, which comes here, too.
        self._lock = threading.RLock()
        self._blocks = 0
        self._enabled = False  # before the first of them

    @contextmanager
    def kept(self) -> Iterator[None]:
        with self._lock:
            if not self._blocks:
                self._enabled = gc.isenabled()
                gc.disable()
            self._blocks += 1
        try:
            yield
        finally:
            with self._lock:
                self._blocks -= 1
                if self._enabled and not self._blocks:
                    gc.enable()


_collector = _Collector()


def without_collection() -> AbstractContextManager[None]:
    """A block in which there is no collection, in any thread."""
    return _collector.kept()
