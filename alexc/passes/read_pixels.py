"""Pixels in, instead of images that the host has normalised.

The input becomes uint8, a quarter of the bytes to copy, and a layer before all others computes

    x = (pixel · scale − mean) / std

What the net was trained on, its input until now, is the result of that layer. All other layers keep
their names, their weights and their values.
"""

from __future__ import annotations

from alexc.graph.graph import INPUT, Graph
from alexc.ops.pixels import Pixels

NORMALISED = f"{INPUT}.normalised"  # the name of the layer; no spec can give it


def read_pixels(graph: Graph, pixels: Pixels) -> Graph:
    """The graph that takes pixels. Raises ShapeFault if `pixels` has no mean for each channel."""
    layers = [
        (name, op, tuple(NORMALISED if source == INPUT else source for source in inputs))
        for name, op, inputs in graph.layers()
    ]
    return graph.rebuilt([(NORMALISED, pixels, (INPUT,)), *layers])
