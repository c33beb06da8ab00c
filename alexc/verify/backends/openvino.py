"""OpenVINO on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar, final

import numpy as np
from numpy.typing import NDArray

from alexc.graph.graph import INPUT
from alexc.verify.backends import served
from alexc.verify.backends.base import (
    BackendFault,
    ModelBackend,
    Tensor,
    Tensors,
    Trial,
    feeds_of,
    first_line,
)
from alexc_runtime.engines import openvino as engine


@final
class OpenVino(ModelBackend):
    """OpenVINO on the CPU, computing in the types of the model, but in float32 for fp16."""

    name: ClassVar[str] = "openvino"
    packages: ClassVar[tuple[str, ...]] = ("onnx", "openvino")
    optional: ClassVar[bool] = True

    def open(self) -> None:
        self._engine = served.load_model(engine.OpenVino, self.model, self.subject)

    def tensors(self, images: NDArray[np.float32]) -> Tensors:
        """A copy in memory of which every named tensor is an output, in float32."""
        network = read(str(self.model))
        already = {name for output in network.outputs for name in output.names}
        # What no output depends on is gone already.
        there = {n for op in network.get_ops() for output in op.outputs() for n in output.names}
        named = [n.name for n in self.graph.nodes if n.name in there and n.name not in already]
        try:
            network.add_outputs(named)
        except Exception as error:
            raise BackendFault(first_line(error)) from error
        return run(compiled(network), self.feed(images))

    def alone(self, trials: Sequence[Trial]) -> list[Tensor | BackendFault]:
        """Quantized layers one by one, and all others in one model, or one by one if that fails."""
        plain = [trial for trial in trials if trial.node.name not in self.graph.quantized]
        found: dict[str, Tensor | BackendFault] = {}
        with suppress(BackendFault):
            found.update(self._alone_together(plain, fixed=False))
        for trial in trials:
            if trial.node.name not in found:
                found.update(self._alone_by_itself(trial))
        return [found[trial.node.name] for trial in trials]

    def _alone_by_itself(self, trial: Trial) -> Mapping[str, Tensor | BackendFault]:
        name = trial.node.name
        try:
            # Of weights that are fed it makes integers in another way than of its own.
            return self._alone_together([trial], fixed=name in self.graph.quantized)
        except BackendFault as fault:
            return {name: BackendFault(fault.message, name)}

    def _alone_together(self, trials: Sequence[Trial], *, fixed: bool) -> Tensors:
        from alexc.verify.onnx_parts import detached

        if not trials:
            return {}
        feeds = feeds_of(trials)
        weights = {
            whole: feeds[whole]
            for trial in trials
            for whole in trial.node.parameter_names().values()
            if fixed
        }
        nodes = [trial.node for trial in trials]
        data, unread = detached(self.model, self.graph, nodes, weights)
        feeds = {n: a for n, a in feeds.items() if n not in unread and n not in weights}
        return run(compiled(data), feeds)

    def shipped(self, images: NDArray[np.float32]) -> Tensors:
        return served.run(self._engine, self.feed(images)[INPUT])


def read(model: str | bytes) -> Any:
    """The network of a file or of bytes. Raises BackendFault."""
    import openvino

    try:
        return openvino.Core().read_model(model)
    except Exception as error:
        raise BackendFault(first_line(error)) from error


def compiled(model: Any) -> Any:
    """Compiled with outputs in float32, for numpy has no bfloat16, and no precision but the
    model's: left to itself OpenVINO computes in bfloat16 on a processor that has it."""
    import openvino
    from openvino.preprocess import PrePostProcessor

    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "EXECUTION_MODE_HINT": "ACCURACY",
        "NUM_STREAMS": 1,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,  # of what a layer with weights of int8 reads
        "CPU_DENORMALS_OPTIMIZATION": False,
    }
    network = read(model) if isinstance(model, str | bytes) else model
    try:
        float32 = openvino.Type.f32
        narrow = [
            index
            for index, output in enumerate(network.outputs)
            if output.get_element_type() != float32
        ]
        if narrow:
            processor = PrePostProcessor(network)
            for index in narrow:
                processor.output(index).tensor().set_element_type(float32)
            network = processor.build()
        return openvino.Core().compile_model(network, "CPU", settings)
    except Exception as error:
        raise BackendFault(first_line(error)) from error


def run(network: Any, feeds: Mapping[str, Tensor]) -> Tensors:
    """Every output of a compiled network, by all of its names. Raises BackendFault."""
    try:
        request = network.create_infer_request()
        request.infer(dict(feeds), share_inputs=True)
        names = {
            name: index for index, output in enumerate(network.outputs) for name in output.names
        }
        return {
            name: np.array(request.get_output_tensor(index).data) for name, index in names.items()
        }
    except Exception as error:
        raise BackendFault(first_line(error)) from error
