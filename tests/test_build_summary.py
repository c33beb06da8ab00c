"""What `alexc build` shows of a new bundle, on a terminal of 80 columns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from alexc.build import Result
from alexc.calibrate.calibration import FILE, read
from alexc.cli.build_summary import print_summary
from alexc.verify.report import Accuracy, Report
from alexc_runtime.manifest import BackendRecord, EngineRecord, Manifest
from alexc_runtime.manifest import read as read_manifest
from alexc_runtime.planned import Candidate, Choice, Place, Plan, Timed, Way
from tests.test_inspect_bundle import make

ACCURACY = Accuracy("onnxruntime", "fc", 9, 0.875, 0.0123, 0.0456)


def candidate(engine: str, threads: int | None, ms: dict[int, float], verdict: str) -> Candidate:
    return Candidate(
        engine=engine,
        precision="fp32",
        forms=(),
        threads=threads,
        path="model.onnx",
        times=tuple(Timed(batch, each, each, each, True) for batch, each in ms.items()),
        rel_l2=1e-7,
        exact=True,
        agreement=None,
        top1=None,
        top5=None,
        usable=True,
        verdict=verdict,
    )


def planned(manifest: Manifest) -> Manifest:
    """The same with a plan of two choices, of three ways."""
    plan = Plan(
        budget="exact",
        machine=Place("a processor", 2, {}),
        images=2,
        photographs=False,
        seconds=21.5,
        choices=(
            Choice(1, 16, Way("onnxruntime", "fp32", "model.onnx", 1)),
            Choice(17, None, Way("openvino", "fp32", "model.onnx", None)),
        ),
        candidates=(
            candidate("openvino", None, {1: 0.0605, 8: 0.172, 32: 0.522}, "chosen at batch 32"),
            candidate("onnxruntime", 1, {1: 0.0264, 8: 0.144, 32: 0.566}, "chosen at batch 1, 8"),
            candidate("onnxruntime", None, {1: 0.0309, 8: 0.147, 32: 0.566}, "slower"),
        ),
    )
    return replace(manifest, plan=plan)


def shown(folder: Path, manifest: Manifest, capsys: pytest.CaptureFixture[str]) -> list[str]:
    report = Report(True, "float64 numpy", [], [], None, accuracy=[ACCURACY])
    print_summary(Path("build/small"), Result(manifest, report, read(folder / FILE)))
    return capsys.readouterr().out.splitlines()


def test_a_build_tells_each_engine_once_and_fits_on_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    folder = make(tmp_path)
    assert shown(folder, planned(read_manifest(folder)), capsys) == [
        "build/small: small, verified against float64 numpy",
        "onnxruntime   verified",
        "tensorrt_rtx  not run: no GPU",
        "              plan in int8: built, not run: no GPU",
        "tensorrt      plan in int8: not built: no GPU",
        "ranges        of 6 images by entropy, 2.00% off on 3 others; max 3.00%",
        "",
        "plan: the fastest within exact of 3 ways",
        "",
        " batches      run on                      ms of 1  ms of 8  ms of 32",
        " ───────────────────────────────────────────────────────────────────",
        " 1 to 16      onnxruntime fp32, 1 thread   0.0264    0.144     0.566",
        " 17 and more  openvino fp32                0.0605    0.172     0.522",
        "",
        "",
        " backend      output  off by  at most  same class  images",
        " ────────────────────────────────────────────────────────",
        " onnxruntime  fc       4.56%    0.012       87.5%       9",
        "",
    ]


def test_a_plan_that_ran_is_told_with_its_engine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make(tmp_path)
    manifest = read_manifest(folder)
    plans = ("fp32", "fp16")
    manifest = replace(
        manifest,
        engines=tuple(EngineRecord("tensorrt", each, "verified", f"{each}.plan") for each in plans),
        verification=replace(
            manifest.verification, backends=(BackendRecord("tensorrt", "ran", True),)
        ),
    )
    lines = shown(folder, manifest, capsys)
    assert lines[1:3] == ["tensorrt  verified, a plan in fp32", "          plan in fp16: verified"]
