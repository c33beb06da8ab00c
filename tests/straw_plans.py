"""TensorRT's backend on engines of straw, for tests in other processes as well.

The plan is TensorRT's own, which its builder makes without a GPU; what runs is the model that lies
beside it, on ONNX Runtime.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
import onnx
import onnxruntime

from alexc.verify.backends.tensorrt import PlanBackend
from alexc_runtime.engines.base import Engine
from alexc_runtime.manifest import MODEL, Bundle, EngineRecord


def with_weights(model: Path) -> onnx.ModelProto:
    """The model with the weights that lie beside it, by way of a link or not."""
    copy = onnx.load(str(model), load_external_data=False)
    for tensor in copy.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            place = {entry.key: entry.value for entry in tensor.external_data}
            with (model.parent / place["location"]).open("rb") as file:
                file.seek(int(place["offset"]))
                array = np.frombuffer(file.read(int(place["length"])), np.float32)
            whole = onnx.numpy_helper.from_array(array.reshape(tensor.dims), tensor.name)
            tensor.CopyFrom(whole)
    return copy


def weaken(model: onnx.ModelProto) -> None:
    """An LRN with an alpha five times too small."""
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "LRN" and attribute.name == "alpha":
                attribute.f /= 5


class BesideEngine(Engine):
    """Runs the model that lies beside a plan."""

    name: ClassVar[str] = "tensorrt_rtx"
    needs_plan: ClassVar[bool] = True

    def __init__(self, bundle: Bundle, record: EngineRecord, threads: int | None) -> None:  # noqa: ARG002
        assert record.path is not None
        assert bundle.path(record.path).stat().st_size > 0
        assert record.built is not None
        profiles = record.built.profiles
        self.batch_limits = (min(p.min for p in profiles), max(p.max for p in profiles))
        self._input = bundle.manifest.input.name
        self._names = [output.name for output in bundle.manifest.outputs]
        model = with_weights(bundle.folder / MODEL)
        self.compile(model)
        self._session = onnxruntime.InferenceSession(model.SerializeToString())

    def compile(self, model: onnx.ModelProto) -> None:
        """What becomes of the model on its way to kernels."""

    @classmethod
    def obstacle(cls) -> str | None:
        return None

    def run(self, batch: Any) -> dict[str, Any]:
        found = self._session.run(self._names, {self._input: batch})
        return dict(zip(self._names, found, strict=True))

    def close(self) -> None:
        del self._session


class WrongEngine(BesideEngine):
    """One whose LRN is wrong."""

    def compile(self, model: onnx.ModelProto) -> None:
        weaken(model)


@final
class GoodPlans(PlanBackend):
    """A GPU on which plans compute what they should."""

    name: ClassVar[str] = "tensorrt_rtx"
    engine: ClassVar[type[Engine]] = BesideEngine


@final
class WrongPlans(PlanBackend):
    """A GPU on which they don't."""

    name: ClassVar[str] = "tensorrt_rtx"
    engine: ClassVar[type[Engine]] = WrongEngine
