"""How a local response normalisation over channels is written in the model.

ONNX has a node for it, which some engines compute slowly: ONNX Runtime (1.31) takes more time for
AlexNet's two than for its convolutions, since it raises to a power element by element. The forms
compute the same function from nodes that every engine has fast kernels for (see
`lower.to_onnx`): the sum over neighbouring channels is a product with a matrix that is a band of
ones, or a window's average.
"""

from __future__ import annotations

from collections.abc import Collection

from alexc.graph.graph import Graph, LrnForm
from alexc.ops.norm import Lrn


def lrn_form(graph: Graph, form: LrnForm, layers: Collection[str] | None = None) -> Graph:
    """The graph whose normalisations over channels are written in `form`; of `layers` only, if
    given, and else all.

    A normalisation within a channel has one form, and stays.
    """
    forms = dict(graph.forms)
    for node in graph.nodes:
        across = isinstance(node.op, Lrn) and node.op.region == "across_channels"
        if across and (layers is None or node.name in layers):
            forms[node.name] = form
    return graph.rebuilt(forms=forms)
