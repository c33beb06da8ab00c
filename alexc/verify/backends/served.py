"""The runtime's own engines, on the files of a bundle that may still be in the making.

What is certified has to be what serves: the same settings, the same reading of the results.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexc.graph.graph import INPUT, Graph
from alexc.ops.base import Shape
from alexc.verify.backends.base import BackendFault, Tensors, first_line
from alexc_runtime.digests import FileRecord
from alexc_runtime.engines.base import Engine
from alexc_runtime.errors import RuntimeFaultError
from alexc_runtime.manifest import (
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


def load_model(kind: type[Engine], model: Path, graph: Graph) -> Engine:
    """The engine on a model of the graph, with all threads. Raises BackendFault if it refuses."""
    input = Input(
        INPUT,
        graph.input_shape,
        BatchRange(1, 1, 1),  # engines that run models as they are take batches of any size
        "float32" if graph.pixels is None else "uint8",
    )
    record = EngineRecord(kind.name, "", "to be verified", model.name)
    outputs = {name: graph.shapes[name] for name in graph.outputs}
    return load(kind, model.parent, record, input, outputs)


def load(
    kind: type[Engine],
    folder: Path,
    record: EngineRecord,
    input: Input,
    outputs: Mapping[str, Shape],
) -> Engine:
    """The engine on the file in the folder that the record names. Raises BackendFault."""
    try:
        return kind(_bundle(folder, record, input, outputs), record, None)
    except RuntimeFaultError as fault:
        raise BackendFault(_why(fault)) from fault


def run(engine: Engine, images: NDArray[Any]) -> Tensors:
    """The outputs by name. Raises BackendFault."""
    try:
        return dict(engine.run(np.ascontiguousarray(images)))
    except RuntimeFaultError as fault:
        raise BackendFault(_why(fault)) from fault


def _why(fault: RuntimeFaultError) -> str:
    """What the library said, where it said something; else what the runtime makes of it."""
    if isinstance(fault.__cause__, Exception):
        return first_line(fault.__cause__)
    return "; ".join((fault.message, *fault.notes))


def _bundle(
    folder: Path, record: EngineRecord, input: Input, outputs: Mapping[str, Shape]
) -> Bundle:
    """The folder as an engine takes it: while a bundle is built, it has no manifest yet."""
    preprocess = None
    if input.dtype == "uint8":  # what it says is the model's work, and not looked at
        channels, height, width = input.shape
        zeros, ones = (0.0,) * channels, (1.0,) * channels
        order: Channels = "grey" if channels == 1 else "rgb"
        preprocess = Preprocess(None, (height, width), order, 1.0, zeros, ones, "uint8")
    files = [file for file in folder.iterdir() if file.is_file()]
    if record.path is not None:
        files.append(folder / record.path)
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
        files={file.relative_to(folder).as_posix(): FileRecord(0, "") for file in files},
    )
    return Bundle(folder, manifest)
