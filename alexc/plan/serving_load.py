"""Clients of one session, in the process that has it: what they get, and how long it takes.

In a closed loop each client asks for one image, waits for it, and asks for the next: so many
requests are under way as there are clients. In an open loop requests come by themselves, at random
moments of a given rate (a Poisson process), whether those before them are done or not. Their
latencies count from the moment at which they come, so that a server that falls behind is not spared
the requests that wait.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from alexc.plan.contestant import Images, Outputs
from alexc_runtime.batching import Batcher, Counts
from alexc_runtime.session import Session

# Of the largest value: an image has the same numbers in every batch, but for the order of sums.
_SAME = 1e-4

# Clients ask for these in turn, so that an image of another's would show.
DISTINCT_IMAGES = 2

# What runs requests as they come where nothing is batched: the threads of a server.
_SERVER_THREADS = 16

# Before what counts, so that queues are as full as they will be.
_START_SECONDS = 0.25


@dataclass(frozen=True)
class Traffic:
    """What came of a load: milliseconds of each request, those answered a second.

    `mean_batch` is how many images a run of the engine had.
    """

    latencies_ms: tuple[float, ...]
    images_per_s: float
    mean_batch: float

    def to_json(self) -> dict[str, Any]:
        return {
            "latencies_ms": list(self.latencies_ms),
            "images_per_s": self.images_per_s,
            "mean_batch": self.mean_batch,
        }


class _Server:
    """A session as its clients see it, with a batcher before it or without."""

    def __init__(self, session: Session, images: Images, batching: bool, stack: ExitStack) -> None:
        self._expected = [session.run(image[np.newaxis]) for image in images]
        self._images = images
        self._session = session
        self._batcher = stack.enter_context(Batcher(session)) if batching else None
        self._pool = stack.enter_context(ThreadPoolExecutor(_SERVER_THREADS))

    def run(self, image: Images) -> Outputs:
        return (self._batcher or self._session).run(image)

    def submit(self, image: Images) -> Future[Outputs]:
        if self._batcher is not None:
            return self._batcher.submit(image)
        return self._pool.submit(self.run, image)

    @property
    def counts(self) -> Counts:
        return self._batcher.counts if self._batcher is not None else Counts()

    def image(self, number: int) -> Images:
        """The image that the request of this number is for: others ask for others."""
        which = number % len(self._images)
        return self._images[which : which + 1]

    def compare(self, number: int, outputs: Outputs) -> None:
        """Raise RuntimeError unless these are the numbers that the image has alone."""
        for name, value in self._expected[number % len(self._images)].items():
            allowed = _SAME * float(np.abs(value).max(initial=0.0))
            # Written so that NaN is a fault.
            if not np.abs(outputs[name] - value).max(initial=0.0) <= allowed:
                raise RuntimeError("gave a client other numbers than its image has alone")


def closed_loop(
    session: Session, images: Images, clients: int, seconds: float, *, batching: bool
) -> Traffic:
    """So many clients for so many seconds. Raises what a client's request raises."""
    with ExitStack() as stack:
        server = _Server(session, images, batching, stack)
        start = time.perf_counter() + _START_SECONDS
        end = start + seconds

        def client(number: int) -> list[float]:
            """The milliseconds of the requests that are answered in the time that counts."""
            image, taken = server.image(number), []
            while (asked := time.perf_counter()) < end:
                outputs = server.run(image)
                answered = time.perf_counter()
                if start <= answered <= end:
                    taken.append((answered - asked) * 1e3)
                server.compare(number, outputs)
            return taken

        pool = stack.enter_context(ThreadPoolExecutor(clients))
        running = [pool.submit(client, number) for number in range(clients)]
        time.sleep(_START_SECONDS)
        before = server.counts
        taken = [each for client_ in running for each in client_.result()]
        return Traffic(tuple(taken), len(taken) / seconds, _mean_batch(before, server.counts))


def open_loop(
    session: Session, images: Images, rate: float, seconds: float, *, batching: bool, seed: int = 0
) -> Traffic:
    """Requests at `rate` a second, for so many seconds. Raises what a request raises.

    What is answered a second is less than `rate` where the server can't keep up: requests are
    counted until the last is answered.
    """
    gaps = np.random.default_rng(seed).exponential(1 / rate, max(1, round(rate * seconds)))
    with ExitStack() as stack:
        server = _Server(session, images, batching, stack)
        done: list[float] = [0.0] * len(gaps)
        answered = threading.Semaphore(0)

        def note(number: int, _: Future[Outputs]) -> None:
            done[number] = time.perf_counter()
            answered.release()

        start = time.perf_counter()
        moments: Sequence[float] = (start + np.cumsum(gaps)).tolist()
        futures = []
        for number, moment in enumerate(moments):
            time.sleep(max(0.0, moment - time.perf_counter()))
            futures.append(server.submit(server.image(number)))
            futures[-1].add_done_callback(partial(note, number))
        for number, future in enumerate(futures):
            answered.acquire()
            server.compare(number, future.result())
        latencies = [(end - moment) * 1e3 for moment, end in zip(moments, done, strict=True)]
        per_second = len(gaps) / (max(done) - start)
        return Traffic(tuple(latencies), per_second, _mean_batch(Counts(), server.counts))


def _mean_batch(before: Counts, after: Counts) -> float:
    """Images in a run, between two counts; 1 where nothing is gathered."""
    runs = after.runs - before.runs
    return (after.images - before.images) / runs if runs else 1.0
