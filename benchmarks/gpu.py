"""Measures everything that takes an NVIDIA GPU, prints a table and keeps it as JSON.

    python benchmarks/gpu.py                          everything, half an hour at the most
    python benchmarks/gpu.py --part rates --part speed    some parts; what was measured before stays
    python benchmarks/gpu.py --budget 600             as much as fits into ten minutes
    python benchmarks/gpu.py --photos DIR             with int8, which takes its ranges from photos
    python benchmarks/gpu.py --table FILE             the table of what was kept, again

`make bench-gpu` runs the first. Each task runs in a process of its own, so that one that fails, or
hangs, or ends its process, is a row that says so, and the others go on. What a machine lacks is
said in the rows too; without an NVIDIA GPU the program says that and ends with status 2.

The parts, in this order:

    runs      which engines run on this card at all: each computes lenet, held against float64
    rates     how fast memory is read and matrices are multiplied, by torch
    build     bundles of alexnet in every precision, with a plan of every library that is there
    verify    these bundles layer by layer, on the GPU
    speed     latency and throughput of plans with CUDA graphs and without, of ONNX Runtime, and of
              what a user would run instead: torch, torch.compile, and the engine that TensorRT
              makes of torch.onnx.export's file
    overhead  what Python takes in a call, over the bare launch of the same CUDA graph
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "runtime")]

from benchmarks import gpu_table  # noqa: E402
from benchmarks.gpu_bundles import PRECISIONS  # noqa: E402
from benchmarks.gpu_speed import contestants  # noqa: E402
from benchmarks.gpu_tasks import TASKS, gpu_name  # noqa: E402

PARTS = ("runs", "rates", "build", "verify", "speed", "overhead")
BUDGET = 1800.0
_LEAST_SECONDS = 20.0  # with less left no task is begun
_MOST_SECONDS = {"build": 600.0, "speed": 240.0}
_USUAL_SECONDS = 180.0


class Task(NamedTuple):
    """What one process does: `part` with the setting `about`, a word that names it in the table."""

    part: str
    about: str


def tasks(part: str, work: Path, photos: Path | None) -> list[Task]:
    """The tasks of a part, as far as those before it made what they take."""
    if part in ("build", "verify", "overhead"):
        precisions = [p for p in PRECISIONS if photos is not None or p != "int8"]
        return [Task(part, precision) for precision in precisions]
    if part == "speed":
        return [Task(part, name) for name in contestants(work)]
    return [Task(part, "")]


def measure(
    parts: Sequence[str], work: Path, budget: float, photos: Path | None, kept: dict[str, Any]
) -> dict[str, Any]:
    """What came of the parts, added to what was kept: by part and setting, results or a fault."""
    end = time.monotonic() + budget
    for part in parts:
        kept[part] = {}
        for task in tasks(part, work, photos):
            left = end - time.monotonic()
            if left < _LEAST_SECONDS:
                kept[part][task.about] = {"fault": f"not measured: {budget:g} s were too little"}
                continue
            say(f"{task.part} {task.about}".strip())
            limit = min(left, _MOST_SECONDS.get(part, _USUAL_SECONDS))
            kept[part][task.about] = run_apart(task, work, photos, limit)
            if fault := kept[part][task.about].get("fault"):
                say(f"    {fault}")
    return kept


def run_apart(task: Task, work: Path, photos: Path | None, limit: float) -> dict[str, Any]:
    """The task's result, from a process of its own; a fault in words if it gives none."""
    with tempfile.TemporaryDirectory() as folder:
        out, log = Path(folder) / "result.json", Path(folder) / "log"
        command = [sys.executable, __file__, "--inside", str(out), "--work", str(work)]
        command += ["--part", task.part, "--about", task.about]
        command += ["--photos", str(photos)] if photos is not None else []
        with log.open("wb") as messages:
            try:
                done = subprocess.run(
                    command, stdout=messages, stderr=messages, stdin=subprocess.DEVNULL,
                    timeout=limit, cwd=ROOT,
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                return {"fault": f"not done after {limit:.0f} s"}
        if out.exists():
            found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
            return found
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return {"fault": f"the process ended with {done.returncode}: {lines[-1] if lines else ''}"}


def run_inside(task: Task, work: Path, photos: Path | None, out: Path) -> None:
    """Do a task in this process and write its result."""
    try:
        result = TASKS[task.part](task.about, work, photos)
    except Exception as error:  # noqa: BLE001  (its row says which)
        words = str(error).strip().splitlines()
        result = {"fault": f"{type(error).__name__}: {words[0] if words else ''}"[:300]}
    part = out.with_suffix(".part")
    part.write_text(json.dumps(result), encoding="utf-8")
    part.replace(out)
    sys.stdout.flush()
    os._exit(0)  # libraries of GPUs may hang at the end, with nothing left to lose


def say(text: str) -> None:
    """Tell how far it is."""
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """The program. Returns its exit status."""
    parser = argparse.ArgumentParser(description="Measure what takes an NVIDIA GPU.")
    parser.add_argument("--part", action="append", choices=PARTS, help="only this; may be repeated")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds for all (1800)")
    parser.add_argument("--photos", type=Path, help="photographs to take the ranges of int8 from")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "gpu", help="bundles' folder")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--table", type=Path, help="print the table of this JSON and end")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--about", default="", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.table is not None:
        print(gpu_table.table(json.loads(given.table.read_text(encoding="utf-8"))))
        return 0
    given.work.mkdir(parents=True, exist_ok=True)
    if given.inside is not None:
        run_inside(Task(given.part[0], given.about), given.work, given.photos, given.inside)
    name = gpu_name()
    if name is None:
        say("there is no NVIDIA GPU on this machine that nvidia-smi knows: nothing is measured")
        return 2
    from alexc.plan.machine import describe

    file = given.results / f"gpu-{'-'.join(name.lower().split())}.json"
    kept = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    kept |= {"gpu": name, "machine": describe().to_json()}
    measure(given.part or PARTS, given.work, given.budget, given.photos, kept)
    given.results.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    print(gpu_table.table(kept))
    say(f"kept in {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
