"""How far rounding alone may move a layer's result: one rule for each op.

The model is that of probabilistic error analysis: each rounding adds an independent error of mean
zero, uniform between −u·|v| and u·|v| scaled to the binade of v. What a rule counts are the
roundings of an implementation that is correct but in no way careful: one that adds the terms of a
sum one after the other, in any order. Backends that add in blocks or in vector lanes err less.
docs/verification.md derives each rule and names the sources.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexc.graph.graph import Node
from alexc.ops.base import Array, Op
from alexc.ops.conv import Conv
from alexc.ops.dense import Linear
from alexc.ops.norm import BatchNorm, Lrn
from alexc.ops.pixels import Pixels
from alexc.ops.pointwise import Dropout, Relu, Sigmoid, Softmax, Tanh
from alexc.ops.pool import AdaptiveAvgPool, AvgPool, MaxPool
from alexc.ops.structure import Add, Concat, Flatten
from alexc.ops.window import sliding_windows
from alexc.verify.precision import Precision

Weights = Mapping[str, NDArray[np.floating[Any]]]

# Rounding s to nearest errs by at most u·2^e for s in [2^e, 2^(e+1)), uniformly: the variance is
# u²·4^e / 3. Averaged over s with a logarithmic mantissa, 4^e = s² · (1 − 1/4) / (2·ln 2).
VARIANCE = 0.75 / (2 * math.log(2)) / 3
# For a single value that may be a power of two: the worst mantissa.
WORST_VARIANCE = 1 / 3
_SMALLEST = 2.0**-149

# Result elements of each image whose sums are looked at term by term, to see whether their errors
# are independent. 32 give an rms to about 12 %.
SAMPLES = 32


@dataclass(frozen=True, slots=True)
class Rounding:
    """What one layer may err by on its own.

    `sigma` is the standard deviation of a normal error for each element, `(batch, *shape)`, and
    `wandering` that of a further one with long tails (see `_weighted_sum`). `floor` is an error
    that underflow can add to any element; `peak` for each image the largest magnitude that the
    computation passes through, and so what has to be representable.
    """

    sigma: Array
    floor: float
    peak: Array
    wandering: Array | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """One evaluation of a layer in the reference: what a rule may look at.

    `squares` are the sums of squared products of a conv or linear layer, Σ (weight · input)².
    """

    node: Node
    inputs: Sequence[Array]
    value: Array
    parameters: Weights
    precision: Precision
    squares: Array | None = None


def rounding(call: Call) -> Rounding:
    """The rounding errors of one layer, for inputs `(batch, *shape)` of its graph."""
    return RULES[type(call.node.op)](call)


def _exact(call: Call) -> Rounding:
    """Results that are copies of inputs, or zero: nothing is rounded but on the way into memory."""
    # A narrower format rounds the inputs when they are read; after that nothing is lost.
    sigma = math.sqrt(WORST_VARIANCE) * call.precision.operand * np.abs(call.value)
    return Rounding(sigma, call.precision.tiny, _largest(*call.inputs))


def _weighted_sum(call: Call) -> Rounding:
    """Conv and linear: sums of n products, added one after the other.

    After a share t of the terms in random order a partial sum lies on the straight way from its
    start to its end (from the bias to y, or from zero to y less the bias, which comes last) plus
    what a random walk wanders off it: a variance of t·(1 − t)·S², S² being the sum of squared
    products. Each addition rounds it. Along the way that makes a normal error of the variance
    VARIANCE·u²·n·way²/3, along the walk another of VARIANCE·u²·n·S²/6 on average; but walks differ,
    and over all of them the error has tails as long as those of Laplace's distribution.
    """
    precision, weight = call.precision, call.parameters["weight"]
    terms = math.prod(weight.shape[1:])
    assert call.squares is not None
    largest_weight = max(float(weight.max()), -float(weight.min()))
    way = call.value**2
    bias = np.zeros(())
    if "bias" in call.parameters:
        bias = call.parameters["bias"].astype(np.float64).reshape(-1, *[1] * (way.ndim - 2))
        product = bias * call.value
        way += bias**2 + np.maximum(product, -2 * product)
    each = np.sqrt(VARIANCE * (way / 3 + call.squares / 6))
    roots = precision.sum * _root_of_terms(call, each).reshape(-1, *[1] * (way.ndim - 1))
    sigma = np.sqrt(VARIANCE * way / 3) * roots
    wandering = np.sqrt(VARIANCE * call.squares / 6) * roots
    if precision.operand or precision.result > precision.sum:
        operands = 2 * WORST_VARIANCE * precision.operand**2 * call.squares
        operands = operands + WORST_VARIANCE * precision.operand**2 * bias**2
        result = WORST_VARIANCE * precision.result**2 * call.value**2
        sigma = np.sqrt(sigma**2 + operands + result)
    # Σ|products| ≤ √(n · Σ products²)
    peak = np.sqrt(terms * _per_image(call.squares)) + _per_image(np.abs(call.value))
    floor = call.precision.tiny * (1 + terms * (1 + largest_weight))
    return Rounding(sigma, floor, np.maximum(peak, _largest(*call.inputs)), wandering)


def _root_of_terms(call: Call, each: Array) -> Array:
    """The error of a sum over that of `each` addition, for each image: √n if they are independent.

    They are not where terms are alike. A partial sum is a whole number of its own units in the last
    place, so what adding p to it rounds off depends on p alone as long as the sum's binade is the
    same; equal terms err alike, and m of them add up to m errors and not to √m. (Zeros err not at
    all.) So n becomes the sum of m² over the distinct terms, counted in a sample of the results.

    Where terms cancel in an ordered way, partial sums are larger than those of a random order. So
    the sample is also added up in float32, term after term, in the two orders that memory layouts
    suggest, and what errs more than that raises the figure.
    """
    generator = np.random.default_rng(0)
    roots = np.ones(len(call.value))
    bias = call.parameters.get("bias")
    for image in range(len(call.value)):
        flat = each[image].reshape(-1)
        chosen = generator.integers(0, flat.size, SAMPLES)
        products = _products(call, image, chosen)  # (samples, channels, taps)
        start = np.zeros((SAMPLES, 1))
        if bias is not None:
            start[:, 0] = bias[chosen // (flat.size // call.value.shape[1])]
        measured, largest = [], np.zeros(SAMPLES)
        for ordered in (products, products.swapaxes(1, 2)):
            chain = np.concatenate([start, ordered.reshape(SAMPLES, -1)], axis=1)
            with np.errstate(over="ignore", invalid="ignore"):
                sums = np.add.accumulate(chain.astype(np.float32), axis=1)
            # In units of float32's roundoff; a narrower accumulator errs likewise in its own.
            error = (sums[:, -1].astype(np.float64) - chain.sum(axis=1)) * 2.0**24
            ratio = np.divide(error, flat[chosen], out=np.zeros(SAMPLES), where=flat[chosen] > 0)
            measured.append(math.sqrt(float(np.mean(ratio**2))))
            largest = np.maximum(largest, np.abs(sums).max(axis=1))
        terms = _distinct_terms(products.reshape(SAMPLES, -1), largest)
        roots[image] = max([math.sqrt(terms), *(m for m in measured if math.isfinite(m))])
    return roots


def _distinct_terms(products: Array, largest: Array) -> float:
    """The sum of m² over the distinct products, m being how often each occurs; the largest sampled.

    Products count as alike if they are within a quarter unit in the last place of the largest
    partial sum: they are rounded alike. At least 1, for the bias.
    """
    unit = np.maximum(largest, _SMALLEST)[:, np.newaxis] * 2.0**-25
    with np.errstate(over="ignore", invalid="ignore"):
        alike = np.rint(products / unit)
    alike[products == 0] = np.inf
    alike.sort(axis=1)
    most = 0
    for row in alike:
        row = row[np.isfinite(row)]
        edges = np.flatnonzero(np.diff(row, prepend=np.nan, append=np.nan))
        most = max(most, int((np.diff(edges) ** 2).sum()))
    return most + 1.0


def _products(call: Call, image: int, chosen: NDArray[np.int64]) -> Array:
    """The products that add up to some result elements of one image: (samples, channels, taps)."""
    weight, values, op = call.parameters["weight"], call.inputs[0][image], call.node.op
    if isinstance(op, Conv):
        channels, rows, columns = call.value.shape[1:]
        out, row, column = np.unravel_index(chosen, (channels, rows, columns))
        windows = sliding_windows(values[np.newaxis], op.axes(values.shape), fill=0.0)[0]
        per_group = channels // op.groups
        seen = weight.shape[1]
        picked = [
            windows[g * seen : (g + 1) * seen, y, x] * weight[o]
            for o, g, y, x in zip(out, out // per_group, row, column, strict=True)
        ]
        return np.stack(picked).reshape(len(chosen), seen, -1)
    products: Array = values * weight[chosen]
    return products[:, np.newaxis, :]


def _average(call: Call) -> Rounding:
    """Average pooling: a sum of n terms over their number.

    Neighbouring pixels are often equal, and then the roundings of their sum are too, so the rule
    takes a third of the bound (n / 2)·u·Σ|a| rather than a random walk; n is small.
    """
    op, precision = call.node.op, call.precision
    if isinstance(op, AvgPool):
        terms = math.prod(op.kernel_size)
    else:
        assert isinstance(op, AdaptiveAvgPool)
        rows, columns = op.bins(call.node.input_shapes[0])
        terms = max(b - a for a, b in rows) * max(b - a for a, b in columns)
    magnitude = op.reference([np.abs(values) for values in call.inputs], {})
    roundings = (terms / 6 + 1) * precision.sum + precision.operand + precision.result
    return Rounding(
        magnitude * roundings, precision.tiny * (1 + terms), terms * _largest(*call.inputs)
    )


def _lrn(call: Call) -> Rounding:
    """b = a / d^β, d = k + A·Σa²: relative errors of d count β times, and the power's own add up.

    A power is often computed as e^(β·ln d), where rounding β·ln d is a relative error of the
    result. Some implementations slide the window along the channels, adding one square and taking
    off another, so that a rounding of d at one channel stays in d at all the following ones.
    """
    op, precision = call.node.op, call.precision
    assert isinstance(op, Lrn)
    (values,) = call.inputs
    u = precision.sum
    squares = _window_sums(op, values * values)
    denominator = op.k + op.alpha_per_element * squares
    walk = np.sqrt(2 * np.cumsum(denominator**2, axis=1)) if op.region == "across_channels" else 0.0
    of_denominator = (
        u
        * (math.sqrt(op.window_elements + 4) + np.maximum(walk / denominator, 1.0))
        * math.sqrt(WORST_VARIANCE)
        + precision.tiny * (op.window_elements + 1) * (1 + op.alpha_per_element) / denominator
    )
    logarithm = np.abs(np.log(denominator))
    relative = (
        op.beta * (of_denominator + u * logarithm) + 2 * u + precision.operand + precision.result
    )
    peak = np.maximum(_per_image(squares), _per_image(denominator))
    power = denominator ** (2 * max(op.beta, 1.0))
    return Rounding(
        np.abs(call.value) * relative, precision.tiny, np.maximum(peak, _per_image(power))
    )


def _window_sums(op: Lrn, squares: Array) -> Array:
    """Σa² over each window, from running sums.

    Taking their difference loses digits, as sliding windows do; an estimate of errors can bear it.
    """
    half = op.size // 2
    for axis in (1,) if op.region == "across_channels" else (2, 3):
        size = squares.shape[axis]
        running = np.cumsum(np.insert(squares, 0, 0.0, axis=axis), axis=axis)
        place = np.arange(size)
        last = np.minimum(place + half + 1, size)
        first = np.maximum(place - half, 0)
        sums = running.take(last, axis=axis) - running.take(first, axis=axis)
        squares = np.maximum(sums, squares)
    return squares


def _batch_norm(call: Call) -> Rounding:
    """b = a·s + t with s = weight / √(variance + eps), t = bias − mean·s, or (a − mean)·s + bias.

    The first form loses digits where a·s and mean·s are large and nearly equal; the rule allows
    both, with four roundings in s.
    """
    op, precision = call.node.op, call.precision
    assert isinstance(op, BatchNorm)
    (values,) = call.inputs
    shape = (-1, *[1] * (values.ndim - 2))
    mean, variance = (
        call.parameters[name].astype(np.float64).reshape(shape)
        for name in ("running_mean", "running_var")
    )
    scale = 1 / np.sqrt(variance + op.eps)
    bias: Array | float = 0.0
    if op.affine:
        scale = np.abs(scale * call.parameters["weight"].astype(np.float64).reshape(shape))
        bias = np.abs(call.parameters["bias"].astype(np.float64).reshape(shape))
    terms = np.abs(values * scale) + np.abs(mean * scale)
    sigma = (
        precision.sum * (2 * terms + bias)
        + precision.operand * np.abs(values * scale)
        + precision.result * np.abs(call.value)
    )
    floor = precision.tiny * (2 + float(scale.max()))
    return Rounding(sigma, floor, np.maximum(_per_image(terms), _largest(*call.inputs)))


def _pixels(call: Call) -> Rounding:
    """b = (a · scale − mean) / std, or a · factor + offset with factor and offset rounded.

    A pixel is exact. On its way it is rounded four times at most, with the constants (scale, its
    product, std, the quotient), the mean three times, and the result where they are added and where
    it is divided. Constants err alike at every pixel, which the draws that agree stand for.
    """
    op, precision = call.node.op, call.precision
    assert isinstance(op, Pixels)
    (values,) = call.inputs
    mean, std = (np.array(each).reshape(-1, 1, 1) for each in (op.mean, op.std))
    pixel, offset = np.abs(values * op.scale / std), np.abs(mean / std)
    variance = WORST_VARIANCE * (4 * pixel**2 + 3 * offset**2 + 2 * call.value**2)
    # Without dividing first, what passes through are scaled pixels, and the mean beside them.
    peak = np.maximum(pixel + offset, (pixel + offset) * np.abs(std))
    sigma = precision.sum * np.sqrt(variance)
    return Rounding(sigma, 3 * precision.tiny, np.maximum(_per_image(peak), _largest(values)))


def _tanh(call: Call) -> Rounding:
    """Polynomial or rational approximations, good to a few units in the last place."""
    relative = 3 * call.precision.sum + call.precision.operand + call.precision.result
    return Rounding(np.abs(call.value) * relative, call.precision.tiny, _largest(*call.inputs))


def _sigmoid(call: Call) -> Rounding:
    """As tanh; but approximations that clamp their argument err relative to 1, not the result."""
    u = call.precision.sum
    (values,) = call.inputs
    slope = call.value * (1 - call.value) * np.abs(values)
    sigma = u + (2 * u + call.precision.result) * call.value + call.precision.operand * slope
    return Rounding(sigma, call.precision.tiny, _largest(*call.inputs))


def _softmax(call: Call) -> Rounding:
    """e^(a − max) / Σ: rounding a − max is an error of the power, and the sum has n terms.

    Powers that underflow before they are divided are flushed to zero a little above `tiny`.
    """
    (values,) = call.inputs
    precision = call.precision
    below = values.max(axis=1, keepdims=True) - values
    magnitude = np.abs(values) + np.abs(values).max(axis=1, keepdims=True)
    terms = values.shape[1]
    relative = (
        precision.sum * (3 + below + math.sqrt(VARIANCE * terms / 3))
        + precision.operand * magnitude
        + precision.result
    )
    # What a rounding of one power does to all results of its sum is covered by `below` at the
    # largest results; elsewhere it adds the average of the others' errors.
    spread = (call.value * relative).sum(axis=1, keepdims=True)
    return Rounding(call.value * (relative + spread), 4 * precision.tiny, _per_image(magnitude))


def _add(call: Call) -> Rounding:
    """Each addition rounds a partial sum, which is at most the sum of magnitudes."""
    magnitude = sum((np.abs(values) for values in call.inputs), np.zeros(()))
    roundings = math.sqrt(len(call.inputs) - 1) * call.precision.sum
    sigma = (
        magnitude
        * (roundings + call.precision.operand + call.precision.result)
        * math.sqrt(WORST_VARIANCE)
    )
    return Rounding(sigma, len(call.inputs) * call.precision.tiny, _per_image(magnitude))


RULES: dict[type[Op], Callable[[Call], Rounding]] = {
    Conv: _weighted_sum,
    Linear: _weighted_sum,
    AvgPool: _average,
    AdaptiveAvgPool: _average,
    Lrn: _lrn,
    BatchNorm: _batch_norm,
    Tanh: _tanh,
    Sigmoid: _sigmoid,
    Softmax: _softmax,
    Add: _add,
    Relu: _exact,
    MaxPool: _exact,
    Dropout: _exact,
    Flatten: _exact,
    Concat: _exact,
    Pixels: _pixels,
}


def _per_image(values: Array) -> Array:
    """The largest value of each image."""
    largest: Array = values.reshape(len(values), -1).max(axis=1)
    return largest


def _largest(*inputs: Array) -> Array:
    """The largest magnitude among the inputs, for each image."""
    largest: Array = np.max([_per_image(np.abs(values)) for values in inputs], axis=0)
    return largest
