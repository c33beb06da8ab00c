"""The nets that faults are planted in, with weights."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from alexc.graph.graph import INPUT, Graph
from alexc.ops.base import Op, Padding
from alexc.ops.conv import Conv
from alexc.ops.dense import Linear
from alexc.ops.norm import BatchNorm, Lrn
from alexc.ops.pointwise import Dropout, Relu, Sigmoid, Softmax, Tanh
from alexc.ops.pool import AdaptiveAvgPool, AvgPool, MaxPool
from alexc.ops.structure import Add, Concat, Flatten

Weights = dict[str, NDArray[np.float32]]
Layers = list[tuple[str, Op, tuple[str, ...]]]


def columns() -> Graph:
    """AlexNet's kind of net in small: a chain with groups, both kinds of LRN, pools that round."""
    chain: list[tuple[str, Op]] = [
        (
            "conv1",
            Conv(out_channels=12, kernel_size=(5, 3), stride=(2, 2), padding=_pad(1, 2, 1, 0)),
        ),
        ("relu1", Relu()),
        ("norm1", Lrn(size=5, alpha=1e-4, beta=0.75, k=2.0, alpha_per="element")),
        ("pool1", MaxPool(kernel_size=(3, 3), stride=(2, 2))),
        ("conv2", Conv(out_channels=16, kernel_size=(3, 3), padding=_pad(1, 1, 1, 1), groups=2)),
        ("relu2", Relu()),
        (
            "norm2",
            Lrn(size=3, alpha=1e-3, beta=0.5, k=1.0, alpha_per="window", region="within_channel"),
        ),
        (
            "pool2",
            MaxPool(kernel_size=(2, 3), stride=(2, 1), padding=_pad(1, 0, 0, 1), ceil_mode=True),
        ),
        (
            "conv3",
            Conv(out_channels=10, kernel_size=(3, 2), padding=_pad(2, 1, 2, 0), dilation=(2, 1)),
        ),
        ("norm3", BatchNorm()),
        ("relu3", Relu()),
        (
            "pool3",
            AvgPool(
                kernel_size=(3, 3),
                stride=(2, 2),
                padding=_pad(1, 1, 1, 1),
                ceil_mode=True,
                count_include_pad=False,
            ),
        ),
        ("flat", Flatten()),
        ("fc4", Linear(out_features=24)),
        ("relu4", Relu()),
        ("drop4", Dropout(p=0.5)),
        ("fc5", Linear(out_features=24)),
        ("tanh5", Tanh()),
        ("fc6", Linear(out_features=9)),
        ("prob", Softmax()),
    ]
    layers: Layers = []
    before = INPUT
    for name, op in chain:
        layers.append((name, op, (before,)))
        before = name
    return Graph.build("columns", (3, 37, 41), layers, ("prob",))


def branches() -> Graph:
    """Branches that are added and joined, and the ops that a chain like AlexNet's does not have."""
    layers: Layers = [
        ("stem", Conv(out_channels=6, kernel_size=(3, 3), padding=_pad(1, 1, 1, 1)), (INPUT,)),
        ("left", Conv(out_channels=6, kernel_size=(1, 1), bias=False), ("stem",)),
        ("right", Conv(out_channels=6, kernel_size=(3, 3), padding=_pad(1, 1, 1, 1)), ("stem",)),
        ("gate", Sigmoid(), ("right",)),
        ("sum", Add(), ("left", "gate", "stem")),
        ("join", Concat(), ("sum", "right")),
        ("channels", Softmax(), ("join",)),
        (
            "average",
            AvgPool(kernel_size=(3, 3), stride=(2, 2), padding=_pad(1, 1, 0, 0), ceil_mode=True),
            ("join",),
        ),
        ("bins", AdaptiveAvgPool(output_size=(4, 3)), ("average",)),
        ("flat", Flatten(), ("bins",)),
        ("scores", Linear(out_features=7), ("flat",)),
        ("norm", BatchNorm(eps=1e-3, affine=False), ("scores",)),
    ]
    return Graph.build("branches", (3, 18, 15), layers, ("norm", "channels"))


def _pad(top: int, left: int, bottom: int, right: int) -> Padding:
    return Padding(top=top, left=left, bottom=bottom, right=right)


def weights_for(graph: Graph) -> Weights:
    """Weights as after some training, but with biases of zero in the first layer of each net."""
    generator = np.random.default_rng(2012)
    weights: Weights = {}
    for name, parameter in graph.parameters.items():
        layer, _, local = name.rpartition(".")
        shape = parameter.shape
        values = generator.standard_normal(shape)
        if local == "running_var":
            values = generator.uniform(0.5, 2.0, shape)
        elif local == "bias":
            values = 0.0 * values if layer in ("conv1", "stem") else 0.1 * values
        elif len(shape) > 1:
            values *= np.sqrt(2 / np.prod(shape[1:]))
        else:
            values = 1 + 0.2 * values
        weights[name] = values.astype(np.float32)
    return weights


NETS = (columns(), branches())
