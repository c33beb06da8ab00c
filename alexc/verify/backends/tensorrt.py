"""TensorRT and TensorRT for RTX, on the GPU of this machine.

What is shipped is the bundle's own plan, byte for byte, loaded and run by the runtime's engine. To
localise, plans are built from copies of model.onnx: one has every named tensor as an output, one
holds the layers side by side. They are built for this GPU and this batch, quickly, and certify
nothing: TensorRT chooses other kernels for them than for the plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, final

import numpy as np
from numpy.typing import NDArray

from alexc.diagnostics import AlexcError
from alexc.engines.options import PlanOptions
from alexc.engines.tensorrt import build_plan
from alexc.folders import scratch
from alexc.graph.graph import INPUT
from alexc.ops.base import Shape
from alexc.verify.backends import served
from alexc.verify.backends.base import (
    BackendFault,
    ModelBackend,
    Subject,
    Tensor,
    Tensors,
    Trial,
    feeds_of,
)
from alexc.verify.plan_parts import in_float32, lend_weights, packed
from alexc_runtime.engines import tensorrt
from alexc_runtime.engines.base import Engine
from alexc_runtime.manifest import BatchRange, EngineRecord, Input, InputType

# The builder's level for plans that only localise: no kernels are looked for but the first.
_QUICKLY = 1


class PlanBackend(ModelBackend):
    """A backend that runs plans."""

    packages: ClassVar[tuple[str, ...]] = ("onnx",)
    optional: ClassVar[bool] = True  # a library may not run on a GPU that it builds for
    engine: ClassVar[type[Engine]]

    @classmethod
    def concerned(cls, subject: Subject) -> bool:
        return cls.name in subject.plans

    @classmethod
    def obstacle(cls, subject: Subject) -> str | None:
        record = subject.plans.get(cls.name)
        if record is None:
            return "there is no plan for it"
        return cls.engine.obstacle() or cls.engine.misfit(record)

    @classmethod
    def sizes(cls, subject: Subject, images: int) -> tuple[int, ...]:  # noqa: ARG003
        """The smallest, the usual and the largest batch of every profile of the plan."""
        built = subject.plans[cls.name].built
        profiles = () if built is None else built.profiles
        return tuple(sorted({size for each in profiles for size in (each.min, each.opt, each.max)}))

    @classmethod
    def narrows(cls, subject: Subject) -> str | None:
        return "tf32" if subject.plans[cls.name].precision == "tf32" else None

    @property
    def record(self) -> EngineRecord:
        return self.subject.plans[self.name]

    def open(self) -> None:
        shapes = {name: self.graph.shapes[name] for name in self.graph.outputs}
        dtype: InputType = "float32" if self.graph.pixels is None else "uint8"
        # The batches that it takes are the plan's to say.
        input = Input(INPUT, self.graph.input_shape, BatchRange(1, 1, 1), dtype)
        self._shipped = served.load(self.engine, self.model.parent, self.record, input, shapes)

    def tensors(self, images: NDArray[np.float32]) -> Tensors:
        from alexc.verify.onnx_parts import instrumented

        model, names = in_float32(instrumented(self.model, self.graph))
        shapes = {theirs: self.graph.shapes[name] for name, theirs in names.items()}
        found = self._run_once(model, images, shapes, pixels=self.graph.pixels is not None)
        return {name: found[theirs] for name, theirs in names.items()}

    def alone(self, trials: Sequence[Trial]) -> list[Tensor | BackendFault]:
        """All layers in one plan, since plans are slow to build; one by one if that fails."""
        try:
            return list(self._alone_together(trials))
        except BackendFault as together:
            if len(trials) <= 1:
                return [BackendFault(together.message, trial.node.name) for trial in trials]
        results: list[Tensor | BackendFault] = []
        for trial in trials:
            results += self.alone([trial])
        return results

    def _alone_together(self, trials: Sequence[Trial]) -> list[Tensor]:
        from alexc.verify.onnx_parts import detached

        if not trials:
            return []
        feeds = feeds_of(trials)
        wholes = {whole for trial in trials for whole in trial.node.parameter_names().values()}
        weights = {name: feeds[name] for name in wholes}
        nodes = [trial.node for trial in trials]
        data, unread = detached(self.model, self.graph, nodes, weights)
        given = {n: a for n, a in feeds.items() if n not in unread and n not in wholes}
        model, images = packed(data, given)
        shapes = {node.name: node.shape for node in nodes}
        found = self._run_once(model, images, shapes, pixels=False)
        return [found[node.name] for node in nodes]

    def shipped(self, images: NDArray[np.float32]) -> Tensors:
        return served.run_all(self._shipped, self.feed(images)[INPUT])

    def _run_once(
        self,
        model: bytes,
        images: NDArray[np.float32],
        outputs: Mapping[str, Shape],
        *,
        pixels: bool,
    ) -> Tensors:
        """Build a plan of a copy of the model, run it on one batch, and forget it."""
        batch = BatchRange(len(images), len(images), len(images))
        with scratch("verify") as folder:
            file, plan = folder / self.model.name, folder / "copy.plan"
            file.write_bytes(model)
            lend_weights(self.model, model, folder)
            try:
                built = build_plan(
                    file,
                    plan,
                    flavour=self.name,
                    precision=self.record.precision,
                    options=PlanOptions((batch,), level=_QUICKLY),
                )
            except AlexcError as error:
                raise BackendFault(error.diagnostics[0].message) from error
            if built.record.path is None:
                raise BackendFault(built.record.status)
            record = EngineRecord(
                self.name, self.record.precision, "to localise", plan.name, built.record.built
            )
            given = images.astype(np.uint8) if pixels else images
            input = Input(INPUT, given.shape[1:], batch, "uint8" if pixels else "float32")
            engine = served.load(self.engine, folder, record, input, outputs)
            try:
                return served.run(engine, given)
            finally:
                engine.close()


@final
class TensorRT(PlanBackend):
    """The plan of `tensorrt`."""

    name: ClassVar[str] = "tensorrt"
    engine: ClassVar[type[Engine]] = tensorrt.TensorRT


@final
class TensorRTForRTX(PlanBackend):
    """The plan of `tensorrt_rtx`."""

    name: ClassVar[str] = "tensorrt_rtx"
    engine: ClassVar[type[Engine]] = tensorrt.TensorRTForRTX
