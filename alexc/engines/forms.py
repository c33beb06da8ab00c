"""Forms of a model: the same function in other nodes, where an engine is faster with them.

model.onnx says everything in ONNX's own words, one node for one layer, for whatever engine there
is. An engine that computes one of these slowly gets a model of its own that computes the same
function in other nodes: it lies beside model.onnx, since ONNX allows no weights in a folder above
a model's own. FORMS names all there are, from which a plan takes what this machine runs fastest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from alexc.graph.graph import Graph, LrnForm
from alexc.passes.fold_batch_norm import fold_batch_norm
from alexc.passes.lrn_form import lrn_form
from alexc.passes.pool_before_relu import pool_before_relu

Weights = Mapping[str, NDArray[np.float32]]

# What each engine's own model is called.
FILES: dict[str, str] = {"onnxruntime": "model-onnxruntime.onnx"}

# ONNX Runtime (1.31) takes two thirds of its time for AlexNet in the powers of its LRN.
_LRN_FORMS: dict[str, LrnForm] = {"onnxruntime": "banded"}


@dataclass(frozen=True)
class Form:
    """One way to write some layers of a graph. Forms of one kind exclude each other.

    `make` takes a graph in its inference form and its weights, and returns both as they are in this
    form. The same weights come back as the same object; others go into a file of their own.
    """

    kind: Literal["norm", "order", "lrn"]
    what: str
    make: Callable[[Graph, Weights], tuple[Graph, Weights]]


def _of_graph(
    change: Callable[[Graph], Graph],
) -> Callable[[Graph, Weights], tuple[Graph, Weights]]:
    """A form that leaves the weights as they are."""
    return lambda graph, weights: (change(graph), weights)


# By name, in the order in which they are applied: layers become others before they are rewritten.
FORMS: dict[str, Form] = {
    "folded": Form("norm", "batch norm multiplied into the layer before it", fold_batch_norm),
    "pool-first": Form("order", "max pooling before ReLU", _of_graph(pool_before_relu)),
    "banded": Form(
        "lrn", "LRN as a banded 1×1 convolution", _of_graph(lambda g: lrn_form(g, "banded"))
    ),
    "windowed": Form("lrn", "LRN as a windowed sum", _of_graph(lambda g: lrn_form(g, "windowed"))),
}


def in_form(names: Iterable[str], graph: Graph, weights: Weights) -> tuple[Graph, Weights]:
    """The graph, in its inference form, and its weights in all of these forms.

    Weights that none of them changes come back as the same object.
    """
    wanted = set(names)
    for name, form in FORMS.items():
        if name in wanted:
            before = graph
            graph, changed = form.make(graph, weights)
            weights = weights if graph == before else changed
    return graph, weights


def changing(graph: Graph, weights: Weights) -> tuple[str, ...]:
    """The forms that make something else of this graph, in its inference form."""
    return tuple(name for name, form in FORMS.items() if form.make(graph, weights)[0] != graph)


def fastest_form(engine: str, graph: Graph) -> Graph | None:
    """The graph, in its inference form, as the engine is fastest with it.

    None if that is the graph itself: then the engine loads model.onnx.
    """
    form = _LRN_FORMS.get(engine)
    if form is None:
        return None
    changed = lrn_form(graph, form)
    return changed if changed.forms != graph.forms else None
