"""The PyTorch module: values and gradients of every op, and that it behaves as any module does."""

from __future__ import annotations

import copy
import io
import math
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from alexc.diagnostics import AlexcError
from alexc.graph.graph import Graph
from alexc.lower.to_torch import LOWERINGS, TorchNet, to_torch, weights_of
from alexc.ops import OPS
from alexc.ops.norm import BatchNorm
from alexc.ops.pointwise import Dropout, Relu
from alexc.ops.structure import Flatten
from tests.cases import CASES, LAYER, Case, every_op, images_for, reference, weights_for


@pytest.fixture(autouse=True)
def seed() -> Iterator[None]:
    """Dropout draws from PyTorch's own generator, which other tests must not see changed."""
    with torch.random.fork_rng():
        torch.manual_seed(2012)
        yield


def single(result: Tensor | dict[str, Tensor]) -> Tensor:
    assert isinstance(result, Tensor)
    return result


def run(net: TorchNet, images: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Tensor:
    dtype = next((p.dtype for p in net.parameters()), torch.float64)
    return single(net(torch.tensor(images, dtype=dtype)))


# ---- every op ------------------------------------------------------------------------------------


def test_every_op_has_a_row() -> None:
    assert set(LOWERINGS) == set(OPS.values())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_in_float64(case: Case) -> None:
    graph = case.graph()
    weights, images = weights_for(graph), images_for(graph, case.batch)
    net = to_torch(graph, weights).double().eval()
    result = single(net(torch.tensor(images, dtype=torch.float64))).detach().numpy()
    expected = reference(graph, weights, images)[LAYER]
    np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients(case: Case) -> None:
    """Derivatives by the images and every trainable parameter, against finite differences."""
    graph = case.graph()
    net = to_torch(graph, weights_for(graph)).double().eval()
    images = torch.tensor(images_for(graph, case.batch), dtype=torch.float64, requires_grad=True)
    names = [name for name, parameter in graph.parameters.items() if parameter.trainable]

    def function(images: Tensor, *values: Tensor) -> Tensor:
        parameters = dict(zip(names, values, strict=True))
        return single(torch.func.functional_call(net, parameters, (images,)))

    values = [net.get_parameter(name) for name in names]
    assert torch.autograd.gradcheck(function, (images, *values), fast_mode=True)


def test_gradients_of_a_whole_net() -> None:
    graph = every_op()
    net = to_torch(graph, weights_for(graph)).double().eval()
    images = torch.tensor(images_for(graph, 2), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(net, (images,), fast_mode=True)


# ---- one name everywhere -------------------------------------------------------------------------


def test_layers_are_submodules_by_name() -> None:
    graph = every_op()
    net = to_torch(graph, weights_for(graph))
    assert [name for name, _ in net.named_children()] == [node.name for node in graph.nodes]
    assert isinstance(net.get_submodule("stem/conv"), nn.Conv2d)
    trainable = [name for name, parameter in graph.parameters.items() if parameter.trainable]
    assert [name for name, _ in net.named_parameters()] == trainable
    state = [name for name in net.state_dict() if not name.endswith("num_batches_tracked")]
    assert state == list(graph.parameters)


@pytest.mark.parametrize("name", sorted({*dir(nn.Module()), "graph", "intermediates"}))
def test_names_of_a_module_itself_are_refused(name: str) -> None:
    graph = Graph.build("net", (3, 5, 4), [(name, Relu(), ("input",))], (name,))
    with pytest.raises(AlexcError) as caught:
        to_torch(graph)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "lower/layer-name"
    assert name in diagnostic.message


# ---- weights go in and come back -----------------------------------------------------------------


def test_weights_come_back_as_they_went_in() -> None:
    graph = every_op()
    weights = weights_for(graph)
    back = weights_of(to_torch(graph, weights))
    assert list(back) == list(graph.parameters)
    for name, array in weights.items():
        assert back[name].dtype == np.float32
        np.testing.assert_array_equal(back[name], array)


def test_weights_are_copied_both_ways() -> None:
    graph = every_op()
    weights = weights_for(graph)
    before = copy.deepcopy(weights)
    net = to_torch(graph, weights)
    back = weights_of(net)
    with torch.no_grad():
        for tensor in net.state_dict().values():
            tensor.add_(1)
    for name, array in before.items():
        np.testing.assert_array_equal(weights[name], array)
        np.testing.assert_array_equal(back[name], array)


def test_weights_of_a_trained_net_give_the_same_net() -> None:
    graph = every_op()
    net = to_torch(graph, weights_for(graph))
    images = torch.tensor(images_for(graph, 4))
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    for _ in range(3):
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(single(net(images)), torch.tensor([1, 5, 7, 10]))
        torch.autograd.backward(loss)
        optimiser.step()
    weights = weights_of(net)
    for name, array in weights_for(graph).items():
        assert not np.array_equal(weights[name], array), f"{name} was not trained"
    net.eval()
    again = to_torch(graph, weights).eval()
    assert torch.equal(single(net(images)), single(again(images)))
    expected = reference(graph, weights, images.numpy())["fc"]
    np.testing.assert_allclose(single(net(images)).detach().numpy(), expected, atol=1e-5)


def test_without_weights_all_are_zero_and_a_state_can_be_loaded() -> None:
    graph = every_op()
    empty = to_torch(graph)
    assert all(not tensor.any() for tensor in empty.state_dict().values())
    full = to_torch(graph, weights_for(graph))
    empty.load_state_dict(full.state_dict())
    images = torch.tensor(images_for(graph, 2))
    assert torch.equal(single(empty.eval()(images)), single(full.eval()(images)))


def test_every_fault_of_the_weights_is_told() -> None:
    graph = every_op()
    weights = weights_for(graph)
    del weights["fc.bias"]
    weights["fc.weight"] = weights["fc.weight"].T
    weights["fc.scale"] = np.ones(11, np.float32)
    with pytest.raises(AlexcError) as caught:
        to_torch(graph, weights)
    assert [(d.code, d.message) for d in caught.value.diagnostics] == [
        ("weights/missing", "fc.bias is not among the weights given"),
        ("weights/shape", "fc.weight is 72×11 and every-op needs 11×72"),
        ("weights/extra", "fc.scale is no weight of every-op"),
    ]


# ---- running -------------------------------------------------------------------------------------


def test_every_named_tensor() -> None:
    graph = every_op()
    weights, images = weights_for(graph), images_for(graph, 4)
    net = to_torch(graph, weights).double().eval()
    tensors = net.intermediates(torch.tensor(images, dtype=torch.float64))
    assert list(tensors) == [node.name for node in graph.nodes]
    for name, expected in reference(graph, weights, images).items():
        if name != "input":
            result = tensors[name].detach().numpy()
            np.testing.assert_allclose(result, expected, rtol=1e-11, atol=1e-13, err_msg=name)


def test_one_output_is_a_tensor_and_several_are_named() -> None:
    weights, images = weights_for(every_op()), torch.tensor(images_for(every_op(), 2))
    one = to_torch(every_op(), weights).eval()(images)
    several = to_torch(every_op("fc", "joined", "整流"), weights).eval()(images)
    assert isinstance(one, Tensor)
    assert isinstance(several, dict)
    assert list(several) == ["fc", "joined", "整流"]
    assert torch.equal(several["fc"], one)


def test_what_is_read_no_more_is_let_go() -> None:
    """Without gradients, a chain needs memory for two of its tensors at a time, not for all."""
    layers = [(f"relu{i}", Relu(), (f"relu{i - 1}" if i else "input",)) for i in range(6)]
    net = to_torch(Graph.build("chain", (3, 5, 4), layers, ("relu5",)))
    made: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    def count(*_: Any) -> None:
        alive.append(sum(reference() is not None for reference in made))

    def remember(_layer: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        made.append(weakref.ref(output))

    for layer in net.children():
        layer.register_forward_pre_hook(count)
        layer.register_forward_hook(remember)
    with torch.no_grad():
        net(torch.zeros(2, 3, 5, 4))
    assert alive == [0, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("shape", "message", "help"),
    [
        ((2, 3, 17, 21), "every-op takes batch×3×21×17 and gets 2×3×17×21", None),
        ((2, 21, 17, 3), "every-op takes batch×3×21×17 and gets 2×21×17×3", None),
        (
            (3, 21, 17),
            "every-op takes batch×3×21×17 and gets 3×21×17",
            "one image needs a batch axis too: image.unsqueeze(0)",
        ),
        ((), "every-op takes batch×3×21×17 and gets scalar", None),
    ],
)
def test_images_of_another_shape(shape: tuple[int, ...], message: str, help: str | None) -> None:
    net = to_torch(every_op())
    for function in (net, net.intermediates):
        with pytest.raises(AlexcError) as caught:
            function(torch.zeros(shape))
        (diagnostic,) = caught.value.diagnostics
        assert (diagnostic.code, diagnostic.message) == ("input/shape", message)
        assert diagnostic.help == help


def test_no_images() -> None:
    assert single(to_torch(every_op()).eval()(torch.zeros(0, 3, 21, 17))).shape == (0, 11)


# ---- training and inference ----------------------------------------------------------------------


def test_dropout_acts_in_training_alone() -> None:
    graph = Graph.build("net", (2, 50, 100), [("drop", Dropout(p=0.25), ("input",))], ("drop",))
    net = to_torch(graph)
    ones = torch.ones(1, 2, 50, 100)
    assert net.training
    result = single(net(ones))
    assert set(result.ravel().tolist()) == {0, torch.tensor(1 / 0.75).item()}
    # A share of 10,000 draws has standard deviation √(p·(1 − p) / 10,000): 5 of them is enough.
    tolerance = 5 * math.sqrt(0.25 * 0.75 / 10_000)
    assert (result == 0).float().mean().item() == pytest.approx(0.25, abs=tolerance)
    assert torch.equal(single(net.eval()(ones)), ones)


@pytest.mark.parametrize("shape", [(5, 4, 3), (7,)])
def test_batch_norm_in_training(shape: tuple[int, ...]) -> None:
    """It uses the batch's statistics, and moves the running ones by `momentum` towards them."""
    graph = Graph.build("net", shape, [("bn", BatchNorm(momentum=0.3), ("input",))], ("bn",))
    weights, images = weights_for(graph), images_for(graph, 6).astype(np.float64)
    net = to_torch(graph, weights).double()
    result = single(net(torch.tensor(images))).detach().numpy()
    axes = (0, *range(2, images.ndim))
    per_channel = (shape[0], *[1] * (len(shape) - 1))
    mean, variance = images.mean(axes), images.var(axes)
    scale, shift = weights["bn.weight"], weights["bn.bias"]
    expected = (images - mean.reshape(per_channel)) / np.sqrt(
        variance.reshape(per_channel) + 1e-5
    ) * scale.reshape(per_channel) + shift.reshape(per_channel)
    np.testing.assert_allclose(result, expected, rtol=1e-10, atol=1e-12)
    moved = weights_of(net)
    unbiased = images.var(axes, ddof=1)
    expected_mean = 0.7 * weights["bn.running_mean"] + 0.3 * mean
    expected_variance = 0.7 * weights["bn.running_var"] + 0.3 * unbiased
    np.testing.assert_allclose(moved["bn.running_mean"], expected_mean, rtol=1e-6)
    np.testing.assert_allclose(moved["bn.running_var"], expected_variance, rtol=1e-6)


# ---- an ordinary module --------------------------------------------------------------------------


@pytest.fixture
def trained() -> tuple[TorchNet, Tensor]:
    graph = every_op()
    return to_torch(graph, weights_for(graph)).eval(), torch.tensor(images_for(graph, 4))


def test_a_deep_copy_is_independent(trained: tuple[TorchNet, Tensor]) -> None:
    net, images = trained
    before = single(net(images))
    other = copy.deepcopy(net)
    assert torch.equal(single(other(images)), before)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert torch.equal(single(net(images)), before)


def test_state_is_saved_and_loaded(trained: tuple[TorchNet, Tensor]) -> None:
    net, images = trained
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    other = to_torch(net.graph).eval()
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(single(other(images)), single(net(images)))


def test_it_compiles_as_one_graph(trained: tuple[TorchNet, Tensor]) -> None:
    net, images = trained
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(images), net(images))
    torch.testing.assert_close(compiled(images[:3]), net(images[:3]))


@pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning")
def test_it_exports_with_any_batch(trained: tuple[TorchNet, Tensor]) -> None:
    net, images = trained
    batch = torch.export.Dim("batch")
    exported = torch.export.export(net, (images,), dynamic_shapes=({0: batch},))
    assert set(exported.state_dict) == set(net.state_dict())
    for count in (1, 2, 4):
        torch.testing.assert_close(exported.module()(images[:count]), net(images[:count]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_it_runs_in_narrow_types(trained: tuple[TorchNet, Tensor], dtype: torch.dtype) -> None:
    net, images = trained
    narrow = copy.deepcopy(net).to(dtype)
    result = single(narrow(images.to(dtype)))
    assert result.dtype == dtype
    torch.testing.assert_close(result.float(), single(net(images)), rtol=0.05, atol=0.05)
    assert weights_of(narrow)["fc.weight"].dtype == np.float32


@pytest.mark.parametrize("region", ["across_channels", "within_channel"])
def test_squares_do_not_overflow_in_float16(region: str) -> None:
    """300² is infinite in float16, and 300 / ∞ would be a silent zero."""
    fields = {"size": 3, "alpha": 1e-4, "beta": 0.75, "k": 2.0, "alpha_per": "element"}
    op = OPS["lrn"].model_validate(fields | {"region": region})
    graph = Graph.build("net", (5, 4, 3), [("norm", op, ("input",))], ("norm",))
    images = np.full((2, 5, 4, 3), 300, np.float32)
    result = single(to_torch(graph).half()(torch.tensor(images).half()))
    expected = reference(graph, {}, images)["norm"]
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-3)


def test_flatten_keeps_the_order_of_channels() -> None:
    graph = Graph.build("net", (3, 5, 4), [("flat", Flatten(), ("input",))], ("flat",))
    images = torch.arange(120.0).reshape(2, 3, 5, 4)
    # Memory in another order, as the GPU likes it, must not change the order of the features.
    result = single(to_torch(graph)(images.to(memory_format=torch.channels_last)))
    assert result[1].tolist() == list(range(60, 120))
