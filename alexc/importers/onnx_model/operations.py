"""What each of ONNX's ops is in the spec language: `OPERATIONS`, a dictionary.

Where ONNX's meaning differs:

    pooling   an average leaves padding out of its divisor unless told; padding that is exactly what
              rounding up would need is written as `ceil_mode`
    LRN       alpha is divided by size
    Softmax   up to opset 12 over all axes from `axis` on; from 13 over `axis` alone
    Gemm      the matrix is (in, out) unless transB says (out, in)
    BatchNormalization  momentum is the old average's weight
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alexc.importers.foreign import Builder, Value
from alexc.importers.onnx_model.model import Array, Model, Node, NotConstantError
from alexc.importers.onnx_model.padding import pad_amounts, pad_value
from alexc.importers.onnx_model.plan import Planned
from alexc.importers.proto import shortest
from alexc.ops.base import Padding, Shape, ShapeFault, format_shape
from alexc.ops.conv import Conv
from alexc.ops.dense import Linear
from alexc.ops.norm import BatchNorm, Lrn
from alexc.ops.pointwise import Dropout, Relu, Sigmoid, Softmax, Tanh
from alexc.ops.pool import AdaptiveAvgPool, AvgPool, MaxPool
from alexc.ops.structure import Add, Concat, Flatten

Sides = tuple[int, int, int, int]  # top, left, bottom, right


class Refused(Exception):  # noqa: N818  (it becomes a Diagnostic, and is no error of the program)
    """This node says what the language can't; the message says what."""


@dataclass(frozen=True, slots=True)
class Step:
    """One layer while it is translated: what a row of `OPERATIONS` reads."""

    builder: Builder
    model: Model
    planned: Planned
    inputs: Sequence[Value | None]
    name: str

    @property
    def node(self) -> Node:
        return self.planned.main

    @property
    def input(self) -> Value | None:
        return self.inputs[0] if self.inputs else None

    @property
    def shape(self) -> Shape | None:
        return self.input.shape if self.input is not None else None

    def add(
        self,
        kind: Any,
        fields: Mapping[str, Any],
        *,
        weights: Mapping[str, Array] | None = None,
        inputs: Sequence[Value | None] | None = None,
        note: str = "",
    ) -> Value:
        return self.builder.add(
            self.planned.node.origin,
            kind,
            fields,
            self.inputs if inputs is None else inputs,
            name=self.name,
            # A layer without weights has them all, which `None` would deny.
            weights=weights or {},
            note=note,
        )

    def same(self, note: str) -> Value | None:
        self.builder.left_out(self.planned.node.origin, note)
        return self.input

    def constant(self, position: int, what: str) -> Array:
        """An input that must be known: a weight, or a size."""
        try:
            return self.model.constant(self.node.input(position))
        except NotConstantError:
            raise Refused(f"its {what} is computed while the net runs") from None

    def image(self) -> tuple[int, int, int] | None:
        """The input's shape if it is an image's; None where a fault lies further up."""
        shape = self.shape
        if shape is None:
            return None
        if len(shape) != 3:
            raise Refused(f"it needs an image and gets {format_shape(shape)}")
        return (shape[0], shape[1], shape[2])


# ---- layers with weights -------------------------------------------------------------------------


def _conv(step: Step) -> Value:
    node = step.node
    weight = step.constant(1, "weight")
    if weight.ndim != 4:
        raise Refused(f"its weight has {weight.ndim} axes, and that of an image's convolution 4")
    kernel = (int(weight.shape[2]), int(weight.shape[3]))
    if (node.integers("kernel_shape") or list(kernel)) != list(kernel):
        raise Refused("its kernel_shape is not that of its weight")
    strides, dilations = _pair(node, "strides", 1), _pair(node, "dilations", 1)
    padding = _all_sides(step, kernel, strides, dilations)
    weights = {"weight": weight}
    bias = _bias(step, weight.shape[0])
    if bias is not None:
        weights["bias"] = bias
    return step.add(
        Conv,
        {
            "out_channels": weight.shape[0],
            "kernel_size": kernel,
            "stride": strides,
            "padding": _named(padding),
            "dilation": dilations,
            "groups": node.integer("group", 1),
            "bias": bias is not None,
        },
        weights=weights,
    )


def _bias(step: Step, outputs: int) -> Array | None:
    """The bias: an input of the node, or what a sum after it adds."""
    if step.planned.product is None:
        return step.constant(2, "bias") if step.node.input(2) else None
    names = [name for name in step.planned.node.inputs if name != step.node.output]
    bias = step.model.constant(names[0])
    if bias.size == 1:
        return np.broadcast_to(bias.reshape(()), (outputs,))
    # (out,) after a product of features, (out, 1, 1) after a convolution
    trailing = (1, 1) if step.node.op == "Conv" else ()
    shape = bias.shape[bias.ndim - 1 - len(trailing) :]
    if shape != (outputs, *trailing) or bias.size != outputs:
        raise Refused(f"what is added to it, {format_shape(bias.shape)}, is no bias")
    return bias.reshape(outputs)


def _gemm(step: Step) -> Value:
    node = step.node
    if node.integer("transA"):
        raise Refused("it turns the images around (transA)")
    matrix = step.constant(1, "weight")
    if matrix.ndim != 2:
        raise Refused(f"its weight has {matrix.ndim} axes")
    weight = matrix if node.integer("transB") else matrix.T
    bias = _gemm_bias(step, weight.shape[0])
    alpha, beta = node.number("alpha", 1.0), node.number("beta", 1.0)
    if alpha != 1:
        weight = weight * np.float32(alpha)
    if bias is not None and beta != 1 and step.planned.product is None:
        bias = bias * np.float32(beta)
    return _linear(step, weight, bias)


def _gemm_bias(step: Step, outputs: int) -> Array | None:
    bias = _bias(step, outputs)
    if bias is None or bias.shape == (outputs,):
        return bias
    if bias.size == 1:
        return np.broadcast_to(bias.reshape(()), (outputs,))
    if bias.size != outputs or bias.shape[-1] != outputs:
        raise Refused(f"its bias is {format_shape(bias.shape)}")
    return bias.reshape(outputs)


def _mat_mul(step: Step) -> Value:
    if step.planned.rows is not None:
        return _adaptive_pool(step, step.planned.rows)
    if not step.model.is_constant(step.node.input(1)):
        raise Refused("it multiplies what is computed with what is computed")
    matrix = step.constant(1, "weight")
    if matrix.ndim != 2:
        raise Refused(f"its weight has {matrix.ndim} axes")
    return _linear(step, matrix.T, _bias(step, int(matrix.shape[1])))


def _linear(step: Step, weight: Array, bias: Array | None) -> Value:
    weights = {"weight": weight}
    if bias is not None:
        weights["bias"] = bias
    fields = {"out_features": int(weight.shape[0]), "bias": bias is not None}
    return step.add(Linear, fields, weights=weights)


def _adaptive_pool(step: Step, rows: Node) -> Value:
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


def _batch_norm(step: Step) -> Value:
    node = step.node
    if node.integer("spatial", 1) != 1:
        raise Refused("spatial=0, one average a pixel, can't be said")
    if node.integer("training_mode", 0):
        raise Refused("it is in training mode")
    names = ("weight", "bias", "running_mean", "running_var")
    weights = {name: step.constant(i + 1, name) for i, name in enumerate(names)}
    own = (f"{node.output}.ones", f"{node.output}.zeros")
    affine = (node.input(1), node.input(2)) != own  # as alexc writes it
    if not affine:
        del weights["weight"], weights["bias"]
    return step.add(
        BatchNorm,
        {
            "eps": node.number("epsilon", 1e-5),
            "momentum": round(1 - node.number("momentum", 0.9), 7),
            "affine": affine,
        },
        weights=weights,
    )


# ---- pooling -------------------------------------------------------------------------------------


def _max_pool(step: Step) -> Value:
    node = step.node
    if len(node.outputs) > 1 and node.outputs[1] in step.model.readers:
        raise Refused("somebody reads where its maxima lie")
    return _pool(step, MaxPool, {})


def _average_pool(step: Step) -> Value:
    return _pool(step, AvgPool, {"count_include_pad": bool(step.node.integer("count_include_pad"))})


def _pool(step: Step, kind: type[MaxPool | AvgPool], extra: dict[str, Any]) -> Value:
    node = step.node
    kernel = tuple(node.integers("kernel_shape") or ())
    if len(kernel) != 2:
        raise Refused(f"its kernel_shape has {len(kernel)} axes, and an image's 2")
    strides = _pair(node, "strides", 1)
    if _pair(node, "dilations", 1) != (1, 1):
        raise Refused("pooling with gaps (dilations) can't be said")
    padding = _all_sides(step, (kernel[0], kernel[1]), strides, (1, 1))
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
        fields["padding"] = _named(padding)
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


def _global_average(step: Step) -> Value:
    return step.add(AdaptiveAvgPool, {"output_size": 1})


def _global_max(step: Step) -> Value:
    shape = step.image() or (1, 1, 1)
    return step.add(MaxPool, {"kernel_size": shape[1:]})


def _reduce_mean(step: Step) -> Value:
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


# ---- normalisation and the rest ------------------------------------------------------------------


def _lrn(step: Step) -> Value:
    node = step.node
    return step.add(
        Lrn,
        {
            "size": node.integer("size"),
            "alpha": node.number("alpha", 1e-4),
            "beta": node.number("beta", 0.75),
            "k": node.number("bias", 1.0),
            "alpha_per": "window",
        },
    )


def _response(step: Step) -> Value:
    found = step.planned.response
    if found is None:
        raise Refused("it can be said only where it is the end of an LRN")
    if found.channels is not None and step.shape is not None and found.channels != step.shape[0]:
        raise Refused(f"its band is for {found.channels} channels")
    if found.lifted and step.shape is not None:
        _must_lift_channels(step, found.lifted, step.shape)
    fields: dict[str, Any] = {
        "size": found.size,
        "alpha": found.alpha,
        "beta": found.beta,
        "k": found.k,
        "alpha_per": "window",
    }
    if found.within:
        fields["region"] = "within_channel"
    return step.add(Lrn, fields, note="written out in single steps there")


def _must_lift_channels(step: Step, lifted: str, shape: Shape) -> None:
    """The average must run over channels: the axes before it are (N, 1, C, …)."""
    node = step.model.producers[lifted]
    try:
        if node.op == "Unsqueeze":
            axes = node.integers("axes") or step.model.constant(node.input(1)).reshape(-1).tolist()
            fits = list(axes) == [1]
        else:
            fits = all(
                _is_shape(wanted, (batch, 1, *shape))
                or _is_shape(wanted, (batch, 1, shape[0], math.prod(shape[1:])))
                for batch, wanted in step.model.shapes_of(node.input(1))
            )
    except NotConstantError:
        fits = False
    if not fits:
        raise Refused("it resembles LRN, but not over channels")


def _is_shape(wanted: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether a Reshape to `wanted` gives `shape`: 0 keeps an axis, one -1 is what is left."""
    if len(wanted) != len(shape) or wanted.count(-1) > 1:
        return False
    first = wanted[0] in (-1, 0, shape[0])
    return first and all(n in (-1, m) for n, m in zip(wanted[1:], shape[1:], strict=True))


def _softmax(step: Step) -> Value:
    shape = step.shape
    newest = step.model.opset >= 13
    axis = step.node.integer("axis", -1 if newest else 1)
    if shape is not None:
        axis = axis % (1 + len(shape)) if -1 - len(shape) <= axis <= len(shape) else -9
        whole = len(shape) == 1 or math.prod(shape[1:]) == 1
        if axis != 1 or not (newest or whole):
            raise Refused("a softmax goes over channels or features")
    return step.add(Softmax, {})


def _dropout(step: Step) -> Value:
    node = step.node
    if len(node.outputs) > 1 and node.outputs[1] in step.model.readers:
        raise Refused("somebody reads its mask")
    if step.model.opset >= 12:
        ratio = 0.5
        if node.input(1):
            ratio = shortest(float(step.constant(1, "ratio").reshape(-1)[0]))
        if node.input(2) and bool(step.constant(2, "training_mode").any()):
            raise Refused("it is in training mode")
    else:
        ratio = node.number("ratio", 0.5)
    return step.add(Dropout, {"p": ratio})


def _add(step: Step) -> Value | None:
    node = step.node
    if len(step.inputs) != len(node.inputs):
        raise Refused("a sum with a constant can't be said, unless it is a bias")
    if len(step.inputs) == 1:
        return step.same("of one input, which it passes on")
    return step.add(Add, {})


def _concat(step: Step) -> Value | None:
    if len(step.inputs) != len(step.node.inputs):
        raise Refused("a constant can't be joined to what is computed")
    rank = 4 if step.shape is None else 1 + len(step.shape)
    if step.node.integer("axis", 1) not in (1, 1 - rank):
        raise Refused("only channels, axis 1, can be joined")
    if len(step.inputs) == 1:
        return step.same("of one input, which it passes on")
    return step.add(Concat, {})


def _flatten(step: Step) -> Value | None:
    shape = step.shape
    axis = step.node.integer("axis", 1)
    if axis != 1 and (shape is None or axis != -len(shape)):
        raise Refused("only the whole image can be flattened")
    return step.add(Flatten, {})


def _reshape(step: Step) -> Value | None:
    """Of all reshapes the language has one: every number of an image in a row."""
    shape = step.shape
    if shape is None:
        return step.add(Flatten, {})
    total = math.prod(shape)
    try:
        if step.node.integers("shape") is not None:
            wanted = [(0, tuple(step.node.integers("shape") or ()))]
        else:
            wanted = step.model.shapes_of(step.node.input(1))
    except NotConstantError:
        raise Refused("what it reshapes to is computed while the net runs") from None
    if all(_is_flat(batch, sizes, total) for batch, sizes in wanted):
        return step.add(Flatten, {})
    sizes = "×".join(map(str, wanted[0][1]))
    raise Refused(f"only a reshape to {total} features, a flatten, can be said, not one to {sizes}")


def _is_flat(batch: int, sizes: tuple[int, ...], total: int) -> bool:
    if len(sizes) != 2:
        return False
    first, second = sizes
    if first == -1:
        return second == total
    return first in (0, batch) and second in (total, -1)


def _squeeze(step: Step) -> Value | None:
    node, shape = step.node, step.shape
    axes = node.integers("axes")
    if axes is None and node.input(1):
        axes = [int(n) for n in step.constant(1, "list of axes").reshape(-1)]
    pixels = sorted(axis % 4 for axis in axes or [2, 3]) == [2, 3]
    if pixels and shape is not None and len(shape) == 3 and shape[1:] == (1, 1):
        return step.add(Flatten, {})
    raise Refused("only the pixels' axes of a 1×1 image can be taken away")


def _same(note: str) -> Callable[[Step], Value | None]:
    return lambda step: step.same(note)


def _cast(step: Step) -> Value | None:
    if step.node.integer("to") not in (1, 10, 11, 16):
        raise Refused("numbers are not turned into whole ones in a net")
    return step.same("changes the precision only, which is said when a bundle is built")


def _pointwise(kind: Any) -> Callable[[Step], Value | None]:
    return lambda step: step.add(kind, {})


OPERATIONS: dict[str, Callable[[Step], Value | None]] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _mat_mul,
    "BatchNormalization": _batch_norm,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global_average,
    "GlobalMaxPool": _global_max,
    "ReduceMean": _reduce_mean,
    "LRN": _lrn,
    "Div": _response,
    "Mul": _response,
    "Relu": _pointwise(Relu),
    "Tanh": _pointwise(Tanh),
    "Sigmoid": _pointwise(Sigmoid),
    "Softmax": _softmax,
    "Dropout": _dropout,
    "Add": _add,
    "Sum": _add,
    "Concat": _concat,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Identity": _same("changes nothing"),
    "Cast": _cast,
}


# ---- fields that several ops have ----------------------------------------------------------------


def _pair(node: Node, name: str, default: int) -> tuple[int, int]:
    values = node.integers(name)
    if values is None:
        return (default, default)
    if len(values) != 2:
        raise Refused(f"its {name} are given for {len(values)} axes, and an image has 2")
    return (values[0], values[1])


def _all_sides(
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


def _named(sides: Sides) -> dict[str, int]:
    return dict(zip(("top", "left", "bottom", "right"), sides, strict=True))
