"""TensorRT in the runtime, on a GPU of straw: see the doubles of both libraries.

Their names are held against the real libraries, TensorRT's here and CUDA's in test_cuda_names.py:
what the engine uses must be there, and the doubles offer nothing else.
"""

from __future__ import annotations

import gc
import inspect
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import alexc_runtime
from alexc.bundle import staged
from alexc_runtime import BatchError, EngineError, EngineUnavailableError
from alexc_runtime.engines import collection, cuda, launches, tensorrt, tensorrt_plan
from alexc_runtime.manifest import MODEL, Built, EngineRecord, Input
from alexc_runtime.stripped import Place, strip
from tests import tensorrt_double
from tests.cuda_double import Gpu, Status
from tests.gpu_machine import Machine, machine
from tests.small_bundle import (
    IMAGE,
    MANIFEST,
    PLAN,
    Array,
    built,
    expected,
    fill,
    images,
    make,
    weights,
)
from tests.tensorrt_double import Behaviour, DataType, EngineInvalidityDiagnostics

__all__ = ["built", "machine"]


def agree(outputs: dict[str, Any], batch: Array) -> None:
    assert list(outputs) == ["scores", "conv"]
    for name, value in expected(batch).items():
        found = outputs[name]
        found = found if isinstance(found, np.ndarray) else found.numpy()
        np.testing.assert_array_equal(found, value)


# ---- running -------------------------------------------------------------------------------------


def test_a_plan_runs_where_there_is_a_gpu(built: Path, machine: Machine) -> None:
    machine.install()
    with alexc_runtime.open(built) as opened:
        assert (opened.engine, opened.status) == ("tensorrt_rtx", "built, not run: no GPU")
        assert opened.why == "tensorrt_rtx: the best engine at hand; built, not run: no GPU"
        assert opened.batch_limits == (2, 4)
        for count in (4, 2, 3, 4, 4, 2):
            agree(opened.run(images(count)), images(count))
        for count in (1, 5):
            with pytest.raises(BatchError, match="tensorrt_rtx takes 2 to 4"):
                opened.run(images(count))


def test_outputs_are_the_callers_own(built: Path, machine: Machine) -> None:
    with machine.open(built) as opened:
        first = opened.run(images(3))
        opened.run(images(3) + 1)
        agree(first, images(3))


def test_memory_is_taken_once(built: Path, machine: Machine) -> None:
    with machine.open(built) as opened:
        opened.warm_up(2, 3, 4)
        machine.gpu.calls.clear()
        for count in (2, 3, 4):
            agree(opened.run(images(count)), images(count))
    taking = {"cudaMalloc", "cudaMallocHost", "cudaStreamCreateWithFlags", "cudaGraphInstantiate"}
    assert not taking & set(machine.gpu.calls)


def test_a_size_that_was_seen_takes_one_launch_and_one_wait(built: Path, machine: Machine) -> None:
    with machine.open(built) as opened:
        opened.warm_up()
        opened.run(images(3))
        machine.gpu.calls.clear()
        machine.gpu.order.clear()
        opened.run(images(3))
        assert machine.gpu.calls == ["cudaGraphLaunch", "cudaStreamSynchronize"]
        assert machine.gpu.order == ["HostToDevice", "computation", *["DeviceToHost"] * 2]


def test_pixels_go_in_as_they_are(tmp_path: Path, machine: Machine) -> None:
    assert MANIFEST.preprocess is not None
    preprocess = replace(MANIFEST.preprocess, dtype="uint8")
    input = Input("input", IMAGE, MANIFEST.input.batch, "uint8")
    make(tmp_path / "small", input=input, preprocess=preprocess)
    machine.does.types["input"] = DataType.UINT8
    pixels = np.random.default_rng(0).integers(0, 256, (3, *IMAGE), np.uint8)
    with machine.open(tmp_path / "small") as opened:
        agree(opened.run(pixels), pixels.astype(np.float32))
        with pytest.raises(BatchError, match="takes uint8"):
            opened.run(images(3))


def test_threads_may_share_a_session(built: Path, machine: Machine) -> None:
    faults: list[BaseException] = []

    def work(count: int) -> None:
        try:
            for _ in range(5):
                agree(opened.run(images(count)), images(count))
                for outputs in opened.run_many([images(count)] * 3):
                    agree(outputs, images(count))
        except BaseException as error:  # noqa: BLE001  (told by the thread that waits)
            faults.append(error)

    with machine.open(built) as opened:
        threads = [threading.Thread(target=work, args=(count,)) for count in (2, 3, 4, 3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not faults


# ---- many batches --------------------------------------------------------------------------------


def test_copies_overlap_the_computation_of_other_batches(built: Path, machine: Machine) -> None:
    counts = [2, 4, 3, 3, 2, 4, 4]
    with machine.open(built) as opened:
        for outputs, count in zip(
            opened.run_many(images(count) for count in counts), counts, strict=True
        ):
            agree(outputs, images(count))
        # In the steady state, when batch n is computed, n + 1 has been copied in before it is
        # waited for: the copies' stream holds it ahead of the copies out of n.
        machine.gpu.order.clear()
        assert len(list(opened.run_many([images(3)] * 4))) == 4
    kinds = [kind for kind in machine.gpu.order if kind != "DeviceToHost"]
    assert kinds.count("computation") == 4
    first_out = machine.gpu.order.index("DeviceToHost")
    assert machine.gpu.order[:first_out].count("HostToDevice") == 2


def test_a_pipeline_asks_for_what_it_needs_and_may_be_left(built: Path, machine: Machine) -> None:
    asked = 0

    def batches() -> Iterator[Array]:
        nonlocal asked
        for _ in range(9):
            asked += 1
            yield images(3)

    with machine.open(built) as opened:
        results = opened.run_many(batches())
        assert asked == 0
        agree(next(results), images(3))
        assert asked == 2
        agree(opened.run(images(4)), images(4))  # in between, by itself
        results.close()  # type: ignore[attr-defined]
        memory = machine.gpu.used
        assert list(opened.run_many([])) == []
        agree(next(opened.run_many([images(2)])), images(2))
        assert machine.gpu.used == memory
        with pytest.raises(BatchError):
            list(opened.run_many([images(2), images(5)]))
        results = opened.run_many([images(2)] * 5)
        next(results)
    with pytest.raises(EngineError, match="the session is closed"):
        next(results)


# ---- CUDA graphs ---------------------------------------------------------------------------------


def test_a_size_that_can_not_be_recorded_runs_without_a_graph(
    built: Path, machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    machine.does.failing.add("recording")
    with caplog.at_level(logging.WARNING, "alexc_runtime"), machine.open(built) as opened:
        for count in (3, 3, 4):
            agree(opened.run(images(count)), images(count))
    (record,) = caplog.records
    assert record.message.startswith("tensorrt_rtx runs without CUDA graphs: ")
    assert "cudaGraphLaunch" not in machine.gpu.calls


def test_a_plan_that_says_so_is_not_recorded(
    built: Path, machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    machine.does.capturable = False
    with machine.open(built) as opened:
        agree(opened.run(images(3)), images(3))
    assert "the plan can't be recorded" in caplog.text
    assert "cudaStreamBeginCapture" not in machine.gpu.calls


def test_one_recording_that_another_thread_ends_is_not_the_last(
    built: Path, machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    wait = machine.gpu.library().cudaDeviceSynchronize
    statuses: list[int] = []

    def elsewhere() -> None:
        thread = threading.Thread(target=lambda: statuses.append(int(wait()[0])))
        thread.start()
        thread.join()

    machine.does.while_recording = elsewhere
    with machine.open(built) as opened:
        agree(opened.run(images(3)), images(3))
        assert statuses == [900]
        machine.gpu.last.clear()  # of a thread that is no more
        assert "cudaGraphLaunch" not in machine.gpu.calls
        machine.does.while_recording = lambda: None
        for _ in range(2):
            agree(opened.run(images(3)), images(3))
        assert "cudaGraphLaunch" in machine.gpu.calls
    assert not caplog.records


def test_a_recording_that_fails_in_between_leaves_nothing(built: Path, machine: Machine) -> None:
    machine.does.while_recording = lambda: machine.does.failing.add("execute_async_v3")
    with machine.open(built) as opened:
        with pytest.raises(EngineError, match="the plan did not start"):
            opened.run(images(3))
        machine.does.failing.clear()
        machine.does.while_recording = lambda: None
        agree(opened.run(images(3)), images(3))


def test_a_recording_that_was_ended_and_fails_leaves_no_error_to_others(
    built: Path, machine: Machine
) -> None:
    def ended() -> None:
        for stream in machine.gpu.streams.values():
            stream.invalid = True
        machine.does.failing.add("execute_async_v3")

    machine.does.while_recording = ended
    with machine.open(built) as opened, pytest.raises(EngineError, match="the plan did not start"):
        opened.run(images(3))
    assert "cudaStreamEndCapture" in machine.gpu.calls
    assert machine.gpu.last == {}


def test_what_waits_for_the_whole_gpu_waits_for_recordings(built: Path, machine: Machine) -> None:
    other = cuda.Cuda("another session")
    rested: list[bool] = []
    threads: list[threading.Thread] = []

    def elsewhere() -> None:
        threads.append(threading.Thread(target=lambda: rested.append(other.rest())))
        threads[-1].start()
        threads[-1].join(0.05)

    machine.does.while_recording = elsewhere
    with machine.open(built) as opened:
        for _ in range(2):
            agree(opened.run(images(3)), images(3))
        for thread in threads:
            thread.join()
        assert rested == [True]
        assert "cudaGraphLaunch" in machine.gpu.calls


def test_a_plan_is_loaded_when_nothing_is_recorded(built: Path, machine: Machine) -> None:
    loaded: list[alexc_runtime.Session] = []
    threads: list[threading.Thread] = []

    def elsewhere() -> None:
        if not threads:
            open_another = lambda: loaded.append(alexc_runtime.open(built, "tensorrt_rtx"))  # noqa: E731
            threads.append(threading.Thread(target=open_another))
            threads[0].start()
            threads[0].join(0.1)

    machine.does.while_recording = elsewhere
    with machine.open(built) as opened:
        for _ in range(2):
            agree(opened.run(images(3)), images(3))
        threads[0].join()
        assert "cudaGraphLaunch" in machine.gpu.calls
        agree(loaded[0].run(images(2)), images(2))
        loaded[0].close()


def test_recordings_that_fail_now_and_then_are_not_given_up(
    built: Path, machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    machine.does.profiles = [(1, 5, 9)]
    with machine.open(built) as opened:
        for count in range(1, 8):
            machine.does.failing.add("recording")
            opened.run(images(count))
            machine.does.failing.clear()
            agree(opened.run(images(count)), images(count))
        assert len(machine.gpu.ready_graphs) == 7
    assert not caplog.records


def test_no_thread_lets_a_collection_run_while_another_records() -> None:
    inner, outer = threading.Event(), threading.Event()

    def first() -> None:
        with collection.without_collection():
            inner.set()
            outer.wait()

    thread = threading.Thread(target=first)
    thread.start()
    inner.wait()
    with collection.without_collection():
        outer.set()
        thread.join()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_a_collection_that_begins_just_before_it_is_kept_from_it_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it finds may be an engine, whose end keeps collections from running as well."""
    nested: list[bool] = []

    def isenabled() -> bool:
        if not nested:
            nested.append(True)
            with collection.without_collection():
                assert not gc.isenabled()
        return gc.isenabled()

    fake = SimpleNamespace(isenabled=isenabled, disable=gc.disable, enable=gc.enable)
    monkeypatch.setattr(collection, "gc", fake)
    done = threading.Event()

    def work() -> None:
        with collection.without_collection():
            assert not gc.isenabled()
        done.set()

    threading.Thread(target=work, daemon=True).start()
    assert done.wait(5)
    assert gc.isenabled()


@pytest.mark.parametrize("waiting", ["close", "rest"])
def test_who_waits_for_the_collector_keeps_nobody_from_recording(
    built: Path, machine: Machine, waiting: str
) -> None:
    """In the thread that it waits for, a collection may end an engine, which waits for that."""
    opened = machine.open(built)
    work = opened.close if waiting == "close" else cuda.Cuda("another session").rest
    with collection._collector._lock:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(0.1)
        assert thread.is_alive()
        free = cuda._recording.acquire(timeout=0.1)
        if free:
            cuda._recording.release()
    thread.join()
    opened.close()
    assert free


def test_the_number_of_graphs_is_bounded(built: Path, machine: Machine) -> None:
    machine.patch.setattr(launches, "MOST_GRAPHS", 2)
    machine.does.profiles = [(1, 3, 9)]
    with machine.open(built) as opened:
        for count in range(1, 8):
            agree(opened.run(images(count)), images(count))
        assert len(machine.gpu.ready_graphs) == 2
        # Two graphs and one context for all the rest.
        assert machine.does.contexts == 3
        for _ in range(9):  # what comes often takes the place of another
            agree(opened.run(images(7)), images(7))
        machine.gpu.calls.clear()
        opened.run(images(7))
        assert "cudaGraphLaunch" in machine.gpu.calls
        assert len(machine.gpu.ready_graphs) == 2
        agree(opened.run(images(1)), images(1))


def test_a_batch_runs_in_the_narrowest_profile_that_takes_it(built: Path, machine: Machine) -> None:
    machine.does.profiles = [(1, 5, 9), (1, 1, 1), (12, 12, 12)]
    with machine.open(built) as opened:
        assert opened.batch_limits == (1, 12)
        for count in (1, 2, 12, 9, 1):
            agree(opened.run(images(count)), images(count))
        plan = opened._engine._plan  # type: ignore[union-attr]
        assert [plan.profile(count).index for count in (1, 2, 9, 12)] == [1, 0, 0, 2]
        with pytest.raises(BatchError, match="the profiles of the plan take 1 to 9, 1 to 1, 12 to"):
            opened.run(images(10))
        agree(opened.run(images(9)), images(9))


# ---- the end -------------------------------------------------------------------------------------


def test_closing_twice_and_late_is_well(built: Path, machine: Machine) -> None:
    opened = machine.open(built)
    opened.run(images(3))
    opened.close()
    opened.close()
    assert machine.gpu.left() == {}
    with pytest.raises(EngineError, match="the session is closed"):
        opened.run(images(3))


def test_a_session_that_nobody_closes_is_closed_at_its_collection(
    built: Path, machine: Machine
) -> None:
    opened = machine.open(built)
    opened.run(images(3))
    assert machine.gpu.left()
    gc.disable()
    try:
        del opened  # which nothing else holds, so that it takes no collection
        assert machine.gpu.left() == {}
    finally:
        gc.enable()


def test_python_ends_with_a_session_open_and_leaves_nothing(built: Path, tmp_path: Path) -> None:
    script = """
import atexit, sys
from pathlib import Path
import pytest
from tests.gpu_machine import gpu_machine
from tests.small_bundle import images

atexit.register(lambda: print("left:", machine.gpu.left()))  # the last to be called
context = gpu_machine(pytest.MonkeyPatch(), Path(sys.argv[2]))
machine = context.__enter__()
opened = machine.open(Path(sys.argv[1]))
opened.run(images(3))
results = opened.run_many([images(3)] * 3)
next(results)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(built), str(tmp_path)],
        capture_output=True, text=True, cwd=Path(__file__).parents[1],
        env={**os.environ, "PYTHONPATH": "runtime"},
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("left: {}\n", "")


@pytest.mark.parametrize(
    "failing", ["cudaGraphLaunch", "cudaStreamSynchronize", "set_input_shape", "execute_async_v3"]
)
def test_a_plan_that_fails_while_running_is_an_engine_error(
    built: Path, machine: Machine, failing: str
) -> None:
    gpu, does = machine.gpu, machine.does
    with machine.open(built) as opened:
        opened.run(images(3))
        gpu.failing[failing] = Status["cudaErrorIllegalAddress"]
        does.failing.add(failing)
        count = 3 if failing.startswith("cuda") else 2
        with pytest.raises(EngineError, match=r"^tensorrt_rtx failed") as caught:
            opened.run(images(count))
        if failing.startswith("cuda"):
            assert "CUDA error 700, an illegal memory access" in caught.value.message
            assert caught.value.help == "the process can't use the GPU any more: start it again"
        gpu.failing.clear()
        does.failing.clear()
        agree(opened.run(images(2)), images(2))


def test_nothing_is_freed_while_a_copy_goes_on(built: Path, machine: Machine) -> None:
    with machine.open(built) as opened:
        machine.does.failing.add("execute_async_v3")
        with pytest.raises(EngineError, match="the plan did not start"):
            opened.run(images(2))
        assert machine.gpu.calls[-1] == "cudaStreamSynchronize"
        results = opened.run_many([images(2)])
        with pytest.raises(EngineError, match="the plan did not start"):
            next(results)


# ---- loading -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "failing",
    [
        "deserialize_cuda_engine",
        "Runtime",
        "cudaStreamCreateWithFlags",
        "cudaEventCreateWithFlags",
        "cudaMalloc",
        "cudaMallocHost",
    ],
)
def test_a_plan_that_does_not_load_holds_nothing(
    built: Path, machine: Machine, failing: str
) -> None:
    machine.does.failing.add(failing)
    machine.gpu.failing[failing] = Status["cudaErrorIllegalAddress"]
    with pytest.raises(
        EngineError, match=r"^tensorrt_rtx( 1\.7\.1\.2)? (can't load|failed)"
    ) as caught:
        machine.open(built)
    assert machine.gpu.left() == {}
    if failing == "deserialize_cuda_engine":
        assert caught.value.notes == ("the plan is of version 9",)
        assert "GPUs than this one (GPU of straw, compute capability 8.9)" in caught.value.message
        assert caught.value.help == (
            "build it on this machine with `alexc build`; or: "
            "onnxruntime runs it on this machine: open(path, 'onnxruntime')"
        )


def test_too_little_memory_is_told_in_numbers(built: Path, machine: Machine) -> None:
    machine.gpu.total = 9000
    with pytest.raises(EngineError) as caught:
        machine.open(built)
    assert caught.value.code == "engine/memory"
    assert caught.value.message == (
        "tensorrt_rtx wants 10.2 kB on the GPU for batches of up to 4, and 4.9 kB of 9.0 kB are "
        "free"
    )
    assert str(caught.value.help).startswith("build with a smaller --batch MIN,OPT,MAX, or end")


@pytest.mark.parametrize("said", ["Cuda Runtime (out of memory)", "Error Code 2: OutOfMemory (…)"])
def test_a_plan_that_finds_too_little_memory_is_not_called_damaged(
    built: Path, machine: Machine, said: str
) -> None:
    machine.does.said = said
    machine.does.failing.add("deserialize_cuda_engine")
    with pytest.raises(EngineError, match="there is too little memory for it") as caught:
        machine.open(built)
    assert caught.value.notes == (said,)
    assert "1.1 of 1.1 GB on the GPU are free" in str(caught.value.help)


def test_the_end_waits_for_what_other_threads_read(built: Path, machine: Machine) -> None:
    library = sys.modules[cuda.MODULE]
    wait, reached, go_on = library.cudaEventSynchronize, threading.Event(), threading.Event()

    def slow(event: Any) -> Any:
        reached.set()
        go_on.wait()
        return wait(event)

    opened = machine.open(built)
    results = opened.run_many([images(3)])
    found: list[dict[str, Any]] = []
    machine.patch.setattr(library, "cudaEventSynchronize", slow)
    reading = threading.Thread(target=lambda: found.append(next(results)))
    reading.start()
    reached.wait()
    closing = threading.Thread(target=opened.close)
    closing.start()
    closing.join(0.05)
    assert closing.is_alive()
    assert machine.gpu.left()
    go_on.set()
    for thread in (reading, closing):
        thread.join()
    agree(found[0], images(3))
    assert machine.gpu.left() == {}


def test_an_end_that_was_interrupted_comes_with_that_of_the_engine(
    built: Path, machine: Machine
) -> None:
    opened = machine.open(built)
    assert isinstance(opened._engine, tensorrt.TensorRT)
    state = opened._engine._state
    using, done = threading.Event(), threading.Event()

    def use() -> None:
        with state.used():
            using.set()
            done.wait()

    really = state._unused.wait

    def interrupted() -> None:
        machine.patch.setattr(state._unused, "wait", really)
        done.set()
        raise KeyboardInterrupt

    thread = threading.Thread(target=use)
    thread.start()
    using.wait()
    machine.patch.setattr(state._unused, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        opened.close()
    gc.collect()
    thread.join()
    assert machine.gpu.left() == {}


def test_a_size_for_which_no_context_can_be_made_is_an_error(built: Path, machine: Machine) -> None:
    with machine.open(built) as opened:
        opened.run(images(3))
        machine.does.failing.add("create_execution_context")
        with pytest.raises(EngineError, match="no execution context could be made") as caught:
            opened.run(images(2))
        assert "build with a smaller --batch" in str(caught.value.help)
        agree(opened.run(images(3)), images(3))


@pytest.mark.parametrize(
    ("invalid", "text", "help"),
    [
        ("VERSION_MISMATCH", "it was built by another version", "build it on this machine"),
        ("UNSUPPORTED_CC", "it was not built for this kind of GPU", "build it on this machine"),
        ("OLD_CUDA_DRIVER", "the NVIDIA driver is too old", "update the NVIDIA driver"),
        ("MALFORMED_ENGINE", "it is damaged or no plan", "build it on this machine"),
        ("INSUFFICIENT_GPU_MEMORY", "too little free memory", "end what else runs on the GPU"),
    ],
)
def test_what_the_library_finds_wrong_is_told_before_loading(
    built: Path, machine: Machine, invalid: str, text: str, help: str
) -> None:
    machine.does.invalid = EngineInvalidityDiagnostics[invalid]
    with pytest.raises(EngineError, match=text) as caught:
        machine.open(built)
    assert str(caught.value.help).startswith(help)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"shapes": {"input": (-1, *IMAGE), "x": (-1, 5)}}, "from input to x, and the manifest"),
        (
            {"shapes": {"input": (-1, 3, 11, 9), "scores": (-1, 5), "conv": (-1, 5, 7, 9)}},
            "its input is 3×11×9, and the manifest says 3×9×11",
        ),
        (
            {
                "types": {
                    "input": DataType.FLOAT,
                    "scores": DataType.FLOAT,
                    "conv": DataType.HALF,
                }
            },
            "its conv is DataType.HALF, and a bundle's is float32",
        ),
    ],
)
def test_a_plan_of_another_network_is_refused(
    built: Path, machine: Machine, change: dict[str, Any], text: str
) -> None:
    vars(machine.does).update(change)
    with pytest.raises(EngineError, match=re.escape(text)):
        machine.open(built)


def test_what_the_machine_lacks_for_a_plan_is_told_exactly(
    built: Path, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reason() -> str:
        with pytest.raises(EngineUnavailableError) as caught:
            alexc_runtime.open(built, "tensorrt_rtx")
        assert caught.value.help == "onnxruntime runs it on this machine: open(path, 'onnxruntime')"
        return caught.value.message.removeprefix(f"tensorrt_rtx can't run {built}: ")

    gpu = machine.gpu
    with monkeypatch.context() as patch:
        (tmp_path / "tensorrt_rtx.py").write_text("raise OSError('libnvinfer.so.10: not found')\n")
        patch.syspath_prepend(tmp_path)
        patch.delitem(sys.modules, "tensorrt_rtx", raising=False)
        assert reason() == (
            "tensorrt-rtx is installed but does not load: libnvinfer.so.10: not found; "
            "pip install --force-reinstall tensorrt-rtx brings its libraries"
        )
    machine.patch.setitem(sys.modules, "tensorrt_rtx", None)
    assert reason() == "the package tensorrt-rtx is not installed"
    gpu.devices = 0
    none = "there is no NVIDIA GPU on this machine, or CUDA_VISIBLE_DEVICES hides it"
    assert reason() == none
    gpu.failing["cudaGetDeviceCount"] = Status["cudaErrorNoDevice"]
    assert reason() == none
    gpu.failing["cudaGetDeviceCount"] = Status["cudaErrorInsufficientDriver"]
    gpu.driver = 12040
    assert reason() == (
        "the NVIDIA driver is too old: it offers CUDA 12.4, and the installed cuda-python is of "
        "CUDA 13.0; update the driver, or pip install 'cuda-python==12.*'"
    )
    gpu.driver = 11080
    assert reason() == (
        "the NVIDIA driver is too old: it offers CUDA 11.8, and the installed cuda-python is of "
        "CUDA 13.0; update the driver"
    )
    gpu.driver = 0
    assert reason() == "there is no NVIDIA driver on this machine"
    gpu.failing["cudaGetDeviceCount"] = Status["cudaErrorMemoryAllocation"]
    assert reason() == "CUDA can't use the NVIDIA driver: out of memory"
    with monkeypatch.context() as patch:
        patch.setattr(cuda, "no_driver", lambda: None)
        patch.setattr(sys.modules[cuda.MODULE], "cudaGetDeviceCount", _not_in_the_driver)
        assert reason() == 'CUDA can\'t use the NVIDIA driver: Function "cuInit" not found'
    machine.patch.setitem(sys.modules, cuda.MODULE, None)
    assert reason() == (
        "the package cuda-python is not installed, or is one without cuda.bindings.runtime"
    )
    machine.patch.setattr(tensorrt, "no_driver", lambda: "there is no NVIDIA driver here")
    assert reason() == "there is no NVIDIA driver here"


def _not_in_the_driver() -> None:
    raise RuntimeError('Function "cuInit" not found')


@pytest.mark.parametrize(
    ("built_as", "gpu", "text"),
    [
        (Built("1.6.0.9"), (8, 9), "built by tensorrt-rtx 1.6.0.9, and 1.7.1.2 is installed"),
        (Built("1.6.0.9", any_version=True), (8, 9), None),
        (Built("1.10.0.1", any_version=True), (8, 9), "pip install tensorrt-rtx==1.10.0.1"),
        (Built("1.7.1.2", targets=("8.0", "8.9")), (8, 9), None),
        (
            Built("1.7.1.2", targets=("8.0", "8.9")),
            (12, 0),
            "compute capability 8.0, 8.9, and this one (GPU of straw) has 12.0",
        ),
        (Built("1.7.1.2"), (7, 0), "has compute capability 7.0, and plans take 7.5 or later"),
    ],
)
def test_a_foreign_plan_is_known_before_it_is_loaded(
    tmp_path: Path, machine: Machine, built_as: Built, gpu: tuple[int, int], text: str | None
) -> None:
    record = EngineRecord("tensorrt_rtx", "fp32", "verified", PLAN, built_as)
    make(tmp_path / "small", engines=(record, EngineRecord("onnxruntime", "fp32", "x", MODEL)))
    machine.gpu.capability = gpu
    if text is None:
        machine.open(tmp_path / "small").close()
        return
    machine.does.failing.add("deserialize_cuda_engine")
    with pytest.raises(EngineUnavailableError, match=re.escape(text)) as caught:
        machine.open(tmp_path / "small")
    assert caught.value.help == "onnxruntime runs it on this machine: open(path, 'onnxruntime')"
    with alexc_runtime.open(tmp_path / "small", threads=1) as opened:
        assert opened.engine == "onnxruntime"
        assert text in opened.why


def test_a_gpu_that_does_not_answer_is_an_obstacle(tmp_path: Path, machine: Machine) -> None:
    record = EngineRecord("tensorrt_rtx", "fp32", "verified", PLAN, Built("1.7.1.2"))
    make(tmp_path / "small", engines=(record, EngineRecord("onnxruntime", "fp32", "x", MODEL)))
    machine.gpu.failing["cudaGetDevice"] = Status["cudaErrorIllegalAddress"]
    with pytest.raises(EngineUnavailableError, match="CUDA error 700"):
        machine.open(tmp_path / "small")
    with alexc_runtime.open(tmp_path / "small", threads=1) as opened:
        assert opened.engine == "onnxruntime"


def test_one_class_serves_both_libraries(tmp_path: Path, machine: Machine) -> None:
    make(tmp_path / "small", engines=(EngineRecord("tensorrt", "fp32", "verified", PLAN),))
    with machine.open(tmp_path / "small", "tensorrt") as opened:
        assert opened.engine == "tensorrt"
        for count in (3, 3, 2):
            agree(opened.run(images(count)), images(count))
        assert "cudaGraphLaunch" in machine.gpu.calls
    assert not (tmp_path / "cache").exists()


def test_a_plan_that_needs_no_memory_to_work_in_is_given_some(
    built: Path, machine: Machine
) -> None:
    machine.does.scratch = 0
    with machine.open(built) as opened:
        agree(opened.run(images(3)), images(3))


# ---- weights and kernels -------------------------------------------------------------------------


def test_a_plan_without_weights_gets_those_of_the_bundle(built: Path, machine: Machine) -> None:
    machine.does.stripped = True
    with machine.open(built) as opened:
        agree(opened.run(images(3)), images(3))


def test_weights_are_put_into_a_stripped_plan(tmp_path: Path, machine: Machine) -> None:
    kernel = weights()["conv.weight"]
    machine.does.plan = b"before" + kernel.tobytes() + b"after"
    place = Place("conv.weight", len(b"before"), "float32", kernel.shape, (0, 1, 2, 3))
    with staged(tmp_path / "small") as stage:
        fill(stage.folder)
        (stage.folder / PLAN).write_bytes(strip(machine.does.plan, [place]))
        stage.commit(MANIFEST)
    with machine.open(tmp_path / "small") as opened:
        agree(opened.run(images(3)), images(3))


@pytest.mark.parametrize(
    ("failing", "said"),
    [
        ("refit_from_file", "of model.onnx: Only successfully refitted 1 weights out of 2\n"),
        ("refit_cuda_engine", "it does not take the weights of model.onnx"),
        ("get_missing_weights", "it lacks the weights conv.bias"),
    ],
)
def test_weights_that_a_plan_does_not_take_are_an_error(
    built: Path, machine: Machine, failing: str, said: str
) -> None:
    machine.does.stripped = True
    machine.does.failing.add(failing)
    with pytest.raises(EngineError, match=said):
        machine.open(built)


def test_compiled_kernels_are_kept_for_the_next_time(
    built: Path, machine: Machine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with machine.open(built) as opened:
        opened.run(images(3))
        opened.run(images(2))
    (file,) = (tmp_path / "cache" / "kernels").iterdir()
    assert file.read_bytes() == b"kernels\x02\x03"
    machine.does.compiled.clear()
    with machine.open(built) as opened:
        opened.run(images(4))
    assert file.read_bytes() == b"kernels\x02\x03\x04"
    file.write_bytes(b"nonsense")
    with machine.open(built) as opened:
        agree(opened.run(images(4)), images(4))
    assert "tensorrt_rtx does not take it" in caplog.text
    machine.gpu.capability = (9, 0)
    with machine.open(built) as opened:
        opened.run(images(4))
    assert len(list((tmp_path / "cache" / "kernels").iterdir())) == 2


@pytest.mark.parametrize("where", ["", "file"])
def test_without_a_cache_a_plan_runs_as_well(
    built: Path, machine: Machine, tmp_path: Path, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    machine.patch.setenv("ALEXC_CACHE", where and str(tmp_path / where))
    with machine.open(built) as opened:
        agree(opened.run(images(3)), images(3))
    assert ("is not kept" in caplog.text) == bool(where)


# ---- the doubles ---------------------------------------------------------------------------------


def _names(thing: Any) -> set[str]:
    return {name for name in vars(thing) if not name.startswith("_")}


def _check_names(fake: ModuleType, real: Any) -> None:
    for name in _names(fake):
        assert hasattr(real, name), name
        if isinstance(vars(fake)[name], type):
            for member in _names(vars(fake)[name]):
                assert hasattr(getattr(real, name), member), f"{name}.{member}"
                own = getattr(vars(fake)[name], member)
                if inspect.isfunction(own):
                    counts = _counts(getattr(getattr(real, name), member))
                    assert len(inspect.signature(own).parameters) in counts, f"{name}.{member}"


def _counts(function: Any) -> set[int]:
    """How many parameters a function of the bindings takes, in each of its forms, by its page."""
    page = re.sub("<[^<>]*>", "", function.__doc__)  # without defaults, which have colons too
    forms = re.findall(rf"\b{function.__name__}\((.*)\) -> ", page)
    return {len(re.findall(r"\w+: ", form)) for form in forms}


def test_every_name_used_of_tensorrt_is_in_the_real_library() -> None:
    real = pytest.importorskip("tensorrt_rtx")
    fake = tensorrt_double.library(Gpu(), Behaviour())
    del fake.IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy
    _check_names(fake, real)
    assert hasattr(real.IRuntimeConfig, "dynamic_shapes_kernel_specialization_strategy")
    # The attributes that the double sets on its objects.
    for name in ("refittable", "device_memory_size_v2", "num_io_tensors"):
        assert hasattr(real.ICudaEngine, name)
    # The engine's own logger, too, is one that the library takes.
    log = tensorrt_plan.log(real)
    real.Runtime(log)
    log.log(real.ILogger.ERROR, "first\nsecond")
    log.log(real.ILogger.INFO, "third")
    assert "first" in log.messages
    assert "third" not in log.messages


def test_tensorrt_takes_a_stripped_plan_for_none() -> None:
    """As a runtime that does not know of such would give it: it must refuse, and not misread."""
    real = pytest.importorskip("tensorrt_rtx")
    runtime = real.Runtime(real.Logger(real.Logger.INTERNAL_ERROR))
    kernel = weights()["conv.weight"]
    place = Place("conv.weight", 64, "float32", kernel.shape, (0, 1, 2, 3))
    plan = strip(bytes(64) + kernel.tobytes() + bytes(640), [place])
    validity, found = runtime.get_engine_validity(plan)
    assert validity == real.EngineValidity.INVALID
    assert found & int(real.EngineInvalidityDiagnostics.MALFORMED_ENGINE)


@pytest.mark.gpu
def test_a_real_plan_runs_on_a_real_gpu(tmp_path: Path) -> None:
    library = pytest.importorskip("tensorrt_rtx")
    pytest.importorskip("cuda.bindings.runtime")
    log = library.Logger(library.Logger.ERROR)
    builder = library.Builder(log)
    network = builder.create_network(1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    with staged(tmp_path / "small") as stage:
        fill(stage.folder)
        assert library.OnnxParser(network, log).parse_from_file(str(stage.folder / MODEL))
        profile = builder.create_optimization_profile()
        profile.set_shape("input", *((count, *IMAGE) for count in (1, 2, 4)))
        config = builder.create_builder_config()
        config.add_optimization_profile(profile)
        plan = builder.build_serialized_network(network, config)
        (stage.folder / PLAN).write_bytes(bytes(plan))
        stage.commit(MANIFEST)
    try:
        opening = alexc_runtime.open(tmp_path / "small", "tensorrt_rtx")
    except EngineError as error:
        if "it was not built for this kind of GPU" not in error.message:
            raise
        pytest.skip(error.message)  # the library does not list every GPU that there is
    with opening as opened:
        assert opened.batch_limits == (1, 4)
        for count in (1, 4, 3):
            outputs = opened.run(images(count))
            for name, value in expected(images(count)).items():
                # TF32 keeps 11 bits of each factor.
                np.testing.assert_allclose(outputs[name], value, rtol=1e-2, atol=1e-2)
        counts = [3, 1, 4, 2, 3]
        for outputs, count in zip(
            opened.run_many(images(count) for count in counts), counts, strict=True
        ):
            scores = expected(images(count))["scores"]
            np.testing.assert_allclose(outputs["scores"], scores, rtol=1e-2, atol=1e-2)
        torch = pytest.importorskip("torch")
        for count in (2, 4, 2, 2):
            there = opened.run(torch.from_numpy(images(count)).cuda())["scores"]
            scores = expected(images(count))["scores"]
            found = torch.from_dlpack(there).cpu().numpy()
            np.testing.assert_allclose(found, scores, rtol=1e-2, atol=1e-2)
            np.testing.assert_array_equal(there.numpy(), found)
