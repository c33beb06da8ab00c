"""The cores that this process may run on."""

from __future__ import annotations

import os


def affinity() -> tuple[int, ...]:
    """Their numbers, in order. macOS and Windows don't tell them: there it is all cores."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))
