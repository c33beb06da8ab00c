"""Ways to make a PyTorch module compute something else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from alexc.lower.to_torch import TorchNet
from alexc.ops.pool import AvgPool
from tests.mutants.planting import PlantTorch


def set_attributes(layer: str, **attributes: Any) -> PlantTorch:
    """Attributes of the layer's module changed."""

    def plant(net: TorchNet) -> None:
        module = net.get_submodule(layer)
        for name, value in attributes.items():
            assert hasattr(module, name), f"{layer} has no {name}"
            setattr(module, name, value)

    return plant


def multiplied(layer: str, attribute: str, factor: float) -> PlantTorch:
    """An attribute of the layer's module multiplied."""

    def plant(net: TorchNet) -> None:
        module = net.get_submodule(layer)
        setattr(module, attribute, getattr(module, attribute) * factor)

    return plant


def instead(layer: str, function: Callable[..., Tensor]) -> PlantTorch:
    """Another function of the layer's own forward, its module and its inputs."""

    def plant(net: TorchNet) -> None:
        # The module stays, and with it its parameters under their names.
        module: Any = net.get_submodule(layer)
        original = module.forward
        module.forward = lambda *inputs: function(original, module, *inputs)

    return plant


def of_input(layer: str, function: Callable[..., Tensor]) -> PlantTorch:
    """Another function of the layer's inputs alone."""
    return instead(layer, lambda _original, _module, *inputs: function(*inputs))


def computed_of(layer: str, change: Callable[[Tensor], Tensor]) -> PlantTorch:
    """The layer computed of changed inputs."""
    return instead(layer, lambda original, _module, *inputs: original(*map(change, inputs)))


def changed_after(layer: str, change: Callable[[Tensor], Tensor]) -> PlantTorch:
    """The layer's result changed."""
    return instead(layer, lambda original, _module, *inputs: change(original(*inputs)))


def with_weight(layer: str, change: Callable[[Tensor], Tensor]) -> PlantTorch:
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

    return instead(layer, compute)


def without_bias(_original: Any, module: Any, x: Tensor) -> Tensor:
    """Conv or linear without the bias that it holds."""
    return _biased(module, x, 0.0)


def bias_twice(_original: Any, module: Any, x: Tensor) -> Tensor:
    """Conv or linear with its bias added twice."""
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


def lrn_shifted(module: Any, x: Tensor, by: int) -> Tensor:
    """LRN over channels whose window lies `by` channels further."""
    half = module.size // 2
    squares = functional.pad(x * x, (0, 0, 0, 0, half, half))
    sums = sum(squares[:, i : i + x.shape[1]] for i in range(module.size))
    assert isinstance(sums, Tensor)
    moved = torch.roll(functional.pad(sums, (0, 0, 0, 0, 1, 1)), by, 1)[:, 1:-1]
    return _normalised(module, x, module.alpha / module.size * moved)


def lrn_of_even_window(module: Any, x: Tensor) -> Tensor:
    """LRN over a window of one channel less, which has no middle."""
    size = module.size - 1
    squares = functional.pad(x * x, (0, 0, 0, 0, size // 2, size - size // 2 - 1))
    sums = sum(squares[:, i : i + x.shape[1]] for i in range(size))
    assert isinstance(sums, Tensor)
    return _normalised(module, x, module.alpha / module.size * sums)


def lrn_divided_by_present(module: Any, x: Tensor) -> Tensor:
    """LRN that divides by the channels that there are, also at the first and last ones."""
    half = module.size // 2
    ones = torch.ones_like(x)
    sums = []
    for values in (x * x, ones):
        padded = functional.pad(values, (0, 0, 0, 0, half, half))
        sums.append(torch.stack([padded[:, i : i + x.shape[1]] for i in range(module.size)]).sum(0))
    return _normalised(module, x, module.alpha * sums[0] / sums[1])


def lrn_within(module: Any, x: Tensor) -> Tensor:
    """LRN within a channel in place of that over channels."""
    mean = functional.avg_pool2d(x * x, module.size, 1, module.size // 2)
    return _normalised(module, x, module.alpha * mean)


def _normalised(module: Any, x: Tensor, scaled: Tensor) -> Tensor:
    normalised: Tensor = x / (module.k + scaled) ** module.beta
    return normalised


def lrn_across(module: Any, x: Tensor) -> Tensor:
    """LRN over channels in place of that within one."""
    return functional.local_response_norm(x, module.size, module.alpha, module.beta, module.k)


def halves_swapped(weight: Tensor) -> Tensor:
    """The kernels of two groups swapped."""
    return torch.roll(weight, weight.shape[0] // 2, 0)


def groups_merged(_original: Any, module: Any, x: Tensor) -> Tensor:
    """Every kernel sees all channels, its weights being used for each group."""
    weight = module.weight.repeat(1, module.groups, 1, 1)
    return functional.conv2d(x, weight, module.bias, module.stride, module.padding)


def narrow(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """Rounding to a narrower format."""
    return lambda values: values.to(dtype).to(torch.float32)


def computed_in(layer: str, dtype: torch.dtype) -> PlantTorch:
    """Inputs, weights and result of a conv or linear layer rounded to a narrower format."""
    rounded = narrow(dtype)

    def plant(net: TorchNet) -> None:
        with_weight(layer, rounded)(net)
        computed_of(layer, rounded)(net)
        changed_after(layer, rounded)(net)

    return plant


def ten_bits(values: Tensor) -> Tensor:
    """Rounded to TF32's mantissa."""
    bits = values.contiguous().view(torch.int32)
    return ((bits + (1 << 12)) & ~((1 << 13) - 1)).view(torch.float32)


def channels_last_order(x: Tensor) -> Tensor:
    """The features in the order row, column, channel."""
    return x.permute(0, 2, 3, 1).flatten(1)


def rewired(layer: str, *sources: str) -> PlantTorch:
    """The layer reads other tensors."""

    def plant(net: TorchNet) -> None:
        net._sources[layer] = sources
        net._finished = dict.fromkeys(net._finished, ())

    return plant


def norm_behind_pool(net: TorchNet) -> None:
    """norm1 and pool1 swapped, as CaffeNet has them."""
    rewired("norm1", "pool1")(net)
    rewired("pool1", "relu1")(net)
    rewired("conv2", "norm1")(net)
    modules = net._modules
    order = list(modules)
    first, second = order.index("norm1"), order.index("pool1")
    order[first], order[second] = order[second], order[first]
    for name in order:
        modules[name] = modules.pop(name)


MEAN_AND_VARIANCE_SWAPPED = instead(
    "norm3",
    lambda _o, m, x: functional.batch_norm(
        x, m.running_var, m.running_mean.abs(), m.weight, m.bias, eps=m.eps
    ),
)


def batch_norm_with(**changes: Callable[[Any], Any]) -> PlantTorch:
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

    return instead("norm3", compute)


def padded_with_edges(layer: str) -> PlantTorch:
    """The image's edge repeated instead of zeros."""

    def compute(_original: Any, module: Any, x: Tensor) -> Tensor:
        padded = functional.pad(x, (1, 1, 1, 1), mode="replicate")
        return functional.conv2d(padded, module.weight, module.bias, groups=module.groups)

    return instead(layer, compute)


def swapped_sides(layer: str) -> PlantTorch:
    """The padding on the other sides."""

    def plant(net: TorchNet) -> None:
        pad = _part(net, layer, 0)
        left, right, top, bottom = pad.padding
        pad.padding = (right, left, bottom, top)

    return plant


def divisors_without_padding(layer: str) -> PlantTorch:
    """The divisors without the padding."""

    def plant(net: TorchNet) -> None:
        op = net.graph.by_name[layer].op
        assert isinstance(op, AvgPool)
        other = op.model_copy(update={"count_include_pad": False})
        divisors = other.divisors(net.graph.by_name[layer].input_shapes[0])
        _fill(net, layer, torch.tensor(divisors))

    return plant


def divisors_of(layer: str, value: float) -> PlantTorch:
    """The same divisor for every window."""
    return lambda net: _fill(net, layer, torch.tensor(value))


def padded_with_zeros(layer: str) -> PlantTorch:
    """A maximum pool whose padding is zero and not minus infinity."""

    def plant(net: TorchNet) -> None:
        _part(net, layer, 0).value = 0.0

    return plant


def _part(net: TorchNet, layer: str, index: int) -> Any:
    """A module of a layer that is a sequence of them."""
    module = net.get_submodule(layer)
    assert isinstance(module, nn.Sequential)
    return module[index]


def _fill(net: TorchNet, layer: str, values: Tensor) -> None:
    divisors = net.get_submodule(layer).divisors
    assert isinstance(divisors, Tensor)
    divisors.copy_(values)


def average_rounded_up(net: TorchNet) -> None:
    """PyTorch's own ceil mode."""
    of_input("pool3", lambda x: functional.avg_pool2d(x, 3, 2, 1, True, False))(net)
