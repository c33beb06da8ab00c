"""The float64 references against cases worked by hand, and against the formulas as plain loops.

The references are what every backend is held against, so nothing here asks a backend. The loops
below go from an output number to the input numbers that it is made of, by index, with no padding
and no windows cut out of arrays; they share no code with the references.
"""

# ruff: noqa: ARG001  (the loops have one signature, and not every op has weights)

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from alexc.graph.graph import Graph
from alexc.ops import OPS
from alexc.ops.base import Array, Op
from alexc.ops.conv import Conv
from alexc.ops.dense import Linear
from alexc.ops.norm import BatchNorm, Lrn
from alexc.ops.pointwise import Dropout, Relu, Sigmoid, Softmax, Tanh
from alexc.ops.pool import AdaptiveAvgPool, AvgPool, MaxPool
from alexc.ops.structure import Add, Concat, Flatten
from tests.cases import CASES, Case, reference


def compute(kind: str, values: Any, parameters: Mapping[str, Any] | None = None, **f: Any) -> Array:
    """An op's reference on one input, fields being written as in a spec."""
    arrays = {name: np.array(p, np.float64) for name, p in (parameters or {}).items()}
    return OPS[kind].model_validate(f).reference([np.array(values, np.float64)], arrays)


# ---- the formulas as loops -----------------------------------------------------------------------

Weights = Mapping[str, Array]


def conv(op: Conv, a: Array, p: Weights, shape: tuple[int, ...]) -> Array:
    b = np.zeros(shape)
    reads, writes = a.shape[1] // op.groups, op.out_channels // op.groups
    for n, o, y, x in np.ndindex(*shape):
        for c, i, j in np.ndindex(*p["weight"].shape[1:]):
            row = y * op.stride[0] + i * op.dilation[0] - op.padding.top
            column = x * op.stride[1] + j * op.dilation[1] - op.padding.left
            if 0 <= row < a.shape[2] and 0 <= column < a.shape[3]:
                channel = o // writes * reads + c
                b[n, o, y, x] += p["weight"][o, c, i, j] * a[n, channel, row, column]
        b[n, o, y, x] += p["bias"][o] if op.bias else 0
    return b


def linear(op: Linear, a: Array, p: Weights, shape: tuple[int, ...]) -> Array:
    b = np.zeros(shape)
    for n, o in np.ndindex(*shape):
        b[n, o] = sum(p["weight"][o, i] * a[n, i] for i in range(a.shape[1]))
        b[n, o] += p["bias"][o] if op.bias else 0
    return b


def window(op: MaxPool | AvgPool, y: int, x: int) -> tuple[range, range]:
    """The rows and columns of the image that a window lies over, some of them outside of it."""
    stride = op.stride if op.stride is not None else op.kernel_size
    top, left = y * stride[0] - op.padding.top, x * stride[1] - op.padding.left
    return range(top, top + op.kernel_size[0]), range(left, left + op.kernel_size[1])


def max_pool(op: MaxPool, a: Array, p: Weights, shape: tuple[int, ...]) -> Array:
    b = np.zeros(shape)
    for n, c, y, x in np.ndindex(*shape):
        rows, columns = window(op, y, x)
        seen = [
            a[n, c, row, column]
            for row, column in itertools.product(rows, columns)
            if 0 <= row < a.shape[2] and 0 <= column < a.shape[3]
        ]
        b[n, c, y, x] = max(seen)
    return b


def avg_pool(op: AvgPool, a: Array, p: Weights, shape: tuple[int, ...]) -> Array:
    b = np.zeros(shape)
    height, width = a.shape[2:]
    for n, c, y, x in np.ndindex(*shape):
        total, count = 0.0, 0
        for row, column in itertools.product(*window(op, y, x)):
            in_image = 0 <= row < height and 0 <= column < width
            in_padding = (
                -op.padding.top <= row < height + op.padding.bottom
                and -op.padding.left <= column < width + op.padding.right
            )
            total += a[n, c, row, column] if in_image else 0
            count += in_image or (op.count_include_pad and in_padding)
        b[n, c, y, x] = total / count
    return b


def adaptive_avg_pool(op: AdaptiveAvgPool, a: Array, p: Weights, shape: tuple[int, ...]) -> Array:
    b = np.zeros(shape)
    height, width = a.shape[2:]
    for n, c, y, x in np.ndindex(*shape):
        # A bin takes every pixel that it overlaps, as the bins cut the image into equal parts.
        seen = [
            a[n, c, row, column]
            for row, column in np.ndindex(height, width)
            if row * shape[2] < (y + 1) * height and (row + 1) * shape[2] > y * height
            if column * shape[3] < (x + 1) * width and (column + 1) * shape[3] > x * width
        ]
        b[n, c, y, x] = sum(seen) / len(seen)
    return b


def lrn(op: Lrn, a: Array, p: Weights, shape: tuple[int, ...]) -> Array:
    b = np.zeros(shape)
    reach = (op.size - 1) // 2
    across = op.region == "across_channels"
    elements = op.size if across else op.size * op.size
    weight = {"element": op.alpha, "window": op.alpha / elements}[op.alpha_per]
    for n, c, y, x in np.ndindex(*shape):
        squares: Any = 0.0
        for other, row, column in np.ndindex(*shape[1:]):
            if across:
                near = (row, column) == (y, x) and abs(other - c) <= reach
            else:
                near = other == c and abs(row - y) <= reach and abs(column - x) <= reach
            squares += a[n, other, row, column] ** 2 if near else 0
        b[n, c, y, x] = a[n, c, y, x] / (op.k + weight * squares) ** op.beta
    return b


def batch_norm(op: BatchNorm, a: Array, p: Weights, shape: tuple[int, ...]) -> Array:
    b = np.zeros(shape)
    for index in np.ndindex(*shape):
        c = index[1]
        b[index] = (a[index] - p["running_mean"][c]) / math.sqrt(p["running_var"][c] + op.eps)
        if op.affine:
            b[index] = b[index] * p["weight"][c] + p["bias"][c]
    return b


def softmax(op: Softmax, a: Array, p: Weights, shape: tuple[int, ...]) -> Array:
    b = np.zeros(shape)
    for n, c, *pixel in np.ndindex(*shape):
        total = sum(math.exp(a[n, other, *pixel]) for other in range(shape[1]))
        b[n, c, *pixel] = math.exp(a[n, c, *pixel]) / total
    return b


def flatten(op: Flatten, a: Array, p: Weights, shape: tuple[int, ...]) -> Array:
    return np.array([[image[index] for index in np.ndindex(*image.shape)] for image in a])


def pointwise(function: Callable[[float], float]) -> Callable[..., Array]:
    def loop(op: Op, a: Array, p: Weights, shape: tuple[int, ...]) -> Array:
        return np.array([function(value) for value in a.flat]).reshape(shape)

    return loop


def add(op: Add, *arrays: Any) -> Array:
    *inputs, _, shape = arrays
    return np.array([sum(a[index] for a in inputs) for index in np.ndindex(*shape)]).reshape(shape)


def concat(op: Concat, *arrays: Any) -> Array:
    *inputs, _, shape = arrays
    channels = [(a, c) for a in inputs for c in range(a.shape[1])]
    b = np.zeros(shape)
    for n, c in np.ndindex(*shape[:2]):
        source, channel = channels[c]
        b[n, c] = source[n, channel]
    return b


LOOPS: dict[type[Op], Callable[..., Array]] = {
    Conv: conv,
    Linear: linear,
    MaxPool: max_pool,
    AvgPool: avg_pool,
    AdaptiveAvgPool: adaptive_avg_pool,
    Lrn: lrn,
    BatchNorm: batch_norm,
    Relu: pointwise(lambda value: max(value, 0)),
    Tanh: pointwise(math.tanh),
    Sigmoid: pointwise(lambda value: 1 / (1 + math.exp(-value))),
    Softmax: softmax,
    Dropout: pointwise(lambda value: value),
    Flatten: flatten,
    Add: add,
    Concat: concat,
}


def test_every_op_has_a_loop() -> None:
    assert set(LOOPS) == set(OPS.values())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_reference_is_the_formula(case: Case) -> None:
    inputs = [array.astype(np.float64) for array in case.arrays()]
    parameters = {name: p.astype(np.float64) for name, p in case.parameters().items()}
    result = case.op.reference(inputs, parameters)
    shape = (case.batch, *case.output)
    expected = LOOPS[type(case.op)](case.op, *inputs, parameters, shape)
    assert result.dtype == np.float64
    assert result.shape == shape
    np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_reference_leaves_its_inputs_alone(case: Case) -> None:
    inputs = [array.astype(np.float64) for array in case.arrays()]
    parameters = {name: p.astype(np.float64) for name, p in case.parameters().items()}
    for array in (*inputs, *parameters.values()):
        array.flags.writeable = False
    case.op.reference(inputs, parameters)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_images_do_not_see_each_other(case: Case) -> None:
    inputs = [array.astype(np.float64) for array in case.arrays()]
    parameters = {name: p.astype(np.float64) for name, p in case.parameters().items()}
    together = case.op.reference(inputs, parameters)
    alone = case.op.reference([array[1:2] for array in inputs], parameters)
    np.testing.assert_allclose(together[1:2], alone, rtol=1e-13, atol=1e-14)


# ---- worked by hand ------------------------------------------------------------------------------


def test_convolution_is_a_correlation() -> None:
    """The kernel is not turned around: its first tap meets the window's first pixel."""
    image = [[[[1, 2, 3], [4, 5, 6]]]]
    fields: dict[str, Any] = {"out_channels": 1, "kernel_size": [1, 2], "bias": False}
    result = compute("conv", image, {"weight": [[[[10, 1]]]]}, **fields)
    assert result.tolist() == [[[[12, 23], [45, 56]]]]


def test_a_dilated_convolution_with_one_padded_side() -> None:
    """Taps two apart on 0 1 2 3 4: 0·1 + 2·10, 1·1 + 3·10, 2·1 + 4·10."""
    result = compute(
        "conv",
        [[[[1, 2, 3, 4]]]],
        {"weight": [[[[1, 10]]]], "bias": [0.5]},
        out_channels=1,
        kernel_size=[1, 2],
        dilation=2,
        padding={"left": 1},
    )
    assert result.tolist() == [[[[20.5, 31.5, 42.5]]]]


def test_groups_keep_to_their_channels() -> None:
    """Channels 1 2 | 3 4 and outputs a b | c d: a and b see 1 and 2, c and d see 3 and 4."""
    image = [[[[1]], [[2]], [[3]], [[4]]]]
    weight = [[[[1]], [[10]]], [[[2]], [[20]]], [[[1]], [[10]]], [[[2]], [[20]]]]
    fields: dict[str, Any] = {"out_channels": 4, "kernel_size": 1, "groups": 2, "bias": False}
    result = compute("conv", image, {"weight": weight}, **fields)
    assert result.ravel().tolist() == [21, 42, 43, 86]


def test_linear_by_hand() -> None:
    weight, bias = [[1, 2, 3], [4, 5, 6]], [0.5, -0.5]
    result = compute("linear", [[1, 10, 100]], {"weight": weight, "bias": bias}, out_features=2)
    assert result.tolist() == [[321.5, 653.5]]


def test_padding_never_wins_a_maximum() -> None:
    result = compute("max_pool", [[[[-3, -2, -7]]]], kernel_size=[1, 3], stride=1, padding=[0, 1])
    assert result.tolist() == [[[[-2, -2, -2]]]]


def test_ceil_mode_by_hand() -> None:
    """Five pixels in windows of two, by two: 1 2 | 3 4 | 5 and nothing."""
    row = [[[[1, 2, 3, 4, 5]]]]
    fields: dict[str, Any] = {"kernel_size": [1, 2], "stride": [1, 2]}
    assert compute("max_pool", row, **fields).tolist() == [[[[2, 4]]]]
    assert compute("max_pool", row, **fields, ceil_mode=True).tolist() == [[[[2, 4, 5]]]]
    assert compute("avg_pool", row, **fields, ceil_mode=True).tolist() == [[[[1.5, 3.5, 5]]]]


@pytest.mark.parametrize(
    ("counted", "by_three", "by_two"), [(True, [6, 24], [6, 18, 18]), (False, [9, 24], [9, 18, 27])]
)
def test_divisors_by_hand(counted: bool, by_three: list[float], by_two: list[float]) -> None:
    """6 12 18 24 30 with one zero before and two behind, in windows of three, rounded up.

    By three: | 0 6 12 | 18 24 30 | 0 0 – |, the third dropped, since it starts past the image.
    By two: | 0 6 12 | 12 18 24 | 24 30 0 | 0 0 – |, the fourth dropped.
    """
    row = [[[[6, 12, 18, 24, 30]]]]
    fields: dict[str, Any] = {
        "kernel_size": [1, 3],
        "padding": {"left": 1, "right": 2},
        "ceil_mode": True,
        "count_include_pad": counted,
    }
    assert compute("avg_pool", row, stride=[1, 3], **fields).ravel().tolist() == by_three
    assert compute("avg_pool", row, stride=[1, 2], **fields).ravel().tolist() == by_two


def test_overhang_never_counts() -> None:
    """6 12 18 24 and one zero on each side, in windows of four, by three, rounded up.

    | 0 6 12 18 | 18 24 0 – |: the last window has three pixels in the padded image, and two in
    the image itself.
    """
    row = [[[[6, 12, 18, 24]]]]
    fields: dict[str, Any] = {
        "kernel_size": [1, 4],
        "stride": [1, 3],
        "padding": [0, 1],
        "ceil_mode": True,
    }
    assert compute("avg_pool", row, **fields).ravel().tolist() == [36 / 4, 42 / 3]
    image_alone = compute("avg_pool", row, **fields, count_include_pad=False)
    assert image_alone.ravel().tolist() == [36 / 3, 42 / 2]


def test_uneven_bins_by_hand() -> None:
    """Five pixels in three bins: ⌊0⌋…⌈5/3⌉, ⌊5/3⌋…⌈10/3⌉, ⌊10/3⌋…5, that is 0–1, 1–3, 3–4."""
    row = [[[[3, 6, 9, 12, 15]]]]
    result = compute("adaptive_avg_pool", row, output_size=[1, 3])
    assert result.tolist() == [[[[4.5, 9, 13.5]]]]


def test_lrn_across_channels_by_hand() -> None:
    """Channels 1 2 3 in windows of three: sums of squares 5, 14, 13."""
    pixel = [[[[1]], [[2]], [[3]]]]
    fields: dict[str, Any] = {"size": 3, "alpha": 3, "beta": 2, "k": 1}
    result = compute("lrn", pixel, **fields, alpha_per="element")
    np.testing.assert_allclose(result.ravel(), [1 / 16**2, 2 / 43**2, 3 / 40**2])
    result = compute("lrn", pixel, **fields, alpha_per="window")
    np.testing.assert_allclose(result.ravel(), [1 / 6**2, 2 / 15**2, 3 / 14**2])


def test_lrn_within_a_channel_by_hand() -> None:
    """A column 1 2 3 in windows of 3×3: sums of squares 5, 14, 13, without the other channel."""
    image = [[[[1], [2], [3]], [[7], [7], [7]]]]
    fields: dict[str, Any] = {"size": 3, "alpha": 9, "beta": 1, "k": 2, "region": "within_channel"}
    result = compute("lrn", image, **fields, alpha_per="window")
    np.testing.assert_allclose(result[0, 0, :, 0], [1 / 7, 2 / 16, 3 / 15])
    result = compute("lrn", image, **fields, alpha_per="element")
    np.testing.assert_allclose(result[0, 0, :, 0], [1 / 47, 2 / 128, 3 / 119])


def test_the_constants_of_the_paper() -> None:
    """Five ones in a window of five: 1 / (2 + 1e-4 · 5)^0.75, twice as much per window as Caffe."""
    ones = np.ones((1, 5, 1, 1))
    fields: dict[str, Any] = {"size": 5, "alpha": 1e-4, "beta": 0.75, "k": 2}
    paper = compute("lrn", ones, **fields, alpha_per="element")
    assert paper[0, 2, 0, 0] == pytest.approx(2.0005**-0.75, rel=1e-15)
    caffe = compute("lrn", ones, **fields, alpha_per="window")
    assert caffe[0, 2, 0, 0] == pytest.approx(2.0001**-0.75, rel=1e-15)


def test_batch_norm_by_hand() -> None:
    statistics = {"running_mean": [1, 2], "running_var": [3, 8]}
    values = [[5, 5]]
    result = compute("batch_norm", values, statistics, eps=1, affine=False)
    np.testing.assert_allclose(result, [[4 / 2, 3 / 3]])
    learned = statistics | {"weight": [10, 100], "bias": [1, 2]}
    np.testing.assert_allclose(compute("batch_norm", values, learned, eps=1), [[21, 102]])


def test_flatten_runs_over_columns_fastest() -> None:
    image = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    result = compute("flatten", image)
    assert result[1].tolist() == list(range(60, 120))


# ---- extreme values ------------------------------------------------------------------------------


def test_softmax_of_large_numbers() -> None:
    result = compute("softmax", [[1e4, 1e4, -1e4, 0]])
    assert result.tolist() == [[0.5, 0.5, 0, 0]]


def test_sigmoid_keeps_its_digits() -> None:
    result = compute("sigmoid", [[-1e4, -40, 0, 40, 1e4]])
    assert result[0, 0] == 0
    assert result[0, 1] == pytest.approx(math.exp(-40), rel=1e-15)
    assert result[0, 2:].tolist() == [0.5, 1, 1]


@pytest.mark.parametrize("kind", ["relu", "tanh", "max_pool"])
def test_not_a_number_stays_one(kind: str) -> None:
    """A fault in one layer must not be hidden by the next."""
    image = np.zeros((1, 1, 2, 2))
    image[0, 0, 1, 0] = np.nan
    fields: dict[str, Any] = {"kernel_size": 2} if kind == "max_pool" else {}
    assert np.isnan(compute(kind, image, **fields)).sum() == 1


# ---- speed ---------------------------------------------------------------------------------------


def test_alexnet_is_quick() -> None:
    """The reference of a whole AlexNet on two images: 0.3 s on one core, and never 2 s."""
    pool = MaxPool(kernel_size=(3, 3), stride=(2, 2))
    normalise = Lrn(size=5, alpha=1e-4, beta=0.75, k=2, alpha_per="element")

    def convolve(channels: int, size: int, groups: int, **fields: int) -> Op:
        return OPS["conv"].model_validate(
            {"out_channels": channels, "kernel_size": size, "groups": groups, **fields}
        )

    ops: dict[str, Op] = {
        "conv1": convolve(96, 11, 1, stride=4),
        "relu1": Relu(),
        "norm1": normalise,
        "pool1": pool,
        "conv2": convolve(256, 5, 2, padding=2),
        "relu2": Relu(),
        "norm2": normalise,
        "pool2": pool,
        "conv3": convolve(384, 3, 1, padding=1),
        "conv4": convolve(384, 3, 2, padding=1),
        "conv5": convolve(256, 3, 2, padding=1),
        "pool5": pool,
        "flatten": Flatten(),
        "fc6": Linear(out_features=4096),
        "fc7": Linear(out_features=4096),
        "fc8": Linear(out_features=1000),
    }
    pairs = itertools.pairwise(["input", *ops])
    layers = [(name, ops[name], (source,)) for source, name in pairs]
    graph = Graph.build("alexnet", (3, 227, 227), layers, ("fc8",))
    assert graph.parameter_count == 60_965_224
    assert graph.macs == 724_406_816
    parameters = {name: np.full(p.shape, 1e-3, np.float32) for name, p in graph.parameters.items()}
    images = np.ones((2, 3, 227, 227), np.float32)
    # The time of this thread, since other processes make a wall clock a matter of luck.
    start = time.thread_time()
    values = reference(graph, parameters, images)
    assert time.thread_time() - start < 2
    assert values["fc8"].shape == (2, 1000)
