"""The passes: what they change, and that they change nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from alexc.graph.graph import Graph
from alexc.graph.quantization import Quantization
from alexc.ops.base import Op
from alexc.ops.conv import Conv
from alexc.ops.norm import Lrn
from alexc.ops.pointwise import Dropout, Relu, Tanh
from alexc.ops.structure import Add
from alexc.passes.inference import inference
from alexc.passes.lrn_form import lrn_form
from alexc.passes.precision import with_precision
from alexc.passes.prefix import up_to
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


def test_what_is_said_of_a_layer_stays_with_it() -> None:
    lrn = Lrn(size=3, alpha=0.1, beta=0.75, k=2.0, alpha_per="element")
    layers: list[tuple[str, Op, tuple[str, ...]]] = [
        ("fc1", Conv.model_validate({"out_channels": 2, "kernel_size": 1}), ("input",)),
        ("norm1", lrn, ("fc1",)),
        ("drop1", Dropout(p=0.5), ("norm1",)),
        ("relu1", Relu(), ("drop1",)),
    ]
    graph = Graph.build(
        "net",
        (3, 5, 4),
        layers,
        ("relu1",),
        {"drop1": "fp16", "relu1": "fp16"},
        {"fc1": Quantization("int8", 0.5, (0.25, 0.125), None)},
        {"norm1": "banded"},
    )
    for after in (inference(graph), up_to(inference(graph), "norm1"), lrn_form(graph, "banded")):
        assert after.quantized == graph.quantized
        assert after.forms == graph.forms
        assert after.precisions == {
            name: "fp16" for name in ("drop1", "relu1") if name in after.by_name
        }
    bf16 = with_precision(inference(graph), "bf16", {"fc1": "fp32"})
    assert (bf16.quantized, bf16.forms) == (graph.quantized, graph.forms)
