"""TensorRT and TensorRT for RTX: from `model.onnx` to a plan, with or without a GPU.

The two libraries have one Python interface under two names, so one code serves both; `FLAVOURS`
holds the few facts in which they differ.

tensorrt_rtx   Builds on the CPU; only running needs a GPU. Kernels are compiled where the plan is
               loaded. What follows was found with 1.7.1 on a machine without a GPU. A fresh
               builder's config lists no compute capability (`num_compute_capabilities` is 0); the
               plan is then for Ampere and all later GPUs: 8.0, 8.6, 8.9, 12.0, 12.1 and, says
               NVIDIA, what comes after. Turing, 7.5, is left out unless it is named. To target
               some GPUs, set the number and then each one; the plan runs on those alone and is
               hardly smaller, since nearly all of it is the weights. `CURRENT` asks for the GPU
               at hand and fails without one. For 7.5 no float32 matrix product can be compiled,
               so a float32 net with a linear layer is refused there. 9.0 (H100, H200) is neither
               in NVIDIA's list nor among the names that can be set, and whether the default plan
               runs on it can only be seen on one.
               Two builds of one model do the same but need not agree in every byte: the numbers
               of temporary tensors and the order of the outputs vary.
tensorrt       Chooses kernels by timing them, so that building needs the GPU it builds for. Its
               libraries come from NVIDIA's own package host.

Networks are strongly typed: the precision of each layer is the one that the ONNX model writes, and
the builder may not change it. Alone TF32, which rounds the factors of float32 products to ten bits
of mantissa, is a flag, and TensorRT sets it by default; here it is set for the precision `tf32` and
cleared for every other.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from alexc.diagnostics import AlexcError, Diagnostic, usage_fault
from alexc.engines.model import load as load_model
from alexc.engines.model import model_input
from alexc.engines.record import (
    BUILT,
    BUILT_WITHOUT_GPU,
    DEFAULT_BATCH,
    PRECISIONS,
    BatchRange,
    EngineRecord,
    not_built,
)
from alexc.files import whole_file
from alexc_runtime.engines.base import import_obstacle, load

# Called as the build goes on, from whatever thread TensorRT builds in: the fraction that is done,
# from 0 to 1, and TensorRT's name of the phase.
Progress = Callable[[float, str], None]

_log = logging.getLogger(__name__)

# The types of tensors, by TensorRT's names and numpy's.
_TYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT8": "int8",
    "FP8": "float8_e4m3fn",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}

# What TensorRT's own pages say of the limits of a layer, by ONNX operator.
_LIMITS = {"LRN": "TensorRT's LRN takes an odd size from 1 to 15, k ≥ 1e-5 and beta ≥ 0.01"}


@dataclass(frozen=True, slots=True)
class Flavour:
    """One of the two libraries, and whether it can be used here.

    `version` is None, and `obstacle` says why, if it can't be imported.
    """

    module: str
    package: str
    builds_without_gpu: bool
    version: str | None = None
    obstacle: str | None = None


FLAVOURS = {
    flavour.module: flavour
    for flavour in (
        Flavour("tensorrt", "tensorrt", builds_without_gpu=False),
        Flavour("tensorrt_rtx", "tensorrt-rtx", builds_without_gpu=True),
    )
}


@dataclass(frozen=True, slots=True)
class ParsedTensor:
    """A tensor of the network as TensorRT understands the ONNX model.

    `shape` has None where the size is open, which is the batch; `dtype` is numpy's name.
    """

    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What came of a build.

    `record` goes into the manifest; its path is None if this machine can't build, and its status
    says why. `library` is the version that built it. `targets` are the compute capabilities asked
    for, none meaning the library's default. `tensors` are those of the parsed network by name,
    TensorRT's auxiliary ones among them.
    """

    record: EngineRecord
    library: str | None = None
    targets: tuple[str, ...] = ()
    tensors: Mapping[str, ParsedTensor] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def flavours() -> dict[str, Flavour]:
    """Both libraries, each with its version or with what keeps it from being used here."""
    found = {}
    for name, flavour in FLAVOURS.items():
        obstacle = import_obstacle(flavour.module, flavour.package)
        version = None if obstacle else str(load(flavour.module).__version__)
        found[name] = Flavour(
            flavour.module, flavour.package, flavour.builds_without_gpu, version, obstacle
        )
    return found


def gpu_count() -> int:
    """How many NVIDIA GPUs the driver offers; 0 without a driver. Loads nothing but the driver."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        count = ctypes.c_int(0)
        ready = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    except (OSError, AttributeError):
        return 0
    return count.value if ready else 0


def parse(model: Path, flavour: str = "tensorrt_rtx") -> dict[str, ParsedTensor]:
    """The tensors of the model as TensorRT understands them, without building anything.

    Raises UsageError if the library is missing, and AlexcError as `build_plan` does.
    """
    obstacle = import_obstacle(flavour, FLAVOURS[flavour].package)
    if obstacle is not None:
        raise usage_fault("engine/not-installed", obstacle)
    return _parse(model, flavour)


def build_plan(
    model: Path,
    plan: Path,
    *,
    flavour: str = "tensorrt_rtx",
    precision: str = "fp32",
    batch: BatchRange = DEFAULT_BATCH,
    targets: Sequence[str] = (),
    progress: Progress | None = None,
) -> Plan:
    """Build a plan of `model.onnx`, with its weights beside it, into the file `plan`.

    `precision` must be what the model was written for. `targets` are compute capabilities, as
    `8.9` or `sm89`, or `current`. The plan takes batches of the whole range. It appears whole or
    not at all, in a folder that must be there.

    A library that is not installed, or a GPU that it would need, is no fault: the plan's record
    says so. Raises UsageError: engine/target, file/missing, file/unwritable. Raises AlexcError:
    engine/model if the file is no model, engine/parse if TensorRT can't take it (the message names
    the node), engine/build if it takes it and can't build it.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"{precision} is none of {', '.join(PRECISIONS)}")
    known = FLAVOURS[flavour]
    if obstacle := import_obstacle(flavour, known.package):
        return Plan(not_built(flavour, precision, obstacle))
    gpus = gpu_count()
    if not gpus and not known.builds_without_gpu:
        reason = "no GPU, and this library builds by timing kernels on one"
        return Plan(not_built(flavour, precision, reason), str(load(flavour).__version__))
    status = BUILT if gpus else BUILT_WITHOUT_GPU
    record = EngineRecord(flavour, precision, status, str(plan))
    return _build(model, plan, record, batch, targets, progress)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let nothing of TensorRT be destroyed while it calls back, nor outlive the work.

    TensorRT logs while it holds a lock that destroying a builder takes too. So if Python's garbage
    collector ran in the middle of a log message and found a forgotten builder, it would wait for
    ever. An error keeps the frames that it came through, and with them builders, networks and their
    weights; these are let go here.

    Ctrl-C would be raised in whichever callback runs at the moment, where TensorRT swallows it. It
    is noted instead, and raised when TensorRT returns, a second or two later.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        with _interrupts_later():
            yield
    except BaseException as error:
        _clear_frames(error)
        raise
    finally:
        if enabled:
            gc.enable()


@contextmanager
def _interrupts_later() -> Iterator[None]:
    """Raise the KeyboardInterrupt of a Ctrl-C in the block after the block."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python handles signals in the main thread alone
        return
    came: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if came:
            raise KeyboardInterrupt


def _clear_frames(error: BaseException) -> None:
    """Empty the variables of every ended call that the error remembers; where it arose stays told.

    An error out of a callback remembers the calls that led to TensorRT by way of `f_back` alone.
    """
    cause: BaseException | None = error
    while cause is not None:
        for frame, _ in traceback.walk_tb(cause.__traceback__):
            for caller, _ in traceback.walk_stack(frame):
                with suppress(RuntimeError):  # it is still running
                    caller.clear()
        cause = cause.__context__


@_undisturbed()
def _parse(model: Path, flavour: str) -> dict[str, ParsedTensor]:
    return _Builder(flavour).parsed(model).tensors()


@_undisturbed()
def _build(
    model: Path,
    plan: Path,
    record: EngineRecord,
    batch: BatchRange,
    targets: Sequence[str],
    progress: Progress | None,
) -> Plan:
    builder = _Builder(record.engine)
    capabilities = builder.capabilities(targets)
    network = builder.parsed(model)
    network.build(plan, model, record.precision == "tf32", batch, capabilities, progress)
    return Plan(
        record,
        library=builder.version,
        targets=tuple(capability.name.lower() for capability in capabilities),
        tensors=network.tensors(),
        warnings=tuple(builder.logger.warnings),
    )


# ---- TensorRT's objects --------------------------------------------------------------------------


class _Builder:
    """The library, its logger and its builder, which must outlive what is made with them."""

    def __init__(self, flavour: str) -> None:
        self.library: Any = load(flavour)
        self.version = str(self.library.__version__)
        self.name = FLAVOURS[flavour].package
        self.logger: Any = _logger(self.library)
        try:
            self.builder: Any = self.library.Builder(self.logger)
        except (RuntimeError, TypeError) as error:  # its C++ side returned nothing
            raise self.fault("engine/build", f"{self.name} makes no builder: {error}") from None

    def fault(self, code: str, message: str, *, help: str | None = None) -> AlexcError:
        """An error with what TensorRT has logged so far as notes."""
        notes = tuple(note for note in self.logger.errors if _reason(note) not in message)
        return AlexcError(Diagnostic(code, message, notes=notes[:5], help=help))

    def capabilities(self, targets: Sequence[str]) -> list[Any]:
        """The library's own values for targets such as `8.9`, `sm89` or `current`."""
        known = getattr(self.library, "ComputeCapability", None)
        if not targets:
            return []
        if known is None:
            raise usage_fault(
                "engine/target",
                f"{self.name} {self.version} builds for the GPU of this machine alone",
                help="leave the target away, or build with tensorrt-rtx",
            )
        names = {name.lower(): value for name, value in known.__members__.items() if name != "NONE"}
        found: dict[str, Any] = {}
        for target in targets:
            name = re.sub(r"^(sm[_-]?)?(\d+)\.?(\d)$", r"sm\2\3", target.strip().lower())
            if name not in names:
                listed = ", ".join(
                    f"{name[2:-1]}.{name[-1]}" if name.startswith("sm") else name for name in names
                )
                raise usage_fault(
                    "engine/target",
                    f"{self.name} {self.version} has no target {target}",
                    help=f"it can be told {listed}; without a target the plan is for 8.0 and later",
                )
            found[name] = names[name]
        if "current" in found and not gpu_count():
            message = "the target current is the GPU of this machine, and it has none"
            raise usage_fault("engine/target", message)
        if "current" in found and len(found) > 1:
            raise usage_fault("engine/target", "the target current goes with no other")
        return list(found.values())

    def parsed(self, model: Path) -> _Network:
        """The network of the model. Raises AlexcError that names the node TensorRT can't take."""
        input = model_input(model, load_model(model))
        # Since TensorRT 11 there are no other networks, and the flag may go.
        flags = self.library.NetworkDefinitionCreationFlag.__members__
        flag = flags.get("STRONGLY_TYPED")
        network = self.builder.create_network(0 if flag is None else 1 << int(flag))
        parser = self.library.OnnxParser(network, self.logger)
        # By path: the weights are looked for beside the file, and mapped rather than copied.
        if not parser.parse_from_file(str(model)) or parser.num_errors:
            raise self._parse_fault(model, parser)
        return _Network(self, network, parser, input.name, input.shape)

    def _parse_fault(self, model: Path, parser: Any) -> AlexcError:
        faults = []
        for index in range(parser.num_errors):
            error = parser.get_error(index)
            node, operator = error.node_name(), error.node_operator()
            where = f"node {node} ({operator}) of {model}" if operator else str(model)
            details = [line for line in error.desc().splitlines() if not _is_noise(line)]
            telling = [line for line in details if not line.startswith("Invalid Node")]
            reason = _reason(telling[0]) if telling else "it gives no reason"
            # Of weights that can't be read the reason is in the log alone.
            notes = [] if operator else [_reason(line) for line in self.logger.errors[:3]]
            faults.append(
                Diagnostic(
                    "engine/parse",
                    f"{self.name} can't take {where}: {reason}",
                    notes=tuple(notes),
                    help=_LIMITS.get(operator),
                )
            )
        return AlexcError(*faults) if faults else self.fault("engine/parse", f"{model}: no reason")


@dataclass(slots=True)
class _Network:
    """A parsed network. The parser is held because the weights are its own."""

    owner: _Builder
    network: Any
    parser: Any
    input_name: str
    input_shape: tuple[int, ...]

    def tensors(self) -> dict[str, ParsedTensor]:
        """Every tensor of the network by name: the inputs and what the layers give."""
        return {tensor.name: _parsed(tensor) for tensor in self._tensors()}

    def _tensors(self) -> Iterator[Any]:
        for index in range(self.network.num_inputs):
            yield self.network.get_input(index)
        for index in range(self.network.num_layers):
            layer = self.network.get_layer(index)
            for output in range(layer.num_outputs):
                yield layer.get_output(output)

    def build(
        self,
        plan: Path,
        model: Path,
        tf32: bool,
        batch: BatchRange,
        capabilities: Sequence[Any],
        progress: Progress | None,
    ) -> None:
        """Build and write the plan. Raises AlexcError, and what `progress` raises."""
        library, builder = self.owner.library, self.owner.builder
        config = builder.create_builder_config()
        flag = library.BuilderFlag.TF32
        if tf32:
            config.set_flag(flag)
        else:
            config.clear_flag(flag)
        if capabilities:
            config.num_compute_capabilities = len(capabilities)
            for index, capability in enumerate(capabilities):
                if not config.set_compute_capability(capability, index):
                    raise self.owner.fault("engine/build", f"{capability} can't be a target")
        profile = builder.create_optimization_profile()
        sizes = ((size, *self.input_shape) for size in (batch.min, batch.opt, batch.max))
        try:
            profile.set_shape(self.input_name, *sizes)
            accepted = config.add_optimization_profile(profile) >= 0
        except (RuntimeError, TypeError):  # a size beyond what its 64 bits hold
            accepted = False
        if not accepted:
            raise self.owner.fault(
                "engine/build",
                f"{self.owner.name} does not take batches of {batch.min} to {batch.max} images",
            )
        monitor: Any = None
        if progress is not None and hasattr(library, "IProgressMonitor"):
            monitor = _monitor(library, progress)
            config.progress_monitor = monitor
        with whole_file(plan) as file:
            complete, stopped = self._write(config, file)
            stopped = getattr(monitor, "stopped", None) or stopped
            if stopped is not None:
                raise stopped
            if not complete:
                reason = next(iter(self.owner.logger.errors), "it gives no reason")
                raise self.owner.fault(
                    "engine/build", f"{self.owner.name} can't build {model}: {_reason(reason)}"
                )
        if progress is not None:
            progress(1.0, "Done")

    def _write(self, config: Any, file: BinaryIO) -> tuple[bool, BaseException | None]:
        """Whether the plan was built and written, and what stopped the writing."""
        library, builder = self.owner.library, self.owner.builder
        if not hasattr(builder, "build_serialized_network_to_stream"):
            memory = builder.build_serialized_network(self.network, config)
            if memory is not None:
                file.write(memory)
            return memory is not None, None
        # A tenth less memory: the serialized plan never exists as a whole.
        writer: Any = _writer(library, file)
        complete = builder.build_serialized_network_to_stream(self.network, config, writer)
        return complete and writer.stopped is None, writer.stopped


def _parsed(tensor: Any) -> ParsedTensor:
    shape = tuple(None if size < 0 else int(size) for size in tensor.shape)
    return ParsedTensor(shape, _TYPES.get(tensor.dtype.name, tensor.dtype.name.lower()))


# The three classes below are called by TensorRT. Their bases exist only once the library is loaded,
# so they are made then. None may raise: what they meet is kept, and raised when TensorRT has
# returned.


def _logger(library: Any) -> Any:
    """TensorRT's log as Python's, nothing of it printed; errors and warnings are kept as well."""
    severity = library.ILogger.Severity
    levels = {
        severity.INTERNAL_ERROR: logging.ERROR,
        severity.ERROR: logging.ERROR,
        severity.WARNING: logging.WARNING,
        severity.INFO: logging.INFO,
        severity.VERBOSE: logging.DEBUG,
    }

    class Logger(library.ILogger):  # type: ignore[misc]  # known only when it runs
        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self.errors: list[str] = []
            self.warnings: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            level = levels.get(severity, logging.INFO)
            if level >= logging.ERROR and not _is_noise(message):
                self.errors.append(message)
            elif level == logging.WARNING:
                self.warnings.append(message)
            # Errors go into the AlexcError; logging them loudly too would print them twice.
            _log.log(min(level, logging.INFO), "%s", message)

    return Logger()


def _monitor(library: Any, progress: Progress) -> Any:
    """TensorRT's progress, phases within phases, as one fraction for `progress`."""

    class Monitor(library.IProgressMonitor):  # type: ignore[misc]  # known only when it runs
        def __init__(self) -> None:
            library.IProgressMonitor.__init__(self)
            self.stopped: BaseException | None = None
            self._done = 0.0
            # Open phases, outermost first: name, what of the whole it covers, steps, steps done.
            self._phases: dict[str, tuple[float, float, int, int]] = {}

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            first, share = 0.0, 1.0
            if parent in self._phases:
                start, whole, count, done = self._phases[parent]
                share = whole / max(1, count)
                first = start + share * min(done, count)
            self._phases[name] = (first, share, steps, 0)
            self._tell(first, name)

        def step_complete(self, name: str, step: int) -> bool:
            if name in self._phases:
                first, share, steps, _ = self._phases[name]
                self._phases[name] = (first, share, steps, step + 1)
                self._tell(first + share * min(1.0, (step + 1) / max(1, steps)), name)
            return self.stopped is None

        def phase_finish(self, name: str) -> None:
            self._phases.pop(name, None)

        def _tell(self, fraction: float, name: str) -> None:
            self._done = max(self._done, min(1.0, fraction))
            try:
                if self.stopped is None:
                    progress(self._done, name)
            except BaseException as error:  # noqa: BLE001  (Ctrl-C too: raised after the build)
                self.stopped = error

    return Monitor()


def _writer(library: Any, file: BinaryIO) -> Any:
    """Writes the plan as it comes, in pieces of some MB."""

    class Writer(library.IStreamWriter):  # type: ignore[misc]  # known only when it runs
        def __init__(self) -> None:
            library.IStreamWriter.__init__(self)
            self.stopped: BaseException | None = None

        def write(self, data: bytes) -> int:
            try:
                return file.write(data)
            except BaseException as error:  # noqa: BLE001  (raised after the build)
                self.stopped = error
                return 0

    return Writer()


# ---- TensorRT's words ----------------------------------------------------------------------------


def _is_noise(line: str) -> bool:
    """Whether a message only tells, in the course of a fault, where it was noticed.

    Without a CUDA driver every fault is followed by one that there is none.
    """
    return "catchCudaError" in line or line.startswith(("ModelImporter.cpp", "--- "))


# What stands around the telling part of a message. The first is the form of the core library,
# FUNCTION: Error Code N: KIND (REASON. In FUNCTION at FILE:LINE), the others are the parser's.
_WRAPPINGS = (
    r".*?Error Code \d+: [^(]*\((.*?)\.?\s+In \w+ at /.*",
    r".*Assertion failed: .*\): (.*)",
    r"\w+ && \"(.*)\"",
    r"\[?\w+\.cpp:\d+: (?:\w+\] )?(.*)",
)


def _reason(message: str) -> str:
    """A message of TensorRT without the places in its source where it was noticed."""
    text = " ".join(message.split())
    for wrapping in _WRAPPINGS:
        if inside := re.fullmatch(wrapping, text):
            text = inside.group(1)
    return text[:500]
