"""Local response normalisation in ONNX: its own node, and other nodes of the same function.

The forms are chosen by a pass (`passes.lrn_form`), for engines that are faster with them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from alexc.lower.onnx_layer import Layer
from alexc.ops.norm import Lrn


def write_lrn(layer: Layer[Lrn]) -> None:
    """By ONNX's own node where the graph wants no other form, and where the node can say it."""
    op = layer.op
    if op.region == "within_channel":
        _within_channel(layer)
        return
    if (form := layer.writer.graph.forms.get(layer.node.name)) is not None:
        base = _base_banded(layer) if form == "banded" else _base_windowed(layer)
        layer.emit("Div", [layer.x(), _raised(layer, base, op.beta)])
        return
    # ONNX divides its alpha by size.
    fields: dict[str, Any] = {"size": op.size, "alpha": op.alpha_per_window, "beta": op.beta}
    if op.k.is_integer():
        layer.emit("LRN", [layer.x()], bias=op.k, **fields)
        return
    # OpenVINO (2026.4) cuts k down to a whole number. With k taken out of the bracket,
    # a / (k + A·Σ)^β = k^−β · a / (1 + (A / k)·Σ)^β, there is no other than 1.
    fields["alpha"] /= op.k
    unscaled = layer.step("unscaled", layer.node.shape, "LRN", [layer.x()], bias=1.0, **fields)
    layer.emit("Mul", [unscaled, layer.number("scale", op.k**-op.beta)])


def _base_banded(layer: Layer[Lrn]) -> str:
    """k + A · Σ a² as a 1×1 convolution of the squares.

    Its weight (channel, neighbour) is A where they are at most size // 2 apart, and 0 elsewhere.
    """
    channels = layer.node.shape[0]
    apart = np.abs(np.subtract.outer(np.arange(channels), np.arange(channels)))
    band = np.where(apart <= layer.op.size // 2, layer.op.alpha_per_element, 0.0)
    square = layer.step("square", layer.node.shape, "Mul", [layer.x(), layer.x()])
    weight = layer.constant("band", band.astype(np.float32)[:, :, np.newaxis, np.newaxis])
    bias = layer.constant("k", np.full(channels, layer.op.k, np.float32))
    return layer.step("base", layer.node.shape, "Conv", [square, weight, bias], kernel_shape=[1, 1])


def _base_windowed(layer: Layer[Lrn]) -> str:
    """k + A · Σ a² from the average over a window of channels, which are taken for an image's rows.

    Beyond the first and the last channel are zeros, which count in the average.
    """
    channels, height, width = shape = layer.node.shape
    reach = layer.op.size // 2
    square = layer.step("square", shape, "Mul", [layer.x(), layer.x()])
    rows = (1, channels, height * width)
    as_rows = layer.constant("as_rows", np.array([0, *rows], np.int64))
    column = layer.step("rows", rows, "Reshape", [square, as_rows])
    mean = layer.step(
        "mean",
        rows,
        "AveragePool",
        [column],
        kernel_shape=[layer.op.size, 1],
        pads=[reach, 0, reach, 0],
        count_include_pad=1,
    )
    as_channels = layer.constant("as_channels", np.array([0, *shape], np.int64))
    window = layer.step("window", shape, "Reshape", [mean, as_channels])
    alpha = layer.number("alpha", layer.op.alpha_per_window)
    scaled = layer.step("scaled", shape, "Mul", [window, alpha])
    return layer.step("base", shape, "Add", [scaled, layer.number("k", layer.op.k)])


def _raised(layer: Layer[Lrn], base: str, exponent: float) -> str:
    """The tensor `base` raised to `exponent`: by roots where they give it, since a power costs more
    than all the rest. d^¾ = √d · √√d."""
    shape = layer.node.shape
    if exponent == 1.0:
        return base
    if exponent not in (0.5, 0.75):
        return layer.step("power", shape, "Pow", [base, layer.number("beta", exponent)])
    root = layer.step("root", shape, "Sqrt", [base])
    if exponent == 0.5:
        return root
    fourth = layer.step("fourth_root", shape, "Sqrt", [root])
    return layer.step("power", shape, "Mul", [root, fourth])


def _within_channel(layer: Layer[Lrn]) -> None:
    """ONNX has no such op: x / (k + alpha · mean of squares)^beta, node by node."""
    shape = layer.node.shape
    window: dict[str, Any] = {"kernel_shape": [layer.op.size] * 2, "pads": [layer.op.size // 2] * 4}
    square = layer.step("square", shape, "Mul", [layer.x(), layer.x()])
    mean = layer.step("mean", shape, "AveragePool", [square], count_include_pad=1, **window)
    alpha = layer.number("alpha", layer.op.alpha_per_window)
    scaled = layer.step("scaled", shape, "Mul", [mean, alpha])
    base = layer.step("base", shape, "Add", [scaled, layer.number("k", layer.op.k)])
    power = layer.step("power", shape, "Pow", [base, layer.number("beta", layer.op.beta)])
    layer.emit("Div", [layer.x(), power])
