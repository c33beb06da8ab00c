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
from collections.abc import Callable
from typing import Any

import numpy as np

from alexc.importers.builder import Value
from alexc.importers.onnx_model.evaluation import NotConstantError
from alexc.importers.onnx_model.pooling import (
    adaptive_pool,
    all_sides,
    average_pool,
    global_average,
    global_max,
    max_pool,
    named,
    reduce_mean,
)
from alexc.importers.onnx_model.step import Refused, Step, pair
from alexc.importers.onnx_model.tensors import Array
from alexc.importers.proto import shortest
from alexc.ops.base import Shape, format_shape
from alexc.ops.conv import Conv
from alexc.ops.dense import Linear
from alexc.ops.norm import BatchNorm, Lrn
from alexc.ops.pointwise import Dropout, Relu, Sigmoid, Softmax, Tanh
from alexc.ops.structure import Add, Concat, Flatten

# ---- layers with weights -------------------------------------------------------------------------


def _conv(step: Step) -> Value:
    node = step.node
    weight = step.constant(1, "weight")
    if weight.ndim != 4:
        raise Refused(f"its weight has {weight.ndim} axes, and that of an image's convolution 4")
    kernel = (int(weight.shape[2]), int(weight.shape[3]))
    if (node.integers("kernel_shape") or list(kernel)) != list(kernel):
        raise Refused("its kernel_shape is not that of its weight")
    strides, dilations = pair(node, "strides", 1), pair(node, "dilations", 1)
    padding = all_sides(step, kernel, strides, dilations)
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
            "padding": named(padding),
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
        return adaptive_pool(step, step.planned.rows)
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
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "GlobalAveragePool": global_average,
    "GlobalMaxPool": global_max,
    "ReduceMean": reduce_mean,
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
