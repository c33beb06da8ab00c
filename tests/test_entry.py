"""The script itself, as a process: interrupts, and outputs that can't be written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SPEC = Path(__file__).parent.parent / "specs" / "lenet.yaml"
COMMAND = [sys.executable, "-m", "alexc", "inspect", str(SPEC)]

# Ctrl-C as it comes while the command line is being imported.
INTERRUPTED = """
import builtins, os, signal, sys
load = builtins.__import__
def interrupting(name, *rest):
    if name == "typer":
        builtins.__import__ = load
        os.kill(os.getpid(), signal.SIGINT)
    return load(name, *rest)
builtins.__import__ = interrupting
sys.argv = ["alexc", "--help"]
from alexc.__main__ import main
main()
"""


@pytest.mark.parametrize(("number", "status"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_an_interrupt_during_the_imports_is_no_traceback(number: str, status: int) -> None:
    program = INTERRUPTED.replace("SIGINT", number)
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert ran.returncode == status
    assert ran.stderr == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_is_told_to_end_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    out = tmp_path / "out" / "net"
    command = [sys.executable, "-m", "alexc", "build", str(SPEC), "--out", str(out)]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(scratch)}
    ) as build:
        assert build.stderr is not None
        for line in build.stderr:
            if line.startswith("verification: running"):  # its workers are there
                build.send_signal(number)
                break
        told = build.stderr.read().splitlines()
    assert build.returncode == 128 + number
    assert (
        told[-1] == f"interrupted: {out} holds what it held before; the same command starts again"
    )
    assert not any("Traceback" in line for line in told)
    assert not out.parent.exists()
    assert [file for file in scratch.iterdir() if file.name.startswith("alexc-")] == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_full_disk_behind_stdout_is_told_in_a_line(options: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(
            COMMAND + options, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1].startswith("alexc: the output can't be written: No space")
    assert "Traceback" not in ran.stderr


def test_a_closed_stdout_is_no_traceback() -> None:
    ran = subprocess.run(
        ["sh", "-c", '"$@" >&-', "sh", *COMMAND], capture_output=True, text=True, check=False
    )
    assert "Traceback" not in ran.stderr
    assert ran.returncode == 0


def test_an_output_that_is_not_unicode_gets_what_it_can_hold() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    plain = subprocess.run(COMMAND, capture_output=True, text=True, check=False, env=environment)
    assert (plain.returncode, plain.stderr) == (0, "")
    assert "6?28?28" in plain.stdout
    whole = subprocess.run(
        [*COMMAND, "--resolved", "--json"], capture_output=True, check=False, env=environment
    )
    assert whole.returncode == 0
    assert json.loads(whole.stdout)["name"] == "lenet"
