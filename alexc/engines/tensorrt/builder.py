"""From a parsed network to the file of a plan."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from alexc.diagnostics import AlexcError, Diagnostic, usage_fault
from alexc.engines import driver
from alexc.engines.options import DEFAULT_OPTIONS, PlanOptions
from alexc.engines.record import (
    BUILT,
    BUILT_WITHOUT_GPU,
    PRECISIONS,
    WITHOUT_PLAN,
    BatchRange,
    Built,
    EngineRecord,
    not_built,
)
from alexc.engines.tensorrt import layers, stripping
from alexc.engines.tensorrt.callbacks import Progress, monitor, writer
from alexc.engines.tensorrt.flavours import FLAVOURS, Flavour
from alexc.engines.tensorrt.guard import undisturbed
from alexc.engines.tensorrt.layers import Layers
from alexc.engines.tensorrt.library import Library
from alexc.engines.tensorrt.network import Network, ParsedTensor
from alexc.engines.tensorrt.timing import TimingCache
from alexc.engines.tensorrt.weights import write_random
from alexc.engines.tensorrt.words import reason
from alexc.files import whole_file
from alexc_runtime.engines.base import import_obstacle

# Models whose weights stand beside numbers that were made of them.
_NOT_STRIPPED = {"int8", "fp8"}

# Of random weights, until two are alike. Of GoogLeNet in fp32 two are every other time.
_MOST_BUILDS = 4


@dataclass(frozen=True, slots=True)
class Plan:
    """What came of a build.

    `record` goes into the manifest; its path is None if this machine can't build, and its status
    says why. `tensors` are those of the parsed network by name, TensorRT's auxiliary ones among
    them. `layers` is None if nothing was built.
    """

    record: EngineRecord
    tensors: Mapping[str, ParsedTensor] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    layers: Layers | None = None


def build_plan(
    model: Path,
    plan: Path,
    *,
    flavour: str = "tensorrt_rtx",
    precision: str = "fp32",
    options: PlanOptions = DEFAULT_OPTIONS,
    progress: Progress | None = None,
    timing: Path | None = None,
) -> Plan:
    """Build a plan of `model.onnx`, with its weights beside it, into the file `plan`.

    `precision` must be what the model was written for. The plan appears whole or not at all, in a
    folder that must be there. `timing` is a folder for the times of kernels, which make the next
    build of TensorRT's quicker.

    A library that is not installed, or a GPU that it would need, is no fault: the plan's record
    says so. Raises UsageError: engine/target, engine/option if the library has no such plans,
    file/missing, file/unwritable. Raises AlexcError: engine/model if the file is no model,
    engine/parse if TensorRT can't take it (the message names the node), engine/build if it takes it
    and can't build it, engine/strip if its weights can't be told apart.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"{precision} is none of {', '.join(PRECISIONS)}")
    if (why := why_no_plan(flavour, precision, options)) is not None:
        return Plan(not_built(flavour, precision, why))
    compiles_later = FLAVOURS[flavour].compiles_later
    build = _build_stripped if options.stripped and compiles_later else _build
    return build(model, plan, flavour, precision, options, progress, timing)


def why_no_plan(flavour: str, precision: str, options: PlanOptions) -> str | None:
    """In words, why no plan of this precision can be built here, whatever the model; None if one
    can.

    Raises UsageError engine/option, and AlexcError engine/strip, if the library has no plans with
    these options.
    """
    known = FLAVOURS[flavour]
    if obstacle := import_obstacle(flavour, known.package):
        return obstacle
    if why := WITHOUT_PLAN.get(precision):
        return why
    if not driver.gpu_count() and not known.compiles_later:
        return "no GPU, and this library builds by timing kernels on one"
    _check_options(known, precision, options)
    return None


def _check_options(flavour: Flavour, precision: str, options: PlanOptions) -> None:
    if flavour.compiles_later and options.any_gpu:
        raise usage_fault(
            "engine/option",
            f"{flavour.package} has no plans for any GPU to ask for: all of its are for 8.0 and "
            "later, unless a target is named",
            help="leave --hardware-compatible out",
        )
    if flavour.compiles_later and options.any_version:
        raise usage_fault(
            "engine/option",
            f"{flavour.package} builds plans for its own version alone: the part that would load "
            "them elsewhere, libnvinfer_lean, is not in it",
            help="leave --version-compatible out, or build with tensorrt on a GPU",
        )
    if options.stripped and options.any_version:
        # It can neither refit nor serialize engines: NVIDIA's technical blog on TensorRT's hardware
        # and version compatibility has its limits.
        raise usage_fault(
            "engine/option",
            "a plan for later versions of the library brings its lean runtime, which puts no "
            "weights into a stripped plan",
            help="leave --version-compatible or --strip-weights out",
        )
    if options.stripped and precision in _NOT_STRIPPED:
        raise AlexcError(
            Diagnostic(
                "engine/strip",
                f"a plan in {precision} can't be stripped: its grids are made of the weights and "
                "of what these make of photographs, and stand in the model, so that other weights "
                "take another plan",
                help="calibrate and build again for other weights, without --strip-weights; "
                "or build in fp32, tf32, fp16 or bf16",
            )
        )


def _build_stripped(
    model: Path,
    plan: Path,
    flavour: str,
    precision: str,
    options: PlanOptions,
    progress: Progress | None,
    timing: Path | None,
) -> Plan:
    """Build of random weights, mostly twice, until two plans are alike, and write one of them."""
    plans: list[Plan] = []

    def of_random(folder: Path, seed: int) -> bytes:
        other = write_random(model, folder, seed)
        half = None if progress is None else _half(progress, seed)
        built = folder / plan.name
        plans.append(_build(other, built, flavour, precision, options, half, timing))
        return stripping.stripped(built.read_bytes(), other)

    try:
        with tempfile.TemporaryDirectory(dir=plan.parent, prefix=".stripping-") as folder:
            content = stripping.in_common(of_random(Path(folder), n) for n in range(_MOST_BUILDS))
    except OSError as error:
        raise usage_fault("file/unwritable", f"{plan}: {error.strerror or error}") from None
    with whole_file(plan) as file:
        file.write(content)
    return replace(plans[-1], record=replace(plans[-1].record, path=str(plan)))


def _half(progress: Progress, which: int) -> Progress:
    """Progress of the first (0) or the second (1) half of the work; any that follows is none."""
    return lambda done, phase: progress(min(1.0, (which + done) / 2), phase)


@undisturbed()
def _build(
    model: Path,
    plan: Path,
    flavour: str,
    precision: str,
    options: PlanOptions,
    progress: Progress | None,
    timing: Path | None,
) -> Plan:
    owner = Library(flavour)
    capabilities = owner.capabilities(options.targets)
    network = Network.parsed(owner, model)
    config = _configuration(owner, precision == "tf32", capabilities, options)
    for batch in options.profiles:
        _add_profile(owner, config, network, batch)
    kept = None
    if timing is not None and not FLAVOURS[flavour].compiles_later:
        kept = TimingCache(timing, owner, config)
    _write(network, config, plan, model, progress)
    if kept is not None:
        kept.keep()
    gpus = driver.gpu_count()
    built = Built(
        owner.version,
        _targets(owner, capabilities, options),
        options.profiles,
        options.stripped,
        options.any_version,
        options.any_gpu,
    )
    status = BUILT if gpus else BUILT_WITHOUT_GPU
    of_engine = layers.of_engine(owner.library, owner.logger, plan) if gpus else None
    return Plan(
        EngineRecord(flavour, precision, status, str(plan), built),
        tensors=network.tensors(),
        warnings=tuple(owner.logger.warnings),
        layers=of_engine or layers.of_network(network),
    )


def _targets(owner: Library, capabilities: Sequence[Any], options: PlanOptions) -> tuple[str, ...]:
    """The compute capabilities that the plan is limited to, as `8.9`."""
    named = [value.name.lower() for value in capabilities]
    only_here = not owner.flavour.compiles_later and not options.any_gpu
    if named == ["current"] or (not named and only_here):
        return tuple(dict.fromkeys(gpu.rpartition(" ")[2] for gpu in driver.machine()[1][:1]))
    return tuple(f"{name[2:-1]}.{name[-1]}" for name in named)


def _configuration(
    owner: Library, tf32: bool, capabilities: Sequence[Any], options: PlanOptions
) -> Any:
    library = owner.library
    config = owner.builder.create_builder_config()
    flags = library.BuilderFlag
    if tf32:
        config.set_flag(flags.TF32)
    else:
        config.clear_flag(flags.TF32)
    if options.any_version:
        config.set_flag(flags.VERSION_COMPATIBLE)
    if options.any_gpu:
        config.hardware_compatibility_level = library.HardwareCompatibilityLevel.AMPERE_PLUS
    if "REQUIRE_USER_ALLOCATION" in flags.__members__:
        # Of TensorRT for RTX: without it the plan takes memory while it runs, and a CUDA graph,
        # which the runtime runs plans in, can't hold that.
        config.set_flag(flags.REQUIRE_USER_ALLOCATION)
    if options.stripped and not owner.flavour.compiles_later:
        config.set_flag(flags.STRIP_PLAN)
        config.set_flag(flags.REFIT)  # with any weights; REFIT_IDENTICAL takes the same ones alone
    if options.level is not None:
        config.builder_optimization_level = options.level
    if options.workspace is not None:
        config.set_memory_pool_limit(library.MemoryPoolType.WORKSPACE, options.workspace)
    # The inspector tells of layers what was kept of them.
    config.profiling_verbosity = library.ProfilingVerbosity.DETAILED
    if capabilities:
        config.num_compute_capabilities = len(capabilities)
        for index, capability in enumerate(capabilities):
            if not config.set_compute_capability(capability, index):
                raise owner.fault("engine/build", f"{capability} can't be a target")
    return config


def _add_profile(owner: Library, config: Any, network: Network, batch: BatchRange) -> None:
    profile = owner.builder.create_optimization_profile()
    sizes = ((size, *network.input_shape) for size in (batch.min, batch.opt, batch.max))
    try:
        profile.set_shape(network.input_name, *sizes)
        accepted = config.add_optimization_profile(profile) >= 0
    except (RuntimeError, TypeError):  # a size beyond what its 64 bits hold
        accepted = False
    if not accepted:
        raise owner.fault(
            "engine/build",
            f"{owner.name} does not take batches of {batch.min} to {batch.max} images",
        )


def _write(
    network: Network, config: Any, plan: Path, model: Path, progress: Progress | None
) -> None:
    """Build and write the plan. Raises AlexcError, and what `progress` raises."""
    owner = network.owner
    watch: Any = None
    if progress is not None and hasattr(owner.library, "IProgressMonitor"):
        watch = monitor(owner.library, progress)
        config.progress_monitor = watch
    with whole_file(plan) as file:
        complete, stopped = _serialize(network, config, file)
        stopped = getattr(watch, "stopped", None) or stopped
        if stopped is not None:
            raise stopped
        if not complete:
            why = reason(next(iter(owner.logger.errors), "it gives no reason"))
            raise owner.fault("engine/build", f"{owner.name} can't build {model}: {why}")
    if progress is not None:
        progress(1.0, "Done")


def _serialize(network: Network, config: Any, file: BinaryIO) -> tuple[bool, BaseException | None]:
    """Whether the plan was built and written, and what stopped the writing."""
    builder = network.owner.builder
    if not hasattr(builder, "build_serialized_network_to_stream"):
        memory = builder.build_serialized_network(network.network, config)
        if memory is not None:
            file.write(memory)
        return memory is not None, None
    # A tenth less memory: the serialized plan never exists as a whole.
    sink: Any = writer(network.owner.library, file)
    complete = builder.build_serialized_network_to_stream(network.network, config, sink)
    return complete and sink.stopped is None, sink.stopped
