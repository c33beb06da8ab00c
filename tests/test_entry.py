"""The script itself, as a process: interrupts, and outputs that can't be written."""

from __future__ import annotations

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


def test_an_interrupt_during_the_imports_is_no_traceback() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 130
    assert ran.stderr == ""


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
