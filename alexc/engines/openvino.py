"""OpenVINO on the CPU.

Left to itself OpenVINO computes in bfloat16 on a processor that has it, and says nothing; here the
precision is always stated, and float32 unless another is asked for. With that go its mode for
accuracy, one stream, and denormals kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal, final

import numpy as np
from numpy.typing import NDArray

from alexc.diagnostics import AlexcError, Diagnostic
from alexc.engines.model import load, model_input, output_names, require_tensors
from alexc.engines.session import Session, require
from alexc_runtime.engines.base import import_obstacle

Precision = Literal["fp32", "bf16", "fp16"]

_HINTS: dict[Precision, str] = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}


def obstacle() -> str | None:
    """Why OpenVINO can't be used here, in words; None if it can."""
    return import_obstacle("openvino", "openvino")


def session(
    model: Path,
    threads: int | None = None,
    outputs: Sequence[str] | None = None,
    *,
    precision: Precision = "fp32",
) -> OpenVinoSession:
    """Load `model.onnx` with its weights beside it. `threads` None is OpenVINO's own choice.

    Without `outputs` the model is compiled as it is in the file. With them, tensors of these names
    are made outputs of OpenVINO's copy in memory. `precision` is what float32 layers compute in.

    Raises UsageError if the file or the package is missing, AlexcError: engine/model,
    engine/no-such-tensor, or engine/load with OpenVINO's own words.
    """
    openvino: Any = require("openvino", "openvino")
    proto = load(model)  # first, since OpenVINO answers a broken file with pages on stderr
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
        "EXECUTION_MODE_HINT": "ACCURACY" if precision == "fp32" else "PERFORMANCE",
        "NUM_STREAMS": 1,
        "CPU_DENORMALS_OPTIMIZATION": False,
    }
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    names = output_names(proto)
    if outputs is not None:
        require_tensors(model, proto, outputs)
        names = tuple(dict.fromkeys(outputs))
    with _faults("engine/load", f"openvino can't load {model}"):
        core = openvino.Core()
        network = core.read_model(str(model))
        if outputs is not None:
            network.add_outputs([name for name in names if name not in output_names(proto)])
        compiled = core.compile_model(network, "CPU", settings)
    stated = {key.lower(): str(value) for key, value in settings.items()}
    stated["instrumented"] = str(outputs is not None).lower()
    return OpenVinoSession(
        compiled, openvino.__version__, stated, input=model_input(model, proto), outputs=names
    )


@final
class OpenVinoSession(Session):
    """A model that OpenVINO has compiled."""

    engine: ClassVar[str] = "openvino"

    def __init__(
        self, compiled: Any, version: str, settings: dict[str, str], *, input: Any, outputs: Any
    ) -> None:
        super().__init__(version, settings, input, outputs)
        self._request = compiled.create_infer_request()

    def _run(self, batch: NDArray[np.generic]) -> dict[str, NDArray[Any]]:
        with _faults("engine/run", "openvino failed"):
            self._request.infer({self.input.name: batch}, share_inputs=True)
            # Copies, since the arrays are the request's own memory.
            return {name: np.array(self._request.get_tensor(name).data) for name in self.outputs}

    def close(self) -> None:
        """Let go of the model and its memory."""
        self._request = None


@contextmanager
def _faults(code: str, message: str) -> Iterator[None]:
    """Turn what OpenVINO raises into an AlexcError."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError, MemoryError) as error:
        raise AlexcError(Diagnostic(code, f"{message}: {_reason(error)}")) from error


def _reason(error: Exception) -> str:
    """What went wrong, without the checks in OpenVINO's source that noticed it."""
    noise = ("Exception from ", "Check '", "FrontEnd API failed", "Summary:", "Loading input model")
    lines = [line.strip() for line in str(error).splitlines()]
    telling = [line for line in lines if line and not line.startswith(noise)]
    return " ".join(telling)[:500] or repr(error)
