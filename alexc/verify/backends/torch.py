"""The trainable module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np
from numpy.typing import NDArray

from alexc.verify.backends.base import Backend, BackendFault, Tensor, Tensors, Trial, first_line

if TYPE_CHECKING:
    from alexc.lower.to_torch import TorchNet


@final
class Torch(Backend):
    """The trainable module, in evaluation mode, on the CPU."""

    name: ClassVar[str] = "torch"
    packages: ClassVar[tuple[str, ...]] = ("torch",)
    reads_model: ClassVar[bool] = False

    net: TorchNet

    def open(self) -> None:
        from alexc.lower.to_torch import to_torch

        self.net = to_torch(self.subject.graph, self.subject.weights)
        self.net.eval()

    def parameters(self) -> Mapping[str, Tensor]:
        state = self.net.state_dict()
        return {
            name: tensor.numpy()
            for name, tensor in state.items()
            if not name.endswith(".num_batches_tracked")
        }

    def tensors(self, images: NDArray[np.float32]) -> Tensors:
        """Recorded by hooks while the module's own forward runs, so that its wiring is tested."""
        import torch

        found: Tensors = {}
        entered = [""]

        def enter(name: str) -> Any:
            return lambda *_: entered.__setitem__(0, name)

        def record(name: str) -> Any:
            return lambda _module, _inputs, output: found.__setitem__(name, output.numpy().copy())

        hooks = []
        for name, layer in self.net.named_children():
            hooks.append(layer.register_forward_pre_hook(enter(name)))
            hooks.append(layer.register_forward_hook(record(name)))
        try:
            with torch.inference_mode():
                self.net(torch.from_numpy(images))
        except Exception as error:
            raise BackendFault(first_line(error), entered[0] or None, found) from error
        finally:
            for hook in hooks:
                hook.remove()
        return found

    def alone(self, trials: Sequence[Trial]) -> list[Tensor | BackendFault]:
        import torch
        from torch.func import functional_call

        results: list[Tensor | BackendFault] = []
        with torch.inference_mode():
            for trial in trials:
                layer = self.net.get_submodule(trial.node.name)
                weights = {name: torch.from_numpy(array) for name, array in trial.weights.items()}
                inputs = tuple(torch.from_numpy(array) for array in trial.inputs)
                try:
                    results.append(functional_call(layer, weights, inputs, strict=False).numpy())
                except Exception as error:  # noqa: BLE001  (whatever a layer raises is a finding)
                    results.append(BackendFault(first_line(error), trial.node.name))
        return results

    def shipped(self, images: NDArray[np.float32]) -> Tensors:
        import torch

        try:
            with torch.inference_mode():
                outputs = self.net(torch.from_numpy(images))
        except Exception as error:
            raise BackendFault(first_line(error)) from error
        if not isinstance(outputs, dict):
            outputs = {self.subject.graph.outputs[0]: outputs}
        return {name: tensor.numpy() for name, tensor in outputs.items()}
