"""The models that only a plan's ways run, to be held against the reference again.

A search verifies what it ships, and the bundle keeps what that takes: each model in its form and
precision, and the ranges of those in eight bits.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexc.calibrate.calibration import read as read_calibration
from alexc.calibrate.narrow import QUANTIZED, written
from alexc.diagnostics import fault
from alexc.engines.forms import FILES, FORMS, in_form
from alexc.engines.record import PRECISIONS, EngineRecord
from alexc.frontend import Net
from alexc.graph.graph import Graph
from alexc.passes.inference import inference
from alexc.plan.variant import Variant
from alexc.verify.report import BackendResult, Report
from alexc_runtime.manifest import MODEL, Bundle
from alexc_runtime.opening import ENGINES
from alexc_runtime.planned import Candidate, way_label

Weights = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Shipped:
    """A model in a bundle, and the engines that run it, each with the label of its way.

    `form` is the graph in the model's form with its `weights`, and `written` in its precision, too.
    `plans` are what engines run that do not run the model itself.
    """

    file: Path
    form: Graph
    weights: Weights
    written: Graph
    precision: str
    labels: dict[str, str] = field(default_factory=dict)
    plans: list[EngineRecord] = field(default_factory=list)


def shipped(
    bundle: Bundle, net: Net, weights: Weights, done: Collection[str]
) -> tuple[list[Shipped], list[str]]:
    """The models that ways of the bundle's plan run, but for model.onnx and the paths `done`.

    With them, in words, the ways that can't be verified again, and why. `weights` are the bundle's.
    Raises AlexcError if a file of ranges is damaged, or of something else, or if the plan runs
    another file than the one that would be verified.
    """
    manifest = bundle.manifest
    candidates = () if manifest.plan is None else manifest.plan.candidates
    _refuse_other_files(bundle)
    found: dict[tuple[tuple[str, ...], str], Shipped] = {}
    left_out: dict[str, None] = {}
    for way in candidates:
        if way.path is None or way.path in done or _of_any_build(bundle, way):
            continue
        label = way_label(way.engine, way.precision, way.forms, None)
        variant = Variant(way.engine, way.precision, way.forms)
        key = (way.forms, way.precision)
        if (lacking := _lacking(bundle, variant)) is not None:
            left_out[f"{label}: {lacking}, and the build alone verified it"] = None
            continue
        if key not in found:
            found[key] = _shipped(bundle, net, weights, variant)
        if way.engine not in found[key].labels:
            found[key].labels[way.engine] = label
            record = manifest.record(way.engine, way.path)
            if ENGINES[way.engine].needs_plan and record is not None:
                found[key].plans.append(record)
    return list(found.values()), list(left_out)


def with_shipped(
    report: Report,
    models: Iterable[Shipped],
    check: Callable[..., Report],
    backends: Collection[str] | None,
) -> Report:
    """The report with what a cross-check finds of the models, on these backends alone if given.

    `check` is `verify.crosscheck.verify`, told already what all models are given. The backends of
    the models are called by the labels of their ways.
    """
    for model in models:
        wanted = [name for name in model.labels if backends is None or name in backends]
        here = [name for name in wanted if ENGINES[name].obstacle() is None]
        absent = [
            BackendResult(name, f"not run: {ENGINES[name].obstacle()}", None)
            for name in wanted
            if name not in here
        ]
        found = Report(True, report.reference, absent, (), None)
        if here:
            found = check(
                model.form,
                model.weights,
                model.file,
                written=model.written,
                plans=model.plans,
                precision=model.precision,
                backends=here,
            )
            found = replace(found, backends=[*found.backends, *absent])
        report = report.joined(found, model.labels)
    return report


def _of_any_build(bundle: Bundle, way: Candidate) -> bool:
    """Whether every build verifies what the way runs: model.onnx, or an engine's own form of it."""
    files, own = bundle.manifest.files, FILES.get(way.engine, MODEL)
    assert way.path is not None
    same = own in files and way.path in files and files[own].sha256 == files[way.path].sha256
    return way.path == MODEL or same


def _refuse_other_files(bundle: Bundle) -> None:
    """Raise AlexcError if the plan runs a file that is not what it says of it, or says nothing."""
    plan = bundle.manifest.plan
    if plan is None:
        return
    said = {(way.engine, way.precision, way.path) for way in plan.candidates}
    strange = [
        choice.way.path
        for choice in plan.choices
        if (choice.way.engine, choice.way.precision, choice.way.path) not in said
    ]
    for way in plan.candidates:
        variant = Variant(way.engine, way.precision, way.forms)
        if way.path is not None and not _unknown(variant) and way.path != variant.path:
            strange.append(way.path)
    if strange:
        raise fault(
            "verify/plan",
            f"the plan of {bundle.folder} runs {strange[0]}, which is not the file of the model "
            "that it names",
            help="build the bundle again",
        )


def _lacking(bundle: Bundle, variant: Variant) -> str | None:
    """What the bundle, or this alexc, lacks to verify a variant; None if nothing."""
    if (unknown := _unknown(variant)) is not None:
        return unknown
    wanted = [variant.model, *([variant.ranges] if variant.precision in QUANTIZED else [])]
    missing = [name for name in wanted if name not in bundle.manifest.files]
    return f"the bundle has no {missing[0]}" if missing else None


def _unknown(variant: Variant) -> str | None:
    """What of a variant this alexc does not know, if anything."""
    for what, names, known in (
        ("engine", (variant.engine,), ENGINES),
        ("precision", (variant.precision,), PRECISIONS),
        ("form", variant.forms, FORMS),
    ):
        if unknown := [name for name in names if name not in known]:
            return f"this alexc knows no {what} {unknown[0]}"
    return None


def _shipped(bundle: Bundle, net: Net, weights: Weights, variant: Variant) -> Shipped:
    graph, own = in_form(variant.forms, inference(net.graph), weights)
    calibration = None
    if variant.precision in QUANTIZED:
        calibration = read_calibration(bundle.path(variant.ranges))
    named, preprocess = net.spec.header.precision, bundle.manifest.preprocess
    model = written(graph, own, variant.precision, named, calibration, preprocess)
    return Shipped(bundle.path(variant.model), graph, own, model, variant.precision)
