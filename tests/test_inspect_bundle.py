"""`alexc inspect BUNDLE`: what it shows on a terminal, what `--json` holds, what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alexc.assembly.inputs import spec_digest
from alexc.bundle import staged
from alexc.calibrate.calibration import FILE as CALIBRATION
from alexc.calibrate.calibration import Calibration, Tried
from alexc.frontend import load_net
from alexc_runtime.manifest import (
    BackendRecord,
    BatchRange,
    Built,
    EngineRecord,
    Input,
    Manifest,
    Output,
    Verification,
    read,
    render,
)
from tests.command_line import Alexc, alexc
from tests.test_build import SMALL

__all__ = ["alexc"]  # a fixture, which pytest finds here by its name

PLAN = "engines/tensorrt_rtx-int8.plan"

LAYERS = {
    "source": "network",
    "said": "the layers that TensorRT parsed, before it fused any: without a GPU …",
    "layers": [
        {"name": "input.int8", "type": "quantize", "spec": None},
        {"name": "conv1.weight.int8", "type": "quantize", "spec": "conv1"},
        {"name": "conv1", "type": "convolution", "spec": "conv1"},
        {"name": "relu1", "type": "activation", "spec": "relu1"},
    ],
}
INPUTS = {
    "images": 2,
    "seed": 17,
    "kinds": ["normal", "smooth"],
    "photographs": [],
    "digest": "5" * 64,
    "batches": [2, 5],
}
REPORT = {
    "accuracy": [
        {
            "backend": "onnxruntime",
            "output": "fc",
            "images": 9,
            "top1_agreement": 0.875,
            "max_abs": 0.0123,
            "rel_l2": 0.0456,
        }
    ],
}


def make(folder: Path, layers: dict[str, Any] | None = None) -> Path:
    """A bundle of which only what is inspected is real."""
    (folder / "small.yaml").write_text(SMALL)
    net = load_net(folder / "small.yaml")
    tried = {
        "max": Tried({"relu1": 2.5}, 0.03, 0.2, 0.75),
        "entropy": Tried({"relu1": 2.0}, 0.02, 0.1, None),
    }
    calibration = Calibration(
        "int8", ("conv1", "fc"), "entropy", tried, 6, 3, "7" * 64, "8" * 64, "9" * 64
    )
    built = Built("1.7.1.116", ("8.9",), (BatchRange(1, 1, 1), BatchRange(2, 6, 8)), stripped=True)
    manifest = Manifest(
        alexc="0.1.0",
        name="small",
        inputs_digest="sha256:" + "1" * 64,
        spec_digest=spec_digest(net),
        graph_digest=net.graph.digest(),
        input=Input("input", net.graph.input_shape, BatchRange(1, 1, 8)),
        outputs=(Output("fc", (7,)),),
        preprocess=None,
        labels=None,
        spec=net.spec.to_json(),
        engines=(
            EngineRecord("tensorrt_rtx", "int8", "built, not run: no GPU", PLAN, built),
            EngineRecord("tensorrt", "int8", "not built: no GPU", None),
            EngineRecord("onnxruntime", "int8", "verified", "model.onnx"),
        ),
        versions={"onnx": "1.23"},
        verification=Verification(
            True,
            "float64 numpy",
            (
                BackendRecord("onnxruntime", "ran", True),
                BackendRecord("tensorrt_rtx", "not run: no GPU", None),
            ),
            inputs=INPUTS,
        ),
        precision="int8",
    )
    with staged(folder / "bundle") as stage:
        (stage.folder / "engines").mkdir()
        (stage.folder / "model.onnx").write_bytes(bytes(2300))
        (stage.folder / PLAN).write_bytes(bytes(3_456_000))
        (stage.folder / PLAN.replace(".plan", ".layers.json")).write_text(
            json.dumps(layers or LAYERS)
        )
        (stage.folder / "verify.json").write_text(json.dumps(REPORT))
        calibration.write(stage.folder / CALIBRATION)
        stage.commit(manifest)
    return folder / "bundle"


def test_a_bundle_is_told_section_by_section(
    alexc: Alexc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make(tmp_path)
    monkeypatch.chdir(tmp_path)
    ran = alexc("inspect", bundle.name)
    assert (ran.status, ran.err) == (0, "")
    lines = [line.rstrip() for line in ran.out.splitlines() if line.strip(" ─")]
    assert lines[0] == "bundle: a bundle of small"
    for title in ("verified against", "2 layers calibrated", "layers of the plans", "5 files"):
        assert not ran.out.partition(f"\n{title}")[0].endswith("\n\n"), title
    for words in (
        "spec       8 layers, 847 parameters",
        "precision  int8",
        "input      input 3×23×19, float32",
        "tensorrt_rtx  int8       3.46 MB  built, not run: no GPU",
        "by version 1.7.1.116, for 8.9",
        "batches of 1; 2 to 8, best 6",
        "without its weights, which are put in when it is loaded",
        "tensorrt      int8                not built: no GPU",
        "onnxruntime   int8        2.3 kB  verified",
        "verified against float64 numpy",
        "2 images drawn from seed 17 (normal, smooth); outputs in batches of 2, 5",
        "tensorrt_rtx  not run   no GPU",
        "onnxruntime  fc       4.56%    0.012       87.5%       9",
        "2 layers calibrated on 6 images, compared on 3 others",
        "max       3.00%       75.0%",
        "entropy   2.00%              kept",
        "engines/tensorrt_rtx-int8.plan, 4 layers: the layers that TensorRT parsed",
        "conv1              quantize, convolution",
        "(none)             quantize",
        "engines/tensorrt_rtx-int8.layers.json",
        "5 files, 3.46 MB",
    ):
        assert any(words in line for line in lines), words


def test_everything_fits_on_a_terminal_of_80_columns(
    alexc: Alexc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    out = alexc("inspect", bundle).out
    assert max(map(len, out.splitlines())) <= 80
    assert "tensorrt_rtx" in out


def test_layers_of_a_built_engine_are_told_one_by_one(alexc: Alexc, tmp_path: Path) -> None:
    fused = {
        "source": "engine",
        "said": "the layers of the built engine, as its inspector lists them",
        "layers": [
            {"name": "conv1 + relu1", "type": "caskconvolution", "spec": "conv1 + relu1"},
            {"name": "Reformatting 3", "type": "noop", "spec": None},
        ],
    }
    out = alexc("inspect", make(tmp_path, fused)).out
    assert "2 layers: the layers of the built engine" in out
    assert "conv1 + relu1        caskconvolution  conv1 + relu1" in out
    assert "Reformatting 3       noop" in out


def test_json_holds_all_of_it(alexc: Alexc, tmp_path: Path) -> None:
    bundle = make(tmp_path)
    told = alexc("inspect", bundle, "--json").json
    assert list(told) == [
        "bundle",
        "about",
        "engines",
        "verification",
        "calibration",
        "plan_layers",
        "files",
    ]
    assert told["bundle"] == str(bundle)
    assert told["about"]["parameters"] == 847
    assert told["about"]["input"] == {
        "name": "input",
        "shape": [3, 23, 19],
        "dtype": "float32",
        "batch": {"min": 1, "opt": 1, "max": 8},
    }
    plan, missing, _ = told["engines"]
    assert (plan["path"], plan["bytes"]) == (PLAN, 3_456_000)
    assert plan["built"]["targets"] == ["8.9"]
    assert (missing["path"], missing["bytes"]) == (None, None)
    assert told["verification"]["passed"]
    assert told["verification"]["inputs"]["seed"] == 17
    assert told["verification"]["accuracy"] == REPORT["accuracy"]
    assert told["calibration"]["method"] == "entropy"
    assert told["plan_layers"] == {PLAN: LAYERS}
    assert told["files"]["model.onnx"]["bytes"] == 2300


def test_a_damaged_bundle_is_an_error(alexc: Alexc, tmp_path: Path) -> None:
    bundle = make(tmp_path)
    (bundle / "model.onnx").write_bytes(bytes(2299) + b"!")
    ran = alexc("inspect", bundle)
    assert ran.status == 1
    assert "error[bundle/altered]" in ran.err
    assert "model.onnx" in ran.err
    assert ran.out == ""


def test_files_that_no_build_writes_are_an_error(alexc: Alexc, tmp_path: Path) -> None:
    """Their digests agree: whoever wrote them sealed the manifest anew."""
    bundle = make(tmp_path, {"said": "layers, and there are none"})
    for options in ([], ["--json"]):
        ran = alexc("inspect", bundle, *options)
        assert ran.status == 1
        assert "error[bundle/content]" in ran.err
    manifest = read(bundle)
    unlisted = replace(manifest.engines[2], path="other.onnx")
    manifest = replace(manifest, engines=(*manifest.engines[:2], unlisted))
    (bundle / "manifest.json").write_bytes(render(manifest))
    ran = alexc("inspect", bundle)
    assert ran.status == 1
    assert "error[bundle/unlisted]" in ran.err


def test_a_folder_that_is_no_bundle_is_wrong_usage(alexc: Alexc, tmp_path: Path) -> None:
    ran = alexc("inspect", tmp_path)
    assert ran.status == 2
    assert "holds no manifest.json" in ran.err
    ran = alexc("inspect", make(tmp_path), "--resolved")
    assert ran.status == 2
    assert "--resolved and --diagram are of a spec" in ran.err
