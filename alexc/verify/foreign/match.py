"""Which layer of a foreign file is which layer of the spec.

First both nets are followed from the input on: a layer that reads the counterparts of what the
spec's layer reads, of the same op and with weights and results of the same shapes, is its
counterpart. Of several the one is taken that is followed by the same. Where nothing goes on, since
a layer is missing, added or of another shape, what is left of both is aligned in the order of the
computation: layers of the same op are paired so that the sum of what speaks for the pairs is as
large as can be, and none cross. Names speak loudest, then the shapes of weights, then those of
results. What a file writes out in a way that is not known is found by its place, and so is another
op without weights, such as a sigmoid where the spec has a ReLU: there the fault is then found.

A pair is a guess, and a wrong one can only make a good file fail, never a bad one pass: every
pair's tensor is then held against the reference. `crosscheck` takes those guesses back that are
refuted by all that follows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from alexc.graph.graph import INPUT, Graph, Node
from alexc.ops.base import Shape
from alexc.ops.conv import Conv
from alexc.ops.dense import Linear
from alexc.ops.norm import BatchNorm
from alexc.ops.pointwise import Dropout
from alexc.passes.inference import inference
from alexc.verify.foreign.model import ForeignLayer, ForeignModel

# What speaks for a pair of the same op, and what it is worth beside the others.
_SAME_OP, _SAME_NAME, _SAME_WEIGHTS, _SAME_SHAPE, _SAME_READERS = 1.0, 8.0, 4.0, 2.0, 1.0
_OTHER_WEIGHTS, _OTHER_SHAPE = -0.5, -0.5

# So many layers are looked on for what follows one: two columns may join late.
_LOOK_AHEAD = 32

# An exporter writes either for the same layer.
_FAMILIES = {"adaptive_avg_pool": "avg_pool"}


@dataclass(frozen=True)
class Matching:
    """The spec's layers and their counterparts.

    `pairs` holds the file's layer for each layer of the spec that has one. `folded` are the batch
    norms that the file has multiplied into the layer before them, each with that layer, whose
    result is then nowhere in the file. `absent` says of each other layer why it has no counterpart,
    and `extra` are the layers of the file that no layer of the spec is. `bypassed` are absent ones
    whose place is empty, each with the layers whose counterparts read what it should have read.
    """

    pairs: Mapping[str, ForeignLayer]
    folded: Mapping[str, str]
    absent: Mapping[str, str]
    extra: Sequence[ForeignLayer]
    bypassed: Mapping[str, Sequence[str]]


def match(graph: Graph, model: ForeignModel) -> Matching:
    """The counterparts of the graph's layers in the file."""
    nodes = [node for node in inference(graph).nodes if not isinstance(node.op, Dropout)]
    layers = [layer for layer in model.layers if layer.kind is not None and not layer.passes]
    judge = _Judge(nodes, layers, model)
    pairs: dict[str, ForeignLayer] = {}
    _follow(nodes, layers, judge, pairs)
    taken = {layer.tensor for layer in pairs.values()}
    left = [node for node in nodes if node.name not in pairs]
    pairs |= _aligned(left, [each for each in layers if each.tensor not in taken], judge)
    _follow(nodes, layers, judge, pairs, strictly=False)
    folded = _folded(graph, nodes, pairs)
    _in_its_place(graph, nodes, model, judge, pairs)
    _instead(nodes, layers, judge, model.outputs_of(graph), pairs)
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
    extra = [each for each in layers if each.tensor not in used]
    return Matching(pairs, folded, absent, extra, _bypassed(nodes, extra, judge, pairs))


def _family(kind: str | None) -> str | None:
    return _FAMILIES.get(kind or "", kind)


class _Judge:
    """What speaks for a pair."""

    def __init__(
        self, nodes: Sequence[Node], layers: Sequence[ForeignLayer], model: ForeignModel
    ) -> None:
        self._input = model.input
        self._passed_on = {each.tensor: each.sources[0] for each in model.layers if each.passes}
        self._ahead = _ahead((n.name, _family(n.op.kind), n.shape, n.inputs) for n in nodes)
        self._ahead_there = _ahead(
            (each.tensor, _family(each.kind), each.shape, self.sources(each)) for each in layers
        )

    def sources(self, layer: ForeignLayer) -> tuple[str, ...]:
        """The tensors that a layer of the file reads, as they came from a layer or the input."""
        return tuple(
            INPUT if name == self._input else name for name in map(self.origin, layer.sources)
        )

    def origin(self, tensor: str) -> str:
        """The tensor that a layer made of which this one is a copy."""
        while tensor in self._passed_on:
            tensor = self._passed_on[tensor]
        return tensor

    def agree(self, node: Node, layer: ForeignLayer) -> bool:
        """Whether nothing speaks against a pair."""
        same = _family(layer.kind) == _family(node.op.kind) and _same_weights(node, layer)
        return same and layer.shape in (None, node.shape)

    def score(self, node: Node, layer: ForeignLayer) -> float:
        """What speaks for a pair; none is made of what is not above zero."""
        if _family(layer.kind) != _family(node.op.kind):
            return 0.0
        score = _SAME_OP
        if node.name in (*layer.names, layer.tensor):
            score += _SAME_NAME
        if node.parameters:
            score += _SAME_WEIGHTS if _same_weights(node, layer) else _OTHER_WEIGHTS
        if layer.shape is not None:
            score += _SAME_SHAPE if layer.shape == node.shape else _OTHER_SHAPE
        ahead, there = self._ahead[node.name], self._ahead_there[layer.tensor]
        alike = sum(ours == theirs for ours, theirs in zip(ahead, there, strict=True))
        return score + _SAME_READERS * alike / _LOOK_AHEAD


def _same_weights(node: Node, layer: ForeignLayer) -> bool:
    return all(
        local in layer.weights and layer.weights[local].shape == parameter.shape
        for local, parameter in node.parameters.items()
    )


def _ahead(
    layers: Iterable[tuple[str, str | None, Shape | None, tuple[str, ...]]],
) -> dict[str, list[int]]:
    """For each layer numbers for what follows it, one layer on, two layers on, and so forth.

    They are the same for two layers that are followed by the same so far. Layers are given by name,
    op, shape and what they read. Which of a concat's inputs a layer is counts as well.
    """
    own: dict[str, int] = {}
    readers: dict[str, list[tuple[str, int]]] = {}
    for name, family, shape, sources in layers:
        own[name] = hash((family, shape))
        for position, source in enumerate(sources):
            place = position if family == "concat" else 0
            readers.setdefault(source, []).append((name, place))
    found: dict[str, list[int]] = {name: [] for name in own}
    last = own
    for _ in range(_LOOK_AHEAD):
        last = {
            name: hash((own[name], tuple(sorted((last[r], at) for r, at in readers.get(name, ())))))
            for name in own
        }
        for name, number in last.items():
            found[name].append(number)
    return found


def _aligned(
    nodes: Sequence[Node], layers: Sequence[ForeignLayer], judge: _Judge
) -> dict[str, ForeignLayer]:
    """The best alignment of two sequences, by dynamic programming."""
    rows, columns = len(nodes), len(layers)
    scores = [[judge.score(node, layer) for layer in layers] for node in nodes]
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


def _follow(
    nodes: Sequence[Node],
    layers: Sequence[ForeignLayer],
    judge: _Judge,
    pairs: dict[str, ForeignLayer],
    *,
    strictly: bool = True,
) -> None:
    """Add the pairs that read the counterparts of the same tensors, from the input on.

    `strictly` takes only those of which nothing else differs. A batch norm without a counterpart
    may be folded into what it reads, and then so is what follows it followed.
    """
    there = {INPUT: INPUT} | {name: layer.tensor for name, layer in pairs.items()}
    taken = {layer.tensor for layer in pairs.values()}
    reading: dict[tuple[str, ...], list[ForeignLayer]] = {}
    for layer in layers:
        if layer.tensor not in taken:
            reading.setdefault(tuple(sorted(judge.sources(layer))), []).append(layer)
    for node in nodes:
        if node.name in pairs or not all(source in there for source in node.inputs):
            continue
        sources = tuple(sorted(there[source] for source in node.inputs))
        candidates = reading.get(sources, [])
        fitting = [each for each in candidates if not strictly or judge.agree(node, each)]
        found = max(fitting, key=lambda layer: judge.score(node, layer), default=None)
        if found is not None and judge.score(node, found) > 0:
            pairs[node.name] = found
            there[node.name] = found.tensor
            candidates.remove(found)
        elif isinstance(node.op, BatchNorm):
            there[node.name] = there[node.inputs[0]]


def _in_its_place(
    graph: Graph,
    nodes: Sequence[Node],
    model: ForeignModel,
    judge: _Judge,
    pairs: dict[str, ForeignLayer],
) -> None:
    """Add pairs for layers that the file writes out in a way that nobody knows.

    Such a one is what the counterpart of the next layer reads, or the file's output, if that is of
    no op of the language and its result of the right shape.
    """
    taken = {layer.tensor for layer in pairs.values()}
    unknown = {
        each.tensor: each
        for each in model.layers
        if each.kind is None and not each.passes and each.tensor not in taken
    }
    outputs = {name: judge.origin(tensor) for name, tensor in model.outputs_of(graph).items()}
    for node in reversed(nodes):
        if node.name in pairs:
            continue
        places = {outputs[node.name]} if node.name in outputs else set()
        for reader in nodes:
            if node.name in reader.inputs and reader.name in pairs:
                places |= set(judge.sources(pairs[reader.name]))
        found = [unknown[place] for place in places if place in unknown]
        if len(found) == 1 and found[0].shape == node.shape:
            pairs[node.name] = unknown.pop(found[0].tensor)


def _instead(
    nodes: Sequence[Node],
    layers: Sequence[ForeignLayer],
    judge: _Judge,
    outputs: Mapping[str, str],
    pairs: dict[str, ForeignLayer],
) -> None:
    """Add pairs for layers without weights in whose place the file has another op.

    It stands there if it is the only one that reads what the layer reads, makes the same shape of
    it, and is all that the layer's readers read there, or the file's output.
    """
    there = {INPUT: INPUT} | {name: layer.tensor for name, layer in pairs.items()}
    taken = set(there.values())
    for node in nodes:
        if node.name in pairs or node.parameters or not all(s in there for s in node.inputs):
            continue
        sources = sorted(there[source] for source in node.inputs)
        readers = [pairs.get(reader.name) for reader in nodes if node.name in reader.inputs]
        reads = [set() if reader is None else set(judge.sources(reader)) for reader in readers]
        if node.name in outputs:
            reads.append({judge.origin(outputs[node.name])})
        found = [
            layer
            for layer in layers
            if layer.tensor not in taken
            and not layer.weights
            and layer.shape in (None, node.shape)
            and sorted(judge.sources(layer)) == sources
            and reads
            and all(layer.tensor in each for each in reads)
        ]
        if len(found) == 1:
            pairs[node.name] = found[0]
            there[node.name] = found[0].tensor
            taken.add(found[0].tensor)


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


def _bypassed(
    nodes: Sequence[Node],
    extra: Sequence[ForeignLayer],
    judge: _Judge,
    pairs: Mapping[str, ForeignLayer],
) -> dict[str, Sequence[str]]:
    """Layers without weights that the file leaves out: what comes next there reads the counterpart
    of what they read. Each with those next layers. One whose op stands elsewhere is not left out.
    """
    elsewhere = {_family(layer.kind) for layer in extra}
    there = {INPUT: INPUT} | {name: layer.tensor for name, layer in pairs.items()}
    found: dict[str, Sequence[str]] = {}
    for node in nodes:
        if node.name in there or node.parameters or len(node.inputs) != 1:
            continue
        if _family(node.op.kind) in elsewhere:
            continue
        if (source := there.get(node.inputs[0])) is None:
            continue
        following = _next_found(node.name, nodes, pairs)
        if following and all(source in judge.sources(pairs[name]) for name in following):
            found[node.name] = following
            there[node.name] = source
    return found


def _next_found(
    layer: str, nodes: Sequence[Node], pairs: Mapping[str, ForeignLayer]
) -> Sequence[str]:
    """The nearest layers with a counterpart that read a layer, past others without one."""
    passed, found = {layer}, []
    for node in nodes:
        if passed.isdisjoint(node.inputs):
            continue
        if node.name in pairs:
            found.append(node.name)
        else:
            passed.add(node.name)
    return found
