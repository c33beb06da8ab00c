"""ONNX Runtime on the CPU: the engine that runs wherever nothing faster can."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from alexc_runtime.engines.base import Engine, first_line, import_obstacle, load
from alexc_runtime.errors import EngineError
from alexc_runtime.manifest import Bundle, EngineRecord

if TYPE_CHECKING:
    from alexc_runtime.engines.base import Array

_ERRORS_ONLY = 3  # ONNX Runtime's severities: 0 verbose, 1 info, 2 warning, 3 error, 4 fatal


class OnnxRuntime(Engine):
    """Runs `model.onnx` with the CPU provider alone, whatever GPU the machine has."""

    name: ClassVar[str] = "onnxruntime"

    @classmethod
    def obstacle(cls) -> str | None:
        return import_obstacle("onnxruntime", "onnxruntime")

    def __init__(self, bundle: Bundle, record: EngineRecord, threads: int | None) -> None:
        onnxruntime: Any = load("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        if threads is not None:
            options.intra_op_num_threads = threads
        assert record.path is not None
        path = bundle.path(record.path)
        try:
            # By path: the model refers to weights.safetensors beside it.
            self._session: Any = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            message = f"onnxruntime can't load {path}: {first_line(error)}"
            raise EngineError("engine/load", message) from error
        self._input = bundle.manifest.input.name
        self._outputs = [output.name for output in bundle.manifest.outputs]

    def run(self, batch: Array) -> dict[str, Array]:
        try:
            values = self._session.run(self._outputs, {self._input: batch})
        except Exception as error:
            raise EngineError("engine/run", f"onnxruntime failed: {first_line(error)}") from error
        return dict(zip(self._outputs, values, strict=True))

    def close(self) -> None:
        self._session = None
