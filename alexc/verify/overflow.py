"""Where fp16 would overflow, foretold from the values that the reference passes through."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from alexc.graph.graph import Graph
from alexc.ops.base import Array
from alexc.ops.norm import Lrn
from alexc.verify.precision import FP16


def fp16_overflows(graph: Graph, values: Mapping[str, Array]) -> dict[str, float]:
    """The layers that pass through a number above fp16's largest, with that number.

    Products are summed in fp32, so of a convolution only the result counts; of a normalisation the
    squares do.
    """
    found = {}
    for node in graph.nodes:
        largest = float(np.abs(values[node.name]).max(initial=0.0))
        if isinstance(node.op, Lrn):
            given = np.abs(values[node.inputs[0]]).max(initial=0.0)
            largest = max(largest, float(given) ** 2)
        if largest > FP16.largest:
            found[node.name] = largest
    return found


def overflow_note(graph: Graph, values: Mapping[str, Array]) -> str | None:
    """What to write into the spec so that a build in fp16 keeps those layers in fp32.

    Layers that are in another format than fp16 already are safe; None if all are. In a graph that
    is all in fp32, the note is of what a build in fp16 would meet.
    """
    narrow = "fp16" in graph.precisions.values()
    found = {
        name: largest
        for name, largest in fp16_overflows(graph, values).items()
        if not narrow or graph.precision_of(name) == "fp16"
    }
    if not found:
        return None
    each = ", ".join(f"{name} ({largest:.3g})" for name, largest in found.items())
    patch = ", ".join(f"{name}: fp32" for name in found)
    return (
        f"fp16 {'overflows' if narrow else 'would overflow'} above {FP16.largest:.0f} in {each}; "
        f"in the spec, this keeps them in fp32:\nprecision: {{{patch}}}"
    )
