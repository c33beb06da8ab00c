"""A machine with a GPU of straw, on which tests open bundles."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import alexc_runtime
from alexc_runtime.engines import cuda, tensorrt
from tests import tensorrt_double
from tests.cuda_double import Gpu
from tests.tensorrt_double import Behaviour


@dataclass
class Machine:
    """A machine with a GPU and TensorRT; `does` may be set until a bundle is opened."""

    patch: pytest.MonkeyPatch
    gpu: Gpu = field(default_factory=Gpu)
    does: Behaviour = field(default_factory=Behaviour)

    def install(self, engine: str = "tensorrt_rtx") -> None:
        """Make the library what `import` finds."""
        library = tensorrt_double.library(self.gpu, self.does, engine)
        self.patch.setitem(sys.modules, engine, library)

    def open(self, path: Path, engine: str = "tensorrt_rtx", **how: Any) -> alexc_runtime.Session:
        """The bundle on an engine, of which the library is installed as it is now set."""
        self.install(engine)
        return alexc_runtime.open(path, engine, **how)


@contextmanager
def gpu_machine(patch: pytest.MonkeyPatch, cache: Path) -> Iterator[Machine]:
    """The machine, on which nothing may be left at the end."""
    machine = Machine(patch)
    patch.setattr(tensorrt, "no_driver", lambda: None)
    patch.setitem(sys.modules, "cuda", ModuleType("cuda"))
    patch.setitem(sys.modules, "cuda.bindings", ModuleType("cuda.bindings"))
    patch.setitem(sys.modules, cuda.MODULE, machine.gpu.library())
    patch.setenv("ALEXC_CACHE", str(cache))
    yield machine
    if machine.gpu.left():  # an error may hold on to what failed
        gc.collect()
    assert machine.gpu.left() == {}
    # Others ask for the last error after their own calls, and would take ours for theirs.
    assert machine.gpu.last == {}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Machine]:
    with gpu_machine(monkeypatch, tmp_path / "cache") as machine:
        yield machine
