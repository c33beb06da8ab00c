"""The accuracy of a run's checkpoint in torch, and of a bundle on its engines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexc.bundle import read_bundle, runtime_faults
from alexc.diagnostics import AlexcError, UsageError, fault, usage_fault
from alexc.frontend import Net, outputs_are_probabilities
from alexc.graph.graph import Graph
from alexc.lower.to_torch import to_torch
from alexc.plan.photographs import Labelled
from alexc.spec.recipe import AugmentSpec
from alexc.train import checkpoint
from alexc.train.augment import Pixels
from alexc.train.data.dataset import Dataset
from alexc.train.data.uri import Split, form_for, open_data, stored_size
from alexc.train.evaluate import Forward, Scores, evaluate
from alexc.train.run import is_run, open_run
from alexc.weights import store
from alexc_runtime.manifest import MANIFEST, WEIGHTS, InputType

if TYPE_CHECKING:
    from alexc_runtime import Session

Weights = dict[str, NDArray[np.float32]]


def score_run(folder: Path, uri: str, split: Split, *, views: int, best: bool) -> Scores:
    """The accuracy of the run's last checkpoint, or its best, in torch and fp32."""
    if not is_run(folder):
        raise _neither(folder)
    run = open_run(folder)
    chosen = run.last()
    if best:
        chosen = checkpoint.best(folder) or chosen
    graph = run.net.graph
    net = to_torch(graph, store.read(chosen.weights, graph))
    net.eval()
    data, pixels = _data_of(run.net, uri, split)

    def forward(inputs: Tensor) -> Tensor:
        outputs = net(inputs)
        return outputs if isinstance(outputs, Tensor) else outputs[graph.outputs[0]]

    return _score(forward, graph, data, pixels, views)


def score_bundle(
    folder: Path, uri: str, split: Split, *, views: int, engine: str | None
) -> dict[str, Scores]:
    """The accuracy on each engine asked for: by name, `all` that can run here, or the best."""
    import alexc_runtime
    from alexc_runtime.opening import ENGINES

    bundle, net = read_bundle(folder)
    data, pixels = _data_of(net, uri, split, getattr(torch, bundle.manifest.input.dtype))
    names: list[str | None] = [engine]
    if engine == "all":
        names = [name for name, kind in ENGINES.items() if kind.obstacle() is None]
    found = {}
    for name in names:
        try:
            with runtime_faults(), alexc_runtime.open(folder, name) as session:
                scores = _score(_of(session), net.graph, data, pixels, views)
                found[session.engine] = scores
        except AlexcError:
            if engine != "all":
                raise
    if not found:
        raise fault("eval/engine", f"no engine can run {folder} on this machine")
    return found


def labelled(net: Net, uri: str, split: Split, takes: InputType = "float32") -> Labelled:
    """The images of a data set for a search among engines: to look at, and to be scored on.

    They are normalised, or pixels for a model that `takes` uint8. Raises UsageError if there is no
    such set.
    """
    data, pixels = _data_of(net, uri, split, getattr(torch, takes))

    def some(count: int) -> NDArray[Any]:
        wanted = np.unique(np.linspace(0, len(data) - 1, min(count, len(data))).astype(np.int64))
        stored, labels = data.read(wanted)
        if not (labels >= 0).any():
            raise fault("data/empty", f"no image of {data.name} could be read")
        images = pixels.for_testing(torch.from_numpy(stored[labels >= 0]), 1)
        return np.ascontiguousarray(images.numpy())

    def score(forward: Callable[[NDArray[Any]], NDArray[np.float32]]) -> tuple[float, float]:
        def of_tensors(inputs: Tensor) -> Tensor:
            return torch.from_numpy(forward(np.ascontiguousarray(inputs.numpy())))

        scores = _score(of_tensors, net.graph, data, pixels, 1)
        return scores.top1, scores.top5

    return Labelled(some, score)


def opened(target: Path, uri: str, split: Split) -> tuple[Graph, Weights, Dataset, Pixels]:
    """Graph and weights of a run or a bundle, with a data set in the form that it takes.

    Raises UsageError if there is no run, bundle or set.
    """
    if is_run(target):
        run = open_run(target)
        net, path = run.net, run.last().weights
    elif (target / MANIFEST).is_file():
        bundle, net = read_bundle(target)
        path = bundle.path(WEIGHTS)
    else:
        raise _neither(target)
    data, pixels = _data_of(net, uri, split)
    return net.graph, store.read(path, net.graph), data, pixels


def _neither(target: Path) -> UsageError:
    if not target.exists():
        return usage_fault("file/missing", f"there is no {target}")
    return usage_fault("file/missing", f"{target} is neither a run nor a bundle")


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


def _data_of(
    net: Net, uri: str, split: Split, dtype: torch.dtype = torch.float32
) -> tuple[Dataset, Pixels]:
    recipe = net.spec.header.train
    size = stored_size(net, recipe.resize if recipe is not None else None)
    data = open_data(uri, split, form_for(net, net.graph, size))
    preprocess = net.spec.header.preprocess
    return data, Pixels(net.graph, preprocess, AugmentSpec(), data.shape, dtype=dtype)


def _score(forward: Forward, graph: Graph, data: Dataset, pixels: Pixels, views: int) -> Scores:
    return evaluate(
        forward,
        data,
        pixels,
        graph.shapes[graph.outputs[0]][0],
        views=views,
        probabilities=outputs_are_probabilities(graph),
    )
