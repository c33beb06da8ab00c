"""ONNX Runtime's engines for the GPU with its provider for the CPU in the place of theirs.

It takes the same calls, so that everything but the kernels is as on a GPU. What the providers of
the GPU would have been told is noted in `TOLD`. For tests in other processes as well.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from alexc.verify.backends import onnxruntime_gpu as backends
from alexc_runtime import dlpack
from alexc_runtime.engines import onnxruntime
from alexc_runtime.engines.onnxruntime import Provider
from alexc_runtime.engines.onnxruntime_gpu import OnnxRuntimeCuda, OnnxRuntimeTensorRT
from alexc_runtime.manifest import Bundle, EngineRecord

CPU = "CPUExecutionProvider"
TOLD: list[list[Any]] = []


class HostArray:
    """An array of the CPU that says it lies on GPU 0."""

    device = 0

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array
        self.shape = array.shape

    def __dlpack__(self, *, stream: int) -> Any:
        place, kind = self.array.ctypes.data, self.array.dtype
        return dlpack.write(place, self.shape, kind, (dlpack.CUDA, self.device), self)

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CUDA, self.device


class OnCpu(OnnxRuntimeCuda):
    """An engine for the GPU that is there, and computes on the CPU."""

    memory: ClassVar[str] = "cpu"

    @classmethod
    def obstacle(cls) -> str | None:
        return None

    def _providers(self, bundle: Bundle, record: EngineRecord, options: Any) -> list[Provider]:
        TOLD.append(super()._providers(bundle, record, options))
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "0")
        vars(self)["provider"] = CPU
        return [CPU]


class Wrong(OnCpu):
    """One whose outputs are off by a thousandth."""

    def run(self, batch: Any) -> dict[str, Any]:
        return {name: array * np.float32(1.001) for name, array in super().run(batch).items()}


class PlansOnCpu(OnCpu, OnnxRuntimeTensorRT):
    """The engine for TensorRT, which takes no batches but those of its profile."""

    ran: ClassVar[list[int]] = []

    def run(self, batch: Any) -> dict[str, Any]:
        smallest, largest = self.batch_limits
        assert largest is not None
        assert smallest <= len(batch) <= largest
        self.ran.append(len(batch))
        return super().run(batch)


class GoodCuda(backends.OnnxRuntimeCuda):
    """A GPU that computes what it should."""

    engine: ClassVar[type[onnxruntime.OnnxRuntime]] = OnCpu

    @classmethod
    def concerned(cls, subject: Any) -> bool:  # noqa: ARG003
        return True

    def providers(self) -> list[Provider]:
        TOLD.append(super().providers())
        return [CPU]


class WrongCuda(GoodCuda):
    """A GPU that doesn't, in the whole net alone."""

    engine: ClassVar[type[onnxruntime.OnnxRuntime]] = Wrong


class GoodTensorRT(GoodCuda, backends.OnnxRuntimeTensorRT):
    """A GPU on which the provider for TensorRT computes what it should."""

    engine: ClassVar[type[onnxruntime.OnnxRuntime]] = PlansOnCpu
