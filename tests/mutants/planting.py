"""A fault planted in what a lowering made, or in the weights it reads, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
from numpy.typing import NDArray

from alexc.graph.graph import Graph
from alexc.lower import to_torch as torch_lowering
from alexc.lower.to_onnx import serialize, to_onnx
from alexc.lower.to_torch import TorchNet
from alexc.passes.inference import inference
from alexc.verify import Report, verify
from alexc.weights import store
from tests.mutants.nets import NETS, Weights, weights_for

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


def caught(mutant: Mutant, report: Report) -> bool:
    """Whether the report finds the fault, names its layer, and says rightly what kind it is of."""
    first = report.first_divergence
    return (
        not report.passed
        and first is not None
        and (first.layer, first.kind) == (mutant.layer, mutant.kind)
    )


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

    def lower(graph: Graph, weights: Mapping[str, NDArray[np.float32]]) -> TorchNet:
        net = original(graph, read if mutant.weights is not None else weights)
        if mutant.torch is not None:
            mutant.torch(net)
        return net

    with mock.patch.object(torch_lowering, "to_torch", lower):
        yield
