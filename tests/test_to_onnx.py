"""The ONNX model: what it says, and what ONNX Runtime and OpenVINO compute from it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from alexc.diagnostics import AlexcError
from alexc.graph.graph import Graph
from alexc.lower.to_onnx import LOWERINGS, serialize, to_onnx
from alexc.ops import GRAPH_OPS, OPS
from alexc.ops.dense import Linear
from alexc.ops.norm import Lrn
from alexc.ops.pointwise import Dropout, Relu
from alexc.ops.structure import Flatten
from alexc.passes.inference import inference
from alexc.weights import store
from alexc.weights.store import Extent
from tests.cases import CASES, LAYER, Case, every_op, images_for, reference, weights_for

ort = pytest.importorskip("onnxruntime")


def save(graph: Graph, folder: Path) -> Path:
    """The model of a graph with its weights beside it, in files as a bundle has them."""
    extents = store.write(folder / "weights.safetensors", weights_for(graph))
    path = folder / "model.onnx"
    path.write_bytes(serialize(to_onnx(graph, extents)))
    return path


def run(path: Path, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """All outputs by name, from ONNX Runtime."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"input": images}), strict=True))


def pretended_extents(graph: Graph) -> dict[str, Extent]:
    """Places in a weights file that nobody writes."""
    extents = {}
    end = 64
    for name, parameter in graph.parameters.items():
        length = 4 * parameter.count
        extents[name] = Extent(end, length, "F32", parameter.shape, "w.safetensors")
        end += length
    return extents


def assert_close(
    results: Mapping[str, NDArray[np.float32]], expected: Mapping[str, NDArray[Any]]
) -> None:
    """Equal but for rounding: 16 units of float32 in a tensor's largest value.

    Sums here have at most some hundred terms. What a fault does is a thousand times larger.
    """
    for name, result in results.items():
        assert result.shape == expected[name].shape, name
        scale = np.abs(expected[name]).max()
        np.testing.assert_allclose(
            result, expected[name], rtol=0, atol=16 * 2**-24 * scale, err_msg=name
        )


# ---- every op ------------------------------------------------------------------------------------


def test_every_op_has_a_row() -> None:
    assert set(LOWERINGS) == set(GRAPH_OPS.values())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_onnx_runtime_agrees_with_the_reference(case: Case, tmp_path: Path) -> None:
    graph = case.graph()
    path = save(graph, tmp_path)
    onnx.checker.check_model(str(path), full_check=True)
    for batch in (case.batch, 1):
        images = images_for(graph, batch)
        expected = reference(graph, weights_for(graph), images)
        assert_close(run(path, images), {LAYER: expected[LAYER]})


@pytest.mark.parametrize("case", CASES, ids=str)
def test_onnx_infers_the_same_shapes(case: Case) -> None:
    """Every named tensor's shape, without any hint of ours but the input's."""
    graph = case.graph()
    model = to_onnx(graph, pretended_extents(graph))
    stated = shapes_of(model)
    del model.graph.value_info[:]
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(
        model, check_type=True, strict_mode=True, data_prop=True
    )
    assert shapes_of(inferred) == stated
    for name, shape in graph.shapes.items():
        assert stated[name] == ["batch", *shape]


def shapes_of(model: onnx.ModelProto) -> dict[str, list[str | int]]:
    values = [*model.graph.input, *model.graph.value_info, *model.graph.output]
    return {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in values
    }


def test_openvino_agrees_with_the_reference(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    for case in CASES:
        graph = case.graph()
        images = images_for(graph, case.batch)
        model = core.compile_model(
            save(graph, tmp_path),
            "CPU",
            {"INFERENCE_PRECISION_HINT": "f32", "CPU_DENORMALS_OPTIMIZATION": False},
        )
        expected = reference(graph, weights_for(graph), images)
        assert_close({LAYER: model(images)[LAYER]}, expected)


# ---- whole nets ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Graph, Path]:
    """A net of every op, every tensor of which is an output."""
    names = [node.name for node in every_op().nodes]
    graph = inference(every_op(*names))
    return graph, save(graph, tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_every_named_tensor_at_any_batch(whole: tuple[Graph, Path], batch: int) -> None:
    graph, path = whole
    images = images_for(graph, batch)
    results = run(path, images)
    assert list(results) == [node.name for node in graph.nodes]
    assert_close(results, reference(graph, weights_for(graph), images))


def test_nodes_carry_the_names_of_the_layers(whole: tuple[Graph, Path]) -> None:
    graph, path = whole
    model = onnx.load(path, load_external_data=False)
    for node in graph.nodes:
        (made,) = [n for n in model.graph.node if node.name in n.output]
        assert made.name == node.name
    for made in model.graph.node:
        assert list(made.output) == [made.name]
        assert made.name.split(".")[0] in graph.by_name


def test_the_steps_of_lrn_within_a_channel_are_named(whole: tuple[Graph, Path]) -> None:
    model = onnx.load(whole[1], load_external_data=False)
    steps = {n.name: n.op_type for n in model.graph.node if n.name.split(".")[0] == "within"}
    assert steps == {
        "within.square": "Mul",
        "within.mean": "AveragePool",
        "within.scaled": "Mul",
        "within.base": "Add",
        "within.power": "Pow",
        "within": "Div",
    }


def test_rounding_modes_are_not_used(whole: tuple[Graph, Path]) -> None:
    model = onnx.load(whole[1], load_external_data=False)
    attributes = {a.name for node in model.graph.node for a in node.attribute}
    assert not attributes & {"ceil_mode", "auto_pad", "training_mode"}


@pytest.mark.parametrize(
    ("alpha_per", "k", "expected"),
    [
        ("element", 2, {"LRN": {"size": 5, "alpha": 5e-4, "beta": 0.75, "bias": 2}}),
        ("window", 1, {"LRN": {"size": 5, "alpha": 1e-4, "beta": 0.75, "bias": 1}}),
        # k is taken out of the bracket: OpenVINO would cut 2.5 down to 2
        ("element", 2.5, {"LRN": {"size": 5, "alpha": 2e-4, "beta": 0.75, "bias": 1}, "Mul": {}}),
    ],
)
def test_lrn_is_one_native_node(
    alpha_per: str, k: float, expected: dict[str, dict[str, float]]
) -> None:
    op = OPS["lrn"].model_validate(
        {"size": 5, "alpha": 1e-4, "beta": 0.75, "k": k, "alpha_per": alpha_per}
    )
    assert isinstance(op, Lrn)
    graph = Graph.build("net", (8, 4, 3), [("norm", op, ("input",))], ("norm",))
    nodes = to_onnx(graph, {}).graph.node
    assert [node.op_type for node in nodes] == list(expected)
    for node in nodes:
        values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        assert values == pytest.approx(expected[node.op_type], rel=1e-7)


def test_alexnet_is_small(alexnet: Graph) -> None:
    graph = inference(alexnet)
    model = to_onnx(graph, pretended_extents(graph))
    assert len(model.graph.node) == 21
    assert sum(node.op_type == "LRN" for node in model.graph.node) == 2
    assert len(serialize(model)) < 8_000


@pytest.fixture
def alexnet() -> Graph:
    lrn = {"size": 5, "alpha": 1e-4, "beta": 0.75, "k": 2, "alpha_per": "element"}
    pool = {"kernel_size": 3, "stride": 2}
    fields: dict[str, tuple[str, dict[str, Any]]] = {
        "conv1": ("conv", {"out_channels": 96, "kernel_size": 11, "stride": 4}),
        "relu1": ("relu", {}),
        "norm1": ("lrn", lrn),
        "pool1": ("max_pool", pool),
        "conv2": ("conv", {"out_channels": 256, "kernel_size": 5, "padding": 2, "groups": 2}),
        "relu2": ("relu", {}),
        "norm2": ("lrn", lrn),
        "pool2": ("max_pool", pool),
        "conv3": ("conv", {"out_channels": 384, "kernel_size": 3, "padding": 1}),
        "relu3": ("relu", {}),
        "conv4": ("conv", {"out_channels": 384, "kernel_size": 3, "padding": 1, "groups": 2}),
        "relu4": ("relu", {}),
        "conv5": ("conv", {"out_channels": 256, "kernel_size": 3, "padding": 1, "groups": 2}),
        "relu5": ("relu", {}),
        "pool5": ("max_pool", pool),
        "flatten": ("flatten", {}),
        "fc6": ("linear", {"out_features": 4096}),
        "relu6": ("relu", {}),
        "drop6": ("dropout", {}),
        "fc7": ("linear", {"out_features": 4096}),
        "relu7": ("relu", {}),
        "drop7": ("dropout", {}),
        "fc8": ("linear", {"out_features": 1000}),
    }
    layers = []
    source = "input"
    for name, (kind, values) in fields.items():
        layers.append((name, OPS[kind].model_validate(values), (source,)))
        source = name
    return Graph.build("alexnet", (3, 227, 227), layers, ("fc8",))


# ---- the file ------------------------------------------------------------------------------------


def test_versions(whole: tuple[Graph, Path]) -> None:
    from alexc import __version__

    model = onnx.load(whole[1], load_external_data=False)
    assert model.ir_version == 9
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 19)]
    assert (model.producer_name, model.producer_version) == ("alexc", __version__)
    assert model.graph.name == "every-op"


def test_weights_stay_in_their_file(whole: tuple[Graph, Path]) -> None:
    graph, path = whole
    model = onnx.load(path, load_external_data=False)
    extents = store.extents(path.with_name("weights.safetensors"))
    outside = {
        tensor.name: {entry.key: entry.value for entry in tensor.external_data}
        for tensor in model.graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    }
    assert outside == {
        name: {
            "location": "weights.safetensors",
            "offset": str(extents[name].offset),
            "length": str(extents[name].length),
        }
        for name in graph.parameters
    }
    onnx.load_external_data_for_model(model, str(path.parent))
    tensors = {
        tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer
    }
    for name, array in weights_for(graph).items():
        np.testing.assert_array_equal(tensors[name], array)


def test_weights_may_lie_in_several_files(tmp_path: Path) -> None:
    """A form of a model that has some weights of its own shares the others."""
    graph = every_op()
    weights = weights_for(graph)
    own = dict(list(weights.items())[::2])
    extents = store.write(tmp_path / "weights.safetensors", weights)
    extents |= store.write(tmp_path / "own.safetensors", {n: w * 2 for n, w in own.items()})
    path = tmp_path / "model.onnx"
    path.write_bytes(serialize(to_onnx(inference(graph), extents)))
    for tensor in onnx.load(path).graph.initializer:
        if tensor.name in weights:
            expected = weights[tensor.name] * (2 if tensor.name in own else 1)
            np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor), expected)


def test_the_same_graph_gives_the_same_bytes() -> None:
    graph = inference(every_op())
    extents = pretended_extents(graph)
    digests = {hashlib.sha256(serialize(to_onnx(graph, extents))).hexdigest() for _ in range(3)}
    assert len(digests) == 1


def test_an_output_that_is_a_dropout_is_passed_on(tmp_path: Path) -> None:
    graph = Graph.build(
        "net",
        (3, 5, 4),
        [
            ("relu", Relu(), ("input",)),
            ("drop", Dropout(), ("relu",)),
            ("flat", Flatten(), ("drop",)),
        ],
        ("drop", "flat"),
    )
    images = images_for(graph, 2)
    assert_close(run(save(inference(graph), tmp_path), images), reference(graph, {}, images))


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (None, "weights/missing", "fc.weight is in no weights file"),
        (
            Extent(64, 42, "F16", (3, 7), "w.safetensors"),
            "weights/dtype",
            "fc.weight is stored as F16 in w.safetensors; the model reads float32 from it",
        ),
        (
            Extent(64, 84, "F32", (7, 3), "w.safetensors"),
            "weights/shape",
            "fc.weight is 7×3 in w.safetensors and 3×7 in the spec",
        ),
    ],
)
def test_weights_that_do_not_fit(change: Extent | None, code: str, message: str) -> None:
    graph = Graph.build("net", (7,), [("fc", Linear(out_features=3), ("input",))], ("fc",))
    extents = pretended_extents(graph)
    del extents["fc.weight"]
    if change is not None:
        extents["fc.weight"] = change
    with pytest.raises(AlexcError) as caught:
        to_onnx(graph, extents)
    assert [(d.code, d.message) for d in caught.value.diagnostics] == [(code, message)]
