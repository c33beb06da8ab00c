"""What Python takes of a call, over the library's own: a part of benchmarks/gpu.py.

The two take turns, so that whatever else the machine does falls on both alike.
"""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np

import alexc_runtime
from alexc_runtime.engines.onnxruntime_gpu import OnnxRuntimeCuda
from alexc_runtime.engines.tensorrt import TensorRT
from alexc_runtime.session import Session
from benchmarks.gpu_setting import Setting
from benchmarks.gpu_timing import of_session

Result = dict[str, Any]
Ways = Mapping[str, Callable[[], object]]


def overhead(about: str, setting: Setting) -> Result:
    """Of `ENGINE PRECISION`: microseconds of calls at batch 1, over the bare call beneath them."""
    engine, precision = about.split()
    folder = setting.bundle(precision)
    with alexc_runtime.open(folder, engine, precision=precision) as session, ExitStack() as held:
        return overhead_of(session, held, setting.scale.calls)


def overhead_of(session: Session, held: ExitStack, calls: int) -> Result:
    """Medians in microseconds: the bare call and the whole one, with the batch on either side."""
    engine = session._engine  # noqa: SLF001
    if isinstance(engine, TensorRT):
        ways = _over_launches(session, engine, held)
    else:
        assert isinstance(engine, OnnxRuntimeCuda)
        ways = _over_binding(session, engine, held)
    if ways is None:
        return {"fault": "it runs without CUDA graphs"}
    taken: dict[str, list[int]] = {way: [] for way in ways}
    for _ in range(10):
        for call in ways.values():
            call()
    for _ in range(calls):
        for way, call in ways.items():
            start = time.perf_counter_ns()
            call()
            taken[way].append(time.perf_counter_ns() - start)
    found: Result = {way: statistics.median(times) / 1e3 for way, times in taken.items()}
    for side in ("host", "GPU"):
        found[f"over, {side}"] = found[f"run, {side}"] - found[f"bare, {side}"]
    return found


def _over_launches(session: Session, engine: TensorRT, held: ExitStack) -> Ways | None:
    """Over launching the same CUDA graph and waiting for it; None where it runs without.

    Of a batch on the host, copying its bytes to where the GPU reads them belongs to the bare call.
    """
    images = session.batch_limits[0]
    there = of_session(session, images, "", held)
    host = np.zeros((images, *session.manifest.input.shape), np.float32)
    wait = engine._cuda.api.cudaStreamSynchronize  # noqa: SLF001
    pinned = engine._slots.first.addresses[session.manifest.input.name]  # noqa: SLF001
    stream = engine._compute  # noqa: SLF001
    for _ in range(10):
        there.put()
        session.run(host)
    graphs = engine._launches._graphs  # noqa: SLF001
    of_host, of_gpu = (
        next((g.launch for key, g in graphs.items() if isinstance(key[0], int) is lent), None)  # type: ignore[index]
        for lent in (False, True)
    )
    if of_host is None or of_gpu is None:
        return None
    return {
        "bare, host": lambda: (
            ctypes.memmove(pinned, host.ctypes.data, host.nbytes),
            of_host(),
            wait(stream),
        ),
        "run, host": lambda: session.run(host),
        "bare, GPU": lambda: (of_gpu(), wait(stream)),
        "run, GPU": lambda: (there.put(), wait(stream)),
    }


def _over_binding(session: Session, engine: OnnxRuntimeCuda, held: ExitStack) -> Ways:
    """Over `run_with_iobinding` with all memory bound already, and over `run` of the same session.

    Both wait until the outputs are there.
    """
    library, theirs = engine._library, engine._session  # noqa: SLF001
    manifest, images = session.manifest, session.batch_limits[0]
    there = of_session(session, images, "", held)
    host = np.zeros((images, *manifest.input.shape), np.float32)
    binding, kind = theirs.io_binding(), np.dtype(np.float32)
    binding.bind_ortvalue_input(
        manifest.input.name, library.OrtValue.ortvalue_from_numpy(host, engine.memory, 0)
    )
    for output in manifest.outputs:
        place = library.OrtValue.ortvalue_from_shape_and_type(
            (images, *output.shape), kind, engine.memory, 0
        )
        binding.bind_ortvalue_output(output.name, place)
    names = [output.name for output in manifest.outputs]
    return {
        "bare, host": lambda: theirs.run(names, {manifest.input.name: host}),
        "run, host": lambda: session.run(host),
        "bare, GPU": lambda: theirs.run_with_iobinding(binding),
        "run, GPU": there.put,
    }
