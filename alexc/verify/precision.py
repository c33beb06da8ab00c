"""The number formats that a backend computes in, as far as its rounding errors depend on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from alexc.graph.graph import Graph
from alexc.ops.conv import Conv
from alexc.ops.dense import Linear


@dataclass(frozen=True, slots=True)
class Precision:
    """How one layer rounds. A unit roundoff is the largest relative error of rounding to nearest.

    `operand` is that of the factors of a product, where they are rounded beyond what the tensors
    hold already; `sum` that of the accumulator; `result` that of the tensor written in the end.
    Numbers below `tiny`, the smallest normal one, may be flushed to zero, and those above
    `largest` overflow. For a format of p significant bits the unit roundoff is 2^-p.
    """

    name: str
    operand: float
    sum: float
    result: float
    tiny: float
    largest: float


_TINY_32 = 2.0**-126
_LARGEST_32 = (2 - 2.0**-23) * 2.0**127

FP32 = Precision("fp32", 0.0, 2.0**-24, 2.0**-24, _TINY_32, _LARGEST_32)
# Tensor cores read 11 significant bits of each factor; sums and tensors stay in fp32.
TF32 = Precision("tf32", 2.0**-11, 2.0**-24, 2.0**-24, _TINY_32, _LARGEST_32)
# Half precision accumulates in fp32 on every backend that alexc builds for.
FP16 = Precision("fp16", 2.0**-11, 2.0**-24, 2.0**-11, 2.0**-14, 65504.0)
BF16 = Precision("bf16", 2.0**-8, 2.0**-24, 2.0**-8, _TINY_32, (2 - 2.0**-7) * 2.0**127)

PRECISIONS = {precision.name: precision for precision in (FP32, TF32, FP16, BF16)}


_NARROW: dict[str, Any] = {"fp16": np.float16, "bf16": ml_dtypes.bfloat16}


def of_layers(graph: Graph, narrowed: str | None = None) -> dict[str, Precision]:
    """How each layer of a graph rounds. A quantized one sums in fp32 what is on its grid.

    `narrowed` is what may take the place of fp32: `tf32` in the products of convolutions and linear
    layers, another precision in all layers.
    """
    found = {node.name: PRECISIONS[graph.precision_of(node.name)] for node in graph.nodes}
    if narrowed is not None:
        for node in graph.nodes:
            plain = found[node.name] is FP32 and node.name not in graph.quantized
            if plain and (narrowed != TF32.name or isinstance(node.op, Conv | Linear)):
                found[node.name] = PRECISIONS[narrowed]
    return found


def as_kept(values: NDArray[np.float32], graph: Graph, tensor: str) -> NDArray[np.float32]:
    """`values` as the graph's tensor of that name can hold them."""
    narrow = _NARROW.get(graph.precision_of(tensor))
    if narrow is None:
        return values
    with np.errstate(over="ignore"):  # infinity is what becomes of it
        return values.astype(narrow).astype(np.float32)
