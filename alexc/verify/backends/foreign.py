"""Backends on a model that another tool exported, whose tensors have names of their own.

What is shipped is the file as it is. To localise, a copy has the counterparts of the spec's layers
as outputs, and the nodes of one layer are taken out of it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, ClassVar, final

import numpy as np
from numpy.typing import NDArray

from alexc.graph.graph import INPUT
from alexc.verify.backends import onnxruntime, openvino
from alexc.verify.backends.base import (
    BackendFault,
    Counterparts,
    ModelBackend,
    Tensor,
    Tensors,
    Trial,
    first_line,
)
from alexc.verify.foreign.parts import Parts

# Every output by the file's names, for what is fed by those.
Run = Callable[[Mapping[str, Tensor]], Tensors]


class ForeignBackend(ModelBackend):
    """A backend on the file as it is. It may not be able to load it, and that is a finding."""

    @property
    def names(self) -> Counterparts:
        assert self.subject.foreign is not None
        return self.subject.foreign

    @abstractmethod
    def load(self, model: str | bytes) -> Run:
        """What runs a file, or a model in bytes with its weights inside. Raises BackendFault."""

    @abstractmethod
    def load_with(self, tensors: Sequence[str]) -> Run:
        """What runs the file with these tensors as outputs, too. Raises BackendFault."""

    def open(self) -> None:
        self._run = self.load(str(self.model))

    @cached_property
    def _parts(self) -> Parts:
        return Parts(self.model)

    def tensors(self, images: NDArray[np.float32]) -> Tensors:
        run = self.load_with(list(self.names.tensors.values()))
        found = self._in_batches(run, {self.names.input: images})
        return {ours: found[name] for ours, name in self.names.tensors.items() if name in found}

    def alone(self, trials: Sequence[Trial]) -> list[Tensor | BackendFault]:
        """One by one, each with the weights that the file has for it."""
        results: list[Tensor | BackendFault] = []
        for trial in trials:
            try:
                results.append(self._alone(trial))
            except BackendFault as fault:
                results.append(BackendFault(fault.message, trial.node.name))
        return results

    def _alone(self, trial: Trial) -> Tensor:
        tensor = self.names.tensors[trial.node.name]
        feeds = {
            self.names.input if source == INPUT else self.names.tensors[source]: array
            for source, array in zip(trial.node.inputs, trial.inputs, strict=True)
        }
        batch = self.names.batch or "batch"
        shapes = {name: (batch, *array.shape[1:]) for name, array in feeds.items()}
        try:
            part = self._parts.alone(tensor, shapes)
        except (OSError, ValueError) as error:  # weights that are not there any more
            raise BackendFault(first_line(error)) from error
        return self._in_batches(self.load(part), feeds)[tensor]

    def shipped(self, images: NDArray[np.float32]) -> Tensors:
        found = self._in_batches(self._run, {self.names.input: images})
        return {ours: found[name] for ours, name in self.names.outputs.items() if name in found}

    def _in_batches(self, run: Run, feeds: Mapping[str, Tensor]) -> Tensors:
        """All images, be it in batches of the only size that the file takes.

        What is missing to the last batch is filled up with its first image.
        """
        size = self.names.batch
        count = len(next(iter(feeds.values())))
        if size is None or size == count:
            return run(feeds)
        parts: list[Tensors] = []
        for first in range(0, count, size):
            last = min(first + size, count)
            rows = [*range(first, last), *[first] * (first + size - last)]
            found = run({name: array[rows] for name, array in feeds.items()})
            parts.append(
                {name: np.atleast_1d(array)[: last - first] for name, array in found.items()}
            )
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@final
class ForeignOnnxRuntime(ForeignBackend):
    """ONNX Runtime on the CPU."""

    name: ClassVar[str] = "onnxruntime"
    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime")

    def load(self, model: str | bytes) -> Run:
        return self._running(onnxruntime.load(model))

    def load_with(self, tensors: Sequence[str]) -> Run:
        data = self._parts.instrumented(tensors)
        return self._running(onnxruntime.load(data, self.model.parent))

    def _running(self, session: Any) -> Run:
        return lambda feeds: onnxruntime.run(session, feeds)


@final
class ForeignOpenVino(ForeignBackend):
    """OpenVINO on the CPU, computing in the types of the model."""

    name: ClassVar[str] = "openvino"
    packages: ClassVar[tuple[str, ...]] = ("onnx", "openvino")
    optional: ClassVar[bool] = True

    def load(self, model: str | bytes) -> Run:
        return self._running(openvino.compiled(model))

    def load_with(self, tensors: Sequence[str]) -> Run:
        network = openvino.read(str(self.model))
        for tensor in tensors:
            with suppress(Exception):  # it is an output already, or gone, for nothing reads it
                network.add_outputs(tensor)
        return self._running(openvino.compiled(network))

    def _running(self, network: Any) -> Run:
        return lambda feeds: openvino.run(network, feeds)


# The backends that any ONNX file runs on, by name.
FOREIGN_BACKENDS: dict[str, type[ForeignBackend]] = {
    backend.name: backend for backend in (ForeignOnnxRuntime, ForeignOpenVino)
}
