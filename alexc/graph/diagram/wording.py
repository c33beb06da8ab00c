"""What a diagram says of a layer: its family, a summary of a few words, and all the facts.

An op that has no row here is drawn all the same, with its kind and the fields that were set.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

from alexc.graph.graph import Node
from alexc.ops.base import Op, Padding, format_shape
from alexc.ops.conv import Conv
from alexc.ops.dense import Linear
from alexc.ops.norm import BatchNorm, Lrn
from alexc.ops.pointwise import Dropout, Relu, Sigmoid, Softmax, Tanh
from alexc.ops.pool import AdaptiveAvgPool, AvgPool, MaxPool
from alexc.ops.structure import Add, Concat, Flatten

Family = Literal[
    "input",
    "convolution",
    "fully connected",
    "pooling",
    "normalisation",
    "activation",
    "dropout",
    "joining",
    "reshaping",
    "other",
]

# More inputs than these are counted, not listed.
_MOST_LISTED = 6


def family(op: Op) -> Family:
    """Which ops a layer's op belongs with."""
    return _ROWS[type(op)][0] if type(op) in _ROWS else "other"


def summary(node: Node) -> str:
    """What the layer does, in a few words: `conv 11×11 /4, pad 2`."""
    if type(node.op) in _ROWS:
        return _ROWS[type(node.op)][1](node)
    fields = [f"{name} {_value(value)}" for name, value in _set_fields(node.op).items()]
    return " ".join([node.op.kind.replace("_", " "), ", ".join(fields)]).rstrip()


def facts(node: Node) -> list[str]:
    """Everything about the layer, a line each: op and fields, shapes, parameters, MACs."""
    fields = ", ".join(f"{name} {_value(value)}" for name, value in _set_fields(node.op).items())
    lines = [f"{node.name}: {node.op.kind}" + (f" ({fields})" if fields else "")]
    reads = ", ".join(
        f"{name} {format_shape(shape)}"
        for name, shape in zip(node.inputs, node.input_shapes, strict=True)
    )
    lines.append(f"{reads} → {format_shape(node.shape)}")
    if node.parameters:
        tensors = ", ".join(
            f"{name} {format_shape(p.shape)}" for name, p in node.parameters.items()
        )
        lines.append(f"{node.parameter_count:,} parameters: {tensors}")
    if node.macs:
        lines.append(f"{node.macs:,} MACs per image")
    return lines


def _set_fields(op: Op) -> dict[str, Any]:
    """The fields that have no default or another value than it."""
    fields = type(op).model_fields
    return {
        name: getattr(op, name)
        for name, field in fields.items()
        if field.is_required() or getattr(op, name) != field.default
    }


def _value(value: Any) -> str:
    if isinstance(value, Padding):
        return _sides(value)
    if isinstance(value, tuple):
        return "×".join(map(_value, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _sides(padding: Padding) -> str:
    """`2`, `1×2` for rows and columns, or every side by its name."""
    if not padding.symmetric:
        sides = padding.model_dump().items()
        return " ".join(f"{name} {pixels}" for name, pixels in sides if pixels)
    return f"{padding.top}" if padding.top == padding.left else f"{padding.top}×{padding.left}"


def _window(word: str, kernel: tuple[int, int], stride: tuple[int, int], padding: Padding) -> str:
    text = f"{word} {kernel[0]}×{kernel[1]}"
    if stride != (1, 1):
        text += f" /{stride[0]}" if stride[0] == stride[1] else f" /{stride[0]}×{stride[1]}"
    return text + (f", pad {_sides(padding)}" if padding else "")


def _conv(node: Node) -> str:
    op = node.op
    assert isinstance(op, Conv)
    text = _window("conv", op.kernel_size, op.stride, op.padding)
    if op.dilation != (1, 1):
        text += f", dilation {_value(op.dilation if len(set(op.dilation)) > 1 else op.dilation[0])}"
    return text + (f", {op.groups} groups" if op.groups > 1 else "")


def _pool(node: Node) -> str:
    op = node.op
    assert isinstance(op, (MaxPool, AvgPool))
    word = "max" if isinstance(op, MaxPool) else "average"
    return _window(word, op.kernel_size, op.steps, op.padding) + (", ceil" if op.ceil_mode else "")


def _adaptive_pool(node: Node) -> str:
    op = node.op
    assert isinstance(op, AdaptiveAvgPool)
    return "global average" if op.output_size == (1, 1) else f"average to {_value(op.output_size)}"


def _linear(node: Node) -> str:
    ((features,),) = node.input_shapes
    return f"linear {features} → {node.shape[0]}"


def _lrn(node: Node) -> str:
    op = node.op
    assert isinstance(op, Lrn)
    across = op.region == "across_channels"
    return f"LRN {op.size} channels" if across else f"LRN {op.size}×{op.size} pixels"


def _add(node: Node) -> str:
    return f"sum of {len(node.inputs)}"


def _concat(node: Node) -> str:
    if len(node.inputs) > _MOST_LISTED:
        return f"concat of {len(node.inputs)}"
    return "concat " + " + ".join(str(shape[0]) for shape in node.input_shapes)


def _flatten(node: Node) -> str:
    return f"flatten to {math.prod(node.shape)}"


def _dropout(node: Node) -> str:
    op = node.op
    assert isinstance(op, Dropout)
    return f"dropout {op.p:g}"


def _word(word: str) -> Callable[[Node], str]:
    return lambda _: word


_ROWS: dict[type[Op], tuple[Family, Callable[[Node], str]]] = {
    Conv: ("convolution", _conv),
    Linear: ("fully connected", _linear),
    MaxPool: ("pooling", _pool),
    AvgPool: ("pooling", _pool),
    AdaptiveAvgPool: ("pooling", _adaptive_pool),
    Lrn: ("normalisation", _lrn),
    BatchNorm: ("normalisation", _word("batch norm")),
    Relu: ("activation", _word("ReLU")),
    Tanh: ("activation", _word("tanh")),
    Sigmoid: ("activation", _word("sigmoid")),
    Softmax: ("activation", _word("softmax")),
    Dropout: ("dropout", _dropout),
    Add: ("joining", _add),
    Concat: ("joining", _concat),
    Flatten: ("reshaping", _flatten),
}
