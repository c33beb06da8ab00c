"""The trainable side: gradients as the reference has them, training mode, training itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from alexc.graph.graph import INPUT, Graph
from alexc.lower.to_onnx import serialize, to_onnx
from alexc.lower.to_torch import to_torch, weights_of
from alexc.ops.base import Padding
from alexc.ops.conv import Conv
from alexc.ops.dense import Linear
from alexc.ops.norm import BatchNorm, Lrn
from alexc.ops.pointwise import Dropout, Relu, Tanh
from alexc.ops.pool import AvgPool, MaxPool
from alexc.ops.structure import Add, Concat, Flatten
from alexc.passes.inference import inference
from alexc.verify import verify
from alexc.weights import store

Weights = dict[str, NDArray[np.float32]]


def net() -> Graph:
    one = Padding(top=1, left=1, bottom=1, right=1)
    return Graph.build(
        "trainable",
        (3, 10, 9),
        [
            ("conv1", Conv(out_channels=8, kernel_size=(3, 3), padding=one), (INPUT,)),
            ("relu1", Relu(), ("conv1",)),
            ("norm1", Lrn(size=3, alpha=0.1, beta=0.75, k=1.0, alpha_per="window"), ("relu1",)),
            ("pool1", MaxPool(kernel_size=(2, 2)), ("norm1",)),
            ("left", Conv(out_channels=6, kernel_size=(3, 3), padding=one, groups=2), ("pool1",)),
            ("right", Conv(out_channels=6, kernel_size=(1, 1)), ("pool1",)),
            ("sum", Add(), ("left", "right")),
            ("join", Concat(), ("sum", "right")),
            ("norm2", BatchNorm(), ("join",)),
            ("pool2", AvgPool(kernel_size=(2, 2)), ("norm2",)),
            ("flat", Flatten(), ("pool2",)),
            ("fc1", Linear(out_features=16), ("flat",)),
            ("tanh", Tanh(), ("fc1",)),
            ("drop", Dropout(), ("tanh",)),
            ("fc2", Linear(out_features=5), ("drop",)),
        ],
        ("fc2",),
    )


def weights_for(graph: Graph) -> Weights:
    generator = np.random.default_rng(1)
    weights = {
        name: (0.4 * generator.standard_normal(p.shape)).astype(np.float32)
        for name, p in graph.parameters.items()
    }
    weights["norm2.running_var"] = np.abs(weights["norm2.running_var"]) + np.float32(0.5)
    return weights


def images(count: int) -> NDArray[np.float32]:
    return np.random.default_rng(2).standard_normal((count, 3, 10, 9), dtype=np.float32)


def reference_outputs(
    graph: Graph, weights: dict[str, NDArray[np.float64]], x: NDArray[np.float64]
) -> NDArray[np.float64]:
    values = {INPUT: x}
    for node in graph.nodes:
        own = {local: weights[whole] for local, whole in node.parameter_names().items()}
        values[node.name] = node.op.reference([values[s] for s in node.inputs], own)
    return values[graph.outputs[0]]


def test_gradients_are_those_of_the_reference() -> None:
    """Along random directions of the weights and the images, by central differences in float64."""
    graph = net()
    weights = {name: array.astype(np.float64) for name, array in weights_for(graph).items()}
    module = to_torch(graph, weights_for(graph)).double().eval()
    x = torch.tensor(images(3), dtype=torch.float64, requires_grad=True)
    generator = np.random.default_rng(3)
    direction_out = generator.standard_normal((3, 5))
    output = module(x)
    assert isinstance(output, torch.Tensor)
    torch.autograd.backward((output * torch.from_numpy(direction_out)).sum())
    assert x.grad is not None
    gradients = {name: p.grad for name, p in module.named_parameters()}

    def moved(by: float, weight: str, direction: NDArray[np.float64]) -> float:
        there = dict(weights)
        given = images(3).astype(np.float64)
        if weight == INPUT:
            given = given + by * direction
        else:
            there[weight] = there[weight] + by * direction
        return float((reference_outputs(graph, there, given) * direction_out).sum())

    step = 1e-6
    for name, gradient in (*gradients.items(), (INPUT, x.grad)):
        assert gradient is not None
        direction = generator.standard_normal(tuple(gradient.shape))
        expected = (moved(step, name, direction) - moved(-step, name, direction)) / (2 * step)
        found = float((gradient.numpy() * direction).sum())
        assert abs(found - expected) <= 1e-6 * (1 + abs(expected)), name


def test_training_mode_differs_only_where_it_should() -> None:
    graph = net()
    module = to_torch(graph, weights_for(graph))
    x = torch.from_numpy(images(4))
    with torch.no_grad():
        in_evaluation = module.eval().intermediates(x)
        in_training = module.train().intermediates(x)
    differ = {
        name for name in in_evaluation if not torch.equal(in_evaluation[name], in_training[name])
    }
    behind_norm = {"norm2", "pool2", "flat", "fc1", "tanh", "drop", "fc2"}
    assert differ == behind_norm
    # Batch norm and dropout differ on equal inputs; everything else only inherits.
    for name in behind_norm - {"norm2", "drop"}:
        node = graph.by_name[name]
        layer = module.get_submodule(name)
        given = [in_training[source] for source in node.inputs]
        with torch.no_grad():
            assert torch.equal(layer.train()(*given), layer.eval()(*given)), name


def test_what_was_trained_still_verifies(tmp_path: Path) -> None:
    graph = net()
    module = to_torch(graph, weights_for(graph)).train()
    optimiser = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    labels = torch.tensor([0, 1, 2, 3])
    for _ in range(6):
        optimiser.zero_grad()
        output = module(torch.from_numpy(images(4)))
        assert isinstance(output, torch.Tensor)
        torch.autograd.backward(torch.nn.functional.cross_entropy(output, labels))
        optimiser.step()
    weights = weights_of(module)
    assert not np.array_equal(weights["conv1.weight"], weights_for(graph)["conv1.weight"])
    assert not np.array_equal(
        weights["norm2.running_mean"], weights_for(graph)["norm2.running_mean"]
    )
    file = tmp_path / "weights.safetensors"
    store.write(file, weights)
    model = tmp_path / "model.onnx"
    model.write_bytes(serialize(to_onnx(inference(graph), store.extents(file))))
    report = verify(graph, weights, model, inputs=images(4), isolate=False)
    assert report.passed, report.first_divergence
