"""Max pooling before ReLU: exactly the same numbers, and only where nothing else reads them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from alexc.graph.graph import Graph
from alexc.ops.base import Padding
from alexc.ops.conv import Conv
from alexc.ops.norm import Lrn
from alexc.ops.pointwise import Relu
from alexc.ops.pool import AvgPool, MaxPool
from alexc.passes.pool_before_relu import pool_before_relu
from tests.cases import images_for, reference, weights_for

CONV = Conv(out_channels=5, kernel_size=(3, 3))
POOL = MaxPool(
    kernel_size=(3, 3), stride=(2, 2), padding=Padding(top=1, left=1, right=1), ceil_mode=True
)


def chain(*layers: Any, outputs: tuple[str, ...] = ("pool",), **more: Any) -> Graph:
    first = ("conv", CONV, ("input",))
    return Graph.build("net", (3, 11, 10), (first, *layers), outputs, **more)


def test_the_numbers_are_exactly_the_same() -> None:
    graph = chain(("relu", Relu(), ("conv",)), ("pool", POOL, ("relu",)))
    after = pool_before_relu(graph)
    after.check()
    assert [(node.name, node.op.kind, node.inputs) for node in after.nodes] == [
        ("conv", "conv", ("input",)),
        ("pool.unrectified", "max_pool", ("conv",)),
        ("pool", "relu", ("pool.unrectified",)),
    ]
    weights, images = weights_for(graph), images_for(graph, 2)
    before_values, values = (reference(net, weights, images) for net in (graph, after))
    np.testing.assert_array_equal(values["pool"], before_values["pool"])
    assert (values["pool.unrectified"] < 0).any()
    assert pool_before_relu(after) == after


@pytest.mark.parametrize(
    ("layers", "outputs"),
    [
        ([("relu", Relu(), ("conv",)), ("pool", POOL, ("relu",))], ("pool", "relu")),
        (
            [
                ("relu", Relu(), ("conv",)),
                ("pool", POOL, ("relu",)),
                ("other", AvgPool(kernel_size=(2, 3)), ("relu",)),
            ],
            ("pool", "other"),
        ),
        (
            [("relu", Relu(), ("conv",)), ("pool", AvgPool(kernel_size=(2, 3)), ("relu",))],
            ("pool",),
        ),
        (
            [
                ("relu", Relu(), ("conv",)),
                ("norm", Lrn(size=3, alpha=1, beta=0.75, k=1, alpha_per="window"), ("relu",)),
                ("pool", POOL, ("norm",)),
            ],
            ("pool",),
        ),
    ],
    ids=["output", "two readers", "average", "between them"],
)
def test_what_stays(layers: list[Any], outputs: tuple[str, ...]) -> None:
    graph = chain(*layers, outputs=outputs)
    assert pool_before_relu(graph) == graph


def test_precisions_go_with_the_layers() -> None:
    layers = (("relu", Relu(), ("conv",)), ("pool", POOL, ("relu",)))
    after = pool_before_relu(chain(*layers, precisions={"relu": "fp16", "pool": "fp16"}))
    assert after.precisions == {"pool.unrectified": "fp16", "pool": "fp16"}
    mixed = chain(*layers, precisions={"relu": "fp16"})
    assert pool_before_relu(mixed) == mixed
