"""What a backend is asked, and what it answers, as plain data: the same in one process or in two.

A step that fails does not end the questions: where the whole net can't even be loaded, the layers
alone still tell which of them is at fault.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from alexc.verify.backends.base import Backend, BackendFault, Tensor, Tensors, Trial, Unsupported

# In the order in which they are taken. `samples` are the shipped outputs for other images.
Step = Literal["open", "parameters", "end_to_end", "shipped", "samples", "alone", "provoked"]


@dataclass(frozen=True)
class Whole:
    """What one backend is asked of the whole net, for which nothing need be known but the images.

    The shipped outputs are computed for all `images`, and for batches of other `sizes`, which
    repeat the images as often as it takes. Without `samples` none are computed.
    """

    images: NDArray[np.float32]
    sizes: Sequence[int] = ()
    samples: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Layers:
    """What one backend is asked of layers on their own: trials of the nodes of its graph."""

    alone: Sequence[Trial]
    provoked: Sequence[Trial]


@dataclass(frozen=True)
class Answer:
    """What came of one step: tensors by name, why layers have none, why the step ended early.

    For the step `parameters` the faults are by the whole name of a weight. `images` is how many
    images were computed at once, None being the batch as it is.
    """

    step: Step
    tensors: Tensors = field(default_factory=dict)
    faults: Mapping[str, str] = field(default_factory=dict)
    failure: str | None = None
    unsupported: bool = False
    images: int | None = None


def answers(
    backend: Backend, whole: Whole | None, layers: Callable[[], Layers]
) -> Iterator[Answer]:
    """Open the backend, and ask it for the whole net, if that is wanted, and then for layers.

    `layers` is called when the whole net is done, for they may take longer to be known. Whatever a
    backend raises is an answer; an Unsupported ends the questions.
    """
    opened = _take("open", lambda: _open(backend))
    yield opened
    if opened.unsupported:
        return
    if whole is not None and opened.failure is None:
        for step, take in _of_the_whole(backend, whole):
            yield (answer := _take(step, take))
            if answer.unsupported:
                return
    asked = layers()
    for step, trials in (("alone", asked.alone), ("provoked", asked.provoked)):
        yield (answer := _take(step, partial(_alone, step, backend, trials)))
        if answer.unsupported:
            return


def _of_the_whole(backend: Backend, whole: Whole) -> list[tuple[Step, Callable[[], Answer]]]:
    steps: list[tuple[Step, Callable[[], Answer]]] = [
        ("parameters", partial(_parameters, backend)),
        ("end_to_end", lambda: Answer("end_to_end", backend.tensors(whole.images))),
        ("shipped", partial(_shipped, backend, whole.images, None)),
    ]
    steps += [("shipped", partial(_shipped, backend, whole.images, size)) for size in whole.sizes]
    if whole.samples is not None:
        steps.append(("samples", partial(_samples, backend, whole.samples)))
    return steps


def steps_after(opened: Answer, whole: Whole | None) -> list[Step]:
    """The steps that `answers` takes after the opening, if no other ends them."""
    if opened.unsupported:
        return []
    layers: list[Step] = ["alone", "provoked"]
    if opened.failure is not None or whole is None:  # layers can be run alone all the same
        return layers
    samples: list[Step] = [] if whole.samples is None else ["samples"]
    shipped: list[Step] = ["shipped"] * (1 + len(whole.sizes))
    return ["parameters", "end_to_end", *shipped, *samples, *layers]


def _take(step: Step, take: Callable[[], Answer]) -> Answer:
    try:
        return take()
    except Unsupported as limit:
        return Answer(step, failure=limit.message, unsupported=True)
    except BackendFault as fault:
        faults = {fault.layer: fault.message} if fault.layer else {}
        return Answer(step, fault.tensors, faults, fault.message)
    except Exception as error:  # noqa: BLE001  (a backend may raise anything, and that is a finding)
        return Answer(step, failure=f"{type(error).__name__}: {error}")


def _shipped(backend: Backend, images: NDArray[np.float32], size: int | None) -> Answer:
    given = images if size is None else repeated(images, size)
    return Answer("shipped", backend.shipped(given), images=size)


def repeated(images: NDArray[Any], size: int) -> NDArray[Any]:
    """A batch of so many images, the same ones over and over."""
    taken: NDArray[Any] = images[np.arange(size) % len(images)]
    return taken


def _samples(backend: Backend, images: NDArray[np.float32]) -> Answer:
    return Answer("samples", backend.shipped(images))


def _open(backend: Backend) -> Answer:
    backend.open()
    return Answer("open")


def _parameters(backend: Backend) -> Answer:
    """Only what differs is told: the weights themselves are large, and known."""
    found = backend.parameters()
    if found is None:
        return Answer("parameters")
    return Answer("parameters", faults=different_weights(backend.subject.weights, found))


def different_weights(right: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> dict[str, str]:
    """What is wrong with the weights found, by their whole names."""
    faults = {}
    for name, weight in right.items():
        if name not in found:
            faults[name] = f"{name} is missing"
        elif found[name].shape != weight.shape:
            faults[name] = f"{name} has another shape"
        elif not np.array_equal(found[name], weight):
            differ = int(np.count_nonzero(found[name] != weight))
            faults[name] = f"{name} differs from the weights in {differ} of {weight.size} numbers"
    return faults


def _alone(step: Step, backend: Backend, trials: Sequence[Trial]) -> Answer:
    tensors: Tensors = {}
    faults: dict[str, str] = {}
    for trial, result in zip(trials, backend.alone(trials), strict=True):
        if isinstance(result, BackendFault):
            faults[trial.node.name] = result.message
        else:
            tensors[trial.node.name] = result
    return Answer(step, tensors, faults)
