"""What engines that run on this machine have in common: loading, running, being missing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import ModuleType, TracebackType
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from alexc.diagnostics import Diagnostic, UsageError
from alexc.engines.model import Input, check_batch
from alexc_runtime.engines.base import import_obstacle, load


def require(module: str, package: str) -> ModuleType:
    """The imported module; UsageError if it is not installed or does not load."""
    if obstacle := import_obstacle(module, package):
        raise UsageError(
            Diagnostic("engine/not-installed", obstacle, help=f"pip install {package}")
        )
    return load(module)


class Session(ABC):
    """A model that an engine has loaded. Use it as a context manager, or close it.

    `settings` is what the engine was told that bears on its numbers, for the reports; `outputs`
    are the names of the tensors that `run` gives, in their order.
    """

    engine: ClassVar[str]

    def __init__(
        self, version: str, settings: Mapping[str, str], input: Input, outputs: tuple[str, ...]
    ) -> None:
        self.version = version
        self.settings = dict(settings)
        self.input = input
        self.outputs = outputs

    def run(self, batch: NDArray[np.generic]) -> dict[str, NDArray[Any]]:
        """The outputs by name for `(batch, *shape)`; fresh arrays that the caller owns.

        Raises AlexcError: engine/input if the batch is not what the model takes, engine/run if the
        engine fails.
        """
        check_batch(self.engine, self.input, batch)
        return self._run(np.ascontiguousarray(batch))

    @abstractmethod
    def _run(self, batch: NDArray[np.generic]) -> dict[str, NDArray[Any]]: ...

    @abstractmethod
    def close(self) -> None:
        """Let go of the memory. Closing twice does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
