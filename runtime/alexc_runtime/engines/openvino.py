"""OpenVINO on the CPU."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from alexc_runtime.engines.base import Engine, closed, first_line, import_obstacle, load
from alexc_runtime.errors import EngineError
from alexc_runtime.manifest import Bundle, EngineRecord

if TYPE_CHECKING:
    from alexc_runtime.engines.base import Array

# On a CPU with bfloat16 OpenVINO computes in it unless told otherwise. Here the model itself says
# the precision of each layer, and what it leaves in float32 is meant to stay there.
_PRECISION = "f32"


def compile_settings(threads: int | None) -> dict[str, Any]:
    """What OpenVINO is told of every model; `threads` bounds its threads (None: its own choice)."""
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": _PRECISION,
        "PERFORMANCE_HINT": "LATENCY",
        # Otherwise it rounds what a layer with weights of int8 reads to eight bits, too.
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        # On, it would leave denormals flushed to zero in the whole process, not here alone.
        "CPU_DENORMALS_OPTIMIZATION": False,
    }
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    return settings


class OpenVino(Engine):
    """Runs `model.onnx` on OpenVINO's CPU device, in the precisions that the model states."""

    name: ClassVar[str] = "openvino"

    @classmethod
    def obstacle(cls) -> str | None:
        return import_obstacle("openvino", "openvino")

    def __init__(self, bundle: Bundle, record: EngineRecord, threads: int | None) -> None:
        openvino: Any = load("openvino")
        settings = compile_settings(threads)
        assert record.path is not None
        path = bundle.path(record.path)
        try:
            self._model: Any = openvino.Core().compile_model(str(path), "CPU", settings)
            self._request: Any = self._model.create_infer_request()
        except Exception as error:
            message = f"openvino can't load {path}: {first_line(error)}"
            raise EngineError("engine/load", message) from error
        self._input = bundle.manifest.input.name
        self._outputs = [output.name for output in bundle.manifest.outputs]
        self._one_at_a_time = threading.Lock()  # a request holds one set of buffers

    def run(self, batch: Array) -> dict[str, Array]:
        with self._one_at_a_time:
            if self._request is None:
                raise closed()
            try:
                self._request.infer({self._input: batch}, share_inputs=True)
                # Copies, since the request's own buffers are overwritten by the next run.
                return {
                    name: np.array(self._request.get_tensor(name).data) for name in self._outputs
                }
            except Exception as error:
                raise EngineError("engine/run", f"openvino failed: {first_line(error)}") from error

    def close(self) -> None:
        with self._one_at_a_time:
            self._request = self._model = None
