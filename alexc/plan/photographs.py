"""What a variant makes of many images: how far its outputs lie from the reference's.

The reference itself takes a second for an image of AlexNet, which is too long for hundreds. Here
PyTorch computes the net in float64, and is held to the reference on the first images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexc.diagnostics import fault
from alexc.graph.graph import Graph
from alexc.ops.pixels import Pixels
from alexc.plan.contestant import Contestant, Subject
from alexc.plan.measure import ANSWER_TIMEOUT, LOAD_TIMEOUT, Process, Standard, WorkerFault
from alexc.verify.report import Accuracy

# As the model takes them: float32, normalised; or pixels, uint8.
Images = NDArray[Any]
Forward = Callable[[Images], NDArray[np.float32]]

# More tell little: with so many, a share is known to half a percent.
MOST_IMAGES = 256
_AT_ONCE = 8
# float64 against float64: what order of summation costs is far below.
_SAME = 1e-9


@dataclass(frozen=True)
class Labelled:
    """Images with labels. `some` gives so many as the net takes them, at even distances; `score`
    the accuracy, top-1 and top-5, of what turns such images into the net's first output."""

    some: Callable[[int], Images]
    score: Callable[[Forward], tuple[float, float]]


@dataclass(frozen=True)
class Photographs:
    """Images on disk, and the reference's outputs for them by name."""

    file: Path
    expected: Mapping[str, NDArray[np.float64]]

    @property
    def count(self) -> int:
        return len(next(iter(self.expected.values())))


@dataclass(frozen=True)
class Seen:
    """What a variant made of photographs. `agreement` is None where the first output is an image;
    the accuracy is None without labels."""

    rel_l2: float
    agreement: float | None
    top1: float | None = None
    top5: float | None = None


def photographs(
    graph: Graph,
    weights: Mapping[str, NDArray[np.float32]],
    images: Images,
    standard: Standard,
    folder: Path,
    pixels: Pixels | None = None,
) -> Photographs:
    """The images, written to `folder`, with the reference's outputs. `standard` is of the first.

    Where they are pixels, `pixels` normalises them for the `graph`, which is as it was trained.
    Raises AlexcError if PyTorch does not compute the same there.
    """
    import torch

    from alexc.lower.to_torch import to_torch

    net = to_torch(graph, weights).double().eval()
    parts: dict[str, list[NDArray[np.float64]]] = {name: [] for name in graph.outputs}
    with torch.inference_mode():
        for first in range(0, len(images), _AT_ONCE):
            part = images[first : first + _AT_ONCE].astype(np.float64)
            if pixels is not None:
                part = pixels.reference([part], {})
            found = net(torch.from_numpy(part))
            by_name = found if isinstance(found, dict) else {graph.outputs[0]: found}
            for name, tensor in by_name.items():
                parts[name].append(tensor.numpy())
    expected = {name: np.concatenate(part) for name, part in parts.items()}
    for name, value in standard.values.items():
        departure = np.linalg.norm(expected[name][: len(value)] - value)
        if not departure <= _SAME * (np.linalg.norm(value) or 1.0):
            raise fault(
                "plan/reference", f"PyTorch in float64 does not give the reference's {name}"
            )
    file = folder / "photographs.npy"
    np.save(file, images)
    return Photographs(file, expected)


def look(
    contestant: Contestant,
    subject: Subject,
    seen: Photographs,
    labelled: Labelled | None,
) -> Seen:
    """Let a variant compute all photographs, in a process of its own. Raises WorkerFault."""
    with Process(contestant, subject) as process:
        process.ask("load", LOAD_TIMEOUT)

        def answers(file: Path) -> dict[str, NDArray[np.float32]]:
            out = subject.scratch / "answers.npz"
            process.ask("answer", ANSWER_TIMEOUT, images=str(file), batch=_AT_ONCE, file=str(out))
            with np.load(out) as stored:
                return dict(stored)

        found = answers(seen.file)
        for name, value in found.items():
            if not np.isfinite(value).all():
                raise WorkerFault(f"gave numbers of {name} that are not finite")
        each = [Accuracy.of("", name, found[name], seen.expected[name]) for name in seen.expected]
        result = Seen(max(one.rel_l2 for one in each), each[0].top1_agreement)
        if labelled is None:
            return result

        def forward(images: Images) -> NDArray[np.float32]:
            file = subject.scratch / "labelled.npy"
            np.save(file, images)
            return answers(file)[next(iter(seen.expected))]

        return Seen(result.rel_l2, result.agreement, *labelled.score(forward))
