"""What every engine has in common: whether it can run here, loading, running, closing."""

from __future__ import annotations

import importlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, ClassVar

from alexc_runtime.errors import BatchError, EngineError, EngineUnavailableError
from alexc_runtime.manifest import Bundle, EngineRecord

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from alexc_runtime.arrays import Borrowed, DeviceArray, OnGpu

    Array = NDArray[np.float32]


class Engine(ABC):
    """A loaded bundle, ready to run on one engine.

    The constructor loads; it raises EngineError if the engine refuses what it is given. The
    library is imported only by `obstacle` and the constructor, never with this package.
    """

    name: ClassVar[str]
    # Whether the engine loads a plan made for it; otherwise it loads model.onnx itself.
    needs_plan: ClassVar[bool] = False
    # Whether it computes on an NVIDIA GPU.
    on_gpu: ClassVar[bool] = False

    # The batch sizes that the engine takes: from the smallest to the largest (None: any).
    batch_limits: tuple[int, int | None] = (1, None)

    @abstractmethod
    def __init__(self, bundle: Bundle, record: EngineRecord, threads: int | None) -> None:
        """Load the file that `record` names. `threads` bounds the CPU threads; None: all cores."""

    @classmethod
    @abstractmethod
    def obstacle(cls) -> str | None:
        """What keeps this engine from running on this machine, in words; None if nothing does."""

    @classmethod
    def misfit(cls, record: EngineRecord) -> str | None:  # noqa: ARG003
        """What keeps this record's file from running on this machine, in words; None if nothing.

        Asked where there is no obstacle, before anything is loaded.
        """
        return None

    def way(self, images: int) -> str | None:  # noqa: ARG002
        """What runs batches of so many images, where that depends on their number."""
        return None

    @abstractmethod
    def run(self, batch: Array) -> dict[str, Array]:
        """The outputs by name for a contiguous batch of the right shape. Raises EngineError."""

    def run_many(self, batches: Iterable[Array]) -> Iterator[dict[str, Array]]:
        """The outputs for each of the batches in turn, which are asked for as they are needed."""
        return map(self.run, batches)

    def run_on_gpu(
        self,
        batch: OnGpu,  # noqa: ARG002
        check: Callable[[Borrowed], None],  # noqa: ARG002
    ) -> dict[str, DeviceArray]:
        """The outputs by name, on the GPU, for a batch that lies there.

        `check` raises BatchError if it is not one that the network takes. So does this, of an
        engine that computes on the CPU.
        """
        raise BatchError(
            "batch/device",
            f"the batch lies on a GPU, and {self.name} computes on the CPU",
            help="copy it to the CPU (of torch: batch.cpu()), or open the bundle on an engine "
            "that computes on the GPU",
        )

    @abstractmethod
    def close(self) -> None:
        """Let go of memory and devices. Closing twice does nothing."""


def closed() -> EngineError:
    """The error of using what was closed."""
    return EngineError("engine/closed", "the session is closed")


def why_passed_over(error: EngineError) -> str:
    """The reason why another engine takes the place of one that could not be loaded.

    One that is here should have run: a machine that serves slower than it could must say so
    without being asked, so that is logged.
    """
    if not isinstance(error, EngineUnavailableError):
        logging.getLogger("alexc_runtime").warning("%s", error)
    return error.message


def import_obstacle(module: str, package: str) -> str | None:
    """Import `module`; if that fails, the reason in words. `package` is what pip calls it."""
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(error.name + ".")):
            # Another package may have brought what stands above it.
            older = f", or is one without {error.name}" if "." in error.name else ""
            return f"the package {package} is not installed{older}"
        return f"{package} is installed without {error.name}, which it needs"
    except Exception as error:  # noqa: BLE001
        # A library that is broken or does not fit this machine fails in any way it likes.
        return f"{package} is installed but does not load: {first_line(error)}"
    return None


def load(module: str) -> ModuleType:
    """A module that `import_obstacle` found to be importable."""
    return importlib.import_module(module)


def first_line(error: object) -> str:
    """The first line of an exception's or a library's message; its kind if it has none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))
