"""What benchmarks/gpu.py does in processes of their own: one function for each part.

Each takes the setting, the folder of the bundles and that of the photographs, and returns what it
found, of JSON's types. What can't be done raises; the message becomes the row.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import alexc_runtime
from alexc_runtime.session import ENGINES
from benchmarks.gpu_bundles import bundle_of
from benchmarks.gpu_speed import overhead, speed

ROOT = Path(__file__).resolve().parents[1]
SPEC = ROOT / "specs" / "alexnet.yaml"

_PROFILES = ("--batch", "1,1,1", "--batch", "2,64,256")

Result = dict[str, Any]


def gpu_name() -> str | None:
    """The name of the first GPU, from NVIDIA's own program; None if it knows none."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    names = done.stdout.strip().splitlines()
    return names[0].strip() if done.returncode == 0 and names else None


# ---- what runs, and how fast it could be ---------------------------------------------------------


def runs(_: str, work: Path, __: Path | None) -> Result:
    """By engine: what it says of this card, and how far lenet's outputs are from float64."""
    from alexc.bundle import net_in
    from alexc.verify.reference import expect
    from alexc.weights import store

    folder = work / "lenet"
    _alexc("build", str(ROOT / "specs" / "lenet.yaml"), "--out", str(folder))
    bundle = alexc_runtime.open_bundle(folder)
    graph = net_in(bundle.manifest, str(folder)).graph
    weights = store.read(folder / "weights.safetensors", graph)
    batch = np.random.default_rng(0).standard_normal((2, *graph.input_shape), np.float32)
    expected = expect(graph, weights, batch, seed=0).values
    found: Result = {}
    for name, kind in ENGINES.items():
        if not kind.on_gpu:
            continue
        try:
            with alexc_runtime.open(folder, name) as session:
                outputs = session.run(batch)
            error = max(_rel_l2(outputs[n], expected[n]) for n in graph.outputs)
            found[name] = {"runs": bool(error < 1e-2), "rel_l2": error}
        except Exception as error:  # noqa: BLE001  (the other engines are still to be asked)
            known = isinstance(error, alexc_runtime.RuntimeFaultError)
            why = str(error) if known else f"{type(error).__name__}: {error}"
            found[name] = {"runs": False, "fault": why.splitlines()[0]}
    found["torch"] = _torch_runs()
    return found


def _torch_runs() -> Result:
    if find_spec("torch") is None:
        return {"runs": False, "fault": "the package torch is not installed"}
    import torch

    if not torch.cuda.is_available():
        return {"runs": False, "fault": f"torch {torch.__version__} finds no GPU"}
    matrix = torch.ones(64, 64, device="cuda")
    return {"runs": bool((matrix @ matrix == 64).all()), "version": torch.__version__}


def _rel_l2(found: Any, expected: Any) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def rates(_: str, __: Path, ___: Path | None) -> Result:
    """`read` in bytes a second, and by precision multiply–accumulates a second; the best of some.

    None for what this torch or this card can't do.
    """
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError("torch finds no GPU")
    data = torch.ones(1 << 28, device="cuda")
    found: Result = {"read": data.nbytes / _shortest(torch, data.sum)}
    del data
    order = 8192
    kinds = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16,
             "bf16": torch.bfloat16, "int8": torch.int8}  # fmt: skip
    for precision, kind in kinds.items():
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        try:
            a = torch.ones(order, order, device="cuda").to(kind)
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


def build(precision: str, work: Path, photos: Path | None) -> Result:
    """The records of a bundle, and the seconds that it took."""
    options = ["--precision", precision, "--out", str(bundle_of(work, precision)), *_PROFILES]
    if precision == "int8":
        options += ["--calibrate", str(photos)]
    start = time.perf_counter()
    made = json.loads(_alexc("build", str(SPEC), *options, "--json"))
    return {"engines": made["engines"], "seconds": time.perf_counter() - start}


def verify(precision: str, work: Path, _: Path | None) -> Result:
    """Whether the bundle's plans agree with the reference, layer by layer, on this GPU."""
    report = json.loads(_alexc("verify", str(bundle_of(work, precision)), "--json", status=(0, 1)))
    worst: dict[str, float] = {}
    for row in report["layers"]:
        if row["rel_l2"] is not None:
            worst[row["backend"]] = max(worst.get(row["backend"], 0.0), row["rel_l2"])
    return {
        "passed": report["passed"],
        "backends": {b["backend"]: [b["passed"], b["status"]] for b in report["backends"]},
        "worst_rel_l2": worst,
        "layers": len({row["layer"] for row in report["layers"]}),
    }


def _alexc(*arguments: str, status: tuple[int, ...] = (0,)) -> str:
    """What the command prints. Raises RuntimeError with its last message if it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "alexc", *arguments], capture_output=True, text=True, cwd=ROOT
    )
    if done.returncode not in status or not (done.stdout or "--json" not in arguments):
        lines = [line for line in done.stderr.splitlines() if "error" in line] or [done.stderr]
        raise RuntimeError(f"alexc {arguments[0]}: {lines[0].strip()}")
    return done.stdout


TASKS: dict[str, Callable[[str, Path, Path | None], Result]] = {
    "runs": runs,
    "rates": rates,
    "build": build,
    "verify": verify,
    "speed": speed,
    "overhead": overhead,
}
