"""A net's model as files, and what it is made of: weights, preprocessing, the graph it is written
from.

`model.onnx` and its other forms lie beside the `weights.safetensors` that all of them refer to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from alexc.calibrate.calibration import FILE as CALIBRATION
from alexc.calibrate.calibration import read as read_calibration
from alexc.calibrate.narrow import written
from alexc.engines.forms import FILES, fastest_form
from alexc.frontend import Net
from alexc.graph.graph import Graph
from alexc.passes.inference import inference
from alexc.weights import store
from alexc.weights.init import draw
from alexc_runtime.manifest import MODEL, WEIGHTS, InputType, Preprocess

if TYPE_CHECKING:
    from alexc_runtime.manifest import Bundle

Weights = Mapping[str, NDArray[np.float32]]


def weights_for(net: Net, file: Path | None, seed: int) -> dict[str, NDArray[np.float32]]:
    """The weights in the file, or drawn as the spec says, in the order of the graph.

    Raises UsageError if there is no file, AlexcError with everything that does not fit.
    """
    if file is not None:
        return store.read(file, net.graph)
    layers = {name: layer.init for name, layer in net.spec.layers.items() if layer.init}
    return draw(net.graph, net.spec.header.init, layers, seed)


def preprocess_of(net: Net, takes: InputType = "float32") -> Preprocess | None:
    """The spec's preprocessing with its defaults written out, as the runtime wants it.

    None if the spec says nothing of it. What `takes` uint8 normalises pixels itself.
    """
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
        dtype=takes,
    )


def graph_of(bundle: Bundle, graph: Graph, weights: Weights) -> Graph:
    """The graph that a bundle's model was written from, `graph` being that of its spec.

    Raises AlexcError if the bundle lacks what that takes.
    """
    manifest = bundle.manifest
    calibration = None
    if CALIBRATION in manifest.files:
        calibration = read_calibration(bundle.path(CALIBRATION))
    named = manifest.spec.get("precision") or {}
    return written(
        graph, weights, manifest.precision, named, calibration, preprocess=manifest.preprocess
    )


def write_model(graph: Graph, weights: Weights, folder: Path, engines: Sequence[str] = ()) -> None:
    """Write weights.safetensors, and the model.onnx that refers to it.

    For the `engines` that are faster with another form of it, that is written, too.
    """
    plain = inference(graph)
    write_models({MODEL: plain, **own_forms(plain, engines)}, weights, folder)


def own_forms(graph: Graph, engines: Sequence[str]) -> dict[str, Graph]:
    """The graph, in its inference form, as those of the engines want it that are faster with
    another form, by the names of their files."""
    found = {}
    for engine in engines:
        if (form := fastest_form(engine, graph)) is not None:
            found[FILES[engine]] = form
    return found


def write_models(graphs: Mapping[str, Graph], weights: Weights, folder: Path) -> None:
    """Write weights.safetensors, and each graph as the model of that name, which refers to it."""
    from alexc.lower.to_onnx import serialize, to_onnx

    extents = store.write(folder / WEIGHTS, weights)
    for name, graph in graphs.items():
        (folder / name).write_bytes(serialize(to_onnx(graph, extents)))
