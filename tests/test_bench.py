"""`alexc bench` from the command line, on a net of some hundred weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexc.frontend import load_net
from alexc.model import weights_for
from alexc.plan import rates
from alexc.plan.prepare import write_bundle
from tests.command_line import Alexc, alexc

__all__ = ["alexc"]

SPEC = """\
alexc: 1
name: small
input: {channels: 3, height: 14, width: 13}
layers:
  conv1: {op: conv, out_channels: 6, kernel_size: 3}
  relu1: relu
  norm1: {op: lrn, size: 5, alpha: 0.1, beta: 0.75, k: 2, alpha_per: element}
  pool1: {op: max_pool, kernel_size: 3, stride: 2}
  flatten: flatten
  drop: dropout
  fc: {op: linear, out_features: 7}
init: kaiming
"""


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The spec, on a machine whose rates are known without measuring them for seconds."""
    program = (
        'import sys\nfor _ in sys.stdin: print(\'{"read": 1e10, "fp32": 1e10}\', flush=True)\n'
    )
    monkeypatch.setattr(rates, "PROGRAM", ("-c", program))
    path = tmp_path / "small.yaml"
    path.write_text(SPEC, encoding="utf-8")
    return path


def test_engines_and_peers_side_by_side(spec: Path, alexc: Alexc) -> None:
    for package in ("onnxruntime", "openvino", "matplotlib"):
        pytest.importorskip(package)
    report, picture = spec.with_name("report.md"), spec.with_name("bench.svg")
    ran = alexc(
        "bench",
        spec,
        *("--batch", "1,3", "--rounds", "2", "--threads", "1", "--peer", "torch", "--json"),
        *("--markdown", report, "--plot", picture),
    )
    assert ran.status == 0, ran.err
    found = ran.json
    assert [(row["engine"], row["precision"], row["batch"]) for row in found["rows"]] == [
        (engine, precision, batch)
        for batch in (1, 3)
        for engine, precision in (
            ("onnxruntime", "fp32"),
            ("openvino", "fp32"),
            ("openvino", "bf16"),
            ("torch", "fp32"),
        )
    ]
    for row in found["rows"]:
        if row["precision"] == "bf16" and row["status"] == "measured":
            assert 2**-12 < row["rel_l2"] < 2**-5
    for row in found["rows"]:
        if row["precision"] == "fp32":
            assert row["status"] == "measured"
            assert row["class"] == "exact"
            assert 0 < row["p50_ms"] <= row["p99_ms"]
            assert row["images_per_s"] > 0
            assert row["of_limit"] > 0
        if row["family"] == "ours" and row["status"] == "measured":
            low, high = row["runtime_overhead_interval"]
            assert low <= row["runtime_overhead"] <= high
    machine = found["machine"]
    assert machine["threads"] == 1
    assert {"cpu", "affinity", "governor", "versions"} <= machine.keys()
    counted = {(each["engine"], each["batch"]): each["layers"] for each in found["layers"]}
    for engine in ("onnxruntime", "openvino"):
        assert "conv1" in {layer["layer"] for layer in counted[engine, 3]}
    assert "## Batches of 3" in report.read_text(encoding="utf-8")
    assert picture.stat().st_size > 1000


def test_a_table_for_people(spec: Path, alexc: Alexc) -> None:
    pytest.importorskip("onnxruntime")
    ran = alexc(
        *("bench", spec, "--batch", "2", "--rounds", "1"),
        *("--engine", "onnxruntime", "--peer", "none"),
    )
    assert ran.status == 0, ran.err
    assert "batches of 2" in ran.out
    assert "onnxruntime" in ran.out
    assert "loading onnxruntime fp32" in ran.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engine", "onnx-runtime"], "there is no engine 'onnx-runtime' to measure"),
        (["--peer", "tensorflow"], "there is no peer 'tensorflow' to measure"),
        (["--batch", "1,0"], "a batch size is a whole number from 1 to 4096, not '0'"),
        (["--plot", "bench.pdf"], "a plot is written as .svg or .png, not as bench.pdf"),
        (["--markdown", "no/where.md"], "no/where.md: No such file or directory"),
    ],
)
def test_wrong_usage_is_said_before_anything_is_made(
    arguments: list[str], message: str, spec: Path, alexc: Alexc
) -> None:
    ran = alexc("bench", spec, *arguments)
    assert ran.status == 2
    assert message in ran.err
    assert "making" not in ran.err


def test_another_bundle_beside(spec: Path, alexc: Alexc) -> None:
    """A bundle of the same net is measured, too, and one of other weights is refused."""
    pytest.importorskip("onnxruntime")
    net = load_net(spec)
    folders = []
    for seed in (0, 1):
        weights = weights_for(net, None, seed)
        folders.append(spec.with_name(f"bundle{seed}"))
        write_bundle(net, weights, folders[-1], {})
    same, other = folders
    only = ("--engine", "onnxruntime", "--peer", "none", "--rounds", "1", "--batch", "1")
    ran = alexc("bench", same, "--beside", same, *only, "--json")
    assert [row["status"] for row in ran.json["rows"]] == ["measured"] * 2, ran.err
    ran = alexc("bench", same, "--beside", other, *only)
    assert ran.status == 1
    assert "bundle1 is not of the same weights" in ran.err


def test_a_target_that_is_not_there(spec: Path, alexc: Alexc) -> None:
    assert alexc("bench", spec.with_name("other.yaml")).status == 2
    folder = spec.with_name("folder")
    folder.mkdir()
    ran = alexc("bench", folder)
    assert ran.status == 2
    assert "holds no manifest.json" in ran.err
