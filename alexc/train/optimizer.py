"""The optimisers of recipes: PyTorch's own, and LARS, which PyTorch does not have."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from alexc.spec.recipe import OptimizerSpec


class Lars(Optimizer):
    """You, Gitman and Ginsburg 2017: momentum with a rate of its own for every tensor.

    local = trust · ‖w‖ / (‖g‖ + d·‖w‖), 1 for tensors of one dimension and where a norm is 0
    v ← m·v + lr·local·(g + d·w);  w ← w − v
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        momentum: float,
        trust: float,
    ) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "trust": trust})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update, from the gradients as they are. There is no use for a closure."""
        for group in self.param_groups:
            decay = group["weight_decay"]
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                gradient = weight.grad.add(weight, alpha=decay)
                local = self._local(weight, weight.grad, decay, group["trust"])
                state = self.state[weight]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(weight)
                velocity = state["momentum_buffer"]
                velocity.mul_(group["momentum"]).add_(gradient * (local * group["lr"]))
                weight.sub_(velocity)
        return closure() if closure is not None else None

    @staticmethod
    def _local(weight: Tensor, gradient: Tensor, decay: float, trust: float) -> Tensor:
        size, slope = weight.norm(), gradient.norm()
        local = trust * size / (slope + decay * size)
        usable = (size > 0) & (slope > 0) & (weight.ndim > 1)
        return torch.where(usable, local, torch.ones_like(local))


def make_optimizer(net: nn.Module, spec: OptimizerSpec) -> Optimizer:
    """The recipe's optimiser of the net's parameters; tensors of one dimension are the biases."""
    parameters = [p for p in net.parameters() if p.requires_grad]
    large = [p for p in parameters if p.ndim > 1]
    small = [p for p in parameters if p.ndim <= 1]
    decays = (spec.weight_decay, spec.weight_decay if spec.decay_biases else 0.0)
    groups: list[dict[str, Any]] = [
        {"params": tensors, "weight_decay": decay}
        for tensors, decay in zip((large, small), decays, strict=True)
        if tensors
    ]
    match spec.name:
        case "sgd":
            return SGD(
                groups,
                spec.learning_rate,
                spec.momentum,
                nesterov=spec.nesterov,
                fused=True,
            )
        case "adamw":
            betas = (spec.momentum, spec.second_momentum)
            return AdamW(groups, spec.learning_rate, betas, fused=True)
        case "lars":
            return Lars(groups, spec.learning_rate, spec.momentum, spec.trust)


def states_by_name(net: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """The optimiser's tensors as `conv1.weight/momentum_buffer`, for a checkpoint."""
    return {
        f"{name}/{key}": value
        for name, parameter in net.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def restore_states(net: nn.Module, optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what `states_by_name` took out."""
    parameters = dict(net.named_parameters())
    for whole, value in tensors.items():
        name, _, key = whole.rpartition("/")
        parameter = parameters[name]
        # All lies with its parameter, in the same order in memory; fused counters of steps too.
        like = value.to(parameter.device) if value.ndim == 0 else torch.empty_like(parameter)
        optimizer.state[parameter][key] = like.copy_(value)
