"""The number format of each layer, written into the graph and so into the model.

TensorRT 11 has no precision flags: a network computes in the types that its ONNX model writes. So a
precision is a property of the graph, and every engine that reads the model computes in it.
"""

from __future__ import annotations

from collections.abc import Mapping

from alexc.graph.graph import Graph
from alexc.ops.norm import BatchNorm, Lrn
from alexc.ops.pointwise import Softmax
from alexc.spec.model import Precision

# Sums of squares overflow fp16 above 255, a power or an exponential loses what a narrow mantissa
# can't hold, and statistics are small differences: these stay in fp32 unless a layer is named.
SENSITIVE = (Lrn, Softmax, BatchNorm)


def with_precision(
    graph: Graph, default: Precision, named: Mapping[str, Precision] | None = None
) -> Graph:
    """The graph computing in `default`, sensitive layers in fp32, and `named` ones as they say.

    Names of layers that the graph lacks are skipped: a layer that a pass has removed computes
    nothing.
    """
    chosen: dict[str, Precision] = {}
    for node in graph.nodes:
        usual: Precision = "fp32" if isinstance(node.op, SENSITIVE) else default
        precision = (named or {}).get(node.name, usual)
        if precision != "fp32":
            chosen[node.name] = precision
    return graph.rebuilt(precisions=chosen)
