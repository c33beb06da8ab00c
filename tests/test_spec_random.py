"""Random legal specs: the language, the shape rules and every backend agree on them.

The nets are those of `tests.random_graphs`, here written as specs in random ways.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from alexc.frontend import load_net
from alexc.graph.graph import INPUT, Graph
from alexc.lower.to_onnx import serialize, to_onnx
from alexc.lower.to_torch import to_torch
from alexc.passes.inference import inference
from alexc.spec.write import to_flow, to_yaml
from alexc.verify.reference import evaluate
from alexc.weights import store
from tests.random_graphs import random_graph, random_weights
from tests.small_specs import Project, project

__all__ = ["project"]


def as_spec(graph: Graph, generator: np.random.Generator) -> dict[str, Any]:
    """The graph as an author might write it: what is a default is left out or not, at random."""
    channels, height, width = graph.input_shape
    layers: dict[str, Any] = {}
    before = INPUT
    for node in graph.nodes:
        tidy = bool(generator.random() < 0.7)
        fields = node.op.model_dump(mode="json", exclude_defaults=tidy)
        fields = {
            name: _short(value, generator) for name, value in fields.items() if value is not None
        }
        if node.inputs != (before,) or generator.random() < 0.2:
            fields["inputs"] = list(node.inputs) if len(node.inputs) > 1 else node.inputs[0]
        layers[node.name] = {"op": node.op.kind, **fields} if fields else node.op.kind
        before = node.name
    spec: dict[str, Any] = {
        "alexc": 1,
        "name": "random",
        "input": {"channels": channels, "height": height, "width": width},
        "layers": layers,
        "outputs": list(graph.outputs),
    }
    if generator.random() < 0.5:
        spec["expect"] = {
            "parameters": graph.parameter_count,
            "macs": graph.macs,
            "shapes": {node.name: list(node.shape) for node in graph.nodes},
        }
    return spec


def _short(value: Any, generator: np.random.Generator) -> Any:
    """One number for a pair of the same, often."""
    if isinstance(value, list) and len(set(value)) == 1 and generator.random() < 0.7:
        return value[0]
    return value


def as_text(spec: dict[str, Any], generator: np.random.Generator) -> str:
    """The spec in block style, all on one line, or with comments and Windows line ends."""
    style = generator.integers(0, 3)
    if style == 0:
        return to_flow(spec)
    text = to_yaml(spec)
    if style == 1:
        lines = text.splitlines()
        for at in generator.integers(0, len(lines), 3):
            lines[at] += "   # 注释: [{"
        text = "\r\n".join(lines)
    return text


@pytest.mark.parametrize("seed", range(60))
def test_a_random_spec_is_the_graph_that_it_says(seed: int, project: Project) -> None:
    generator = np.random.default_rng([2012, seed])
    graph = random_graph(generator)
    spec = as_spec(graph, generator)
    Path("spec.yaml").write_bytes(as_text(spec, generator).encode())
    net = load_net(Path("spec.yaml"))
    assert net.graph.layers() == graph.layers()
    assert net.graph.shapes == graph.shapes
    assert (net.graph.parameter_count, net.graph.macs) == (graph.parameter_count, graph.macs)
    resolved = net.spec.to_json()
    again = project.load(to_yaml(resolved), "again.yaml")
    assert again.spec.to_json() == resolved
    assert again.graph.digest() == net.graph.digest()


@pytest.mark.parametrize("seed", range(12))
def test_all_backends_agree_on_a_random_spec(seed: int, project: Project) -> None:
    """Shapes by the rules, values by the reference in float64, by PyTorch and by ONNX Runtime."""
    generator = np.random.default_rng([1998, seed])
    graph = random_graph(generator, layers=6)
    net = project.load(as_text(as_spec(graph, generator), generator)).graph
    weights = random_weights(generator, net)
    images = generator.normal(size=(3, *net.input_shape)).astype(np.float32)
    expected = evaluate(net, weights, images)
    shapes = {name: expected[name].shape for name in net.shapes}
    assert shapes == {name: (3, *shape) for name, shape in net.shapes.items()}
    with torch.no_grad():
        by_torch = to_torch(net, weights).eval().intermediates(torch.from_numpy(images))
    store.write(Path("weights.safetensors"), weights)
    model = to_onnx(inference(net), store.extents(Path("weights.safetensors")))
    Path("model.onnx").write_bytes(serialize(model))
    session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
    by_onnx = dict(zip(net.outputs, session.run(list(net.outputs), {INPUT: images}), strict=True))
    for name in net.outputs:
        scale = max(1e-6, float(np.abs(expected[name]).max()))
        for found in (by_torch[name].numpy(), by_onnx[name]):
            assert found.shape == expected[name].shape
            np.testing.assert_allclose(found / scale, expected[name] / scale, rtol=0, atol=1e-4)
