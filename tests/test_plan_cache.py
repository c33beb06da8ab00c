"""The plan cache: what it keeps, by what it tells plans apart, and that it is never needed."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alexc.assembly.options import Options, Target
from alexc.assembly.plans import build_plans
from alexc.diagnostics import AlexcError, fault
from alexc.engines import cache
from alexc.engines.cache import cached_plan, default_folder
from alexc.engines.driver import machine
from alexc.engines.options import PlanOptions
from alexc.engines.record import BatchRange, not_built
from alexc.engines.tensorrt import FLAVOURS, ParsedTensor, Plan
from alexc.engines.tensorrt.layers import Layer, Layers
from alexc_runtime.digests import FileRecord
from alexc_runtime.manifest import Built, EngineRecord
from tests.command_line import Alexc, alexc
from tests.test_build import SMALL

__all__ = ["alexc"]  # a fixture, which pytest finds here by its name

DIGESTS = {"model.onnx": "1" * 64, "weights.safetensors": "2" * 64}


class Builder:
    """Stands for TensorRT: each plan that it builds is another one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.built = 0
        self.version = "1.7.1"
        self.folder = folder
        monkeypatch.setattr(cache, "build_plan", self._build)
        monkeypatch.setattr(cache, "flavours", self._flavours)
        monkeypatch.setattr(cache, "machine", lambda: ("13000", ("NVIDIA H200 9.0",)))

    def _flavours(self) -> dict[str, Any]:
        return {name: replace(f, version=self.version) for name, f in FLAVOURS.items()}

    def _build(self, model: Path, plan: Path, **how: Any) -> Plan:
        self.built += 1
        plan.write_bytes(f"plan {self.built} of {model.name}".encode() * 99)
        options = how["options"]
        built = Built(self.version, options.targets, options.profiles, options.stripped)
        record = EngineRecord(how["flavour"], how["precision"], "built, not run", str(plan), built)
        tensors = {"input": ParsedTensor((None, 3, 5, 7), "float32")}
        layers = Layers("network", (Layer("conv1", "convolution", ("conv1",)),))
        return Plan(record, tensors, ("a warning",), layers)

    def __call__(self, **changes: Any) -> Plan:
        how: dict[str, Any] = {
            "folder": self.folder,
            "model": Path("model.onnx"),
            "plan": self.folder.parent / "out.plan",
            "digests": DIGESTS,
            "flavour": "tensorrt_rtx",
            "precision": "fp16",
            "options": PlanOptions(),
        }
        return cached_plan(**(how | changes))


@pytest.fixture
def builder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Builder:
    return Builder(monkeypatch, tmp_path / "plans")


def test_a_plan_is_built_once(builder: Builder, tmp_path: Path) -> None:
    first = builder()
    content = (tmp_path / "out.plan").read_bytes()
    again = builder(plan=tmp_path / "other.plan")
    assert builder.built == 1
    assert (tmp_path / "other.plan").read_bytes() == content
    assert again.record.path == str(tmp_path / "other.plan")
    assert (again.record.engine, again.record.precision) == ("tensorrt_rtx", "fp16")
    assert again.record.status.startswith("built, not run")
    assert again.record.built == first.record.built
    assert (again.tensors, again.warnings) == (first.tensors, first.warnings)
    assert again.layers == first.layers


@pytest.mark.parametrize(
    "changes",
    [
        {"digests": {**DIGESTS, "model.onnx": "3" * 64}},
        {"digests": {**DIGESTS, "weights.safetensors": "3" * 64}},
        {"flavour": "tensorrt"},
        {"precision": "bf16"},
        {"options": PlanOptions((BatchRange(1, 8, 33),))},
        {"options": PlanOptions((BatchRange(1, 8, 32), BatchRange(64, 64, 64)))},
        {"options": PlanOptions(targets=("8.9",))},
        {"options": PlanOptions(level=5)},
        {"options": PlanOptions(workspace=2**30)},
        {"options": PlanOptions(any_version=True)},
        {"options": PlanOptions(any_gpu=True)},
        {"options": PlanOptions(stripped=True)},
    ],
    ids=(
        "model",
        "weights",
        "flavour",
        "precision",
        "batch",
        "profiles",
        "targets",
        "level",
        "workspace",
        "any version",
        "any gpu",
        "stripped",
    ),
)
def test_what_a_plan_depends_on_tells_it_apart(builder: Builder, changes: dict[str, Any]) -> None:
    builder()
    builder(**changes)
    assert builder.built == 2
    builder(**changes)
    builder()
    assert builder.built == 2


def test_a_stripped_plan_serves_other_weights(builder: Builder) -> None:
    stripped = PlanOptions(stripped=True)
    builder(options=stripped)
    builder(options=stripped, digests={**DIGESTS, "weights.safetensors": "3" * 64})
    assert builder.built == 1
    builder(options=stripped, digests={**DIGESTS, "model.onnx": "3" * 64})
    assert builder.built == 2


def test_another_library_driver_or_gpu_builds_anew(
    builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder()
    builder.version = "1.8.0"
    builder()
    assert builder.built == 2
    for number, other in enumerate([(None, ()), ("12080", ("NVIDIA H200 9.0",)), ("13000", ())]):
        monkeypatch.setattr(cache, "machine", lambda other=other: other)
        builder()
        assert builder.built == 3 + number


@pytest.mark.parametrize("file", ["plan", "plan.json"])
@pytest.mark.parametrize("damage", ["cut", "change", "remove"])
def test_a_damaged_plan_is_built_again(
    builder: Builder, caplog: pytest.LogCaptureFixture, file: str, damage: str
) -> None:
    builder()
    (entry,) = builder.folder.iterdir()
    data = (entry / file).read_bytes()
    if damage == "remove":
        (entry / file).unlink()
    elif damage == "cut":
        (entry / file).write_bytes(data[: len(data) // 2])
    else:
        (entry / file).write_bytes(data.replace(b"2", b"3").replace(b"model", b"medal"))
    with caplog.at_level(logging.WARNING):
        builder()
    assert builder.built == 2
    assert bool(caplog.records) == (damage != "remove")
    if damage != "remove":
        builder()
        assert builder.built == 2


def test_no_folder_is_no_cache(builder: Builder) -> None:
    builder(folder=None)
    builder(folder=None)
    assert builder.built == 2
    assert not builder.folder.exists()


def test_a_folder_that_can_not_be_written_is_a_warning(
    builder: Builder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):
        plan = builder(folder=tmp_path / "file" / "plans")
    assert plan.record.path is not None
    assert "is not kept" in caplog.text


def test_what_was_not_built_is_not_kept(builder: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    record = not_built("tensorrt_rtx", "fp16", "no reason")
    monkeypatch.setattr(cache, "build_plan", lambda *_, **__: Plan(record))
    assert builder().record == record
    assert not builder.folder.exists()


def test_the_least_recently_used_make_room(
    builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, precision in enumerate(("fp16", "bf16", "int8")):
        builder(precision=precision)
        for entry in builder.folder.iterdir():
            if entry.stat().st_mtime > 1e9:
                os.utime(entry, (number, number))
    builder(precision="fp16")  # the oldest, used again
    size = sum(file.stat().st_size for file in builder.folder.rglob("*") if file.is_file())
    monkeypatch.setattr(cache, "MOST_BYTES", size)
    builder(precision="fp32")
    assert builder.built == 4
    for precision in ("fp16", "int8", "fp32"):
        builder(precision=precision)
    assert builder.built == 4
    builder(precision="bf16")
    assert builder.built == 5
    assert not list(builder.folder.glob(".staging-*"))


def test_where_plans_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ALEXC_CACHE", str(tmp_path))
    assert default_folder() == tmp_path / "plans"
    monkeypatch.setenv("ALEXC_CACHE", "")
    assert default_folder() is None
    monkeypatch.delenv("ALEXC_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_folder() == tmp_path / "xdg" / "alexc" / "plans"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_folder() == tmp_path / "home" / ".cache" / "alexc" / "plans"


def test_the_machine_is_told_without_a_gpu_too() -> None:
    driver, gpus = machine()
    assert (driver is None) <= (gpus == ())


def test_the_command_says_where_plans_are_kept(
    alexc: Alexc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Options] = []

    def stop(_: object, options: Options, *__: object) -> None:
        asked.append(options)
        raise fault("test/stop", "far enough")

    monkeypatch.setattr("alexc.build.build", stop)
    monkeypatch.setenv("ALEXC_CACHE", str(tmp_path))
    (tmp_path / "small.yaml").write_text(SMALL)
    alexc("build", tmp_path / "small.yaml")
    alexc("build", tmp_path / "small.yaml", "--no-plan-cache")
    assert [options.plan_cache for options in asked] == [tmp_path / "plans", None]


@pytest.mark.parametrize("asked", [True, False])
def test_what_an_engine_says_names_the_bundle_where_it_will_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    """And not the folder in which it is made, of which nobody knows."""

    def refuse(_: object, model: Path, *__: object, **___: object) -> Plan:
        raise fault("engine/build", f"it can't build {model}: no room")

    monkeypatch.setattr("alexc.assembly.plans.cached_plan", refuse)
    monkeypatch.setattr("alexc.assembly.plans.PLAN_ENGINES", ("tensorrt_rtx",))
    monkeypatch.setattr("alexc.engines.tensorrt.flavours", lambda: FLAVOURS)
    out, made_in = tmp_path / "out", tmp_path / ".out.staging-1"
    made_in.mkdir()
    files = {name: FileRecord(1, digest) for name, digest in DIGESTS.items()}
    options = Options(out, targets=(Target("tensorrt_rtx"),) if asked else ())
    said = f"it can't build {out}/model.onnx: no room"
    if asked:
        with pytest.raises(AlexcError) as caught:
            build_plans(options, made_in, files, ["conv1"], lambda _: None)
        assert caught.value.diagnostics[0].message == said
    else:
        (record,) = build_plans(options, made_in, files, ["conv1"], lambda _: None)
        assert record.status == f"not built: {said}"


def test_a_build_takes_its_plan_from_the_cache(builder: Builder, tmp_path: Path) -> None:
    options = Options(
        tmp_path / "out",
        targets=(Target("tensorrt_rtx", ("8.9",)),),
        precision="bf16",
        plan_cache=builder.folder,
    )
    files = {name: FileRecord(1, digest) for name, digest in DIGESTS.items()}
    plans = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (record,) = build_plans(options, tmp_path / name, files, ["conv1"], lambda _: None)
        assert (record.precision, record.path) == ("bf16", "engines/tensorrt_rtx-bf16.plan")
        plans.append((tmp_path / name / "engines" / "tensorrt_rtx-bf16.plan").read_bytes())
    assert plans[0] == plans[1]
    assert builder.built == 1
