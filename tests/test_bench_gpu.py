"""benchmarks/gpu.py where there is no GPU: its processes, its table, and its clocks on straw."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import alexc_runtime
from alexc_runtime.manifest import MODEL, WEIGHTS
from benchmarks import gpu, gpu_bundles, gpu_speed, gpu_table, gpu_tasks
from tests.gpu_machine import Machine, machine
from tests.small_bundle import built, make

__all__ = ["built", "machine"]


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine may have a GPU")
def test_without_a_gpu_it_says_so_and_measures_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--work", str(tmp_path / "work"), "--results", str(tmp_path / "results")]
    assert gpu.main(arguments) == 2
    assert "there is no NVIDIA GPU on this machine" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_a_task_that_fails_or_hangs_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept: dict[str, Any] = {"rates": {"": {"read": 1e12}}}
    gpu.measure(["overhead"], tmp_path, 120, None, kept)
    assert list(kept["overhead"]) == ["fp32", "tf32", "fp16", "bf16"]
    for found in kept["overhead"].values():
        assert "there is no" in found["tensorrt_rtx"]["fault"]
    assert kept["rates"] == {"": {"read": 1e12}}
    monkeypatch.setitem(gpu._MOST_SECONDS, "rates", 0.01)
    gpu.measure(["rates"], tmp_path, 120, None, kept)
    assert kept["rates"] == {"": {"fault": "not done after 0 s"}}
    gpu.measure(["runs"], tmp_path, 1, None, kept)
    assert kept["runs"] == {"": {"fault": "not measured: 1 s were too little"}}
    assert "overhead fp16" in capsys.readouterr().err


def test_every_part_has_a_task_and_contestants_are_those_of_the_bundles(tmp_path: Path) -> None:
    assert tuple(gpu_tasks.TASKS) == gpu.PARTS
    make(gpu_bundles.bundle_of(tmp_path, "fp16"))
    names = [task.about for task in gpu.tasks("speed", tmp_path, None)]
    assert "tensorrt_rtx fp16 without graphs" in names
    assert names[-4:] == list(gpu_speed.PEERS)
    assert not [name for name in names if "fp32" in name]
    assert gpu.Task("build", "int8") in gpu.tasks("build", tmp_path, tmp_path)


@pytest.mark.parametrize("how", ["", "without graphs", "from the host"])
def test_batches_are_timed_where_they_lie(built: Path, machine: Machine, how: str) -> None:
    machine.does.profiles = [(1, 1, 1), (2, 4, 9)]
    with machine.open(built) as session, ExitStack() as held:
        for batch in (1, 8):
            run = gpu_speed.of_session(session, batch, how, held)
            found = gpu_speed.timed(run, batch, seconds=0.01)
            assert found["p50_ms"] <= found["p99_ms"]
            assert found["images_per_s"] >= batch / found["p50_ms"] * 999
        launched = "cudaGraphLaunch" in machine.gpu.calls
        assert launched == (how != "without graphs")
        assert ("HostToDevice" in machine.gpu.order[-20:]) == (how == "from the host")


def test_what_python_takes_is_the_call_without_the_bare_launch(
    built: Path, machine: Machine
) -> None:
    with machine.open(built) as session, ExitStack() as held:
        found = gpu_speed.overhead_of(session, held, calls=5)
    for side in ("host", "GPU"):
        assert found[f"over, {side}"] == found[f"run, {side}"] - found[f"bare, {side}"]
    machine.does.capturable = False
    with machine.open(built) as session, ExitStack() as held:
        assert gpu_speed.overhead_of(session, held, calls=5) == {
            "fault": "it runs without CUDA graphs"
        }


def test_a_plan_of_an_exported_model_runs_as_ours_do(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    manifest = make(tmp_path / "small")
    folder = tmp_path / "exported"
    folder.mkdir()
    for name, called in ((MODEL, "exported.onnx"), (WEIGHTS, WEIGHTS)):
        (folder / called).write_bytes((tmp_path / "small" / name).read_bytes())
    bundle = alexc_runtime.open_bundle(
        gpu_speed._bundle_of_export(folder, "tensorrt_rtx", manifest)
    )
    (record,) = bundle.manifest.engines
    assert (record.engine, record.precision) == ("tensorrt_rtx", "fp16")
    assert record.built is not None
    assert [profile.max for profile in record.built.profiles] == [1, 256]
    assert [output.name for output in bundle.manifest.outputs] == ["scores"]


def _times(p50_ms: float, batch: int) -> dict[str, float]:
    rate = batch / p50_ms * 1e3
    return {"p50_ms": p50_ms, "p99_ms": 2 * p50_ms, "images_per_s": rate, "runs": 9}


def test_the_table_says_which_bars_are_reached(tmp_path: Path) -> None:
    assert set(dict(gpu_table.bars({})).values()) == {"not measured"}
    assert "not measured" in gpu_table.table({})
    kept = {
        "gpu": "GPU of straw",
        "runs": {"": {"tensorrt": {"runs": False, "fault": "none here"}, "torch": {"runs": True}}},
        "rates": {"": {"read": 4e12, "fp16": 4e14, "int8": None}},
        "build": {"fp16": {"engines": [{"engine": "tensorrt_rtx", "status": "built"}]}},
        "verify": {
            "fp16": {
                "backends": {"tensorrt_rtx": [True, "compared"], "torch": [True, "compared"]},
                "worst_rel_l2": {"tensorrt_rtx": 3e-4},
            },
            "fp32": {"fault": "the process ended with -6"},
        },
        "speed": {
            # Reading 60,965,224 weights of two bytes takes 0.030 ms at 4 TB/s.
            "tensorrt_rtx fp16": {"1": _times(0.08, 1), "256": _times(1.0, 256)},
            "torch compile": {"1": _times(0.16, 1), "256": _times(0.9, 256)},
            "torch eager": {"fault": "torch finds no GPU"},
        },
        "overhead": {"fp16": {"tensorrt_rtx": {
            "run, host": 60.0, "over, host": 7.0, "run, GPU": 50.0, "over, GPU": 12.5,
        }, "tensorrt": {"fault": "not installed"}}},
    }  # fmt: skip
    found = dict(gpu_table.bars(kept))
    assert found == {
        "every precision verified on the GPU itself": "reached",
        "batch 1, fp16: ≤ 3 × reading the weights once": "reached (2.6 × by tensorrt_rtx fp16)",
        # 256,000 images a second of 724,406,816 products each.
        "throughput, fp16: ≥ 45 % of the measured products": ("reached (46% by tensorrt_rtx fp16)"),
        "Python per call over the bare launch: ≤ 10 µs": "MISSED (12.5 µs)",
        "faster than torch compile at batch 1": "reached (2.00 ×)",
        "faster than torch compile at batch 256": "MISSED (0.90 ×)",
        **{
            f"faster than {rival} at batch {batch}": "not measured"
            for rival in gpu_table.RIVALS
            for batch in (1, 8, 64, 256)
            if rival != "torch compile" or batch in (8, 64)
        },
    }
    text = gpu_table.table(kept)
    for line in (
        "  tensorrt                 no: none here",
        "  layer by layer, tensorrt_rtx         passed, at most 3.0e-04 from the reference",
        "  torch eager                                  torch finds no GPU",
        "overhead, tensorrt_rtx fp16, batch on the GPU: 50.0 µs, 12.5 µs over the bare launch",
    ):
        assert line in text.splitlines()
    file = tmp_path / "kept.json"
    file.write_text(json.dumps(kept))
    assert gpu.main(["--table", str(file)]) == 0
