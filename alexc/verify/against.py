"""One backend held against another, and not against the reference.

Both round. An answer of each lies within its own tolerance of what the reference gives for it; so
two answers lie within the sum of both tolerances of each other, and of what the references differ
by, where the two compute in different formats. Nothing else is tolerated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from alexc.ops.base import format_shape
from alexc.verify.answers import Answer, Step
from alexc.verify.backends.base import Backend, Subject, Tensors
from alexc.verify.compare import compare
from alexc.verify.findings import Findings
from alexc.verify.processes import Ended
from alexc.verify.report import BackendResult, Check
from alexc.verify.standard import Standard


class Witness(Findings):
    """The backend that others are held against: its answers are kept, and judged by nobody."""

    def __init__(self, kind: type[Backend], subject: Subject, standard: Standard) -> None:
        super().__init__(kind, subject, standard, asked_for=True)
        self.answers: dict[tuple[Step, int | None], Tensors] = {}

    def take(self, answer: Answer | Ended) -> None:
        """Keep what one step gave, or why it gave nothing."""
        if isinstance(answer, Ended):
            self.failures.append(answer.status)
            return
        if answer.unsupported:
            self.unsupported = answer.failure
        elif answer.failure is not None:
            self.failures.append(f"failed: {answer.failure}")
        self.failures += [f"failed: {layer}: {why}" for layer, why in answer.faults.items()]
        self.answers[answer.step, answer.images] = answer.tensors

    def take_weights(self, faults: Mapping[str, str]) -> None:
        """No rows: it is not judged."""

    def result(self) -> BackendResult:
        """It has not passed: it is what the others are held against, if it could be run at all."""
        if self.unsupported is not None or self.failures:
            return replace(super().result(), passed=False)
        return BackendResult(self.backend, "ran; the others are held against it", None)


class Difference(Findings):
    """What one backend differs from a witness by."""

    def __init__(
        self,
        kind: type[Backend],
        subject: Subject,
        standard: Standard,
        witness: Witness,
        *,
        asked_for: bool,
    ) -> None:
        super().__init__(kind, subject, standard, asked_for=asked_for)
        self._witness = witness

    def take_weights(self, faults: Mapping[str, str]) -> None:
        """No rows: weights are held against those that are meant, and not against a witness."""

    def _compare(self, name: str, check: Check, got: NDArray[Any], images: int | None) -> None:
        witness = self._witness
        answers = witness.answers.get((cast(Step, check), images))
        # Where formats differ, layers alone are given other inputs; batches may differ, too.
        alike = self.standard is witness.standard or check in ("end_to_end", "shipped")
        if answers is None or name not in witness.graph.by_name or not alike:
            return
        if (theirs := answers.get(name)) is None:
            self._add(name, check, None, f"{witness.backend} has no tensor {name}")
            return
        value, tolerance, peaks = self.expected(check, name, images)
        their_value, their_tolerance, _ = witness.expected(check, name, images)
        if theirs.shape != their_value.shape:
            shape = format_shape(theirs.shape)
            self._add(name, check, None, f"{witness.backend} gives it the shape {shape}")
            return
        if not np.isfinite(theirs).all():
            message = f"{witness.backend} gives numbers that are not finite"
            self._add(name, check, None, message)
            return
        allowed = tolerance + their_tolerance + np.abs(value - their_value)
        largest = self.standard.precisions[name].largest
        held = theirs.astype(np.float64)
        row = compare(name, self.backend, check, got, held, allowed, peaks, largest)
        self.rows.append(replace(row, images=images))
