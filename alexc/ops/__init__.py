"""What each op means: fields, shapes, parameters, MACs and float64 reference, one class an op."""

from alexc.ops.base import Op
from alexc.ops.conv import Conv
from alexc.ops.dense import Linear
from alexc.ops.norm import BatchNorm, Lrn
from alexc.ops.pixels import Pixels
from alexc.ops.pointwise import Dropout, Relu, Sigmoid, Softmax, Tanh
from alexc.ops.pool import AdaptiveAvgPool, AvgPool, MaxPool
from alexc.ops.structure import Add, Concat, Flatten

# Every op of the spec language by its name there.
OPS: dict[str, type[Op]] = {
    op.kind: op
    for op in (
        Conv,
        Linear,
        MaxPool,
        AvgPool,
        AdaptiveAvgPool,
        Lrn,
        BatchNorm,
        Relu,
        Tanh,
        Sigmoid,
        Softmax,
        Dropout,
        Flatten,
        Add,
        Concat,
    )
}

# Every op of a graph: passes may put in what no spec says.
GRAPH_OPS: dict[str, type[Op]] = {**OPS, Pixels.kind: Pixels}

__all__ = ["GRAPH_OPS", "OPS"]
