"""What the answers of one backend come to: rows of the report, and how the backend fared."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from alexc.graph.graph import Graph
from alexc.ops.base import Array
from alexc.verify.answers import Answer, Layers, repeated
from alexc.verify.backends.base import Backend, Subject, Trial
from alexc.verify.compare import compare
from alexc.verify.processes import Ended
from alexc.verify.report import BackendResult, Check, Row
from alexc.verify.standard import Standard


def needed_layers(graph: Graph) -> set[str]:
    """The layers that an output depends on. Backends may leave out the others."""
    needed = set(graph.outputs)
    for node in reversed(graph.nodes):
        if node.name in needed:
            needed.update(node.inputs)
    return needed


class Findings:
    """What the answers of one backend come to: rows, and how it fared."""

    def __init__(
        self,
        kind: type[Backend],
        subject: Subject,
        standard: Standard,
        *,
        asked_for: bool,
        named: Collection[str] | None = None,
        tried: Collection[str] | None = None,
    ) -> None:
        """`named` are the layers whose tensors the backend has, and `tried` those that it is asked
        to compute alone; all of its graph if that is not said."""
        self.backend = kind.name
        self.reads_model = kind.reads_model
        self.may_lack = kind.optional and not asked_for
        self.graph = subject.written if kind.reads_model else subject.graph
        self.standard = standard
        nodes = self.graph.nodes
        self.named = [node.name for node in nodes if named is None or node.name in named]
        self.tried = [node for node in nodes if tried is None or node.name in tried]
        self.needed = needed_layers(self.graph)
        self.rows: list[Row] = []
        self.failures: list[str] = []
        self.shipped = False
        self.unsupported: str | None = None
        self.samples: dict[str, NDArray[Any]] = {}

    def layers(self) -> Layers:
        """What the backend is asked of layers, those of its graph, which may have no dropout."""
        alone, provoked = (
            [
                Trial(node, group.trials[node.name].inputs, group.trials[node.name].weights)
                for node in self.tried
            ]
            for group in self.standard.trials
        )
        return Layers(alone, provoked)

    def take(self, answer: Answer | Ended) -> None:
        """Compare what one step gave."""
        if isinstance(answer, Ended):
            self.failures.append(answer.status)
            return
        if answer.unsupported:
            self.unsupported = answer.failure
        elif answer.step == "open" and answer.failure is not None and self.may_lack:
            self.unsupported = f"it can't load the model ({answer.failure})"
        elif answer.failure is not None:
            self.failures.append(f"failed: {answer.failure}")
        match answer.step:
            case "parameters":
                if not self.reads_model:  # those of a model are looked at once, in its file
                    self.take_weights(answer.faults)
            case "alone" | "provoked":
                self._alone(answer)
            case "end_to_end":
                self._whole("end_to_end", answer, self.named)
            case "shipped":
                self.shipped = self.shipped or answer.failure is None
                self._whole("shipped", answer, self.graph.outputs)
            case "samples":
                self.samples = answer.tensors
            case "open":
                self._blame(answer.failure)

    def take_weights(self, faults: Mapping[str, str]) -> None:
        """A row for every weight: as it should be, or what is wrong with it."""
        for node in self.graph.nodes:
            for whole in node.parameter_names().values():
                message = faults.get(whole)
                error = 0.0 if message is None else None
                self._add(node.name, "parameters", error, message)

    def result(self) -> BackendResult:
        """How the backend fared in all."""
        if self.unsupported is not None:
            return BackendResult(self.backend, f"not run: {self.unsupported}", None)
        status = self.failures[0] if self.failures else "ran"
        # What is certified is the shipped artifact: without its outputs nothing has passed.
        passed = self.shipped and not self.failures and all(row.passed for row in self.rows)
        return BackendResult(self.backend, status, passed)

    def _alone(self, answer: Answer) -> None:
        group = next(g for g in self.standard.trials if g.check == answer.step)
        for node in self.tried:
            if node.name in answer.tensors:
                self._compare(node.name, group.check, answer.tensors[node.name], None)
            elif node.name in answer.faults or answer.failure is None:
                self._add(node.name, group.check, None, answer.faults.get(node.name, "no result"))

    def _whole(self, check: Check, answer: Answer, names: Sequence[str]) -> None:
        for name in names:
            if name in answer.tensors:
                self._compare(name, check, answer.tensors[name], answer.images)
            elif name in answer.faults:
                self._add(name, check, None, answer.faults[name])
            elif answer.failure is None and name in self.needed:
                self._add(name, check, None, f"{self.backend} has no tensor {name}")
        if not answer.faults:
            self._blame(answer.failure)

    def _blame(self, failure: str | None) -> None:
        """A row for the layer that a failure names, if it names one."""
        if failure is None or self.unsupported is not None:
            return
        for node in self.graph.nodes:
            if re.search(rf"(?<![\w/.-]){re.escape(node.name)}(?![\w/-])", failure):
                self._add(node.name, "end_to_end", None, failure)
                return

    def expected(self, check: Check, name: str, images: int | None) -> tuple[Array, Array, Array]:
        """The reference's value of a tensor, its tolerance and its peaks, in a batch of so many."""
        for group in self.standard.trials:
            if group.check == check:
                return group.values[name]
        whole = self.standard.expected
        value, tolerance, peaks = whole.values[name], whole.tolerances[name], whole.peaks[name]
        if images is None:
            return value, tolerance, peaks
        return repeated(value, images), repeated(tolerance, images), repeated(peaks, images)

    def _compare(
        self,
        name: str,
        check: Check,
        got: NDArray[Any],
        images: int | None,
    ) -> None:
        value, tolerance, peaks = self.expected(check, name, images)
        largest = self.standard.precisions[name].largest
        row = compare(name, self.backend, check, got, value, tolerance, peaks, largest)
        self.rows.append(replace(row, images=images))

    def _add(self, layer: str, check: Check, error: float | None, message: str | None) -> None:
        passed = message is None
        self.rows.append(Row(layer, self.backend, check, error, error, 0.0, passed, message))
