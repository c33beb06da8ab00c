"""Opening a bundle, choosing the engine that runs it, and guarding what goes in.

The choice: what the bundle's plan says, where `alexc build --target auto` made one; else the first
of `ENGINES` that can run on this machine and finds its file in the bundle. An engine that is asked
for by name serves or is an error; nothing takes its place.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from alexc_runtime.arrays import Borrowed, OnGpu, on_cpu
from alexc_runtime.engines.base import Engine, closed
from alexc_runtime.engines.cuda import staying
from alexc_runtime.engines.onnxruntime import OnnxRuntime
from alexc_runtime.engines.onnxruntime_gpu import OnnxRuntimeCuda, OnnxRuntimeTensorRT
from alexc_runtime.engines.openvino import OpenVino
from alexc_runtime.engines.planned import PlannedEngine
from alexc_runtime.engines.tensorrt import TensorRT, TensorRTForRTX
from alexc_runtime.errors import BatchError, EngineError, EngineUnavailableError
from alexc_runtime.manifest import MODEL, Bundle, EngineRecord, Manifest, open_bundle
from alexc_runtime.planned import MOST_THREADS, Plan, Way, this_machine

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from alexc_runtime.engines.base import Array

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


class Session:
    """A bundle on an engine. Close it, or use it in a `with`.

    Threads may share it, and close it when all of them are done. Processes may not: neither CUDA
    nor the threads of an engine on the CPU get over a fork.
    """

    def __init__(self, bundle: Bundle, engine: Engine, record: EngineRecord, why: str) -> None:
        self._bundle = bundle
        self._engine: Engine | None = engine
        self._process = os.getpid()
        self._record = record
        self._batch_limits = engine.batch_limits
        self._input_type = np.dtype(bundle.manifest.input.dtype)
        self._why = why

    @property
    def manifest(self) -> Manifest:
        """What the bundle says of itself."""
        return self._bundle.manifest

    @property
    def engine(self) -> str:
        """The engine that runs: one of the names in `ENGINES`."""
        return self._record.engine

    @property
    def precision(self) -> str:
        """The precision that it runs in, as the build named it."""
        return self._record.precision

    @property
    def status(self) -> str:
        """What the build knew of this engine: `verified`, or `built, not run: no GPU`."""
        return self._record.status

    @property
    def why(self) -> str:
        """Why this engine was chosen, and why the ones before it were passed over."""
        return self._why

    def way(self, images: int) -> str:
        """What runs batches of so many images: `openvino in bf16 with 2 threads`.

        With a plan that depends on their number, and `engine` is of the smallest ones. Raises
        EngineError if nothing of the plan takes so many.
        """
        way = self._running.way(images)
        return f"{self.engine} in {self.precision}" if way is None else way

    @property
    def batch_limits(self) -> tuple[int, int | None]:
        """The smallest and the largest batch that `run` takes; None if there is no largest."""
        return self._batch_limits

    @overload
    def run(self, batch: NDArray[Any]) -> dict[str, NDArray[np.float32]]: ...
    @overload
    def run(self, batch: object) -> dict[str, Any]: ...
    def run(self, batch: object) -> Mapping[str, Any]:
        """The outputs by name, each float32 `(images, *shape)`.

        `batch` is what the network takes, `(images, channels, height, width)`, preprocessed: an
        array of numpy, or one that offers DLPack or `__cuda_array_interface__`, as those of torch
        and CuPy do. Where it lies in memory of the CPU, so do the outputs, as numpy arrays. Where
        it lies on the GPU and the engine computes there, the outputs stay there, each a
        `DeviceArray`; the GPU may still be at work on them. All outputs are the caller's own.

        Raises BatchError if the batch is anything else, and EngineError if the engine fails.
        """
        engine = self._running
        found = on_cpu(batch)
        if isinstance(found, OnGpu):
            return engine.run_on_gpu(found, self._check)
        outputs = engine.run(self._contiguous(found))
        self._check_outputs(outputs, len(found))
        return outputs

    def run_many(self, batches: Iterable[object]) -> Iterator[dict[str, NDArray[np.float32]]]:
        """The outputs for each of the batches in turn; all of them in memory of the CPU.

        An engine on the GPU copies one batch in and another out while it computes a third, so it
        asks for up to two batches before it gives the first outputs. Raises what `run` raises.
        """
        sizes: deque[int] = deque()

        def checked() -> Iterator[Array]:
            for batch in batches:
                _ = self._running  # also after the first
                array = self.checked(batch)
                sizes.append(len(array))
                yield array

        for outputs in self._running.run_many(checked()):
            self._check_outputs(outputs, sizes.popleft())
            yield outputs

    def warm_up(self, *batches: int) -> None:
        """Run zeros in batches of these sizes, by default the one that the build optimised for.

        The first run of a size takes longer than the others: an engine may compile kernels then,
        and on the GPU it records how the size is run. Raises what `run` raises.
        """
        says = self.manifest.input
        for images in batches or (says.batch.opt,):
            self._check_size(images)
            try:
                zeros = np.zeros((images, *says.shape), says.dtype)
            except (MemoryError, ValueError) as error:
                message = f"a batch of {images} images does not fit into memory: {error}"
                raise BatchError("batch/size", message) from error
            self.run(zeros)

    @property
    def _running(self) -> Engine:
        if self._engine is None:
            raise closed()
        if self._process != os.getpid():
            raise EngineError(
                "engine/process",
                "the session was opened in another process, of which this one is a fork",
                help="open it after the fork, in each process for itself",
            )
        return self._engine

    def _check_outputs(self, outputs: Mapping[str, NDArray[Any]], images: int) -> None:
        for output in self.manifest.outputs:
            shape = (images, *output.shape)
            if outputs[output.name].shape != shape or outputs[output.name].dtype != np.float32:
                raise EngineError(
                    "engine/output",
                    f"{self.engine} gives {output.name} as {outputs[output.name].dtype} "
                    f"{outputs[output.name].shape}, and the manifest says float32 {shape}",
                )

    def close(self) -> None:
        """Let go of memory and devices. Closing twice does nothing."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        name = self.manifest.name
        return f"<alexc_runtime.Session {name} on {self.engine} in {self.precision}>"

    def checked(self, batch: object) -> Array:
        """The batch in memory of the CPU, as the engine takes it. Raises BatchError."""
        found = on_cpu(batch)
        if isinstance(found, OnGpu):
            raise BatchError(
                "batch/device",
                "the batch lies on a GPU, and here it is to lie in memory of the CPU",
                help="copy it (of torch: batch.cpu()), or give it to Session.run",
            )
        return self._contiguous(found)

    def _contiguous(self, batch: NDArray[Any]) -> Array:
        self._check(batch)
        return np.ascontiguousarray(batch)

    def _check(self, batch: NDArray[Any] | Borrowed) -> None:
        """Whether the batch is one that the network takes. Raises BatchError."""
        says, (smallest, largest) = self.manifest.input, self._batch_limits
        kind = batch.dtype if isinstance(batch, np.ndarray) else batch.type
        shape = batch.shape
        if (
            kind == self._input_type
            and shape[1:] == says.shape
            and smallest <= shape[0]
            and (largest is None or shape[0] <= largest)
            and (isinstance(batch, np.ndarray) or batch.contiguous)
        ):
            return  # at once, since a call has no more than some microseconds
        wanted = f"{says.dtype} (batch, {', '.join(map(str, says.shape))})"
        if kind != self._input_type:
            pixels = says.dtype == "uint8"
            raise BatchError(
                "batch/dtype",
                f"the batch holds {kind or 'a type that numpy lacks'}, "
                f"and {self.manifest.name} takes {wanted}",
                help="the pixels themselves, 0 to 255: alexc_runtime.load_photos gives them"
                if pixels
                else "batch.astype(np.float32), after the preprocessing",
            )
        if batch.shape[1:] != says.shape:
            raise BatchError(
                "batch/shape",
                f"the batch is {batch.shape}, and {self.manifest.name} takes {wanted}",
                help=_reshaped(batch.shape, says.shape),
            )
        self._check_size(shape[0])
        raise BatchError(
            "batch/layout",
            f"the batch on the GPU has gaps or another order of its axes than {wanted}",
            help="of torch: batch.contiguous(); of CuPy: cupy.ascontiguousarray(batch)",
        )

    def _check_size(self, images: int) -> None:
        """Whether the engine takes batches of so many images. Raises BatchError."""
        smallest, largest = self._batch_limits
        if images < smallest or (largest is not None and images > largest):
            limits = f"{smallest} or more" if largest is None else f"{smallest} to {largest}"
            rebuild = "run it in parts, or build with another --batch MIN,OPT,MAX"
            raise BatchError(
                "batch/size",
                f"a batch of {images} images; {self.engine} takes {limits}",
                help=None if largest is None else rebuild,
            )


def _reshaped(found: tuple[int, ...], shape: tuple[int, ...]) -> str | None:
    """How to mend the usual mistakes: one image without its batch axis, channels last."""
    if found == shape:
        return "batch[np.newaxis] makes a batch of one image"
    if len(shape) == 3 and found[1:] == (shape[1], shape[2], shape[0]):
        return "batch.transpose(0, 3, 1, 2) puts the channels first"
    return None


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
        raise EngineUnavailableError(
            "engine/unavailable",
            f"{name} can't run {bundle.folder}: {obstacle}",
            help=_next_best(bundle.manifest, name, precision),
        )
    try:
        loaded = ENGINES[name](bundle, record, threads)
    except EngineError as error:
        offer = _next_best(bundle.manifest, name, precision)
        error.help = "; or: ".join(filter(None, (error.help, offer))) or None
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
    """Which other engine would run the bundle here; asked for, since nothing takes its place."""
    for other in _order(manifest):
        record = _record(manifest, other, precision)
        if other != name and isinstance(record, EngineRecord) and _obstacle(record) is None:
            return f"{other} runs it on this machine: open(path, {other!r})"
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
                # The engine is here and should have run: a machine that serves slower than it
                # could must say so without being asked.
                import logging

                logging.getLogger("alexc_runtime").warning("%s", error)
                passed_over[name] = error.message
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
