"""Convolutions and linear layers with operands of eight bits: int8, u8s8, or fp8 (e4m3).

Weights have a step for each output channel, from their largest magnitude; activations one for the
tensor, from a range that was measured (see `alexc.calibrate`). In int8 the result of a layer is put
on a grid too, since ONNX Runtime computes in integers only between two grids. A result that only a
ReLU reads takes the range of what the ReLU gives: the two roundings are then one, for

    relu(round(x)) = round(relu(x))

and what saturates below is cut off by the ReLU anyway. In u8s8 activations that are never negative
have no sign, so that their steps are half as wide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from alexc.graph.graph import Graph, Node
from alexc.graph.quantization import (
    WEIGHTS,
    Quantization,
    QuantizedFormat,
    Scheme,
    step_for,
)
from alexc.ops.base import Op
from alexc.ops.conv import Conv
from alexc.ops.dense import Linear
from alexc.ops.norm import Lrn
from alexc.ops.pointwise import Dropout, Relu, Sigmoid, Softmax
from alexc.ops.pool import AdaptiveAvgPool, AvgPool, MaxPool
from alexc.ops.structure import Add, Concat, Flatten
from alexc.spec.model import Precision

_NEVER_NEGATIVE: tuple[type[Op], ...] = (Relu, Sigmoid, Softmax)
# What is never negative of inputs that never are.
_KEEP_SIGN: tuple[type[Op], ...] = (
    *(MaxPool, AvgPool, AdaptiveAvgPool, Lrn, Dropout, Flatten, Add, Concat),
)


def quantizable(graph: Graph, named: Mapping[str, Precision] | None = None) -> tuple[str, ...]:
    """The layers that are quantized: conv and linear layers whose precision is not `named`.

    But not the last ones, from which a way leads to an output past no other such layer: every digit
    of a score counts. docs/precision.md has what that costs and gains.
    """
    last: set[str] = set()
    after = set(graph.outputs)  # tensors that lead to an output past no conv and no linear layer
    for node in reversed(graph.nodes):
        if node.name in after:
            if isinstance(node.op, Conv | Linear):
                last.add(node.name)
            else:
                after |= set(node.inputs)
    return tuple(
        node.name
        for node in graph.nodes
        if isinstance(node.op, Conv | Linear)
        and node.name not in (named or {})
        and node.name not in last
    )


def tensors_to_range(
    graph: Graph, layers: Sequence[str], scheme: Scheme
) -> dict[str, QuantizedFormat]:
    """The tensors whose ranges quantizing these layers takes, each with the numbers it becomes."""
    wanted = set()
    for name in layers:
        node = graph.by_name[name]
        wanted |= {node.inputs[0], _ranged_result(graph, node)}
    unsigned = _never_negative(graph) if scheme == "u8s8" else set()
    return {
        name: "uint8" if name in unsigned else WEIGHTS[scheme]
        for name in graph.shapes
        if name in wanted
    }


def quantize(
    graph: Graph,
    weights: Mapping[str, NDArray[np.float32]],
    limits: Mapping[str, float],
    layers: Sequence[str],
    scheme: Scheme,
) -> Graph:
    """The graph with these layers quantized.

    `limits` are the largest magnitudes that the tensors of `tensors_to_range` are to represent;
    what is larger saturates. `weights` are the graph's, by whole name.
    """
    quantized = {}
    formats, own = tensors_to_range(graph, layers, scheme), WEIGHTS[scheme]
    for name in layers:
        node = graph.by_name[name]
        weight = weights[node.parameter_names()["weight"]]
        largest = np.abs(weight).reshape(len(weight), -1).max(axis=1)
        read, result = node.inputs[0], _ranged_result(graph, node)
        integers = own == "int8" and name not in graph.outputs
        quantized[name] = Quantization(
            own,
            input_step=step_for(limits[read], formats[read]),
            weight_steps=tuple(step_for(float(limit), own) for limit in largest),
            output_step=step_for(limits[result], formats[result]) if integers else None,
            unsigned_input=formats[read] == "uint8",
            unsigned_output=integers and formats[result] == "uint8",
        )
    precisions = {name: p for name, p in graph.precisions.items() if name not in quantized}
    return graph.rebuilt(precisions=precisions, quantized=quantized)


def _never_negative(graph: Graph) -> set[str]:
    """The tensors in which no number can be below zero, whatever the image."""
    found: set[str] = set()
    for node in graph.nodes:
        kept = isinstance(node.op, _KEEP_SIGN) and found.issuperset(node.inputs)
        if kept or isinstance(node.op, _NEVER_NEGATIVE):
            found.add(node.name)
    return found


def _ranged_result(graph: Graph, node: Node) -> str:
    """The tensor whose range the result of a layer is given: its ReLU's, if nothing else reads."""
    readers = [reader for reader in graph.nodes if node.name in reader.inputs]
    if len(readers) == 1 and isinstance(readers[0].op, Relu) and node.name not in graph.outputs:
        return readers[0].name
    return node.name
