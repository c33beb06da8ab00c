"""ONNX Runtime on the CPU.

Sessions here are for comparing and measuring, and hold still what could move a result: one thread
pool of a stated size, nodes one after the other, deterministic kernels, denormals kept, no other
provider than the CPU's whatever the machine has. Graph optimization is at its highest level, as in
deployment: the fused, re-laid-out graph is what will run, so it is what must be verified.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal, final

import numpy as np
from numpy.typing import NDArray

from alexc.diagnostics import AlexcError, Diagnostic
from alexc.engines.model import (
    instrumented,
    load,
    model_input,
    output_names,
    require_tensors,
)
from alexc.engines.session import Session, require
from alexc_runtime.engines.base import first_line, import_obstacle

Optimization = Literal["all", "extended", "basic", "disabled"]

_LEVELS: dict[Optimization, str] = {
    "all": "ORT_ENABLE_ALL",
    "extended": "ORT_ENABLE_EXTENDED",
    "basic": "ORT_ENABLE_BASIC",
    "disabled": "ORT_DISABLE_ALL",
}
# "[ONNXRuntimeError] : 1 : FAIL : Load model from PATH failed:REASON"
_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : (Load model .*? failed:)?")
_ERRORS_ONLY = 3  # its severities: 0 verbose, 1 info, 2 warning, 3 error, 4 fatal

# A model given as bytes has no folder, so ONNX Runtime is told where its weights lie.
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"


def obstacle() -> str | None:
    """Why ONNX Runtime can't be used here, in words; None if it can."""
    return import_obstacle("onnxruntime", "onnxruntime")


def session(
    model: Path,
    threads: int | None = None,
    outputs: Sequence[str] | None = None,
    *,
    optimization: Optimization = "all",
) -> OnnxRuntimeSession:
    """Load `model.onnx` with its weights beside it. `threads` None is one for each core.

    Without `outputs` the very file is loaded. With them, an instrumented copy in memory gives the
    tensors of these names (see `model.tensor_names`), and the file stays as it is.

    Raises UsageError if the file or the package is missing, AlexcError: engine/model,
    engine/no-such-tensor, or engine/load with ONNX Runtime's own words.
    """
    onnxruntime: Any = require("onnxruntime", "onnxruntime")
    proto = load(model)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.use_deterministic_compute = True
    options.graph_optimization_level = getattr(
        onnxruntime.GraphOptimizationLevel, _LEVELS[optimization]
    )
    source: str | bytes = str(model)
    names = output_names(proto)
    if outputs is not None:
        require_tensors(model, proto, outputs)
        names = tuple(dict.fromkeys(outputs))
        source = instrumented(proto, names).SerializeToString()
        options.add_session_config_entry(_WEIGHTS_FOLDER, str(model.absolute().parent))
    with _faults(onnxruntime, "engine/load", f"onnxruntime can't load {model}"):
        loaded = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    settings = {
        "provider": "CPUExecutionProvider",
        "graph_optimization": optimization,
        "threads": str(threads or "all"),
        "instrumented": str(outputs is not None).lower(),
    }
    return OnnxRuntimeSession(
        loaded, onnxruntime, settings, input=model_input(model, proto), outputs=names
    )


@final
class OnnxRuntimeSession(Session):
    """A model that ONNX Runtime has loaded."""

    engine: ClassVar[str] = "onnxruntime"

    def __init__(
        self, loaded: Any, library: Any, settings: dict[str, str], *, input: Any, outputs: Any
    ) -> None:
        super().__init__(library.__version__, settings, input, outputs)
        self._loaded = loaded
        self._library = library

    def _run(self, batch: NDArray[np.generic]) -> dict[str, NDArray[Any]]:
        with _faults(self._library, "engine/run", "onnxruntime failed"):
            values = self._loaded.run(list(self.outputs), {self.input.name: batch})
        return dict(zip(self.outputs, values, strict=True))

    def close(self) -> None:
        """Let go of the model and its memory."""
        self._loaded = None


@contextmanager
def _faults(library: Any, code: str, message: str) -> Iterator[None]:
    """Turn what ONNX Runtime raises into an AlexcError; its exceptions share no base class."""
    state = vars(library.capi.onnxruntime_pybind11_state).values()
    own = [kind for kind in state if isinstance(kind, type) and issubclass(kind, Exception)]
    kinds: tuple[type[Exception], ...] = (RuntimeError, ValueError, MemoryError, *own)
    try:
        yield
    except kinds as error:
        raise AlexcError(
            Diagnostic(code, f"{message}: {first_line(_PREFIX.sub('', str(error)))}")
        ) from error
