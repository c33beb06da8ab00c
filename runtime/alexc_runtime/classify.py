"""From scores to the most likely classes with their labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from alexc_runtime.arrays import DeviceArray
from alexc_runtime.errors import BatchError
from alexc_runtime.manifest import Manifest, Output

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Prediction:
    """One class that a photo may belong to. `label` is None when the bundle has no labels."""

    label: str | None
    index: int
    probability: float


def top(outputs: Mapping[str, Any], manifest: Manifest, k: int = 5) -> list[list[Prediction]]:
    """The k most probable classes of each image, the most probable first; equals by their index.

    Reads the network's first output, as `Session.run` gives it, also on the GPU. Logits go through
    a softmax; an output that comes from one is taken as it is. Raises BatchError if the output is
    not one score per class, or holds NaN or an infinity.
    """
    output = manifest.outputs[0]
    if output.shape[1:].count(1) != len(output.shape) - 1:  # (classes,) or (classes, 1, 1)
        raise BatchError(
            "predict/shape",
            f"the output {output.name} is {output.shape} for each image, not one score per class",
        )
    given = outputs[output.name]
    numbers = given.numpy() if isinstance(given, DeviceArray) else given
    scores = np.asarray(numbers, np.float64).reshape(-1, output.shape[0])
    if not np.isfinite(scores).all():
        raise BatchError("predict/not-finite", f"the output {output.name} holds NaN or infinities")
    probabilities = _probabilities(scores, output)
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    return [
        [Prediction(_label(manifest, int(i)), int(i), float(row[i])) for i in order]
        for row, order in zip(probabilities, best, strict=True)
    ]


def _probabilities(scores: NDArray[np.float64], output: Output) -> NDArray[np.float64]:
    """softmax(x) = exp(x − max x) / Σ exp(x − max x), which can't overflow."""
    if output.probabilities:
        return scores
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _label(manifest: Manifest, index: int) -> str | None:
    labels = manifest.labels
    return labels[index] if labels is not None and index < len(labels) else None
