"""Eight-bit operands: what their grids are, where they stand in the model, and that it is held."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Literal

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from alexc.engines.tensorrt import build_plan, flavours, parse
from alexc.frontend import load_net
from alexc.graph.graph import Graph
from alexc.graph.quantization import (
    Quantization,
    QuantizedFormat,
    Scheme,
    distance_to_tie,
    on_grid,
    step_for,
)
from alexc.lower.to_onnx import serialize, to_onnx
from alexc.ops.base import Op
from alexc.ops.conv import Conv
from alexc.ops.dense import Linear
from alexc.ops.norm import Lrn
from alexc.ops.pointwise import Relu, Softmax
from alexc.ops.pool import MaxPool
from alexc.ops.structure import Add, Flatten
from alexc.passes.inference import inference
from alexc.passes.precision import with_precision
from alexc.passes.quantize import quantizable, quantize, tensors_to_range
from alexc.spec.model import InitSpec
from alexc.verify import verify
from alexc.verify.grid import off_ties
from alexc.verify.reference import evaluate
from alexc.weights import store
from alexc.weights.init import draw

Weights = dict[str, NDArray[np.float32]]


def net() -> Graph:
    """A chain as AlexNet's: a norm behind the first ReLU, two linear layers, scores."""
    lrn = Lrn(size=3, alpha=0.1, beta=0.75, k=2.0, alpha_per="element")
    layers: list[tuple[str, Op, tuple[str, ...]]] = [
        ("conv1", Conv.model_validate({"out_channels": 6, "kernel_size": 3}), ("input",)),
        ("relu1", Relu(), ("conv1",)),
        ("norm1", lrn, ("relu1",)),
        ("pool1", MaxPool.model_validate({"kernel_size": 2}), ("norm1",)),
        ("conv2", Conv.model_validate({"out_channels": 4, "kernel_size": 2}), ("pool1",)),
        ("flatten", Flatten(), ("conv2",)),
        ("fc3", Linear(out_features=9), ("flatten",)),
        ("relu3", Relu(), ("fc3",)),
        ("fc4", Linear(out_features=5), ("relu3",)),
        ("softmax", Softmax(), ("fc4",)),
    ]
    return Graph.build("net", (3, 11, 9), layers, ("softmax",))


@pytest.fixture(scope="module")
def weights() -> Weights:
    return draw(net(), InitSpec(), {}, seed=3)


def images(count: int = 4) -> NDArray[np.float32]:
    return np.random.default_rng(8).normal(size=(count, 3, 11, 9)).astype(np.float32)


def on_grids(weights: Weights, scheme: Scheme = "int8") -> Graph:
    graph = net()
    values = evaluate(graph, weights, images())
    layers = quantizable(graph)
    wanted = tensors_to_range(graph, layers, scheme)
    limits = {name: float(np.abs(values[name]).max()) for name in wanted}
    return quantize(graph, weights, limits, layers, scheme)


def write(graph: Graph, weights: Weights, folder: Path) -> Path:
    extents = store.write(folder / "weights.safetensors", weights)
    path = folder / "model.onnx"
    path.write_bytes(serialize(to_onnx(graph, extents)))
    onnx.checker.check_model(str(path), full_check=True)
    return path


# ---- the grid ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("format", "dtype"), [("int8", np.int8), ("uint8", np.uint8)])
def test_the_integers_are_those_of_onnx(format: QuantizedFormat, dtype: type[np.integer]) -> None:
    step = np.float32(0.125)  # a power of two, so that the ties are ties
    numbers = np.concatenate([np.arange(-20, 20, 0.0625), [1e9, -1e9, 0.0]]).astype(np.float32)
    grid = [
        numpy_helper.from_array(np.asarray(step), "step"),
        numpy_helper.from_array(np.zeros((), dtype), "zero"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["y"]),
    ]
    tensor = helper.make_tensor_value_info
    values = [tensor(name, TensorProto.FLOAT, [None]) for name in "xy"]
    body = helper.make_graph(nodes, "grid", values[:1], values[1:], grid)
    opset = [helper.make_opsetid("", 19)]
    model = helper.make_model(body, opset_imports=opset, ir_version=9)
    (expected,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": numbers})
    np.testing.assert_array_equal(on_grid(numbers, float(step), format), expected)


def test_the_fp8_grid_is_e4m3() -> None:
    numbers = np.random.default_rng(1).normal(size=4000).astype(np.float32)
    numbers = np.concatenate([numbers * 10.0 ** np.arange(-4, 4).repeat(500), [0.0, 1e-9, 5e8]])
    expected = np.clip(numbers, -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float64)
    np.testing.assert_array_equal(on_grid(numbers, 1.0, "fp8"), expected)
    np.testing.assert_array_equal(on_grid(numbers * 0.5, 0.5, "fp8"), expected * 0.5)


@pytest.mark.parametrize("format", ["int8", "uint8", "fp8"])
def test_what_is_off_ties_is_rounded_alike_whatever_its_last_bits(format: QuantizedFormat) -> None:
    numbers = np.random.default_rng(2).normal(size=(30, 40)).astype(np.float32)
    moved = off_ties(numbers, 0.05, format)
    for factor in (1 - 1e-3, 1, 1 + 1e-3):
        jogged = on_grid(moved * factor, 0.05, format)
        np.testing.assert_array_equal(jogged, on_grid(numbers, 0.05, format))
    errors = np.abs(on_grid(numbers, 0.05, format) - numbers)
    assert (np.abs(moved - numbers) <= errors / 10 + 1e-6).all()


@pytest.mark.parametrize(("format", "beyond"), [("int8", -7.0), ("uint8", -0.1)])
def test_the_distance_to_a_tie_is_how_far_a_number_may_move(
    format: QuantizedFormat, beyond: float
) -> None:
    numbers = np.random.default_rng(3).uniform(-6, 6, size=500)
    distance = distance_to_tie(numbers, 0.05, format)
    moved = np.where(np.isfinite(distance), distance, 0.0)
    for sign in (-1, 1):
        near, far = (on_grid(numbers + sign * moved * f, 0.05, format) for f in (0.99, 1.01))
        np.testing.assert_array_equal(near, on_grid(numbers, 0.05, format))
        assert (far != on_grid(numbers, 0.05, format)).any()
    ends = distance_to_tie(np.array([12.8, beyond, 1e9]), 0.05, format)
    np.testing.assert_array_equal(ends, np.inf)


def test_a_step_is_a_float32_number_and_never_zero() -> None:
    assert step_for(127.0, "int8") == 1.0
    assert step_for(448.0, "fp8") == 1.0
    assert step_for(0.0, "int8") == 1.0
    assert step_for(1e-45, "fp8") > 0
    assert step_for(1.0, "int8") == float(np.float32(1 / 127))


# ---- which layers --------------------------------------------------------------------------------


def test_the_last_layers_are_left_and_so_are_named_ones() -> None:
    assert quantizable(net()) == ("conv1", "conv2", "fc3")
    assert quantizable(net(), {"conv2": "fp16"}) == ("conv1", "fc3")


def test_of_branches_that_meet_at_the_end_both_are_last() -> None:
    conv = Conv.model_validate({"out_channels": 4, "kernel_size": 1})
    layers: list[tuple[str, Op, tuple[str, ...]]] = [
        ("stem", conv, ("input",)),
        ("left", conv, ("stem",)),
        ("right", conv, ("stem",)),
        ("sum", Add(), ("left", "right")),
        ("relu", Relu(), ("sum",)),
    ]
    graph = Graph.build("net", (3, 7, 5), layers, ("relu",))
    assert quantizable(graph) == ("stem",)
    assert quantizable(Graph.build("net", (3, 7, 5), layers, ("relu", "stem"))) == ()


def test_a_result_that_a_relu_reads_takes_the_range_behind_it(weights: Weights) -> None:
    graph = net()
    wanted = tensors_to_range(graph, ("conv1", "conv2"), "int8")
    assert wanted == dict.fromkeys(("input", "relu1", "pool1", "conv2"), "int8")
    limits = {"input": 4.0, "relu1": 2.0, "pool1": 1.0, "conv2": 3.0}
    found = quantize(graph, weights, limits, ("conv1", "conv2"), "int8").quantized
    assert found["conv1"].output_step == step_for(2.0, "int8")
    assert found["conv2"].output_step == step_for(3.0, "int8")
    assert found["conv2"].input_step == step_for(1.0, "int8")
    largest = np.abs(weights["conv2.weight"]).max(axis=(1, 2, 3))
    steps = tuple(step_for(float(each), "int8") for each in largest)
    assert found["conv2"].weight_steps == steps
    floats = quantize(graph, weights, limits, ("conv1", "conv2"), "fp8").quantized
    assert floats["conv1"].output_step is None


def test_without_a_sign_is_what_is_never_negative(weights: Weights) -> None:
    graph = net()
    layers = ("conv1", "conv2")
    wanted = tensors_to_range(graph, layers, "u8s8")
    assert wanted == {"input": "int8", "relu1": "uint8", "pool1": "uint8", "conv2": "int8"}
    limits = {"input": 4.0, "relu1": 2.0, "pool1": 1.0, "conv2": 3.0}
    found = quantize(graph, weights, limits, layers, "u8s8").quantized
    assert (found["conv1"].unsigned_input, found["conv1"].unsigned_output) == (False, True)
    assert (found["conv2"].unsigned_input, found["conv2"].unsigned_output) == (True, False)
    assert found["conv1"].output_step == step_for(2.0, "uint8") == float(np.float32(2 / 255))
    assert found["conv2"].input_step == step_for(1.0, "uint8")
    assert found["conv2"].output_step == step_for(3.0, "int8")
    signed = quantize(graph, weights, limits, layers, "int8")
    assert signed.digest() != quantize(graph, weights, limits, layers, "u8s8").digest()


def test_a_graph_refuses_grids_that_fit_no_weights(weights: Weights) -> None:
    graph = on_grids(weights)
    short = {"conv1": Quantization("int8", 1.0, (1.0, 1.0), None)}
    for wrong in (short, {"relu1": short["conv1"]}, {"stranger": short["conv1"]}):
        with pytest.raises(ValueError, match="can't be quantized"):
            Graph.build(graph.name, graph.input_shape, graph.layers(), graph.outputs, {}, wrong)
    both = {"conv1": "fp16"}
    with pytest.raises(ValueError, match="as well"):
        Graph.build(
            graph.name,
            graph.input_shape,
            graph.layers(),
            graph.outputs,
            both,  # type: ignore[arg-type]
            graph.quantized,
        )
    assert graph.digest() != net().digest()


# ---- the model -----------------------------------------------------------------------------------


def test_weights_stay_float32_in_their_file_and_each_tensor_is_rounded_once(
    weights: Weights, tmp_path: Path
) -> None:
    body = onnx.load(write(on_grids(weights), weights, tmp_path), load_external_data=False).graph
    outside = {t.name for t in body.initializer if t.data_location == TensorProto.EXTERNAL}
    assert outside == set(weights)
    rounded = Counter(n.input[0] for n in body.node if n.op_type == "QuantizeLinear")
    assert set(rounded.values()) == {1}
    assert {"input", "pool1", "conv1.exact", "conv1.weight", "flatten"} <= set(rounded)
    assert "fc4.weight" not in rounded
    zeros = [t for t in body.initializer if t.name.endswith(".zero")]
    assert zeros
    assert all(t.data_type == TensorProto.INT8 for t in zeros)
    assert not any(numpy_helper.to_array(t).any() for t in zeros)


def test_onnx_runtime_computes_in_integers(weights: Weights, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3  # it warns that the saved model is for this machine alone
    onnxruntime.InferenceSession(str(write(on_grids(weights), weights, tmp_path)), options)
    nodes = onnx.load(tmp_path / "optimized.onnx", load_external_data=False).graph.node
    kinds = Counter(node.op_type for node in nodes)
    assert kinds["QLinearConv"] == 2
    assert kinds["QGemm"] == 1
    assert kinds["Conv"] == kinds["FusedConv"] == 0


@pytest.mark.parametrize(("format", "dtype"), [("int8", "int8"), ("fp8", "float8_e4m3fn")])
def test_tensorrt_reads_the_same_grids(
    weights: Weights, tmp_path: Path, format: Literal["int8", "fp8"], dtype: str
) -> None:
    if (obstacle := flavours()["tensorrt_rtx"].obstacle) is not None:
        pytest.skip(obstacle)
    tensors = parse(write(on_grids(weights, format), weights, tmp_path))
    assert tensors[f"pool1.{format}"].dtype == dtype
    assert tensors["norm1"].dtype == tensors["fc4"].dtype == "float32"


# ---- the proof -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scheme", "backend"),
    [("int8", "onnxruntime"), ("u8s8", "onnxruntime"), ("u8s8", "openvino"), ("fp8", "openvino")],
)
def test_a_quantized_model_is_verified_and_its_accuracy_told(
    weights: Weights, tmp_path: Path, scheme: Scheme, backend: str
) -> None:
    pytest.importorskip(backend)
    graph = on_grids(weights, scheme)
    model = write(graph, weights, tmp_path)
    report = verify(net(), weights, model, written=graph, inputs=images(2), backends=[backend])
    failed = [row for row in report.rows if not row.passed]
    assert report.passed, failed[:3]
    (accuracy,) = report.accuracy
    assert (accuracy.backend, accuracy.output, accuracy.images) == (backend, "softmax", 2)
    assert accuracy.top1_agreement in (0.5, 1.0)
    assert 0 < accuracy.rel_l2 < 0.05
    assert 0 < accuracy.max_abs < 0.05


@pytest.mark.parametrize(
    ("tensor", "factor", "layer"),
    [
        ("conv2.weight.step", 1.05, "conv2"),
        ("fc3.weight.step", 0.9, "fc3"),
        ("pool1.step", 1.1, "conv2"),
        ("conv1.step", 1.02, "conv1"),
    ],
)
def test_a_wrong_step_is_found_in_its_layer(
    weights: Weights, tmp_path: Path, tensor: str, factor: float, layer: str
) -> None:
    graph = on_grids(weights)
    model = write(graph, weights, tmp_path)
    body = onnx.load(model, load_external_data=False)
    (wrong,) = [t for t in body.graph.initializer if t.name == tensor]
    wrong.CopyFrom(
        numpy_helper.from_array(numpy_helper.to_array(wrong) * np.float32(factor), tensor)
    )
    model.write_bytes(body.SerializeToString())
    report = verify(
        net(), weights, model, written=graph, inputs=images(2), backends=["onnxruntime"]
    )
    assert not report.passed
    assert report.first_divergence is not None
    assert (report.first_divergence.layer, report.first_divergence.kind) == (layer, "local")


def test_other_weights_are_found(weights: Weights, tmp_path: Path) -> None:
    graph = on_grids(weights)
    model = write(graph, draw(net(), InitSpec(), {}, seed=4), tmp_path)
    report = verify(
        net(), weights, model, written=graph, inputs=images(2), backends=["onnxruntime"]
    )
    assert not report.passed


# ---- every net of the project --------------------------------------------------------------------

FOLDER = Path(__file__).resolve().parents[1] / "specs"
SPECS = sorted([*FOLDER.glob("*.yaml"), *FOLDER.glob("zoo/*.yaml")])


@pytest.mark.slow
@pytest.mark.parametrize("spec", SPECS, ids=lambda path: path.stem)
def test_tensorrt_builds_every_net_in_every_precision(spec: Path, tmp_path: Path) -> None:
    if (obstacle := flavours()["tensorrt_rtx"].obstacle) is not None:
        pytest.skip(obstacle)
    found = load_net(spec)
    plain = inference(found.graph)
    weights = draw(found.graph, InitSpec(), {}, seed=0)
    extents = store.write(tmp_path / "weights.safetensors", weights)
    layers = quantizable(plain)
    limits = dict.fromkeys(tensors_to_range(plain, layers, "int8"), 1.0)
    written = {
        "fp16": with_precision(plain, "fp16"),
        "bf16": with_precision(plain, "bf16"),
        "int8": quantize(plain, weights, limits, layers, "int8"),
        "fp8": quantize(plain, weights, limits, layers, "fp8"),
    }
    for precision, graph in written.items():
        model = tmp_path / "model.onnx"
        model.write_bytes(serialize(to_onnx(graph, extents)))
        plan = build_plan(model, tmp_path / "plan", precision=precision)
        assert plan.record.path is not None, (precision, plan.record.status)
