"""The passes: what they change, and that they change nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from alexc.graph.graph import Graph
from alexc.ops.pointwise import Dropout, Relu, Tanh
from alexc.ops.structure import Add
from alexc.passes.inference import inference
from tests.cases import every_op, images_for, reference, weights_for


def chain(*layers: Any, outputs: tuple[str, ...]) -> Graph:
    return Graph.build("net", (3, 5, 4), layers, outputs)


def test_dropout_is_taken_out() -> None:
    graph = chain(
        ("relu", Relu(), ("input",)),
        ("drop", Dropout(), ("relu",)),
        ("tanh", Tanh(), ("drop",)),
        outputs=("tanh",),
    )
    after = inference(graph)
    after.check()
    assert [(node.name, node.inputs) for node in after.nodes] == [
        ("relu", ("input",)),
        ("tanh", ("relu",)),
    ]
    assert after.outputs == ("tanh",)
    assert after.name == graph.name


def test_dropout_behind_dropout() -> None:
    graph = chain(
        ("drop1", Dropout(), ("input",)),
        ("drop2", Dropout(p=0.1), ("drop1",)),
        ("sum", Add(), ("drop2", "drop1", "input")),
        outputs=("sum",),
    )
    (total,) = inference(graph).nodes
    assert total.inputs == ("input", "input", "input")


def test_an_output_keeps_its_name() -> None:
    graph = chain(
        ("relu", Relu(), ("input",)),
        ("drop", Dropout(), ("relu",)),
        ("tanh", Tanh(), ("drop",)),
        outputs=("drop", "tanh"),
    )
    after = inference(graph)
    assert [(node.name, node.inputs) for node in after.nodes] == [
        ("relu", ("input",)),
        ("drop", ("relu",)),
        ("tanh", ("relu",)),
    ]
    assert after.outputs == graph.outputs


@pytest.mark.parametrize("outputs", [("fc",), ("fc", "drop"), ("joined", "fc")])
def test_the_inference_form_is_the_same_function(outputs: tuple[str, ...]) -> None:
    graph = every_op(*outputs)
    after = inference(graph)
    assert after.parameters == graph.parameters
    weights, images = weights_for(graph), images_for(graph, 2)
    before_values, values = (reference(net, weights, images) for net in (graph, after))
    for name in values:
        np.testing.assert_array_equal(values[name], before_values[name])


def test_a_second_time_changes_nothing() -> None:
    once = inference(every_op("fc", "drop"))
    assert inference(once) == once
    assert inference(once).digest() == once.digest()
