"""What a backend is: three computations behind one small interface.

A backend computes every named tensor of the whole net, which is what localises a fault; one layer
alone on given inputs; and the outputs of the very thing that is shipped, with nothing added to it.
It says nothing of right or wrong.
"""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from alexc.graph.graph import INPUT, Graph, Node
from alexc_runtime.manifest import BatchRange, EngineRecord

Tensor = NDArray[Any]
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Counterparts:
    """What a model of another exporter calls the graph's tensors.

    `tensors` holds those of the layers that have a counterpart there, `outputs` the model's own
    outputs, both by the graph's names. `batch` is how many images it takes, None being any number.
    """

    input: str
    tensors: Mapping[str, str]
    outputs: Mapping[str, str]
    batch: int | None = None


@dataclass(frozen=True)
class Subject:
    """What is verified: the graph as trained, its weights by whole name, and the model's file.

    `written` is the graph in its inference form that the model was written from, with the precision
    of each layer. `foreign` is there if the model is not alexc's own. `plans` are those that lie
    beside the model, their paths as seen from its folder, by the engines that run them. `batches`
    are the sizes of batch that the model will serve, if that is known. `precision` is what the
    engines that load the model as it is are told of it.
    """

    graph: Graph
    weights: Mapping[str, NDArray[np.float32]]
    model: Path | None
    written: Graph
    foreign: Counterparts | None = None
    plans: Mapping[str, EngineRecord] = field(default_factory=dict)
    batches: BatchRange | None = None
    precision: str = "fp32"


@dataclass(frozen=True)
class Trial:
    """One layer alone: its inputs, in the order of the node's, and its weights by local name."""

    node: Node
    inputs: Sequence[NDArray[np.float32]]
    weights: Mapping[str, NDArray[np.float32]]


class BackendFault(Exception):  # noqa: N818  (it becomes a row of the report)
    """A backend could not compute what was asked: `layer` where it is known, `tensors` so far."""

    def __init__(
        self, message: str, layer: str | None = None, tensors: Tensors | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.layer = layer
        self.tensors = tensors or {}


class Unsupported(BackendFault):
    """The backend has no kernels for this model's number formats, which is nobody's fault."""


class Backend(ABC):
    """A way to compute a graph. Used as: `open`, any of the three computations, `close`."""

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]
    reads_model: ClassVar[bool]
    # Whether a model that it can't load is its own limit, where nobody asked for this backend.
    optional: ClassVar[bool] = False

    def __init__(self, subject: Subject) -> None:
        self.subject = subject

    @property
    def graph(self) -> Graph:
        """The graph whose named tensors the backend has: without dropout where that is removed."""
        return self.subject.graph

    @classmethod
    def model_file(cls, model: Path) -> Path:
        """The file that the backend reads, where `model` is the model.onnx."""
        return model

    @classmethod
    def concerned(cls, subject: Subject) -> bool:  # noqa: ARG003
        """Whether the report is to speak of it where nobody asked for it by name."""
        return True

    @classmethod
    def obstacle(cls, subject: Subject) -> str | None:  # noqa: ARG003
        """What keeps the backend from running on this machine, packages apart; None if nothing."""
        return None

    @classmethod
    def sizes(cls, subject: Subject, images: int) -> tuple[int, ...]:  # noqa: ARG003
        """Batches of other sizes than `images` that its outputs are computed for as well."""
        return tuple(sorted({1, 3} - {images}))

    @classmethod
    def narrows(cls, subject: Subject) -> str | None:  # noqa: ARG003
        """The precision that it may take where the model says fp32 (see `precision.of_layers`)."""
        return None

    @classmethod
    def missing(cls) -> str | None:
        """The package that is not installed, or None."""
        for package in cls.packages:
            if importlib.util.find_spec(package) is None:
                return package
        return None

    @abstractmethod
    def open(self) -> None:
        """Load the weights or the model. Raises BackendFault."""

    @abstractmethod
    def parameters(self) -> Mapping[str, Tensor] | None:
        """The weights as the backend has them, by whole name; None if it doesn't show them."""

    @abstractmethod
    def tensors(self, images: NDArray[np.float32]) -> Tensors:
        """Every named tensor of the whole net. Raises BackendFault."""

    @abstractmethod
    def alone(self, trials: Sequence[Trial]) -> list[Tensor | BackendFault]:
        """The result of each layer on its own inputs, or why there is none."""

    @abstractmethod
    def shipped(self, images: NDArray[np.float32]) -> Tensors:
        """The outputs by name, from the unchanged thing that a user runs. Raises BackendFault."""


class ModelBackend(Backend):
    """What the backends that read model.onnx have in common."""

    reads_model: ClassVar[bool] = True

    @property
    def graph(self) -> Graph:
        return self.subject.written

    @classmethod
    def sizes(cls, subject: Subject, images: int) -> tuple[int, ...]:
        """One image, an odd number of them, and what a bundle says that it serves."""
        served = subject.batches
        named = set() if served is None else {served.min, served.opt, served.max}
        return tuple(sorted(({1, 3} | named) - {images}))

    def feed(self, images: NDArray[np.float32]) -> Tensors:
        """The images by the name of the input and of its type: uint8 where they are pixels."""
        return {INPUT: images if self.graph.pixels is None else images.astype(np.uint8)}

    @property
    def model(self) -> Path:
        assert self.subject.model is not None
        return self.model_file(self.subject.model)

    def parameters(self) -> None:
        """They are the file's, which is looked at without any backend: see `onnx_parts`."""

    def exotic(self) -> str | None:
        """The number format of the model that not every backend has kernels for, or None."""
        if "bf16" in self.graph.precisions.values():
            return "bf16"
        if any(grid.format == "fp8" for grid in self.graph.quantized.values()):
            return "fp8"
        return None


def feeds_of(trials: Sequence[Trial]) -> dict[str, Tensor]:
    """What the layers of `onnx_parts.detached` are given, by the names there."""
    from alexc.verify.onnx_parts import given_name

    feeds: dict[str, Tensor] = {}
    for trial in trials:
        for source, array in zip(trial.node.inputs, trial.inputs, strict=True):
            feeds[given_name(trial.node.name, source)] = array
        for local, whole in trial.node.parameter_names().items():
            feeds[whole] = trial.weights[local]
    return feeds


def first_line(error: Exception) -> str:
    """What went wrong, without the places in the source of a library that pass it on."""
    lines = [line.strip() for line in str(error).splitlines()]
    telling = [line for line in lines if line and not line.startswith("Exception from ")]
    return f"{type(error).__name__}: {telling[0][:300]}" if telling else type(error).__name__
