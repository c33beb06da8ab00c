"""The runtime's own engines, on the files of a bundle that may still be in the making.

What is certified has to be what serves: the same settings, the same reading of the results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexc.graph.graph import INPUT
from alexc.ops.base import Shape
from alexc.verify.backends.base import BackendFault, Subject, Tensors, first_line
from alexc_runtime.digests import FileRecord, sha256
from alexc_runtime.engines.base import Engine
from alexc_runtime.errors import RuntimeFaultError
from alexc_runtime.manifest import (
    WEIGHTS,
    BatchRange,
    Bundle,
    Channels,
    EngineRecord,
    Input,
    Manifest,
    Output,
    Preprocess,
    Verification,
)


def load_model(
    kind: type[Engine], model: Path, subject: Subject, *, keeps_plans: bool = False
) -> Engine:
    """The engine on a model of the subject's, with all threads. Raises BackendFault if it refuses.

    Most engines that run models as they are take batches of any size; those that do not take what
    the model will serve, or one image where that is not known. One that `keeps_plans` of its own
    making in the user's cache is told the digest of the weights, by which it knows them.
    """
    graph = subject.written
    input = Input(
        INPUT,
        graph.input_shape,
        subject.batches or BatchRange(1, 1, 1),
        "float32" if graph.pixels is None else "uint8",
    )
    record = EngineRecord(kind.name, subject.precision, "to be verified", model.name)
    outputs = {name: graph.shapes[name] for name in graph.outputs}
    hashed = (WEIGHTS,) if keeps_plans else ()
    return load(kind, model.parent, record, input, outputs, hashed)


def load(
    kind: type[Engine],
    folder: Path,
    record: EngineRecord,
    input: Input,
    outputs: Mapping[str, Shape],
    hashed: Sequence[str] = (),
) -> Engine:
    """The engine on the file in the folder that the record names. Raises BackendFault.

    Of the files in the folder only those that are to be `hashed` have their digests in its bundle.
    """
    try:
        return kind(_bundle(folder, record, input, outputs, hashed), record, None)
    except RuntimeFaultError as fault:
        raise BackendFault(_why(fault)) from fault


def run(engine: Engine, images: NDArray[Any]) -> Tensors:
    """The outputs by name. Raises BackendFault."""
    try:
        return dict(engine.run(np.ascontiguousarray(images)))
    except RuntimeFaultError as fault:
        raise BackendFault(_why(fault)) from fault


def run_all(engine: Engine, images: NDArray[Any]) -> Tensors:
    """As `run`; batches of a size that the engine does not take are filled up, or run in parts."""
    smallest, largest = engine.batch_limits
    count, parts = len(images), []
    for first in range(0, count, largest or count):
        part = images[first : first + (largest or count)]
        rows = np.arange(max(len(part), smallest)) % len(part)
        found = run(engine, part[rows])
        parts.append({name: array[: len(part)] for name, array in found.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _why(fault: RuntimeFaultError) -> str:
    """What the library said, where it said something; else what the runtime makes of it."""
    if isinstance(fault.__cause__, Exception):
        return first_line(fault.__cause__)
    return "; ".join((fault.message, *fault.notes))


def _bundle(
    folder: Path,
    record: EngineRecord,
    input: Input,
    outputs: Mapping[str, Shape],
    hashed: Sequence[str],
) -> Bundle:
    """The folder as an engine takes it: while a bundle is built, it has no manifest yet."""
    preprocess = None
    if input.dtype == "uint8":  # what it says is the model's work, and not looked at
        channels, height, width = input.shape
        zeros, ones = (0.0,) * channels, (1.0,) * channels
        order: Channels = "grey" if channels == 1 else "rgb"
        preprocess = Preprocess(None, (height, width), order, 1.0, zeros, ones, "uint8")
    files = {file.name for file in folder.iterdir() if file.is_file()}
    if record.path is not None:
        files.add(record.path)
    manifest = Manifest(
        alexc="",
        name="",
        inputs_digest="",
        spec_digest="",
        graph_digest="",
        input=input,
        outputs=tuple(Output(name, shape) for name, shape in outputs.items()),
        preprocess=preprocess,
        labels=None,
        spec={},
        engines=(record,),
        versions={},
        verification=Verification(None, ""),
        files={
            name: FileRecord(0, sha256(folder / name) if name in hashed else "") for name in files
        },
    )
    return Bundle(folder, manifest)
