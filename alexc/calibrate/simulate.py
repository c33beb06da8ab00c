"""The net in PyTorch, to measure its tensors and to try what a grid does to its outputs.

This is for comparing ranges quickly. What a model of narrow numbers computes is certified by
`alexc.verify` alone, with an engine and against the float64 reference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alexc.graph.graph import INPUT, Graph
from alexc.graph.quantization import LARGEST, QuantizedFormat
from alexc.lower.to_torch import TorchNet, to_torch

Weights = Mapping[str, NDArray[np.float32]]
Images = NDArray[np.float32]

_AT_ONCE = 8  # images


class Simulation:
    """The graph with its weights, in evaluation mode."""

    def __init__(self, graph: Graph, weights: Weights) -> None:
        self._graph = graph
        self._net: TorchNet = to_torch(graph, weights)
        self._net.eval()

    def tensors(self, images: Images) -> Iterator[dict[str, NDArray[np.float32]]]:
        """Every named tensor, the input's included, for some images after the other."""
        for batch in _batches(images):
            with torch.inference_mode():
                found = self._net.intermediates(batch)
            yield {INPUT: batch.numpy()} | {name: t.numpy() for name, t in found.items()}

    def magnitudes(self, images: Images) -> dict[str, float]:
        """The largest magnitude of every named tensor over all images."""
        found: dict[str, float] = {}
        for tensors in self.tensors(images):
            for name, values in tensors.items():
                found[name] = max(found.get(name, 0.0), float(np.abs(values).max()))
        return found

    def outputs(
        self, images: Images, quantized: Graph | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """The outputs by name; of `quantized`, the same graph with layers on grids, if it is given.

        The weights of those layers stay on their grids after that.
        """
        hooks = [] if quantized is None else list(self._onto_grids(quantized))
        parts: list[dict[str, NDArray[np.float32]]] = []
        try:
            with torch.inference_mode():
                for batch in _batches(images):
                    found: Any = self._net(batch)
                    if not isinstance(found, dict):
                        found = {self._graph.outputs[0]: found}
                    parts.append({name: tensor.numpy() for name, tensor in found.items()})
        finally:
            for hook in hooks:
                hook.remove()
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _onto_grids(self, quantized: Graph) -> Iterator[Any]:
        for name, grid in quantized.quantized.items():
            layer: Any = self._net.get_submodule(name)
            steps = torch.tensor(grid.weight_steps).reshape(-1, *[1] * (layer.weight.dim() - 1))
            with torch.no_grad():
                layer.weight.copy_(_rounded(layer.weight, steps, grid.format))

            if grid.input_step is not None:

                def read(
                    _: Any, given: Any, step: float = grid.input_step, f: Any = grid.input_format
                ) -> Any:
                    return (_rounded(given[0], torch.tensor(step), f), *given[1:])

                yield layer.register_forward_pre_hook(read)
            if grid.output_step is not None:

                def write(
                    _: Any,
                    __: Any,
                    result: Any,
                    step: float = grid.output_step,
                    f: Any = grid.output_format,
                ) -> Any:
                    return _rounded(result, torch.tensor(step), f)

                yield layer.register_forward_hook(write)


def _batches(images: Images) -> Iterator[torch.Tensor]:
    for first in range(0, len(images), _AT_ONCE):
        yield torch.from_numpy(np.ascontiguousarray(images[first : first + _AT_ONCE]))


def _rounded(values: torch.Tensor, step: torch.Tensor, format: QuantizedFormat) -> torch.Tensor:
    """As `graph.quantization.on_grid`, in float32."""
    scaled = values / step
    if format == "int8":
        return scaled.round_().clamp_(-128, 127) * step
    if format == "uint8":
        return scaled.round_().clamp_(0, 255) * step
    most = LARGEST[format]
    return scaled.clamp_(-most, most).to(torch.float8_e4m3fn).to(torch.float32) * step
