"""The backends that are held against the reference, by name."""

from alexc.verify.backends.base import Backend
from alexc.verify.backends.onnxruntime import OnnxRuntime, OnnxRuntimeForm
from alexc.verify.backends.onnxruntime_gpu import OnnxRuntimeCuda, OnnxRuntimeTensorRT
from alexc.verify.backends.openvino import OpenVino
from alexc.verify.backends.tensorrt import TensorRT, TensorRTForRTX
from alexc.verify.backends.torch import Torch

# Every backend by name, in the order of the report.
BACKENDS: dict[str, type[Backend]] = {
    backend.name: backend
    for backend in (
        Torch,
        OnnxRuntime,
        OnnxRuntimeForm,
        OpenVino,
        OnnxRuntimeCuda,
        OnnxRuntimeTensorRT,
        TensorRT,
        TensorRTForRTX,
    )
}
