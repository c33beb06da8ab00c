"""The models of variants, made when they are wanted, in a bundle that only a search sees.

Models whose forms make the same weights share them: what differs lies in a file of its own, beside
weights.safetensors, and the rest is not written twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexc.calibrate import calibration as calibrations
from alexc.calibrate.calibration import Calibration
from alexc.calibrate.narrow import QUANTIZED, written
from alexc.diagnostics import fault
from alexc.engines.cache import cached_plan
from alexc.engines.forms import FORMS, in_form
from alexc.frontend import Net
from alexc.graph.graph import Graph
from alexc.graph.quantization import Scheme
from alexc.ops.base import Array
from alexc.passes.inference import inference
from alexc.passes.quantize import quantizable
from alexc.plan import ours
from alexc.plan.contestant import Contestant
from alexc.plan.prepare import unverified
from alexc.plan.request import Request
from alexc.plan.variant import PRECISIONS, Variant
from alexc.verify.crosscheck import Samples
from alexc.weights import store
from alexc_runtime.digests import FileRecord, sha256
from alexc_runtime.manifest import (
    ENGINES,
    MANIFEST,
    WEIGHTS,
    EngineRecord,
    render,
)
from alexc_runtime.opening import ENGINES as RUNNERS
from alexc_runtime.preprocess import normalised

Weights = Mapping[str, NDArray[np.float32]]
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Made:
    """The model of a variant: the graph that it is written from and its weights, before and after
    its precision, and the files of the bundle that it needs. `samples` are photographs as the model
    takes them, with the reference's outputs, where ranges were measured on others."""

    form: Graph
    written: Graph
    weights: Weights
    model: Path
    files: tuple[str, ...]
    calibration: Calibration | None
    samples: Samples | None


class Workshop:
    """Makes the models of a net's variants in `folder`, each once."""

    def __init__(
        self,
        net: Net,
        weights: Weights,
        folder: Path,
        request: Request,
        progress: Progress,
    ) -> None:
        folder.mkdir()
        self.net = net
        self.plain = inference(net.graph)
        self.weights = weights
        self.folder = folder
        self._files: dict[str, FileRecord] = {}
        self._request = request
        self._material = request.ranging()
        self._progress = progress
        self._extents = store.write(folder / WEIGHTS, weights)
        self._forms: dict[tuple[str, ...], tuple[Graph, Weights, tuple[str, ...]]] = {}
        self._own: dict[str, Weights] = {}
        self._calibrations: dict[tuple[str, ...], tuple[Calibration, Samples | None]] = {}
        self._exact: dict[tuple[str, ...], Mapping[str, Array]] = {}
        self._made: dict[Variant, Made] = {}
        self._records: dict[tuple[str, str], EngineRecord] = {}

    @property
    def can_quantize(self) -> bool:
        """Whether there is anything to take ranges from."""
        return self._material.photographs is not None or self._material.calibration is not None

    @property
    def precisions(self) -> dict[str, tuple[str, ...]]:
        """What each engine computes in; of eight bits those of the calibration, if one is given."""
        given = self._material.calibration
        if given is None:
            return PRECISIONS
        return {
            engine: tuple(given.scheme if each in QUANTIZED else each for each in precisions)
            for engine, precisions in PRECISIONS.items()
        }

    def make(self, variant: Variant) -> Made:
        """The model of a variant. Raises AlexcError if there is none."""
        key = replace(variant, threads=None)
        if key not in self._made:
            self._made[key] = self._make(key)
        return self._made[key]

    def contestant(self, variant: Variant) -> Contestant:
        """The variant as a race takes it; its model is made, and its plan built where it has one.

        Raises AlexcError if it can't be.
        """
        return ours.of_record(self.folder, self.record(variant), threads=variant.threads)

    def record(self, variant: Variant) -> EngineRecord:
        """What the scratch bundle's manifest says of a variant, its files made."""
        key = (variant.engine, variant.path)
        if key not in self._records:
            made = self.make(variant)
            record = EngineRecord(variant.engine, variant.precision, "candidate", variant.path)
            if RUNNERS[variant.engine].needs_plan:
                record = self._build(variant, made)
            self._records[key] = record
            manifest = unverified(self.net, list(self._records.values()), self._request.pixels)
            whole = replace(manifest, files=self._listed())
            (self.folder / MANIFEST).write_bytes(render(whole))
        return self._records[key]

    def _listed(self) -> dict[str, FileRecord]:
        """Every file there is. None is written twice, so each is hashed once."""
        for file in sorted(self.folder.rglob("*")):
            name = file.relative_to(self.folder).as_posix()
            if file.is_file() and name != MANIFEST and name not in self._files:
                self._files[name] = FileRecord(file.stat().st_size, sha256(file))
        return dict(self._files)

    def _make(self, variant: Variant) -> Made:
        from alexc.lower.to_onnx import serialize, to_onnx

        graph, weights, files = self._in_form(variant.forms)
        calibration, samples = None, None
        if variant.precision in QUANTIZED:
            calibration, samples = self._calibrated(variant)
        named = self.net.spec.header.precision
        model = self.folder / variant.model
        pixels = self._request.pixels
        result = written(graph, weights, variant.precision, named, calibration, preprocess=pixels)
        if not model.exists():
            extents = dict(self._extents)
            for file in files[1:]:
                extents |= store.extents(self.folder / file)
            model.write_bytes(serialize(to_onnx(result, extents)))
        if calibration is not None:
            files = (*files, variant.ranges)
            if not (self.folder / variant.ranges).exists():
                calibration.write(self.folder / variant.ranges)
        return Made(graph, result, weights, model, (variant.model, *files), calibration, samples)

    def _in_form(self, forms: tuple[str, ...]) -> tuple[Graph, Weights, tuple[str, ...]]:
        """Graph and weights in these forms, and the files that the weights lie in."""
        if forms not in self._forms:
            graph, weights = in_form(forms, self.plain, self.weights)
            files: tuple[str, ...] = (WEIGHTS,)
            if weights is not self.weights:
                own = {
                    name: array
                    for name, array in weights.items()
                    if name in graph.parameters and array is not self.weights.get(name)
                }
                files = (WEIGHTS, self._kept(own, forms))
            self._forms[forms] = (graph, weights, files)
        return self._forms[forms]

    def _kept(self, own: Weights, forms: tuple[str, ...]) -> str:
        """The file of weights that these forms make; forms that make the same share one."""
        for name, others in self._own.items():
            if others.keys() == own.keys() and all(
                np.array_equal(array, others[each]) for each, array in own.items()
            ):
                return name
        name = f"weights-{'-'.join(layer_forms(forms))}.safetensors"
        store.write(self.folder / name, own)
        self._own[name] = own
        return name

    def _calibrated(self, variant: Variant) -> tuple[Calibration, Samples | None]:
        """The ranges of the layers as they are in the variant's forms."""
        forms = layer_forms(variant.forms)
        numbers = QUANTIZED[variant.precision]
        key = (numbers, *forms)
        if key not in self._calibrations:
            if self._material.photographs is None:
                assert self._material.calibration is not None
                self._calibrations[key] = (self._material.calibration, None)
            else:
                self._calibrations[key] = self._measured(variant, forms, numbers)
        return self._calibrations[key]

    def _measured(
        self, variant: Variant, forms: tuple[str, ...], numbers: Scheme
    ) -> tuple[Calibration, Samples]:
        """The ranges on the photographs, and those held out, as the model takes them."""
        graph, weights, _ = self._in_form(forms)
        given, pixels = self._material.photographs, self._request.pixels
        assert given is not None
        calibration, samples = calibrations.calibrate(
            graph,
            weights,
            given if pixels is None else normalised(given, pixels),
            quantizable(graph, self.net.spec.header.precision),
            numbers,
            lambda step: self._progress(f"plan: {variant.precision}: {step}"),
            self._exact.get(forms),
        )
        # The reference takes the most time, and is the same for all numbers.
        self._exact[forms] = samples.exact
        _, held_out = calibrations.split(given)
        return calibration, replace(samples, images=held_out.astype(np.float32))

    def _build(self, variant: Variant, made: Made) -> EngineRecord:
        """Build the plan that the variant's engine loads, and say what it is. Raises AlexcError."""
        self._progress(f"plan for {variant.label}")
        (self.folder / ENGINES).mkdir(exist_ok=True)
        records = self._listed()
        digests = {name: records[name].sha256 for name in made.files}
        plans = self._request.plans
        # The runtime puts weights.safetensors in, by model.onnx; a form may have others, and
        # numbers of eight bits have grids that are made of them.
        whole = bool(variant.forms) or variant.precision in QUANTIZED
        plan = cached_plan(
            self._request.plan_cache,
            made.model,
            self.folder / variant.path,
            digests,
            flavour=variant.engine,
            precision=variant.precision,
            options=replace(plans, stripped=plans.stripped and not whole),
        )
        if plan.record.path is None:
            raise fault("plan/engine", plan.record.status)
        return replace(plan.record, path=variant.path)


def layer_forms(forms: tuple[str, ...]) -> tuple[str, ...]:
    """Those that make other layers of a graph, and not only other nodes of the same ones."""
    return tuple(name for name in forms if FORMS[name].kind != "lrn")
