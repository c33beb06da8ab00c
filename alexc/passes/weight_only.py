"""Linear layers whose weights alone are int8: activations stay as they are, and take no ranges.

At small batches a linear layer takes as long as reading its weights, and these are a quarter of the
bytes. Each output feature has a step, from its largest magnitude. What a weight is rounded to must
not hang on the last bit of a division, which engines round in ways of their own; so a step is
widened, by a few parts in ten thousand, until none of its weights lies next to a tie.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from alexc.graph.graph import Graph
from alexc.graph.quantization import Quantization, distance_to_tie, step_for
from alexc.ops.base import Array
from alexc.ops.dense import Linear
from alexc.passes.quantize import quantizable
from alexc.spec.model import Precision

# Two units in the last place of the largest quotient, 127, in float32.
_MARGIN = 2 * 2.0**-17
# How often, and by how much each time, a step is widened at most: 1.6 % in all.
_TRIES, _WIDER = 64, 2.0**-12
_SLICE = 1 << 22  # weights at a time, so that they never lie in memory whole in float64


def linear_layers(graph: Graph, named: Mapping[str, Precision] | None = None) -> tuple[str, ...]:
    """The linear layers among those that are quantized: not the last, nor any that is `named`."""
    return tuple(
        name for name in quantizable(graph, named) if isinstance(graph.by_name[name].op, Linear)
    )


def weight_only(
    graph: Graph, weights: Mapping[str, NDArray[np.float32]], layers: Sequence[str]
) -> Graph:
    """The graph with the weights of these layers in int8. `weights` are its own, by whole name."""
    grids = {
        name: Quantization(
            "int8",
            input_step=None,
            weight_steps=_steps(weights[graph.by_name[name].parameter_names()["weight"]]),
            output_step=None,
        )
        for name in layers
    }
    precisions = {name: p for name, p in graph.precisions.items() if name not in grids}
    return graph.rebuilt(precisions=precisions, quantized={**graph.quantized, **grids})


def _steps(weight: NDArray[np.float32]) -> tuple[float, ...]:
    """A step for each row, at which no weight of the row is next to a tie, if there is one."""
    found: list[float] = []
    rows = max(1, _SLICE // weight.shape[1])
    for first in range(0, len(weight), rows):
        part = weight[first : first + rows].astype(np.float64)
        found += [_settled(row, float(np.abs(row).max())) for row in part]
    return tuple(found)


def _settled(row: Array, largest: float) -> float:
    """The least step that is wide enough and clear of ties; else the one that is most so."""
    best, clearest = 0.0, -1.0
    for number in range(_TRIES):
        step = step_for(largest * (1 + number * _WIDER), "int8")
        clear = float(distance_to_tie(row, step, "int8").min()) / step
        if clear > clearest:
            best, clearest = step, clear
        if clear > _MARGIN:
            break
    return best
