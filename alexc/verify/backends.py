"""The backends that are held against the reference, behind one small interface.

A backend computes three things: every named tensor of the whole net, which is what localises a
fault; one layer alone on given inputs; and the outputs of the very thing that is shipped, with
nothing added to it. It says nothing of right or wrong.
"""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np
from numpy.typing import NDArray

from alexc.graph.graph import INPUT, Graph, Node
from alexc.passes.inference import inference

if TYPE_CHECKING:
    from alexc.lower.to_torch import TorchNet

Tensor = NDArray[Any]
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Subject:
    """What is verified: the graph as trained, its weights by whole name, and the model's file."""

    graph: Graph
    weights: Mapping[str, NDArray[np.float32]]
    model: Path | None


@dataclass(frozen=True)
class Trial:
    """One layer alone: its inputs, in the order of the node's, and its weights by local name."""

    node: Node
    inputs: Sequence[NDArray[np.float32]]
    weights: Mapping[str, NDArray[np.float32]]


class BackendFault(Exception):  # noqa: N818  (it becomes a row of the report)
    """A backend could not compute what was asked; `layer` where it is known."""

    def __init__(self, message: str, layer: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.layer = layer


class Backend(ABC):
    """A way to compute a graph. Used as: `open`, any of the three computations, `close`."""

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]
    reads_model: ClassVar[bool]

    def __init__(self, subject: Subject) -> None:
        self.subject = subject

    @property
    def graph(self) -> Graph:
        """The graph whose named tensors the backend has: without dropout where that is removed."""
        return self.subject.graph

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
            raise BackendFault(_first_line(error), entered[0] or None) from error
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
                except Exception as error:
                    results.append(BackendFault(_first_line(error), trial.node.name))
        return results

    def shipped(self, images: NDArray[np.float32]) -> Tensors:
        import torch

        try:
            with torch.inference_mode():
                outputs = self.net(torch.from_numpy(images))
        except Exception as error:
            raise BackendFault(_first_line(error)) from error
        if not isinstance(outputs, dict):
            outputs = {self.subject.graph.outputs[0]: outputs}
        return {name: tensor.numpy() for name, tensor in outputs.items()}


class _OnnxBackend(Backend):
    """What the backends that read model.onnx have in common."""

    reads_model: ClassVar[bool] = True

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject)
        self._graph = inference(subject.graph)

    @property
    def graph(self) -> Graph:
        return self._graph

    @property
    def model(self) -> Path:
        assert self.subject.model is not None
        return self.subject.model

    def parameters(self) -> None:
        """They are the file's, which is examined without any backend."""


@final
class OnnxRuntime(_OnnxBackend):
    """ONNX Runtime on the CPU."""

    name: ClassVar[str] = "onnxruntime"
    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime")

    def open(self) -> None:
        self._session = self._load(str(self.model))

    def tensors(self, images: NDArray[np.float32]) -> Tensors:
        from alexc.verify.onnx_parts import instrumented

        session = self._load(instrumented(self.model, self.graph), self.model.parent)
        return _run(session, {INPUT: images})

    def alone(self, trials: Sequence[Trial]) -> list[Tensor | BackendFault]:
        """All layers in one model, since sessions are slow to make; one by one if that fails."""
        try:
            return list(self._alone_together(trials))
        except BackendFault as together:
            if len(trials) == 1:
                return [BackendFault(together.message, trials[0].node.name)]
        results: list[Tensor | BackendFault] = []
        for trial in trials:
            results += self.alone([trial])
        return results

    def _alone_together(self, trials: Sequence[Trial]) -> list[Tensor]:
        from alexc.verify.onnx_parts import detached, given_name

        nodes = [trial.node for trial in trials]
        data, unread = detached(self.model, self.graph, nodes)
        feeds: dict[str, Tensor] = {}
        for trial in trials:
            for source, array in zip(trial.node.inputs, trial.inputs, strict=True):
                feeds[given_name(trial.node.name, source)] = array
            for local, whole in trial.node.parameter_names().items():
                feeds[whole] = trial.weights[local]
        feeds = {name: array for name, array in feeds.items() if name not in unread}
        results = _run(self._load(data, self.model.parent), feeds)
        return [results[node.name] for node in nodes]

    def shipped(self, images: NDArray[np.float32]) -> Tensors:
        return _run(self._session, {INPUT: images})

    def _load(self, model: str | bytes, folder: Path | None = None) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what goes wrong comes back as an exception as well
        if folder is not None:
            options.add_session_config_entry(
                "session.model_external_initializers_file_folder_path", str(folder)
            )
        try:
            return onnxruntime.InferenceSession(
                model, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise BackendFault(_first_line(error)) from error


def _run(session: Any, feeds: Mapping[str, Tensor]) -> Tensors:
    names = [output.name for output in session.get_outputs()]
    try:
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))
    except Exception as error:
        raise BackendFault(_first_line(error)) from error


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0][:300]}" if text else type(error).__name__


# Every backend by name, in the order of the report.
BACKENDS: dict[str, type[Backend]] = {backend.name: backend for backend in (Torch, OnnxRuntime)}
