"""alexc's own engines as contestants: a bundle, run as a deployment runs it.

What is timed is `Session.run` of `alexc_runtime`, checks and copies included.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import alexc_runtime
from alexc.plan.contestant import Contestant, Images, Missing, Outputs, Runner, Subject
from alexc_runtime.engines.base import Engine
from alexc_runtime.engines.onnxruntime import OnnxRuntime, session_options
from alexc_runtime.engines.openvino import OpenVino, compile_settings
from alexc_runtime.errors import EngineUnavailableError
from alexc_runtime.manifest import MODEL, EngineRecord, Manifest, Preprocess, open_bundle
from alexc_runtime.opening import ENGINES
from alexc_runtime.session import Session


def contestants(folder: Path, manifest: Manifest) -> list[Contestant]:
    """A contestant for what serves of every engine and precision in the manifest, and for both
    engines that load a model.

    Of the several models that a search leaves to an engine in one precision the first serves. A
    record without a file is one that the build could not make; why, it says itself.
    """
    serving = {(each.engine, each.precision): each for each in reversed(manifest.engines)}
    records = [each for each in manifest.engines if each is serving[each.engine, each.precision]]
    precision = next((r.precision for r in records if r.path == MODEL), "fp32")
    for engine in ("onnxruntime", "openvino"):
        if engine not in {record.engine for record in records}:
            records.append(EngineRecord(engine, precision, "not verified", MODEL))
    note = "takes pixels" if manifest.input.dtype == "uint8" else ""
    return [of_record(folder, record, note) for record in records]


def planned(folder: Path, manifest: Manifest, note: str = "") -> Contestant:
    """The bundle as a deployment opens it, each batch on the engine that its plan chose.

    Raises ValueError if it has no plan.
    """
    if manifest.plan is None:
        raise ValueError(f"{folder} has no plan")
    ways = [choice.way for choice in manifest.plan.choices]
    return Contestant(
        engine="planned",
        family="ours",
        precision="/".join(dict.fromkeys(way.precision for way in ways)),
        opener="alexc.plan.ours:opened_as_planned",
        settings={"folder": str(folder)},
        gpu=any(ENGINES[way.engine].on_gpu for way in ways),
        note=note or f"{manifest.plan.said}: the fastest within {manifest.plan.budget}",
    )


def of_record(
    folder: Path, record: EngineRecord, note: str = "", threads: int | None = None
) -> Contestant:
    """The contestant that loads what this record names from the bundle in `folder`.

    `threads` bounds its threads; None leaves that to the race.
    """
    return Contestant(
        engine=record.engine,
        family="ours",
        precision=record.precision,
        opener="alexc.plan.ours:opened",
        settings={
            "folder": str(folder),
            "engine": record.engine,
            "precision": record.precision,
            "path": record.path,
            "status": record.status,
            "threads": threads,
        },
        gpu=ENGINES[record.engine].on_gpu,
        note=note,
    )


class Served(Runner):
    """A bundle that the runtime has opened."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def taken(self, images: NDArray[Any]) -> NDArray[Any]:
        manifest = self._session.manifest
        if manifest.preprocess is None or images.dtype == manifest.input.dtype:
            return images
        return denormalised(images, manifest.preprocess)

    def run(self, images: Images) -> Outputs:
        return dict(self._session.run(images))

    def session(self) -> Session:
        return self._session


class Bundled(Served):
    """A bundle on one engine, into which it can be looked. `threads` bounds those of the engine."""

    def __init__(
        self, session: Session, engine: Engine, model: Path, threads: int | None, scratch: Path
    ) -> None:
        super().__init__(session)
        self._engine = engine
        self._model = model
        self._threads = threads
        self._scratch = scratch

    def bare(self, images: Images) -> Callable[[], object] | None:
        engine = self._engine
        if isinstance(engine, OnnxRuntime):
            session, name = engine._session, engine._input  # noqa: SLF001  (the same, bare)
            return lambda: session.run(None, {name: images})
        if isinstance(engine, OpenVino):
            request, name = engine._request, engine._input  # noqa: SLF001  (the same, bare)
            return lambda: request.infer({name: images}, share_inputs=True)
        return None

    def profile(self, images: Images, runs: int) -> dict[str, float] | None:
        if self._session.engine == "onnxruntime":
            events = self._scratch / "onnxruntime"
            return _profile_onnxruntime(self._model, images, runs, self._threads, events)
        if self._session.engine == "openvino":
            return _profile_openvino(self._model, images, runs, self._threads)
        return None


def denormalised(images: Images, preprocess: Preprocess) -> NDArray[np.uint8]:
    """The pixels that these images were made of: exact, since rounding moves none by a half."""
    mean, std = (np.array(each).reshape(-1, 1, 1) for each in (preprocess.mean, preprocess.std))
    pixels = np.rint((images * std + mean) / preprocess.scale)
    return np.asarray(np.clip(pixels, 0, 255), np.uint8)


def opened(subject: Subject, settings: Mapping[str, Any]) -> Bundled:
    """The runner of `of_record`'s contestant."""
    kind = ENGINES[settings["engine"]]
    if settings["path"] is None:
        raise Missing(settings["status"])
    if (obstacle := kind.obstacle()) is not None:
        raise Missing(obstacle)
    bundle = open_bundle(settings["folder"])
    record = bundle.manifest.record(settings["engine"], settings["path"]) or EngineRecord(
        settings["engine"], settings["precision"], "candidate", settings["path"]
    )
    threads = settings["threads"] or subject.threads
    try:
        engine = kind(bundle, record, threads)
    except EngineUnavailableError as error:
        raise Missing(error.message) from error
    session = Session(bundle, engine, record, "measured")
    return Bundled(session, engine, bundle.path(settings["path"]), threads, subject.scratch)


def opened_as_planned(subject: Subject, settings: Mapping[str, Any]) -> Served:
    """The runner of `planned`'s contestant."""
    return Served(alexc_runtime.open(settings["folder"], threads=subject.threads))


def _profile_onnxruntime(
    model: Path, images: Images, runs: int, threads: int | None, events: Path
) -> dict[str, float]:
    """From the events that ONNX Runtime writes to files named like `events`, one for each node and
    run."""
    import onnxruntime

    options = session_options(onnxruntime, threads)
    options.enable_profiling = True
    options.profile_file_prefix = str(events)
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    for _ in range(runs + 1):
        session.run(None, {name: images})
    file = Path(session.end_profiling())
    found = json.loads(file.read_text(encoding="utf-8"))
    file.unlink()
    taken: dict[str, list[float]] = {}
    for event in found:
        node, timed, _ = event["name"].partition("_kernel_time")
        if event.get("cat") == "Node" and timed:
            taken.setdefault(node, []).append(event["dur"] / 1e3)
    # The first of each is the warm-up's.
    return {node: statistics.median(times[1:] or times) for node, times in taken.items()}


def _profile_openvino(
    model: Path, images: Images, runs: int, threads: int | None
) -> dict[str, float]:
    """From the counters of OpenVINO, which it keeps for the last run."""
    import openvino

    settings = {**compile_settings(threads), "PERF_COUNT": True}
    compiled = openvino.Core().compile_model(str(model), "CPU", settings)
    request = compiled.create_infer_request()
    taken: dict[str, list[float]] = {}
    for index in range(runs + 1):
        request.infer({0: images}, share_inputs=True)
        for entry in request.profiling_info:
            if index and entry.status == entry.Status.EXECUTED:
                spent = entry.real_time.total_seconds() * 1e3
                taken.setdefault(entry.node_name, []).append(spent)
    return {node: statistics.median(times) for node, times in taken.items()}
