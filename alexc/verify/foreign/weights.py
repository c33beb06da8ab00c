"""The weights of a foreign file, as those of the spec's layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexc.diagnostics import AlexcError, Diagnostic
from alexc.graph.graph import Graph, Node
from alexc.ops.base import Op, format_shape
from alexc.verify.answers import different_weights
from alexc.verify.foreign.match import Matching
from alexc.verify.foreign.model import ForeignLayer

Weights = dict[str, NDArray[np.float32]]


def with_folded(graph: Graph, matching: Matching) -> Graph:
    """The graph as the file has it: a folded batch norm and the layer before it are one layer.

    It bears the batch norm's name, whose values it computes; a file that has folded them holds no
    weights of the two.
    """
    gone = {layer: norm for norm, layer in matching.folded.items()}
    layers: list[tuple[str, Op, tuple[str, ...]]] = []
    for name, op, inputs in graph.layers():
        if name in matching.folded:
            before = graph.by_name[matching.folded[name]]
            layers.append((name, before.op.model_copy(update={"bias": True}), before.inputs))
        elif name not in gone:
            layers.append((name, op, inputs))
    return graph.rebuilt(layers)


def weights_in_file(graph: Graph, matching: Matching, path: Path) -> Weights:
    """The graph's weights from the file. Raises AlexcError where it has none that fit."""
    found: Weights = {}
    faults = []
    for node in graph.nodes:
        layer = matching.pairs.get(node.name)
        for local, whole in node.parameter_names().items():
            wanted = node.parameters[local].shape
            array = None if layer is None else _own(layer, node).get(local)
            if array is not None and array.shape == wanted:
                with np.errstate(over="ignore"):
                    found[whole] = np.ascontiguousarray(array, np.float32)
                continue
            if layer is None:
                why = f"no {node.op.kind} of it is that layer"
            elif array is None:
                why = f"{layer.label} has none that can be read"
            else:
                shapes = f"{format_shape(array.shape)} and not {format_shape(wanted)}"
                why = f"that of {layer.label} is {shapes}"
            message = f"{path} gives no {whole}: {why}"
            faults.append(Diagnostic("verify/foreign-weights", message))
    if faults:
        help = "--weights FILE says what the weights are meant to be, and names what differs"
        raise AlexcError(*faults[:-1], replace(faults[-1], help=help))
    return found


def weight_faults(graph: Graph, matching: Matching, weights: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong with the file's weights, by whole name, `weights` being those meant.

    A layer that was folded with another is left to its values: its weights are products.
    """
    faults: dict[str, str] = {}
    for node in graph.nodes:
        layer = matching.pairs.get(node.name)
        if layer is None or node.name in matching.folded:
            continue
        names = node.parameter_names()
        meant = {whole: weights[whole] for whole in names.values()}
        has = {names[local]: a for local, a in _own(layer, node).items() if local in names}
        faults |= different_weights(meant, has)
    return faults


def _own(layer: ForeignLayer, node: Node) -> dict[str, NDArray[Any]]:
    """The file's weights of a layer. One that it adds nothing to has a bias of zeros."""
    own = dict(layer.weights)
    if "weight" in own and "bias" not in own and "bias" in node.parameters:
        own["bias"] = np.zeros(node.parameters["bias"].shape, np.float32)
    return own


def surplus(graph: Graph, matching: Matching) -> dict[str, str]:
    """The layers to which the file adds a bias that the spec says they do not have."""
    return {
        node.name: f"the file adds a bias to {node.name}, which has none in the spec"
        for node in graph.nodes
        if node.name in matching.pairs
        and node.name not in matching.folded
        and node.parameters
        and "bias" not in node.parameters
        and (bias := matching.pairs[node.name].weights.get("bias")) is not None
        and bool(np.any(bias))
    }
