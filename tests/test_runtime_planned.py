"""A bundle with a plan, opened: which engine runs which batch, and what is said of it."""

from __future__ import annotations

import json
import logging
from collections import deque
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

import alexc_runtime
from alexc.plan import bench, ours
from alexc.plan.contestant import Subject
from alexc_runtime import BatchError, BundleError, EngineError, EngineUnavailableError, opening
from alexc_runtime.engines import cuda
from alexc_runtime.engines.base import Engine
from alexc_runtime.engines.onnxruntime import OnnxRuntime
from alexc_runtime.engines.planned import PlannedEngine
from alexc_runtime.manifest import MODEL, BatchRange, EngineRecord, parse, read, render
from alexc_runtime.planned import Candidate, Choice, Place, Plan, Timed, Way, this_machine
from tests.gpu_machine import gpu_machine
from tests.small_bundle import MANIFEST, expected, images, make
from tests.small_bundle import PLAN as SMALL_PLAN

SMALL = Way("onnxruntime", "fp32", MODEL, 1)
LARGE = Way("onnxruntime", "fp32", MODEL, None)
OTHER = Way("openvino", "fp32", MODEL, None)


def candidate(way: Way, ms: tuple[float, float], **changes: Any) -> Candidate:
    """One that takes so many milliseconds for 1 image and for 8."""
    times = tuple(
        Timed(batch, t, t - 0.25, t + 0.5, True) for batch, t in zip((1, 8), ms, strict=True)
    )
    found = Candidate(
        engine=way.engine,
        precision=way.precision,
        forms=("banded",),
        threads=way.threads,
        path=way.path,
        times=times,
        rel_l2=1e-7,
        exact=True,
        agreement=None,
        top1=0.5,
        top5=0.75,
        usable=True,
        verdict="slower",
    )
    return replace(found, **changes)


PLAN = Plan(
    budget="1e-3",
    machine=this_machine(),
    images=2,
    photographs=False,
    seconds=12.5,
    choices=(Choice(1, 2, SMALL), Choice(3, None, LARGE)),
    candidates=(
        candidate(SMALL, (1.0, 9.0), verdict="chosen for 1 to 2"),
        candidate(LARGE, (2.0, 4.0)),
        candidate(OTHER, (1.5, 6.0)),
        candidate(OTHER, (0.5, 0.5), precision="int8", path=None, usable=False, exact=None),
    ),
)


def test_a_plan_comes_back_from_the_manifest(tmp_path: Path) -> None:
    make(tmp_path / "bundle", plan=PLAN)
    assert read(tmp_path / "bundle").plan == PLAN
    assert b'"plan"' not in render(MANIFEST)
    assert parse(render(MANIFEST), "manifest").plan is None


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("choices", 1, "max"), 7),
        (("choices", 1, "min"), 4),
        (("choices", 0, "max"), None),
        (("choices", 0, "min"), 0),
        (("choices", 0, "threads"), 10**12),
        (("choices", 0, "threads"), 0),
        (("choices",), []),
        (("choices", 0, "path"), "../model.onnx"),
        (("candidates", 0, "path"), "/etc/passwd"),
        (("candidates", 0, "usable"), 1),
        (("candidates", 0, "rel_l2"), "small"),
        (("candidates", 0, "times", 0, "ms"), None),
        (("candidates", 0, "times", 0, "batch"), 0),
        (("candidates", 0, "rel_l2"), float("nan")),
        (("machine", "cores"), 2.5),
        (("machine",), None),
    ],
)
def test_a_plan_that_says_nonsense_is_refused(place: tuple[Any, ...], value: Any) -> None:
    content = json.loads(render(replace(MANIFEST, plan=PLAN)))
    inner = content["plan"]
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    with pytest.raises(BundleError, match="is not as a build writes it"):
        parse(_sealed(content), "manifest.json")


def _sealed(content: dict[str, Any]) -> bytes:
    """The bytes of a manifest with this content, under a digest that fits it."""
    import hashlib

    content["digest"] = zeros = "sha256:" + "0" * 64
    data = json.dumps(content).encode()
    return data.replace(zeros.encode(), f"sha256:{hashlib.sha256(data).hexdigest()}".encode(), 1)


def test_a_batch_goes_where_it_was_planned_to_and_else_to_the_next_best() -> None:
    assert [PLAN.ways(batch)[0] for batch in (1, 2, 3, 8, 500)] == [SMALL] * 2 + [LARGE] * 3
    # Of one image the second takes 1.5 ms; of eight 6.
    assert PLAN.ways(1) == [SMALL, OTHER, LARGE]
    assert PLAN.ways(9) == [LARGE, OTHER, SMALL]
    first, second = PLAN.said.split("; ")
    assert first == "batches of 1 to 2 on onnxruntime in fp32 with 1 thread"
    assert second == "of 3 and more on onnxruntime in fp32"
    alone = replace(PLAN, choices=(Choice(1, None, OTHER),))
    assert alone.said == "all batches on openvino in fp32"


def test_machines_differ_in_words() -> None:
    planned = Place("Intel", 2, {"openvino": "2026.1", "onnxruntime": "1.31"})
    assert planned.departures(planned) == []
    here = Place("AMD", 4, {"openvino": "2026.2", "tensorrt-rtx": "1.7"})
    assert planned.departures(here) == [
        "AMD, not Intel",
        "4 cores, not 2",
        "no onnxruntime",
        "openvino 2026.2, not 2026.1",
        "tensorrt-rtx 1.7, which was not there",
    ]


# ---- opened --------------------------------------------------------------------------------------


class Spy(OnnxRuntime):
    """ONNX Runtime that keeps account of what was loaded, and by whom a batch was run."""

    loaded: list[int | None]
    ran: list[tuple[int, int | None]]

    def __init__(self, bundle: Any, record: Any, threads: int | None) -> None:
        super().__init__(bundle, record, threads)
        self.threads = threads
        Spy.loaded.append(threads)

    def run(self, batch: Any) -> Any:
        Spy.ran.append((len(batch), self.threads))
        return super().run(batch)


@pytest.fixture
def spied(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    pytest.importorskip("onnxruntime")
    monkeypatch.setitem(opening.ENGINES, "onnxruntime", Spy)
    Spy.loaded, Spy.ran = [], []
    make(tmp_path / "bundle", plan=PLAN)
    return tmp_path / "bundle"


def test_engines_are_loaded_when_their_batches_come(spied: Path) -> None:
    with alexc_runtime.open(spied) as opened:
        assert Spy.loaded == [1]
        assert (opened.engine, opened.precision, opened.status) == (
            "onnxruntime",
            "fp32",
            "verified",
        )
        assert opened.why == f"{PLAN.said}: planned, the fastest of 4 within 1e-3"
        for count in (2, 5, 1, 3):
            batch = images(count)
            for name, value in expected(batch).items():
                np.testing.assert_allclose(opened.run(batch)[name], value, rtol=1e-4, atol=1e-4)
        assert opened.way(2) == "onnxruntime in fp32 with 1 thread"
        assert opened.way(3) == "onnxruntime in fp32"
        with pytest.raises(BatchError, match="a batch of 0 images"):
            opened.way(0)
    assert Spy.loaded == [1, None]
    assert list(dict.fromkeys(Spy.ran)) == [(2, 1), (5, None), (1, 1), (3, None)]


def test_what_is_asked_for_wins_over_the_plan(spied: Path) -> None:
    with alexc_runtime.open(spied, "onnxruntime") as opened:
        assert opened.why == "onnxruntime: asked for"
        assert opened.way(1) == opened.way(7) == "onnxruntime in fp32"
    with alexc_runtime.open(spied, threads=2) as opened:
        opened.run(images(1))
        opened.run(images(4))
    assert Spy.loaded == [None, 2, 2]
    with alexc_runtime.open(spied, precision="fp32") as opened:
        assert "planned" not in opened.why


def test_another_machine_says_so(spied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "this_machine", lambda: replace(PLAN.machine, cpu="another"))
    with alexc_runtime.open(spied) as opened:
        assert f"(another, not {PLAN.machine.cpu}): `alexc build` measures anew" in opened.why


@pytest.mark.usefixtures("spied")
def test_an_engine_that_is_not_here_gives_way_to_the_next_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = classmethod(lambda _: "the package openvino is not installed")
    monkeypatch.setattr(opening.ENGINES["openvino"], "obstacle", gone)
    make(tmp_path / "other", plan=replace(PLAN, choices=(Choice(1, None, OTHER),)))
    with alexc_runtime.open(tmp_path / "other") as opened:
        assert opened.engine == "onnxruntime"
        assert "passed over: openvino in fp32: openvino: the package openvino is not" in opened.why
    # With nothing of the plan at hand, whatever can run does.
    nothing = replace(PLAN, choices=(Choice(1, None, OTHER),), candidates=())
    make(tmp_path / "nothing", plan=nothing)
    with alexc_runtime.open(tmp_path / "nothing") as opened:
        assert opened.engine == "onnxruntime"
        assert opened.why.startswith("no way of the plan runs here (openvino in fp32: openvino: ")
        assert "the best engine at hand" in opened.why


class Failing(Engine):
    """An engine of a plan; `takes` are its limits."""

    def __init__(self, takes: tuple[int, int | None]) -> None:
        self.batch_limits = takes
        self.closed = False

    @classmethod
    def obstacle(cls) -> str | None:
        return None

    def run(self, batch: Any) -> Any:
        return {"scores": batch}

    def close(self) -> None:
        self.closed = True


def test_what_fails_to_load_or_takes_no_such_batch_is_passed_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made: list[Failing] = []

    def load(way: Way) -> Engine:
        if way == SMALL:
            raise EngineError("engine/load", "the file is of another version")
        if way == LARGE:
            raise EngineUnavailableError("engine/unavailable", "no GPU")
        made.append(Failing((1, 4)))
        return made[-1]

    with caplog.at_level(logging.WARNING):
        engine = PlannedEngine(PLAN, load)
        assert engine.first == OTHER
        engine.run(np.zeros((4, 1), np.float32))
    assert [record.message for record in caplog.records] == ["the file is of another version"]
    with pytest.raises(EngineError, match="no engine of the plan can run a batch of 5"):
        engine.run(np.zeros((5, 1), np.float32))
    assert set(engine.passed_over) == {str(SMALL), str(LARGE)}
    engine.close()
    assert [each.closed for each in made] == [True]


def test_batches_in_a_row_go_to_their_engine_as_one_stream() -> None:
    class Pipelined(Failing):
        """One that takes a batch ahead, as an engine on the GPU does."""

        streams: ClassVar[list[list[int]]] = []

        def run_many(self, batches: Any) -> Any:
            self.streams.append([])
            waiting: deque[Any] = deque()
            for batch in batches:
                self.streams[-1].append(len(batch))
                waiting.append({"scores": batch})
                if len(waiting) == 2:
                    yield waiting.popleft()
            yield from waiting

    engine = PlannedEngine(PLAN, lambda _: Pipelined((1, None)))
    counts = [1, 2, 2, 4, 3, 1]
    found = [
        len(outputs["scores"])
        for outputs in engine.run_many(np.zeros((count, 1), np.float32) for count in counts)
    ]
    assert found == counts
    assert Pipelined.streams == [[1, 2, 2], [4, 3], [1]]


def test_nothing_is_loaded_after_the_end(spied: Path) -> None:
    opened = alexc_runtime.open(spied)
    results = opened.run_many([images(2), images(4), images(2)])
    next(results)
    opened.close()
    with pytest.raises(EngineError, match="the session is closed"):
        next(results)
    assert Spy.loaded == [1]
    engine = PlannedEngine(PLAN, lambda _: Failing((1, None)))
    engine.close()
    with pytest.raises(EngineError, match="the session is closed"):
        engine.run(np.zeros((4, 1), np.float32))


def test_a_plan_opens_with_the_way_of_the_smallest_batch_that_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OfThree(Spy):
        batch_limits = (3, None)

    monkeypatch.setitem(opening.ENGINES, "onnxruntime", OfThree)
    Spy.loaded = []
    plan = replace(
        PLAN, choices=(Choice(1, None, LARGE),), candidates=(candidate(OTHER, (1.0, 1.0)),)
    )
    input = replace(MANIFEST.input, batch=BatchRange(3, 3, 4))
    make(tmp_path / "bundle", plan=plan, input=input)
    with alexc_runtime.open(tmp_path / "bundle") as opened:
        assert opened.engine == "onnxruntime"
        assert "passed over" not in opened.why


def test_a_way_that_the_build_does_not_list_is_what_the_certificate_says(spied: Path) -> None:
    records = (EngineRecord("openvino", "fp32", "not built", None),)
    make(spied.parent / "unlisted", plan=PLAN, engines=records)
    with alexc_runtime.open(spied.parent / "unlisted") as opened:
        assert (opened.engine, opened.status) == ("onnxruntime", "not verified by the build")
    listed = replace(MANIFEST.engines[0], status="verified on two images")
    make(spied.parent / "listed", plan=PLAN, engines=(listed,))
    with alexc_runtime.open(spied.parent / "listed") as opened:
        assert opened.status == "verified on two images"


@pytest.mark.usefixtures("spied")
def test_an_engine_that_is_loaded_later_lies_on_the_same_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever thread a batch comes from: there another GPU may be the current one."""
    with gpu_machine(monkeypatch, tmp_path / "cache") as machine:
        monkeypatch.setattr(cuda, "no_driver", lambda: None)
        machine.install()
        machine.gpu.devices = 2
        large = Way("tensorrt_rtx", "fp32", SMALL_PLAN, None)
        plan = replace(PLAN, choices=(Choice(1, 2, SMALL), Choice(3, None, large)), candidates=())
        make(tmp_path / "planned", plan=plan)
        with alexc_runtime.open(tmp_path / "planned") as opened:
            machine.gpu.current = 1
            np.testing.assert_array_equal(
                opened.run(images(3))["scores"], expected(images(3))["scores"]
            )
            assert machine.gpu.current == 1
            planned = opened._engine
            assert isinstance(planned, PlannedEngine)
            assert planned._engines[large]._cuda.device == 0  # type: ignore[attr-defined]
        machine.gpu.current = 0


# ---- inspected -----------------------------------------------------------------------------------


def test_a_plan_is_told_way_by_way(capsys: pytest.CaptureFixture[str]) -> None:
    from alexc.cli import inspect_bundle
    from alexc.cli.terminal import console

    opened: Any = SimpleNamespace(manifest=replace(MANIFEST, plan=PLAN))
    section = inspect_bundle._plan(opened)
    assert section is not None
    assert section.content == PLAN.to_json()
    for part in section.shown:
        console().print(part)
    shown = " ".join(capsys.readouterr().out.split())
    assert section.title == "plan: the fastest within 1e-3 of 4 ways"
    assert "onnxruntime fp32, banded, 1 thread chosen for 1 to 2" in shown
    assert "2 drawn images" in shown
    assert "50.0% top-1" in shown
    assert "75.0% top-5" in shown
    assert inspect_bundle._plan(SimpleNamespace(manifest=MANIFEST)) is None  # type: ignore[arg-type]


# ---- measured ------------------------------------------------------------------------------------


def test_of_several_models_a_benchmark_runs_the_one_that_serves(tmp_path: Path) -> None:
    first = EngineRecord("onnxruntime", "fp32", "verified", "model-banded.onnx")
    plain, narrow = replace(first, path="model.onnx"), replace(first, precision="u8s8")
    manifest = replace(MANIFEST, engines=(first, narrow, plain))
    found = ours.contestants(tmp_path, manifest)
    assert [(each.engine, each.precision, each.settings["path"]) for each in found] == [
        ("onnxruntime", "fp32", "model-banded.onnx"),
        ("onnxruntime", "u8s8", "model-banded.onnx"),
        ("openvino", "fp32", "model.onnx"),
    ]


def test_a_benchmark_runs_the_planned_session(tmp_path: Path) -> None:
    """As one contestant; of a bundle that stands beside another as the only one."""
    pytest.importorskip("onnxruntime")
    manifest = make(tmp_path / "bundle", plan=PLAN)
    contestant = ours.planned(tmp_path / "bundle", manifest)
    assert (contestant.engine, contestant.precision, contestant.gpu) == ("planned", "fp32", False)
    assert contestant.note == f"{PLAN.said}: the fastest within 1e-3"
    unused = tmp_path / "unused"
    subject = Subject(unused, unused, unused, unused, unused, threads=1)
    runner = ours.opened_as_planned(subject, contestant.settings)
    batch = images(3)
    np.testing.assert_allclose(
        runner.run(batch)["scores"], expected(batch)["scores"], rtol=1e-4, atol=1e-4
    )
    runner.session().close()
    folder = tmp_path / "bundle"
    assert bench._of_bundle(folder, manifest, beside=True) == [contestant]
    assert bench._of_bundle(folder, manifest, beside=False)[0] == contestant
    with pytest.raises(ValueError, match="has no plan"):
        ours.planned(folder, MANIFEST)
