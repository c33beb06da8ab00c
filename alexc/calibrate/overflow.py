"""Which layers will overflow fp16, told from the magnitudes of their tensors before anything runs.

fp16 ends at 65504. Products are summed in fp32 on every engine that alexc builds for, so that of a
convolution or linear layer only the result counts; a normalisation squares what it reads.
"""

from __future__ import annotations

from collections.abc import Mapping

from alexc.diagnostics import Diagnostic
from alexc.graph.graph import Graph
from alexc.ops.norm import Lrn

LARGEST_FP16 = 65504.0


def foretell(graph: Graph, largest: Mapping[str, float]) -> Diagnostic | None:
    """A fault with a patch for the spec, or None if nothing in fp16 overflows.

    `largest` are the largest magnitudes met of each tensor of the graph.
    """
    reached = {}
    for node in graph.nodes:
        if graph.precision_of(node.name) != "fp16":
            continue
        magnitude = max(largest[node.name], *(largest[source] for source in node.inputs))
        if isinstance(node.op, Lrn):
            magnitude = max(magnitude, node.op.window_elements * largest[node.inputs[0]] ** 2)
        if magnitude > LARGEST_FP16:
            reached[node.name] = magnitude
    if not reached:
        return None
    first = next(iter(reached))
    more = f", and so do {len(reached) - 1} more layers" if len(reached) > 1 else ""
    patch = "\n".join(["precision:", *(f"  {name}: fp32" for name in reached)])
    return Diagnostic(
        "precision/overflow",
        f"{first} reaches {reached[first]:.3g} in fp16, which ends at {LARGEST_FP16:.0f}{more}",
        help=f"build in bf16, scale the input, or write into the spec:\n{patch}",
    )
