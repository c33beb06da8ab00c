"""Measures everything that takes an NVIDIA GPU, prints a table and keeps it as JSON.

    python benchmarks/gpu.py                          everything, half an hour at the most
    python benchmarks/gpu.py --tiny                   all of it on lenet, to see that it works
    python benchmarks/gpu.py --budget 540             as much as fits into nine minutes
    python benchmarks/gpu.py --budget 540 --resume    what is still missing, or failed
    python benchmarks/gpu.py --part rates --part speed    some parts; what was measured before stays
    python benchmarks/gpu.py --photos DIR             with int8, which takes its ranges from photos
    python benchmarks/gpu.py --table FILE             the table of what was kept, again

`make bench-gpu` runs the first. Each task runs in a process of its own, so that one that fails, or
hangs, or ends its process, is a row that says so, and the others go on; each result is kept as
soon as it is there. What a machine lacks is said in the rows too; without an NVIDIA GPU the
program says that and ends with status 2.

The parts:

    facts     the card, its compute capability, the driver, and the versions of all libraries
    runs      which engines run on this card at all: each computes lenet, held against float64
    rates     how fast memory is read and matrices are multiplied, by torch
    build     bundles of alexnet in every precision, with a plan of every library that is there
    verify    these bundles layer by layer, on the GPU
    speed     latency and throughput of the engines that run, and of what a user would run instead:
              torch, torch.compile, and what TensorRT and ONNX Runtime make of torch.onnx.export's
              file; and of ONNX Runtime told otherwise than we do, to see what that would gain
    overhead  what Python takes in a call, over the library's own

They are done in the order of what they decide: first what runs, then fp16, on which the bars are,
with its peers, then the other precisions.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "runtime")]

from benchmarks import gpu_facts, gpu_table, gpu_tasks  # noqa: E402
from benchmarks.gpu_overhead import overhead  # noqa: E402
from benchmarks.gpu_peers import BARE, PEERS  # noqa: E402
from benchmarks.gpu_setting import FULL, OWN, TINY, Setting  # noqa: E402
from benchmarks.gpu_speed import speed  # noqa: E402

# What each part does: a result, or one after the other what is known so far.
TASKS: dict[str, Callable[[str, Setting], dict[str, Any] | Iterator[dict[str, Any]]]] = {
    "facts": gpu_facts.facts,
    "runs": gpu_facts.runs,
    "rates": gpu_tasks.rates,
    "build": gpu_tasks.build,
    "verify": gpu_tasks.verify,
    "speed": speed,
    "overhead": overhead,
}
BUDGET = 1800.0
_LEAST_SECONDS = 20.0  # with less left no task is begun
_MOST_SECONDS = {"build": 420.0, "verify": 300.0}
_USUAL_SECONDS = 150.0
_SECONDS_TO_COMPILE = 400.0  # `torch compile`, which tries out kernels


class Task(NamedTuple):
    """What one process does: `part` with the setting `about`, a word that names it in the table."""

    part: str
    about: str = ""

    @property
    def seconds(self) -> float:
        """How long it may take."""
        if self.about.startswith("torch compile"):
            return _SECONDS_TO_COMPILE
        return _MOST_SECONDS.get(self.part, _USUAL_SECONDS)


def tasks(setting: Setting) -> list[Task]:
    """Everything that there is to do, what decides the most first."""
    half, *others = setting.precisions
    found = [Task("facts"), *(Task("runs", name) for name in (*OWN, "torch")), Task("rates")]
    found += [Task("build", half), Task("verify", half)]
    found += [Task("speed", f"{engine} {half}") for engine in OWN]
    found += [Task("overhead", f"{engine} {half}") for engine in OWN]
    found += [Task("speed", name) for name in BARE]
    compiled, *rivals = PEERS
    found += [Task("speed", f"{compiled} at {batch}") for batch in setting.scale.batches]
    found += [Task("speed", rival) for rival in rivals]
    for precision in others:
        found += [Task("build", precision), Task("verify", precision)]
    found += [Task("speed", f"{engine} {p}") for p in others for engine in OWN]
    found += [Task("speed", f"{engine} {half} from the host") for engine in OWN]
    found += [Task("speed", f"{engine} {half} without graphs") for engine in OWN[:2]]
    found += [Task("overhead", f"{engine} {p}") for p in others for engine in OWN]
    return found


def left_out(task: Task, setting: Setting, kept: dict[str, Any]) -> str | None:
    """Why a task need not be begun; None if nothing is known that speaks against it."""
    if task.part in ("verify", "speed", "overhead"):
        words = task.about.split()
        peer = re.sub(r" at \d+$", "", task.about) in (*PEERS, *BARE)
        precision = "fp16" if peer else words[1] if len(words) > 1 else words[0]
        if not (setting.bundle(precision) / "manifest.json").exists():
            return f"there is no bundle in {precision}"
        engine = next((word for word in (*words, "torch") if word in (*OWN, "torch")), "")
        ran = kept.get("runs", {}).get(engine, {}).get("runs")
        if task.part != "verify" and ran is False:
            return f"{engine} does not run on this card"
    return None


def measure(
    parts: Sequence[str],
    setting: Setting,
    budget: float,
    kept: dict[str, Any],
    save: Callable[[], None],
    *,
    resume: bool = False,
) -> None:
    """Put what comes of the parts into `kept`, by part and setting: results, or a fault.

    `save` is called after each. With `resume` what was measured stays, and else is forgotten.
    """
    end = time.monotonic() + budget
    for part in parts:
        kept[part] = kept.get(part, {}) if resume else {}
    for task in tasks(setting):
        there = kept.get(task.part, {}).get(task.about, {"fault": ""})
        if task.part not in parts or "fault" not in there:
            continue
        left = end - time.monotonic()
        if (reason := left_out(task, setting, kept)) is not None:
            found = {"fault": reason}
        elif left < _LEAST_SECONDS:
            found = {"fault": f"not measured: {budget:g} s were too little"}
        else:
            say(f"{task.part} {task.about}".strip())
            found = run_apart(task, setting, min(left, task.seconds))
            if fault := found.get("fault"):
                say(f"    {fault}")
        kept[task.part][task.about] = found
        save()


def run_apart(task: Task, setting: Setting, limit: float) -> dict[str, Any]:
    """The task's result, from a process of its own; what it came to and a fault if it gives none.

    When its time is over, so is that of the processes which it has started.
    """
    from alexc.folders import scratch

    with scratch("bench") as folder:
        out, log = folder / "result.json", folder / "log"
        command = [sys.executable, __file__, "--inside", str(out), "--work", str(setting.work)]
        command += ["--part", task.part, "--about", task.about]
        command += ["--photos", str(setting.photos)] if setting.photos is not None else []
        command += ["--tiny"] if setting.scale is TINY else []
        with log.open("wb") as messages:
            process = subprocess.Popen(
                command, stdout=messages, stderr=messages, stdin=subprocess.DEVNULL, cwd=ROOT,
                start_new_session=True,
            )  # fmt: skip
            try:
                status: int | None = process.wait(limit)
            except subprocess.TimeoutExpired:
                status = None
            finally:
                _end(process)
        found: dict[str, Any] = {}
        if out.exists():
            found = json.loads(out.read_text(encoding="utf-8"))
        if status is None:
            return {**found, "fault": f"not done after {limit:.0f} s"}
        if status != 0:
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            said = " | ".join(lines[-3:])
            return {**found, "fault": f"the process ended with {status}: {said}"}
        return found


def _end(process: subprocess.Popen[bytes]) -> None:
    """End what is left of a process and of those that it has started."""
    try:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    except OSError:  # all have ended
        pass
    process.wait()


def run_inside(task: Task, setting: Setting, out: Path) -> None:
    """Do a task in this process and write its result, what is known so far each time it is more."""
    found: dict[str, Any] = {}
    try:
        result = TASKS[task.part](task.about, setting)
        for found in [result] if isinstance(result, dict) else result:
            _write(out, found)
    except Exception as error:  # noqa: BLE001  (its row says which)
        words = str(error).strip().splitlines()
        fault = f"{type(error).__name__}: {words[0] if words else ''}"[:1000]
        _write(out, {**found, "fault": fault})
    sys.stdout.flush()
    os._exit(0)  # libraries of GPUs may hang at the end, with nothing left to lose


def _write(file: Path, content: dict[str, Any]) -> None:
    """Put it where nobody ever reads half of it."""
    part = file.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    part.replace(file)


def read_kept(file: Path) -> dict[str, Any]:
    """What was kept in a file of results. Ends the program with status 2 if that is something else.

    A damaged one is not replaced: what it holds may have taken hours.
    """
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        fault = error.strerror if isinstance(error, OSError) else f"no JSON: {error}"
    else:
        if isinstance(kept, dict) and all(isinstance(kept.get(part, {}), dict) for part in TASKS):
            return kept
        fault = "JSON of something else"
    say(f"{file}: {fault}")
    sys.exit(2)


def say(text: str) -> None:
    """Tell how far it is."""
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """The program. Returns its exit status."""
    parser = argparse.ArgumentParser(description="Measure what takes an NVIDIA GPU.")
    parser.add_argument("--part", action="append", choices=TASKS, help="only this; may be repeated")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds for all (1800)")
    parser.add_argument("--resume", action="store_true", help="only what is missing or failed")
    parser.add_argument("--tiny", action="store_true", help="on lenet, to see that all of it works")
    parser.add_argument("--photos", type=Path, help="photographs to take the ranges of int8 from")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "gpu", help="bundles' folder")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--table", type=Path, help="print the table of this JSON and end")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--about", default="", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.table is not None:
        print(gpu_table.table(read_kept(given.table)))
        return 0
    photos = None if given.photos is None else given.photos.resolve()
    setting = Setting(given.work.resolve(), photos, TINY if given.tiny else FULL)
    setting.work.mkdir(parents=True, exist_ok=True)
    if given.inside is not None:
        run_inside(Task(given.part[0], given.about), setting, given.inside)
    names = gpu_facts.gpus()
    if not names:
        say("there is no NVIDIA GPU on this machine that its driver knows: nothing is measured")
        return 2
    # So that what is running is ended too, and does not keep the GPU busy.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    given.results.mkdir(parents=True, exist_ok=True)
    name = "-".join(re.findall(r"\w+", names[0].rpartition(" ")[0].lower()))
    file = given.results / f"gpu-{name}{'-tiny' if given.tiny else ''}.json"
    kept = read_kept(file) if file.exists() else {}
    kept |= {"gpu": names[0], "net": setting.scale.net}
    measure(
        given.part or list(TASKS),
        setting,
        given.budget,
        kept,
        lambda: _write(file, kept),
        resume=given.resume,
    )
    table = gpu_table.table(kept)
    file.with_suffix(".txt").write_text(table + "\n", encoding="utf-8")
    print(table)
    say(f"kept in {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
