"""The normalisation of pixels multiplied into the convolutions that read them.

A photo's pixels p become the input x = (p · scale − mean) / std, channel by channel. Of a
convolution without padding,

    w·x + b = (w · scale / std)·p + b − Σ w · mean / std

so that a net can read pixels as they are. Padding forbids it: what is padded is 0 in x, which is
the mean colour, and would have to be another number in each channel of p. Only where all means are
0 are both 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from alexc.graph.graph import INPUT, Graph, Node
from alexc.ops.base import Op
from alexc.ops.conv import Conv

Weights = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Normalisation:
    """x = (p · scale − mean) / std, with mean and std of each channel in the input's order."""

    scale: float
    mean: Sequence[float]
    std: Sequence[float]


def fold_normalisation(
    graph: Graph, weights: Weights, normalisation: Normalisation
) -> tuple[Graph, dict[str, NDArray[np.float32]]] | None:
    """The graph that reads pixels, and its weights; None if some reader of the input forbids it.

    It has the same layers and names; its input has another meaning. Weights are folded in float64
    and rounded once. Raises ValueError if there are not as many means and deviations as channels.
    """
    channels = graph.input_shape[0]
    if not len(normalisation.mean) == len(normalisation.std) == channels:
        raise ValueError(f"the input has {channels} channels, and mean or std has not")
    readers = [node for node in graph.nodes if INPUT in node.inputs]
    if not all(_foldable(graph, node, normalisation) for node in readers):
        return None
    layers: list[tuple[str, Op, tuple[str, ...]]] = []
    changed = dict(weights)
    for node in graph.nodes:
        op = node.op
        if node in readers:
            assert isinstance(op, Conv)
            op = op.model_copy(update={"bias": True})
            weight, bias = _folded(node, weights, normalisation)
            changed |= {f"{node.name}.weight": weight, f"{node.name}.bias": bias}
        layers.append((node.name, op, node.inputs))
    after = Graph.build(graph.name, graph.input_shape, layers, graph.outputs)
    after = replace(
        after, precisions=graph.precisions, quantized=graph.quantized, forms=graph.forms
    )
    after.check()
    return after, changed


def _foldable(graph: Graph, node: Node, normalisation: Normalisation) -> bool:
    return (
        isinstance(node.op, Conv)
        and (not node.op.padding or not any(normalisation.mean))
        and node.name not in graph.quantized
        and graph.precision_of(node.name) == "fp32"
    )


def _folded(
    node: Node, weights: Weights, normalisation: Normalisation
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
        for values in (normalisation.mean, normalisation.std)
    )
    bias = own["bias"].astype(np.float64) if "bias" in own else np.zeros(filters)
    bias = bias - (weight * mean / std).sum(axis=(1, 2, 3))
    scaled = weight * normalisation.scale / std
    return scaled.astype(np.float32), bias.astype(np.float32)
