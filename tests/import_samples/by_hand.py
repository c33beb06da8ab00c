"""Layers as their tools describe them, computed with loops: what imported nets are held against.

Images are (batch, channels, height, width). Sizes are rounded up in pools, as Caffe and
cuda-convnet do, and down in convolutions.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def convolve(
    x: Array,
    w: Array,
    b: Array | None,
    *,
    stride: int = 1,
    pad: tuple[int, int] = (0, 0),
    group: int = 1,
    dilation: int = 1,
) -> Array:
    n, c, _, _ = x.shape
    x = np.pad(x, [(0, 0), (0, 0), (pad[0],) * 2, (pad[1],) * 2])
    out, per_group, kh, kw = w.shape
    rows = (x.shape[2] - dilation * (kh - 1) - 1) // stride + 1
    columns = (x.shape[3] - dilation * (kw - 1) - 1) // stride + 1
    y = np.zeros((n, out, rows, columns))
    for o in range(out):
        first = o // (out // group) * (c // group)
        for i, j in np.ndindex(rows, columns):
            window = x[
                :,
                first : first + per_group,
                i * stride : i * stride + dilation * (kh - 1) + 1 : dilation,
                j * stride : j * stride + dilation * (kw - 1) + 1 : dilation,
            ]
            y[:, o, i, j] = (window * w[o]).sum(axis=(1, 2, 3)) + (0 if b is None else b[o])
    return y


def pool(x: Array, kernel: int, stride: int, pad: int, *, average: bool) -> Array:
    n, c, height, width = x.shape
    sizes = []
    for size in (height, width):
        count = math.ceil((size + 2 * pad - kernel) / stride) + 1
        if pad and (count - 1) * stride >= size + pad:
            count -= 1
        sizes.append(count)
    y = np.zeros((n, c, *sizes))
    for i, j in np.ndindex(*sizes):
        top, left = i * stride - pad, j * stride - pad
        # The divisor counts the padding, cut at its far edge; the sum only what is in the image.
        bottom, right = min(top + kernel, height + pad), min(left + kernel, width + pad)
        count = (bottom - top) * (right - left)
        window = x[:, :, max(top, 0) : min(bottom, height), max(left, 0) : min(right, width)]
        y[:, :, i, j] = window.sum((2, 3)) / count if average else window.max((2, 3))
    return y


def lrn_across(x: Array, size: int, alpha: float, beta: float, k: float) -> Array:
    y = np.zeros_like(x)
    for c in range(x.shape[1]):
        around = x[:, max(0, c - size // 2) : c + size // 2 + 1]
        y[:, c] = x[:, c] / (k + alpha / size * (around**2).sum(1)) ** beta
    return y


def lrn_within(x: Array, size: int, alpha: float, beta: float) -> Array:
    return x * (1 + alpha * pool(x**2, size, 1, size // 2, average=True)) ** -beta


def softmax(x: Array) -> Array:
    powers = np.exp(x)
    shares: Array = powers / powers.sum(axis=1, keepdims=True)
    return shares


def drawn(seed: int, *shapes: tuple[int, ...]) -> list[Array]:
    chance = np.random.default_rng(seed)
    return [chance.normal(size=shape).astype(np.float32) for shape in shapes]
