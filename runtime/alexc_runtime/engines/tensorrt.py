"""TensorRT and TensorRT for RTX: plans on an NVIDIA GPU.

The two libraries are imported by different names and share the API used here, so one class serves
both. Device memory and streams come from NVIDIA's `cuda-python` (`cuda.bindings.runtime`).

A plan fits one library version, and the kinds of GPU that it was built for. TensorRT for RTX
compiles the last step of its kernels on the GPU at hand, so that loading takes some seconds there.
"""

from __future__ import annotations

import ctypes
import gc
import math
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from alexc_runtime.engines.base import Engine, first_line, import_obstacle, load
from alexc_runtime.errors import EngineError
from alexc_runtime.manifest import Bundle, EngineRecord, format_shape

if TYPE_CHECKING:
    from alexc_runtime.engines.base import Array

_CUDA = "cuda.bindings.runtime"
_PROFILE = 0  # the build makes one optimization profile


class TensorRT(Engine):
    """Runs a plan of `tensorrt`. Device memory for the plan's largest batch is held while open."""

    name: ClassVar[str] = "tensorrt"
    needs_plan: ClassVar[bool] = True
    package: ClassVar[str] = "tensorrt"

    @classmethod
    def obstacle(cls) -> str | None:
        # The machine first and the packages after it: without a GPU, no package would help.
        return _no_driver() or _no_gpu() or import_obstacle(cls.name, cls.package)

    def __init__(
        self,
        bundle: Bundle,
        record: EngineRecord,
        threads: int | None,  # noqa: ARG002  (it bounds threads of the CPU)
    ) -> None:
        assert record.path is not None
        self._library: Any = load(self.name)
        self._cuda: Any = load(_CUDA)
        self._one_at_a_time = threading.Lock()  # an execution context has one set of buffers
        self._path = bundle.path(record.path)
        self._input = bundle.manifest.input.name
        self._shapes = {output.name: output.shape for output in bundle.manifest.outputs}
        self._held = ExitStack()
        with _without_collection(), ExitStack() as held:  # given back if anything below fails
            self._load(bundle, held)
            self._held = held.pop_all()

    def _load(self, bundle: Bundle, held: ExitStack) -> None:
        library = self._library
        self._log = _log(library)
        try:
            plan = self._path.read_bytes()
        except OSError as error:
            raise self._refusal(error.strerror or str(error)) from error
        # Held until closed: TensorRT asks that a runtime outlives its engines, and an engine its
        # contexts, so they are let go in the opposite order.
        runtime = library.Runtime(self._log)
        held.callback(setattr, self, "_runtime", None)
        self._runtime: Any = runtime
        self._engine: Any = runtime.deserialize_cuda_engine(plan)
        held.callback(setattr, self, "_engine", None)
        if self._engine is None:
            raise self._refusal("it was built for another version of the library or another GPU")
        self._check_plan(bundle)
        self._context: Any = self._engine.create_execution_context()
        held.callback(setattr, self, "_context", None)
        if self._context is None:
            raise self._refusal("no execution context could be made, perhaps for lack of memory")

        self._stream = self._call(self._cuda.cudaStreamCreate)
        held.callback(self._cuda.cudaStreamDestroy, self._stream)
        largest = self.batch_limits[1] or 1
        self._memory: dict[str, int] = {}
        for name, shape in {self._input: bundle.manifest.input.shape, **self._shapes}.items():
            size = largest * math.prod(shape) * np.dtype(np.float32).itemsize
            address = int(self._call(self._cuda.cudaMalloc, size))
            held.callback(self._cuda.cudaFree, address)
            self._memory[name] = address
            if not self._context.set_tensor_address(name, address):
                raise self._refusal(f"it takes no memory for the tensor {name}")

    def _check_plan(self, bundle: Bundle) -> None:
        """Hold the plan's tensors against the manifest, and learn which batches it takes."""
        library, engine = self._library, self._engine
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = [n for n in names if engine.get_tensor_mode(n) == library.TensorIOMode.INPUT]
        if inputs != [self._input] or set(names) - set(inputs) != set(self._shapes):
            raise self._refusal(
                f"it goes from {', '.join(inputs)} to {', '.join(sorted(set(names) - set(inputs)))}"
                f", and the manifest says {self._input} to {', '.join(sorted(self._shapes))}"
            )
        for name, shape in {self._input: bundle.manifest.input.shape, **self._shapes}.items():
            found = tuple(engine.get_tensor_shape(name))
            if found[1:] != shape:
                raise self._refusal(
                    f"its {name} is {format_shape(found[1:])}, "
                    f"and the manifest says {format_shape(shape)}"
                )
            if engine.get_tensor_dtype(name) != library.DataType.FLOAT:
                kind = engine.get_tensor_dtype(name)
                raise self._refusal(f"its {name} is {kind}, and a bundle's is float32")
        if engine.num_optimization_profiles != 1:
            raise self._refusal(f"it has {engine.num_optimization_profiles} profiles, not one")
        smallest, _, largest = engine.get_tensor_profile_shape(self._input, _PROFILE)
        self.batch_limits = (int(smallest[0]), int(largest[0]))

    def run(self, batch: Array) -> dict[str, Array]:
        cuda, copy = self._cuda, self._cuda.cudaMemcpyKind
        outputs = {
            name: np.empty((len(batch), *shape), np.float32) for name, shape in self._shapes.items()
        }
        with self._one_at_a_time:
            self._log.messages.clear()
            if not self._context.set_input_shape(self._input, batch.shape):
                raise self._failure(f"it takes no batch of {len(batch)}")
            source = batch.ctypes.data
            target = self._memory[self._input]
            try:
                self._call(
                    cuda.cudaMemcpyAsync,
                    *(target, source, batch.nbytes, copy.cudaMemcpyHostToDevice, self._stream),
                )
                if not self._context.execute_async_v3(int(self._stream)):
                    raise self._failure("the plan did not start")
                for name, output in outputs.items():
                    source, target = self._memory[name], output.ctypes.data
                    self._call(
                        cuda.cudaMemcpyAsync,
                        *(target, source, output.nbytes, copy.cudaMemcpyDeviceToHost, self._stream),
                    )
            finally:
                # Also when something failed: `outputs` and `batch` must not be freed under a
                # copy that is still going on.
                finished = cuda.cudaStreamSynchronize(self._stream)
            self._value(finished)
        return outputs

    def close(self) -> None:
        with self._one_at_a_time:
            self._held.close()

    def _call(self, function: Any, *arguments: Any) -> Any:
        return self._value(function(*arguments))

    def _value(self, result: tuple[Any, ...]) -> Any:
        """What a function of the CUDA runtime gave, or EngineError in CUDA's own words.

        Each returns its status, and then its results if it has any.
        """
        status, *results = result
        if int(status) != 0:
            _, text = self._cuda.cudaGetErrorString(status)
            words = text.decode() if isinstance(text, bytes) else str(text)
            raise self._failure(f"CUDA error {int(status)}, {words}")
        return results[0] if results else None

    def _refusal(self, reason: str) -> EngineError:
        message = f"{self.name} can't load {self._path}: {reason}"
        return EngineError("engine/load", message, notes=tuple(self._log.messages))

    def _failure(self, reason: str) -> EngineError:
        message = f"{self.name} failed: {reason}"
        return EngineError("engine/run", message, notes=tuple(self._log.messages))


class TensorRTForRTX(TensorRT):
    """Runs a plan of `tensorrt_rtx`."""

    name: ClassVar[str] = "tensorrt_rtx"
    package: ClassVar[str] = "tensorrt-rtx"


@contextmanager
def _without_collection() -> Iterator[None]:
    """Keep Python's garbage collector from running inside TensorRT's log messages.

    TensorRT logs while it holds a lock that destroying one of its objects takes too: a collection
    that found a forgotten one there would wait for ever.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _no_driver() -> str | None:
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        ctypes.CDLL(name)
    except OSError:
        return "there is no NVIDIA driver on this machine"
    return None


def _no_gpu() -> str | None:
    if obstacle := import_obstacle(_CUDA, "cuda-python"):
        return obstacle
    cuda: Any = load(_CUDA)
    status, count = cuda.cudaGetDeviceCount()
    if int(status) != 0:
        _, text = cuda.cudaGetErrorString(status)
        words = text.decode() if isinstance(text, bytes) else str(text)
        return f"CUDA can't use the NVIDIA driver: {first_line(words)}"
    return None if count else "there is no NVIDIA GPU on this machine"


def _log(library: Any) -> Any:
    """A logger for TensorRT that keeps errors for the exception instead of printing them."""

    class Log(library.ILogger):  # type: ignore[misc]  # the library is known only when it runs
        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self.messages: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (library.ILogger.INTERNAL_ERROR, library.ILogger.ERROR):
                self.messages.append(first_line(message))

    return Log()
