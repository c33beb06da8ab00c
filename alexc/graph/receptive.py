"""How much of the input image one value of each layer sees."""

from __future__ import annotations

from alexc.graph.graph import INPUT, Graph, Node
from alexc.ops.conv import Conv
from alexc.ops.dense import Linear
from alexc.ops.norm import Lrn
from alexc.ops.pool import AdaptiveAvgPool, AvgPool, MaxPool

Field = tuple[int, int]


def receptive_fields(graph: Graph) -> dict[str, Field]:
    """Rows and columns of the input that reach one value of each layer, its padding included.

    A window of n values, `jump` pixels apart, over values that see r pixels sees r + (n − 1)·jump;
    a stride multiplies the jump. What sees everything is given the input's size, which also bounds
    the result.
    """
    _, height, width = graph.input_shape
    whole = (height, width)
    fields: dict[str, Field] = {INPUT: (1, 1)}
    jumps: dict[str, Field] = {INPUT: (1, 1)}
    for node in graph.nodes:
        field = _largest([fields[source] for source in node.inputs])
        jump = _largest([jumps[source] for source in node.inputs])
        if isinstance(node.op, Linear):
            fields[node.name], jumps[node.name] = whole, jump
            continue
        taps, stride = _window(node)
        grown = (field[0] + (taps[0] - 1) * jump[0], field[1] + (taps[1] - 1) * jump[1])
        fields[node.name] = (min(grown[0], height), min(grown[1], width))
        jumps[node.name] = (jump[0] * stride[0], jump[1] * stride[1])
    return fields


def _largest(pairs: list[Field]) -> Field:
    return (max(pair[0] for pair in pairs), max(pair[1] for pair in pairs))


def _window(node: Node) -> tuple[Field, Field]:
    """Size and stride of the window that a layer slides over its input."""
    op = node.op
    if isinstance(op, Conv | MaxPool | AvgPool):
        rows, columns = op.axes(node.input_shapes[0])
        return (rows.span, columns.span), (rows.stride, columns.stride)
    if isinstance(op, AdaptiveAvgPool):
        _, height, width = node.input_shapes[0]
        rows_out, columns_out = op.output_size
        steps = (height // rows_out or 1, width // columns_out or 1)
        return (-(-height // rows_out), -(-width // columns_out)), steps
    if isinstance(op, Lrn) and op.region == "within_channel":
        return (op.size, op.size), (1, 1)
    return (1, 1), (1, 1)
