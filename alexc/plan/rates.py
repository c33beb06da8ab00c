"""How fast this machine reads memory and multiplies matrices, measured.

    python -m alexc.plan.rates [THREADS]

prints the rates as JSON. Each is the best of several attempts by the fastest kernel at hand, since
what is wanted is the most that the machine can do: which library has that kernel differs from one
processor to another.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

_TRIAL_SECONDS, _ATTEMPT_SECONDS = 0.1, 0.6
_ORDER = 2048  # of the matrices: operands and product stay in the caches, 2048³ products
_MEMORY_BYTES = 512 << 20  # many times the caches

Call = Callable[[], object]


def measure(threads: int | None) -> dict[str, float]:
    """`read` in bytes a second, and by precision multiply–accumulates a second."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    rates = {"read": _MEMORY_BYTES / _shortest(_readers(torch))}
    kernels = {
        "fp32": _fp32_products(torch, threads),
        "bf16": _bf16_products(torch),
        "int8": _int8_products(torch, threads),
    }
    for precision, candidates in kernels.items():
        seconds = _shortest(candidates)
        if seconds < float("inf"):
            rates[precision] = _ORDER**3 / seconds
    return rates


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


def _shortest(candidates: Sequence[Call]) -> float:
    """Seconds of the fastest call of the fastest candidate; infinite if none works."""
    found = []
    for candidate in candidates:
        try:
            found.append((_fastest(candidate, _TRIAL_SECONDS), candidate))
        except RuntimeError:  # a build of PyTorch without the kernel
            continue
    if not found:
        return float("inf")
    seconds, best = min(found, key=lambda pair: pair[0])
    return min(seconds, _fastest(best, _ATTEMPT_SECONDS))


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


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]) if len(sys.argv) > 1 else None)))  # noqa: T201
