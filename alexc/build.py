"""The order of a build, and whether one is needed: a Net becomes a bundle that is proved.

    key         everything that determines the bundle; one that stands there already is kept
    refusals    all that shows before anything is done
    weights     drawn, or read
    model       model.onnx and the forms of it that engines want, in a precision
    plans       what TensorRT makes of it
    proof       the cross-check of these very files
    search      the fastest ways to run it, where they are asked for
    manifest    what the bundle says of itself; then it appears in its place, whole

Nothing is decided here that a room above could decide; this is the one place that knows them all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alexc.assembly import engines, refusals
from alexc.assembly.inputs import key_of
from alexc.assembly.manifest import manifest_of
from alexc.assembly.options import MODEL_ENGINES, Options
from alexc.assembly.plans import build_plans
from alexc.assembly.proof import prove
from alexc.assembly.request import request_of
from alexc.bundle import staged, up_to_date
from alexc.calibrate.calibration import FILE as CALIBRATION
from alexc.calibrate.calibration import Calibration
from alexc.calibrate.narrow import narrow
from alexc.engines.record import VERIFIED
from alexc.frontend import Net
from alexc.model import preprocess_of, weights_for, write_model
from alexc.plan.search import Found, search
from alexc_runtime.digests import sha256
from alexc_runtime.manifest import MODEL, WEIGHTS, Manifest

if TYPE_CHECKING:
    from alexc.engines.tensorrt import Progress as PlanProgress
    from alexc.verify.report import Report

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a build. `report` is None where the bundle was up to date already.

    So is `calibration`, and where the precision takes none.
    """

    manifest: Manifest
    report: Report | None
    calibration: Calibration | None = None


def build(
    net: Net, options: Options, progress: Progress, watch: PlanProgress | None = None
) -> Result:
    """Make the bundle of `net` at `options.out`, or find that it is there already.

    `progress` is told each step, and `watch` how much of a plan is done.

    Raises AlexcError if the weights don't fit, an engine can't be built, or a backend does not
    compute the same function; the place then holds what it held before.
    """
    key = key_of(net, options)
    if (there := up_to_date(options.out, key)) is not None:
        return Result(there, None)
    refusals.check(net, options)
    with staged(options.out) as stage:
        request = request_of(net, options)
        progress("weights")
        weights = weights_for(net, options.weights, options.seed or 0)
        model = narrow(
            net.graph,
            weights,
            options.precision,
            net.spec.header.precision,
            options.calibrate,
            preprocess_of(net, options.input),
            progress,
            None if request is None else request.material.photographs,
        )
        progress("model")
        wanting = [target.engine for target in options.targets] or MODEL_ENGINES
        write_model(model.graph, weights, stage.folder, wanting)
        if model.calibration is not None:
            model.calibration.write(stage.folder / CALIBRATION)
        written = stage.records()
        layers = [node.name for node in model.graph.nodes]
        plans = build_plans(options, stage.folder, written, layers, progress, watch)
        report = prove(net, weights, stage.folder, model, plans, options, progress)
        plans = engines.of_plans(plans, report)
        records = [*plans, *engines.of_models(options, report)]
        models = [MODEL, *engines.verified_forms(report), WEIGHTS]
        certified = {path: written[path].sha256 for path in models}
        found: Found | None = None
        if request is not None:
            found = search(net, weights, request, stage.folder, progress)
            # What was chosen comes first, and so is what serves where an engine is asked for.
            named = {(each.engine, each.path) for each in found.records}
            others = (each for each in records if (each.engine, each.path) not in named)
            records = [*found.records, *others]
            digests = stage.records()
            certified |= {path: digests[path].sha256 for path in found.files}
        progress("bundle")
        ran = (plan.path for plan in plans if plan.path is not None and plan.status == VERIFIED)
        certified |= {path: sha256(stage.folder / path) for path in ran}
        plan = None if found is None else found.plan
        manifest = stage.commit(manifest_of(net, options, key, records, report, certified, plan))
    return Result(manifest, report, model.calibration)
