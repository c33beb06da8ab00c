"""What a user would otherwise run: the net in PyTorch, compiled, or exported to another engine.

Each is made on the spot from the same weights, in the way that its makers document. This is the
one place where `torch.onnx` is used: to measure what comes of it, never to ship it.
"""

from __future__ import annotations

import importlib
import json
import logging
import warnings
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alexc.graph.graph import Graph
from alexc.plan.contestant import Contestant, Images, Missing, Outputs, Runner, Subject

if TYPE_CHECKING:
    from alexc.lower.to_torch import TorchNet

_CALIBRATION_IMAGES = 300  # NNCF's own default, at most

_TORCH = Contestant("torch", "peer", "fp32", "alexc.plan.peers:eager", note="nn.Module, eager")

PEERS: dict[str, tuple[Contestant, ...]] = {
    "torch": (_TORCH,),
    "torch-compile": (
        replace(
            _TORCH,
            engine="torch-compile",
            opener="alexc.plan.peers:compiled",
            note="torch.compile with frozen weights",
        ),
    ),
    "export-onnxruntime": (
        replace(
            _TORCH,
            engine="export-onnxruntime",
            opener="alexc.plan.peers:exported_onnxruntime",
            note="torch.onnx.export → ONNX Runtime",
        ),
    ),
    "export-openvino": tuple(
        replace(
            _TORCH,
            engine="export-openvino",
            precision=precision,
            opener="alexc.plan.peers:exported_openvino",
            settings={"precision": precision},
            note=f"torch.onnx.export → OpenVINO, {how}",
        )
        for precision, how in (
            ("fp32", "inference precision f32"),
            ("bf16", "inference precision bf16"),
            ("int8", "quantized by NNCF"),
        )
    ),
    "torch-tensorrt": (
        replace(
            _TORCH,
            engine="torch-tensorrt",
            opener="alexc.plan.peers:torch_tensorrt",
            gpu=True,
            note="torch.compile with the backend of torch-tensorrt",
        ),
    ),
}

# The peers that read what `export` makes.
NEED_EXPORT = ("export-onnxruntime", "export-openvino")


def export(subject: Subject, settings: Mapping[str, Any]) -> Runner:  # noqa: ARG001
    """Write `subject.exported` with torch.onnx.export. The runner is eager PyTorch.

    A contestant of its own, since its process is to be gone when others are measured.
    """
    if find_spec("onnxscript") is None:
        raise Missing("torch.onnx.export needs the package onnxscript, which is not installed")
    import torch

    net = _net(subject)
    two = torch.from_numpy(np.array(np.load(subject.images, mmap_mode="r")[:2]))
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(  # noqa: TID251  (see above)
            net,
            (two,),
            subject.exported,
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    return Torch(net, net.graph)


class Torch(Runner):
    """A PyTorch module in evaluation mode. `call` is the module or what was made of it."""

    def __init__(self, call: Any, graph: Graph, device: str = "cpu") -> None:
        self._call = call
        self._names = graph.outputs
        self._device = device

    def run(self, images: Images) -> Outputs:
        import torch

        with torch.inference_mode():
            found = self._call(torch.from_numpy(images).to(self._device))
        if not isinstance(found, dict):
            found = {self._names[0]: found}
        return {name: tensor.cpu().numpy() for name, tensor in found.items()}


def eager(subject: Subject, settings: Mapping[str, Any]) -> Torch:  # noqa: ARG001
    """PyTorch as it is."""
    net = _net(subject)
    return Torch(net, net.graph)


def compiled(subject: Subject, settings: Mapping[str, Any]) -> Torch:  # noqa: ARG001
    """torch.compile, weights frozen into the program; compiled anew for each size of a batch."""
    import torch
    from torch._inductor import config

    net = _net(subject)
    config.freezing = True
    return Torch(torch.compile(net, dynamic=False), net.graph)


def torch_tensorrt(subject: Subject, settings: Mapping[str, Any]) -> Torch:  # noqa: ARG001
    """torch.compile with the backend that torch-tensorrt brings."""
    import torch

    if not torch.cuda.is_available():
        raise Missing("there is no NVIDIA GPU that torch can use")
    if find_spec("torch_tensorrt") is None:
        raise Missing("the package torch-tensorrt is not installed")
    net = _net(subject).cuda()
    return Torch(torch.compile(net, backend="torch_tensorrt", dynamic=False), net.graph, "cuda")


class Exported(Runner):
    """The exported model on ONNX Runtime."""

    def __init__(self, subject: Subject, names: tuple[str, ...]) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if subject.threads is not None:
            options.intra_op_num_threads = subject.threads
        self._session: Any = onnxruntime.InferenceSession(
            str(subject.exported), options, providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name
        self._names = names

    def run(self, images: Images) -> Outputs:
        return dict(zip(self._names, self._session.run(None, {self._input: images}), strict=True))


def exported_onnxruntime(subject: Subject, settings: Mapping[str, Any]) -> Exported:  # noqa: ARG001
    """torch.onnx.export, then ONNX Runtime with its own defaults."""
    _require("onnxruntime", subject.exported)
    return Exported(subject, _graph(subject).outputs)


class ExportedOpenVino(Runner):
    """The exported model on OpenVINO."""

    def __init__(self, request: Any, names: tuple[str, ...]) -> None:
        self._request = request
        self._names = names

    def run(self, images: Images) -> Outputs:
        found = self._request.infer({0: images}, share_inputs=True)
        return {name: np.array(found[index]) for index, name in enumerate(self._names)}


def exported_openvino(subject: Subject, settings: Mapping[str, Any]) -> ExportedOpenVino:
    """torch.onnx.export, then OpenVINO tuned for latency; for int8 with NNCF in between."""
    _require("openvino", subject.exported)
    import openvino

    names = _graph(subject).outputs
    core = openvino.Core()
    model = core.read_model(str(subject.exported))
    options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if subject.threads is not None:
        options["INFERENCE_NUM_THREADS"] = subject.threads
    if settings["precision"] == "int8":
        model = _quantized(model, subject)
    else:
        options["INFERENCE_PRECISION_HINT"] = {"fp32": "f32"}.get(
            settings["precision"], settings["precision"]
        )
    return ExportedOpenVino(core.compile_model(model, "CPU", options).create_infer_request(), names)


def _quantized(model: Any, subject: Subject) -> Any:
    """What NNCF makes of the model with its defaults, with ranges of photographs if there are."""
    if find_spec("nncf") is None:
        raise Missing("the package nncf is not installed")
    logging.getLogger("nncf").setLevel(logging.ERROR)
    nncf: Any = importlib.import_module("nncf")

    if subject.photographs is not None:
        images = np.load(subject.photographs, mmap_mode="r")
        dataset = nncf.Dataset(range(len(images)), lambda index: np.array(images[index])[None])
    else:
        images = np.load(subject.images, mmap_mode="r")
        # Mixed with random weights, so that no two are the same.
        mix = np.random.default_rng(0).standard_normal((_CALIBRATION_IMAGES, len(images)))
        mix /= np.linalg.norm(mix, axis=1, keepdims=True)
        flat = np.asarray(images).reshape(len(images), -1)

        def drawn(row: Any) -> Any:
            return (row.astype(np.float32) @ flat).reshape(1, *images.shape[1:])

        dataset = nncf.Dataset(list(mix), drawn)
    return nncf.quantize(
        model,
        dataset,
        subset_size=_CALIBRATION_IMAGES,
        target_device=nncf.TargetDevice.CPU,
    )


def ranges_note(photographs: int | None) -> str:
    """What a reader should know of ranges that NNCF has measured."""
    if photographs is None:
        return "ranges of mixtures of the images that all are measured on, for want of photographs"
    return f"ranges of {min(photographs, _CALIBRATION_IMAGES)} photographs"


def _require(package: str, exported: Path) -> None:
    if find_spec(package) is None:
        raise Missing(f"the package {package} is not installed")
    if not exported.exists():
        raise Missing("torch.onnx.export made no model")


def _net(subject: Subject) -> TorchNet:
    """The net in PyTorch, as it is run."""
    if find_spec("torch") is None:
        raise Missing("the package torch is not installed")
    import torch

    from alexc.lower.to_torch import to_torch
    from alexc.weights import store

    if subject.threads is not None:
        torch.set_num_threads(subject.threads)
    graph = _graph(subject)
    net = to_torch(graph, store.read(subject.weights, graph))
    net.eval()
    return net


def _graph(subject: Subject) -> Graph:
    from alexc.frontend import net_of

    data = json.loads(subject.spec.read_text(encoding="utf-8"))
    return net_of(data, None, str(subject.spec)).graph
