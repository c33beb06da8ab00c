"""The bundles of alexnet that benchmarks/gpu.py builds and measures."""

from __future__ import annotations

from pathlib import Path

PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "int8")


def bundle_of(work: Path, precision: str) -> Path:
    """Where the bundle of alexnet in a precision lies."""
    return work / f"alexnet-{precision}"
