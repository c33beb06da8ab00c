"""Contestants that behave and misbehave, for the tests of the race: `y` is twice the images."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from alexc.plan.contestant import Images, Missing, Outputs, Runner, Subject


class Doubling(Runner):
    """Right, after so many milliseconds. `trouble` begins with the run of that number."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._seconds = settings.get("ms", 1) / 1e3
        self._trouble = settings.get("trouble")
        self._at = settings.get("at", 0)
        self._runs = 0

    def run(self, images: Images) -> Outputs:
        self._runs += 1
        end = time.perf_counter() + self._seconds
        while time.perf_counter() < end:
            pass
        if self._trouble is None or self._runs < self._at:
            return {"y": images * 2}
        return {"y": _TROUBLES[self._trouble](images)}

    def profile(self, images: Images, runs: int) -> dict[str, float] | None:
        return {"conv.steps": 0.25 * len(images), "relu": 0.5, "ReorderInput": runs / 1e3}


def _die(_: Images) -> Images:
    sys.stderr.write("Segmentation fault in kernel\n")
    sys.stderr.flush()
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def _fail(_: Images) -> Images:
    raise RuntimeError("out of memory\nallocator state: …")


_TROUBLES: dict[str, Callable[[Images], Images]] = {
    "die": _die,
    "fail": _fail,
    "wrong": lambda images: images * 3,
    "nan": lambda images: images * np.float32(np.nan),
    "shape": lambda images: images[:, :1],
}


def doubling(subject: Subject, settings: Mapping[str, Any]) -> Runner:
    assert subject.images.exists()
    os.write(1, b"a banner of a library, on stdout\n")
    return Doubling(settings)


def missing(subject: Subject, settings: Mapping[str, Any]) -> Runner:  # noqa: ARG001
    raise Missing("the package left is not installed")


def unloadable(subject: Subject, settings: Mapping[str, Any]) -> Runner:  # noqa: ARG001
    raise ValueError("no kernel for LRN")
