"""How a verification and its worker processes hand each other graphs, arrays and answers.

A folder holds it all: JSON, and one `.npy` file for each array, which the other side maps into its
memory. Nothing is pickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexc.graph.graph import Graph
from alexc.graph.quantization import Quantization
from alexc.ops import GRAPH_OPS
from alexc.verify.answers import Answer, Layers, Whole
from alexc.verify.backends.base import Counterparts, Subject, Tensor, Trial
from alexc.weights import store
from alexc_runtime.manifest import BatchRange, Built, EngineRecord


@dataclass(frozen=True)
class Exchange:
    """A folder that both sides read and write; every message has a name of its own."""

    folder: Path

    # ---- what is verified --------------------------------------------------------------------

    def put_subject(self, subject: Subject, weights_file: Path) -> None:
        """`weights_file` holds the subject's weights, and maybe more."""
        message = {
            "graph": _graph_to_json(subject.graph),
            "written": _graph_to_json(subject.written),
            "weights": str(weights_file.absolute()),
            "model": str(subject.model.absolute()) if subject.model else None,
            "foreign": asdict(subject.foreign) if subject.foreign else None,
            "plans": {name: asdict(record) for name, record in subject.plans.items()},
            "batches": asdict(subject.batches) if subject.batches else None,
            "precision": subject.precision,
        }
        self._write("subject", message)

    def subject(self) -> Subject:
        message = self._read("subject")
        graph = _graph_from_json(message["graph"])
        weights = _mapped(Path(message["weights"]), graph)
        model = Path(message["model"]) if message["model"] else None
        foreign = Counterparts(**message["foreign"]) if message["foreign"] else None
        written = _graph_from_json(message["written"])
        plans = {name: _record(record) for name, record in message["plans"].items()}
        batches = BatchRange(**message["batches"]) if message["batches"] else None
        precision: str = message["precision"]
        return Subject(graph, weights, model, written, foreign, plans, batches, precision)

    # ---- what is asked -----------------------------------------------------------------------

    def put_whole(self, name: str, whole: Whole) -> None:
        arrays = _Arrays(self.folder, name)
        message = {
            "images": arrays.put(whole.images),
            "sizes": list(whole.sizes),
            "samples": None if whole.samples is None else arrays.put(whole.samples),
        }
        self._write(name, message)

    def whole(self, name: str) -> Whole:
        message = self._read(name)
        arrays = _Arrays(self.folder, name)
        samples = message["samples"]
        return Whole(
            arrays.get(message["images"]),
            message["sizes"],
            None if samples is None else arrays.get(samples),
        )

    def put_layers(self, name: str, layers: Layers, subject: Subject) -> None:
        """Weights that are the subject's own, as most are, are not written once more."""
        arrays = _Arrays(self.folder, name)
        message = {
            "alone": [_trial_to_json(trial, subject, arrays) for trial in layers.alone],
            "provoked": [_trial_to_json(trial, subject, arrays) for trial in layers.provoked],
        }
        self._write(name, message)

    def layers(self, name: str, subject: Subject, graph: Graph) -> Layers:
        message = self._read(name)
        arrays = _Arrays(self.folder, name)
        return Layers(
            [_trial_from_json(trial, subject, graph, arrays) for trial in message["alone"]],
            [_trial_from_json(trial, subject, graph, arrays) for trial in message["provoked"]],
        )

    # ---- what is answered --------------------------------------------------------------------

    def put_answer(self, name: str, answer: Answer) -> None:
        arrays = _Arrays(self.folder, name)
        message = {
            "step": answer.step,
            "tensors": {layer: arrays.put(tensor) for layer, tensor in answer.tensors.items()},
            "faults": dict(answer.faults),
            "failure": answer.failure,
            "unsupported": answer.unsupported,
            "images": answer.images,
        }
        self._write(name, message)

    def answer(self, name: str) -> Answer:
        message = self._read(name)
        arrays = _Arrays(self.folder, name)
        return Answer(
            message["step"],
            {layer: arrays.get(index) for layer, index in message["tensors"].items()},
            message["faults"],
            message["failure"],
            message["unsupported"],
            message["images"],
        )

    def _write(self, name: str, message: Mapping[str, Any]) -> None:
        (self.folder / f"{name}.json").write_text(json.dumps(message), encoding="utf-8")

    def _read(self, name: str) -> Any:
        return json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))


class _Arrays:
    """The arrays that belong to one message, by number."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name
        self._count = 0

    def put(self, array: NDArray[Any]) -> int:
        self._count += 1
        np.save(self._path(self._count), np.ascontiguousarray(array), allow_pickle=False)
        return self._count

    def get(self, index: int) -> Any:
        """The array, copied on write: backends may want to write where they read."""
        path = self._path(index)
        array = np.load(path, mmap_mode="c", allow_pickle=False)
        return np.asarray(array)

    def _path(self, index: int) -> Path:
        return self._folder / f"{self._name}-{index}.npy"


def _trial_to_json(trial: Trial, subject: Subject, arrays: _Arrays) -> dict[str, Any]:
    wholes = trial.node.parameter_names()
    return {
        "node": trial.node.name,
        "inputs": [arrays.put(array) for array in trial.inputs],
        "weights": {
            local: None if array is subject.weights.get(wholes[local]) else arrays.put(array)
            for local, array in trial.weights.items()
        },
    }


def _trial_from_json(
    message: Mapping[str, Any], subject: Subject, graph: Graph, arrays: _Arrays
) -> Trial:
    node = graph.by_name[message["node"]]
    wholes = node.parameter_names()
    weights = {
        local: subject.weights[wholes[local]] if index is None else arrays.get(index)
        for local, index in message["weights"].items()
    }
    return Trial(node, [arrays.get(index) for index in message["inputs"]], weights)


def _mapped(file: Path, graph: Graph) -> dict[str, Tensor]:
    """The graph's weights from a safetensors file of float32, as maps."""
    extents = store.extents(file)
    return {
        name: np.memmap(file, np.dtype("<f4"), "c", extents[name].offset, extents[name].shape)
        for name in graph.parameters
    }


def _graph_to_json(graph: Graph) -> dict[str, Any]:
    return {"name": graph.name, **graph.to_json()}


def _graph_from_json(message: Mapping[str, Any]) -> Graph:
    layers = [
        (
            node["name"],
            GRAPH_OPS[node["op"]].model_validate_json(json.dumps(node["attributes"])),
            tuple(node["inputs"]),
        )
        for node in message["nodes"]
    ]
    return Graph.build(
        message["name"],
        tuple(message["input_shape"]),
        layers,
        tuple(message["outputs"]),
        message.get("precisions"),
        {name: _grid(grid) for name, grid in message.get("quantized", {}).items()},
        message.get("forms"),
    )


def _record(message: Mapping[str, Any]) -> EngineRecord:
    built = message["built"]
    if built is not None:
        profiles = tuple(BatchRange(**profile) for profile in built["profiles"])
        built = Built(**{**built, "targets": tuple(built["targets"]), "profiles": profiles})
    return EngineRecord(**{**message, "built": built})


def _grid(message: Mapping[str, Any]) -> Quantization:
    steps: Sequence[float] = message["weight_steps"]
    return Quantization(**{**message, "weight_steps": tuple(steps)})
