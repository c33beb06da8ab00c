"""Batch norm folded into the layer before it: one layer less, the same function."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from alexc.graph.graph import Graph
from alexc.lower.to_onnx import serialize, to_onnx
from alexc.ops.base import Padding
from alexc.ops.conv import Conv
from alexc.ops.dense import Linear
from alexc.ops.norm import BatchNorm
from alexc.ops.pointwise import Relu
from alexc.ops.structure import Flatten
from alexc.passes.fold_batch_norm import fold_batch_norm
from alexc.weights import store
from tests.cases import every_op, images_for, reference, weights_for


def net(bias: bool, affine: bool) -> Graph:
    pads = Padding(top=1, left=1, bottom=1, right=1)
    conv = Conv(out_channels=8, kernel_size=(3, 2), groups=2, padding=pads, bias=bias)
    layers: list[tuple[str, Any, tuple[str, ...]]] = [
        ("conv", conv, ("input",)),
        ("conv_norm", BatchNorm(eps=1e-3, affine=affine), ("conv",)),
        ("relu", Relu(), ("conv_norm",)),
        ("flatten", Flatten(), ("relu",)),
        ("fc", Linear(out_features=7, bias=bias), ("flatten",)),
        ("fc_norm", BatchNorm(affine=affine), ("fc",)),
    ]
    return Graph.build("net", (6, 5, 4), layers, ("fc_norm",))


def assert_close(result: NDArray[Any], expected: NDArray[Any]) -> None:
    """But for the one rounding of each weight: 16 units of float32 in the largest value."""
    scale = np.abs(expected).max()
    np.testing.assert_allclose(result, expected, rtol=0, atol=16 * 2**-24 * scale)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_the_folded_net_is_the_same_function(bias: bool, affine: bool, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    graph = net(bias, affine)
    weights, images = weights_for(graph), images_for(graph, 3)
    after, folded = fold_batch_norm(graph, weights)
    after.check()
    assert [node.name for node in after.nodes] == ["conv_norm", "relu", "flatten", "fc_norm"]
    assert {name: array.shape for name, array in folded.items()} == {
        name: parameter.shape for name, parameter in after.parameters.items()
    }
    assert all(array.dtype == np.float32 for array in folded.values())
    expected, values = reference(graph, weights, images), reference(after, folded, images)
    for name in after.by_name:
        assert_close(values[name], expected[name])
    extents = store.write(tmp_path / "weights.safetensors", folded)
    path = tmp_path / "model.onnx"
    path.write_bytes(serialize(to_onnx(after, extents)))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert_close(session.run(None, {"input": images})[0], expected["fc_norm"])


def kinds(graph: Graph) -> list[str]:
    return [node.op.kind for node in graph.nodes]


@pytest.mark.parametrize(
    "changes",
    [
        {"outputs": ("norm", "conv")},
        {"precisions": {"conv": "fp16"}},
        {"layers": [("relu", Relu(), ("conv",))], "outputs": ("norm", "relu")},
    ],
    ids=["output", "precision", "two readers"],
)
def test_what_stays(changes: Mapping[str, Any]) -> None:
    layers = [
        ("conv", Conv(out_channels=5, kernel_size=(3, 3)), ("input",)),
        ("norm", BatchNorm(), ("conv",)),
        *changes.get("layers", []),
    ]
    outputs = changes.get("outputs", ("norm",))
    graph = Graph.build("net", (3, 7, 6), layers, outputs, changes.get("precisions"))
    weights = weights_for(graph)
    after, folded = fold_batch_norm(graph, weights)
    assert after == graph
    assert folded.keys() == weights.keys()


def test_a_net_of_every_op() -> None:
    graph = every_op("fc")
    weights, images = weights_for(graph), images_for(graph, 2)
    after, folded = fold_batch_norm(graph, weights)
    assert "batch_norm" not in kinds(after)
    expected, values = reference(graph, weights, images), reference(after, folded, images)
    assert_close(values["fc"], expected["fc"])
