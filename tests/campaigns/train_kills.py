"""Kills a run at random moments, resumes it, and compares its bytes with an undisturbed run's.

    python -m tests.campaigns.train_kills --kills 20 --workers 1 2 --seed 0

A small net with batch norm, dropout and a moving average is trained, with a checkpoint at every
step. The signal is SIGKILL, to all processes of the run, drawn over loading, training, testing
and saving. Exit status 1 unless the last checkpoints are the same to the byte.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from alexc.train import checkpoint
from tests.train_nets import DATA, small_net

_EPOCHS = 80  # of five steps
_MOST_STEPS = 15  # between two kills, so that the run outlives them all


def command(folder: Path, out: Path, workers: int) -> list[str]:
    """The command that starts the run or goes on with it."""
    program = folder / "train.py"
    program.write_text("from alexc.cli.main import main\n\nmain()\n", encoding="utf-8")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(workers)]
    arguments = ["train", str(folder / "small.yaml"), "--data", DATA, "--out", str(out)]
    options = ["--resume", "--device", "cpu", "--threads", "1"]
    sets = ["--set", f"train.epochs={_EPOCHS}", "--set", "train.checkpoint.steps=1"]
    starter = launch if workers > 1 else []
    return [sys.executable, *starter, str(program), *arguments, *options, *sets]


def content(run: Path) -> tuple[bytes, bytes]:
    """What the last checkpoint holds."""
    last = checkpoint.latest(run)
    assert last is not None
    return last.weights.read_bytes(), (last.folder / checkpoint.TRAINING).read_bytes()


def step_of(run: Path) -> int:
    """The step of the last whole checkpoint; -1 where there is none."""
    last = checkpoint.latest(run)
    return last.state.step if last is not None else -1


def campaign(folder: Path, kills: int, workers: int, chance: np.random.Generator) -> bool:
    """Whether a run killed so often ends as one that was left alone."""
    whole, killed = folder / "whole", folder / "killed"
    start = _first_step(_started(command(folder, whole, workers)), whole)
    done = 0
    while done < kills:
        process = _started(command(folder, killed, workers))
        before = step_of(killed)
        # Half of the kills fall anywhere in a start, the others some steps later.
        deadline = time.monotonic() + (60.0 if done % 2 else start * float(chance.uniform()))
        steps = int(chance.integers(1, _MOST_STEPS))
        while process.poll() is None and time.monotonic() < deadline:
            if step_of(killed) >= before + steps:
                break
            time.sleep(0.005)
        time.sleep(float(chance.uniform(0, 0.05)))
        if process.poll() is not None:
            raise SystemExit(
                f"{workers} workers: the run ended before kill {done + 1}: run it again"
            )
        for number in family(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        process.wait()
        done += 1
        print(f"{workers} workers: kill {done}, at step {step_of(killed)}", flush=True)
    return _started(command(folder, killed, workers)).wait() == 0 and (
        content(whole) == content(killed)
    )


def family(process: int) -> list[int]:
    """The process and all below it; torchrun's workers are in groups of their own."""
    found = [process]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += map(int, task.read_text().split())
    return found


def _started(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _first_step(process: subprocess.Popen[bytes], run: Path) -> float:
    """Seconds until the first step was saved. The run is over when this returns."""
    started = time.monotonic()
    while process.poll() is None and step_of(run) < 1:
        time.sleep(0.005)
    seconds = time.monotonic() - started
    if process.wait() != 0:
        raise SystemExit("the undisturbed run failed")
    return seconds


def main() -> int:
    """Run the campaign for each number of workers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    good = True
    for workers in arguments.workers:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            small_net(folder)
            chance = np.random.default_rng([arguments.seed, workers])
            same = campaign(folder, arguments.kills, workers, chance)
            good &= same
            print(
                f"{workers} workers, {arguments.kills} kills: {'same' if same else 'OTHER'} bytes"
            )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
