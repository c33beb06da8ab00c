"""What a builder is told beside the model, and what is known of a plan's layers."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from alexc.cli.terminal import steps
from alexc.diagnostics import UsageError
from alexc.engines import driver, tensorrt
from alexc.engines.options import PlanOptions, hull, parse_bytes
from alexc.engines.record import BatchRange
from alexc.engines.tensorrt import layers
from alexc.engines.tensorrt.layers import Layer, Layers, described, layers_file, spec_layers
from tests.test_stripped_plans import net, written


@pytest.mark.parametrize(
    ("text", "size"),
    [("1", 1), ("2GiB", 2**31), (" 3 mb ", 3_000_000), ("512KiB", 2**19), ("1GB", 10**9)],
)
def test_an_amount_of_memory_is_read(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1", "2 TiB", "1.5GiB", "9" * 15 + "GiB", "GiB", "１"])
def test_what_is_no_amount_of_memory_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="is no amount of memory") as caught:
        parse_bytes(text)
    assert caught.value.diagnostics[0].code == "engine/workspace"


def test_the_batches_of_all_profiles_are_told_as_one() -> None:
    profiles = (BatchRange(4, 8, 16), BatchRange(1, 1, 1), BatchRange(32, 64, 64))
    assert hull(profiles) == BatchRange(1, 8, 64) == PlanOptions(profiles).batch
    with pytest.raises(ValueError, match="one or more profiles"):
        PlanOptions(())
    with pytest.raises(ValueError, match="0 to 5, not 6"):
        PlanOptions(level=6)


# ---- what the builder is told --------------------------------------------------------------------


class Recorded:
    """Stands for the builder's configuration, and keeps what is set of it."""

    def __init__(self, real: Any) -> None:
        object.__setattr__(self, "real", real)
        object.__setattr__(self, "said", {})

    def __getattr__(self, name: str) -> Any:
        if name == "set_memory_pool_limit":
            return lambda pool, size: self.said.update({pool.name: size})
        if name == "set_flag":
            return lambda flag: self.said.update({flag.name: True})
        if name == "create_timing_cache":
            return lambda known: ("times", known)
        if name == "set_timing_cache":
            return lambda cache, ignore_mismatch: self._set_timing(cache[1], ignore_mismatch)
        if name == "get_timing_cache":
            return lambda: self
        if name == "serialize":
            return lambda: b"times of this build"
        return getattr(self.real, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self.said[name] = value

    def _set_timing(self, known: bytes, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.said["times"] = known
        return known != b"of another GPU"


@pytest.fixture
def rtx(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    if obstacle := tensorrt.flavours()["tensorrt_rtx"].obstacle:
        pytest.skip(obstacle)
    monkeypatch.setattr(driver, "gpu_count", lambda: 0)
    return sys.modules["tensorrt_rtx"]


@pytest.fixture
def told(rtx: ModuleType, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What TensorRT's builder is told, on a machine with a GPU of straw."""
    said: dict[str, Any] = {}

    class Builder:
        def __init__(self, log: Any) -> None:
            self.real = rtx.Builder(log)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.real, name)

        def create_builder_config(self) -> Recorded:
            config = Recorded(self.real.create_builder_config())
            object.__setattr__(config, "said", said)
            return config

        def build_serialized_network_to_stream(self, _: Any, config: Recorded, to: Any) -> bool:
            said["profiles"] = config.real.num_optimization_profiles
            return bool(to.write(b"a plan"))

    library = ModuleType("tensorrt")
    vars(library).update(vars(rtx) | {"Builder": Builder, "ComputeCapability": None})
    monkeypatch.setitem(sys.modules, "tensorrt", library)
    monkeypatch.setattr(driver, "gpu_count", lambda: 1)
    monkeypatch.setattr(driver, "machine", lambda: ("13000", ("NVIDIA H200 9.0",)))
    monkeypatch.setattr(layers, "of_engine", lambda *_: None)
    return said


@pytest.mark.parametrize("stripped", [True, False])
def test_the_builder_is_told_every_option(
    told: dict[str, Any], tmp_path: Path, stripped: bool
) -> None:
    profiles = (BatchRange(1, 1, 1), BatchRange(2, 8, 16))
    options = PlanOptions(
        profiles, (), 4, 2**28, any_version=not stripped, any_gpu=True, stripped=stripped
    )
    model = written(net(), tmp_path / "net", 1)
    plan = tensorrt.build_plan(model, tmp_path / "p.plan", flavour="tensorrt", options=options)
    flags = {"VERSION_COMPATIBLE", "STRIP_PLAN", "REFIT"} & told.keys()
    assert flags == ({"STRIP_PLAN", "REFIT"} if stripped else {"VERSION_COMPATIBLE"})
    assert told["hardware_compatibility_level"].name == "AMPERE_PLUS"
    assert told["builder_optimization_level"] == 4
    assert told["WORKSPACE"] == 2**28
    assert told["profiles"] == 2
    built = plan.record.built
    assert built is not None
    assert (built.targets, built.profiles) == ((), profiles)
    assert (built.stripped, built.any_version, built.any_gpu) == (stripped, not stripped, True)
    assert (tmp_path / "p.plan").read_bytes() == b"a plan"


def test_what_is_not_said_is_left_to_the_library(told: dict[str, Any], tmp_path: Path) -> None:
    model = written(net(), tmp_path / "net", 1)
    plan = tensorrt.build_plan(model, tmp_path / "p.plan", flavour="tensorrt")
    assert told.keys() <= {"profiles", "profiling_verbosity", "REQUIRE_USER_ALLOCATION"}
    assert told["profiling_verbosity"].name == "DETAILED"
    assert plan.record.built is not None
    assert plan.record.built.targets == ("9.0",)  # of the GPU at hand


def test_times_of_kernels_are_kept_for_the_next_build(
    told: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = written(net(), tmp_path / "net", 1)
    folder = tmp_path / "timing"

    def build() -> bytes:
        tensorrt.build_plan(model, tmp_path / "p.plan", flavour="tensorrt", timing=folder)
        known: bytes = told["times"]
        return known

    assert build() == b""
    (file,) = folder.iterdir()
    assert file.read_bytes() == b"times of this build"
    assert build() == b"times of this build"
    file.write_bytes(b"of another GPU")
    assert build() == b""
    assert file.read_bytes() == b"times of this build"
    monkeypatch.setattr(driver, "machine", lambda: ("13000", ("NVIDIA L4 8.9",)))
    assert build() == b""
    assert len(list(folder.iterdir())) == 2


def test_rtx_keeps_no_times(rtx: ModuleType, tmp_path: Path) -> None:
    assert rtx is not None
    model = written(net(), tmp_path / "net", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a timing cache is deprecated there
        tensorrt.build_plan(model, tmp_path / "p.plan", timing=tmp_path / "timing")
    assert not (tmp_path / "timing").exists()


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (PlanOptions(any_gpu=True), "leave --hardware-compatible out"),
        (PlanOptions(any_version=True), "leave --version-compatible out"),
    ],
    ids=["hardware", "version"],
)
def test_what_rtx_has_not_is_a_usage_error(
    options: PlanOptions, words: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        tensorrt.build_plan(tmp_path / "none.onnx", tmp_path / "p.plan", options=options)
    assert caught.value.diagnostics[0].code == "engine/option"


@pytest.mark.usefixtures("told")
def test_a_plan_for_later_versions_is_not_stripped(tmp_path: Path) -> None:
    options = PlanOptions(any_version=True, stripped=True)
    with pytest.raises(UsageError, match="leave --version-compatible or --strip-weights out"):
        tensorrt.build_plan(
            tmp_path / "none.onnx", tmp_path / "p.plan", flavour="tensorrt", options=options
        )


@pytest.mark.usefixtures("rtx")
def test_rtx_takes_level_workspace_and_profiles(tmp_path: Path) -> None:
    model = written(net(), tmp_path / "net", 1)
    profiles = (BatchRange(1, 1, 1), BatchRange(2, 4, 8))
    for level in (0, 5):
        options = PlanOptions(profiles, ("8.9", "12.0"), level, 2**26)
        plan = tensorrt.build_plan(model, tmp_path / f"{level}.plan", options=options)
        assert plan.record.built is not None
        assert (plan.record.built.targets, plan.record.built.profiles) == (
            ("8.9", "12.0"),
            profiles,
        )


# ---- layers --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("rtx")
def test_without_a_gpu_the_parsed_layers_are_told(tmp_path: Path) -> None:
    model = written(net(), tmp_path / "net", 1, "fp16")
    found = tensorrt.build_plan(model, tmp_path / "p.plan", precision="fp16").layers
    assert found is not None
    assert found.source == "network"
    assert Layers.from_json(json.loads(json.dumps(found.to_json()))) == found
    known = [node.name for node in net().nodes]
    told = described(found, "tensorrt_rtx", "1.7.1", "fp16", known)
    assert told["said"].startswith("the layers that TensorRT parsed, before it fused any")
    rows = {row["name"]: row for row in told["layers"]}
    assert rows["conv1"] == {"name": "conv1", "type": "convolution", "spec": "conv1"}
    assert rows["conv1.weight.fp16"]["spec"] == "conv1"
    assert rows["input.fp16"]["spec"] is None
    assert {name for row in told["layers"] if (name := row["spec"])} == set(known)
    assert all(row["type"] != "constant" for row in told["layers"])


class Inspected:
    """Stands for a library, a runtime, an engine and its inspector, who tells `text`."""

    LayerInformationFormat = type("LayerInformationFormat", (), {"JSON": 1})

    engine_host_code_allowed = False

    def __init__(self, text: str | None, does_inspect: bool = True) -> None:
        self.text = text
        self.does_inspect = does_inspect

    def Runtime(self, _: Any) -> Inspected:  # noqa: N802  (the library's own name)
        return self

    def deserialize_cuda_engine(self, plan: bytes) -> Inspected | None:
        assert plan == b"a plan"
        assert self.engine_host_code_allowed, "a plan for any version does not load"
        return None if self.text is None else self

    def create_engine_inspector(self) -> Inspected | None:
        return self if self.does_inspect else None

    def get_engine_information(self, format: int) -> str | None:
        assert format == 1
        return self.text


def test_on_a_gpu_fused_layers_are_told_in_terms_of_the_spec(tmp_path: Path) -> None:
    (tmp_path / "plan").write_bytes(b"a plan")
    entries = [
        {
            "Name": "conv1 + relu1",
            "LayerType": "CaskConvolution",
            "Metadata": "[ONNX Layer: conv1]\x1e[ONNX Layer: relu1]",
        },
        {"Name": "norm1.scaled + PWN(norm1, relu2)", "LayerType": "Myelin", "Metadata": ""},
        "conv2||block.conv",
    ]
    text = json.dumps({"Layers": entries, "Bindings": ["input"]})
    found = layers.of_engine(Inspected(text), None, tmp_path / "plan")
    assert found is not None
    known = ["conv1", "relu1", "norm1", "relu2", "conv2", "block.conv", "fc"]
    rows = described(found, "tensorrt", "11.4", "fp16", known)
    assert rows["source"] == "engine"
    assert [row["spec"] for row in rows["layers"]] == [
        "conv1 + relu1",
        "norm1 + relu2",
        "conv2 + block.conv",
    ]
    assert [row["type"] for row in rows["layers"]] == ["caskconvolution", "myelin", ""]


@pytest.mark.parametrize("text", [None, "", "no JSON", "[]", '{"Layers": [{}]}', '{"Layers": [3]}'])
def test_an_engine_that_does_not_tell_is_no_fault(text: str | None, tmp_path: Path) -> None:
    (tmp_path / "plan").write_bytes(b"a plan")
    assert layers.of_engine(Inspected(text), None, tmp_path / "plan") is None
    assert layers.of_engine(Inspected("", does_inspect=False), None, tmp_path / "plan") is None


def test_what_is_no_layer_of_the_spec_is_none() -> None:
    assert spec_layers(Layer("reformat 3", "noop"), ["conv1"]) == []
    assert spec_layers(Layer("x", "cast", ("conv1.weight.fp16", "other")), ["conv1"]) == ["conv1"]
    assert layers_file("engines/tensorrt-fp16.plan") == "engines/tensorrt-fp16.layers.json"


# ---- progress ------------------------------------------------------------------------------------


def test_off_a_terminal_parts_of_a_step_are_not_told(capsys: pytest.CaptureFixture[str]) -> None:
    with steps(enabled=True) as progress:
        progress("plan")
        progress.part(0.5, "Building")
    with steps(enabled=False) as progress:
        progress("plan")
        progress.part(0.5, "Building")
    assert capsys.readouterr() == ("", "plan\n")


def test_on_a_terminal_there_is_a_bar_and_about_how_long_it_takes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    with steps(enabled=True) as progress:
        progress("plan for tensorrt")
        progress.part(0.5, "Building")
        progress._progress.refresh()  # type: ignore[attr-defined]  # not in a tenth of a second
        progress("bundle")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "plan for tensorrt" in shown.err
    assert "━" in shown.err
    assert "about 1 s left" in shown.err
