"""Stops a run that learns nothing, and says where in the net it goes wrong."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from alexc.diagnostics import AlexcError, Diagnostic
from alexc.lower.to_torch import TorchNet

_MEMORY = 0.99  # of the running mean of the loss: about the last hundred steps
_NEAR = 0.01  # of ln(classes): a loss above this share of it is guessing
_SAME = 1e-3  # images give the same values where these differ by less than this share


class Guard:
    """Watches the loss. `mean` is its running mean, which a checkpoint keeps."""

    def __init__(self, classes: int, stuck_after: int, mean: float | None) -> None:
        self.guessing = math.log(classes)
        self.stuck_after = stuck_after
        self.mean = mean

    def verdict(self, loss: float, step: int) -> str | None:
        """What is wrong after step number `step` (from 1) with this loss, or None."""
        if not math.isfinite(loss):
            return f"the loss is {loss} at step {step}"
        self.mean = loss if self.mean is None else _MEMORY * self.mean + (1 - _MEMORY) * loss
        if step >= self.stuck_after and self.mean > (1 - _NEAR) * self.guessing:
            return (
                f"the loss is stuck at {self.mean:.4f} after {step:,} steps, where guessing among "
                f"{math.exp(self.guessing):.0f} classes gives ln {math.exp(self.guessing):.0f} = "
                f"{self.guessing:.4f}"
            )
        return None


def diagnosis(
    verdict: str, net: TorchNet, inputs: Tensor, labels: Tensor, rate: float, *, updates: int
) -> AlexcError:
    """The fault to stop with: the verdict, and what each layer does with the batch at hand.

    `updates` of the weights were made since the loss that the verdict is of.
    """
    finite = "stuck" in verdict
    notes = []
    if updates and not finite:
        more = "one more update" if updates == 1 else f"{updates} more updates"
        notes.append(
            "losses on a GPU are looked at now and then: the layers below are seen after "
            f"{more}, when what is not finite has spread"
        )
    notes += [*_of_weights(net), *_of_activations(net, inputs), *_of_gradients(net, inputs, labels)]
    notes.append(f"the learning rate was {rate:.3g}")
    help = (
        "another init (`init: kaiming`), a lower learning rate or a warm-up; a net whose loss "
        "starts late may get more steps by train.stuck_after"
        if finite
        else "a lower learning rate, a warm-up, or train.clip; the checkpoints before it are whole"
    )
    code = "train/stuck" if finite else "train/not-finite"
    return AlexcError(Diagnostic(code, verdict, notes=tuple(notes), help=help))


def _of_weights(net: TorchNet) -> list[str]:
    broken = [name for name, p in net.named_parameters() if not torch.isfinite(p).all()]
    return [f"weights that are not finite: {', '.join(broken[:5])}"] if broken else []


@torch.no_grad()
def _of_activations(net: TorchNet, inputs: Tensor) -> list[str]:
    """The first layer whose values are not finite, or are the same for every image."""
    if not torch.isfinite(inputs).all():
        return ["the images themselves are not finite: see `preprocess`"]
    for name, values in net.intermediates(inputs).items():
        values = values.float().flatten(1)
        if not torch.isfinite(values).all():
            return [f"{name} is the first layer whose values are not finite"]
        spread = values.std(dim=0).mean() if len(values) > 1 else values.new_tensor(1.0)
        size = values.abs().mean()
        if size == 0:
            return [f"{name} is the first layer that is 0 for every image: nothing gets through"]
        if spread < _SAME * size:
            values_differ = f"its values differ by {float(spread):.2g} around {float(size):.2g}"
            return [f"{name} is the first layer that hardly tells images apart: {values_differ}"]
    return []


def _of_gradients(net: TorchNet, inputs: Tensor, labels: Tensor) -> list[str]:
    """The smallest and the largest share that the gradient has in the weights of a layer."""
    net.zero_grad(set_to_none=True)
    outputs = net(inputs)
    assert isinstance(outputs, Tensor)
    loss = functional.cross_entropy(outputs.flatten(1), labels, ignore_index=-1)
    loss.backward()  # type: ignore[no-untyped-call]
    shares = {
        name: float(p.grad.norm() / p.detach().norm().clamp_min(1e-30))
        for name, p in net.named_parameters()
        if p.grad is not None and p.ndim > 1
    }
    net.zero_grad(set_to_none=True)
    usable = {name: share for name, share in shares.items() if math.isfinite(share)}
    if not usable:
        return ["no gradient is finite"]
    low, high = min(usable, key=usable.__getitem__), max(usable, key=usable.__getitem__)
    lowest, highest = f"{usable[low]:.2g} in {low}", f"{usable[high]:.2g} in {high}"
    return [f"‖gradient‖ / ‖weights‖ goes from {lowest} to {highest}"]
