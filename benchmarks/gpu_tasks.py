"""Rates of a card, and bundles built and verified on it: three parts of benchmarks/gpu.py.

What can't be done raises; the message becomes the row.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu_setting import ROOT, Setting

Result = dict[str, Any]


# ---- how fast it could be ------------------------------------------------------------------------


def rates(_: str, setting: Setting) -> Result:
    """`read` in bytes a second, and by precision multiply–accumulates a second; the best of some.

    None for what this torch or this card can't do. Matrices hold random numbers: of ones alone a
    card takes less power, and so clocks higher than any net lets it.
    """
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError("torch finds no GPU")
    data = torch.randn(setting.scale.bytes // 4, device="cuda")
    found: Result = {"read": data.nbytes / _shortest(torch, data.sum)}
    del data
    order = setting.scale.order
    kinds = {"fp16": torch.float16, "fp32": torch.float32, "tf32": torch.float32,
             "bf16": torch.bfloat16, "int8": torch.int8}  # fmt: skip
    for precision, kind in kinds.items():
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        try:
            a = torch.randn(order, order, device="cuda")
            a = (a * 40).clamp(-127, 127).to(kind) if kind is torch.int8 else a.to(kind)
            # The second factor of an int8 product is to lie in columns.
            b = a.t() if kind is torch.int8 else a
            product = torch._int_mm if kind is torch.int8 else torch.mm  # noqa: SLF001
            found[precision] = order**3 / _shortest(torch, partial(product, a, b))
        except (RuntimeError, AttributeError):
            found[precision] = None
    return found


def _shortest(torch: Any, call: Callable[[], object]) -> float:
    """Seconds of the fastest of twenty runs of four calls, by the GPU's own clock."""
    for _ in range(3):
        call()
    best = float("inf")
    for _ in range(20):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(4):
            call()
        end.record()
        end.synchronize()
        best = min(best, start.elapsed_time(end) / 4e3)
    return best


# ---- bundles -------------------------------------------------------------------------------------


def build(precision: str, setting: Setting) -> Result:
    """The records of a bundle, and the seconds that it took."""
    options = ["--precision", precision, "--out", str(setting.bundle(precision))]
    for profile in setting.scale.profiles:
        options += ["--batch", ",".join(map(str, profile))]
    if precision == "int8":
        options += ["--calibrate", str(setting.photos)]
    start = time.perf_counter()
    made = make(setting.scale.spec, *options)
    return {**made, "seconds": time.perf_counter() - start}


def make(spec: Path, *options: str) -> Result:
    """The engines of a bundle that is built here.

    Where the build is refused, for an engine of the GPU computes something else, say, it is built
    again as if there were no GPU, so that there is something to measure; `refused` says why.
    """
    command = ("build", str(spec), *options, "--json")
    try:
        return {"engines": json.loads(_alexc(*command))["engines"]}
    except RuntimeError as error:
        made = json.loads(_alexc(*command, environment={"CUDA_VISIBLE_DEVICES": ""}))
        return {"engines": made["engines"], "refused": str(error)}


def verify(precision: str, setting: Setting) -> Result:
    """Whether the bundle's engines agree with the reference, layer by layer, on this GPU."""
    report = json.loads(_alexc("verify", str(setting.bundle(precision)), "--json", status=(0, 1)))
    worst: dict[str, float] = {}
    for row in report["layers"]:
        if row["rel_l2"] is not None:
            worst[row["backend"]] = max(worst.get(row["backend"], 0.0), row["rel_l2"])
    return {
        "passed": report["passed"],
        "first_divergence": report["first_divergence"],
        "backends": {b["backend"]: [b["passed"], b["status"]] for b in report["backends"]},
        "worst_rel_l2": worst,
        "layers": len({row["layer"] for row in report["layers"]}),
    }


def _alexc(
    *arguments: str, status: tuple[int, ...] = (0,), environment: dict[str, str] | None = None
) -> str:
    """What the command prints. Raises RuntimeError with its messages if it fails.

    It finds the modules that this process finds, whether alexc is installed or not.
    """
    from alexc.verify import python

    done = subprocess.run(
        python.command("alexc", *arguments),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **python.environment(), **(environment or {})},
        stdin=subprocess.DEVNULL,
    )
    if done.returncode not in status or not done.stdout:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        first = next((i for i, line in enumerate(said) if line.startswith("error")), -6)
        raise RuntimeError(f"alexc {arguments[0]}: {' | '.join(said[first:])}"[:1000])
    return done.stdout
