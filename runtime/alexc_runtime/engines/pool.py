"""What runs give to their callers on the GPU, kept to be used again.

Each run gives something of its own, so that no later run overwrites what a caller still holds. What
has come back may still be read on some stream of the caller's, which nobody can name: it is used
again only after the whole device has come to rest once, which is asked for when much has come back.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Generic, TypeVar

from alexc_runtime.engines.cuda import Cuda

# At most so many wait before the device is asked to come to rest.
_MOST_RESTING = 16
_MOST_KINDS = 32

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Pool(Generic[K, T]):
    """Things of several kinds, each used again as one of its kind; `end` lets go of one.

    Those of kinds that were not asked for lately go first. Whoever takes one holds the engine's
    lock. One comes back wherever its holder ends, also by a collection that begins while another
    thread waits for this one: without any lock.
    """

    def __init__(self, cuda: Cuda, make: Callable[[K], T], end: Callable[[T], object]) -> None:
        self._cuda = cuda
        self._make = make
        self._end = end
        self._free: OrderedDict[K, list[T]] = OrderedDict()
        self._resting: deque[tuple[K, T]] = deque()
        self._open = True

    def take(self, kind: K) -> Taken[K, T]:
        """A thing of the kind, the caller's until nobody holds what is returned."""
        free = self._free.get(kind) or self._rested(kind)
        self._free.move_to_end(kind)
        return Taken(self, kind, free.pop() if free else self._make(kind))

    def _rested(self, kind: K) -> list[T]:
        """Those of the kind that may be used again; waits for the device if it is time to."""
        count = len(self._resting)  # what comes back meanwhile has not rested with them
        if count >= _MOST_RESTING and self._cuda.rest():
            for _ in range(count):
                rested, thing = self._resting.popleft()
                self._free.setdefault(rested, []).append(thing)
        while len(self._free) > _MOST_KINDS:
            for thing in self._free.popitem(last=False)[1]:
                self._end(thing)
        return self._free.setdefault(kind, [])

    def give_back(self, kind: K, thing: T) -> None:
        """Take a thing back; what is read from it may still be going on."""
        self._resting.append((kind, thing))
        if not self._open:
            self._end_resting()

    def close(self) -> None:
        """Let go of all things that nobody holds; the others go when they come back."""
        self._open = False
        self._end_resting()
        for free in self._free.values():
            for thing in free:
                self._end(thing)
        self._free.clear()

    def _end_resting(self) -> None:
        with suppress(IndexError):  # when there are no more
            while True:
                self._end(self._resting.popleft()[1])


class Taken(Generic[K, T]):
    """A `thing` that is its holder's until this is gone."""

    def __init__(self, pool: Pool[K, T], kind: K, thing: T) -> None:
        self._pool = pool
        self._kind = kind
        self.thing = thing

    def __del__(self) -> None:
        self._pool.give_back(self._kind, self.thing)
