"""Backends that misbehave, for the tests of what verification makes of them."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from alexc.verify.backends.base import Backend, BackendFault, Tensor, Tensors, Trial
from alexc.verify.reference import evaluate


class Exact(Backend):
    """The reference itself in float32: a backend without a fault."""

    name: ClassVar[str] = "exact"
    packages: ClassVar[tuple[str, ...]] = ("numpy",)
    reads_model: ClassVar[bool] = False

    def open(self) -> None:
        self.weights = dict(self.subject.weights)

    def parameters(self) -> Mapping[str, Tensor]:
        return self.weights

    def tensors(self, images: NDArray[np.float32]) -> Tensors:
        found = evaluate(self.subject.graph, self.weights, images)
        return {name: array.astype(np.float32) for name, array in found.items()}

    def alone(self, trials: Sequence[Trial]) -> list[Tensor | BackendFault]:
        results: list[Tensor | BackendFault] = []
        for trial in trials:
            inputs = [array.astype(np.float64) for array in trial.inputs]
            weights = {name: array.astype(np.float64) for name, array in trial.weights.items()}
            results.append(trial.node.op.reference(inputs, weights).astype(np.float32))
        return results

    def shipped(self, images: NDArray[np.float32]) -> Tensors:
        found = self.tensors(images)
        return {name: found[name] for name in self.subject.graph.outputs}


class Crashing(Exact):
    """Dies of a signal in the middle."""

    name: ClassVar[str] = "crashing"

    def tensors(self, images: NDArray[np.float32]) -> Tensors:  # noqa: ARG002
        os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(60)
        return {}


class Leaving(Exact):
    """Ends the process while it is loaded, with a word on stderr."""

    name: ClassVar[str] = "leaving"

    def open(self) -> None:
        sys.stderr.write("licence not found\n")
        sys.stderr.flush()
        os._exit(3)


class Hanging(Exact):
    """Never comes back with the outputs."""

    name: ClassVar[str] = "hanging"

    def shipped(self, images: NDArray[np.float32]) -> Tensors:  # noqa: ARG002
        time.sleep(600)
        return {}


class Talkative(Exact):
    """Prints what looks like an answer."""

    name: ClassVar[str] = "talkative"

    def open(self) -> None:
        super().open()
        os.write(1, b"exact-answer-0\n")


class Poisoned(Exact):
    """One NaN in the layer called `second`."""

    name: ClassVar[str] = "poisoned"

    def tensors(self, images: NDArray[np.float32]) -> Tensors:
        found = super().tensors(images)
        found["second"].reshape(-1)[7] = np.nan
        return found


class Quiet(Exact):
    """Ends as if all were well, before it has computed the net."""

    name: ClassVar[str] = "quiet"

    def tensors(self, images: NDArray[np.float32]) -> Tensors:  # noqa: ARG002
        os._exit(0)


class Uneven(Exact):
    """Wrong where the batch has three images."""

    name: ClassVar[str] = "uneven"

    def shipped(self, images: NDArray[np.float32]) -> Tensors:
        found = super().shipped(images)
        if len(images) == 3:
            found["prob"][2] = found["prob"][0]
        return found


class Forgetful(Exact):
    """Gives no outputs of the shipped artifact, and no reason."""

    name: ClassVar[str] = "forgetful"

    def shipped(self, images: NDArray[np.float32]) -> Tensors:  # noqa: ARG002
        return {}
