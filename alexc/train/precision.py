"""Which number formats a step computes in, and how."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Literal

import torch

Precision = Literal["fp32", "bf16", "fp16", "fp64"]


def choose(precision: str, device: torch.device) -> Precision:
    """The precision that `auto` stands for on this device; any other stands for itself."""
    if precision in ("fp32", "bf16", "fp16", "fp64"):
        return precision  # type: ignore[return-value]
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if _cpu_computes_bf16() else "fp32"


def _cpu_computes_bf16() -> bool:
    """Whether the processor multiplies bf16 itself: elsewhere it is slower than fp32."""
    try:
        words = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").split()
    except OSError:
        return False
    return "avx512_bf16" in words or "amx_bf16" in words or "bf16" in words


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Where the products of a step are computed in the narrow format; the weights stay fp32."""
    if precision in ("bf16", "fp16"):
        narrow = torch.bfloat16 if precision == "bf16" else torch.float16
        return torch.autocast(device.type, narrow)
    return nullcontext()


def storage(precision: Precision) -> torch.dtype:
    """The type that weights, inputs and sums are kept in."""
    return torch.float64 if precision == "fp64" else torch.float32
