"""What a build says of its engines, and the batch sizes that they are built for.

`BatchRange` and `EngineRecord` are the manifest's own, which the runtime reads; this room adds the
words of a status and the reading of `--batch`.
"""

from __future__ import annotations

import re

from alexc.diagnostics import Diagnostic, UsageError
from alexc_runtime.manifest import BatchRange, Built, EngineRecord

__all__ = [
    "BUILT",
    "BUILT_WITHOUT_GPU",
    "DEFAULT_BATCH",
    "PRECISIONS",
    "VERIFIED",
    "WITHOUT_KERNELS",
    "WITHOUT_PLAN",
    "BatchRange",
    "Built",
    "EngineRecord",
    "not_built",
    "parse_batch",
]

DEFAULT_BATCH = BatchRange(1, 8, 32)

# What a bundle is built in. `calibrate.narrow` says what each means for the model.
PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "int8-weights", "int8", "u8s8", "fp8")

# Models that no plan can be built of, and why.
WITHOUT_PLAN = {
    "u8s8": "TensorRT's integers of eight bits have a sign; int8 is for it",
    "int8-weights": "TensorRT writes such weights out in fp32, and gains nothing by them",
}

# Formats that convolutions and linear layers have no kernels for in an engine that loads the model.
# ONNX Runtime runs some nets in fp8 and some not, so that this shows in its verification alone.
WITHOUT_KERNELS = {"onnxruntime": ("bf16",)}

VERIFIED = "verified"
BUILT = "built, not run"
BUILT_WITHOUT_GPU = "built, not run: no GPU"

# TensorRT counts a tensor's axis in 32 bits. More would not fit into a GPU by far.
_LARGEST = 2**31 - 1


def not_built(engine: str, precision: str, reason: str) -> EngineRecord:
    """The record of a plan that this machine can't make, which is no fault of the spec."""
    return EngineRecord(engine, precision, f"not built: {reason}", None)


def parse_batch(text: str) -> BatchRange:
    """The range that `--batch MIN,OPT,MAX` writes. Raises UsageError."""
    if not re.fullmatch(r"\s*\d{1,20}\s*,\s*\d{1,20}\s*,\s*\d{1,20}\s*", text, re.ASCII):
        shown = text if len(text) <= 40 else text[:40] + "…"
        raise _fault(f"the batch range {shown!a} is not three whole numbers MIN,OPT,MAX")
    smallest, usual, largest = map(int, text.split(","))
    if smallest < 1:
        raise _fault(f"the batch range starts at {smallest}, and a batch has 1 image or more")
    if not smallest <= usual <= largest:
        raise _fault(
            f"the batch range {smallest},{usual},{largest} is not in order: MIN ≤ OPT ≤ MAX",
            ",".join(map(str, sorted((smallest, usual, largest)))),
        )
    if largest > _LARGEST:
        raise _fault(f"the batch range ends at {largest}, more than {_LARGEST:,}")
    return BatchRange(smallest, usual, largest)


def _fault(message: str, example: str = "1,8,32") -> UsageError:
    return UsageError(Diagnostic("batch/range", message, help=f"for example --batch {example}"))
