"""What learns: module, optimiser, scaler and moving average, and the one step that moves them.

A step is `gradients`, then `update`; between the two its loss can be looked at, before anything has
changed. All that a step changes is here, so this is also what a checkpoint holds the tensors of.
Dropout is seeded anew in every step, from the recipe's seed, the step and the worker.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from alexc.diagnostics import AlexcError
from alexc.graph.graph import Graph
from alexc.lower.to_torch import TorchNet, to_torch
from alexc.spec.recipe import TrainSpec
from alexc.train.checkpoint import Checkpoint
from alexc.train.data.dataset import DAMAGED
from alexc.train.data.order import chance
from alexc.train.guard import diagnosis
from alexc.train.optimizer import make_optimizer, restore_states, states_by_name
from alexc.train.precision import Precision, autocast, storage
from alexc.train.workers import Workers

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch.optim import Optimizer


@dataclass(frozen=True, slots=True)
class Found:
    """What a step found in a worker's part of the batch, on the device until somebody looks."""

    step: int  # its number, from 1
    sums: Tensor  # float64 (2,): the mean loss, and how many images were told rightly
    known: Tensor  # how many images could be read
    count: int  # of how many


class Learner:
    """The net while it learns, in one worker."""

    def __init__(
        self,
        graph: Graph,
        recipe: TrainSpec,
        precision: Precision,
        workers: Workers,
        start: Checkpoint | Mapping[str, NDArray[np.float32]],
    ) -> None:
        """Begin with these weights, or where this checkpoint stands."""
        self.graph, self.recipe, self.precision, self.workers = graph, recipe, precision, workers
        given = None if isinstance(start, Checkpoint) else {k: start[k] for k in graph.parameters}
        module = to_torch(graph, given).to(workers.device, storage(precision))
        if recipe.channels_last:
            # The cast of PyTorch's stubs leaves this overload out.
            module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.module: TorchNet = module
        self.optimizer: Optimizer = make_optimizer(module, recipe.optimizer)
        self.scaler = torch.amp.GradScaler(workers.device.type, enabled=precision == "fp16")
        self.average: dict[str, Tensor] | None = None
        if recipe.ema is not None:
            self.average = {k: v.detach().clone() for k, v in _floats(module).items()}
        if isinstance(start, Checkpoint):
            self._restore(start)
        self.forward = self._wrapped()
        self._at_hand: tuple[Tensor, Tensor] | None = None
        self._updated = 0  # the number of the last step that has moved the weights

    def _wrapped(self) -> nn.Module:
        """The module as a step calls it: compiled, and its gradients exchanged."""
        forward: nn.Module = self.module
        if self.recipe.compile:
            forward = torch.compile(forward)  # type: ignore[assignment]
        if self.workers.size > 1:
            device = self.workers.device
            ids = [device.index] if device.type == "cuda" else None
            forward = DistributedDataParallel(forward, device_ids=ids)
        return forward

    # ---- one step --------------------------------------------------------------------------------

    def gradients(self, inputs: Tensor, labels: Tensor, step: int) -> Found:
        """Forward and backward over this worker's part of step number `step` (from 0)."""
        recipe, workers = self.recipe, self.workers
        # Dropout differs from worker to worker, and from step to step.
        torch.manual_seed(chance(recipe.seed, "step", step, workers.rank))
        self.optimizer.zero_grad(set_to_none=True)
        sums = torch.zeros(2, dtype=torch.float64, device=workers.device)
        self.module.train()
        parts = recipe.accumulate
        for number, (x, y) in enumerate(
            zip(inputs.chunk(parts), labels.chunk(parts), strict=True), 1
        ):
            with self._alone(number < parts):
                with autocast(self.precision, workers.device):
                    logits = self.forward(x).flatten(1)
                wide = logits if logits.dtype == torch.float64 else logits.float()
                # The mean over the images that could be read, also where that is none of them.
                loss = functional.cross_entropy(
                    wide,
                    y,
                    ignore_index=DAMAGED,
                    label_smoothing=recipe.label_smoothing,
                    reduction="sum",
                ) / (y >= 0).sum().clamp_min(1)
                self.scaler.scale(loss / parts).backward()  # type: ignore[no-untyped-call]
            sums[0] += loss.detach() / parts
            sums[1] += (wide.detach().argmax(1) == y).sum()
        self._at_hand = inputs, labels
        return Found(step + 1, sums, (labels >= 0).sum(), len(labels))

    def update(self, step: int, rate: float) -> None:
        """Move the weights along the gradients, with this learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if self.recipe.clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.module.parameters(), self.recipe.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self._average(step)
        self._updated = step + 1

    def _alone(self, more: bool) -> AbstractContextManager[object]:
        """Where gradients are not exchanged yet, because more of them will be added."""
        if more and isinstance(self.forward, DistributedDataParallel):
            return self.forward.no_sync()
        return nullcontext()

    @torch.no_grad()
    def _average(self, step: int) -> None:
        """w̄ ← e·w̄ + (1 − e)·w; early on with a smaller e, so that the draw is soon forgotten."""
        assert self.average is not None and self.recipe.ema is not None
        keep = min(self.recipe.ema, (1 + step) / (10 + step))
        current = _floats(self.module)
        torch._foreach_lerp_(
            list(self.average.values()), [current[name] for name in self.average], 1 - keep
        )

    def diagnosis(self, verdict: str, step: int, rate: float) -> AlexcError:
        """The fault to stop with: this was found in step number `step`, at this learning rate.

        The layers are seen as they are now, with the images of the last step.
        """
        assert self._at_hand is not None
        updates = max(0, self._updated - step + 1)
        return diagnosis(verdict, self.module, *self._at_hand, rate, updates=updates)

    # ---- what is tested and kept -----------------------------------------------------------------

    def scores(self, inputs: Tensor, *, quick: bool) -> Tensor:
        """Of the weights as they are kept, in evaluation mode; `quick` is with autocast."""
        self.module.eval()
        with autocast(self.precision, self.workers.device) if quick else nullcontext():
            if self.average is None:
                scores = self.module(inputs)
            else:
                scores = torch.func.functional_call(self.module, self.average, (inputs,))
        assert isinstance(scores, Tensor)
        return scores

    def weights(self) -> dict[str, Tensor]:
        """The weights that are tested and built from, in fp32: the moving average if there is one.

        A view of what goes on changing.
        """
        kept = self.average if self.average is not None else self.module.state_dict()
        return {name: kept[name].float() for name in self.graph.parameters if name in kept}

    def tensors(self) -> dict[str, Tensor]:
        """All tensors that learning goes on with. A view of what goes on changing."""
        found = {f"net:{name}": value for name, value in self.module.state_dict().items()}
        momenta = states_by_name(self.module, self.optimizer)
        found |= {f"optimizer:{name}": value for name, value in momenta.items()}
        if self.average is not None:
            found |= {f"average:{name}": value for name, value in self.average.items()}
        return found

    def scaling(self) -> dict[str, Any]:
        """The state of fp16's scaler; empty in other precisions."""
        return dict(self.scaler.state_dict()) if self.scaler.is_enabled() else {}

    def _restore(self, start: Checkpoint) -> None:
        tensors = start.tensors()
        with torch.no_grad():
            for name, value in self.module.state_dict().items():
                value.copy_(tensors[f"net:{name}"])
            for name, value in (self.average or {}).items():
                value.copy_(tensors[f"average:{name}"])
        momenta = {
            whole.removeprefix("optimizer:"): value
            for whole, value in tensors.items()
            if whole.startswith("optimizer:")
        }
        restore_states(self.module, self.optimizer, momenta)
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(start.state.scaler)


def _floats(module: nn.Module) -> dict[str, Tensor]:
    """Everything of the module that has an average: weights and the statistics of batch norm."""
    return {k: v for k, v in module.state_dict().items() if v.is_floating_point()}
