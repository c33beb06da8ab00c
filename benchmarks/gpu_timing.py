"""Clocks of benchmarks/gpu.py, and batches that lie on the GPU."""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from alexc_runtime.engines.cuda import Cuda
from alexc_runtime.engines.tensorrt import TensorRT
from alexc_runtime.session import Session

Result = dict[str, Any]


@dataclass
class Timed:
    """A batch that can be run: `put` gives it to the GPU, `wait` waits until all is done."""

    put: Callable[[], object]
    wait: Callable[[], object]


# What makes the batch of a size.
Maker = Callable[[int], Timed]


class OnDevice:
    """An array on the GPU, as other libraries offer theirs."""

    def __init__(self, cuda: Cuda, array: Any, held: ExitStack) -> None:
        self.shape = array.shape
        address = cuda.memory(array.nbytes, held, "a batch")
        source = cuda.page_locked(array.nbytes, held, "a batch")
        ctypes.memmove(source, array.ctypes.data, array.nbytes)
        with ExitStack() as own:
            stream = cuda.stream(own)
            cuda.call(cuda.copy(address, source, array.nbytes, cuda.to_device, stream))
            cuda.call(cuda.api.cudaStreamSynchronize, stream)
        self.__cuda_array_interface__ = {
            "version": 3, "shape": array.shape, "typestr": array.dtype.str,
            "data": (address, False), "strides": None, "stream": None,
        }  # fmt: skip


def of_session(session: Session, batch: int, how: str, held: ExitStack) -> Timed:
    """A batch of a session, on the GPU unless it is to come `from the host`."""
    cuda = Cuda("the benchmark")
    host = np.random.default_rng(batch).standard_normal(
        (batch, *session.manifest.input.shape), np.float32
    )
    if how == "from the host":
        return Timed(lambda: session.run(host), lambda: None)
    if how == "without graphs" and isinstance(session._engine, TensorRT):  # noqa: SLF001
        session._engine._launches._recording = False  # noqa: SLF001
    there = OnDevice(cuda, host, held)
    return Timed(lambda: session.run(there), lambda: cuda.call(cuda.api.cudaDeviceSynchronize))


def timed(run: Timed, batch: int, seconds: float) -> Result:
    """Times of a batch: one after the other, each waited for; then many put before one wait."""
    for _ in range(5):
        run.put()
    run.wait()
    single: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(single) < 5:
        start = time.perf_counter()
        run.put()
        run.wait()
        single.append(time.perf_counter() - start)
    many = max(2, min(512, round(0.2 / statistics.median(single))))
    best = float("inf")
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or best == float("inf"):
        start = time.perf_counter()
        for _ in range(many):
            run.put()
        run.wait()
        best = min(best, (time.perf_counter() - start) / many)
    single.sort()
    return {
        "p50_ms": statistics.median(single) * 1e3,
        "p99_ms": single[min(len(single) - 1, int(len(single) * 0.99))] * 1e3,
        "images_per_s": batch / min(best, statistics.median(single)),
        "runs": len(single),
    }
