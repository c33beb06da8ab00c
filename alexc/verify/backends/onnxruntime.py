"""ONNX Runtime on the CPU, on model.onnx and on the form of it that is ONNX Runtime's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
from numpy.typing import NDArray

from alexc.engines.forms import FILES
from alexc.graph.graph import INPUT
from alexc.verify.backends import served
from alexc.verify.backends.base import (
    BackendFault,
    ModelBackend,
    Tensor,
    Tensors,
    Trial,
    Unsupported,
    feeds_of,
    first_line,
)
from alexc_runtime.engines import onnxruntime as serving
from alexc_runtime.engines.base import Engine


class OnnxRuntime(ModelBackend):
    """ONNX Runtime on the CPU."""

    name: ClassVar[str] = "onnxruntime"
    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime")
    engine: ClassVar[type[serving.OnnxRuntime]] = serving.OnnxRuntime
    place: ClassVar[str] = "on a CPU"

    def open(self) -> None:
        try:
            self._engine = self.load_shipped()
        except BackendFault as fault:
            if (format := self.exotic()) is not None:
                reason = fault.message.rpartition(" : ")[2]
                raise Unsupported(
                    f"ONNX Runtime does not run {format} {self.place}: {reason}"
                ) from fault
            raise

    def load_shipped(self) -> Engine:
        """The runtime's engine, on the model as it is. Raises BackendFault."""
        return served.load_model(self.engine, self.model, self.subject)

    def providers(self) -> list[serving.Provider]:
        """Who is to compute what localises, as they compute what is shipped."""
        return self.engine.computing(self.subject.precision)

    def tensors(self, images: NDArray[np.float32]) -> Tensors:
        from alexc.verify.onnx_parts import instrumented

        model = instrumented(self.model, self.graph)
        return run(load(model, self.model.parent, self.providers()), self.feed(images))

    def alone(self, trials: Sequence[Trial]) -> list[Tensor | BackendFault]:
        """All layers in one model, since sessions are slow to make; one by one if that fails."""
        try:
            return list(self._alone_together(trials))
        except BackendFault as together:
            if len(trials) == 1:
                return [BackendFault(together.message, trials[0].node.name)]
        results: list[Tensor | BackendFault] = []
        for trial in trials:
            results += self.alone([trial])
        return results

    def _alone_together(self, trials: Sequence[Trial]) -> list[Tensor]:
        from alexc.verify.onnx_parts import detached

        nodes = [trial.node for trial in trials]
        data, unread = detached(self.model, self.graph, nodes)
        feeds = {name: array for name, array in feeds_of(trials).items() if name not in unread}
        results = run(load(data, self.model.parent, self.providers()), feeds)
        return [results[node.name] for node in nodes]

    def shipped(self, images: NDArray[np.float32]) -> Tensors:
        return served.run_all(self._engine, self.feed(images)[INPUT])


@final
class OnnxRuntimeForm(OnnxRuntime):
    """ONNX Runtime on the model of its own that lies beside model.onnx, where there is one."""

    name: ClassVar[str] = "onnxruntime_form"

    @classmethod
    def model_file(cls, model: Path) -> Path:
        return model.with_name(FILES["onnxruntime"])


def load(
    model: str | bytes,
    folder: Path | None = None,
    providers: Sequence[serving.Provider] = ("CPUExecutionProvider",),
) -> Any:
    """A session on the providers, the best first, of which that one has to take part.

    Weights of a model in bytes lie in `folder`. Raises BackendFault.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong comes back as an exception as well
    # While other backends and the reference compute, waiting threads had better not spin.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if folder is not None:
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(folder)
        )
    try:
        session = onnxruntime.InferenceSession(
            model, options, providers=list(providers), enable_fallback=0
        )
    except Exception as error:
        raise BackendFault(first_line(error)) from error
    first = providers[0] if isinstance(providers[0], str) else providers[0][0]
    if first not in session.get_providers():  # it went on without one that did not start
        raise BackendFault(f"the {first} could not be started")
    return session


def run(session: Any, feeds: Mapping[str, Tensor]) -> Tensors:
    """Every output of a session by name. Raises BackendFault."""
    names = [output.name for output in session.get_outputs()]
    try:
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))
    except Exception as error:
        raise BackendFault(first_line(error)) from error
