"""Max pooling before ReLU, where a spec has it after.

    maxpool(relu(x)) = relu(maxpool(x))

exactly, since ReLU never falls and padding counts as −∞ in a maximum: no window lies in the padding
alone. The ReLU then has a quarter of the elements to look at, or a ninth. Engines that compute the
ReLU with the convolution before it gain nothing, and lose that: docs/performance.md has the times.
"""

from __future__ import annotations

from alexc.graph.graph import Graph
from alexc.ops.base import Op
from alexc.ops.pointwise import Relu
from alexc.ops.pool import MaxPool


def pool_before_relu(graph: Graph) -> Graph:
    """The graph with every ReLU that only one max pooling reads put behind it.

    The pooling's name stays with the same values, which are now the ReLU's; the maximum before it
    is called `<pooling>.unrectified`, and the name of the ReLU is gone. One that is an output of
    the graph, or kept in another precision than the pooling, stays where it is.
    """
    moved = {pool: relu for relu, pool in _pairs(graph)}
    taken = set(moved.values())
    precisions = {name: p for name, p in graph.precisions.items() if name not in taken}
    layers: list[tuple[str, Op, tuple[str, ...]]] = []
    for name, op, inputs in graph.layers():
        if name in taken:
            continue
        if name in moved:
            relu = graph.by_name[moved[name]]
            before = f"{name}.unrectified"
            layers += [(before, op, relu.inputs), (name, relu.op, (before,))]
            if name in precisions:
                precisions[before] = precisions[name]
        else:
            layers.append((name, op, inputs))
    return graph.rebuilt(layers, precisions=precisions)


def _pairs(graph: Graph) -> list[tuple[str, str]]:
    """The names of each ReLU that can move, and of the pooling that reads it."""
    pairs = []
    for node in graph.nodes:
        readers = [reader for reader in graph.nodes if node.name in reader.inputs]
        if (
            isinstance(node.op, Relu)
            and node.name not in graph.outputs
            and len(readers) == 1
            and isinstance(readers[0].op, MaxPool)
            and graph.precision_of(readers[0].name) == graph.precision_of(node.name)
        ):
            pairs.append((node.name, readers[0].name))
    return pairs
