"""ONNX Runtime on the CPU: the engine that runs wherever nothing faster can."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from alexc_runtime.engines.base import Engine, closed, first_line, import_obstacle, load
from alexc_runtime.errors import EngineError
from alexc_runtime.manifest import Bundle, EngineRecord

if TYPE_CHECKING:
    from alexc_runtime.engines.base import Array

_ERRORS_ONLY = 3  # ONNX Runtime's severities: 0 verbose, 1 info, 2 warning, 3 error, 4 fatal

# A provider by its name, or with its options.
Provider = str | tuple[str, dict[str, str]]


def session_options(library: Any, threads: int | None) -> Any:
    """What ONNX Runtime is told of every session; `threads` bounds its threads (None: its own
    choice)."""
    options = library.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


class OnnxRuntime(Engine):
    """Runs `model.onnx` with the CPU provider alone, whatever GPU the machine has."""

    name: ClassVar[str] = "onnxruntime"

    @classmethod
    def obstacle(cls) -> str | None:
        return import_obstacle("onnxruntime", "onnxruntime")

    def __init__(self, bundle: Bundle, record: EngineRecord, threads: int | None) -> None:
        self._library: Any = load("onnxruntime")
        options = session_options(self._library, threads)
        providers = self._providers(bundle, record, options)
        assert record.path is not None
        path = bundle.path(record.path)
        try:
            # By path: the model refers to weights.safetensors beside it. Without the fallback by
            # which it would try other providers when one fails.
            self._session: Any = self._library.InferenceSession(
                str(path), options, providers=providers, enable_fallback=0
            )
        except Exception as error:
            message = f"{self.name} can't load {path}: {first_line(error)}"
            raise EngineError("engine/load", message) from error
        self._input = bundle.manifest.input.name
        self._outputs = [output.name for output in bundle.manifest.outputs]

    @classmethod
    def computing(cls, precision: str) -> list[Provider]:  # noqa: ARG003
        """Who computes a model of this precision, the best first, and with what rounding."""
        return ["CPUExecutionProvider"]

    def _providers(
        self,
        bundle: Bundle,  # noqa: ARG002
        record: EngineRecord,
        options: Any,  # noqa: ARG002
    ) -> list[Provider]:
        """As `computing`, for this bundle; `options` are the session's, and may be changed."""
        return self.computing(record.precision)

    def run(self, batch: Array) -> dict[str, Array]:
        try:
            values = self._session.run(self._outputs, {self._input: batch})
        except Exception as error:
            raise self._failure(error) from error
        return dict(zip(self._outputs, values, strict=True))

    def _failure(self, error: Exception) -> EngineError:
        if self._session is None:  # meanwhile
            return closed()
        return EngineError("engine/run", f"{self.name} failed: {first_line(error)}")

    def close(self) -> None:
        self._session = None
