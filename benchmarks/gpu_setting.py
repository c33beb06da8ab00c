"""What benchmarks/gpu.py measures: of which net, how long, and where its bundles lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# The bars are about the first; of an int8 bundle the ranges come from photographs.
PRECISIONS = ("fp16", "fp32", "tf32", "bf16", "int8")
# The engines of the runtime that compute on a GPU, the likeliest to be the fastest first.
OWN = ("tensorrt", "tensorrt_rtx", "onnxruntime_cuda", "onnxruntime_tensorrt")


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    `batches` come in the order of their importance. `seconds` is how long a contestant is timed at
    each batch and in each way; `calls` how many the overhead is the median of; `order` is that of
    the matrices, and `bytes` how many are read, to measure the rates.
    """

    net: str
    batches: tuple[int, ...]
    seconds: float
    calls: int
    order: int
    bytes: int

    @property
    def spec(self) -> Path:
        """The net's spec."""
        return ROOT / "specs" / f"{self.net}.yaml"

    @property
    def profiles(self) -> list[tuple[int, int, int]]:
        """Batches of one image by themselves, and all others."""
        largest = max(self.batches)
        return [(1, 1, 1), (2, min(64, largest), largest)]


FULL = Scale("alexnet", (1, 256, 64, 8), 1.5, 2000, 8192, 1 << 30)
# To see in two minutes that all of it works; its numbers say nothing.
TINY = Scale("lenet", (1, 8), 0.05, 20, 512, 1 << 24)


@dataclass(frozen=True)
class Setting:
    """What every task is told: the folder of the bundles, that of photographs, and the scale."""

    work: Path
    photos: Path | None = None
    scale: Scale = FULL

    def bundle(self, precision: str) -> Path:
        """Where the bundle of the net in a precision lies."""
        return self.work / f"{self.scale.net}-{precision}"

    @property
    def precisions(self) -> tuple[str, ...]:
        """Those that there can be bundles in."""
        return tuple(p for p in PRECISIONS if p != "int8" or self.photos is not None)
