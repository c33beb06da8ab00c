"""Starting another Python that finds the same modules as this one."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def command(module: str, *arguments: str) -> list[str]:
    """The command line that runs a module. The current folder is not searched for modules."""
    return [sys.executable, "-P", "-m", module, *arguments]


def environment() -> dict[str, str]:
    """This process's environment, with its module path: what it can import, the other can.

    Threads of OpenMP, and so of torch, wait there without spinning: while other processes compute
    on the same cores that halves what they take, and it does not touch a result.
    """
    path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    return {"OMP_WAIT_POLICY": "passive", **os.environ, "PYTHONPATH": path}
