"""What each type of Caffe's layers is in the spec language: `OPERATIONS`, a dictionary.

Where Caffe's meaning differs from its name:

    pooling       sizes are rounded up (`ceil_mode`, said only where it matters); an average counts
                  padding, but not what hangs over its edge
    LRN           alpha is divided by the size of the window; within a channel, k is always 1
    BatchNorm     three blobs: mean, variance, and a number that both are to be divided by; the
                  learned factor and offset are a Scale layer of their own, merged here
    InnerProduct  takes an image as it is, so a flatten is put before it
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexc.importers.builder import Value
from alexc.importers.caffe.fillers import init_of
from alexc.importers.caffe.layer import CaffeLayer
from alexc.importers.caffe.step import Step, pair
from alexc.ops.base import Padding, ShapeFault, format_shape
from alexc.ops.conv import Conv
from alexc.ops.dense import Linear
from alexc.ops.norm import BatchNorm, Lrn
from alexc.ops.pointwise import Dropout, Relu, Sigmoid, Softmax, Tanh
from alexc.ops.pool import AdaptiveAvgPool, AvgPool, MaxPool
from alexc.ops.structure import Add, Concat, Flatten

# ---- layers with weights -------------------------------------------------------------------------


def _convolution(step: Step) -> Value | None:
    fields = step.parameters("convolution_param")
    if fields.integer("axis", 1) not in (1, -3):
        step.refuse("channels are axis 1", fields, "axis")
    kernel = pair(step, fields, "kernel_size", "kernel_h", "kernel_w", None)
    stride = pair(step, fields, "stride", "stride_h", "stride_w", 1)
    pad = pair(step, fields, "pad", "pad_h", "pad_w", 0)
    dilation = pair(step, fields, "dilation", "", "", 1)
    if not fields.has("num_output"):
        step.refuse("it says no num_output", fields)
        return None
    if kernel is None or stride is None or pad is None or dilation is None:
        return None
    bias = fields.flag("bias_term", True)
    groups = fields.integer("group", 1)
    outputs = fields.integer("num_output", 1)
    weight_shape = None
    if step.input_shape is not None and groups > 0:
        weight_shape = (outputs, step.input_shape[0] // groups, *kernel)
    return step.add(
        Conv,
        {
            "out_channels": outputs,
            "kernel_size": kernel,
            "stride": stride,
            "padding": list(pad),
            "dilation": dilation,
            "groups": groups,
            "bias": bias,
        },
        weights=step.weights(bias),
        init=init_of(step, fields, bias, weight_shape, groups),
    )


def _inner_product(step: Step) -> Value | None:
    fields = step.parameters("inner_product_param")
    features = step.builder.flat(step.input, step.layer.origin)
    if fields.integer("axis", 1) != 1:
        step.refuse("only axis 1, which takes the whole image, can be said", fields, "axis")
    if not fields.has("num_output"):
        step.refuse("it says no num_output", fields)
        return None
    bias = fields.flag("bias_term", True)
    outputs = fields.integer("num_output", 1)
    weights = step.weights(bias)
    if weights and fields.flag("transpose"):
        matrix = weights["weight"]
        weights["weight"] = matrix.reshape(matrix.shape[-2:]).T
    weight_shape = None
    if features is not None and features.shape is not None:
        weight_shape = (outputs, *features.shape)
    return step.add(
        Linear,
        {"out_features": outputs, "bias": bias},
        inputs=[features],
        weights=weights,
        init=init_of(step, fields, bias, weight_shape, 1),
    )


def _batch_norm(step: Step) -> Value | None:
    fields = step.parameters("batch_norm_param")
    note, scaled = "", None
    if step.scale is not None:
        scaled = step.parameters("scale_param", step.scale)
        note = f"with {step.scale.origin}"
    weights: dict[str, NDArray[Any]] | None = None
    if step.blobs is not None:
        weights = _statistics(step)
        if scaled is not None:
            weights |= _scale_weights(step, scaled.flag("bias_term"))
    fraction = fields.number("moving_average_fraction", 0.999)
    return step.add(
        BatchNorm,
        {
            "eps": fields.number("eps", 1e-5),
            "momentum": round(1 - fraction, 10),  # Caffe states the old average's weight
            "affine": scaled is not None,
        },
        weights=weights,
        note=note,
    )


def _statistics(step: Step) -> dict[str, NDArray[Any]]:
    """Mean and variance, which Caffe keeps as sums beside the number to divide them by."""
    blobs = step.blobs or ()
    if not blobs:
        return {}
    if len(blobs) != 3 or blobs[2].size != 1:
        step.builder.fault(
            "import/weight-shape",
            f"{step.layer.origin}: a BatchNorm has three blobs, the last of one number, "
            f"and here are {len(blobs)}",
            step.layer.place,
        )
        return {}
    factor = float(blobs[2].reshape(-1)[0])
    divisor = 1.0 / factor if factor else 0.0  # Caffe too takes 0 for a net that never was trained
    return {
        name: (blob.astype(np.float64) * divisor).astype(np.float32)
        for name, blob in zip(("running_mean", "running_var"), blobs, strict=False)
    }


def _scale_weights(step: Step, bias: bool) -> dict[str, NDArray[Any]]:
    blobs = step.scale_blobs or ()
    if not blobs:
        return {}
    if len(blobs) != 1 + bias:
        assert step.scale is not None
        step.builder.fault(
            "import/weight-shape",
            f"{step.scale.origin}: there are {len(blobs)} blobs of weights for it, "
            f"and it has {1 + bias}",
            step.scale.place,
        )
        return {}
    return {"weight": blobs[0], "bias": blobs[1] if bias else np.zeros_like(blobs[0])}


def takes_along(norm: CaffeLayer, scale: CaffeLayer) -> bool:
    """Whether a Scale layer that alone reads a BatchNorm is that one's learned part."""
    fields = scale.message.message("scale_param")
    return (
        norm.type == "BatchNorm"
        and scale.type == "Scale"
        and len(scale.bottoms) == 1
        and fields.integer("axis", 1) == 1
        and fields.integer("num_axes", 1) == 1
    )


def _scale(step: Step) -> None:
    step.refuse("a Scale can be said only right after a BatchNorm that nothing else reads")


# ---- pooling and normalisation -------------------------------------------------------------------


def _pooling(step: Step) -> Value | None:
    fields = step.parameters("pooling_param")
    method = fields.text("pool", "MAX")
    if method not in ("MAX", "AVE"):
        step.refuse(f"{method} pooling can't be said: MAX and AVE can", fields, "pool")
        return None
    if fields.flag("global_pooling"):
        return _global_pooling(step, method)
    kernel = pair(step, fields, "kernel_size", "kernel_h", "kernel_w", None)
    stride = pair(step, fields, "stride", "stride_h", "stride_w", 1)
    pad = pair(step, fields, "pad", "pad_h", "pad_w", 0)
    if kernel is None or stride is None or pad is None:
        return None
    kind = MaxPool if method == "MAX" else AvgPool
    described: dict[str, Any] = {"kernel_size": kernel, "padding": list(pad)}
    if stride != kernel:
        described["stride"] = stride
    if fields.text("round_mode", "CEIL") == "CEIL" and _ceil_matters(step, kernel, stride, pad):
        described["ceil_mode"] = True
    return step.add(kind, described)


def _global_pooling(step: Step, method: str) -> Value | None:
    if method == "AVE":
        return step.add(AdaptiveAvgPool, {"output_size": (1, 1)})
    shape = step.input_shape
    if shape is None or len(shape) != 3:
        return step.add(MaxPool, {"kernel_size": (1, 1)})
    return step.add(MaxPool, {"kernel_size": (shape[1], shape[2])})


def _ceil_matters(
    step: Step, kernel: tuple[int, int], stride: tuple[int, int], pad: tuple[int, int]
) -> bool:
    """Whether rounding up gives more windows than rounding down, on this input."""
    shape = step.input_shape
    if shape is None or len(shape) != 3:
        return True
    if min(*kernel, *stride) < 1 or min(pad) < 0 or max(*kernel, *stride, *pad) >= 2**31:
        return True  # the field at fault is told when the op is made
    sides = Padding(top=pad[0], bottom=pad[0], left=pad[1], right=pad[1])
    counts = []
    for ceil in (False, True):
        op = MaxPool(kernel_size=kernel, stride=stride, padding=sides, ceil_mode=ceil)
        try:
            counts.append(tuple(axis.count for axis in op.axes(shape)))
        except ShapeFault:
            return True
    # Caffe drops a last window that starts past the image only where there is padding.
    kept = tuple(
        -(-(size + 2 * p - k) // s) + 1
        for size, k, s, p in zip(shape[1:], kernel, stride, pad, strict=True)
    )
    if not any(pad) and kept != counts[1]:
        step.refuse(
            f"Caffe gives it {format_shape(kept)} windows on {format_shape(shape[1:])} pixels, of "
            "which the last ones see no pixel and have no defined value"
        )
    return counts[0] != counts[1]


def _lrn(step: Step) -> Value | None:
    fields = step.parameters("lrn_param")
    within = fields.text("norm_region", "ACROSS_CHANNELS") == "WITHIN_CHANNEL"
    described = {
        "size": fields.integer("local_size", 5),
        "alpha": fields.number("alpha", 1.0),
        "beta": fields.number("beta", 0.75),
        "k": 1.0 if within else fields.number("k", 1.0),
        "alpha_per": "window",
    }
    note = ""
    if within:
        described["region"] = "within_channel"
        if fields.number("k", 1.0) != 1:
            note = "k is 1 within a channel, whatever the file says"
    return step.add(Lrn, described, note=note)


# ---- the rest ------------------------------------------------------------------------------------


def _relu(step: Step) -> Value | None:
    fields = step.parameters("relu_param")
    if fields.number("negative_slope"):
        step.refuse("a ReLU with a negative_slope can't be said", fields, "negative_slope")
    return step.add(Relu, {})


def _dropout(step: Step) -> Value | None:
    ratio = step.parameters("dropout_param").number("dropout_ratio", 0.5)
    return step.add(Dropout, {"p": ratio})


def _softmax(step: Step) -> Value | None:
    fields = step.parameters("softmax_param")
    if fields.integer("axis", 1) != 1:
        step.refuse("a softmax goes over axis 1", fields, "axis")
    return step.add(Softmax, {})


def _pointwise(kind: Any, parameters: str) -> Callable[[Step], Value | None]:
    def translate(step: Step) -> Value | None:
        step.parameters(parameters)
        return step.add(kind, {})

    return translate


def _eltwise(step: Step) -> Value | None:
    fields = step.parameters("eltwise_param")
    operation = fields.text("operation", "SUM")
    if operation != "SUM":
        step.refuse(f"of Eltwise only SUM can be said, not {operation}", fields, "operation")
    if any(coefficient != 1 for coefficient in fields.numbers("coeff")):
        step.refuse("a sum with coefficients can't be said", fields, "coeff")
    return step.add(Add, {})


def _concat(step: Step) -> Value | None:
    fields = step.parameters("concat_param")
    name = "axis" if fields.has("axis") or not fields.has("concat_dim") else "concat_dim"
    rank = 4 if step.input_shape is None else 1 + len(step.input_shape)
    if fields.integer(name, 1) not in (1, 1 - rank):
        step.refuse("only channels, axis 1, can be joined", fields, name)
    if len(step.inputs) == 1:
        return step.same("of one input, which it passes on")
    return step.add(Concat, {})


def _flatten(step: Step) -> Value | None:
    fields = step.parameters("flatten_param")
    last = 3 if step.input_shape is None else len(step.input_shape)
    if fields.integer("axis", 1) != 1 or fields.integer("end_axis", -1) not in (-1, last):
        step.refuse("only the whole image can be flattened", fields, "axis")
    return step.add(Flatten, {})


def _reshape(step: Step) -> Value | None:
    """Of all reshapes the language has one: every number of an image in a row."""
    fields = step.parameters("reshape_param")
    wanted = fields.message("shape").integers("dim")
    if fields.integer("axis", 0) == 1 and fields.integer("num_axes", -1) == -1:
        wanted = [0, *wanted]
    elif fields.integer("axis", 0) != 0 or fields.integer("num_axes", -1) != -1:
        wanted = []
    shape = step.input_shape
    if shape is None:
        return step.add(Flatten, {})
    total = math.prod(shape)
    if len(wanted) == 2 and wanted[0] in (0, -1) and wanted[1] in (total, -1):
        return step.add(Flatten, {})
    step.refuse(f"only a reshape to {total} features can be said, as a flatten", fields, "shape")
    return None


def _power(step: Step) -> Value | None:
    fields = step.parameters("power_param")
    if (fields.number("power", 1.0), fields.number("scale", 1.0), fields.number("shift")) != (
        1.0,
        1.0,
        0.0,
    ):
        step.refuse("a Power that changes something can't be said")
    return step.same("changes nothing")


OPERATIONS: dict[str, Callable[[Step], Value | None]] = {
    "Convolution": _convolution,
    "InnerProduct": _inner_product,
    "BatchNorm": _batch_norm,
    "Scale": _scale,
    "Pooling": _pooling,
    "LRN": _lrn,
    "ReLU": _relu,
    "TanH": _pointwise(Tanh, "tanh_param"),
    "Sigmoid": _pointwise(Sigmoid, "sigmoid_param"),
    "Softmax": _softmax,
    "Dropout": _dropout,
    "Eltwise": _eltwise,
    "Concat": _concat,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Power": _power,
    "Split": lambda step: step.same("copies its input, which needs no layer"),
}
