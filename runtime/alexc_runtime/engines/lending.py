"""What is lent to an engine on a GPU, and by it: the order of two owners' work on one memory."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from alexc_runtime.arrays import LEGACY_STREAM, Borrowed, Holder
from alexc_runtime.engines.base import closed
from alexc_runtime.engines.blocks import Block
from alexc_runtime.engines.cuda import Cuda
from alexc_runtime.engines.pool import Taken
from alexc_runtime.errors import EngineError


class State:
    """What an engine holds, in an object that does not know the engine, to outlive it.

    `streams` are waited for at the end, before what `held` has is given back.
    """

    def __init__(self, cuda: Cuda, streams: tuple[Any, ...], held: ExitStack) -> None:
        self.cuda = cuda
        self.streams = streams
        self.held = held
        self.lock = threading.RLock()  # a collection may end an engine at any point
        self.open = True
        self._users = 0
        self._unused = threading.Condition(self.lock)
        self._process = os.getpid()

    @contextmanager
    def used(self) -> Iterator[None]:
        """A block that uses what is held without the lock, and that the end waits for.

        Raises EngineError if it has been closed.
        """
        with self.lock:
            if not self.open:
                raise closed()
            self._users += 1
        try:
            yield
        finally:
            with self.lock:
                self._users -= 1
                self._unused.notify_all()

    def close(self) -> None:
        """Wait for what goes on, and give back everything. Closing twice does nothing.

        In a fork of the process that made it all there is nothing to give back: it is the other's,
        who may be at work on it, and CUDA does not work here.
        """
        if self._process != os.getpid():
            return
        with self.lock:
            if not self.open:
                return
            self.open = False
            try:
                while self._users:
                    self._unused.wait()
            except BaseException:  # Ctrl-C: a second close shall find it as it was
                self.open = True
                raise
            with ExitStack() as there:
                with suppress(EngineError):  # the GPU has failed, and nothing more can be done
                    there.enter_context(self.cuda.current())
                for stream in self.streams:
                    self.cuda.api.cudaStreamSynchronize(stream)
                there.enter_context(self.cuda.alone())
                self.held.close()
                # Given back twice or late, a thing is an error that nobody can do anything about.
                self.cuda.forget_error()


class Lent:
    """Inputs that are somebody else's, held until the stream has read them."""

    def __init__(self, cuda: Cuda, reading: Any, held: ExitStack) -> None:
        self._cuda = cuda
        self._reading = reading
        self._events = held
        self._idle: list[Any] = []  # events
        self._held: deque[tuple[Any, object]] = deque()
        self._legacy = cuda.api.cudaStream_t(LEGACY_STREAM)

    def hold(self, lent: Borrowed) -> None:
        """See that nobody writes into the input, or gives its memory to another, until it is read.

        What the owner puts on his stream from now on waits; where he doesn't tell which that is, on
        the default stream. On yet another stream he would have to wait himself, so the memory is
        at least not given back before.
        """
        cuda, theirs = self._cuda, self._legacy
        if lent.stream is not None:
            theirs = cuda.api.cudaStream_t(lent.stream)
        event = self._idle.pop() if self._idle else cuda.event(self._events)
        self._held.append((event, lent.owner))
        cuda.after(self._reading, theirs, event)

    def release(self) -> None:
        """Give back the inputs that have been read."""
        while self._held:
            event = self._held[0][0]
            (status,) = self._cuda.api.cudaEventQuery(event)
            if status:
                self._cuda.forget_error()
                return
            self._idle.append(event)
            self._held.popleft()

    def close(self) -> None:
        """Give back all of them. Nothing may read them any more."""
        self._held.clear()


@dataclass
class Computed(Holder):
    """A block that an engine's stream writes."""

    block: Taken[int, Block]
    state: State
    computing: Any
    event: Any

    @property
    def address(self) -> int:
        return self.block.thing.address

    @property
    def stream(self) -> int | None:
        return int(self.computing) if self.state.open else None

    def let_wait(self, stream: int) -> None:
        cuda = self.state.cuda
        # A default stream is that of the GPU which is current.
        with self.state.lock, cuda.current():
            if self.state.open:  # when it was closed, all had been waited for
                cuda.after(self.computing, cuda.api.cudaStream_t(stream), self.event)

    def copy(self, array: NDArray[Any]) -> None:
        cuda = self.state.cuda
        with self.state.lock, cuda.current():
            if self.state.open:
                cuda.call(cuda.api.cudaStreamSynchronize, self.computing)
            place = array.ctypes.data
            cuda.call(
                cuda.api.cudaMemcpy, place, self.block.thing.address, array.nbytes, cuda.to_host
            )
