"""benchmarks/gpu.py where there is no GPU: its processes, its table, and its clocks on straw."""

from __future__ import annotations

import json
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import alexc_runtime
from alexc_runtime.manifest import MODEL, WEIGHTS
from alexc_runtime.opening import ENGINES
from benchmarks import (
    gpu,
    gpu_facts,
    gpu_overhead,
    gpu_peers,
    gpu_speed,
    gpu_table,
    gpu_tasks,
    gpu_timing,
)
from benchmarks.gpu_setting import FULL, OWN, PRECISIONS, TINY, Setting
from benchmarks.gpu_timing import Timed
from tests.gpu_machine import Machine, machine
from tests.small_bundle import IMAGE, built, make
from tests.straw_onnxruntime import HostArray, OnCpu

__all__ = ["built", "machine"]


def nothing() -> None:
    """What saves nothing."""


def test_without_a_gpu_it_says_so_and_measures_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_facts, "gpus", list)
    arguments = ["--work", str(tmp_path / "work"), "--results", str(tmp_path / "results")]
    assert gpu.main(arguments) == 2
    assert "there is no NVIDIA GPU on this machine" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


# ---- the order of tasks, and what is left out ----------------------------------------------------


@pytest.mark.parametrize("content", [b"", b'{"facts": {"', b"\xff", b"[]", b'{"speed": []}', None])
def test_what_is_no_file_of_results_is_told_and_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    monkeypatch.setattr(gpu_facts, "gpus", lambda: ["Some Card 7 GiB"])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    places = ["--results", str(tmp_path), "--work", str(tmp_path / "work")]
    file = tmp_path / "gpu-some-card-7.json"
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    for arguments in (["--table", str(file)], ["--resume", *places]):
        with pytest.raises(SystemExit) as ended:
            gpu.main(arguments)
        assert ended.value.code == 2
    assert content is None or file.read_bytes() == content


def test_what_decides_comes_first(tmp_path: Path) -> None:
    found = gpu.tasks(Setting(tmp_path))
    assert len(set(found)) == len(found)
    assert {task.part for task in found} == set(gpu.TASKS)
    names = [" ".join(task).strip() for task in found]
    assert names[0] == "facts"
    assert names[1:6] == [f"runs {engine}" for engine in (*OWN, "torch")]
    first = [
        "rates", "build fp16", "verify fp16", "speed onnxruntime_cuda fp16",
        "overhead onnxruntime_cuda fp16", "speed bare onnxruntime_cuda with graphs",
        "speed torch compile at 1", "speed torch compile at 256",
        "speed torch compile at 64", "speed torch compile at 8", "speed export onnxruntime_cuda",
        "build fp32", "speed onnxruntime_cuda fp32",
    ]  # fmt: skip
    assert [name for name in names if name in first] == first
    assert not [name for name in names if "int8" in name]
    assert "build int8" in {" ".join(t) for t in gpu.tasks(Setting(tmp_path, photos=tmp_path))}


def test_what_does_not_run_on_the_card_takes_no_time(tmp_path: Path) -> None:
    setting = Setting(tmp_path)
    make(setting.bundle("fp16"))
    runs: dict[str, Any] = {name: {"runs": True} for name in (*OWN, "torch")}
    runs["tensorrt_rtx"] = {"runs": False, "fault": "no kernel image"}
    runs["torch"] = {"fault": "not done after 150 s"}  # which may have been an accident

    def why(part: str, about: str) -> str | None:
        return gpu.left_out(gpu.Task(part, about), setting, {"runs": runs})

    assert why("speed", "onnxruntime_cuda fp16 from the host") is None
    assert why("speed", "onnxruntime_cuda fp32") == "there is no bundle in fp32"
    refused = "tensorrt_rtx does not run on this card"
    assert why("speed", "tensorrt_rtx fp16 without graphs") == refused
    assert why("speed", "export tensorrt_rtx") == refused
    assert why("overhead", "tensorrt_rtx fp16") == refused
    assert why("verify", "fp16") is None
    assert why("verify", "tf32") == "there is no bundle in tf32"
    assert why("speed", "torch compile at 64") is None
    runs["torch"] = {"runs": False, "fault": "torch finds no GPU"}
    assert why("speed", "torch compile at 64") == "torch does not run on this card"
    assert why("build", "fp32") is None


# ---- processes -----------------------------------------------------------------------------------


def test_a_task_that_fails_leaves_the_others_and_each_result_is_kept_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept: dict[str, Any] = {"rates": {"": {"read": 1e12}}, "runs": {}}
    saved: list[list[str]] = []
    setting = Setting(tmp_path, scale=TINY)
    two = [gpu.Task("overhead", f"{engine} fp16") for engine in ("tensorrt_rtx", "tensorrt")]
    monkeypatch.setattr(gpu, "tasks", lambda _: [*two, gpu.Task("rates")])
    monkeypatch.setattr(gpu, "left_out", lambda *_: None)
    gpu.measure(["overhead"], setting, 120, kept, lambda: saved.append(list(kept["overhead"])))
    assert saved == [["tensorrt_rtx fp16"], ["tensorrt_rtx fp16", "tensorrt fp16"]]
    for found in kept["overhead"].values():
        assert "BundleMissingError: there is no" in found["fault"]
    assert kept["rates"] == {"": {"read": 1e12}}
    assert "overhead tensorrt fp16" in capsys.readouterr().err
    gpu.measure(["overhead"], setting, 1, kept, nothing)
    assert {found["fault"] for found in kept["overhead"].values()} == {
        "not measured: 1 s were too little"
    }


def test_what_was_measured_is_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = []

    def run(task: gpu.Task, *_: Any) -> dict[str, Any]:
        done.append(task.about)
        return {"p50_ms": 1}

    monkeypatch.setattr(gpu, "run_apart", run)
    monkeypatch.setattr(gpu, "left_out", lambda *_: None)
    monkeypatch.setattr(gpu, "tasks", lambda _: [gpu.Task("speed", name) for name in "abc"])
    before = {"speed": {"a": {"p50_ms": 2}, "b": {"1": {}, "fault": "not done after 150 s"}}}
    kept: dict[str, Any] = {**before}
    gpu.measure(["speed"], Setting(tmp_path), 120, kept, nothing, resume=True)
    assert done == ["b", "c"]
    assert kept["speed"]["a"] == {"p50_ms": 2}
    gpu.measure(["speed"], Setting(tmp_path), 120, kept, nothing)
    assert done == ["b", "c", "a", "b", "c"]


HANGING = """
import json, subprocess, sys, time
from pathlib import Path
out = Path(sys.argv[sys.argv.index("--inside") + 1])
out.write_text(json.dumps({"1": {"p50_ms": 3}}))
other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
Path(sys.argv[sys.argv.index("--work") + 1], "other").write_text(str(other.pid))
time.sleep(600)
"""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for a process in /proc")
def test_what_hangs_is_ended_with_all_that_it_started_and_keeps_what_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "hanging.py"
    program.write_text(HANGING)
    monkeypatch.setattr(gpu, "__file__", str(program))
    found = gpu.run_apart(gpu.Task("speed", "x"), Setting(tmp_path), 1.5)
    assert found == {"1": {"p50_ms": 3}, "fault": "not done after 2 s"}
    process = Path("/proc", (tmp_path / "other").read_text())
    for _ in range(50):
        if not process.exists() or "\nState:\tZ" in (process / "status").read_text():
            break
        time.sleep(0.1)
    else:
        raise AssertionError("it is still there")


def test_a_process_that_ends_says_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "ending.py"
    program.write_text("raise SystemExit('no kernel image is available')")
    monkeypatch.setattr(gpu, "__file__", str(program))
    found = gpu.run_apart(gpu.Task("runs", "tensorrt_rtx"), Setting(tmp_path), 30)
    assert found == {"fault": "the process ended with 1: no kernel image is available"}


def test_children_find_the_modules_without_an_installation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where only the parent's sys.path knows of runtime/."""
    said = tmp_path / "said"
    package = tmp_path / "modules" / "alexc"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(
        "import json, os, sys, only_here\n"
        f"open({str(said)!r}, 'w').write(os.environ.get('CUDA_VISIBLE_DEVICES', 'all'))\n"
        "if 'refuse' in sys.argv and 'CUDA_VISIBLE_DEVICES' not in os.environ:\n"
        "    sys.exit('error[build/diverges]: conv1 on onnxruntime_cuda\\n = note: off by 3')\n"
        "print(json.dumps({'engines': []}))\n"
    )
    (tmp_path / "modules" / "only_here.py").touch()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "modules"), *sys.path])
    assert gpu_tasks.make(Path("a.yaml")) == {"engines": []}
    assert said.read_text() == "all"
    # What the GPU computes wrongly is measured all the same.
    assert gpu_tasks.make(Path("a.yaml"), "refuse") == {
        "engines": [],
        "refused": "alexc build: error[build/diverges]: conv1 on onnxruntime_cuda | "
        "= note: off by 3",
    }
    assert said.read_text() == ""


# ---- what runs here ------------------------------------------------------------------------------


def test_facts_come_of_any_machine(tmp_path: Path) -> None:
    found = gpu_facts.facts("", Setting(tmp_path))
    assert found["packages"]["onnx"]
    assert found["torch"]["version"]
    assert "CPUExecutionProvider" in found["onnxruntime"]["providers"]
    assert json.dumps(found)


def test_tensorrts_own_words_are_kept() -> None:
    pytest.importorskip("tensorrt_rtx")
    if gpu_facts.gpus():
        pytest.skip("this machine has a GPU")
    found = gpu_facts.library_on_card("tensorrt_rtx")
    assert found["reached"] == "plan"  # it builds without a GPU, and loads nothing
    assert any("CUDA" in message for message in found["said"])
    assert gpu_facts.library_on_card("a_package_nobody_has")["said"] == [
        "the package a-package-nobody-has is not installed"
    ]


@pytest.mark.parametrize("how", ["", "without graphs", "from the host"])
def test_batches_are_timed_where_they_lie(built: Path, machine: Machine, how: str) -> None:
    machine.does.profiles = [(1, 1, 1), (2, 4, 9)]
    with machine.open(built) as session, ExitStack() as held:
        for batch in (1, 8):
            run = gpu_timing.of_session(session, batch, how, held)
            found = gpu_timing.timed(run, batch, seconds=0.01)
            assert found["p50_ms"] <= found["p99_ms"]
            assert found["images_per_s"] >= batch / found["p50_ms"] * 999
        launched = "cudaGraphLaunch" in machine.gpu.calls
        assert launched == (how != "without graphs")
        assert ("HostToDevice" in machine.gpu.order[-20:]) == (how == "from the host")


def test_what_python_takes_is_the_call_without_the_bare_launch(
    built: Path, machine: Machine
) -> None:
    with machine.open(built) as session, ExitStack() as held:
        found = gpu_overhead.overhead_of(session, held, calls=5)
    for side in ("host", "GPU"):
        assert found[f"over, {side}"] == found[f"run, {side}"] - found[f"bare, {side}"]
    machine.does.capturable = False
    with machine.open(built) as session, ExitStack() as held:
        assert gpu_overhead.overhead_of(session, held, calls=5) == {
            "fault": "it runs without CUDA graphs"
        }


def test_what_python_takes_on_onnx_runtime_is_the_call_without_the_bound_one(
    built: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the CPU's provider and memory; only the clock's ends are looked at."""
    machine.patch.setitem(ENGINES, "onnxruntime_cuda", OnCpu)
    batch = HostArray(np.ones((1, *IMAGE), np.float32))
    monkeypatch.setattr(
        gpu_overhead,
        "of_session",
        lambda session, *_: Timed(lambda: session.run(batch), lambda: None),
    )
    with alexc_runtime.open(built, "onnxruntime_cuda") as session, ExitStack() as held:
        found = gpu_overhead.overhead_of(session, held, calls=5)
    assert len(found) == 6
    for side in ("host", "GPU"):
        assert found[f"over, {side}"] == found[f"run, {side}"] - found[f"bare, {side}"]


def test_each_batch_is_told_when_it_is_timed(tmp_path: Path, built: Path, machine: Machine) -> None:
    machine.install()
    setting = Setting(tmp_path, scale=replace(TINY, batches=(2, 3), seconds=0.0))
    setting.bundle("fp32").symlink_to(built)
    steps = [list(step) for step in gpu_speed.speed("tensorrt_rtx fp32", setting)]
    assert steps == [["2"], ["2", "3"]]
    (step,) = gpu_speed.speed("tensorrt_rtx fp32 at 3", setting)
    assert list(step) == ["3"]
    assert "cudaGraphLaunch" in machine.gpu.calls


def test_an_exported_file_runs_with_its_memory_bound(tmp_path: Path) -> None:
    manifest = make(tmp_path / "small")
    at = gpu_peers.of_onnxruntime(tmp_path / "small" / MODEL, manifest, "cpu")
    found = gpu_timing.timed(at(2), 2, seconds=0.0)
    assert found["p50_ms"] > 0


def test_onnx_runtime_is_told_otherwise_for_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    onnxruntime = pytest.importorskip("onnxruntime")

    real: Any = onnxruntime.InferenceSession

    class Session(real):  # type: ignore[misc]
        def __init__(self, path: str, *, providers: Any, enable_fallback: int) -> None:
            ((name, options),) = providers
            told.append((Path(path).name, name, options))
            cpu = ["CPUExecutionProvider"]
            super().__init__(path, providers=cpu, enable_fallback=enable_fallback)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    setting = Setting(tmp_path, scale=TINY)
    make(setting.bundle("fp16"))
    name = "bare onnxruntime_cuda with NHWC and graphs"
    with pytest.raises(RuntimeError, match="CUDAExecutionProvider could not be started"):
        next(gpu_speed.speed(name, setting))
    options = {"use_tf32": "0", "prefer_nhwc": "1", "enable_cuda_graph": "1"}
    assert told == [(MODEL, "CUDAExecutionProvider", options)]


def test_a_plan_of_an_exported_model_runs_as_ours_do(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    manifest = make(tmp_path / "small")
    folder = tmp_path / "exported"
    folder.mkdir()
    for name, called in ((MODEL, "exported.onnx"), (WEIGHTS, WEIGHTS)):
        (folder / called).write_bytes((tmp_path / "small" / name).read_bytes())
    bundle = alexc_runtime.open_bundle(
        gpu_peers._bundle_of_export(folder, "tensorrt_rtx", manifest, FULL.profiles)
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
        "facts": {"": {
            "cuda of the driver": "13.0", "nvidia-smi": {"driver_version": "580.1"},
            "packages": {"onnxruntime-gpu": "1.31.1", "numpy": "2.4.6"},
        }},
        "runs": {
            "tensorrt": {
                "runs": False, "fault": "none here",
                "library": {"reached": "plan", "said": ["no kernels", "for 9.0"]},
            },
            "torch": {"runs": True},
        },
        "rates": {"": {"read": 4e12, "fp16": 4e14, "int8": None}},
        "build": {"fp16": {"engines": [{"engine": "tensorrt_rtx", "status": "built"}]}},
        "verify": {
            "fp16": {
                "backends": {"tensorrt_rtx": [True, "compared"], "torch": [True, "compared"]},
                "worst_rel_l2": {"tensorrt_rtx": 3e-4},
            },
            "fp32": {"fault": "the process ended with -6"},
            "tf32": {"backends": {"onnxruntime_cuda": [True, ""]}, "worst_rel_l2": {}},
            "bf16": {"backends": {"onnxruntime_cuda": [None, "no kernels"]}, "worst_rel_l2": {}},
        },
        "speed": {
            # Reading 60,965,224 weights of two bytes takes 0.030 ms at 4 TB/s.
            "tensorrt_rtx fp16": {"1": _times(0.08, 1), "256": _times(1.0, 256)},
            "torch compile at 1": {"1": _times(0.16, 1)},
            "torch compile at 256": {"256": _times(0.9, 256), "fault": "not done after 400 s"},
            "torch eager": {"fault": "torch finds no GPU"},
        },
        "overhead": {
            "tensorrt_rtx fp16": {
                "run, host": 60.0, "over, host": 7.0, "run, GPU": 50.0, "over, GPU": 12.5,
            },
            "tensorrt fp16": {"fault": "not installed"},
        },
    }  # fmt: skip
    found = dict(gpu_table.bars(kept))
    assert found == {
        "every precision verified on the GPU itself": "not measured in all (fp16 passed, "
        "fp32 not measured, tf32 passed, bf16 not measured, int8 not measured)",
        "batch 1, fp16: ≤ 3 × reading the weights once": "reached (2.6 × by tensorrt_rtx fp16)",
        # 256,000 images a second of 724,406,816 products each.
        "throughput, fp16: ≥ 45 % of the measured products": ("reached (46% by tensorrt_rtx fp16)"),
        "Python per call over the bare call: ≤ 10 µs": (
            "MISSED (12.5 µs, tensorrt_rtx fp16, batch on the GPU)"
        ),
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
        "driver 580.1, which offers CUDA 13.0",
        "onnxruntime-gpu 1.31.1",
        "  tensorrt                 no: none here",
        f"  {'':24} its library came to: plan, and said: no kernels; for 9.0",
        "  torch compile at 256                         not done after 400 s",
        "  layer by layer, tensorrt_rtx         passed, at most 3.0e-04 from the reference",
        "  torch eager                                  torch finds no GPU",
        "overhead, tensorrt_rtx fp16, batch on the GPU: 50.0 µs, 12.5 µs over the bare call",
    ):
        assert line in text.splitlines()
    verify = {
        precision: {"backends": {"onnxruntime_cuda": [True, ""]}, "worst_rel_l2": {}}
        for precision in PRECISIONS
    }
    (_, said), *_ = gpu_table.bars({"verify": verify})
    assert said.startswith("reached (fp16 passed")
    verify["bf16"]["backends"]["tensorrt"] = [False, "ran"]
    (_, said), *_ = gpu_table.bars({"verify": verify})
    assert said.startswith("MISSED")
    assert "bf16 failed" in said
    file = tmp_path / "kept.json"
    file.write_text(json.dumps(kept))
    assert gpu.main(["--table", str(file)]) == 0
