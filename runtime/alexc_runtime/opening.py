"""Opening a bundle, and choosing the engine that runs it.

The choice: what the bundle's plan says, where `alexc build --target auto` made one; else the first
of `ENGINES` that can run on this machine and finds its file in the bundle. An engine that is asked
for by name serves or is an error; nothing takes its place.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import nullcontext

from alexc_runtime.engines.base import Engine, why_passed_over
from alexc_runtime.engines.cuda import staying
from alexc_runtime.engines.onnxruntime import OnnxRuntime
from alexc_runtime.engines.onnxruntime_gpu import OnnxRuntimeCuda, OnnxRuntimeTensorRT
from alexc_runtime.engines.openvino import OpenVino
from alexc_runtime.engines.planned import PlannedEngine
from alexc_runtime.engines.tensorrt import TensorRT, TensorRTForRTX
from alexc_runtime.errors import EngineError, EngineUnavailableError
from alexc_runtime.manifest import MODEL, Bundle, EngineRecord, Manifest, open_bundle
from alexc_runtime.planned import MOST_THREADS, Plan, Way, this_machine
from alexc_runtime.session import Session

# In the order in which they are tried, those that the build knows of before the others: what it
# has never seen serves where it is asked for, or alone. ONNX Runtime comes before OpenVINO because
# every build verifies it. On a GPU the provider for CUDA comes before that for TensorRT, which
# builds a plan for minutes before it first runs.
ENGINES: dict[str, type[Engine]] = {
    engine.name: engine
    for engine in (
        TensorRT,
        TensorRTForRTX,
        OnnxRuntimeCuda,
        OnnxRuntimeTensorRT,
        OnnxRuntime,
        OpenVino,
    )
}

_UNSEEN = "not verified by the build"


def open(
    path: str | os.PathLike[str],
    engine: str | None = None,
    *,
    precision: str | None = None,
    threads: int | None = None,
) -> Session:
    """Open the bundle in the folder `path`, every byte of it checked, and load it on an engine.

    Without `engine`, the best one at hand is chosen, and `Session.why` says why. A bundle with a
    plan may have one for each range of batch sizes: each is loaded when its first batch comes, and
    holds the weights for itself. `precision` picks one where an engine has several (`fp32`,
    `fp16`). `threads` bounds the CPU threads of an engine on the CPU; None leaves it to the plan,
    or to the engine, which takes all cores.

    Raises BundleMissingError or BundleError if it is no whole bundle, EngineUnavailableError if
    the engine asked for can't serve here (or none can), EngineError if it fails to load.
    """
    if threads is not None and not 1 <= threads <= MOST_THREADS:
        raise EngineError("engine/threads", f"threads is 1 to {MOST_THREADS}, not {threads}")
    if engine is not None and engine not in ENGINES:
        raise EngineUnavailableError(
            "engine/unknown",
            f"there is no engine {engine!r}",
            help=f"the engines are {', '.join(ENGINES)}",
        )
    bundle = open_bundle(path)
    if engine is not None:
        return _open_on(bundle, engine, precision, threads)
    if precision is None and (plan := bundle.manifest.plan) is not None:
        return _open_planned(bundle, plan, threads)
    return _open_on_best(bundle, precision, threads)


def _open_on(bundle: Bundle, name: str, precision: str | None, threads: int | None) -> Session:
    record = _record(bundle.manifest, name, precision)
    obstacle = record if isinstance(record, str) else _obstacle(record)
    if isinstance(record, str) or obstacle is not None:
        message = f"{name} can't run {bundle.folder}: {obstacle}"
        unavailable = EngineUnavailableError("engine/unavailable", message)
        unavailable.offer(_next_best(bundle.manifest, name, precision))
        raise unavailable
    try:
        loaded = ENGINES[name](bundle, record, threads)
    except EngineError as error:
        error.offer(_next_best(bundle.manifest, name, precision))
        raise
    return Session(bundle, loaded, record, f"{name}: asked for")


def _obstacle(record: EngineRecord) -> str | None:
    """What keeps the record's engine from running it on this machine."""
    kind = ENGINES[record.engine]
    try:
        return kind.obstacle() or kind.misfit(record)
    except EngineError as error:  # the GPU does not even say what it is
        return error.message


def _next_best(manifest: Manifest, name: str, precision: str | None) -> str | None:
    """Another engine that would run the bundle here; told of, since nothing takes its place."""
    for other in _order(manifest):
        record = _record(manifest, other, precision)
        if other != name and isinstance(record, EngineRecord) and _obstacle(record) is None:
            return other
    return None


def _open_planned(bundle: Bundle, plan: Plan, threads: int | None) -> Session:
    # What is loaded later, by any thread, is to lie on the GPU that is current now.
    names = {choice.way.engine for choice in plan.choices} | {c.engine for c in plan.candidates}
    on_gpu = any(kind.on_gpu for name, kind in ENGINES.items() if name in names)
    there = staying() if on_gpu else nullcontext

    def load(way: Way) -> Engine:
        kind = ENGINES.get(way.engine)
        record = _record_of(bundle.manifest, way)
        obstacle = "this alexc_runtime does not know it" if kind is None else _obstacle(record)
        if kind is None or obstacle is not None:
            raise EngineUnavailableError("engine/unavailable", f"{way.engine}: {obstacle}")
        with there():
            return kind(bundle, record, way.threads if threads is None else threads)

    try:
        engine = PlannedEngine(plan, load, bundle.manifest.input.batch.min)
    except EngineError as error:
        ways = "; ".join(error.notes)
        return _open_on_best(bundle, None, threads, f"no way of the plan runs here ({ways}). ")
    reason = f"{plan.said}: planned, the fastest of {len(plan.candidates)} within {plan.budget}"
    if engine.passed_over:
        reason += f". {engine.first} serves; passed over: " + "; ".join(
            f"{way}: {why}" for way, why in engine.passed_over.items()
        )
    if departures := plan.machine.departures(this_machine()):
        reason += (
            f". This is another machine than was planned for ({'; '.join(departures)}): "
            "`alexc build` measures anew on it"
        )
    return Session(bundle, engine, _record_of(bundle.manifest, engine.first), reason)


def _record_of(manifest: Manifest, way: Way) -> EngineRecord:
    """What the build says of a way of its plan; where it lists none, what the certificate says."""
    if (record := manifest.record(way.engine, way.path)) is not None:
        return record
    certified = way.path in manifest.verification.digests
    return EngineRecord(way.engine, way.precision, "verified" if certified else _UNSEEN, way.path)


def _open_on_best(
    bundle: Bundle, precision: str | None, threads: int | None, before: str = ""
) -> Session:
    """The first of ENGINES that can run the bundle; `before` goes before the reason for it."""
    passed_over: dict[str, str] = {}
    for name in _order(bundle.manifest):
        kind = ENGINES[name]
        record = _record(bundle.manifest, name, precision)
        if isinstance(record, str):
            passed_over[name] = record
        elif (obstacle := _obstacle(record)) is not None:
            passed_over[name] = obstacle
        else:
            try:
                loaded = kind(bundle, record, threads)
            except EngineError as error:
                passed_over[name] = why_passed_over(error)
            else:
                return Session(bundle, loaded, record, before + _reason(record, passed_over))
    raise EngineUnavailableError(
        "engine/none",
        f"no engine can run {bundle.folder} on this machine",
        notes=tuple(f"{name}: {reason}" for name, reason in passed_over.items()),
        help="install onnxruntime or openvino, which need no GPU"
        if precision is None
        else f"leave precision={precision!r} out, or `alexc build --precision {precision}`",
    )


def _order(manifest: Manifest) -> list[str]:
    """The engines as they are tried: those that the build has a word on, then the others."""
    known = {record.engine for record in manifest.engines}
    return sorted(ENGINES, key=lambda name: name not in known)


def _record(manifest: Manifest, name: str, precision: str | None) -> EngineRecord | str:
    """What the engine would load, or why there is nothing to load.

    ONNX Runtime and OpenVINO load `model.onnx`, also when the build did not have them at hand.
    """
    records = [record for record in manifest.engines if record.engine == name]
    usable = [record for record in records if record.path is not None]
    if not ENGINES[name].needs_plan and not records:
        usable = [EngineRecord(name, manifest.precision, _UNSEEN, MODEL)]
    matching = [record for record in usable if precision in (None, record.precision)]
    if matching:
        return matching[0]
    if usable:
        held = ", ".join(record.precision for record in usable)
        return f"the bundle holds it in {held}, not in {precision}"
    if records and not ENGINES[name].needs_plan:
        return f"the build found that it can't ({records[0].status})"
    status = f" ({records[0].status})" if records else ""
    return f"the bundle holds no plan for it{status}"


def _reason(record: EngineRecord, passed_over: Mapping[str, str]) -> str:
    chosen = f"{record.engine}: the best engine at hand; {record.status}"
    names: dict[str, list[str]] = {}
    for name, reason in passed_over.items():
        names.setdefault(reason, []).append(name)
    before = "; ".join(f"{', '.join(those)}: {reason}" for reason, those in names.items())
    return f"{chosen}. Passed over: {before}" if before else chosen
