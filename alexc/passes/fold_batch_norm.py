"""Batch normalisation multiplied into the convolution or linear layer before it.

In inference mean and variance are constants, so that of a channel with weights w and bias b

    (w·x + b) · s + t = (s·w)·x + (s·b + t),   s = γ / √(variance + eps),   t = β − mean · s

is one layer. This makes new weights, and model.onnx has those of training alone: ONNX Runtime and
OpenVINO fold by themselves when they load it (docs/performance.md has the times). It is for what
reads weights itself, as a layer that is quantized wants the range of the folded ones; and a form
that a plan tries (`engines.forms`), whose weights lie in a file of their own.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from alexc.graph.graph import Graph, Node
from alexc.ops.base import Op
from alexc.ops.conv import Conv
from alexc.ops.dense import Linear
from alexc.ops.norm import BatchNorm
from alexc_runtime.batch_norm import scale_and_shift

Weights = Mapping[str, NDArray[np.float32]]


def fold_batch_norm(graph: Graph, weights: Weights) -> tuple[Graph, dict[str, NDArray[np.float32]]]:
    """The graph without the batch norms that alone read a convolution or linear layer, and its
    weights by whole name.

    The folded layer takes the name of the batch norm, whose values it computes; the name of the
    convolution is gone. A convolution that is an output of the graph, is quantized or has another
    precision than the batch norm keeps it. Weights are folded in float64 and rounded once.
    """
    folded = {norm.name: layer for layer, norm in _pairs(graph)}
    gone = {layer.name for layer in folded.values()}
    layers: list[tuple[str, Op, tuple[str, ...]]] = []
    changed: dict[str, NDArray[np.float32]] = {}
    for node in graph.nodes:
        if node.name in folded:
            layer = folded[node.name]
            op = layer.op.model_copy(update={"bias": True})
            layers.append((node.name, op, layer.inputs))
            weight, bias = _folded(layer, node, weights)
            changed |= {f"{node.name}.weight": weight, f"{node.name}.bias": bias}
        elif node.name not in gone:
            layers.append((node.name, node.op, node.inputs))
            changed |= {name: weights[name] for name in node.parameter_names().values()}
    return graph.rebuilt(layers), changed


def _pairs(graph: Graph) -> list[tuple[Node, Node]]:
    """Each layer that a batch norm can be folded into, and the batch norm."""
    pairs = []
    for node in graph.nodes:
        readers = [reader for reader in graph.nodes if node.name in reader.inputs]
        if (
            isinstance(node.op, Conv | Linear)
            and node.name not in graph.outputs
            and node.name not in graph.quantized
            and len(readers) == 1
            and isinstance(readers[0].op, BatchNorm)
            and graph.precision_of(readers[0].name) == graph.precision_of(node.name)
        ):
            pairs.append((node, readers[0]))
    return pairs


def _folded(
    layer: Node, norm: Node, weights: Weights
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weight and bias of the two layers in one."""
    assert isinstance(norm.op, BatchNorm)
    own = {local: weights[name] for local, name in layer.parameter_names().items()}
    of = {local: weights[name].astype(np.float64) for local, name in norm.parameter_names().items()}
    scale, bias = scale_and_shift(
        of["running_mean"],
        of["running_var"],
        norm.op.eps,
        of.get("weight"),
        of.get("bias"),
        own["bias"].astype(np.float64) if "bias" in own else None,
    )
    weight = own["weight"].astype(np.float64)
    scaled = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    return scaled.astype(np.float32), bias.astype(np.float32)
