"""What a diagram shows as one box: a layer with the pointwise layers that follow it, and in how
many columns.

Columns are those of the 2012 paper: where a convolution has two groups, each half of the channels
goes its own way. They reach as far as no layer mixes the halves: forwards through pooling, and
backwards to the convolution whose output nothing but such halves reads.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace

from alexc.graph.graph import INPUT, Graph, Node
from alexc.ops.base import Shape
from alexc.ops.conv import Conv
from alexc.ops.norm import BatchNorm, Lrn
from alexc.ops.pointwise import Dropout, Relu, Sigmoid, Softmax, Tanh
from alexc.ops.pool import AdaptiveAvgPool, AvgPool, MaxPool
from alexc.ops.structure import Flatten

# They keep every number where it is, and mostly own no weights: a line in another layer's box says
# all there is to say.
_FOLDED = (Relu, Tanh, Sigmoid, Softmax, Dropout, BatchNorm, Lrn, Flatten)

# They read each channel (LRN: its neighbours) and never exchange the halves.
_KEEPS_CHANNELS = (
    *(MaxPool, AvgPool, AdaptiveAvgPool),
    *(Relu, Tanh, Sigmoid, Dropout, BatchNorm, Lrn),
)


@dataclass(frozen=True, slots=True)
class Box:
    """One box of the diagram: the input, or a layer and those folded into it, in order.

    `sources` are the boxes it reads, by position, in the order of the layer's inputs.
    """

    name: str
    shape: Shape
    layers: tuple[Node, ...]
    sources: tuple[int, ...]
    is_output: bool = False
    columns: int = 1

    @property
    def reads_own_column(self) -> bool:
        """Whether each column sees only the same column of what it reads."""
        return _has_two_groups(self) or _keeps_channels(self)


def fold(graph: Graph) -> tuple[Box, ...]:
    """The boxes of a graph in topological order, the input first.

    A pointwise layer, a normalisation or a flatten goes into the box of the layer that it reads,
    where nothing else reads that layer and it is no output of the graph.
    """
    readers: dict[str, int] = defaultdict(int)
    for node in graph.nodes:
        for source in node.inputs:
            readers[source] += 1
    boxes = [Box(INPUT, graph.input_shape, (), ())]
    position = {INPUT: 0}  # layer → its box
    for node in graph.nodes:
        before = node.inputs[0]
        own = position[before]
        if (
            isinstance(node.op, _FOLDED)
            and before != INPUT
            and readers[before] == 1
            and before not in graph.outputs
        ):
            boxes[own] = replace(boxes[own], layers=(*boxes[own].layers, node))
        else:
            own = len(boxes)
            sources = tuple(position[source] for source in node.inputs)
            boxes.append(Box(node.name, node.shape, (node,), sources))
        position[node.name] = own
        if node.name in graph.outputs:
            boxes[own] = replace(boxes[own], is_output=True)
    halved = _halved(boxes)
    return tuple(
        replace(box, columns=2) if half else box for box, half in zip(boxes, halved, strict=True)
    )


def _halved(boxes: list[Box]) -> list[bool]:
    """Which boxes stand in two columns."""
    readers: list[list[int]] = [[] for _ in boxes]
    halved: list[bool] = []
    for index, box in enumerate(boxes):
        for source in box.sources:
            readers[source].append(index)
        kept = _keeps_channels(box) and halved[box.sources[0]]
        halved.append(_has_two_groups(box) or kept)
    for index in reversed(range(len(boxes))):
        box = boxes[index]
        may = _keeps_channels(box) or _is_conv(box, groups=1)
        if may and readers[index] and box.shape[0] % 2 == 0:
            halved[index] |= all(
                halved[reader] and boxes[reader].reads_own_column for reader in readers[index]
            )
    return halved


def _is_conv(box: Box, groups: int) -> bool:
    return bool(box.layers) and isinstance(op := box.layers[0].op, Conv) and op.groups == groups


def _has_two_groups(box: Box) -> bool:
    return _is_conv(box, groups=2)


def _keeps_channels(box: Box) -> bool:
    return bool(box.layers) and isinstance(box.layers[0].op, _KEEPS_CHANNELS)
