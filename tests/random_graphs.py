"""Random legal nets, with weights and images: for tests that must hold of every net.

Each draws from the generator it is given, so that a seed names a net. The nets are small, and
branch, and use every op; their fields, shapes and weights go to the edges of what is legal.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexc.graph.graph import INPUT, Graph, make_node
from alexc.ops import OPS
from alexc.ops.base import Op, Padding, Shape, ShapeFault
from alexc.ops.conv import Conv
from alexc.ops.dense import Linear
from alexc.ops.norm import BatchNorm, Lrn
from alexc.ops.pointwise import Dropout, Relu, Sigmoid, Softmax, Tanh
from alexc.ops.pool import AdaptiveAvgPool, AvgPool, MaxPool
from alexc.ops.structure import Add, Concat, Flatten
from alexc.verify import inputs as provocations

MOST_ELEMENTS = 12_000
MOST_WEIGHTS = 60_000
MOST_LAYERS = 14

Weights = dict[str, NDArray[np.float32]]
Rng = np.random.Generator


def random_graph(generator: Rng, layers: int | None = None) -> Graph:
    """A legal net of so many layers, or of a random number of them."""
    count = layers or int(generator.integers(1, MOST_LAYERS + 1))
    shape = (
        int(generator.choice([1, 2, 3, 4, 6, 8])),
        int(generator.integers(3, 29)),
        int(generator.integers(3, 29)),
    )
    shapes: dict[str, Shape] = {INPUT: shape}
    triples: list[tuple[str, Op, tuple[str, ...]]] = []
    latest = INPUT
    attempts = 0
    while len(triples) < count and attempts < 40 * count:
        attempts += 1
        kind = str(generator.choice(list(OPS)))
        # A chain with branches: mostly the newest tensor is read.
        source = latest if generator.random() < 0.8 else str(generator.choice(list(shapes)))
        sources = [source]
        if kind in ("add", "concat"):
            alike = [n for n, s in shapes.items() if _joins(kind, s, shapes[source])]
            sources += [str(name) for name in generator.choice(alike, generator.integers(1, 4))]
            generator.shuffle(sources)
        try:
            op = random_op(kind, shapes[source], generator)
            node = make_node(
                f"{kind}{len(triples) + 1}", op, tuple(sources), tuple(shapes[s] for s in sources)
            )
        except (ShapeFault, _Unfit):
            continue
        small = math.prod(node.shape) <= MOST_ELEMENTS
        if not small or sum(p.count for p in node.parameters.values()) > MOST_WEIGHTS:
            continue
        triples.append((node.name, op, node.inputs))
        shapes[node.name] = node.shape
        latest = node.name
    if not triples:
        triples.append(("relu1", Relu(), (INPUT,)))
        latest = "relu1"
    outputs = [latest]
    if generator.random() < 0.2:
        others = [name for name, _, _ in triples if name != latest]
        outputs += [str(name) for name in generator.permutation(others)[:2]]
    return Graph.build("random", shape, triples, tuple(outputs))


class _Unfit(Exception):  # noqa: N818  (an op that this shape can't have; another is drawn)
    pass


def _joins(kind: str, candidate: Shape, shape: Shape) -> bool:
    if kind == "add":
        return candidate == shape
    return len(candidate) == len(shape) and candidate[1:] == shape[1:]


def random_op(kind: str, shape: Shape, generator: Rng) -> Op:
    """An op of this kind with random fields, for an input of this shape. Raises if none fits."""
    return _FIELDS[kind](shape, generator)


def _integer(generator: Rng, low: int, high: int) -> int:
    return int(generator.integers(low, high + 1))


def _pair(generator: Rng, low: int, high: int) -> tuple[int, int]:
    return _integer(generator, low, high), _integer(generator, low, high)


def _padding(generator: Rng, kernel: tuple[int, int]) -> Padding:
    most = [min(size - 1, 3) for size in kernel]
    if generator.random() < 0.4:
        return Padding()
    top, left = (_integer(generator, 0, m) for m in most)
    bottom, right = (top, left)
    if generator.random() < 0.4:
        bottom, right = (_integer(generator, 0, m) for m in most)
    return Padding(top=top, left=left, bottom=bottom, right=right)


def _image(shape: Shape) -> None:
    if len(shape) != 3:
        raise _Unfit


def _conv(shape: Shape, generator: Rng) -> Op:
    _image(shape)
    divisors = [n for n in range(1, shape[0] + 1) if shape[0] % n == 0]
    groups = int(generator.choice(divisors)) if generator.random() < 0.4 else 1
    kernel = _pair(generator, 1, 5)
    return Conv(
        out_channels=groups * _integer(generator, 1, max(1, 24 // groups)),
        kernel_size=kernel,
        stride=_pair(generator, 1, 3),
        padding=_padding(generator, (kernel[0] + 1, kernel[1] + 1)),
        dilation=_pair(generator, 1, 2) if generator.random() < 0.3 else (1, 1),
        groups=groups,
        bias=bool(generator.random() < 0.8),
    )


def _linear(shape: Shape, generator: Rng) -> Op:
    if len(shape) != 1:
        raise _Unfit
    return Linear(out_features=_integer(generator, 1, 40), bias=bool(generator.random() < 0.8))


def _max_pool(shape: Shape, generator: Rng) -> Op:
    return MaxPool(**_window(shape, generator))


def _avg_pool(shape: Shape, generator: Rng) -> Op:
    counted = bool(generator.random() < 0.5)
    return AvgPool(**_window(shape, generator), count_include_pad=counted)


def _window(shape: Shape, generator: Rng) -> dict[str, Any]:
    _image(shape)
    kernel = _pair(generator, 1, 4)
    return {
        "kernel_size": kernel,
        "stride": _pair(generator, 1, 3) if generator.random() < 0.7 else None,
        "padding": _padding(generator, kernel),
        "ceil_mode": bool(generator.random() < 0.5),
    }


def _adaptive(shape: Shape, generator: Rng) -> Op:
    _image(shape)
    return AdaptiveAvgPool(output_size=_pair(generator, 1, 7))


def _lrn(shape: Shape, generator: Rng) -> Op:
    _image(shape)
    across = bool(generator.random() < 0.7)
    return Lrn(
        size=int(generator.choice([1, 3, 5, 7, 9])),
        alpha=float(10 ** generator.uniform(-6, 0.5)),
        beta=float(generator.choice([0.75, 0.5, 1.0, generator.uniform(0.1, 2.0)])),
        k=float(generator.choice([1.0, 2.0, 10 ** generator.uniform(-3, 1)])),
        alpha_per="element" if generator.random() < 0.5 else "window",
        region="across_channels" if across else "within_channel",
    )


def _batch_norm(_shape: Shape, generator: Rng) -> Op:
    return BatchNorm(
        eps=float(generator.choice([1e-5, 1e-3, 10 ** generator.uniform(-10, -1)])),
        affine=bool(generator.random() < 0.8),
    )


def _flatten(_shape: Shape, generator: Rng) -> Op:
    if generator.random() < 0.5:  # after it few ops are legal
        raise _Unfit
    return Flatten()


def _plain(op: type[Op]) -> Callable[[Shape, Rng], Op]:
    return lambda _shape, _generator: op()


_FIELDS: dict[str, Callable[[Shape, Rng], Op]] = {
    "conv": _conv,
    "linear": _linear,
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "adaptive_avg_pool": _adaptive,
    "lrn": _lrn,
    "batch_norm": _batch_norm,
    "relu": _plain(Relu),
    "tanh": _plain(Tanh),
    "sigmoid": _plain(Sigmoid),
    "softmax": _plain(Softmax),
    "dropout": _plain(Dropout),
    "flatten": _flatten,
    "add": _plain(Add),
    "concat": _plain(Concat),
}


def random_weights(generator: Rng, graph: Graph) -> Weights:
    """Weights from every distribution that occurs, and some that a training might end in."""
    weights: Weights = {}
    for name, parameter in graph.parameters.items():
        local = name.rpartition(".")[2]
        shape = parameter.shape
        if local == "running_var":
            values = 10 ** generator.uniform(generator.uniform(-8, 0), 1, shape)
        elif local == "running_mean":
            values = generator.normal(generator.normal(), 10 ** generator.uniform(-2, 1), shape)
        elif local == "bias":
            values = _bias(generator, shape)
        else:
            values = _weight(generator, shape)
        weights[name] = np.asarray(values, np.float32)
    return weights


def _bias(generator: Rng, shape: Shape) -> NDArray[np.float64]:
    match _integer(generator, 0, 3):
        case 0:
            return np.zeros(shape)
        case 1:
            return np.ones(shape)
        case _:
            return generator.normal(0, 10 ** generator.uniform(-3, 1), shape)


def _weight(generator: Rng, shape: Shape) -> NDArray[np.float64]:
    fan_in = math.prod(shape[1:])
    kaiming = generator.normal(0, math.sqrt(2 / fan_in), shape)
    match _integer(generator, 0, 7):
        case 0:
            return generator.normal(0, 0.01, shape)
        case 1:
            return np.full(shape, generator.normal())
        case 2:  # pruned
            return np.where(generator.random(shape) < 0.9, 0.0, kaiming)
        case 3:
            return np.abs(kaiming)
        case 4:  # a heavy tail
            return kaiming * 10 ** generator.normal(0, 1, shape)
        case 5:  # cancelling: each half of the inputs against the other
            return np.abs(kaiming) * np.where(np.arange(fan_in) * 2 < fan_in, 1, -1).reshape(
                1, *shape[1:]
            )
        case _:
            return kaiming


def random_images(generator: Rng, graph: Graph, count: int | None = None) -> NDArray[np.float32]:
    """A batch of images, each of a random kind."""
    count = count or int(generator.choice([1, 2, 3, 5, 8]))
    kinds = [str(kind) for kind in generator.choice(provocations.KINDS, count)]
    return provocations.batch(graph.input_shape, count, int(generator.integers(2**31)), kinds)
