"""The result of a verification: rows of a table, and its renderings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from alexc.ops.base import Array

Check = Literal["shapes", "parameters", "alone", "provoked", "end_to_end", "shipped"]

CHECKS: dict[Check, str] = {
    "shapes": "shape and type of every named tensor, as others read the model",
    "parameters": "the weights as the backend has them, bit for bit",
    "alone": "one layer, given the reference's inputs",
    "provoked": "one layer, given random inputs, biases and statistics",
    "end_to_end": "every named tensor of the whole net",
    "shipped": "the outputs of the unchanged artifact",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One tensor of one backend in one check.

    `max_abs` and `rel_l2` are null where there is nothing to compare, and then `message` says why.
    `passed` is true exactly if `max_abs` is at most `tolerance`. `images` is how many images were
    computed at once, where that is not the whole batch.
    """

    layer: str
    backend: str
    check: Check
    max_abs: float | None
    rel_l2: float | None
    tolerance: float
    passed: bool
    message: str | None = None
    images: int | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "layer": self.layer,
            "backend": self.backend,
            "check": self.check,
            "max_abs": self.max_abs,
            "rel_l2": self.rel_l2,
            "tolerance": self.tolerance,
            "passed": self.passed,
            "message": self.message,
            "images": self.images,
        }


@dataclass(frozen=True, slots=True)
class BackendResult:
    """How a backend fared. `passed` is None where it did not run, whatever the reason."""

    backend: str
    status: str
    passed: bool | None

    def to_json(self) -> dict[str, Any]:
        return {"backend": self.backend, "status": self.status, "passed": self.passed}


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first layer that goes wrong.

    `kind` is "local" if the layer is at fault itself, "inherited" if its inputs are wrong already,
    "wiring" if it is right alone and wrong in the net although its inputs are right.
    """

    layer: str
    backend: str
    check: Check
    kind: str

    def to_json(self) -> dict[str, Any]:
        return {
            "layer": self.layer,
            "backend": self.backend,
            "check": self.check,
            "kind": self.kind,
        }


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How far a model in a narrow number format is from its net in exact arithmetic.

    That is no fault of a backend, and no part of `passed`: it is what the format costs.
    `top1_agreement` is the share of the images whose largest output is the same one; it is null
    for an output that is an image. `max_abs` and `rel_l2` are over all of the output.
    """

    backend: str
    output: str
    images: int
    top1_agreement: float | None
    max_abs: float
    rel_l2: float

    @staticmethod
    def of(backend: str, output: str, got: NDArray[Any], exact: Array) -> Accuracy:
        """`got` against `exact`, both `(images, *shape)`."""
        error = got.astype(np.float64) - exact
        same = None
        if exact.ndim == 2:
            same = float(np.mean(got.argmax(axis=1) == exact.argmax(axis=1)))
        norm = float(np.linalg.norm(exact))
        size = float(np.linalg.norm(error))
        largest = float(np.abs(error).max(initial=0.0))
        return Accuracy(backend, output, len(exact), same, largest, size / norm if norm else size)

    def to_json(self) -> dict[str, Any]:
        return {
            "backend": self.backend,
            "output": self.output,
            "images": self.images,
            "top1_agreement": self.top1_agreement,
            "max_abs": self.max_abs,
            "rel_l2": self.rel_l2,
        }


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the backends were given, so that it can be given again.

    `kinds` are those of synthetic images, in order, drawn from `seed`; `photographs` SHA-256 of the
    files that images were read from. `digest` is SHA-256 of the batch itself, float32 as the model
    takes it. `batches` are the sizes that the shipped outputs were computed for: images repeat.
    """

    images: int
    seed: int
    kinds: Sequence[str]
    photographs: Sequence[str]
    digest: str
    batches: Sequence[int]

    def to_json(self) -> dict[str, Any]:
        return {
            "images": self.images,
            "seed": self.seed,
            "kinds": list(self.kinds),
            "photographs": list(self.photographs),
            "digest": self.digest,
            "batches": list(self.batches),
        }

    def __str__(self) -> str:
        number = "one image" if self.images == 1 else f"{self.images} images"
        if self.kinds:
            what = f"{number} drawn from seed {self.seed} ({', '.join(self.kinds)})"
        elif self.photographs:
            what = number.replace("image", "photograph")
        else:
            what = f"{number} as given"
        return f"{what}; outputs in batches of {', '.join(map(str, self.batches))}"


_OfBackend = TypeVar("_OfBackend", Row, BackendResult, Accuracy)


def _called(found: _OfBackend, labels: Mapping[str, str]) -> _OfBackend:
    return replace(found, backend=labels[found.backend])


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that a verification found. `passed` only if something ran and all of it passed."""

    passed: bool
    reference: str
    backends: Sequence[BackendResult]
    rows: Sequence[Row]
    first_divergence: Divergence | None
    accuracy: Sequence[Accuracy] = field(default=())
    notes: Sequence[str] = field(default=())
    inputs: Inputs | None = None

    def joined(self, other: Report, labels: Mapping[str, str]) -> Report:
        """This report with what was found of another model, its backends called by their labels.

        What could not run of the other is no fault.
        """
        first = other.first_divergence
        if first is not None:
            first = replace(first, backend=labels[first.backend])
        return replace(
            self,
            passed=self.passed and all(result.passed is not False for result in other.backends),
            backends=[*self.backends, *(_called(each, labels) for each in other.backends)],
            rows=[*self.rows, *(_called(row, labels) for row in other.rows)],
            first_divergence=self.first_divergence or first,
            accuracy=[*self.accuracy, *(_called(each, labels) for each in other.accuracy)],
            notes=list(dict.fromkeys((*self.notes, *other.notes))),
        )

    def to_json(self) -> dict[str, Any]:
        """What `alexc verify --json` prints and `verify.json` holds."""
        return {
            "passed": self.passed,
            "reference": self.reference,
            "inputs": self.inputs.to_json() if self.inputs else None,
            "backends": [result.to_json() for result in self.backends],
            "layers": [row.to_json() for row in self.rows],
            "first_divergence": self.first_divergence.to_json() if self.first_divergence else None,
            "accuracy": [accuracy.to_json() for accuracy in self.accuracy],
            "notes": list(self.notes),
        }
