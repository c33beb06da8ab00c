"""Dynamic batching: many threads ask for a few images each, and the engine runs them together.

    with alexc_runtime.open("build/alexnet") as session, alexc_runtime.Batcher(session) as batcher:
        outputs = batcher.run(images)           # in any number of threads
        future = batcher.submit(images)         # or without waiting

One thread takes what waits, in the order of arrival, runs it as one batch and hands everybody their
own rows. While the engine runs, the next batch gathers. A request is never split, and never waits
for others longer than `max_delay_ms`; one client alone does not wait at all.
"""

from __future__ import annotations

import copy
import threading
import time
from collections import deque
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from alexc_runtime.errors import BatchError, BusyError, EngineError, RuntimeFaultError
from alexc_runtime.session import Session

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from alexc_runtime.engines.base import Array

    Outputs = dict[str, NDArray[np.float32]]


_USUAL_BATCH = 16
_LONGEST = 1e9  # seconds: a lock refuses to wait much longer than that


@dataclass(frozen=True)
class Counts:
    """What a batcher has run so far: `images / runs` is how well it gathers."""

    requests: int = 0
    images: int = 0
    runs: int = 0


@dataclass(frozen=True)
class _Request:
    images: Array
    future: Future[Outputs]
    arrived: float


class Batcher:
    """A session behind a queue. Any number of threads may share it.

    `max_batch` is the number of images that a run is filled up to (None: 16, or the most that the
    engine takes). `max_delay_ms` is how long the oldest request waits for the batch to fill while
    the engine is idle: those who have just been answered together ask again within a moment. Where
    the last request was alone, and nobody came while it ran, the next does not wait.
    `max_waiting` bounds the images in the queue, and so its memory.

    The session stays its owner's: close the batcher first, then the session.
    """

    def __init__(
        self,
        session: Session,
        max_batch: int | None = None,
        max_delay_ms: float = 2.0,
        max_waiting: int = 256,
    ) -> None:
        smallest, largest = session.batch_limits
        if max_batch is None:
            max_batch = max(smallest, min(_USUAL_BATCH, largest or _USUAL_BATCH))
        if max_batch < smallest or (largest is not None and max_batch > largest):
            limits = f"{smallest} or more" if largest is None else f"{smallest} to {largest}"
            raise BatchError(
                "batcher/max-batch",
                f"batches of {max_batch} images can't be gathered: {session.engine} takes {limits}",
            )
        if not 0 <= max_delay_ms < float("inf"):
            raise BatchError("batcher/max-delay", f"max_delay_ms is 0 or more, not {max_delay_ms}")
        if max_waiting < 1:
            raise BatchError("batcher/max-waiting", f"max_waiting is 1 or more, not {max_waiting}")
        self._session = session
        self._max_batch = max_batch
        self._max_delay = min(max_delay_ms / 1e3, _LONGEST)
        self._max_waiting = max_waiting
        self._waiting: deque[_Request] = deque()
        self._images_waiting = 0
        self._gathered_last = 0
        self._closing = False
        self._counts = Counts()
        lock = threading.Lock()
        self._arrived = threading.Condition(lock)  # for the worker: the queue has changed
        self._room = threading.Condition(lock)  # for those who submit: the queue has been emptied
        # A daemon, so that a batcher nobody closes does not keep the program from ending.
        self._worker = threading.Thread(target=self._work, name="alexc-batcher", daemon=True)
        self._worker.start()

    @property
    def counts(self) -> Counts:
        """What has been run so far."""
        return self._counts

    def submit(self, batch: object, timeout: float | None = None) -> Future[Outputs]:
        """The outputs for `batch` in the future, as `Session.run` gives them.

        It is what `Session.run` takes, in memory of the CPU.
        Where the queue is full this waits for room, `timeout` seconds at most (None: as long as it
        takes). A request that is cancelled before its run is not run. Leave the array as it is
        until the future is done.

        Raises BatchError, for this request alone, if `batch` is not what the network takes;
        BusyError if there is no room in time; EngineError if the batcher is closed.
        """
        images = self._session.checked(batch)
        end = _end(timeout)
        with self._room:
            while self._is_full(len(images)) and not self._closing:
                left = None if end is None else end - time.monotonic()
                # The worker can't wait for itself: it is what makes room.
                if (left is not None and left <= 0) or self._is_worker():
                    raise BusyError(
                        "batcher/full",
                        f"{self._images_waiting} images wait already, of {self._max_waiting}",
                        help="try again later, or wait longer: submit(batch, timeout=seconds)",
                    )
                self._room.wait(left)
            if self._closing:
                raise EngineError("batcher/closed", "the batcher is closed")
            if not self._worker.is_alive():
                raise EngineError(
                    "batcher/process",
                    "the thread that runs the batches is not in this process",
                    help="open the session and its batcher after the fork",
                )
            request = _Request(images, Future(), time.monotonic())
            # The worker sleeps until there is one, and then until the batch is full: in between it
            # need not be woken.
            wakes = not self._waiting
            self._waiting.append(request)
            self._images_waiting += len(images)
            if wakes or self._images_waiting >= self._max_batch:
                self._arrived.notify()
        return request.future

    def run(self, batch: object, timeout: float | None = None) -> Outputs:
        """The outputs for `batch`, as `Session.run` gives them.

        Raises what `submit` raises, EngineError if the engine fails, and BusyError if there is no
        result after `timeout` seconds; it is then not run any more, if it can be helped.
        """
        if self._is_worker():
            raise EngineError(
                "batcher/callback",
                "run waits for the thread that it was called in",
                help="in a callback of a future, use submit",
            )
        end = _end(timeout)
        future = self.submit(batch, timeout)
        try:
            return future.result(None if end is None else max(0.0, end - time.monotonic()))
        except TimeoutError:
            # A run that ends just now may have failed in its own way; that is the better answer.
            if not future.cancel() and future.done():
                return future.result()
            raise BusyError("batcher/timeout", f"there is no result after {timeout:g} s") from None
        except CancelledError:
            raise EngineError("batcher/closed", "the batcher was closed before the run") from None

    def close(self, *, cancel: bool = False) -> None:
        """Take no more requests, run those that wait, and return when the last is done.

        With `cancel` those that wait are cancelled instead, and only a run under way is waited for.
        Closing twice does nothing.
        """
        with self._arrived:
            self._closing = True
            dropped = list(self._waiting) if cancel else []
            if cancel:
                self._waiting.clear()
                self._images_waiting = 0
            self._arrived.notify()
            self._room.notify_all()
        for request in dropped:
            request.future.cancel()
            request.future.set_running_or_notify_cancel()
        if not self._is_worker():
            self._worker.join()

    def __enter__(self) -> Batcher:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close(cancel=error is not None)

    def _is_full(self, images: int) -> bool:
        """Whether so many more don't fit. Any request fits into an empty queue."""
        return bool(self._waiting) and self._images_waiting + images > self._max_waiting

    def _is_worker(self) -> bool:
        return threading.current_thread() is self._worker

    # ---- the worker --------------------------------------------------------------------------

    def _work(self) -> None:
        while requests := self._gathered():
            self._run_together(requests)

    def _gathered(self) -> list[_Request]:
        """The requests of the next batch; none when the batcher is closed and all are done."""
        with self._arrived:
            company = self._gathered_last > 1 or bool(self._waiting)
            while not self._waiting:
                if self._closing:
                    return []
                self._arrived.wait()
            end = self._waiting[0].arrived + (self._max_delay if company else 0.0)
            while self._images_waiting < self._max_batch and not self._closing:
                left = end - time.monotonic()
                if left <= 0:
                    break
                self._arrived.wait(left)
            requests: list[_Request] = []
            images = 0
            while self._waiting:
                more = len(self._waiting[0].images)
                if requests and images + more > self._max_batch:
                    break
                requests.append(self._waiting.popleft())
                images += more
            self._images_waiting -= images
            self._gathered_last = len(requests)
            self._room.notify_all()
        return requests

    def _run_together(self, requests: list[_Request]) -> None:
        """Run them as one batch, but for those that were cancelled, and settle their futures."""
        running = [each for each in requests if each.future.set_running_or_notify_cancel()]
        if not running:
            return
        parts = [each.images for each in running]
        try:
            batch = parts[0] if len(parts) == 1 else np.concatenate(parts)
            outputs = self._session.run(batch)
        except BaseException as error:  # noqa: BLE001  (it belongs to those who asked)
            for request in running:
                request.future.set_exception(_own(error))
            return
        self._counts = Counts(
            self._counts.requests + len(running),
            self._counts.images + len(batch),
            self._counts.runs + 1,
        )
        first = 0
        for request in running:
            last = first + len(request.images)
            # Copies, so that nobody holds on to the rows of others.
            rows = {
                name: array if len(running) == 1 else array[first:last].copy()
                for name, array in outputs.items()
            }
            request.future.set_result(rows)
            first = last


def _own(error: BaseException) -> Exception:
    """An exception for one of several waiting threads: one object would mix their tracebacks."""
    if isinstance(error, RuntimeFaultError):
        own: Exception = copy.copy(error)
    else:
        own = EngineError("engine/run", f"the run failed: {type(error).__name__}: {error}")
    own.__cause__ = error
    return own


def _end(timeout: float | None) -> float | None:
    """When so many seconds are over, on the monotonic clock; None: never."""
    return None if timeout is None else time.monotonic() + min(timeout, _LONGEST)
