"""The part of a graph that one layer needs."""

from __future__ import annotations

from alexc.graph.graph import Graph


def up_to(graph: Graph, layer: str) -> Graph:
    """The graph with `layer` as its one output, without what that does not need."""
    needed = {layer}
    for node in reversed(graph.nodes):
        if node.name in needed:
            needed.update(node.inputs)
    layers = [entry for entry in graph.layers() if entry[0] in needed]
    return graph.rebuilt(layers, outputs=(layer,))
