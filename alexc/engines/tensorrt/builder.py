"""From a parsed network to the file of a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from alexc.engines import driver
from alexc.engines.record import (
    BUILT,
    BUILT_WITHOUT_GPU,
    DEFAULT_BATCH,
    PRECISIONS,
    BatchRange,
    EngineRecord,
    not_built,
)
from alexc.engines.tensorrt.callbacks import Progress, monitor, writer
from alexc.engines.tensorrt.flavours import FLAVOURS
from alexc.engines.tensorrt.guard import undisturbed
from alexc.engines.tensorrt.library import Library
from alexc.engines.tensorrt.network import Network, ParsedTensor
from alexc.engines.tensorrt.words import reason
from alexc.files import whole_file
from alexc_runtime.engines.base import import_obstacle, load


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
    gpus = driver.gpu_count()
    if not gpus and not known.builds_without_gpu:
        why = "no GPU, and this library builds by timing kernels on one"
        return Plan(not_built(flavour, precision, why), str(load(flavour).__version__))
    status = BUILT if gpus else BUILT_WITHOUT_GPU
    record = EngineRecord(flavour, precision, status, str(plan))
    return _build(model, plan, record, batch, targets, progress)


@undisturbed()
def _build(
    model: Path,
    plan: Path,
    record: EngineRecord,
    batch: BatchRange,
    targets: Sequence[str],
    progress: Progress | None,
) -> Plan:
    owner = Library(record.engine)
    capabilities = owner.capabilities(targets)
    network = Network.parsed(owner, model)
    config = _configuration(owner, record.precision == "tf32", capabilities)
    _add_profile(owner, config, network, batch)
    _write(network, config, plan, model, progress)
    return Plan(
        record,
        library=owner.version,
        targets=tuple(capability.name.lower() for capability in capabilities),
        tensors=network.tensors(),
        warnings=tuple(owner.logger.warnings),
    )


def _configuration(owner: Library, tf32: bool, capabilities: Sequence[Any]) -> Any:
    config = owner.builder.create_builder_config()
    flag = owner.library.BuilderFlag.TF32
    if tf32:
        config.set_flag(flag)
    else:
        config.clear_flag(flag)
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
