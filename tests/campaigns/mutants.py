"""Plants faults in what the lowerings made, and sees whether verification catches each of them.

    python -m tests.campaigns.mutants            all of them, a line for each that is missed
    python -m tests.campaigns.mutants --list     what is planted, and where

A mutant counts as caught only if the report names the layer in which it was planted as the first
that diverges, and says rightly whether the layer or its wiring is at fault. `EQUIVALENT` holds
changes that do not change the function, each with the proof: those must pass. Exit status 1 if a
fault is missed or misplaced, or an equivalent change is called a fault.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from alexc.graph.graph import INPUT, Graph
from alexc.lower import to_torch as torch_lowering
from alexc.lower.to_onnx import serialize, to_onnx
from alexc.lower.to_torch import TorchNet
from alexc.ops.base import Op, Padding
from alexc.ops.conv import Conv
from alexc.ops.dense import Linear
from alexc.ops.norm import BatchNorm, Lrn
from alexc.ops.pointwise import Dropout, Relu, Sigmoid, Softmax, Tanh
from alexc.ops.pool import AdaptiveAvgPool, AvgPool, MaxPool
from alexc.ops.structure import Add, Concat, Flatten
from alexc.passes.inference import inference
from alexc.verify import Report, verify
from alexc.weights import store

Weights = dict[str, NDArray[np.float32]]
Layers = list[tuple[str, Op, tuple[str, ...]]]


# ---- the nets that faults are planted in ---------------------------------------------------------


def columns() -> Graph:
    """AlexNet's kind of net in small: a chain with groups, both kinds of LRN, pools that round."""
    chain: list[tuple[str, Op]] = [
        (
            "conv1",
            Conv(out_channels=12, kernel_size=(5, 3), stride=(2, 2), padding=_pad(1, 2, 1, 0)),
        ),
        ("relu1", Relu()),
        ("norm1", Lrn(size=5, alpha=1e-4, beta=0.75, k=2.0, alpha_per="element")),
        ("pool1", MaxPool(kernel_size=(3, 3), stride=(2, 2))),
        ("conv2", Conv(out_channels=16, kernel_size=(3, 3), padding=_pad(1, 1, 1, 1), groups=2)),
        ("relu2", Relu()),
        (
            "norm2",
            Lrn(size=3, alpha=1e-3, beta=0.5, k=1.0, alpha_per="window", region="within_channel"),
        ),
        (
            "pool2",
            MaxPool(kernel_size=(2, 3), stride=(2, 1), padding=_pad(1, 0, 0, 1), ceil_mode=True),
        ),
        (
            "conv3",
            Conv(out_channels=10, kernel_size=(3, 2), padding=_pad(2, 1, 2, 0), dilation=(2, 1)),
        ),
        ("norm3", BatchNorm()),
        ("relu3", Relu()),
        (
            "pool3",
            AvgPool(
                kernel_size=(3, 3),
                stride=(2, 2),
                padding=_pad(1, 1, 1, 1),
                ceil_mode=True,
                count_include_pad=False,
            ),
        ),
        ("flat", Flatten()),
        ("fc4", Linear(out_features=24)),
        ("relu4", Relu()),
        ("drop4", Dropout(p=0.5)),
        ("fc5", Linear(out_features=24)),
        ("tanh5", Tanh()),
        ("fc6", Linear(out_features=9)),
        ("prob", Softmax()),
    ]
    layers: Layers = []
    before = INPUT
    for name, op in chain:
        layers.append((name, op, (before,)))
        before = name
    return Graph.build("columns", (3, 37, 41), layers, ("prob",))


def branches() -> Graph:
    """Branches that are added and joined, and the ops that a chain like AlexNet's does not have."""
    layers: Layers = [
        ("stem", Conv(out_channels=6, kernel_size=(3, 3), padding=_pad(1, 1, 1, 1)), (INPUT,)),
        ("left", Conv(out_channels=6, kernel_size=(1, 1), bias=False), ("stem",)),
        ("right", Conv(out_channels=6, kernel_size=(3, 3), padding=_pad(1, 1, 1, 1)), ("stem",)),
        ("gate", Sigmoid(), ("right",)),
        ("sum", Add(), ("left", "gate", "stem")),
        ("join", Concat(), ("sum", "right")),
        ("channels", Softmax(), ("join",)),
        (
            "average",
            AvgPool(kernel_size=(3, 3), stride=(2, 2), padding=_pad(1, 1, 0, 0), ceil_mode=True),
            ("join",),
        ),
        ("bins", AdaptiveAvgPool(output_size=(4, 3)), ("average",)),
        ("flat", Flatten(), ("bins",)),
        ("scores", Linear(out_features=7), ("flat",)),
        ("norm", BatchNorm(eps=1e-3, affine=False), ("scores",)),
    ]
    return Graph.build("branches", (3, 18, 15), layers, ("norm", "channels"))


def _pad(top: int, left: int, bottom: int, right: int) -> Padding:
    return Padding(top=top, left=left, bottom=bottom, right=right)


def weights_for(graph: Graph) -> Weights:
    """Weights as after some training, but with biases of zero in the first layer of each net."""
    generator = np.random.default_rng(2012)
    weights: Weights = {}
    for name, parameter in graph.parameters.items():
        layer, _, local = name.rpartition(".")
        shape = parameter.shape
        values = generator.standard_normal(shape)
        if local == "running_var":
            values = generator.uniform(0.5, 2.0, shape)
        elif local == "bias":
            values = 0.0 * values if layer in ("conv1", "stem") else 0.1 * values
        elif len(shape) > 1:
            values *= np.sqrt(2 / np.prod(shape[1:]))
        else:
            values = 1 + 0.2 * values
        weights[name] = values.astype(np.float32)
    return weights


# ---- what a mutant is ----------------------------------------------------------------------------

PlantTorch = Callable[[TorchNet], None]
PlantOnnx = Callable[[onnx.ModelProto], None]
PlantWeights = Callable[[Weights], None]


@dataclass(frozen=True)
class Mutant:
    """A fault in one layer of what one lowering made, or in the weights that it reads.

    `kind` is what the report must call it: the layer's own fault, or one of its wiring.
    """

    name: str
    layer: str
    torch: PlantTorch | None = None
    onnx: PlantOnnx | None = None
    weights: PlantWeights | None = None
    kind: str = "local"

    @property
    def net(self) -> Graph:
        return next(net for net in NETS if self.layer in net.by_name)

    @property
    def backend(self) -> str:
        return "torch" if self.torch else "onnxruntime"

    def __str__(self) -> str:
        return f"{self.backend}: {self.layer}: {self.name}"


@dataclass(frozen=True)
class Equivalent:
    """A change that leaves the function as it is, and why."""

    mutant: Mutant
    proof: str


@dataclass
class Verdict:
    """What verification said of a mutant."""

    mutant: Mutant
    report: Report
    expected: bool = field(init=False)

    def __post_init__(self) -> None:
        first = self.report.first_divergence
        self.expected = (
            not self.report.passed
            and first is not None
            and first.layer == self.mutant.layer
            and first.kind == self.mutant.kind
        )


NETS = (columns(), branches())


def run(mutant: Mutant, folder: Path) -> Report:
    """Plant the fault and verify, on the backend that has it."""
    graph = mutant.net
    weights = weights_for(graph)
    read = {name: array.copy() for name, array in weights.items()}
    if mutant.weights is not None:
        mutant.weights(read)
    file = folder / "weights.safetensors"
    model = to_onnx(inference(graph), store.write(file, read))
    if mutant.onnx is not None:
        mutant.onnx(model)
    (folder / "model.onnx").write_bytes(serialize(model))
    with _planted(mutant, read):
        read_model = folder / "model.onnx" if mutant.backend == "onnxruntime" else None
        return verify(graph, weights, read_model, backends=[mutant.backend], isolate=False)


@contextmanager
def _planted(mutant: Mutant, read: Weights) -> Iterator[None]:
    original = torch_lowering.to_torch

    def lower(graph: Graph, weights: Weights) -> TorchNet:
        net = original(graph, read if mutant.weights is not None else weights)
        if mutant.torch is not None:
            mutant.torch(net)
        return net

    with mock.patch.object(torch_lowering, "to_torch", lower):
        yield


# ---- faults in PyTorch ---------------------------------------------------------------------------


def _set(layer: str, **attributes: Any) -> PlantTorch:
    """Attributes of the layer's module changed."""

    def plant(net: TorchNet) -> None:
        module = net.get_submodule(layer)
        for name, value in attributes.items():
            assert hasattr(module, name), f"{layer} has no {name}"
            setattr(module, name, value)

    return plant


def _times(layer: str, attribute: str, factor: float) -> PlantTorch:
    def plant(net: TorchNet) -> None:
        module = net.get_submodule(layer)
        setattr(module, attribute, getattr(module, attribute) * factor)

    return plant


class Computed(nn.Module):
    """A layer that computes `function` of the module it stands for and its inputs."""

    def __init__(self, original: nn.Module, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.original = original
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(self.original, *inputs)


def _instead(layer: str, function: Callable[..., Tensor]) -> PlantTorch:
    """Another function of the layer's module and inputs."""

    def plant(net: TorchNet) -> None:
        module = net.get_submodule(layer)
        # The parameters keep their names: functional_call and the state must find them.
        forward = type(module).forward
        original = module.forward
        del forward
        module.forward = lambda *inputs: function(original, module, *inputs)  # type: ignore[method-assign]

    return plant


def _of_input(layer: str, function: Callable[..., Tensor]) -> PlantTorch:
    """Another function of the layer's inputs alone."""
    return _instead(layer, lambda _original, _module, *inputs: function(*inputs))


def _before(layer: str, change: Callable[[Tensor], Tensor]) -> PlantTorch:
    """The layer computed of changed inputs."""
    return _instead(layer, lambda original, _module, *inputs: original(*map(change, inputs)))


def _after(layer: str, change: Callable[[Tensor], Tensor]) -> PlantTorch:
    return _instead(layer, lambda original, _module, *inputs: change(original(*inputs)))


def _with_weight(layer: str, change: Callable[[Tensor], Tensor]) -> PlantTorch:
    """The layer computed with changed weights, those that it holds being right."""

    def compute(_original: Any, module: Any, x: Tensor) -> Tensor:
        weight = change(module.weight)
        if isinstance(module, nn.Linear):
            return functional.linear(x, weight, module.bias)
        sides = getattr(module, "sides", None)
        if sides is not None:
            x = functional.pad(x, sides)
        padding: Any = 0 if sides is not None else module.padding
        return functional.conv2d(
            x, weight, module.bias, module.stride, padding, module.dilation, module.groups
        )

    return _instead(layer, compute)


def _without_bias(_original: Any, module: Any, x: Tensor) -> Tensor:
    return _biased(module, x, 0.0)


def _bias_twice(_original: Any, module: Any, x: Tensor) -> Tensor:
    return _biased(module, x, 2.0)


def _biased(module: Any, x: Tensor, times: float) -> Tensor:
    bias = module.bias * times
    if isinstance(module, nn.Linear):
        return functional.linear(x, module.weight, bias)
    padded = functional.pad(x, module.sides) if hasattr(module, "sides") else x
    padding: Any = 0 if hasattr(module, "sides") else module.padding
    return functional.conv2d(
        padded, module.weight, bias, module.stride, padding, module.dilation, module.groups
    )


def _shifted(module: Any, x: Tensor, by: int) -> Tensor:
    """LRN over channels whose window lies `by` channels further."""
    half = module.size // 2
    squares = functional.pad(x * x, (0, 0, 0, 0, half, half))
    sums = sum(squares[:, i : i + x.shape[1]] for i in range(module.size))
    assert isinstance(sums, Tensor)
    moved = torch.roll(functional.pad(sums, (0, 0, 0, 0, 1, 1)), by, 1)[:, 1:-1]
    return x / (module.k + module.alpha / module.size * moved) ** module.beta


def _even(module: Any, x: Tensor) -> Tensor:
    """LRN over a window of one channel less, which has no middle."""
    size = module.size - 1
    squares = functional.pad(x * x, (0, 0, 0, 0, size // 2, size - size // 2 - 1))
    sums = sum(squares[:, i : i + x.shape[1]] for i in range(size))
    assert isinstance(sums, Tensor)
    return x / (module.k + module.alpha / module.size * sums) ** module.beta


def _mean_of_present(module: Any, x: Tensor) -> Tensor:
    """LRN that divides by the channels that there are, also at the first and last ones."""
    half = module.size // 2
    ones = torch.ones_like(x)
    sums = []
    for values in (x * x, ones):
        padded = functional.pad(values, (0, 0, 0, 0, half, half))
        sums.append(torch.stack([padded[:, i : i + x.shape[1]] for i in range(module.size)]).sum(0))
    return x / (module.k + module.alpha * sums[0] / sums[1]) ** module.beta


def _within(module: Any, x: Tensor) -> Tensor:
    mean = functional.avg_pool2d(x * x, module.size, 1, module.size // 2)
    return x / (module.k + module.alpha * mean) ** module.beta


def _across(module: Any, x: Tensor) -> Tensor:
    return functional.local_response_norm(x, module.size, module.alpha, module.beta, module.k)


def _halves_swapped(weight: Tensor) -> Tensor:
    return torch.roll(weight, weight.shape[0] // 2, 0)


def _groups_merged(_original: Any, module: Any, x: Tensor) -> Tensor:
    """Every kernel sees all channels, its weights being used for each group."""
    weight = module.weight.repeat(1, module.groups, 1, 1)
    return functional.conv2d(x, weight, module.bias, module.stride, module.padding)


def _narrow(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    return lambda values: values.to(dtype).to(torch.float32)


def _computed_in(layer: str, dtype: torch.dtype) -> PlantTorch:
    """Inputs, weights and result of a conv or linear layer rounded to a narrower format."""
    narrow = _narrow(dtype)

    def plant(net: TorchNet) -> None:
        _with_weight(layer, narrow)(net)
        _before(layer, narrow)(net)
        _after(layer, narrow)(net)

    return plant


def _ten_bits(values: Tensor) -> Tensor:
    """Rounded to TF32's mantissa."""
    bits = values.contiguous().view(torch.int32)
    return ((bits + (1 << 12)) & ~((1 << 13) - 1)).view(torch.float32)


def _channels_last_order(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).flatten(1)


def _rewired(layer: str, *sources: str) -> PlantTorch:
    def plant(net: TorchNet) -> None:
        net._sources[layer] = sources
        net._finished = {name: () for name in net._finished}

    return plant


def _norm_behind_pool(net: TorchNet) -> None:
    """norm1 and pool1 swapped, as CaffeNet has them."""
    _rewired("norm1", "pool1")(net)
    _rewired("pool1", "relu1")(net)
    _rewired("conv2", "norm1")(net)
    modules = net._modules
    order = list(modules)
    first, second = order.index("norm1"), order.index("pool1")
    order[first], order[second] = order[second], order[first]
    for name in order:
        modules[name] = modules.pop(name)


def _module(layer: str, module: nn.Module) -> PlantTorch:
    return lambda net: setattr(net, layer, module)


_MEAN_AND_VARIANCE_SWAPPED = _instead(
    "norm3",
    lambda _o, m, x: functional.batch_norm(
        x, m.running_var, m.running_mean.abs(), m.weight, m.bias, eps=m.eps
    ),
)


def _norm(**changes: Callable[[Any], Any]) -> PlantTorch:
    """Batch norm with arguments that are functions of its module."""

    def compute(_original: Any, module: Any, x: Tensor) -> Tensor:
        values = {
            "mean": module.running_mean,
            "var": module.running_var,
            "weight": module.weight,
            "bias": module.bias,
            "eps": module.eps,
        }
        values |= {name: change(module) for name, change in changes.items()}
        return functional.batch_norm(
            x, values["mean"], values["var"], values["weight"], values["bias"], eps=values["eps"]
        )

    return _instead("norm3", compute)


def torch_mutants() -> list[Mutant]:
    """Faults in the module that to_torch makes."""

    def m(name: str, layer: str, plant: PlantTorch, kind: str = "local") -> Mutant:
        return Mutant(name, layer, torch=plant, kind=kind)

    lrn = [
        m("alpha × size", "norm1", _times("norm1", "alpha", 5)),
        m("alpha ÷ size", "norm1", _times("norm1", "alpha", 1 / 5)),
        m("alpha zero", "norm1", _set("norm1", alpha=0.0)),
        m("k = 1", "norm1", _set("norm1", k=1.0)),
        m("beta = 0.5", "norm1", _set("norm1", beta=0.5)),
        m("beta = 0.74", "norm1", _set("norm1", beta=0.74)),
        m("size 3", "norm1", _set("norm1", size=3)),
        m("size 7", "norm1", _set("norm1", size=7)),
        m("even window", "norm1", _instead("norm1", lambda _o, l, x: _even(l, x))),
        m("window shifted up", "norm1", _instead("norm1", lambda _o, l, x: _shifted(l, x, 1))),
        m("window shifted down", "norm1", _instead("norm1", lambda _o, l, x: _shifted(l, x, -1))),
        m(
            "divided by those present",
            "norm1",
            _instead("norm1", lambda _o, l, x: _mean_of_present(l, x)),
        ),
        m("within the channel", "norm1", _instead("norm1", lambda _o, l, x: _within(l, x))),
        m("missing", "norm1", _of_input("norm1", lambda x: x)),
        m("in fp16", "norm1", _after("norm1", _narrow(torch.float16))),
        m("alpha × size²", "norm2", _times("norm2", "alpha", 9)),
        m("size 5", "norm2", _set("norm2", size=5)),
        m("across the channels", "norm2", _instead("norm2", lambda _o, l, x: _across(l, x))),
        m("k = 2", "norm2", _set("norm2", k=2.0)),
    ]
    conv = [
        m("stride off by one", "conv1", _set("conv1", stride=(2, 1))),
        m("padding one more", "conv1", _set("conv1", sides=(3, 0, 1, 1))),
        m("padding one less", "conv1", _set("conv1", sides=(1, 0, 1, 1))),
        m("padding on the other side", "conv1", _set("conv1", sides=(0, 2, 1, 1))),
        m("padding shifted by a row", "conv3", _set("conv3", sides=(1, 0, 1, 3))),
        m("dilation off by one", "conv3", _set("conv3", dilation=(1, 1))),
        m("groups swapped", "conv2", _with_weight("conv2", _halves_swapped)),
        m("groups merged", "conv2", _instead("conv2", _groups_merged)),
        m("bias of zeros dropped", "conv1", _instead("conv1", _without_bias)),
        m("bias dropped", "conv2", _instead("conv2", _without_bias)),
        m("bias added twice", "conv2", _instead("conv2", _bias_twice)),
        m("kernel flipped", "conv1", _with_weight("conv1", lambda w: w.flip(2, 3))),
        m("kernel transposed", "conv2", _with_weight("conv2", lambda w: w.transpose(2, 3))),
        m("BGR for RGB", "conv1", _with_weight("conv1", lambda w: w.flip(1))),
        m("channels read in another order", "conv3", _before("conv3", lambda x: x.roll(1, 1))),
        m("result's channels rotated", "conv1", _after("conv1", lambda y: y.roll(1, 1))),
        m(
            "padded with edges",
            "conv2",
            _before("conv2", lambda x: x) if False else _edges("conv2"),
        ),
        m("in fp16", "conv1", _computed_in("conv1", torch.float16)),
        m("in bf16", "conv2", _computed_in("conv2", torch.bfloat16)),
        m("factors in TF32", "conv2", _with_weight("conv2", _ten_bits)),
        m(
            "weight of the 1×1 convolution transposed",
            "left",
            _with_weight("left", lambda w: w.transpose(0, 1)),
        ),
    ]
    dense = [
        m("weight transposed", "fc5", _with_weight("fc5", lambda w: w.T)),
        m("bias dropped", "fc4", _instead("fc4", _without_bias)),
        m("units rotated", "fc4", _after("fc4", lambda y: y.roll(1, 1))),
        m("in fp16", "fc4", _computed_in("fc4", torch.float16)),
        m("result in fp16", "fc6", _after("fc6", _narrow(torch.float16))),
        m("in bf16", "scores", _computed_in("scores", torch.bfloat16)),
        m("order row, column, channel", "flat", _of_input("flat", _channels_last_order)),
        m(
            "order channel, column, row",
            "flat",
            _of_input("flat", lambda x: x.transpose(2, 3).flatten(1)),
        ),
        m("reversed", "flat", _of_input("flat", lambda x: x.flatten(1).flip(1))),
    ]
    pool = [
        m(
            "average for maximum",
            "pool1",
            _of_input("pool1", lambda x: functional.avg_pool2d(x, 3, 2)),
        ),
        m("kernel one more", "pool1", _set("pool1", kernel_size=(4, 3))),
        m("kernel one less", "pool1", _set("pool1", kernel_size=(2, 3))),
        m("stride one more", "pool1", _set("pool1", stride=(3, 2))),
        m("dilated", "pool1", _set("pool1", dilation=2)),
        m(
            "floor for ceil",
            "pool2",
            _of_input(
                "pool2",
                lambda x: functional.max_pool2d(
                    functional.pad(x, (0, 1, 1, 0), value=-torch.inf), (2, 3), (2, 1)
                ),
            ),
        ),
        m(
            "padded with zeros",
            "pool2",
            lambda net: setattr(net.get_submodule("pool2")[0], "value", 0.0),
        ),  # type: ignore[index]
        m("padding on the other side", "pool2", _swapped_sides("pool2")),
        m(
            "maximum for average",
            "pool3",
            _of_input("pool3", lambda x: functional.max_pool2d(x, 3, 2, 1, ceil_mode=True)),
        ),
        m(
            "padding counted",
            "pool3",
            _of_input("pool3", lambda x: functional.avg_pool2d(x, 3, 2, 1, True, True)),
        ),
        m("padding not counted", "average", _recounted("average")),
        m(
            "divisor one everywhere",
            "average",
            lambda net: net.get_submodule("average").divisors.fill_(1.0),
        ),  # type: ignore[operator, union-attr]
        m(
            "overhang counted",
            "average",
            lambda net: net.get_submodule("average").divisors.fill_(9.0),
        ),  # type: ignore[operator, union-attr]
        m(
            "bins of maxima",
            "bins",
            _of_input("bins", lambda x: functional.adaptive_max_pool2d(x, (4, 3))),
        ),
        m(
            "bins of one size",
            "bins",
            _of_input(
                "bins",
                lambda x: functional.avg_pool2d(x, (x.shape[2] // 4, x.shape[3] // 3))[
                    :, :, :4, :3
                ],
            ),
        ),
        m(
            "bins transposed",
            "bins",
            _of_input("bins", lambda x: functional.adaptive_avg_pool2d(x, (3, 4)).transpose(2, 3)),
        ),
    ]
    norm = [
        m("eps 1e-3", "norm3", _set("norm3", eps=1e-3)),
        m("eps 1e-6", "norm3", _set("norm3", eps=1e-6)),
        m("no eps", "norm3", _set("norm3", eps=0.0)),
        m(
            "eps added after the root",
            "norm3",
            _norm(var=lambda l: (l.running_var.sqrt() + l.eps) ** 2, eps=lambda _: 0.0),
        ),
        m("variance for deviation", "norm3", _norm(var=lambda l: l.running_var**2)),
        m("variance of n − 1", "norm3", _norm(var=lambda l: l.running_var * (128 / 127))),
        m("mean missing", "norm3", _norm(mean=lambda l: l.running_mean * 0)),
        m("weight missing", "norm3", _norm(weight=lambda _: None)),
        m("bias missing", "norm3", _norm(bias=lambda _: None)),
        m("mean for variance", "norm3", _MEAN_AND_VARIANCE_SWAPPED),
        m(
            "statistics of the batch",
            "norm3",
            _instead(
                "norm3",
                lambda _o, l, x: functional.batch_norm(
                    x, None, None, l.weight, l.bias, True, 0.1, l.eps
                ),
            ),
        ),
        m(
            "channels of the statistics rotated",
            "norm",
            _instead(
                "norm",
                lambda _o, l, x: functional.batch_norm(
                    x, l.running_mean.roll(1), l.running_var, eps=l.eps
                ),
            ),
        ),
    ]
    pointwise = [
        m("missing", "relu1", _of_input("relu1", lambda x: x)),
        m("leaky", "relu1", _of_input("relu1", lambda x: functional.leaky_relu(x, 0.01))),
        m("capped at 6", "relu2", _of_input("relu2", functional.relu6)),
        m("absolute value", "relu3", _of_input("relu3", torch.abs)),
        m("GELU", "relu4", _of_input("relu4", functional.gelu)),
        m("sigmoid for tanh", "tanh5", _of_input("tanh5", torch.sigmoid)),
        m("clipped to a line", "tanh5", _of_input("tanh5", functional.hardtanh)),
        m("missing", "tanh5", _of_input("tanh5", lambda x: x)),
        m("tanh for sigmoid", "gate", _of_input("gate", torch.tanh)),
        m("clipped to a line", "gate", _of_input("gate", functional.hardsigmoid)),
        m("over the batch", "prob", _of_input("prob", lambda x: x.softmax(0))),
        m("logarithm of it", "prob", _of_input("prob", lambda x: x.log_softmax(1))),
        m("missing", "prob", _of_input("prob", lambda x: x)),
        m(
            "maximum not taken off",
            "prob",
            _of_input("prob", lambda x: x.exp() / x.exp().sum(1, keepdim=True)),
        ),
        m("over the rows", "channels", _of_input("channels", lambda x: x.softmax(2))),
        m("over the columns", "channels", _of_input("channels", lambda x: x.softmax(3))),
        m(
            "over all of an image",
            "channels",
            _of_input("channels", lambda x: x.flatten(1).softmax(1).reshape(x.shape)),
        ),
        m(
            "active in inference",
            "drop4",
            _of_input("drop4", lambda x: functional.dropout(x, 0.5, True)),
        ),
        m("scaled in inference", "drop4", _of_input("drop4", lambda x: x * 0.5)),
        m("an input missing", "sum", _of_input("sum", lambda a, b, _c: a + b)),
        m("an input taken off", "sum", _of_input("sum", lambda a, b, c: a - b + c)),
        m("mean for sum", "sum", _of_input("sum", lambda a, b, c: (a + b + c) / 3)),
        m("inputs swapped", "join", _of_input("join", lambda a, b: torch.cat((b, a), 1))),
        m(
            "along the rows",
            "join",
            _of_input(
                "join", lambda a, b: torch.cat((a, b), 2).reshape(a.shape[0], -1, *a.shape[2:])
            ),
        ),
    ]
    wiring = [
        m("norm behind pool", "norm1", _norm_behind_pool, "wiring"),
        m("reads past the ReLU", "norm1", _rewired("norm1", "conv1"), "wiring"),
        m("reads past the norm", "relu3", _rewired("relu3", "conv3"), "wiring"),
        m("reads the other branch", "gate", _rewired("gate", "left"), "wiring"),
        m("reads one branch twice", "join", _rewired("join", "right", "right"), "wiring"),
        m("reads before the ReLU", "drop4", _rewired("drop4", "fc4"), "wiring"),
    ]
    return [*lrn, *conv, *dense, *pool, *norm, *pointwise, *wiring]


def _edges(layer: str) -> PlantTorch:
    """The image's edge repeated instead of zeros."""

    def compute(_original: Any, module: Any, x: Tensor) -> Tensor:
        padded = functional.pad(x, (1, 1, 1, 1), mode="replicate")
        return functional.conv2d(padded, module.weight, module.bias, groups=module.groups)

    return _instead(layer, compute)


def _swapped_sides(layer: str) -> PlantTorch:
    def plant(net: TorchNet) -> None:
        pad: Any = net.get_submodule(layer)[0]  # type: ignore[index]
        left, right, top, bottom = pad.padding
        pad.padding = (right, left, bottom, top)

    return plant


def _recounted(layer: str) -> PlantTorch:
    """The divisors without the padding."""

    def plant(net: TorchNet) -> None:
        op = net.graph.by_name[layer].op
        assert isinstance(op, AvgPool)
        other = op.model_copy(update={"count_include_pad": False})
        divisors = other.divisors(net.graph.by_name[layer].input_shapes[0])
        net.get_submodule(layer).divisors = torch.tensor(divisors, dtype=torch.float32)  # type: ignore[assignment]

    return plant


# ---- faults in the ONNX model --------------------------------------------------------------------


def _node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if name in node.output)


def _attributes(layer: str, **values: Any) -> PlantOnnx:
    """Attributes of the node changed, added, or with None taken away."""

    def plant(model: onnx.ModelProto) -> None:
        node = _node(model, layer)
        kept = [a for a in node.attribute if a.name not in values]
        del node.attribute[:]
        node.attribute.extend(kept)
        for name, value in values.items():
            if value is not None:
                node.attribute.append(helper.make_attribute(name, value))

    return plant


def _scaled(layer: str, attribute: str, factor: float) -> PlantOnnx:
    def plant(model: onnx.ModelProto) -> None:
        for each in _node(model, layer).attribute:
            if each.name == attribute:
                each.f *= factor

    return plant


def _operator(layer: str, op_type: str, **attributes: Any) -> PlantOnnx:
    """Another operator with these attributes alone."""

    def plant(model: onnx.ModelProto) -> None:
        node = _node(model, layer)
        node.op_type = op_type
        del node.attribute[:]
        node.attribute.extend(helper.make_attribute(n, v) for n, v in attributes.items())

    return plant


def _inputs(layer: str, change: Callable[[list[str]], Sequence[str]]) -> PlantOnnx:
    """The names that the node reads changed."""

    def plant(model: onnx.ModelProto) -> None:
        node = _node(model, layer)
        names = list(change(list(node.input)))
        del node.input[:]
        node.input.extend(names)

    return plant


def _between(
    layer: str, index: int, op_type: str, constants: Sequence[Any] = (), **attributes: Any
) -> PlantOnnx:
    """A node put before the layer's input of this index."""

    def plant(model: onnx.ModelProto) -> None:
        position = next(i for i, n in enumerate(model.graph.node) if layer in n.output)
        node = model.graph.node[position]
        names = [node.input[index]]
        for number, value in enumerate(constants):
            name = f"{layer}.planted{number}"
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
            names.append(name)
        planted = f"{layer}.planted"
        node.input[index] = planted
        model.graph.node.insert(position, helper.make_node(op_type, names, [planted], **attributes))

    return plant


def _behind(
    layer: str, op_type: str, constants: Sequence[Any] = (), **attributes: Any
) -> PlantOnnx:
    """A node put behind the layer, which takes its name."""

    def plant(model: onnx.ModelProto) -> None:
        position = next(i for i, n in enumerate(model.graph.node) if layer in n.output)
        node = model.graph.node[position]
        node.output[0] = f"{layer}.right"
        names = [f"{layer}.right"]
        for number, value in enumerate(constants):
            name = f"{layer}.planted{number}"
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
            names.append(name)
        model.graph.node.insert(
            position + 1, helper.make_node(op_type, names, [layer], **attributes)
        )

    return plant


def _through(layer: str, index: int, to: int) -> PlantOnnx:
    """The layer's input of this index rounded to a narrower format and back."""

    def plant(model: onnx.ModelProto) -> None:
        _between(layer, index, "Cast", to=TensorProto.FLOAT)(model)
        position = next(i for i, n in enumerate(model.graph.node) if f"{layer}.planted" in n.output)
        node = model.graph.node[position]
        narrow = f"{layer}.narrow"
        model.graph.node.insert(
            position, helper.make_node("Cast", [node.input[0]], [narrow], to=to)
        )
        node.input[0] = narrow

    return plant


def _constant(name: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> PlantOnnx:
    """A number that is written into the model changed."""

    def plant(model: onnx.ModelProto) -> None:
        tensor = next(t for t in model.graph.initializer if t.name == name)
        values = change(numpy_helper.to_array(tensor)).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(values, np.float32), name))

    return plant


def _both(*plants: PlantOnnx) -> PlantOnnx:
    def plant(model: onnx.ModelProto) -> None:
        for each in plants:
            each(model)

    return plant


def _pool1_before_norm1(model: onnx.ModelProto) -> None:
    """norm1 and pool1 swapped, as CaffeNet has them."""
    norm, pool, conv = (_node(model, name) for name in ("norm1", "pool1", "conv2"))
    pool.input[0], norm.input[0], conv.input[0] = "relu1", "pool1", "norm1"
    nodes = list(model.graph.node)
    first, second = nodes.index(norm), nodes.index(pool)
    nodes[first], nodes[second] = nodes[second], nodes[first]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    for value in list(model.graph.value_info):
        if value.name in ("norm1", "pool1"):
            model.graph.value_info.remove(value)


def onnx_mutants() -> list[Mutant]:
    """Faults in the model that to_onnx makes, run on ONNX Runtime."""

    def m(name: str, layer: str, plant: PlantOnnx, kind: str = "local") -> Mutant:
        return Mutant(name, layer, onnx=plant, kind=kind)

    lrn = [
        m("alpha × size", "norm1", _scaled("norm1", "alpha", 5)),
        m("alpha ÷ size", "norm1", _scaled("norm1", "alpha", 1 / 5)),
        m("alpha's default", "norm1", _attributes("norm1", alpha=None)),
        m("k's default", "norm1", _attributes("norm1", bias=None)),
        m("beta = 0.5", "norm1", _attributes("norm1", beta=0.5)),
        m("size 3", "norm1", _attributes("norm1", size=3)),
        m("size 7", "norm1", _attributes("norm1", size=7)),
        m("even window", "norm1", _attributes("norm1", size=4)),
        m("missing", "norm1", _operator("norm1", "Identity")),
        m("window shifted", "norm1", _shifted_onnx),
        m("alpha × size²", "norm2", _constant("norm2.alpha", lambda a: a * 9)),
        m("k = 2", "norm2", _constant("norm2.k", lambda a: a + 1)),
        m("beta = 0.75", "norm2", _constant("norm2.beta", lambda a: a + 0.25)),
        m("padding not counted", "norm2", _attributes("norm2.mean", count_include_pad=0)),
        m("square missing", "norm2", _operator("norm2.square", "Abs") if False else _one_factor),
        m("size 5", "norm2", _attributes("norm2.mean", kernel_shape=[5, 5], pads=[2] * 4)),
    ]
    conv = [
        m("stride off by one", "conv1", _attributes("conv1", strides=[2, 1])),
        m("padding one more", "conv1", _attributes("conv1", pads=[2, 2, 1, 0])),
        m("padding missing", "conv2", _attributes("conv2", pads=[0] * 4)),
        m("padding on the other side", "conv1", _attributes("conv1", pads=[1, 0, 1, 2])),
        m("padding's axes swapped", "conv3", _attributes("conv3", pads=[1, 2, 0, 2])),
        m("dilation off by one", "conv3", _attributes("conv3", dilations=[1, 1])),
        m("dilation's axes swapped", "conv3", _attributes("conv3", dilations=[1, 2])),
        m("groups merged", "conv2", _attributes("conv2", group=1)),
        m(
            "groups swapped",
            "conv2",
            _between("conv2", 1, "Gather", [np.roll(np.arange(16), 8)], axis=0),
        ),
        m("bias of zeros dropped", "conv1", _inputs("conv1", lambda n: n[:2])),
        m("bias dropped", "conv2", _inputs("conv2", lambda n: n[:2])),
        m("BGR for RGB", "conv1", _between("conv1", 0, "Gather", [np.array([2, 1, 0])], axis=1)),
        m(
            "kernel flipped",
            "conv1",
            _between("conv1", 1, "Gather", [np.arange(5)[::-1].copy()], axis=2),
        ),
        m("kernel transposed", "conv2", _between("conv2", 1, "Transpose", perm=[0, 1, 3, 2])),
        m(
            "weight of the 1×1 convolution transposed",
            "left",
            _between("left", 1, "Transpose", perm=[1, 0, 2, 3]),
        ),
        m("input in fp16", "conv1", _through("conv1", 0, TensorProto.FLOAT16)),
        m("weight in fp16", "conv2", _through("conv2", 1, TensorProto.FLOAT16)),
        m("weight in bf16", "conv3", _through("conv3", 1, TensorProto.BFLOAT16)),
        m("another layer's bias", "right", _inputs("right", lambda n: [*n[:2], "stem.bias"])),
    ]
    dense = [
        m("weight transposed", "fc5", _attributes("fc5", transB=0)),
        m("bias dropped", "fc4", _inputs("fc4", lambda n: n[:2])),
        m("bias doubled", "fc4", _attributes("fc4", transB=1, beta=2.0)),
        m("scaled", "fc6", _attributes("fc6", transB=1, alpha=0.999)),
        m("weight in fp16", "fc4", _through("fc4", 1, TensorProto.FLOAT16)),
        m("input in bf16", "scores", _through("scores", 0, TensorProto.BFLOAT16)),
        m(
            "order row, column, channel",
            "flat",
            _between("flat", 0, "Transpose", perm=[0, 2, 3, 1]),
        ),
        m(
            "order channel, column, row",
            "flat",
            _between("flat", 0, "Transpose", perm=[0, 1, 3, 2]),
        ),
        m("another axis", "flat", _attributes("flat", axis=2)),
    ]
    pool = [
        m(
            "average for maximum",
            "pool1",
            _operator("pool1", "AveragePool", kernel_shape=[3, 3], strides=[2, 2]),
        ),
        m("kernel one more", "pool1", _attributes("pool1", kernel_shape=[4, 3])),
        m("stride one less", "pool1", _attributes("pool1", strides=[1, 2])),
        m("floor for ceil", "pool2", _attributes("pool2", pads=[1, 0, 0, 1])),
        m("padding on the other side", "pool2", _attributes("pool2", pads=[0, 1, 1, 0])),
        m(
            "maximum for average",
            "pool3",
            _operator(
                "pool3",
                "MaxPool",
                kernel_shape=[3, 3],
                strides=[2, 2],
                pads=[1, 1, 1, 1],
                ceil_mode=1,
            ),
        ),
        m("padding counted", "pool3", _attributes("pool3", count_include_pad=1)),
        m("overhang counted", "average", _attributes("average", count_include_pad=1)),
        m(
            "rows averaged with other weights",
            "bins",
            _constant("bins.average_rows", lambda a: np.roll(a, 1, 1)),
        ),
        m("bins transposed", "bins", _behind("bins", "Transpose", perm=[0, 1, 3, 2])),
    ]
    norm = [
        m("eps 1e-3", "norm3", _attributes("norm3", epsilon=1e-3)),
        m("eps 1e-6", "norm3", _attributes("norm3", epsilon=1e-6)),
        m("mean and variance swapped", "norm3", _inputs("norm3", lambda n: [*n[:3], n[4], n[3]])),
        m(
            "weight and bias swapped",
            "norm3",
            _inputs("norm3", lambda n: [n[0], n[2], n[1], *n[3:]]),
        ),
        m("weight for mean", "norm3", _inputs("norm3", lambda n: [*n[:3], n[1], n[4]])),
        m("ones of two", "norm", _constant("norm.ones", lambda a: a + 1)),
        m("zeros of one", "norm", _constant("norm.zeros", lambda a: a + 1)),
    ]
    pointwise = [
        m("missing", "relu1", _operator("relu1", "Identity")),
        m("leaky", "relu1", _operator("relu1", "LeakyRelu")),
        m("capped at 6", "relu2", _behind("relu2", "Clip", [np.float32(0), np.float32(6)])),
        m("absolute value", "relu3", _operator("relu3", "Abs")),
        m("ELU", "relu4", _operator("relu4", "Elu")),
        m("sigmoid for tanh", "tanh5", _operator("tanh5", "Sigmoid")),
        m("softsign for tanh", "tanh5", _operator("tanh5", "Softsign")),
        m("tanh for sigmoid", "gate", _operator("gate", "Tanh")),
        m("clipped to a line", "gate", _operator("gate", "HardSigmoid")),
        m("over the batch", "prob", _attributes("prob", axis=0)),
        m("logarithm of it", "prob", _operator("prob", "LogSoftmax", axis=1)),
        m("missing", "prob", _operator("prob", "Identity")),
        m("over the rows", "channels", _attributes("channels", axis=2)),
        m("over the columns", "channels", _attributes("channels", axis=-1)),
        m("an input missing", "sum", _inputs("sum", lambda n: n[:2])),
        m("maximum for sum", "sum", _operator("sum", "Max")),
        m("mean for sum", "sum", _operator("sum", "Mean")),
        m("inputs swapped", "join", _inputs("join", lambda n: n[::-1])),
        m("along the rows", "join", _attributes("join", axis=2)),
        m("in fp16", "gate", _through("gate", 0, TensorProto.FLOAT16)),
        m("in bf16", "sum", _through("sum", 0, TensorProto.BFLOAT16)),
    ]
    wiring = [
        m("norm behind pool", "norm1", _pool1_before_norm1),
        m("reads past the ReLU", "norm1", _inputs("norm1", lambda _: ["conv1"])),
        m("reads past the norm", "relu3", _inputs("relu3", lambda _: ["conv3"])),
        m("reads the other branch", "gate", _inputs("gate", lambda _: ["left"])),
        m("reads one branch twice", "join", _inputs("join", lambda n: [n[1], n[1]])),
        m(
            "another layer's weight",
            "fc5",
            _inputs("fc5", lambda n: [n[0], "fc5.weight", "fc4.bias"]),
        ),
    ]
    return [*lrn, *conv, *dense, *pool, *norm, *pointwise, *wiring]


def _one_factor(model: onnx.ModelProto) -> None:
    """norm2's mean taken of its input, not of the square."""
    node = _node(model, "norm2.mean")
    node.input[0] = "relu2"


def _shifted_onnx(model: onnx.ModelProto) -> None:
    """norm1 as squares, a band of ones one off its place, and a power."""
    position = next(i for i, n in enumerate(model.graph.node) if "norm1" in n.output)
    channels = 12
    band = np.zeros((channels, channels, 1, 1), np.float32)
    for row in range(channels):
        for column in range(row - 1, row + 4):
            if 0 <= column < channels:
                band[row, column] = 1e-4
    for name, values in (("band", band), ("k", np.float32(2.0)), ("beta", np.float32(0.75))):
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(values), f"norm1.{name}"))
    del model.graph.node[position]
    steps = [
        helper.make_node("Mul", ["relu1", "relu1"], ["norm1.square"]),
        helper.make_node("Conv", ["norm1.square", "norm1.band"], ["norm1.sum"]),
        helper.make_node("Add", ["norm1.sum", "norm1.k"], ["norm1.base"]),
        helper.make_node("Pow", ["norm1.base", "norm1.beta"], ["norm1.power"]),
        helper.make_node("Div", ["relu1", "norm1.power"], ["norm1"]),
    ]
    for offset, node in enumerate(steps):
        model.graph.node.insert(position + offset, node)


# ---- faults in the weights that a backend reads --------------------------------------------------


def _bit(name: str, bit: int) -> PlantWeights:
    """One bit of one weight flipped, counted from the lowest."""

    def plant(weights: Weights) -> None:
        flat = weights[name].reshape(-1)
        flat.view(np.uint32)[flat.size // 2] ^= np.uint32(1 << bit)

    return plant


def _changed(
    name: str, change: Callable[[NDArray[np.float32]], NDArray[np.float32]]
) -> PlantWeights:
    def plant(weights: Weights) -> None:
        weights[name] = np.ascontiguousarray(change(weights[name]), np.float32)

    return plant


def weight_mutants() -> list[Mutant]:
    """Faults in the weights file, or in what PyTorch loaded of it."""
    plants: list[tuple[str, str, PlantWeights]] = [
        ("lowest exponent bit flipped", "conv2", _bit("conv2.weight", 23)),
        ("highest exponent bit flipped", "fc4", _bit("fc4.weight", 30)),
        ("exponent bit flipped", "conv1", _bit("conv1.weight", 25)),
        ("sign flipped", "fc5", _bit("fc5.weight", 31)),
        ("lowest bit flipped", "fc6", _bit("fc6.weight", 0)),
        ("one bias a little off", "fc6", _changed("fc6.bias", lambda w: w * np.float32(1 + 1e-6))),
        ("rows swapped", "fc5", _changed("fc5.weight", lambda w: np.roll(w, 1, 0))),
        ("kernels rotated", "conv3", _changed("conv3.weight", lambda w: np.roll(w, 1, 0))),
        ("rounded to fp16", "conv1", _changed("conv1.weight", lambda w: w.astype(np.float16))),
        ("variance off", "norm3", _changed("norm3.running_var", lambda w: w * np.float32(1.001))),
        ("mean of another sign", "norm", _changed("norm.running_mean", lambda w: -w)),
    ]
    mutants = []
    for name, layer, plant in plants:
        mutants.append(Mutant(name, layer, torch=lambda _net: None, weights=plant))
        mutants.append(Mutant(name, layer, onnx=lambda _model: None, weights=plant))
    return mutants


def _ceil(net: TorchNet) -> None:
    _of_input("pool3", lambda x: functional.avg_pool2d(x, 3, 2, 1, True, False))(net)


# ---- changes that are none -----------------------------------------------------------------------


def equivalents() -> list[Equivalent]:
    """Mutations that leave the function what it is: no verification may call them faults."""
    t, o = (lambda *a: Mutant(a[0], a[1], torch=a[2])), (lambda *a: Mutant(a[0], a[1], onnx=a[2]))
    return [
        Equivalent(
            t("momentum changed", "norm3", _set("norm3", momentum=0.5)),
            "momentum weighs a new batch in the running statistics; inference makes none",
        ),
        Equivalent(
            t("another probability", "drop4", _set("drop4", p=0.1)),
            "dropout passes its input on in inference, whatever its probability",
        ),
        Equivalent(
            t("applied twice", "relu1", _of_input("relu1", lambda x: torch.relu(torch.relu(x)))),
            "max(max(x, 0), 0) = max(x, 0)",
        ),
        Equivalent(
            t("dilation of a 1×1 kernel", "left", _set("left", dilation=(2, 2))),
            "a kernel of one tap has no neighbours to lie apart",
        ),
        Equivalent(
            t("a constant added before", "prob", _before("prob", lambda x: x + 1)),
            "e^(a + c) / Σ e^(a + c) = e^a / Σ e^a",
        ),
        Equivalent(
            t("ceil mode where windows fit", "pool3", _ceil),
            "(5 + 2 − 3) / 2 = 2 and (9 + 2 − 3) / 2 = 4: nothing is rounded",
        ),
        Equivalent(
            t("a column of padding that none reads", "conv1", _set("conv1", sides=(2, 1, 1, 1))),
            "⌊(41 + 2 − 3) / 2⌋ = ⌊(41 + 3 − 3) / 2⌋ = 20: the last window ends before it",
        ),
        Equivalent(
            t("inputs in another order", "sum", _of_input("sum", lambda a, b, c: c + b + a)),
            "addition commutes, and its rounding is within the tolerance of any order",
        ),
        Equivalent(
            o("applied twice", "relu1", _behind("relu1", "Relu")),
            "max(max(x, 0), 0) = max(x, 0)",
        ),
        Equivalent(
            o("written twice", "flat", _behind("flat", "Flatten", axis=1)),
            "what is flat already stays as it is",
        ),
        Equivalent(
            o("sums in another order", "sum", _inputs("sum", lambda n: n[::-1])),
            "addition commutes, and its rounding is within the tolerance of any order",
        ),
        Equivalent(
            o("negative axis", "prob", _attributes("prob", axis=-1)),
            "of two axes the last is axis 1",
        ),
    ]


def mutants() -> list[Mutant]:
    """All faults."""
    return [*torch_mutants(), *onnx_mutants(), *weight_mutants()]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="store_true", help="only say what would be planted")
    parser.add_argument("--only", default="", metavar="TEXT", help="those whose name holds TEXT")
    arguments = parser.parse_args()
    chosen = [mutant for mutant in mutants() if arguments.only in str(mutant)]
    if arguments.list:
        print("\n".join(map(str, chosen)))
        return 0
    started = time.perf_counter()
    caught, failures = 0, 0
    with tempfile.TemporaryDirectory() as name:
        for mutant in chosen:
            verdict = Verdict(mutant, run(mutant, Path(name)))
            caught += not verdict.report.passed
            if not verdict.expected:
                failures += 1
                said = verdict.report.first_divergence or "passed"
                states = [f"{b.backend} {b.status}" for b in verdict.report.backends]
                print(f"{mutant}: {said}; {'; '.join(states)}")
        accepted = 0
        unchanged = [e for e in equivalents() if arguments.only in str(e.mutant)]
        for equivalent in unchanged:
            report = run(equivalent.mutant, Path(name))
            accepted += report.passed
            if not report.passed:
                failures += 1
                print(f"{equivalent.mutant} is called a fault: {report.first_divergence}")
    print(
        f"{len(chosen)} mutants: {caught} caught, {failures} missed or misplaced; "
        f"{accepted} of {len(unchanged)} equivalent changes accepted; "
        f"{time.perf_counter() - started:.0f} s"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
