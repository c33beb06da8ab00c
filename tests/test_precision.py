"""Precision as it is written into graph and model: where casts stand, and what comes out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import alexc_runtime
from alexc.assembly.inputs import key_of
from alexc.assembly.options import Options
from alexc.frontend import load_net
from alexc.graph.graph import Graph
from alexc.lower.to_onnx import serialize, to_onnx
from alexc.ops.base import Op
from alexc.ops.conv import Conv
from alexc.ops.dense import Linear
from alexc.ops.norm import Lrn
from alexc.ops.pointwise import Relu, Softmax
from alexc.ops.structure import Add, Flatten
from alexc.passes.inference import inference
from alexc.passes.precision import with_precision
from alexc.spec.model import InitSpec, Precision
from alexc.weights import store
from alexc.weights.init import draw
from tests import small_bundle


def net(outputs: tuple[str, ...] = ("softmax",)) -> Graph:
    """Two branches, a sensitive layer in the middle and one at the end."""
    lrn = Lrn(size=3, alpha=0.1, beta=0.75, k=2.0, alpha_per="element")
    conv = Conv.model_validate({"out_channels": 4, "kernel_size": 3, "padding": 1})
    layers: list[tuple[str, Op, tuple[str, ...]]] = [
        ("conv1", conv, ("input",)),
        ("norm1", lrn, ("conv1",)),
        ("conv2", conv, ("norm1",)),
        ("relu2", Relu(), ("conv2",)),
        ("add", Add(), ("relu2", "norm1")),
        ("flatten", Flatten(), ("add",)),
        ("fc", Linear(out_features=7), ("flatten",)),
        ("softmax", Softmax(), ("fc",)),
    ]
    return Graph.build("net", (3, 6, 5), layers, outputs)


def write(graph: Graph, folder: Path) -> Path:
    """The model of the graph with drawn weights, checked by onnx itself."""
    weights = draw(graph, InitSpec(), {}, seed=1)
    extents = store.write(folder / "weights.safetensors", weights)
    path = folder / "model.onnx"
    path.write_bytes(serialize(to_onnx(graph, extents)))
    onnx.checker.check_model(str(path), full_check=True)
    return path


def types(path: Path) -> dict[str, int]:
    """The element type of every tensor that a node makes, as onnx infers it."""
    body = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True).graph
    every = [*body.value_info, *body.output]
    return {value.name: value.type.tensor_type.elem_type for value in every}


def test_sensitive_layers_stay_in_fp32_unless_named() -> None:
    graph = with_precision(net(), "fp16")
    assert graph.precision_of("norm1") == graph.precision_of("softmax") == "fp32"
    assert graph.precision_of("conv1") == graph.precision_of("fc") == "fp16"
    graph = with_precision(net(), "fp16", {"norm1": "bf16", "conv1": "fp32", "gone": "fp32"})
    assert graph.precision_of("norm1") == "bf16"
    assert graph.precision_of("conv1") == "fp32"


def test_a_precision_changes_the_digest_and_fp32_does_not() -> None:
    graph = net()
    assert with_precision(graph, "fp32").digest() == graph.digest()
    assert with_precision(graph, "fp16").digest() != graph.digest()


def test_inference_keeps_the_precision_of_the_layers_that_stay() -> None:
    graph = with_precision(net(), "bf16")
    assert inference(graph).precisions == graph.precisions


def test_a_precision_of_no_layer_is_refused() -> None:
    graph = net()
    with pytest.raises(ValueError, match="stranger"):
        Graph.build("n", (3, 6, 5), graph.layers(), graph.outputs, {"stranger": "fp16"})


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_every_layer_is_in_its_precision_and_outputs_in_fp32(
    tmp_path: Path, precision: Precision
) -> None:
    graph = with_precision(net(("fc", "relu2")), precision)
    found = types(write(graph, tmp_path))
    narrow = {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}[precision]
    assert found["conv1"] == found["conv2"] == found["add"] == narrow
    assert found["norm1"] == onnx.TensorProto.FLOAT
    assert found["fc"] == found["relu2"] == onnx.TensorProto.FLOAT
    assert found[f"fc.{precision}"] == found[f"relu2.{precision}"] == narrow


def test_a_tensor_is_cast_once_however_often_it_is_read(tmp_path: Path) -> None:
    body = onnx.load(write(with_precision(net(), "fp16"), tmp_path)).graph
    casts = [node.output[0] for node in body.node if node.op_type == "Cast"]
    assert len(casts) == len(set(casts))
    assert casts.count("norm1.fp16") == 1  # read by conv2 and by add
    assert "conv1.weight.fp16" in casts


def test_an_output_that_is_read_on_is_not_rounded_through_fp32(tmp_path: Path) -> None:
    body = onnx.load(write(with_precision(net(("relu2", "fc")), "fp16"), tmp_path)).graph
    (add,) = [node for node in body.node if node.op_type == "Add"]
    assert list(add.input) == ["relu2.fp16", "norm1.fp16"]


def test_fp32_writes_no_cast(tmp_path: Path) -> None:
    body = onnx.load(write(with_precision(net(), "fp32"), tmp_path)).graph
    assert "Cast" not in {node.op_type for node in body.node}


def test_fp16_computes_the_same_to_its_own_accuracy(tmp_path: Path) -> None:
    images = np.random.default_rng(2).normal(size=(3, 3, 6, 5)).astype(np.float32)
    results = []
    for precision in ("fp32", "fp16"):
        graph = with_precision(net(("fc",)), precision)
        session = onnxruntime.InferenceSession(write(graph, tmp_path))
        (result,) = session.run(None, {"input": images})
        results.append(result)
    exact, narrow = results
    assert exact.dtype == narrow.dtype == np.float32
    error = np.abs(exact - narrow).max() / np.abs(exact).max()
    assert 0 < error < 2**-8  # seven layers of 2^-11 each, and their sums


def test_an_engine_that_the_build_did_not_have_runs_in_the_models_precision(
    tmp_path: Path,
) -> None:
    small_bundle.make(tmp_path / "bundle", precision="fp16", engines=())
    with alexc_runtime.open(tmp_path / "bundle", "onnxruntime") as session:
        assert session.precision == "fp16"
        assert session.manifest.precision == "fp16"


def test_a_gpu_that_has_come_is_another_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "net.yaml").write_text(
        "alexc: 1\nname: net\ninput: {channels: 3, height: 5, width: 4}\nlayers: {relu1: relu}\n"
    )
    options = Options(tmp_path / "out")
    keys = []
    for gpus in ((), ("NVIDIA H200 9.0",)):
        monkeypatch.setattr("alexc.assembly.inputs.machine", lambda gpus=gpus: ("13000", gpus))
        keys.append(key_of(load_net(tmp_path / "net.yaml"), options))
    assert keys[0] != keys[1]
