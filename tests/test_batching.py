"""Dynamic batching: who is run together, who gets what, and what becomes of faults and haste."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import alexc_runtime
from alexc_runtime import Batcher, BatchError, BusyError, EngineError, Session, batching
from alexc_runtime.engines.base import Engine
from alexc_runtime.manifest import open_bundle
from tests.small_bundle import IMAGE, MANIFEST, Array, built, expected, images

__all__ = ["built"]

PATIENCE = 20.0  # seconds; nothing here takes one


class Gate(Engine):
    """An engine that waits to be let through, run by run, and notes the batches it is given.

    The scores of an image are its first number plus 0, 1, 2, 3, 4.
    """

    name: ClassVar[str] = "onnxruntime"
    batch_limits: tuple[int, int | None] = (1, 8)

    def __init__(self, *_: object) -> None:
        self.sizes: list[int] = []
        self.entered = threading.Semaphore(0)
        self.permits = threading.Semaphore(0)
        self.fault: Exception | None = None

    @classmethod
    def obstacle(cls) -> str | None:
        return None

    def run(self, batch: Array) -> dict[str, Array]:
        self.sizes.append(len(batch))
        self.entered.release()
        assert self.permits.acquire(timeout=PATIENCE)
        if self.fault is not None:
            raise self.fault
        scores = np.asarray(batch[:, 0, 0, 0, np.newaxis] + np.arange(5), np.float32)
        return {"scores": scores, "conv": np.zeros((len(batch), 5, 7, 9), np.float32)}

    def close(self) -> None:
        self.sizes.clear()


class Held:
    """A batcher in front of a gate. `busy` starts a run of one image, and holds it."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        bundle = open_bundle(folder)
        self.gate = Gate()
        self.batcher = Batcher(
            Session(bundle, self.gate, MANIFEST.engines[0], "a test"), **settings
        )

    def busy(self) -> Future[Any]:
        first = self.batcher.submit(numbered(99))
        assert self.gate.entered.acquire(timeout=PATIENCE)
        return first

    def go(self, runs: int = 50) -> None:
        self.gate.permits.release(runs)


@pytest.fixture
def held(built: Path) -> Iterator[Callable[..., Held]]:
    made: list[Held] = []

    def make_one(**settings: Any) -> Held:
        made.append(Held(built, **settings))
        return made[-1]

    yield make_one
    for each in made:
        each.go()
        each.batcher.close()
        assert not each.batcher._worker.is_alive()


def numbered(*numbers: float) -> Array:
    """An image for each number, which is all that is in it."""
    batch = np.empty((len(numbers), *IMAGE), np.float32)
    batch[...] = np.array(numbers, np.float32)[:, None, None, None]
    return batch


def first_scores(future: Future[Any]) -> list[float]:
    outputs = future.result(PATIENCE)
    return [float(score) for score in outputs["scores"][:, 0]]


# ---- together ------------------------------------------------------------------------------------


def test_the_example_in_the_docstring_runs(
    built: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert batching.__doc__
    (example,) = re.findall(r"(?:^    .*\n)+", batching.__doc__, re.MULTILINE)
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "alexnet").symlink_to(built)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"alexc_runtime": alexc_runtime, "images": images(2)}
    exec(textwrap.dedent(example), names)
    np.testing.assert_array_equal(names["outputs"]["conv"], names["future"].result()["conv"])


def test_what_comes_while_the_engine_is_busy_is_run_together(held: Callable[..., Held]) -> None:
    one = held(max_batch=5)
    first = one.busy()
    parts = [(1.0, 2.0), (3.0,), (4.0, 5.0, 6.0), (7.0,), (8.0, 9.0, 10.0, 11.0, 12.0, 13.0)]
    futures = [one.batcher.submit(numbered(*part)) for part in parts]
    one.go()
    assert first_scores(first) == [99.0]
    for future, part in zip(futures, parts, strict=True):
        assert first_scores(future) == list(part)
    # In the order of arrival, none split; the last is larger than a batch and runs alone.
    assert one.gate.sizes == [1, 3, 4, 6]
    assert one.batcher.counts == alexc_runtime.Counts(requests=6, images=14, runs=4)


def test_rows_are_the_requesters_own(held: Callable[..., Held]) -> None:
    one = held(max_batch=4)
    one.busy()
    futures = [one.batcher.submit(numbered(float(number))) for number in range(3)]
    one.go()
    outputs = [future.result(PATIENCE)["scores"] for future in futures]
    outputs[0][...] = -1
    assert outputs[1][0, 0] == 1.0
    assert all(array.base is None for array in outputs)


def test_a_batch_that_is_full_does_not_wait(held: Callable[..., Held]) -> None:
    one = held(max_batch=3, max_delay_ms=PATIENCE * 1e3)
    one.busy()
    futures = [one.batcher.submit(numbered(1.0))]
    start = time.monotonic()
    one.go()
    futures.append(one.batcher.submit(numbered(2.0, 3.0)))
    assert [first_scores(future) for future in futures] == [[1.0], [2.0, 3.0]]
    assert time.monotonic() - start < PATIENCE / 2
    assert one.gate.sizes == [1, 3]


def test_the_oldest_request_waits_no_longer_than_it_is_told(held: Callable[..., Held]) -> None:
    one = held(max_batch=8, max_delay_ms=60.0)
    one.busy()
    start = time.monotonic()
    future = one.batcher.submit(numbered(1.0))  # came while the engine was busy: more may come
    one.go()
    assert first_scores(future) == [1.0]
    assert 0.06 <= time.monotonic() - start < PATIENCE / 2


def test_a_client_alone_does_not_wait(held: Callable[..., Held]) -> None:
    one = held(max_batch=8, max_delay_ms=PATIENCE * 1e3)
    one.go()
    for number in range(3):
        assert first_scores(one.batcher.submit(numbered(float(number)))) == [float(number)]


def test_waiting_takes_no_processor_time(held: Callable[..., Held]) -> None:
    one = held(max_batch=8, max_delay_ms=300.0)
    one.busy()
    future = one.batcher.submit(numbered(1.0))
    start, processor = time.monotonic(), time.process_time()
    one.go()
    assert first_scores(future) == [1.0]
    time.sleep(0.1)
    assert time.monotonic() - start > 0.3
    assert time.process_time() - processor < 0.1


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_nobody_loses_a_request_or_gets_anothers(built: Path, engine: str) -> None:
    def client(number: int) -> int:
        generator = np.random.default_rng(number)
        wrong = 0
        for index in range(30):
            batch = images(int(generator.integers(1, 5))) + np.float32(number + index / 64)
            if index % 11 == 5:
                with pytest.raises(BatchError):
                    batcher.run(batch[:, :1])
            elif index % 7 == 3:
                batcher.submit(batch).cancel()
            value = expected(batch)
            found = batcher.run(batch, timeout=PATIENCE)
            for name, array in value.items():
                wrong += not np.allclose(found[name], array, rtol=1e-4, atol=1e-4)
                assert found[name].shape == array.shape
        return wrong

    with (
        alexc_runtime.open(built, engine, threads=1) as session,
        Batcher(session, max_batch=7, max_delay_ms=0.5, max_waiting=11) as batcher,
        ThreadPoolExecutor(12) as pool,
    ):
        assert sum(pool.map(client, range(12))) == 0
        counts = batcher.counts
    assert counts.requests >= 12 * 30
    assert counts.runs < counts.requests


# ---- faults --------------------------------------------------------------------------------------


def test_a_wrong_input_is_its_requesters_fault_alone(held: Callable[..., Held]) -> None:
    one = held(max_batch=4)
    one.busy()
    before = one.batcher.submit(numbered(1.0))
    with pytest.raises(BatchError, match=r"batch\[np.newaxis\]"):
        one.batcher.submit(np.zeros(IMAGE, np.float32))
    with pytest.raises(BatchError, match="holds float64"):
        one.batcher.run(np.zeros((2, *IMAGE)))
    with pytest.raises(BatchError, match="a batch of 9 images; onnxruntime takes 1 to 8"):
        one.batcher.submit(numbered(*range(9)))
    after = one.batcher.submit(numbered(2.0))
    one.go()
    assert (first_scores(before), first_scores(after)) == ([1.0], [2.0])


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (EngineError("engine/run", "it ran out of memory", notes=("8 GB",)), "out of memory"),
        (MemoryError("no more"), "the run failed: MemoryError: no more"),
    ],
)
def test_an_engines_fault_is_everybodys_in_that_batch_and_nobody_elses(
    held: Callable[..., Held], fault: Exception, text: str
) -> None:
    one = held(max_batch=4)
    first = one.busy()
    together = [one.batcher.submit(numbered(float(number))) for number in range(4)]
    later = one.batcher.submit(numbered(4.0, 5.0))
    one.go(1)
    assert first_scores(first) == [99.0]
    assert one.gate.entered.acquire(timeout=PATIENCE)
    one.gate.fault = fault
    one.go(1)
    errors = [future.exception(PATIENCE) for future in together]
    one.gate.fault = None
    one.go()
    assert all(isinstance(error, EngineError) and text in str(error) for error in errors)
    assert all(error.__cause__ is fault for error in errors if error is not None)
    assert len(set(map(id, errors))) == 4, "threads that raise one object mix their tracebacks"
    assert first_scores(later) == [4.0, 5.0]
    assert one.gate.sizes == [1, 4, 2]


def test_settings_that_make_no_sense_are_refused(held: Callable[..., Held]) -> None:
    for settings, text in (
        ({"max_batch": 9}, "batches of 9 images can't be gathered: onnxruntime takes 1 to 8"),
        ({"max_batch": 0}, "batches of 0 images"),
        ({"max_delay_ms": -1.0}, "max_delay_ms is 0 or more, not -1"),
        ({"max_delay_ms": float("nan")}, "not nan"),
        ({"max_waiting": 0}, "max_waiting is 1 or more, not 0"),
    ):
        with pytest.raises(BatchError, match=text):
            held(**settings)


# ---- haste ---------------------------------------------------------------------------------------


def test_a_full_queue_makes_wait_or_says_so(held: Callable[..., Held]) -> None:
    one = held(max_batch=2, max_waiting=3)
    one.busy()
    waiting = [one.batcher.submit(numbered(1.0, 2.0)), one.batcher.submit(numbered(3.0))]
    with pytest.raises(BusyError, match="3 images wait already, of 3") as caught:
        one.batcher.submit(numbered(4.0), timeout=0.0)
    assert caught.value.code == "batcher/full"
    with pytest.raises(BusyError):
        one.batcher.run(numbered(4.0), timeout=0.02)
    with ThreadPoolExecutor(1) as pool:
        patient = pool.submit(one.batcher.run, numbered(5.0), PATIENCE)
        one.go()
        assert patient.result(PATIENCE)["scores"][0, 0] == 5.0
    assert [first_scores(future) for future in waiting] == [[1.0, 2.0], [3.0]]


def test_waiting_for_ever_is_no_error_and_never_the_workers_end(held: Callable[..., Held]) -> None:
    one = held(max_batch=3, max_delay_ms=1e308)
    one.busy()
    together = [one.batcher.submit(numbered(1.0)), one.batcher.submit(numbered(2.0))]
    one.go()
    with ThreadPoolExecutor(1) as pool:
        patient = pool.submit(one.batcher.run, numbered(3.0), float("inf"))
        assert patient.result(PATIENCE)["scores"][0, 0] == 3.0
    assert [first_scores(future) for future in together] == [[1.0], [2.0]]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_after_a_fork_a_request_is_refused_and_does_not_wait_for_ever(built: Path) -> None:
    script = """
        import os, sys, numpy, alexc_runtime
        session = alexc_runtime.open(sys.argv[1], "onnxruntime", threads=1)
        batcher = alexc_runtime.Batcher(session)
        child = os.fork()
        if child == 0:
            try:
                says = session.manifest.input
                batcher.run(numpy.zeros((1, *says.shape), says.dtype))
            except alexc_runtime.EngineError as error:
                os._exit(7 if error.code == "batcher/process" else 1)
            os._exit(2)
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script), str(built)]
    assert subprocess.run(command, timeout=PATIENCE, check=False).returncode == 7


def test_a_request_that_is_cancelled_or_too_late_is_not_run(held: Callable[..., Held]) -> None:
    one = held(max_batch=4)
    one.busy()
    dropped, kept = one.batcher.submit(numbered(1.0)), one.batcher.submit(numbered(2.0))
    assert dropped.cancel()
    with pytest.raises(BusyError, match=r"no result after 0.02 s"):
        one.batcher.run(numbered(3.0), timeout=0.02)
    one.go()
    assert first_scores(kept) == [2.0]
    assert one.gate.sizes == [1, 1]


def test_a_callback_may_ask_for_more_and_not_wait_for_it(held: Callable[..., Held]) -> None:
    one = held(max_batch=4, max_waiting=1)
    found: list[Any] = []
    done = threading.Event()

    def ask_again(_: Future[Any]) -> None:
        try:
            one.batcher.run(numbered(2.0))
        except EngineError as error:
            found.append(error.code)
        found.append(one.batcher.submit(numbered(3.0)))
        try:
            one.batcher.submit(numbered(4.0))  # there is no room, and only this thread makes any
        except BusyError as error:
            found.append(error.code)
        done.set()

    one.busy().add_done_callback(ask_again)
    one.go()
    assert done.wait(PATIENCE)
    code, future, full = found
    assert (code, first_scores(future), full) == ("batcher/callback", [3.0], "batcher/full")


# ---- closing -------------------------------------------------------------------------------------


def test_closing_runs_what_waits(held: Callable[..., Held]) -> None:
    one = held(max_batch=2, max_delay_ms=PATIENCE * 1e3)
    one.busy()
    futures = [one.batcher.submit(numbered(float(number))) for number in range(3)]
    one.go()
    one.batcher.close()
    one.batcher.close()
    assert all(future.done() for future in futures)
    assert [first_scores(future) for future in futures] == [[0.0], [1.0], [2.0]]
    with pytest.raises(EngineError, match="the batcher is closed"):
        one.batcher.submit(numbered(3.0))


def test_closing_may_cancel_what_waits(held: Callable[..., Held]) -> None:
    one = held(max_batch=2, max_waiting=2)
    running = one.busy()
    waiting = one.batcher.submit(numbered(1.0))
    with ThreadPoolExecutor(4) as pool:
        blocked = pool.submit(one.batcher.run, numbered(2.0))
        without_room = pool.submit(one.batcher.submit, numbered(3.0, 4.0))
        while one.batcher._images_waiting < 2:
            time.sleep(0.001)
        closing = pool.submit(one.batcher.close, cancel=True)
        with pytest.raises(CancelledError):
            waiting.result(PATIENCE)
        with pytest.raises(EngineError, match="the batcher was closed before the run"):
            blocked.result(PATIENCE)
        with pytest.raises(EngineError, match="the batcher is closed"):
            without_room.result(PATIENCE)
        assert not closing.done(), "a run is under way"
        one.go()
        closing.result(PATIENCE)
    assert first_scores(running) == [99.0]
    assert one.gate.sizes == [1]


def test_a_with_block_that_fails_does_not_run_what_waits(held: Callable[..., Held]) -> None:
    one = held(max_batch=2)
    one.busy()
    waiting = one.batcher.submit(numbered(1.0))
    waiting.add_done_callback(lambda _: one.go())
    with pytest.raises(ZeroDivisionError), one.batcher:
        raise ZeroDivisionError
    assert waiting.cancelled()
    assert one.gate.sizes == [1]
