"""ONNX Runtime on an NVIDIA GPU, with its providers for CUDA and for TensorRT.

What is shipped is loaded and run by the runtime's engines, which leave nothing to the CPU. Copies
that localise may be computed there in part: a fault of the provider's is not in that part then.
"""

from __future__ import annotations

import os
from typing import ClassVar

from alexc.verify.backends import served
from alexc.verify.backends.base import Subject
from alexc.verify.backends.onnxruntime import OnnxRuntime
from alexc_runtime.engines import onnxruntime, onnxruntime_gpu
from alexc_runtime.engines.base import Engine
from alexc_runtime.engines.cuda import no_driver


class OnnxRuntimeCuda(OnnxRuntime):
    """ONNX Runtime with the CUDA provider, on model.onnx."""

    name: ClassVar[str] = "onnxruntime_cuda"
    packages: ClassVar[tuple[str, ...]] = ("onnx",)  # what else it needs, the engine says better
    optional: ClassVar[bool] = True
    engine: ClassVar[type[onnxruntime.OnnxRuntime]] = onnxruntime_gpu.OnnxRuntimeCuda
    place: ClassVar[str] = "with the CUDA provider"

    @classmethod
    def concerned(cls, subject: Subject) -> bool:  # noqa: ARG003
        """Where there is no driver, there is nothing to say of a GPU."""
        return no_driver() is None

    @classmethod
    def obstacle(cls, subject: Subject) -> str | None:  # noqa: ARG003
        return cls.engine.obstacle()

    @classmethod
    def narrows(cls, subject: Subject) -> str | None:
        return "tf32" if subject.precision == "tf32" else None


class OnnxRuntimeTensorRT(OnnxRuntimeCuda):
    """ONNX Runtime with the TensorRT provider, which builds a plan of model.onnx by itself."""

    name: ClassVar[str] = "onnxruntime_tensorrt"
    engine: ClassVar[type[onnxruntime.OnnxRuntime]] = onnxruntime_gpu.OnnxRuntimeTensorRT
    place: ClassVar[str] = "with the TensorRT provider"

    @classmethod
    def narrows(cls, subject: Subject) -> str | None:
        """The model's own precision is allowed to it in all layers, and TF32 in any case.

        That is a flag of TensorRT's which ONNX Runtime does not offer, and which the environment
        alone can take back (github.com/microsoft/onnxruntime/issues/26029).
        """
        if subject.precision in ("fp16", "bf16"):
            return subject.precision
        return None if os.environ.get("NVIDIA_TF32_OVERRIDE") == "0" else "tf32"

    def load_shipped(self) -> Engine:
        return served.load_model(self.engine, self.model, self.subject, keeps_plans=True)
