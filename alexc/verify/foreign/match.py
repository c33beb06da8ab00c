"""Which layer of a foreign file is which layer of the spec.

Both nets are taken in the order of their computation and aligned: layers of the same op are paired
so that the sum of what speaks for the pairs is as large as can be, and none cross. Names speak
loudest, then the shapes of weights, then those of results. What is left over, as branches in
another order are, is paired where it reads the same tensors.

A pair is a guess, and a wrong one can only make a good file fail, never a bad one pass: every
pair's tensor is then held against the reference. `crosscheck` takes those guesses back that are
refuted by all that follows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from alexc.graph.graph import INPUT, Graph, Node
from alexc.ops.conv import Conv
from alexc.ops.dense import Linear
from alexc.ops.norm import BatchNorm
from alexc.ops.pointwise import Dropout
from alexc.passes.inference import inference
from alexc.verify.foreign.model import ForeignLayer, ForeignModel

# What speaks for a pair of the same op, and what it is worth beside the others.
_SAME_OP, _SAME_NAME, _SAME_WEIGHTS, _SAME_SHAPE = 1.0, 8.0, 4.0, 2.0
_OTHER_WEIGHTS, _OTHER_SHAPE = -0.5, -0.5

# An exporter writes either for the same layer.
_FAMILIES = {"adaptive_avg_pool": "avg_pool"}


@dataclass(frozen=True)
class Matching:
    """The spec's layers and their counterparts.

    `pairs` holds the file's layer for each layer of the spec that has one. `folded` are the batch
    norms that the file has multiplied into the layer before them, each with that layer, whose
    result is then nowhere in the file. `absent` says of each other layer why it has no counterpart,
    and `extra` are the layers of the file that no layer of the spec is.
    """

    pairs: Mapping[str, ForeignLayer]
    folded: Mapping[str, str]
    absent: Mapping[str, str]
    extra: Sequence[ForeignLayer]


def match(graph: Graph, model: ForeignModel) -> Matching:
    """The counterparts of the graph's layers in the file."""
    nodes = [node for node in inference(graph).nodes if not isinstance(node.op, Dropout)]
    layers = [layer for layer in model.layers if layer.kind is not None and not layer.passes]
    pairs = _aligned(nodes, layers)
    _by_what_they_read(nodes, layers, model, pairs)
    folded = _folded(graph, nodes, pairs)
    absent = {}
    for node in graph.nodes:
        if node.name in folded.values():
            norm = next(norm for norm, layer in folded.items() if layer == node.name)
            absent[node.name] = f"the file has it and {norm} in one"
        elif isinstance(node.op, Dropout):
            absent[node.name] = "acts in training only"
        elif node.name not in pairs:
            absent[node.name] = f"the file has no {node.op.kind} in its place"
    used = {layer.tensor for layer in pairs.values()}
    return Matching(pairs, folded, absent, [each for each in layers if each.tensor not in used])


def _family(kind: str | None) -> str | None:
    return _FAMILIES.get(kind or "", kind)


def _aligned(nodes: Sequence[Node], layers: Sequence[ForeignLayer]) -> dict[str, ForeignLayer]:
    """The best alignment of two sequences, by dynamic programming."""
    rows, columns = len(nodes), len(layers)
    scores = [[_score(node, layer) for layer in layers] for node in nodes]
    # best[i][j] is the most that nodes from i on and layers from j on can come to.
    best = [[0.0] * (columns + 1) for _ in range(rows + 1)]
    for i in reversed(range(rows)):
        for j in reversed(range(columns)):
            best[i][j] = max(
                best[i + 1][j], best[i][j + 1], best[i + 1][j + 1] + max(scores[i][j], 0.0)
            )
    pairs = {}
    i = j = 0
    while i < rows and j < columns:
        if scores[i][j] > 0 and best[i][j] == best[i + 1][j + 1] + scores[i][j]:
            pairs[nodes[i].name] = layers[j]
            i, j = i + 1, j + 1
        elif best[i][j] == best[i][j + 1]:
            j += 1
        else:
            i += 1
    return pairs


def _score(node: Node, layer: ForeignLayer) -> float:
    """What speaks for a pair; none is made of what is not above zero."""
    if _family(layer.kind) != _family(node.op.kind):
        return 0.0
    score = _SAME_OP
    if node.name in (*layer.names, layer.tensor):
        score += _SAME_NAME
    if node.parameters:
        same = all(
            local in layer.weights and layer.weights[local].shape == parameter.shape
            for local, parameter in node.parameters.items()
        )
        score += _SAME_WEIGHTS if same else _OTHER_WEIGHTS
    if layer.shape is not None:
        score += _SAME_SHAPE if layer.shape == node.shape else _OTHER_SHAPE
    return score


def _by_what_they_read(
    nodes: Sequence[Node],
    layers: Sequence[ForeignLayer],
    model: ForeignModel,
    pairs: dict[str, ForeignLayer],
) -> None:
    """Add the pairs of layers left over that read the counterparts of the same tensors."""
    passed_on = {each.tensor: each.sources[0] for each in model.layers if each.passes}

    def origin(tensor: str) -> str:
        while tensor in passed_on:
            tensor = passed_on[tensor]
        return tensor

    free = {layer.tensor: layer for layer in layers}
    for paired in pairs.values():
        del free[paired.tensor]
    reading: dict[tuple[str, ...], list[ForeignLayer]] = {}
    for layer in free.values():
        reading.setdefault(tuple(sorted(map(origin, layer.sources))), []).append(layer)
    for node in nodes:
        if node.name in pairs or not all(s == INPUT or s in pairs for s in node.inputs):
            continue
        sources = [model.input if s == INPUT else pairs[s].tensor for s in node.inputs]
        candidates = [
            layer for layer in reading.get(tuple(sorted(sources)), ()) if layer.tensor in free
        ]
        found = max(candidates, key=lambda layer: _score(node, layer), default=None)
        if found is not None and _score(node, found) > 0:
            pairs[node.name] = found
            del free[found.tensor]


def _folded(graph: Graph, nodes: Sequence[Node], pairs: dict[str, ForeignLayer]) -> dict[str, str]:
    """Batch norms without a counterpart take over that of the layer that they alone read."""
    by_name = {node.name: node for node in nodes}
    folded = {}
    for node in nodes:
        if not isinstance(node.op, BatchNorm) or node.name in pairs:
            continue
        before = by_name.get(node.inputs[0])
        if before is None or before.name not in pairs or before.name in graph.outputs:
            continue
        readers = [each for each in nodes if before.name in each.inputs]
        if isinstance(before.op, Conv | Linear) and len(readers) == 1:
            pairs[node.name] = pairs.pop(before.name)
            folded[node.name] = before.name
    return folded
