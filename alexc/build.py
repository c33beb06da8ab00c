"""The order of a build: a Net becomes weights, model, plans, a proof and a bundle.

Nothing is decided here that a room above could decide; this is the one place that knows them all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alexc import __version__
from alexc.bundle import inputs_digest, staged, tool_versions, up_to_date
from alexc.calibrate.calibration import FILE as CALIBRATION
from alexc.calibrate.calibration import Calibration, split
from alexc.calibrate.calibration import read as read_calibration
from alexc.calibrate.images import load_images, photo_files
from alexc.calibrate.narrow import Narrow, narrow, written
from alexc.diagnostics import AlexcError, Diagnostic, fault, usage_fault
from alexc.engines.cache import cached_plan
from alexc.engines.driver import machine
from alexc.engines.forms import FILES, fastest_form
from alexc.engines.options import DEFAULT_OPTIONS, PlanOptions
from alexc.engines.record import BUILT, VERIFIED
from alexc.frontend import Net, outputs_are_probabilities
from alexc.graph.graph import INPUT, Graph
from alexc.ops.pixels import Pixels
from alexc.passes.inference import inference
from alexc.passes.read_pixels import read_pixels
from alexc.plan.search import Request, check, search
from alexc.plan.workshop import Material
from alexc.weights import store
from alexc.weights.init import draw
from alexc_runtime.digests import FileRecord, sha256
from alexc_runtime.errors import BundleError
from alexc_runtime.manifest import (
    ENGINES,
    MODEL,
    REPORT,
    WEIGHTS,
    BackendRecord,
    EngineRecord,
    Input,
    InputType,
    Manifest,
    Origin,
    Output,
    Preprocess,
    Verification,
)
from alexc_runtime.manifest import read as read_manifest
from alexc_runtime.planned import this_machine
from alexc_runtime.session import ENGINES as RUNNERS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from alexc.engines.tensorrt import Progress as PlanProgress
    from alexc.plan.budget import Budget
    from alexc.plan.photographs import Labelled
    from alexc.verify.report import Report
    from alexc_runtime.manifest import Bundle

    Weights = dict[str, NDArray[np.float32]]

Progress = Callable[[str], None]

# The engines that a build can make or prepare, in the order of the manifest. Plans are built; the
# others load model.onnx as it is.
PLAN_ENGINES = ("tensorrt_rtx", "tensorrt")
MODEL_ENGINES = ("onnxruntime_cuda", "onnxruntime_tensorrt", "onnxruntime", "openvino")


@dataclass(frozen=True, slots=True)
class Target:
    """An engine to build for. `capabilities` are GPUs (`8.9`) that a plan is limited to."""

    engine: str
    capabilities: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Auto:
    """A search for the fastest engines: within what budget, with how many threads (None: tried).

    `data` names labelled images to take accuracies on, and `labelled` gives them.
    """

    budget: Budget
    threads: int | None = None
    data: str | None = None
    labelled: Labelled | None = None


@dataclass(frozen=True, slots=True)
class Options:
    """What a build is told beside the spec.

    `seed` counts only where `weights` are not given; left out it is 0, and weights that were given
    to a bundle at the same place are not replaced. `calibrate` are photographs, folders of them,
    or one calibration.json, from which int8 and fp8 take their ranges; with the others they are
    what the accuracy is taken on. Without `targets` everything that is installed is built for, and
    what is not is left out; a target that is named must succeed. `plans` is what their builders are
    told, whose `targets` are those of each target. Plans are kept in `plan_cache` and taken from
    there, if it is given. With the `input` uint8 the model takes pixels and normalises them as the
    spec's `preprocess` says. With `auto` the fastest engines within a budget are searched for, too.
    """

    out: Path
    weights: Path | None = None
    seed: int | None = None
    precision: str = "fp32"
    targets: tuple[Target, ...] = ()
    plans: PlanOptions = DEFAULT_OPTIONS
    calibrate: tuple[Path, ...] = ()
    plan_cache: Path | None = None
    input: InputType = "float32"
    auto: Auto | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a build. `report` is None where the bundle was up to date already.

    So is `calibration`, and where the precision takes none.
    """

    manifest: Manifest
    report: Report | None
    calibration: Calibration | None = None


def parse_target(text: str) -> Target:
    """The target that `--target ENGINE[:CAPABILITY,…]` writes. Raises UsageError."""
    engine, _, capabilities = text.partition(":")
    name = engine.strip().replace("-", "_")
    known = (*PLAN_ENGINES, *MODEL_ENGINES)
    if name not in known:
        close = get_close_matches(name, known, 1)
        raise usage_fault(
            "build/target",
            f"there is no engine {engine!r} to build for",
            help=f"did you mean {close[0]}?" if close else f"the engines are {', '.join(known)}",
        )
    listed = tuple(item.strip() for item in capabilities.split(",") if item.strip())
    if listed and name not in PLAN_ENGINES:
        message = f"{name} loads the model as it is, and takes no compute capability"
        raise usage_fault("build/target", message)
    return Target(name, listed)


def build(
    net: Net, options: Options, progress: Progress, watch: PlanProgress | None = None
) -> Result:
    """Make the bundle of `net` at `options.out`, or find that it is there already.

    `progress` is told each step, and `watch` how much of a plan is done.

    Raises AlexcError if the weights don't fit, an engine can't be built, or a backend does not
    compute the same function; the place then holds what it held before.
    """
    key = inputs_digest(_inputs(net, options))
    if (manifest := up_to_date(options.out, key)) is not None:
        return Result(manifest, None)
    _keep_given_weights(options)
    if options.input == "uint8" and net.spec.header.preprocess is None:
        raise fault(
            "build/no-preprocess",
            f"{net.spec.name} does not say how pixels are normalised, so no model of it can do it",
            help="write `preprocess:` into the spec, or build with --input float32",
        )
    request = None if options.auto is None else _request(net, options, options.auto)
    with staged(options.out) as stage:
        progress("weights")
        weights = weights_for(net, options.weights, options.seed or 0)
        model = _narrow(net, options, weights, progress)
        progress("model")
        asked = [target.engine for target in options.targets] or MODEL_ENGINES
        write_model(model.graph, weights, stage.folder, asked)
        if model.calibration is not None:
            model.calibration.write(stage.folder / CALIBRATION)
        records = stage.records()
        layers = [node.name for node in model.graph.nodes]
        plans = _build_plans(options, stage.folder, records, layers, progress, watch)
        report = _verify(net, weights, stage.folder / MODEL, model, plans, options, progress)
        if not report.passed:
            raise AlexcError(_rejection(report))
        plans = _run(plans, report)
        text = json.dumps(report.to_json(), ensure_ascii=False, indent=1) + "\n"
        (stage.folder / REPORT).write_text(text, encoding="utf-8")
        engines = [*plans, *_model_engines(options, report)]
        passed = {backend.backend for backend in report.backends if backend.passed}
        forms = [file for engine, file in FILES.items() if f"{engine}_form" in passed]
        models = [MODEL, *forms, WEIGHTS]
        plan = None
        if request is not None:
            found = search(net, weights, request, stage.folder, progress)
            # What was chosen comes first, and so is what serves where an engine is asked for.
            named = {(each.engine, each.path) for each in found.records}
            others = (each for each in engines if (each.engine, each.path) not in named)
            engines = [*found.records, *others]
            models, plan, records = [*models, *found.files], found.plan, stage.records()
        progress("bundle")
        certified = {path: records[path].sha256 for path in models}
        ran = (plan.path for plan in plans if plan.path is not None and plan.status == VERIFIED)
        certified |= {path: sha256(stage.folder / path) for path in ran}
        manifest = _manifest(net, options, key, engines, report, certified)
        manifest = stage.commit(replace(manifest, plan=plan))
    return Result(manifest, report, model.calibration)


def graph_of(bundle: Bundle, graph: Graph, weights: Weights) -> Graph:
    """The graph that a bundle's model was written from, `graph` being that of its spec.

    Raises AlexcError if the bundle lacks what that takes.
    """
    manifest = bundle.manifest
    calibration = None
    if CALIBRATION in manifest.files:
        calibration = read_calibration(bundle.path(CALIBRATION))
    named = manifest.spec.get("precision") or {}
    result = written(graph, weights, manifest.precision, named, calibration)
    if manifest.input.dtype == "uint8" and manifest.preprocess is not None:
        result = read_pixels(result, _pixels(manifest.preprocess))
    return result


def write_model(graph: Graph, weights: Weights, folder: Path, engines: Sequence[str] = ()) -> None:
    """Write weights.safetensors, and the model.onnx that refers to it.

    For the `engines` that are faster with another form of it, that is written, too.
    """
    from alexc.lower.to_onnx import serialize, to_onnx

    extents = store.write(folder / WEIGHTS, weights)
    models = {MODEL: (plain := inference(graph))}
    for engine in engines:
        if (form := fastest_form(engine, plain)) is not None:
            models[FILES[engine]] = form
    for file, written_as in models.items():
        (folder / file).write_bytes(serialize(to_onnx(written_as, extents)))


def _inputs(net: Net, options: Options) -> dict[str, Any]:
    """Everything that determines the bundle's content."""
    weights = options.weights
    return {
        "alexc": __version__,
        "spec": spec_digest(net),
        "graph": net.graph.digest(),
        "labels": net.labels,
        "weights": {"file": digest_of(weights)} if weights else {"seed": options.seed or 0},
        "precision": options.precision,
        "input": options.input,
        "calibrate": [digest_of(path) for path in photo_files(options.calibrate)],
        "targets": [asdict(target) for target in options.targets],
        "plans": options.plans.to_json(),
        **({"auto": _inputs_of_search(options.auto)} if options.auto is not None else {}),
        # A GPU that has come makes plans and runs what none could before.
        "machine": machine(),
        "versions": tool_versions(),
    }


def _inputs_of_search(auto: Auto) -> dict[str, Any]:
    """What determines a plan: on another machine it is another."""
    return {
        "budget": auto.budget.text,
        "threads": auto.threads,
        "data": auto.data,
        "place": asdict(this_machine()),
    }


def _keep_given_weights(options: Options) -> None:
    """Raise UsageError if drawn weights would take the place of given ones, and nobody said so."""
    if options.weights is not None or options.seed is not None:
        return
    try:
        there = read_manifest(options.out).weights
    except BundleError:  # there is none, or none that can be read
        return
    if there is not None and there.seed is None:
        raise usage_fault(
            "build/given-weights",
            f"the bundle {options.out} has weights that were given, and this build would draw some",
            help="give them again with --weights FILE, draw others with --seed N, or build into "
            "another place with --out",
        )


def spec_digest(net: Net) -> str:
    """SHA-256 of the merged spec, in which the order of the layers counts."""
    text = json.dumps(net.spec.to_json(), ensure_ascii=False, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def digest_of(file: Path) -> str:
    """SHA-256 of a file that was given. Raises UsageError if it can't be read."""
    try:
        return sha256(file)
    except FileNotFoundError:
        raise usage_fault("file/missing", f"there is no file {file}") from None
    except OSError as error:
        raise usage_fault("file/unreadable", f"{file}: {error.strerror}") from None


def weights_for(net: Net, file: Path | None, seed: int) -> Weights:
    """The weights in the file, or drawn as the spec says, in the order of the graph."""
    if file is not None:
        return store.read(file, net.graph)
    layers = {name: layer.init for name, layer in net.spec.layers.items() if layer.init}
    return draw(net.graph, net.spec.header.init, layers, seed)


def _narrow(net: Net, options: Options, weights: Weights, progress: Progress) -> Narrow:
    """What the model is written from, in the precision and of the input that was asked for."""
    preprocess = preprocess_of(net)
    model = narrow(
        net.graph,
        weights,
        options.precision,
        net.spec.header.precision,
        options.calibrate,
        preprocess,
        progress,
    )
    if options.input == "float32" or preprocess is None:
        return model
    samples = model.samples
    if samples is not None and model.pixels is not None:
        samples = replace(samples, images=model.pixels.astype(np.float32))
    return replace(model, graph=read_pixels(model.graph, _pixels(preprocess)), samples=samples)


def _request(net: Net, options: Options, auto: Auto) -> Request:
    """What is to be searched for. Raises UsageError or AlexcError if it can't be."""
    saved = [path for path in options.calibrate if path.suffix == ".json"]
    preprocess = preprocess_of(net)
    material = Material()
    if saved:
        material = Material(calibration=read_calibration(saved[0]))
    elif options.calibrate and preprocess is not None:
        photographs = load_images(options.calibrate, preprocess)
        material = Material(photographs=photographs.astype(np.float32))
    request = Request(
        auto.budget, options.plans, material, auto.labelled, auto.threads, options.plan_cache
    )
    check(net, request)
    return request


def _pixels(preprocess: Preprocess) -> Pixels:
    """The layer that normalises pixels as the runtime would."""
    return Pixels(scale=preprocess.scale, mean=preprocess.mean, std=preprocess.std)


def _build_plans(
    options: Options,
    folder: Path,
    files: Mapping[str, FileRecord],
    layers: Sequence[str],
    progress: Progress,
    watch: PlanProgress | None = None,
) -> list[EngineRecord]:
    """The plans asked for, or those of every library that is installed.

    What is known of a plan's layers, in terms of `layers`, is written beside it.

    A net that TensorRT can't take is a fault only where a plan was asked for by name; elsewhere the
    record says why there is none.
    """
    from alexc.engines.record import not_built
    from alexc.engines.tensorrt import flavours
    from alexc.engines.tensorrt.layers import described, layers_file

    asked = [target for target in options.targets if target.engine in PLAN_ENGINES]
    if not options.targets:
        asked = [Target(name) for name in PLAN_ENGINES if flavours()[name].obstacle is None]
    records = []
    for target in asked:
        path = f"{ENGINES}/{target.engine}-{options.precision}.plan"
        (folder / ENGINES).mkdir(exist_ok=True)
        progress(f"plan for {target.engine}")
        try:
            plan = cached_plan(
                options.plan_cache,
                folder / MODEL,
                folder / path,
                {name: files[name].sha256 for name in (MODEL, WEIGHTS)},
                flavour=target.engine,
                precision=options.precision,
                options=replace(options.plans, targets=target.capabilities),
                progress=watch,
            )
            record = plan.record
            if plan.layers is not None and record.built is not None:
                shown = described(
                    plan.layers, target.engine, record.built.library, options.precision, layers
                )
                text = json.dumps(shown, ensure_ascii=False, indent=1) + "\n"
                (folder / layers_file(path)).write_text(text, encoding="utf-8")
        except AlexcError as error:
            # What the engine says of the net; a full disk, say, is a fault wherever it comes.
            if options.targets or not error.diagnostics[0].code.startswith("engine/"):
                raise
            reason = error.diagnostics[0].message
            record = not_built(target.engine, options.precision, reason)
        if record.path is None and options.targets:
            raise usage_fault(
                "build/target",
                f"no plan for {target.engine}: {record.status.removeprefix('not built: ')}",
                help="leave --target out to build for what is installed",
            )
        records.append(replace(record, path=path if record.path else None))
    return records


def _run(plans: Sequence[EngineRecord], report: Report) -> list[EngineRecord]:
    """The plans with what the verification found: that they are right, or why they did not run."""
    results = {result.backend: result for result in report.backends}
    told = []
    for plan in plans:
        result = results.get(plan.engine)
        if plan.path is not None and result is not None:
            if result.passed:
                plan = replace(plan, status=VERIFIED)
            elif plan.status == BUILT:  # there is a GPU, and yet
                plan = replace(plan, status=f"{BUILT}: {result.status.removeprefix('not run: ')}")
        told.append(plan)
    return told


def _of_model(options: Options) -> str:
    """The precision of the model: TF32 is how TensorRT multiplies, and that is fp32."""
    return "fp32" if options.precision == "tf32" else options.precision


def _model_engines(options: Options, report: Report) -> list[EngineRecord]:
    """The engines that load model.onnx, with what the verification found of each."""
    results = {result.backend: result for result in report.backends}
    asked = [t.engine for t in options.targets if t.engine in MODEL_ENGINES]
    records = []
    for name in asked or (MODEL_ENGINES if not options.targets else ()):
        result = results.get(name)
        # A GPU multiplies in TF32 where it is told to, and a CPU has nothing of the kind.
        precision = options.precision if RUNNERS[name].on_gpu else _of_model(options)
        if result is not None and result.passed:
            # A form of its own, where it has one, was verified by itself.
            form = results.get(f"{name}_form")
            path = FILES[name] if form is not None and form.passed else MODEL
            records.append(EngineRecord(name, precision, VERIFIED, path))
        elif asked:
            why = result.status if result else RUNNERS[name].obstacle() or "it was not run"
            raise usage_fault("build/target", f"{name} was not verified: {why}")
        elif result is not None and precision != "fp32" and RUNNERS[name].obstacle() is None:
            # It is here and has no kernels for this precision: that must not look like work left
            # to do.
            records.append(EngineRecord(name, precision, result.status, None))
    return records


def _verify(
    net: Net,
    weights: Weights,
    model: Path,
    narrow: Narrow,
    plans: Sequence[EngineRecord],
    options: Options,
    progress: Progress,
) -> Report:
    from alexc.verify.crosscheck import verify

    samples = narrow.samples
    # Two of the photographs, where there are any: ranges are those of photographs.
    photographs: Sequence[Path] = ()
    if samples is not None:
        files = photo_files(options.calibrate)
        _, held_out = split(np.arange(len(files)))
        photographs = [files[index] for index in held_out[:2]]
    return verify(
        net.graph,
        weights,
        model,
        written=narrow.graph,
        plans=plans,
        inputs=None if samples is None else samples.images[:2],
        samples=samples,
        photographs=[digest_of(file) for file in photographs],
        batches=options.plans.batch,
        precision=options.precision,
        backends=None,
        progress=lambda step: progress(f"verification: {step}"),
    )


def _rejection(report: Report) -> Diagnostic:
    """Why there is no bundle: the first layer that diverges, and every backend that failed."""
    notes = [f"{b.backend}: {b.status}" for b in report.backends]
    divergence = report.first_divergence
    if divergence is None:
        message = "nothing could be verified, so there is no bundle"
        return Diagnostic(
            "build/not-verified",
            message,
            notes=tuple(notes),
            help="install onnxruntime; for bf16 and fp8 openvino",
        )
    row = next(
        row
        for row in report.rows
        if (row.layer, row.backend, row.check)
        == (divergence.layer, divergence.backend, divergence.check)
        and not row.passed
    )
    size = row.message or f"an error of {row.max_abs:.3g}, where {row.tolerance:.3g} is tolerated"
    return Diagnostic(
        "build/diverges",
        f"{divergence.layer} on {divergence.backend} does not compute what the spec says: {size}",
        notes=(f"the fault is {divergence.kind}", *notes),
        help="nothing was written; this is a fault of alexc or of the backend, not of the spec",
    )


def _manifest(
    net: Net,
    options: Options,
    key: str,
    engines: Sequence[EngineRecord],
    report: Report,
    certified: dict[str, str],
) -> Manifest:
    graph = net.graph
    probabilities = outputs_are_probabilities(graph)
    preprocess = preprocess_of(net)
    return Manifest(
        alexc=__version__,
        name=net.spec.name,
        inputs_digest=key,
        spec_digest=spec_digest(net),
        graph_digest=graph.digest(),
        input=Input(INPUT, graph.input_shape, options.plans.batch, options.input),
        outputs=tuple(
            Output(name, graph.shapes[name], probabilities and index == 0)
            for index, name in enumerate(graph.outputs)
        ),
        preprocess=None if preprocess is None else replace(preprocess, dtype=options.input),
        labels=net.labels,
        spec=net.spec.to_json(),
        precision=_of_model(options),
        weights=Origin(None if options.weights is not None else options.seed or 0),
        engines=tuple(engines),
        versions=tool_versions(),
        verification=Verification(
            passed=report.passed,
            reference=report.reference,
            backends=tuple(BackendRecord(b.backend, b.status, b.passed) for b in report.backends),
            digests=certified,
            inputs={} if report.inputs is None else report.inputs.to_json(),
        ),
    )


def preprocess_of(net: Net) -> Preprocess | None:
    """The spec's preprocessing with its defaults written out, as the runtime wants it."""
    said = net.spec.header.preprocess
    if said is None:
        return None
    channels, height, width = net.graph.input_shape
    return Preprocess(
        resize=said.resize,
        crop=said.crop or (height, width),
        mean=said.mean or (0.0,) * channels,
        std=said.std or (1.0,) * channels,
        channels=said.channels,
        scale=said.scale,
    )
