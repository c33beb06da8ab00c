"""Models in the form that an engine is fastest with, beside model.onnx.

model.onnx says everything in ONNX's own words, one node for one layer, for whatever engine there
is. An engine that computes one of these slowly gets a model of its own that computes the same
function in other nodes, of the same weights: it lies beside model.onnx, since ONNX allows no
weights in a folder above a model's own.
"""

from __future__ import annotations

from alexc.graph.graph import Graph, LrnForm
from alexc.passes.lrn_form import lrn_form

# What each engine's own model is called.
FILES: dict[str, str] = {"onnxruntime": "model-onnxruntime.onnx"}

# ONNX Runtime (1.31) takes two thirds of its time for AlexNet in the powers of its LRN.
_LRN_FORMS: dict[str, LrnForm] = {"onnxruntime": "banded"}


def fastest_form(engine: str, graph: Graph) -> Graph | None:
    """The graph, in its inference form, as the engine is fastest with it.

    None if that is the graph itself: then the engine loads model.onnx.
    """
    form = _LRN_FORMS.get(engine)
    if form is None:
        return None
    changed = lrn_form(graph, form)
    return changed if changed.forms != graph.forms else None
