"""The one table of op cases, which the tests of shapes, reference, PyTorch and ONNX all run.

A case is an op, the shapes that it reads and the shape that it must make, counted by hand. Batch,
channels, height and width differ pairwise wherever they can, so that a swapped axis shows.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexc.graph.graph import INPUT, Graph
from alexc.ops.base import Array, Op, Padding, Shape
from alexc.ops.conv import Conv
from alexc.ops.dense import Linear
from alexc.ops.norm import BatchNorm, Lrn
from alexc.ops.pointwise import Dropout, Relu, Sigmoid, Softmax, Tanh
from alexc.ops.pool import AdaptiveAvgPool, AvgPool, MaxPool
from alexc.ops.structure import Add, Concat, Flatten

LAYER = "layer"  # the name of the op's node in `Case.graph`


@dataclass(frozen=True)
class Case:
    """An op, the shapes of its inputs for one image, and that of its output."""

    note: str
    op: Op
    inputs: tuple[Shape, ...]
    output: Shape

    @property
    def batch(self) -> int:
        """The smallest batch, from two, that is no other size of the case."""
        sizes = {size for shape in (*self.inputs, self.output) for size in shape}
        return next(number for number in itertools.count(2) if number not in sizes)

    def __str__(self) -> str:
        return f"{self.op.kind}-{self.note}".replace(" ", "_")

    def graph(self) -> Graph:
        """A graph that ends in the op. Several inputs are made by branches from a common one."""
        if len(self.inputs) == 1:
            layers: list[tuple[str, Op, tuple[str, ...]]] = [(LAYER, self.op, (INPUT,))]
            return Graph.build("case", self.inputs[0], layers, (LAYER,))
        layers = []
        for index, shape in enumerate(self.inputs):
            branch: Op = Linear(out_features=shape[0])
            if len(shape) == 3:
                branch = Conv(out_channels=shape[0], kernel_size=(1, 1))
            layers.append((f"branch{index}", branch, (INPUT,)))
        branches = tuple(name for name, _, _ in layers)
        layers.append((LAYER, self.op, branches))
        return Graph.build("case", self.inputs[0], layers, (LAYER,))

    def arrays(self) -> list[NDArray[np.float32]]:
        """Random inputs of the op, float32, the same in every run."""
        random = self._random()
        return [random.standard_normal((self.batch, *shape), np.float32) for shape in self.inputs]

    def parameters(self) -> dict[str, NDArray[np.float32]]:
        """Random parameters of the op by their local names."""
        shapes = {name: p.shape for name, p in self.op.parameters(*self.inputs).items()}
        return _draw(self._random(), shapes)

    def _random(self) -> np.random.Generator:
        return np.random.default_rng(zlib.crc32(str(self).encode()))


def every_op(*outputs: str) -> Graph:
    """A small net with branches, with every op in it, and with names of every legal kind."""
    layers: list[tuple[str, Op, tuple[str, ...]]] = [
        (
            "stem/conv",
            Conv(
                out_channels=6,
                kernel_size=(3, 3),
                stride=(2, 2),
                padding=Padding(top=1, right=2),
                groups=3,
            ),
            (INPUT,),
        ),
        ("stem-bn", BatchNorm(eps=1e-3), ("stem/conv",)),
        ("整流", Relu(), ("stem-bn",)),
        (
            "across",
            Lrn(size=5, alpha=0.2, beta=0.75, k=2, alpha_per="element"),
            ("整流",),
        ),
        (
            "within",
            Lrn(size=3, alpha=0.5, beta=0.5, k=1, alpha_per="window", region="within_channel"),
            ("across",),
        ),
        ("left", Tanh(), ("within",)),
        ("right", Sigmoid(), ("within",)),
        ("sum", Add(), ("left", "right", "整流")),
        ("pool/max", MaxPool(kernel_size=(3, 3), stride=(2, 2), ceil_mode=True), ("sum",)),
        (
            "pool/avg",
            AvgPool(
                kernel_size=(4, 3),
                stride=(2, 2),
                padding=Padding(top=1, bottom=1),
                ceil_mode=True,
            ),
            ("sum",),
        ),
        ("joined", Concat(), ("pool/max", "pool/avg")),
        ("bins", AdaptiveAvgPool(output_size=(3, 2)), ("joined",)),
        ("shares", Softmax(), ("bins",)),
        ("flat", Flatten(), ("shares",)),
        ("drop", Dropout(p=0.5), ("flat",)),
        ("fc", Linear(out_features=11), ("drop",)),
    ]
    return Graph.build("every-op", (3, 21, 17), layers, outputs or ("fc",))


def weights_for(graph: Graph) -> dict[str, NDArray[np.float32]]:
    """Random parameters of a graph by their whole names, the same in every run."""
    shapes = {name: parameter.shape for name, parameter in graph.parameters.items()}
    return _draw(np.random.default_rng(2012), shapes)


def images_for(graph: Graph, batch: int) -> NDArray[np.float32]:
    """Random images for a graph, the same in every run."""
    random = np.random.default_rng(batch)
    return random.standard_normal((batch, *graph.input_shape), np.float32)


def reference(
    graph: Graph, parameters: Mapping[str, NDArray[Any]], images: NDArray[Any]
) -> dict[str, Array]:
    """Every named tensor of a graph in float64, by the ops' references."""
    values = {INPUT: images.astype(np.float64)}
    for node in graph.nodes:
        inputs = [values[source] for source in node.inputs]
        names = node.parameter_names().items()
        own = {local: parameters[whole].astype(np.float64) for local, whole in names}
        values[node.name] = node.op.reference(inputs, own)
    return values


def _draw(
    random: np.random.Generator, shapes: Mapping[str, Shape]
) -> dict[str, NDArray[np.float32]]:
    """Weights that keep a layer's results near one; variances between a half and two."""
    drawn = {}
    for name, shape in shapes.items():
        values = random.standard_normal(shape, np.float32)
        if name.endswith("running_var"):
            values = np.exp2(np.tanh(values))
        elif len(shape) > 1:
            values /= np.float32(math.sqrt(math.prod(shape[1:])))
        drawn[name] = values
    return drawn


_ONE = Padding(top=1, left=1, bottom=1, right=1)
_TWO = Padding(top=2, left=2, bottom=2, right=2)

# Sizes under the windows are worked out as (size + padding − span) / stride + 1.
_CONV = [
    # (7 − 3) / 1 + 1, (8 − 3) / 1 + 1
    Case("3x3", Conv(out_channels=4, kernel_size=(3, 3)), ((3, 7, 8),), (4, 5, 6)),
    # (23 − 11) / 4 + 1, (19 − 11) / 4 + 1
    Case(
        "11x11 by 4, as in conv1",
        Conv(out_channels=5, kernel_size=(11, 11), stride=(4, 4)),
        ((3, 23, 19),),
        (5, 4, 3),
    ),
    # (9 − 4) / 3 = 1 and 2 left over, (8 − 4) / 2 = 2
    Case(
        "rows left over",
        Conv(out_channels=5, kernel_size=(4, 4), stride=(3, 2)),
        ((3, 9, 8),),
        (5, 2, 3),
    ),
    # spans 3·1 + 1 = 4 and 2·2 + 1 = 5
    Case(
        "rectangular and dilated",
        Conv(out_channels=4, kernel_size=(2, 3), stride=(1, 2), dilation=(3, 2)),
        ((3, 11, 10),),
        (4, 8, 3),
    ),
    Case(
        "rows padded unlike columns",
        Conv(out_channels=8, kernel_size=(4, 3), padding=Padding(top=2, left=1, bottom=2, right=1)),
        ((3, 6, 5),),
        (8, 7, 5),
    ),
    Case(
        "each side padded unlike the others",
        Conv(out_channels=5, kernel_size=(2, 3), padding=Padding(left=1, bottom=2, right=4)),
        ((3, 5, 4),),
        (5, 6, 7),
    ),
    Case(
        "padding wider than the kernel",
        Conv(out_channels=6, kernel_size=(2, 2), padding=Padding(top=3, left=3, bottom=3, right=3)),
        ((3, 4, 5),),
        (6, 9, 10),
    ),
    Case(
        "two columns",
        Conv(out_channels=8, kernel_size=(3, 3), padding=_ONE, groups=2),
        ((4, 6, 5),),
        (8, 6, 5),
    ),
    Case(
        "a group for each channel",
        Conv(out_channels=6, kernel_size=(2, 2), groups=3),
        ((3, 5, 4),),
        (6, 4, 3),
    ),
    # spans 2·2 + 1 = 5 and 3·1 + 1 = 4: (9 + 1 − 5) / 2 = 2 and 1 left over, 8 + 2 − 4
    Case(
        "all at once, without bias",
        Conv(
            out_channels=12,
            kernel_size=(3, 2),
            stride=(2, 1),
            padding=Padding(top=1, right=2),
            dilation=(2, 3),
            groups=3,
            bias=False,
        ),
        ((6, 9, 8),),
        (12, 3, 7),
    ),
    Case(
        "1x1 without bias",
        Conv(out_channels=7, kernel_size=(1, 1), bias=False),
        ((5, 3, 4),),
        (7, 3, 4),
    ),
    Case(
        "the whole image, as a fully connected layer",
        Conv(out_channels=6, kernel_size=(3, 5)),
        ((4, 3, 5),),
        (6, 1, 1),
    ),
]

_DENSE = [
    Case("with bias", Linear(out_features=5), ((7,),), (5,)),
    Case("without bias", Linear(out_features=4, bias=False), ((6,),), (4,)),
]

_MAX_POOL = [
    Case("overlapping", MaxPool(kernel_size=(3, 3), stride=(2, 2)), ((5, 7, 9),), (5, 3, 4)),
    Case("side by side", MaxPool(kernel_size=(2, 3)), ((5, 8, 9),), (5, 4, 3)),
    Case("rows left over", MaxPool(kernel_size=(3, 2)), ((5, 11, 8),), (5, 3, 4)),
    # ⌈(6 − 3) / 2⌉ + 1, ⌈(8 − 3) / 2⌉ + 1
    Case(
        "ceil keeps last windows",
        MaxPool(kernel_size=(3, 3), stride=(2, 2), ceil_mode=True),
        ((5, 6, 8),),
        (5, 3, 4),
    ),
    # rows: ⌈(3 + 2 − 2) / 2⌉ + 1 = 3, but the third would start at 4 = 3 + 1, in the padding
    Case(
        "ceil drops a window in the padding",
        MaxPool(kernel_size=(2, 2), stride=(2, 3), padding=_ONE, ceil_mode=True),
        ((5, 3, 6),),
        (5, 2, 3),
    ),
    # rows: ⌈(6 − 2) / 3⌉ + 1 = 3, but the third would start at 6, past the image
    Case(
        "ceil drops a window past the image",
        MaxPool(kernel_size=(2, 2), stride=(3, 2), ceil_mode=True),
        ((5, 6, 7),),
        (5, 2, 4),
    ),
    # ⌈(2 − 3) / 2⌉ + 1
    Case(
        "ceil with a window larger than the image",
        MaxPool(kernel_size=(3, 3), stride=(2, 2), ceil_mode=True),
        ((4, 2, 5),),
        (4, 1, 2),
    ),
    Case(
        "padded",
        MaxPool(kernel_size=(3, 3), stride=(2, 2), padding=_ONE),
        ((6, 5, 8),),
        (6, 3, 4),
    ),
    Case(
        "padded by more than half a window",
        MaxPool(kernel_size=(3, 3), stride=(1, 1), padding=_TWO),
        ((3, 4, 5),),
        (3, 6, 7),
    ),
    Case(
        "each side padded unlike the others",
        MaxPool(kernel_size=(2, 3), stride=(2, 2), padding=Padding(left=1, bottom=1)),
        ((6, 5, 8),),
        (6, 3, 4),
    ),
    # ⌈(4 + 2 − 3) / 2⌉ + 1, ⌈(7 + 1 − 3) / 2⌉ + 1
    Case(
        "ceil, each side padded unlike the others",
        MaxPool(kernel_size=(3, 3), stride=(2, 2), padding=Padding(top=2, right=1), ceil_mode=True),
        ((5, 4, 7),),
        (5, 3, 4),
    ),
]


def _avg_pool_cases(counted: bool) -> list[Case]:
    what = "counted" if counted else "not counted"
    return [
        Case(
            f"ceil, overhang alone, padding {what}",
            AvgPool(kernel_size=(3, 3), stride=(2, 2), ceil_mode=True, count_include_pad=counted),
            ((5, 6, 8),),
            (5, 3, 4),
        ),
        Case(
            f"padding {what}",
            AvgPool(kernel_size=(3, 3), stride=(2, 2), padding=_ONE, count_include_pad=counted),
            ((6, 5, 8),),
            (6, 3, 4),
        ),
        Case(
            f"padding of more than half a window {what}",
            AvgPool(kernel_size=(3, 3), stride=(1, 1), padding=_TWO, count_include_pad=counted),
            ((3, 4, 5),),
            (3, 6, 7),
        ),
        # ⌈(6 + 2 − 3) / 2⌉ + 1, ⌈(4 + 2 − 3) / 2⌉ + 1
        Case(
            f"ceil, padding {what}",
            AvgPool(
                kernel_size=(3, 3),
                stride=(2, 2),
                padding=_ONE,
                ceil_mode=True,
                count_include_pad=counted,
            ),
            ((5, 6, 4),),
            (5, 4, 3),
        ),
        # rows: ⌈(3 + 2 − 2) / 2⌉ + 1 = 3, but the third would start in the padding
        Case(
            f"ceil drops a window in the padding {what}",
            AvgPool(
                kernel_size=(2, 2),
                stride=(2, 3),
                padding=_ONE,
                ceil_mode=True,
                count_include_pad=counted,
            ),
            ((5, 3, 6),),
            (5, 2, 3),
        ),
        Case(
            f"each side's padding {what}",
            AvgPool(
                kernel_size=(3, 2),
                stride=(1, 2),
                padding=Padding(left=1, bottom=2),
                count_include_pad=counted,
            ),
            ((3, 4, 9),),
            (3, 4, 5),
        ),
        # ⌈(5 + 1 − 3) / 2⌉ + 1, ⌈(7 + 1 − 3) / 2⌉ + 1
        Case(
            f"ceil, each side's padding {what}",
            AvgPool(
                kernel_size=(3, 3),
                stride=(2, 2),
                padding=Padding(top=1, right=1),
                ceil_mode=True,
                count_include_pad=counted,
            ),
            ((6, 5, 7),),
            (6, 3, 4),
        ),
    ]


_AVG_POOL = [
    Case("overlapping", AvgPool(kernel_size=(3, 3), stride=(2, 2)), ((5, 7, 9),), (5, 3, 4)),
    Case("side by side", AvgPool(kernel_size=(2, 3)), ((5, 8, 9),), (5, 4, 3)),
    *_avg_pool_cases(counted=True),
    *_avg_pool_cases(counted=False),
]

_ADAPTIVE_AVG_POOL = [
    Case("even bins", AdaptiveAvgPool(output_size=(2, 4)), ((3, 6, 8),), (3, 2, 4)),
    Case("the whole image", AdaptiveAvgPool(output_size=(1, 1)), ((3, 5, 4),), (3, 1, 1)),
    Case("uneven bins", AdaptiveAvgPool(output_size=(3, 4)), ((5, 7, 10),), (5, 3, 4)),
    Case("uneven across", AdaptiveAvgPool(output_size=(3, 4)), ((5, 9, 7),), (5, 3, 4)),
    Case("larger than the image", AdaptiveAvgPool(output_size=(6, 7)), ((3, 4, 5),), (3, 6, 7)),
    Case("the image itself", AdaptiveAvgPool(output_size=(4, 5)), ((3, 4, 5),), (3, 4, 5)),
]

# Alpha is large here, so that the sums outweigh k and a wrong convention is far off.
_LRN = [
    Case(
        "alpha per element, as the paper",
        Lrn(size=5, alpha=0.3, beta=0.75, k=2, alpha_per="element"),
        ((8, 4, 3),),
        (8, 4, 3),
    ),
    Case(
        "alpha per window, as Caffe",
        Lrn(size=5, alpha=0.7, beta=0.75, k=1, alpha_per="window"),
        ((8, 4, 3),),
        (8, 4, 3),
    ),
    Case(
        "k no whole number",
        Lrn(size=3, alpha=0.4, beta=0.8, k=0.7, alpha_per="window"),
        ((8, 4, 3),),
        (8, 4, 3),
    ),
    Case(
        "window of one channel",
        Lrn(size=1, alpha=0.5, beta=0.5, k=1.5, alpha_per="window"),
        ((5, 4, 3),),
        (5, 4, 3),
    ),
    Case(
        "window of all channels and more",
        Lrn(size=11, alpha=0.2, beta=1.25, k=1, alpha_per="window"),
        ((3, 4, 5),),
        (3, 4, 5),
    ),
    Case(
        "within a channel, alpha per element",
        Lrn(size=3, alpha=0.2, beta=0.75, k=2, alpha_per="element", region="within_channel"),
        ((3, 7, 6),),
        (3, 7, 6),
    ),
    Case(
        "within a channel, alpha per window",
        Lrn(size=5, alpha=0.9, beta=0.6, k=1, alpha_per="window", region="within_channel"),
        ((3, 7, 6),),
        (3, 7, 6),
    ),
    Case(
        "within a channel, window larger than the image",
        Lrn(size=9, alpha=0.9, beta=0.75, k=1, alpha_per="window", region="within_channel"),
        ((5, 3, 4),),
        (5, 3, 4),
    ),
]

_BATCH_NORM = [
    Case("of images", BatchNorm(), ((5, 4, 3),), (5, 4, 3)),
    Case("of vectors", BatchNorm(eps=0.5), ((7,),), (7,)),
    Case("of images, not affine", BatchNorm(affine=False), ((5, 3, 4),), (5, 3, 4)),
    Case("of vectors, not affine", BatchNorm(affine=False, eps=0.5), ((6,),), (6,)),
]

_POINTWISE = [
    Case(f"of {what}", op, (shape,), shape)
    for op in (Relu(), Tanh(), Sigmoid(), Softmax(), Dropout(p=0.3))
    for what, shape in (("images", (5, 4, 3)), ("vectors", (7,)))
]

_STRUCTURE = [
    Case("of images", Flatten(), ((3, 4, 5),), (60,)),
    Case("of vectors", Flatten(), ((7,),), (7,)),
    Case("two", Add(), ((5, 4, 3), (5, 4, 3)), (5, 4, 3)),
    Case("three", Add(), ((5, 4, 3), (5, 4, 3), (5, 4, 3)), (5, 4, 3)),
    Case("two vectors", Add(), ((7,), (7,)), (7,)),
    Case("two", Concat(), ((5, 4, 3), (6, 4, 3)), (11, 4, 3)),
    Case("three", Concat(), ((5, 4, 3), (1, 4, 3), (7, 4, 3)), (13, 4, 3)),
    Case("two vectors", Concat(), ((7,), (4,)), (11,)),
]

CASES = [
    *_CONV,
    *_DENSE,
    *_MAX_POOL,
    *_AVG_POOL,
    *_ADAPTIVE_AVG_POOL,
    *_LRN,
    *_BATCH_NORM,
    *_POINTWISE,
    *_STRUCTURE,
]
