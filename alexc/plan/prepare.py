"""A net made ready to be measured: as files that contestants run, and as what they must give."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexc import __version__
from alexc.bundle import read_bundle, staged, tool_versions
from alexc.frontend import Net, load_net
from alexc.graph.graph import INPUT, Graph
from alexc.model import own_forms, weights_for, write_models
from alexc.passes.inference import inference
from alexc.passes.precision import with_precision
from alexc.plan.contestant import Subject
from alexc.plan.measure import Standard
from alexc.weights import store
from alexc_runtime.manifest import (
    MODEL,
    WEIGHTS,
    BatchRange,
    EngineRecord,
    Input,
    Manifest,
    Output,
    Preprocess,
    Verification,
)
from alexc_runtime.preprocess import normalised

Progress = Callable[[str], None]

_BFLOAT16_MODEL = "model-bf16.onnx"

# The images of a batch are these, over and over: the reference is computed for each once.
_DISTINCT_IMAGES = 2
_KINDS = ("structured", "gaussian")


@dataclass(frozen=True)
class Prepared:
    """A net as files that contestants can run: the folder of a bundle, its manifest, the graph."""

    graph: Graph
    weights: Mapping[str, NDArray[np.float32]]
    folder: Path
    manifest: Manifest


def prepared(target: Path, scratch: Path, seed: int, progress: Progress) -> Prepared:
    """The bundle at `target`, or one in `scratch` made of the spec there, not verified."""
    if target.is_dir():
        bundle, kept = read_bundle(target)
        weights = store.read(bundle.path(WEIGHTS), kept.graph)
        return Prepared(kept.graph, weights, target, bundle.manifest)
    net = load_net(target)
    progress("making the models")
    weights = weights_for(net, None, seed)
    folder = scratch / "bundle"
    manifest = write_bundle(net, weights, folder, {})
    return Prepared(net.graph, weights, folder, manifest)


def write_bundle(
    net: Net,
    weights: Mapping[str, NDArray[np.float32]],
    folder: Path,
    forms: Mapping[str, Graph],
    preprocess: Preprocess | None = None,
) -> Manifest:
    """Write a bundle that nobody has verified.

    Each engine gets the form of model that it is fastest with, and OpenVINO one in bfloat16, too.
    With `forms`, graphs in their inference form by the name of the model's file, these instead;
    `preprocess` says what they take, if that is not what the net was trained on.
    """
    plain = inference(net.graph)
    graphs = {MODEL: plain, **forms}
    models = {("onnxruntime", "fp32"): MODEL, ("openvino", "fp32"): MODEL}
    if not forms:
        graphs[_BFLOAT16_MODEL] = with_precision(plain, "bf16", net.spec.header.precision)
        models["openvino", "bf16"] = _BFLOAT16_MODEL
        for engine, _ in list(models):
            for file, form in own_forms(plain, [engine]).items():
                graphs[file] = form
                models[engine, "fp32"] = file
    engines = [EngineRecord(*which, "not verified", file) for which, file in models.items()]
    with staged(folder) as stage:
        write_models(graphs, weights, stage.folder)
        return stage.commit(unverified(net, engines, preprocess))


def unverified(
    net: Net, engines: Sequence[EngineRecord], preprocess: Preprocess | None = None
) -> Manifest:
    """The manifest of a bundle that is made to be measured, without its files."""
    return Manifest(
        alexc=__version__,
        name=net.spec.name,
        inputs_digest="sha256:" + "0" * 64,
        spec_digest="sha256:" + "0" * 64,
        graph_digest=net.graph.digest(),
        input=Input(
            INPUT,
            net.graph.input_shape,
            BatchRange(1, 1, 1024),
            "float32" if preprocess is None else preprocess.dtype,
        ),
        outputs=tuple(Output(name, net.graph.shapes[name]) for name in net.graph.outputs),
        preprocess=preprocess,
        labels=None,
        spec=net.spec.to_json(),
        engines=tuple(engines),
        versions=tool_versions(),
        verification=Verification(passed=None, reference="float64 numpy"),
    )


def standard(net: Prepared, images: int, seed: int) -> tuple[NDArray[np.float32], Standard]:
    """The images, and the reference's outputs for the distinct ones among them."""
    distinct = standard_inputs(
        net.graph, min(images, _DISTINCT_IMAGES), seed, net.manifest.preprocess
    )
    expected = standard_of(net.graph, net.weights, distinct, seed)
    return distinct[np.arange(images) % len(distinct)], expected


def standard_inputs(
    graph: Graph, images: int, seed: int, preprocess: Preprocess | None = None
) -> NDArray[np.float32]:
    """Images that are measured on where no photographs are given.

    With `preprocess` they are pixels, normalised: a model that takes pixels is given the same.
    """
    from alexc.verify.inputs import batch

    if preprocess is None:
        return batch(graph.input_shape, images, seed, _KINDS)
    return normalised(standard_pixels(graph, images, seed), preprocess)


def standard_pixels(graph: Graph, images: int, seed: int) -> NDArray[np.uint8]:
    """The same as pixels, for models that take them."""
    from alexc.verify.inputs import batch_of_pixels

    kinds = [_KINDS[index % len(_KINDS)] for index in range(images)]
    return batch_of_pixels(graph.input_shape, kinds, seed).astype(np.uint8)


def standard_of(
    graph: Graph,
    weights: Mapping[str, NDArray[np.float32]],
    images: NDArray[np.float32],
    seed: int = 0,
) -> Standard:
    """The reference's outputs for these images, and how far rounding in fp32 may lie from them."""
    from alexc.verify.reference import expect

    expected = expect(graph, weights, images, seed=seed)
    return Standard(
        {name: expected.values[name] for name in graph.outputs},
        {name: expected.tolerances[name] for name in graph.outputs},
    )


def subject(
    net: Prepared,
    scratch: Path,
    images: NDArray[np.float32],
    threads: int | None,
    photographs: NDArray[np.float32] | None = None,
) -> Subject:
    """The files that contestants read, written to `scratch`."""
    spec = scratch / "spec.json"
    spec.write_text(json.dumps(dict(net.manifest.spec)), encoding="utf-8")
    np.save(scratch / "images.npy", images)
    given = None
    if photographs is not None:
        given = scratch / "photographs.npy"
        np.save(given, photographs)
    return Subject(
        spec=spec,
        weights=(net.folder / WEIGHTS).resolve(),
        images=scratch / "images.npy",
        exported=scratch / "exported.onnx",
        scratch=scratch,
        photographs=given,
        threads=threads,
    )
