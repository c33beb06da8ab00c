"""More than one worker: the same steps, another number of them, a lost one; the two examples.

All of it starts torchrun, here with two workers on this machine, or with two of its agents that
find each other as two machines do. Nothing here is a matter of who is faster: what is to happen at
a step happens in the program at that step, and `PATIENCE` only ends what hangs.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from alexc.train import checkpoint
from tests.train_nets import DATA, SMALL, small_net

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
# Batch norm and dropout look at a worker's part alone, so a net with neither is the same for all.
ALIKE = SMALL.replace("  bn1: batch_norm\n", "").replace("p: 0.2", "p: 0.0")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
# Seconds. Starting PyTorch four times takes ten of processor time, and minutes on a busy machine.
PATIENCE = 1800


PROGRAM = "from alexc.cli.main import main\n\nmain()\n"
# Worker 1 of the first group is lost at step 20.
DYING = """
import os
import signal

from alexc.train.loop import Loop

step = Loop._step


def dying(self, *batch):
    first_group = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    if first_group and self.workers.rank == 1 and self.state.step == 20:
        os.kill(os.getpid(), signal.SIGKILL)
    step(self, *batch)


Loop._step = dying
"""
# As long as there is a file `hold`, all wait after step 10 until they are asked to stop.
HOLDING = """
import time
from pathlib import Path

from alexc.train.loop import Loop

asked = Loop._asked


def holding(self, stop):
    while self.state.step == 10 and Path("hold").exists() and not stop.asked:
        time.sleep(0.01)
    return asked(self, stop)


Loop._asked = holding
"""


def _command(
    folder: Path, name: str, workers: int, *overrides: str, data: str = DATA, restarts: int = 0
) -> list[str]:
    program = folder / "train.py"
    if not program.exists():
        program.write_text(PROGRAM, encoding="utf-8")
    launch = ["-m", "torch.distributed.run", "--standalone", "--max-restarts", str(restarts)]
    launch += ["--nproc-per-node", str(workers)]
    return [
        *[sys.executable, *(launch if workers > 1 else []), str(program)],
        *["train", str(folder / "small.yaml"), "--data", data, "--out", str(folder / name)],
        *["--device", "cpu", "--threads", "1", "--resume"],
        *[word for override in overrides for word in ("--set", override)],
    ]


def _ran(command: Sequence[str]) -> None:
    ended = subprocess.run(
        command, capture_output=True, text=True, env=ENVIRONMENT, timeout=PATIENCE
    )
    assert ended.returncode == 0, ended.stderr


def _tensors(run: Path) -> dict[str, NDArray[np.float64]]:
    """All that the run's last checkpoint holds: weights, momentum, averages."""
    last = checkpoint.latest(run)
    assert last is not None
    return load_file(last.folder / checkpoint.TRAINING)


def _bytes(run: Path) -> dict[str, bytes]:
    return {name: value.tobytes() for name, value in _tensors(run).items()}


@contextmanager
def _started(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """The process, which is gone with all that it started when the block ends."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **{"env": ENVIRONMENT, **options},
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _step_is_saved(run: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Wait until the run has saved this step, or a later one."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        last = checkpoint.latest(run)
        if last is not None and last.state.step >= step:
            return
        time.sleep(0.01)
    raise AssertionError(f"step {step} was not saved")


# ---- two workers on one machine ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "sets"),
    [
        (DATA, ("train.epochs=10", "train.accumulate=2")),  # 2 workers × 2 parts × 4
        ("synthetic:1280", ("train.epochs=5", "train.batch=128")),  # 2 workers × 64
    ],
    ids=["16", "128"],
)
def test_two_workers_take_the_same_fifty_steps_as_one(
    tmp_path: Path, data: str, sets: tuple[str, ...]
) -> None:
    small_net(tmp_path, ALIKE)
    for name, workers in (("one", 1), ("two", 2)):
        _ran(_command(tmp_path, name, workers, "train.precision=fp64", *sets, data=data))
    one, two = _tensors(tmp_path / "one"), _tensors(tmp_path / "two")
    assert one.keys() == two.keys()
    for key, value in one.items():
        np.testing.assert_allclose(two[key], value, rtol=0, atol=1e-9, err_msg=key)


def test_a_run_goes_on_with_another_number_of_workers(tmp_path: Path) -> None:
    small_net(tmp_path, ALIKE)
    _ran(_command(tmp_path, "whole", 1, "train.precision=fp64"))
    _ran([*_command(tmp_path, "changed", 1, "train.precision=fp64"), "--stop-after", "7"])
    _ran(_command(tmp_path, "changed", 2, "train.precision=fp64"))
    changed = _tensors(tmp_path / "changed")
    for key, value in _tensors(tmp_path / "whole").items():
        np.testing.assert_allclose(changed[key], value, rtol=0, atol=1e-9, err_msg=key)


def test_a_lost_worker_is_started_again_and_the_run_stays_the_same(tmp_path: Path) -> None:
    small_net(tmp_path)
    sets = ("train.epochs=6", "train.checkpoint.steps=1")
    _ran(_command(tmp_path, "whole", 2, *sets))
    (tmp_path / "train.py").write_text(DYING + PROGRAM, encoding="utf-8")
    with _started(_command(tmp_path, "lost", 2, *sets, restarts=2)) as process:
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert "failed (exitcode: -9)" in err
    assert "train/lost-worker" in err
    assert "Traceback" not in err
    assert _bytes(tmp_path / "lost") == _bytes(tmp_path / "whole")


# ---- the examples --------------------------------------------------------------------------------


def _place(folder: Path) -> dict[str, str]:
    """A folder that looks like a checkout to the scripts; the environment to run them in."""
    small_net(folder)
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "torchrun").symlink_to(Path(sys.prefix) / "bin" / "torchrun")
    (programs / "alexc").write_text(f"#!{sys.executable}\n{PROGRAM}", encoding="utf-8")
    return {**ENVIRONMENT, "PORT": str(_port())}


def _port() -> int:
    """A port that nobody else takes before the agents do, however long they take to start.

    It is below those that the system gives away by itself, and another one in every process.
    """
    first = 20_000 + os.getpid() * 7 % 10_000
    for port in range(first, first + 100):
        with socket.socket() as tried, suppress(OSError):
            tried.bind(("127.0.0.1", port))
            return port
    raise AssertionError("there is no free port")


def test_the_example_for_two_machines(tmp_path: Path) -> None:
    environment = _place(tmp_path)
    script = ["sh", str(ROOT / "examples" / "two-machines.sh")]
    command = [*script, "127.0.0.1", "small.yaml", DATA, "both"]
    here = {"cwd": tmp_path, "env": environment}
    with _started(command, **here) as first, _started(command, **here) as second:
        for machine in (first, second):
            _, err = machine.communicate(timeout=PATIENCE)
            assert machine.returncode == 0, err
    _ran([*_command(tmp_path, "alone", 2)])
    assert _bytes(tmp_path / "both") == _bytes(tmp_path / "alone")


_SRUN = """#!/bin/bash
# Stands for SLURM's: the command once a machine, and signals passed on to all of them.
trap 'kill -TERM $(jobs -p)' TERM
for _ in $(seq "$SLURM_NNODES"); do "$@" & done
while [ -n "$(jobs -rp)" ]; do wait; done
"""
_SCONTROL = """#!/bin/bash
[ "$1 $2" = "show hostnames" ] && printf '127.0.0.1\\nother\\n' || echo "$@" >> requeued
"""


def test_the_example_for_slurm_stops_in_time_and_goes_on(tmp_path: Path) -> None:
    environment = _place(tmp_path)
    for name, text in (("srun", _SRUN), ("scontrol", _SCONTROL)):
        (tmp_path / name).write_text(text, encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    text = (tmp_path / "small.yaml").read_text(encoding="utf-8")
    text = text.replace("epochs: 3", "epochs: 6\n  checkpoint: {steps: 5}")
    (tmp_path / "small.yaml").write_text(text, encoding="utf-8")
    program = tmp_path / ".venv" / "bin" / "alexc"
    program.write_text(f"#!{sys.executable}\n{HOLDING}{PROGRAM}", encoding="utf-8")
    (tmp_path / "hold").touch()
    job = {"SLURM_NNODES": "2", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]"}
    environment |= {**job, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}

    command = ["bash", str(ROOT / "examples" / "slurm.sbatch"), "small.yaml", DATA, "job"]
    with _started(command, cwd=tmp_path, env=environment) as first:
        _step_is_saved(tmp_path / "job", 10, first)
        first.send_signal(signal.SIGTERM)
        _, err = first.communicate(timeout=PATIENCE)
    assert first.returncode != 0, err
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"
    last = checkpoint.latest(tmp_path / "job")
    assert last is not None
    assert last.state.step == 10
    (tmp_path / "hold").unlink()
    with _started(command, cwd=tmp_path, env=environment) as second:
        _, err = second.communicate(timeout=PATIENCE)
    assert second.returncode == 0, err
    _ran(_command(tmp_path, "alone", 2))
    assert _bytes(tmp_path / "job") == _bytes(tmp_path / "alone")
