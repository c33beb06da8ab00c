"""ONNX Runtime on an NVIDIA GPU, by its providers for CUDA and for TensorRT.

Both load `model.onnx` as it is. ONNX Runtime gives to the CPU what a provider can't do, and when
one can't be started it goes on without; here both are errors, since a session that was to run on a
GPU and doesn't is ten times as slow and says nothing.

The package is `onnxruntime-gpu`, in place of `onnxruntime`: they are two builds of one module.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from contextlib import ExitStack, redirect_stdout
from io import StringIO
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from alexc_runtime import user_cache
from alexc_runtime.arrays import Borrowed, DeviceArray, Holder, OnGpu, borrowed
from alexc_runtime.engines.base import closed, first_line, import_obstacle, load
from alexc_runtime.engines.cuda import MODULE, Cuda, no_driver, no_gpu
from alexc_runtime.engines.lending import State
from alexc_runtime.engines.onnxruntime import OnnxRuntime, Provider
from alexc_runtime.engines.pool import Pool, Taken
from alexc_runtime.errors import BatchError, EngineError
from alexc_runtime.manifest import WEIGHTS, Bundle, EngineRecord

_DEVICE = 0  # CUDA_VISIBLE_DEVICES says which that is
_FLOAT32 = np.dtype(np.float32)

# An output in memory of ONNX Runtime's, kept by its shape. Making one takes longer than binding it.
_Value = Taken[tuple[int, ...], Any]

_LIBRARIES = (
    "look whether CUDA and cuDNN are installed in the versions that "
    "https://onnxruntime.ai/docs/execution-providers wants"
)


class OnnxRuntimeCuda(OnnxRuntime):
    """Runs `model.onnx` with the CUDA provider alone."""

    name: ClassVar[str] = "onnxruntime_cuda"
    on_gpu: ClassVar[bool] = True
    provider: ClassVar[str] = "CUDAExecutionProvider"
    # What ONNX Runtime calls the memory in which batches lie.
    memory: ClassVar[str] = "cuda"

    @classmethod
    def obstacle(cls) -> str | None:
        return (
            no_driver()
            # Without cuda-python, which only batches on the GPU need, loading will tell.
            or (None if import_obstacle(MODULE, "cuda-python") else no_gpu())
            or import_obstacle("onnxruntime", "onnxruntime-gpu")
            or cls._no_provider()
        )

    @classmethod
    def _no_provider(cls) -> str | None:
        if cls.provider in load("onnxruntime").get_available_providers():
            return None
        return (
            f"the installed onnxruntime has no {cls.provider}; "
            "pip uninstall onnxruntime, then pip install onnxruntime-gpu"
        )

    def __init__(self, bundle: Bundle, record: EngineRecord, threads: int | None) -> None:
        self._ordering = threading.Lock()
        self._gpu: _Gpu | None = None
        try:
            super().__init__(bundle, record, threads)
        except EngineError as error:
            # A provider that lacks a library leaves its nodes to the CPU, which is then the fault.
            error.help = _LIBRARIES
            raise
        if self.provider not in self._session.get_providers():
            self.close()
            raise EngineError(
                "engine/load",
                f"{self.name} can't load {record.path}: the {self.provider} could not be started",
                help=_LIBRARIES,
            )
        self._shapes = {output.name: output.shape for output in bundle.manifest.outputs}
        self._type = np.dtype(bundle.manifest.input.dtype)

    @classmethod
    def computing(cls, precision: str) -> list[Provider]:
        # TF32 is its default, and not what a build calls fp32.
        tf32 = "1" if precision == "tf32" else "0"
        return [("CUDAExecutionProvider", {"device_id": str(_DEVICE), "use_tf32": tf32})]

    def _providers(self, bundle: Bundle, record: EngineRecord, options: Any) -> list[Provider]:
        if hasattr(self._library, "preload_dlls"):
            # CUDA and cuDNN from NVIDIA's wheels, where there are any; it prints what it lacks.
            with redirect_stdout(StringIO()):
                self._library.preload_dlls()
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        return super()._providers(bundle, record, options)

    def run_on_gpu(self, batch: OnGpu, check: Callable[[Borrowed], None]) -> dict[str, DeviceArray]:
        """As `run`, by binding the memory of input and outputs; the outputs are there then."""
        if batch.device not in (None, _DEVICE):
            raise BatchError(
                "batch/device",
                f"the batch lies on GPU {batch.device}, and the engine is on GPU {_DEVICE}",
                help="copy it there",
            )
        lent, values = self._ready(batch, check)
        try:
            binding = self._session.io_binding()
            binding.bind_input(
                self._input, self.memory, _DEVICE, self._type, lent.shape, lent.address
            )
            for name, value in values.items():
                binding.bind_ortvalue_output(name, value.thing)
            self._session.run_with_iobinding(binding)
        except Exception as error:
            raise self._failure(error) from error
        images = lent.shape[0]
        return {
            name: DeviceArray(_Output(value), (images, *self._shapes[name]), _FLOAT32, _DEVICE)
            for name, value in values.items()
        }

    def _ready(
        self, batch: OnGpu, check: Callable[[Borrowed], None]
    ) -> tuple[Borrowed, dict[str, _Value]]:
        """The input when its owner has written it, and where the outputs are to lie.

        ONNX Runtime's own stream is not told to wait, so that we do.
        """
        if obstacle := import_obstacle(MODULE, "cuda-python"):
            raise EngineError(
                "engine/unavailable",
                f"{self.name} takes no batches on the GPU: {obstacle}",
                help="pip install cuda-python, or copy the batch to the CPU",
            )
        with self._ordering:
            if self._session is None:
                raise closed()
            if self._gpu is None:
                self._gpu = self._own()
            gpu = self._gpu
            with gpu.cuda.current():
                lent = borrowed(batch, int(gpu.stream))
                check(lent)
                gpu.wait(lent)
                images = lent.shape[0]
                try:
                    values = {
                        name: gpu.outputs.take((images, *shape))
                        for name, shape in self._shapes.items()
                    }
                except Exception as error:
                    raise self._failure(error) from error
            return lent, values

    def _own(self) -> _Gpu:
        make, memory = self._library.OrtValue.ortvalue_from_shape_and_type, self.memory
        gpu = _Gpu(self.name, lambda shape: make(shape, _FLOAT32, memory, _DEVICE))
        weakref.finalize(self, gpu.close)
        return gpu

    def close(self) -> None:
        with self._ordering:
            super().close()
            gpu, self._gpu = self._gpu, None
            if gpu is not None:
                gpu.close()


class OnnxRuntimeTensorRT(OnnxRuntimeCuda):
    """Runs `model.onnx` with the TensorRT provider, and what that can't do with that for CUDA.

    It builds a plan where it is loaded, which takes from seconds to minutes; the plan is kept in
    the user's cache. The precision that the model says is allowed to TensorRT in all layers; and so
    is TF32 in fp32, which this provider can't be told to leave (only NVIDIA_TF32_OVERRIDE=0 in the
    environment can: github.com/microsoft/onnxruntime/issues/26029).
    """

    name: ClassVar[str] = "onnxruntime_tensorrt"
    provider: ClassVar[str] = "TensorrtExecutionProvider"

    @classmethod
    def obstacle(cls) -> str | None:
        # By importing it, TensorRT's libraries get to where ONNX Runtime finds them.
        return super().obstacle() or import_obstacle("tensorrt", "tensorrt")

    @classmethod
    def computing(cls, precision: str) -> list[Provider]:
        settings = {"device_id": str(_DEVICE)}
        if precision in ("fp16", "bf16", "int8"):
            settings[f"trt_{precision}_enable"] = "1"
        return [(cls.provider, settings), *super().computing(precision)]

    def _providers(self, bundle: Bundle, record: EngineRecord, options: Any) -> list[Provider]:
        own, *others = super()._providers(bundle, record, options)
        assert isinstance(own, tuple)
        settings = own[1]
        input = bundle.manifest.input
        self.batch_limits = (input.batch.min, input.batch.max)
        for which in ("min", "opt", "max"):
            shape = (getattr(input.batch, which), *input.shape)
            settings[f"trt_profile_{which}_shapes"] = f"{input.name}:{'x'.join(map(str, shape))}"
        if (folder := user_cache.user_cache()) is not None:
            # It names the files by the model and the GPU, and not by the weights; and it makes the
            # last folder of the path alone.
            place = folder / "onnxruntime" / bundle.manifest.files[WEIGHTS].sha256
            if user_cache.make(place):
                settings["trt_engine_cache_enable"] = "1"
                settings["trt_engine_cache_path"] = str(place)
        return [own, *others]


class _Gpu:
    """What batches on the GPU take: a stream and an event to wait by, and memory for outputs.

    It does not know the engine, to be given back when that is collected.
    """

    def __init__(self, who: str, output: Callable[[tuple[int, ...]], Any]) -> None:
        self.cuda, held = Cuda(who, _DEVICE), ExitStack()
        with self.cuda.current():
            self.stream, self._event = self.cuda.stream(held), self.cuda.event(held)
        self.outputs: Pool[tuple[int, ...], Any] = Pool(self.cuda, output, lambda _: None)
        held.callback(self.outputs.close)
        held.callback(self.cuda.rest)  # what came back may still be read
        self.close = State(self.cuda, (self.stream,), held).close

    def wait(self, lent: Borrowed) -> None:
        """Wait until the owner of an input has written it."""
        cuda = self.cuda
        if not lent.ready:
            cuda.after(cuda.api.cudaStream_t(lent.stream), self.stream, self._event)
        cuda.call(cuda.api.cudaStreamSynchronize, self.stream)


class _Output(Holder):
    """One that ONNX Runtime has written before `run_with_iobinding` returns."""

    def __init__(self, value: _Value) -> None:
        self._value = value

    @property
    def address(self) -> int:
        return int(self._value.thing.data_ptr())

    @property
    def stream(self) -> int | None:
        return None

    def let_wait(self, stream: int) -> None:
        """There is nothing to wait for."""

    def copy(self, array: NDArray[Any]) -> None:
        try:
            array[...] = self._value.thing.numpy()
        except Exception as error:
            message = f"ONNX Runtime can't copy an output: {first_line(error)}"
            raise EngineError("engine/run", message) from error
