"""The backends that are held against the reference, behind one small interface.

A backend computes three things: every named tensor of the whole net, which is what localises a
fault; one layer alone on given inputs; and the outputs of the very thing that is shipped, with
nothing added to it. It says nothing of right or wrong.
"""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np
from numpy.typing import NDArray

from alexc.engines.forms import FILES
from alexc.graph.graph import INPUT, Graph, Node

if TYPE_CHECKING:
    from alexc.lower.to_torch import TorchNet

Tensor = NDArray[Any]
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Subject:
    """What is verified: the graph as trained, its weights by whole name, and the model's file.

    `written` is the graph in its inference form that the model was written from, with the precision
    of each layer.
    """

    graph: Graph
    weights: Mapping[str, NDArray[np.float32]]
    model: Path | None
    written: Graph


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
            raise BackendFault(_first_line(error), entered[0] or None, found) from error
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

    @property
    def graph(self) -> Graph:
        return self.subject.written

    @property
    def model(self) -> Path:
        assert self.subject.model is not None
        return self.model_file(self.subject.model)

    def parameters(self) -> None:
        """They are the file's, which is looked at without any backend: see `onnx_parts`."""

    def _exotic(self) -> str | None:
        """The number format of the model that not every backend has kernels for, or None."""
        if "bf16" in self.graph.precisions.values():
            return "bf16"
        if any(grid.format == "fp8" for grid in self.graph.quantized.values()):
            return "fp8"
        return None


class OnnxRuntime(_OnnxBackend):
    """ONNX Runtime on the CPU."""

    name: ClassVar[str] = "onnxruntime"
    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime")

    def open(self) -> None:
        try:
            self._session = self._load(str(self.model))
        except BackendFault as fault:
            if (format := self._exotic()) is not None:
                reason = fault.message.rpartition(" : ")[2]
                raise Unsupported(
                    f"ONNX Runtime does not run {format} on a CPU: {reason}"
                ) from fault
            raise

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
        from alexc.verify.onnx_parts import detached

        nodes = [trial.node for trial in trials]
        data, unread = detached(self.model, self.graph, nodes)
        feeds = {name: array for name, array in _feeds(trials).items() if name not in unread}
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
            return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise BackendFault(_first_line(error)) from error


@final
class OnnxRuntimeForm(OnnxRuntime):
    """ONNX Runtime on the model of its own that lies beside model.onnx, where there is one."""

    name: ClassVar[str] = "onnxruntime_form"

    @classmethod
    def model_file(cls, model: Path) -> Path:
        return model.with_name(FILES["onnxruntime"])


def _feeds(trials: Sequence[Trial]) -> dict[str, Tensor]:
    """What the layers of `onnx_parts.detached` are given, by the names there."""
    from alexc.verify.onnx_parts import given_name

    feeds: dict[str, Tensor] = {}
    for trial in trials:
        for source, array in zip(trial.node.inputs, trial.inputs, strict=True):
            feeds[given_name(trial.node.name, source)] = array
        for local, whole in trial.node.parameter_names().items():
            feeds[whole] = trial.weights[local]
    return feeds


def _run(session: Any, feeds: Mapping[str, Tensor]) -> Tensors:
    names = [output.name for output in session.get_outputs()]
    try:
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))
    except Exception as error:
        raise BackendFault(_first_line(error)) from error


def _first_line(error: Exception) -> str:
    """What went wrong, without the places in the source of a library that pass it on."""
    lines = [line.strip() for line in str(error).splitlines()]
    telling = [line for line in lines if line and not line.startswith("Exception from ")]
    return f"{type(error).__name__}: {telling[0][:300]}" if telling else type(error).__name__


@final
class OpenVino(_OnnxBackend):
    """OpenVINO on the CPU, computing in the types of the model, but in float32 for fp16."""

    name: ClassVar[str] = "openvino"
    packages: ClassVar[tuple[str, ...]] = ("onnx", "openvino")
    optional: ClassVar[bool] = True

    def open(self) -> None:
        self._compiled = self._compile(str(self.model))

    def tensors(self, images: NDArray[np.float32]) -> Tensors:
        """A copy in memory of which every named tensor is an output, in float32."""
        network = self._read(str(self.model))
        already = {name for output in network.outputs for name in output.names}
        # What no output depends on is gone already.
        there = {n for op in network.get_ops() for output in op.outputs() for n in output.names}
        named = [n.name for n in self.graph.nodes if n.name in there and n.name not in already]
        try:
            network.add_outputs(named)
        except Exception as error:
            raise BackendFault(_first_line(error)) from error
        return self._run(self._compile(network), {INPUT: images})

    def alone(self, trials: Sequence[Trial]) -> list[Tensor | BackendFault]:
        """Quantized layers one by one, and all others in one model, or one by one if that fails."""
        plain = [trial for trial in trials if trial.node.name not in self.graph.quantized]
        found: dict[str, Tensor | BackendFault] = {}
        with suppress(BackendFault):
            found.update(self._alone_together(plain, fixed=False))
        for trial in trials:
            if trial.node.name not in found:
                found.update(self._alone_by_itself(trial))
        return [found[trial.node.name] for trial in trials]

    def _alone_by_itself(self, trial: Trial) -> Mapping[str, Tensor | BackendFault]:
        name = trial.node.name
        try:
            # Of weights that are fed it makes integers in another way than of its own.
            return self._alone_together([trial], fixed=name in self.graph.quantized)
        except BackendFault as fault:
            return {name: BackendFault(fault.message, name)}

    def _alone_together(self, trials: Sequence[Trial], *, fixed: bool) -> Tensors:
        from alexc.verify.onnx_parts import detached

        if not trials:
            return {}
        feeds = _feeds(trials)
        weights = {
            whole: feeds[whole]
            for trial in trials
            for whole in trial.node.parameter_names().values()
            if fixed
        }
        nodes = [trial.node for trial in trials]
        data, unread = detached(self.model, self.graph, nodes, weights)
        feeds = {n: a for n, a in feeds.items() if n not in unread and n not in weights}
        return self._run(self._compile(data), feeds)

    def shipped(self, images: NDArray[np.float32]) -> Tensors:
        found = self._run(self._compiled, {INPUT: images})
        # Where it does without a cast, what was cast is another name of the result.
        return {name: found[name] for name in self.graph.outputs if name in found}

    def _read(self, model: str | bytes) -> Any:
        import openvino

        try:
            return openvino.Core().read_model(model)
        except Exception as error:
            raise BackendFault(_first_line(error)) from error

    def _compile(self, model: Any) -> Any:
        """Compiled with outputs in float32, for numpy has no bfloat16, and no precision but the
        model's: left to itself OpenVINO computes in bfloat16 on a processor that has it."""
        import openvino
        from openvino.preprocess import PrePostProcessor

        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "EXECUTION_MODE_HINT": "ACCURACY",
            "NUM_STREAMS": 1,
            "CPU_DENORMALS_OPTIMIZATION": False,
        }
        network = self._read(model) if isinstance(model, str | bytes) else model
        try:
            float32 = openvino.Type.f32
            narrow = [
                index
                for index, output in enumerate(network.outputs)
                if output.get_element_type() != float32
            ]
            if narrow:
                processor = PrePostProcessor(network)
                for index in narrow:
                    processor.output(index).tensor().set_element_type(float32)
                network = processor.build()
            return openvino.Core().compile_model(network, "CPU", settings)
        except Exception as error:
            raise BackendFault(_first_line(error)) from error

    def _run(self, compiled: Any, feeds: Mapping[str, Tensor]) -> Tensors:
        try:
            request = compiled.create_infer_request()
            request.infer(dict(feeds), share_inputs=True)
            names = {
                name: index
                for index, output in enumerate(compiled.outputs)
                for name in output.names
            }
            return {
                name: np.array(request.get_output_tensor(index).data)
                for name, index in names.items()
            }
        except Exception as error:
            raise BackendFault(_first_line(error)) from error


# Every backend by name, in the order of the report.
BACKENDS: dict[str, type[Backend]] = {
    backend.name: backend for backend in (Torch, OnnxRuntime, OnnxRuntimeForm, OpenVino)
}
