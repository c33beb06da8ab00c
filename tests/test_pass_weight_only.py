"""Weights of int8 before activations of fp32: their steps, how they are written, who keeps them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from alexc.calibrate.narrow import written
from alexc.diagnostics import AlexcError
from alexc.graph.graph import Graph
from alexc.graph.quantization import distance_to_tie, on_grid
from alexc.lower.to_onnx import serialize, to_onnx
from alexc.ops.base import Op
from alexc.ops.conv import Conv
from alexc.ops.dense import Linear
from alexc.ops.pointwise import Relu
from alexc.ops.structure import Flatten
from alexc.passes.weight_only import linear_layers, weight_only
from alexc.spec.model import InitSpec
from alexc.verify import verify
from alexc.verify.reference import evaluate
from alexc.weights import store
from alexc.weights.init import draw

Weights = dict[str, NDArray[np.float32]]


def net(features: int = 67) -> Graph:
    layers: list[tuple[str, Op, tuple[str, ...]]] = [
        ("conv1", Conv.model_validate({"out_channels": 6, "kernel_size": 3}), ("input",)),
        ("flatten", Flatten(), ("conv1",)),
        ("fc2", Linear(out_features=features), ("flatten",)),
        ("relu2", Relu(), ("fc2",)),
        ("fc3", Linear(out_features=11, bias=False), ("relu2",)),
        ("fc4", Linear(out_features=5), ("fc3",)),
    ]
    return Graph.build("small", (3, 8, 9), layers, ("fc4",))


def drawn(graph: Graph) -> Weights:
    return draw(graph, InitSpec(), {}, 3)


@pytest.fixture
def weights() -> Weights:
    return drawn(net())


def model(graph: Graph, weights: Weights, folder: Path) -> Path:
    extents = store.write(folder / "weights.safetensors", weights)
    (folder / "model.onnx").write_bytes(serialize(to_onnx(graph, extents)))
    return folder / "model.onnx"


# ---- steps ---------------------------------------------------------------------------------------


def test_linear_layers_but_the_last_and_those_that_are_named() -> None:
    assert linear_layers(net()) == ("fc2", "fc3")
    assert linear_layers(net(), {"fc3": "fp32"}) == ("fc2",)


def test_the_weights_alone_have_steps(weights: Weights) -> None:
    graph = weight_only(net(), weights, ("fc2", "fc3"))
    graph.check()
    assert list(graph.quantized) == ["fc2", "fc3"]
    for name, grid in graph.quantized.items():
        assert (grid.format, grid.input_step, grid.output_step) == ("int8", None, None)
        largest = np.abs(weights[f"{name}.weight"]).max(axis=1)
        ratio = np.array(grid.weight_steps) * 127 / largest
        assert ratio.min() > 1 - 1e-6
        assert ratio.max() < 1.02  # widened a little, to keep clear of ties
    assert graph.digest() != net().digest()


def test_no_weight_is_next_to_a_tie() -> None:
    """However the quotient is rounded, all engines find the same integer."""
    graph = net(1024)
    weights = drawn(graph)
    weight = weights["fc2.weight"]
    (grid,) = weight_only(graph, weights, ("fc2",)).quantized.values()
    steps = np.array(grid.weight_steps, np.float32)[:, np.newaxis]
    assert len(np.unique(steps.ravel() * 127 / np.abs(weight).max(axis=1))) > 1
    exact = on_grid(weight, steps.astype(np.float64), "int8") / steps.astype(np.float64)
    for quotient in (weight / steps, weight * (np.float32(1) / steps)):
        np.testing.assert_array_equal(np.rint(quotient), np.rint(exact))
    # Of steps as they come, some weights are rounded otherwise by one way or the other.
    plain = (np.abs(weight).max(axis=1, keepdims=True) / 127).astype(np.float32)
    nearest = distance_to_tie(weight, plain.astype(np.float64), "int8") / plain
    assert nearest.min() < 2e-5


def test_a_row_of_zeros_and_one_that_can_not_be_cleared_have_a_step() -> None:
    graph = net(3)
    weights = drawn(graph)
    weights["fc2.weight"][0] = 0
    # Weights so dense that every step has one next to a tie.
    dense = np.linspace(-1, 1, weights["fc2.weight"].shape[1], dtype=np.float32)
    weights["fc2.weight"][1] = np.tile(dense, 1)
    (grid,) = weight_only(graph, weights, ("fc2",)).quantized.values()
    assert grid.weight_steps[0] == 1.0
    assert 1 / 127 <= grid.weight_steps[1] * (1 + 1e-6) < 1.02 / 127


# ---- the model -----------------------------------------------------------------------------------


def test_weights_pass_through_int8_and_activations_do_not(weights: Weights, tmp_path: Path) -> None:
    graph = weight_only(net(), weights, ("fc2", "fc3"))
    proto = onnx.load(model(graph, weights, tmp_path), load_external_data=False)
    casts = [
        (node.input[0], attribute.i)
        for node in proto.graph.node
        if node.op_type == "Cast"
        for attribute in node.attribute
    ]
    assert casts == [
        (start, to)
        for name in ("fc2", "fc3")
        for start, to in (
            (f"{name}.weight.inside", TensorProto.INT8),
            (f"{name}.weight.int8", TensorProto.FLOAT),
        )
    ]
    gemms = {node.name: list(node.input) for node in proto.graph.node if node.op_type == "Gemm"}
    assert gemms["fc2"] == ["flatten", "fc2.weight.rounded", "fc2.bias"]
    assert gemms["fc4"][1] == "fc4.weight"


def test_the_proof_takes_what_the_weights_are_rounded_to(weights: Weights, tmp_path: Path) -> None:
    graph = weight_only(net(), weights, ("fc2", "fc3"))
    file = model(graph, weights, tmp_path)
    report = verify(net(), weights, file, written=graph, backends=("onnxruntime", "openvino"))
    assert report.passed, [row for row in report.rows if not row.passed]
    # The file holds the weights as they were, so that all precisions share it.
    images = np.random.default_rng(5).standard_normal((4, 3, 8, 9)).astype(np.float32)
    exact, rounded = (evaluate(each, weights, images)["fc4"] for each in (net(), graph))
    error = np.linalg.norm(rounded - exact) / np.linalg.norm(exact)
    assert 1e-3 < error < 3e-2


def test_a_weight_that_is_rounded_otherwise_is_found(weights: Weights, tmp_path: Path) -> None:
    graph = weight_only(net(), weights, ("fc2", "fc3"))
    wrong = model(graph, weights, tmp_path)
    proto = onnx.load(wrong, load_external_data=False)
    for tensor in proto.graph.initializer:
        if tensor.name == "fc3.weight.step":
            steps = np.frombuffer(tensor.raw_data, np.float32).copy()
            steps[2] *= 1.02
            tensor.raw_data = steps.tobytes()
    wrong.write_bytes(proto.SerializeToString())
    report = verify(net(), weights, wrong, written=graph, backends=("onnxruntime",))
    assert not report.passed
    assert report.first_divergence is not None
    assert report.first_divergence.layer == "fc3"


def test_openvino_keeps_the_integers(weights: Weights, tmp_path: Path) -> None:
    """Its own account of the model it runs: the weights are constants of eight bits."""
    openvino: Any = pytest.importorskip("openvino")
    graph = net(64)
    own = drawn(graph)
    del weights
    file = model(weight_only(graph, own, ("fc2", "fc3")), own, tmp_path)
    settings = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
    compiled = openvino.Core().compile_model(str(file), "CPU", settings)
    constants = {
        op.get_friendly_name(): op.get_output_element_type(0).get_type_name()
        for op in compiled.get_runtime_model().get_ops()
        if op.get_rt_info()["layerType"].astype(str) == "Const"
    }
    assert constants["fc2.weight.int8"] == "i8"
    assert constants["fc4.weight"] == "f32"


# ---- as a precision ------------------------------------------------------------------------------


def test_the_precision_takes_no_photographs(weights: Weights) -> None:
    graph = written(net(), weights, "int8-weights", {"fc2": "bf16"})
    assert list(graph.quantized) == ["fc3"]
    assert graph.precisions == {"fc2": "bf16"}


def test_a_net_without_such_layers_is_told_what_is_for_it() -> None:
    layers: list[tuple[str, Op, tuple[str, ...]]] = [
        ("conv1", Conv.model_validate({"out_channels": 6, "kernel_size": 3}), ("input",)),
        ("flatten", Flatten(), ("conv1",)),
        ("fc2", Linear(out_features=5), ("flatten",)),
    ]
    graph = Graph.build("short", (3, 8, 9), layers, ("fc2",))
    with pytest.raises(AlexcError) as caught:
        written(graph, drawn(graph), "int8-weights", {})
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "precision/no-layers"
    assert "linear layers before the last, and short has none" in diagnostic.message
