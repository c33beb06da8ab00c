"""How fast this machine reads memory and multiplies matrices, measured.

    python -m alexc.plan.rates [THREADS]

answers each line on its input with the rates as JSON: a turn. Within a turn the best of several
attempts counts, by the fastest kernel at hand, since what is wanted is the most that the machine
can do: which library has that kernel differs from one processor to another. Turns are taken between
those of the engines, and the median of those beside a batch size is what engines are held to there.
Memory that other guests of the same host read as well is half as fast in one minute as in the next,
and a limit that was measured in another minute than the engine says nothing of it.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from types import TracebackType
from typing import Any, Self

_TRIAL_SECONDS, _TURN_SECONDS = 0.1, 0.08
_ORDER = 2048  # of the matrices: operands and product stay in the caches, 2048³ products
_MEMORY_BYTES = 512 << 20  # many times the caches

Call = Callable[[], object]

PROGRAM: tuple[str, ...] = ("-m", "alexc.plan.rates")


class Rates:
    """The rates of this machine, a turn at a time, from a process of its own.

    Use it as a context manager. Where that process can't be started or dies there are no rates.
    """

    def __init__(self, threads: int | None) -> None:
        words = [] if threads is None else [str(threads)]
        # numpy's products take their number of threads from here.
        bound = {} if threads is None else {"OPENBLAS_NUM_THREADS": str(threads)}
        self._turns: dict[int, list[dict[str, float]]] = {}
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", *PROGRAM, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | bound,
        )

    def ready(self) -> None:
        """Wait until all is loaded, by a turn that counts for nothing."""
        self._ask()

    def turn(self, batch: int) -> None:
        """Measure once, beside engines that run batches of this size."""
        if found := self._ask():
            self._turns.setdefault(batch, []).append(found)

    def _ask(self) -> dict[str, float]:
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(OSError, ValueError):  # it has died, or said no JSON
            self._process.stdin.write("\n")
            self._process.stdin.flush()
            found: dict[str, float] = json.loads(self._process.stdout.readline())
            return found
        return {}

    def medians(self) -> dict[int, dict[str, float]]:
        """By batch size: `read` in bytes, and by precision multiply–accumulates, a second."""
        return {
            batch: {name: statistics.median(turn[name] for turn in turns) for name in turns[0]}
            for batch, turns in self._turns.items()
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()


def kernels(threads: int | None) -> dict[str, tuple[float, Call]]:
    """By rate: how much one call of the fastest kernel reads or multiplies, and the kernel."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    candidates = {
        "read": _readers(torch),
        "fp32": _fp32_products(torch, threads),
        "bf16": _bf16_products(torch),
        "int8": _int8_products(torch, threads),
    }
    found: dict[str, tuple[float, Call]] = {}
    for name, calls in candidates.items():
        if (fastest := _fastest_of(calls)) is not None:
            found[name] = (_MEMORY_BYTES if name == "read" else _ORDER**3, fastest)
    return found


def turn(found: Mapping[str, tuple[float, Call]]) -> dict[str, float]:
    """The rate of each kernel now."""
    return {name: work / _fastest(call, _TURN_SECONDS) for name, (work, call) in found.items()}


def _readers(torch: Any) -> list[Call]:
    """A matrix times a vector, and sums: each reads every number once."""
    columns = 4096
    matrix = torch.ones(_MEMORY_BYTES // (4 * columns), columns)
    vector = torch.ones(columns)
    integers = matrix.view(torch.int64)
    return [lambda: matrix @ vector, matrix.sum, integers.sum]


def _fp32_products(torch: Any, threads: int | None) -> list[Call]:
    import numpy as np

    array = np.random.default_rng(0).standard_normal((_ORDER, _ORDER), np.float32)
    tensor = torch.from_numpy(array)
    return [
        lambda: tensor @ tensor,
        lambda: array @ array,
        *_onnxruntime_products("MatMul", array, array, threads),
    ]


def _bf16_products(torch: Any) -> list[Call]:
    tensor = torch.randn(_ORDER, _ORDER).to(torch.bfloat16)
    return [lambda: tensor @ tensor]


def _int8_products(torch: Any, threads: int | None) -> list[Call]:
    """Of signed integers in PyTorch, which has it in private, and of unsigned and signed ones."""
    import numpy as np

    ones = torch.ones(_ORDER, _ORDER, dtype=torch.int8)
    product = getattr(torch, "_int_mm", None)
    own = [lambda: product(ones, ones)] if product is not None else []
    unsigned, signed = (np.ones((_ORDER, _ORDER), kind) for kind in (np.uint8, np.int8))
    return [*own, *_onnxruntime_products("MatMulInteger", unsigned, signed, threads)]


def _onnxruntime_products(op_type: str, a: Any, b: Any, threads: int | None) -> list[Call]:
    """The product of `a` with the constant `b` in ONNX Runtime, if that is installed."""
    if find_spec("onnxruntime") is None:
        return []
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    kind = helper.np_dtype_to_tensor_dtype(a.dtype)
    result = TensorProto.FLOAT if a.dtype.kind == "f" else TensorProto.INT32
    body = helper.make_graph(
        [helper.make_node(op_type, ["a", "b"], ["c"])],
        "product",
        [helper.make_tensor_value_info("a", kind, a.shape)],
        [helper.make_tensor_value_info("c", result, [_ORDER, _ORDER])],
        [numpy_helper.from_array(b, "b")],
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [lambda: session.run(None, {"a": a})]


def _fastest_of(candidates: Sequence[Call]) -> Call | None:
    """The fastest candidate; None if none works."""
    found = []
    for candidate in candidates:
        with suppress(RuntimeError):  # a build of PyTorch without the kernel
            found.append((_fastest(candidate, _TRIAL_SECONDS), candidate))
    return min(found, key=lambda pair: pair[0])[1] if found else None


def _fastest(call: Call, seconds: float) -> float:
    """Seconds of the fastest of the calls that fit into so many seconds; two at the least."""
    call()
    best = float("inf")
    end = time.perf_counter() + seconds
    count = 0
    while count < 2 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
        count += 1
    return best


def main() -> None:
    """Answer until the input ends."""
    found = kernels(int(sys.argv[1]) if len(sys.argv) > 1 else None)
    for _ in sys.stdin:
        sys.stdout.write(json.dumps(turn(found)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
