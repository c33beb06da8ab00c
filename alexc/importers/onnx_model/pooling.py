"""Pools of ONNX, and the padding of windows: its own, that of a Pad before it, and automatic.

An average leaves padding out of its divisor unless told; padding that is exactly what rounding up
would need is written as `ceil_mode`, and a pool of the whole image as an adaptive one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from alexc.importers.builder import Value
from alexc.importers.onnx_model.evaluation import NotConstantError
from alexc.importers.onnx_model.node import Node
from alexc.importers.onnx_model.padding import pad_amounts, pad_value
from alexc.importers.onnx_model.step import Refused, Step, pair
from alexc.importers.onnx_model.tensors import Array
from alexc.ops.base import Padding, Shape, ShapeFault
from alexc.ops.pool import AdaptiveAvgPool, AvgPool, MaxPool

Sides = tuple[int, int, int, int]  # top, left, bottom, right


def max_pool(step: Step) -> Value:
    """A MaxPool, of whose two results only the maxima are read."""
    node = step.node
    if len(node.outputs) > 1 and node.outputs[1] in step.model.readers:
        raise Refused("somebody reads where its maxima lie")
    return _pool(step, MaxPool, {})


def average_pool(step: Step) -> Value:
    """An AveragePool."""
    return _pool(step, AvgPool, {"count_include_pad": bool(step.node.integer("count_include_pad"))})


def _pool(step: Step, kind: type[MaxPool | AvgPool], extra: dict[str, Any]) -> Value:
    node = step.node
    kernel = tuple(node.integers("kernel_shape") or ())
    if len(kernel) != 2:
        raise Refused(f"its kernel_shape has {len(kernel)} axes, and an image's 2")
    strides = pair(node, "strides", 1)
    if pair(node, "dilations", 1) != (1, 1):
        raise Refused("pooling with gaps (dilations) can't be said")
    padding = all_sides(step, (kernel[0], kernel[1]), strides, (1, 1))
    shape = step.image()
    padded = step.planned.pad is not None
    if kind is AvgPool and not any(padding):
        if shape is not None and kernel == shape[1:] and not node.integer("ceil_mode"):
            return step.add(AdaptiveAvgPool, {"output_size": 1})
        if kernel == strides == (1, 1) and shape is not None:
            return step.add(AdaptiveAvgPool, {"output_size": shape[1:]})
    fields: dict[str, Any] = {"kernel_size": kernel}
    if strides != kernel:
        fields["stride"] = strides
    ceil = bool(node.integer("ceil_mode"))
    symmetric = (padding[0], padding[1], padding[0], padding[1])
    if kind is AvgPool and padded:
        # Its own pads, which don't count, are what hangs over; those of the Pad do count.
        own = _own_sides(step)
        inner = _pad_sides(step)
        if any(own) and not extra["count_include_pad"]:
            if not _hangs_over(shape, kernel, strides, inner, padding):
                raise Refused("padding that counts beside padding that doesn't can't be said")
            padding, ceil = inner, True
        extra = {"count_include_pad": True}
    elif (
        shape is not None
        and padding != symmetric
        and not ceil
        and (kind is MaxPool or not extra["count_include_pad"])
        and _hangs_over(shape, kernel, strides, symmetric, padding)
    ):
        padding, ceil = symmetric, True
    if ceil and _ceil_matters(shape, kernel, strides, padding):
        fields["ceil_mode"] = True
    if any(padding):
        fields["padding"] = named(padding)
        fields |= extra  # without padding both ways to count are the same
    return step.add(kind, fields)


def _hangs_over(
    shape: Shape | None,
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    inner: Sides,
    outer: Sides,
) -> bool:
    """Whether `outer` is `inner` and exactly what rounding up would let hang over."""
    axes = _axes(shape, kernel, strides, inner, ceil=True)
    if axes is None:
        return False
    return outer == (
        inner[0], inner[1], inner[2] + axes[0].overhang, inner[3] + axes[1].overhang
    )  # fmt: skip


def _ceil_matters(
    shape: Shape | None, kernel: tuple[int, ...], strides: tuple[int, ...], sides: Sides
) -> bool:
    down = _axes(shape, kernel, strides, sides, ceil=False)
    up = _axes(shape, kernel, strides, sides, ceil=True)
    if down is None or up is None:
        return True
    return [axis.count for axis in down] != [axis.count for axis in up]


def _axes(
    shape: Shape | None,
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    sides: Sides,
    *,
    ceil: bool,
) -> Any:
    """Rows and columns under such windows, or None where they don't fit."""
    if shape is None or min(*kernel, *strides) < 1 or min(sides) < 0:
        return None
    if max(*kernel, *strides, *sides) >= 2**31:
        return None
    op = MaxPool(
        kernel_size=(kernel[0], kernel[1]),
        stride=(strides[0], strides[1]),
        padding=Padding(top=sides[0], left=sides[1], bottom=sides[2], right=sides[3]),
        ceil_mode=ceil,
    )
    try:
        return op.axes(shape)
    except ShapeFault:
        return None


def global_average(step: Step) -> Value:
    """A GlobalAveragePool."""
    return step.add(AdaptiveAvgPool, {"output_size": 1})


def global_max(step: Step) -> Value:
    """A GlobalMaxPool: a window as large as the image."""
    shape = step.image() or (1, 1, 1)
    return step.add(MaxPool, {"kernel_size": shape[1:]})


def reduce_mean(step: Step) -> Value:
    """A ReduceMean over all pixels, which may also drop their axes."""
    node = step.node
    axes = node.integers("axes")
    if axes is None and node.input(1):
        axes = [int(n) for n in step.constant(1, "list of axes").reshape(-1)]
    if sorted(axis % 4 for axis in axes or []) != [2, 3]:
        raise Refused("only an average over all of the image's pixels can be said")
    pooled = step.add(AdaptiveAvgPool, {"output_size": 1})
    if node.integer("keepdims", 1):
        return pooled
    return step.builder.flat(pooled, step.planned.node.origin) or pooled


def adaptive_pool(step: Step, rows: Node) -> Value:
    """Two products with matrices that average: how alexc writes bins that differ in size."""
    shape = step.image()
    if shape is None:
        return step.add(AdaptiveAvgPool, {"output_size": 1})
    down = step.model.constant(rows.input(0))
    across = step.constant(1, "matrix").T
    answers = step.model.answers
    for name, matrix, size in (
        (rows.input(0), down, shape[1]),
        (step.node.input(1), across, shape[2]),
    ):
        if (name, str(size)) not in answers:
            answers[name, str(size)] = _is_averaging(matrix, size)
    if not answers[rows.input(0), str(shape[1])] or not answers[step.node.input(1), str(shape[2])]:
        raise Refused("products of a constant with an image can't be said")
    return step.add(AdaptiveAvgPool, {"output_size": (len(down), len(across))})


def _is_averaging(matrix: Array, size: int) -> bool:
    """Whether a (bins, size) matrix averages the bins of an adaptive pool over so many pixels."""
    if matrix.ndim != 2 or matrix.shape[1] != size or not 0 < len(matrix) <= 1024:
        return False
    wanted = np.zeros_like(matrix)
    for i in range(len(matrix)):
        first, last = i * size // len(matrix), -(-(i + 1) * size // len(matrix))
        wanted[i, first:last] = 1 / (last - first)
    return bool(np.allclose(matrix, wanted, rtol=1e-6, atol=0))


# ---- padding -------------------------------------------------------------------------------------


def all_sides(
    step: Step, kernel: tuple[int, int], strides: tuple[int, int], dilations: tuple[int, int]
) -> Sides:
    """Padding on every side: the node's own, and that of the Pad before it."""
    own = (
        _own_sides(step) if not _automatic(step) else _auto_sides(step, kernel, strides, dilations)
    )
    inner = _pad_sides(step)
    return (own[0] + inner[0], own[1] + inner[1], own[2] + inner[2], own[3] + inner[3])


def _automatic(step: Step) -> bool:
    return step.node.text("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER")


def _own_sides(step: Step) -> Sides:
    if step.node.text("auto_pad", "NOTSET") not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise Refused(f"auto_pad {step.node.text('auto_pad', '')} is unknown")
    pads = step.node.integers("pads") or [0, 0, 0, 0]
    if step.node.text("auto_pad", "NOTSET") == "VALID":
        pads = [0, 0, 0, 0]
    if len(pads) != 4:
        raise Refused(f"it has {len(pads)} pads, and an image 4")
    return (pads[0], pads[1], pads[2], pads[3])


def _auto_sides(
    step: Step, kernel: tuple[int, int], strides: tuple[int, int], dilations: tuple[int, int]
) -> Sides:
    """As many pixels as give ⌈size / stride⌉ windows; an odd one goes after, or before."""
    if step.planned.pad is not None:
        raise Refused("auto_pad after a Pad can't be said")
    shape = step.image()
    if shape is None or min(*strides) < 1:
        return (0, 0, 0, 0)
    before, after = [], []
    for size, k, stride, dilation in zip(shape[1:], kernel, strides, dilations, strict=True):
        total = max(0, (-(-size // stride) - 1) * stride + dilation * (k - 1) + 1 - size)
        small, large = total // 2, total - total // 2
        upper = step.node.text("auto_pad", "") == "SAME_UPPER"
        before.append(small if upper else large)
        after.append(large if upper else small)
    return (before[0], before[1], after[0], after[1])


def _pad_sides(step: Step) -> Sides:
    """What the Pad before the node adds around the image."""
    pad = step.planned.pad
    if pad is None:
        return (0, 0, 0, 0)
    try:
        amounts, value = pad_amounts(step.model, pad), pad_value(step.model, pad)
    except NotConstantError:
        raise Refused("the padding before it is not one of a constant amount") from None
    if len(amounts) != 8 or any(amounts[i] for i in (0, 1, 4, 5)):
        raise Refused("the padding before it is not only around the image")
    if min(amounts) < 0:
        raise Refused("the padding before it cuts pixels off")
    if step.node.op == "MaxPool" and any(amounts):
        lowest = value <= float(np.finfo(np.float32).min)
        zeros = value == 0 and step.input is not None and step.input.non_negative
        if not (lowest or zeros):
            raise Refused(f"the padding before it is of {value:g}, which may be a maximum")
    elif value != 0 and any(amounts):
        raise Refused(f"the padding before it is of {value:g} and not of zeros")
    return (amounts[2], amounts[3], amounts[6], amounts[7])


def named(sides: Sides) -> dict[str, int]:
    """Padding as the language has it, by the names of the sides."""
    return dict(zip(("top", "left", "bottom", "right"), sides, strict=True))
