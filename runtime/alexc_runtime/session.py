"""A bundle on an engine: what goes in is looked at, and what comes out is the caller's own."""

from __future__ import annotations

import ctypes
import os
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from alexc_runtime.arrays import Borrowed, OnGpu, on_cpu
from alexc_runtime.engines.base import Engine, closed
from alexc_runtime.errors import BatchError, EngineError
from alexc_runtime.manifest import Bundle, EngineRecord, Manifest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from alexc_runtime.engines.base import Array

_engines: weakref.WeakSet[Engine] = weakref.WeakSet()  # of the sessions of this process


def _leave_engines() -> None:
    """In a fork, keep the parent's engines for ever.

    Whoever destroyed one, and were it at the end of Python, would wait for its threads, which this
    process does not have. (What ONNX Runtime 1.31 itself destroys after Python's end waits so, too,
    once it has been imported; how a user's process ends is not ours to change.)
    """
    for engine in _engines:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(engine))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_engines)


class Session:
    """A bundle on an engine. Close it, or use it in a `with`.

    Threads may share it; when it is closed, those at work are waited for. Processes may not:
    neither CUDA nor the threads of an engine on the CPU get over a fork.
    """

    def __init__(self, bundle: Bundle, engine: Engine, record: EngineRecord, why: str) -> None:
        self._bundle = bundle
        self._engine: Engine | None = engine
        _engines.add(engine)
        self._process = os.getpid()
        self._record = record
        self._batch_limits = engine.batch_limits
        self._input_type = np.dtype(bundle.manifest.input.dtype)
        self._why = why

    @property
    def manifest(self) -> Manifest:
        """What the bundle says of itself."""
        return self._bundle.manifest

    @property
    def engine(self) -> str:
        """The engine that runs: one of the names in `opening.ENGINES`."""
        return self._record.engine

    @property
    def precision(self) -> str:
        """The precision that it runs in, as the build named it."""
        return self._record.precision

    @property
    def status(self) -> str:
        """What the build knew of this engine: `verified`, or `built, not run: no GPU`."""
        return self._record.status

    @property
    def why(self) -> str:
        """Why this engine was chosen, and why the ones before it were passed over."""
        return self._why

    def way(self, images: int) -> str:
        """What runs batches of so many images: `openvino in bf16 with 2 threads`.

        With a plan that depends on their number, and `engine` is of the smallest ones. Raises
        BatchError if `run` takes no such batch, EngineError if nothing of the plan does.
        """
        engine = self._running
        self._check_size(images)
        way = engine.way(images)
        return f"{self.engine} in {self.precision}" if way is None else way

    @property
    def batch_limits(self) -> tuple[int, int | None]:
        """The smallest and the largest batch that `run` takes; None if there is no largest."""
        return self._batch_limits

    @overload
    def run(self, batch: NDArray[Any]) -> dict[str, NDArray[np.float32]]: ...
    @overload
    def run(self, batch: object) -> dict[str, Any]: ...
    def run(self, batch: object) -> Mapping[str, Any]:
        """The outputs by name, each float32 `(images, *shape)`.

        `batch` is what the network takes, `(images, channels, height, width)`, preprocessed: an
        array of numpy, or one that offers DLPack or `__cuda_array_interface__`, as those of torch
        and CuPy do. Where it lies in memory of the CPU, so do the outputs, as numpy arrays. Where
        it lies on the GPU and the engine computes there, the outputs stay there, each a
        `DeviceArray`; the GPU may still be at work on them. All outputs are the caller's own.

        Raises BatchError if the batch is anything else, and EngineError if the engine fails.
        """
        engine = self._running
        found = on_cpu(batch)
        if isinstance(found, OnGpu):
            return engine.run_on_gpu(found, self._check)
        outputs = engine.run(self._contiguous(found))
        self._check_outputs(outputs, len(found))
        return outputs

    def run_many(self, batches: Iterable[object]) -> Iterator[dict[str, NDArray[np.float32]]]:
        """The outputs for each of the batches in turn; all of them in memory of the CPU.

        An engine on the GPU copies one batch in and another out while it computes a third, so it
        asks for up to two batches before it gives the first outputs. Raises what `run` raises.
        """
        sizes: deque[int] = deque()

        def checked() -> Iterator[Array]:
            for batch in batches:
                _ = self._running  # also after the first
                array = self.checked(batch)
                sizes.append(len(array))
                yield array

        for outputs in self._running.run_many(checked()):
            self._check_outputs(outputs, sizes.popleft())
            yield outputs

    def warm_up(self, *batches: int) -> None:
        """Run zeros in batches of these sizes, by default the one that the build optimised for.

        The first run of a size takes longer than the others: an engine may compile kernels then,
        and on the GPU it records how the size is run. Raises what `run` raises.
        """
        says = self.manifest.input
        for images in batches or (says.batch.opt,):
            self._check_size(images)
            try:
                zeros = np.zeros((images, *says.shape), says.dtype)
            except (MemoryError, ValueError) as error:
                message = f"a batch of {images} images does not fit into memory: {error}"
                raise BatchError("batch/size", message) from error
            self.run(zeros)

    @property
    def _running(self) -> Engine:
        engine = self._engine  # once, since another thread may close the session meanwhile
        if engine is None:
            raise closed()
        if self._process != os.getpid():
            raise EngineError(
                "engine/process",
                "the session was opened in another process, of which this one is a fork",
                help="open it after the fork, in each process for itself",
            )
        return engine

    def _check_outputs(self, outputs: Mapping[str, NDArray[Any]], images: int) -> None:
        for output in self.manifest.outputs:
            shape = (images, *output.shape)
            if outputs[output.name].shape != shape or outputs[output.name].dtype != np.float32:
                raise EngineError(
                    "engine/output",
                    f"{self.engine} gives {output.name} as {outputs[output.name].dtype} "
                    f"{outputs[output.name].shape}, and the manifest says float32 {shape}",
                )

    def close(self) -> None:
        """Let go of memory and devices. Closing twice does nothing, nor does it in a fork."""
        engine, self._engine = self._engine, None
        if engine is not None and self._process == os.getpid():
            engine.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        name = self.manifest.name
        return f"<alexc_runtime.Session {name} on {self.engine} in {self.precision}>"

    def checked(self, batch: object) -> Array:
        """The batch in memory of the CPU, as the engine takes it. Raises BatchError."""
        found = on_cpu(batch)
        if isinstance(found, OnGpu):
            raise BatchError(
                "batch/device",
                "the batch lies on a GPU, and here it is to lie in memory of the CPU",
                help="copy it (of torch: batch.cpu()), or give it to Session.run",
            )
        return self._contiguous(found)

    def _contiguous(self, batch: NDArray[Any]) -> Array:
        self._check(batch)
        return np.ascontiguousarray(batch)

    def _check(self, batch: NDArray[Any] | Borrowed) -> None:
        """Whether the batch is one that the network takes. Raises BatchError."""
        says, (smallest, largest) = self.manifest.input, self._batch_limits
        kind = batch.dtype if isinstance(batch, np.ndarray) else batch.type
        shape = batch.shape
        if (
            kind == self._input_type
            and shape[1:] == says.shape
            and smallest <= shape[0]
            and (largest is None or shape[0] <= largest)
            and (isinstance(batch, np.ndarray) or batch.contiguous)
        ):
            return  # at once, since a call has no more than some microseconds
        wanted = f"{says.dtype} (batch, {', '.join(map(str, says.shape))})"
        if kind != self._input_type:
            pixels = says.dtype == "uint8"
            raise BatchError(
                "batch/dtype",
                f"the batch holds {kind or 'a type that numpy lacks'}, "
                f"and {self.manifest.name} takes {wanted}",
                help="the pixels themselves, 0 to 255: alexc_runtime.load_photos gives them"
                if pixels
                else "batch.astype(np.float32), after the preprocessing",
            )
        if batch.shape[1:] != says.shape:
            raise BatchError(
                "batch/shape",
                f"the batch is {batch.shape}, and {self.manifest.name} takes {wanted}",
                help=_reshaped(batch.shape, says.shape),
            )
        self._check_size(shape[0])
        raise BatchError(
            "batch/layout",
            f"the batch on the GPU has gaps or another order of its axes than {wanted}",
            help="of torch: batch.contiguous(); of CuPy: cupy.ascontiguousarray(batch)",
        )

    def _check_size(self, images: int) -> None:
        """Whether the engine takes batches of so many images. Raises BatchError."""
        smallest, largest = self._batch_limits
        if images < smallest or (largest is not None and images > largest):
            limits = f"{smallest} or more" if largest is None else f"{smallest} to {largest}"
            rebuild = "run it in parts, or build with another --batch MIN,OPT,MAX"
            raise BatchError(
                "batch/size",
                f"a batch of {images} images; {self.engine} takes {limits}",
                help=None if largest is None else rebuild,
            )


def _reshaped(found: tuple[int, ...], shape: tuple[int, ...]) -> str | None:
    """How to mend the usual mistakes: one image without its batch axis, channels last."""
    if found == shape:
        return "batch[np.newaxis] makes a batch of one image"
    if len(shape) == 3 and found[1:] == (shape[1], shape[2], shape[0]):
        return "batch.transpose(0, 3, 1, 2) puts the channels first"
    return None
