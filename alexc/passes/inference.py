"""The inference form of a graph: without the layers that only act in training."""

from __future__ import annotations

from alexc.graph.graph import Graph
from alexc.ops.pointwise import Dropout


def inference(graph: Graph) -> Graph:
    """The graph without dropout, its readers reading what it read.

    A dropout that is an output of the graph stays, because an output keeps its name in every
    backend; there it passes its input on. Batch norm stays too: folding it into a convolution
    would take a named tensor away that verification compares.
    """
    stands_for: dict[str, str] = {}
    layers = []
    for name, op, inputs in graph.layers():
        sources = tuple(stands_for.get(source, source) for source in inputs)
        if isinstance(op, Dropout):
            stands_for[name] = sources[0]
            if name not in graph.outputs:
                continue
        layers.append((name, op, sources))
    return graph.rebuilt(layers)
