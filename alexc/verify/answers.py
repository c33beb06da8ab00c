"""What a backend is asked, and what it answers, as plain data: the same in one process or in two.

A step that fails does not end the questions: where the whole net can't even be loaded, the layers
alone still tell which of them is at fault.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from alexc.verify.backends.base import Backend, BackendFault, Tensor, Tensors, Trial, Unsupported

# In the order in which they are taken. `samples` are the shipped outputs for other images.
Step = Literal["open", "parameters", "alone", "provoked", "end_to_end", "shipped", "samples"]


@dataclass(frozen=True)
class Request:
    """What one backend is asked: a batch for the whole net, and layers on their own.

    The trials are of the nodes of the backend's graph. The shipped outputs are computed for the
    whole batch and for its first `sizes` images. Without `samples` none are computed.
    """

    images: NDArray[np.float32]
    alone: Sequence[Trial]
    provoked: Sequence[Trial]
    sizes: Sequence[int] = ()
    samples: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Answer:
    """What came of one step: tensors by name, why layers have none, why the step ended early.

    For the step `parameters` the faults are by the whole name of a weight. `images` is how many of
    the batch's first images were computed, None being all.
    """

    step: Step
    tensors: Tensors = field(default_factory=dict)
    faults: Mapping[str, str] = field(default_factory=dict)
    failure: str | None = None
    unsupported: bool = False
    images: int | None = None


def answers(backend: Backend, request: Callable[[], Request]) -> Iterator[Answer]:
    """Open the backend, and then ask it everything in `request`, which is called once it is open.

    Whatever a backend raises is an answer; an Unsupported ends the questions.
    """
    opened = _take("open", lambda: _open(backend))
    yield opened
    if opened.unsupported:
        return
    asked = request()
    take: dict[Step, Callable[[int | None], Answer]] = {
        "parameters": lambda _: _parameters(backend),
        "alone": lambda _: _alone("alone", backend, asked.alone),
        "provoked": lambda _: _alone("provoked", backend, asked.provoked),
        "end_to_end": lambda _: Answer("end_to_end", backend.tensors(asked.images)),
        "shipped": lambda size: _shipped(backend, asked.images, size),
        "samples": lambda _: _samples(backend, asked.samples),
    }
    for step, size in steps_after(opened, asked):
        yield _take(step, partial(take[step], size))


def steps_after(opened: Answer, request: Request) -> list[tuple[Step, int | None]]:
    """The steps that follow the opening, each with how many images it is of, None being all."""
    if opened.unsupported:
        return []
    if opened.failure is not None:  # layers can be run alone all the same
        return [("alone", None), ("provoked", None)]
    whole: list[tuple[Step, int | None]] = [
        ("parameters", None),
        ("alone", None),
        ("provoked", None),
        ("end_to_end", None),
        ("shipped", None),
    ]
    whole += [("shipped", size) for size in request.sizes]
    if request.samples is not None:
        whole.append(("samples", None))
    return whole


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
    return Answer("shipped", backend.shipped(images[:size]), images=size)


def _samples(backend: Backend, images: NDArray[np.float32] | None) -> Answer:
    return Answer("samples", {} if images is None else backend.shipped(images))


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
