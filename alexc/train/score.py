"""The accuracy of a run's checkpoint in torch, and of a bundle on its engines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from alexc.bundle import runtime_faults
from alexc.diagnostics import AlexcError, fault
from alexc.frontend import outputs_are_probabilities
from alexc.graph.elaborate import elaborate
from alexc.graph.graph import Graph
from alexc.lower.to_torch import TorchNet, to_torch
from alexc.spec.model import Preprocess
from alexc.spec.parse import Spec, spec_from_json
from alexc.spec.recipe import AugmentSpec
from alexc.train import checkpoint
from alexc.train.augment import Pixels
from alexc.train.data.dataset import Dataset
from alexc.train.data.uri import Split, form_for, open_data
from alexc.train.evaluate import Forward, Scores, evaluate
from alexc.train.run import open_run
from alexc.weights import store

if TYPE_CHECKING:
    from alexc_runtime import Session


def score_run(folder: Path, uri: str, split: Any, *, views: int, best: bool) -> Scores:
    """The accuracy of the run's last checkpoint, or its best, in torch and fp32."""
    run = open_run(folder)
    run.last()  # a fault where there is none
    found = checkpoint.best(folder) if best else checkpoint.latest(folder)
    assert found is not None
    graph = run.net.graph
    net = trained_net(graph, found.weights)
    resize = run.recipe.resize
    data, pixels = _opened(graph, run.net.spec.header.preprocess, uri, split, resize)
    return _score(net, graph, data, pixels, views)


def score_bundle(
    folder: Path, uri: str, split: Any, *, views: int, engine: str | None
) -> dict[str, Scores]:
    """The accuracy on each engine asked for: by name, `all` that can run here, or the best."""
    import alexc_runtime
    from alexc_runtime.session import ENGINES

    with runtime_faults():
        opened = alexc_runtime.open_bundle(folder)
    spec, graph = _spec_of(dict(opened.manifest.spec), str(folder))
    resize = spec.header.train.resize if spec.header.train is not None else None
    data, pixels = _opened(graph, spec.header.preprocess, uri, split, resize)
    names: list[str | None] = [engine]
    if engine == "all":
        names = [name for name, kind in ENGINES.items() if kind.obstacle() is None]
    found = {}
    for name in names:
        try:
            with runtime_faults(), alexc_runtime.open(folder, name) as session:
                found[session.engine] = _score(_of(session), graph, data, pixels, views)
        except AlexcError:
            if engine != "all":
                raise
    if not found:
        raise fault("eval/engine", f"no engine can run {folder} on this machine")
    return found


def _of(session: Session) -> Forward:
    """The first output of an open bundle, in batches that its engine takes."""
    output = session.manifest.outputs[0].name
    smallest, largest = session.batch_limits

    def forward(inputs: Tensor) -> Tensor:
        images = inputs.contiguous().numpy()
        step = largest or len(images)
        parts = []
        for first in range(0, len(images), step):
            part = images[first : first + step]
            # A plan may take no batch as small as the last one: it is filled up with its end.
            missing = max(0, smallest - len(part))
            full = np.concatenate([part, np.repeat(part[-1:], missing, axis=0)])
            parts.append(session.run(full)[output][: len(part)])
        return torch.from_numpy(np.concatenate(parts))

    return forward


def trained_net(graph: Graph, weights: Path) -> TorchNet:
    """The net with the weights of a file, ready to be used."""
    net = to_torch(graph, store.read(weights, graph))
    net.eval()
    return net


def _spec_of(data: dict[str, Any], shown_as: str) -> tuple[Spec, Graph]:
    spec, faults = spec_from_json(data, shown_as)
    graph = None
    if spec is not None:
        graph, more = elaborate(spec)
        faults += more
    if spec is None or graph is None:
        raise AlexcError(*faults)
    return spec, graph


def _opened(
    graph: Graph,
    preprocess: Preprocess | None,
    uri: str,
    split: Split,
    resize: tuple[int, int] | None,
) -> tuple[Dataset, Pixels]:
    size = resize
    if size is None and preprocess is not None and preprocess.resize:
        size = (preprocess.resize, preprocess.resize)
    data = open_data(uri, split, form_for(graph, size))
    return data, Pixels(graph, preprocess, AugmentSpec(), data.shape)


def _score(
    net: TorchNet | Forward, graph: Graph, data: Dataset, pixels: Pixels, views: int
) -> Scores:
    def forward(inputs: Tensor) -> Tensor:
        outputs = net(inputs)
        return outputs if isinstance(outputs, Tensor) else outputs[graph.outputs[0]]

    return evaluate(
        forward,
        data,
        pixels,
        graph.shapes[graph.outputs[0]][0],
        views=views,
        probabilities=outputs_are_probabilities(graph),
    )
