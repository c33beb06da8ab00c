"""The forms of local response normalisation: other nodes, the same function in every engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from alexc.engines.forms import fastest_form
from alexc.graph.graph import Graph, LrnForm
from alexc.lower.to_onnx import serialize, to_onnx
from alexc.ops.norm import Lrn
from alexc.ops.pointwise import Relu
from alexc.passes.inference import inference
from alexc.passes.lrn_form import lrn_form
from alexc.weights import store
from tests.cases import every_op, images_for, reference, weights_for

FORMS: tuple[LrnForm, ...] = ("banded", "windowed")


def net(size: int, beta: float, alpha_per: str, channels: int = 7) -> Graph:
    lrn = Lrn.model_validate(
        {"size": size, "alpha": 0.3, "beta": beta, "k": 1.7, "alpha_per": alpha_per}
    )
    layers = [("relu", Relu(), ("input",)), ("norm", lrn, ("relu",))]
    return Graph.build("net", (channels, 5, 4), layers, ("norm",))


def save(graph: Graph, folder: Path) -> Path:
    extents = store.write(folder / "weights.safetensors", weights_for(graph))
    path = folder / "model.onnx"
    path.write_bytes(serialize(to_onnx(graph, extents)))
    return path


def assert_is_the_reference(graph: Graph, path: Path) -> None:
    """In ONNX Runtime and OpenVINO, but for 16 units of float32 in a tensor's largest value."""
    onnxruntime = pytest.importorskip("onnxruntime")
    onnx.checker.check_model(str(path), full_check=True)
    images = images_for(graph, 3)
    expected = reference(graph, weights_for(graph), images)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    computed = session.run(list(graph.outputs), {"input": images})
    results = dict(zip(graph.outputs, computed, strict=True))
    for name, result in results.items():
        scale = np.abs(expected[name]).max()
        np.testing.assert_allclose(result, expected[name], rtol=0, atol=16 * 2**-24 * scale)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("alpha_per", ["element", "window"])
@pytest.mark.parametrize(
    ("size", "beta"), [(5, 0.75), (3, 0.5), (7, 1.0), (5, 0.6), (1, 0.75), (11, 0.75), (15, 2.0)]
)
def test_a_form_is_the_same_function(
    form: LrnForm, alpha_per: str, size: int, beta: float, tmp_path: Path
) -> None:
    graph = lrn_form(net(size, beta, alpha_per), form)
    assert_is_the_reference(graph, save(graph, tmp_path))


@pytest.mark.parametrize("form", FORMS)
def test_a_form_among_all_ops_and_in_every_engine(form: LrnForm, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    graph = lrn_form(inference(every_op("fc")), form)
    path = save(graph, tmp_path)
    assert_is_the_reference(graph, path)
    settings = {"INFERENCE_PRECISION_HINT": "f32", "CPU_DENORMALS_OPTIMIZATION": False}
    images = images_for(graph, 3)
    result = openvino.Core().compile_model(str(path), "CPU", settings)(images)["fc"]
    expected = reference(graph, weights_for(graph), images)["fc"]
    np.testing.assert_allclose(result, expected, rtol=0, atol=2**-20 * np.abs(expected).max())


def node_types(graph: Graph) -> dict[str, str]:
    model = to_onnx(graph, {})
    return {node.name: node.op_type for node in model.graph.node}


def test_what_the_forms_are_made_of() -> None:
    banded = {
        "relu": "Relu",
        "norm.square": "Mul",
        "norm.base": "Conv",
        "norm.root": "Sqrt",
        "norm.fourth_root": "Sqrt",
        "norm.power": "Mul",
        "norm": "Div",
    }
    assert node_types(lrn_form(net(5, 0.75, "element"), "banded")) == banded
    assert "Pow" in node_types(lrn_form(net(5, 0.6, "element"), "banded")).values()
    windowed = node_types(lrn_form(net(5, 0.75, "element"), "windowed"))
    assert windowed["norm.mean"] == "AveragePool"
    assert "LRN" in node_types(net(5, 0.75, "element")).values()


def test_only_normalisations_over_channels_have_forms() -> None:
    graph = every_op("fc")
    changed = lrn_form(graph, "banded")
    assert changed.forms == {"across": "banded"}
    assert lrn_form(graph, "banded", layers=["within"]).forms == {}
    with pytest.raises(ValueError, match="within is no normalisation over channels"):
        replace(graph, forms={"within": "banded"}).check()


def test_a_form_counts_in_the_digest() -> None:
    graph = every_op("fc")
    digests = {graph.digest(), *(lrn_form(graph, form).digest() for form in FORMS)}
    assert len(digests) == 3


def test_only_onnx_runtime_has_a_form_of_its_own_and_only_for_lrn() -> None:
    graph = inference(every_op("fc"))
    assert fastest_form("onnxruntime", graph) == lrn_form(graph, "banded")
    assert fastest_form("openvino", graph) is None
    plain = Graph.build("net", (3, 5, 4), [("relu", Relu(), ("input",))], ("relu",))
    assert fastest_form("onnxruntime", plain) is None
