"""The normalisation of pixels multiplied into the convolutions that read them.

A photo's pixels p become x = (p · scale − mean) / std, channel by channel, before the net reads
them. Of a convolution without padding,

    w·x + b = (w · scale / std)·p + b − Σ w · mean / std

so that it can read pixels as they are. Padding forbids it: what is padded is 0 in x, which is the
mean colour, and would have to be another number in each channel of p. Only where all means are 0
are both 0.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from alexc.graph.graph import Graph, Node
from alexc.ops.base import Op
from alexc.ops.conv import Conv
from alexc.ops.pixels import Pixels

Weights = Mapping[str, NDArray[np.float32]]


def fold_normalisation(graph: Graph, weights: Weights) -> tuple[Graph, Weights]:
    """The graph whose convolutions read pixels as they are, and its weights.

    Where the graph takes no pixels (see `read_pixels`), or one of their readers forbids it, both
    come back as they were. The layers keep their names; the pixels become numbers in the first, and
    nothing more. Weights are folded in float64 and rounded once.
    """
    pixels = graph.pixels
    if pixels is None:
        return graph, weights
    name = next(node.name for node in graph.nodes if node.op is pixels)
    readers = [node for node in graph.nodes if name in node.inputs]
    if not all(_foldable(graph, node, pixels) for node in readers) or name in graph.outputs:
        return graph, weights
    channels = len(pixels.mean)
    layers: list[tuple[str, Op, tuple[str, ...]]] = []
    changed = dict(weights)
    for node in graph.nodes:
        op = node.op
        if node.name == name:
            op = Pixels(scale=1.0, mean=(0.0,) * channels, std=(1.0,) * channels)
        elif node in readers:
            op = op.model_copy(update={"bias": True})
            weight, bias = _folded(node, weights, pixels)
            changed |= {f"{node.name}.weight": weight, f"{node.name}.bias": bias}
        layers.append((node.name, op, node.inputs))
    return graph.rebuilt(layers), changed


def _foldable(graph: Graph, node: Node, pixels: Pixels) -> bool:
    return (
        isinstance(node.op, Conv)
        and (not node.op.padding or not any(pixels.mean))
        and node.name not in graph.quantized
        and graph.precision_of(node.name) == "fp32"
    )


def _folded(
    node: Node, weights: Weights, pixels: Pixels
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weight and bias of a convolution that reads pixels."""
    assert isinstance(node.op, Conv)
    own = {local: weights[name] for local, name in node.parameter_names().items()}
    weight = own["weight"].astype(np.float64)
    filters, depth = weight.shape[:2]
    # Each filter sees the channels of its group, (filters, depth, 1, 1).
    group = np.arange(filters) // (filters // node.op.groups)
    seen = group[:, np.newaxis] * depth + np.arange(depth)
    mean, std = (
        np.asarray(values, np.float64)[seen][:, :, np.newaxis, np.newaxis]
        for values in (pixels.mean, pixels.std)
    )
    bias = own["bias"].astype(np.float64) if "bias" in own else np.zeros(filters)
    bias = bias - (weight * mean / std).sum(axis=(1, 2, 3))
    scaled = weight * pixels.scale / std
    return scaled.astype(np.float32), bias.astype(np.float32)
