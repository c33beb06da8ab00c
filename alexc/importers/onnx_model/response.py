"""Local response normalisation that a model writes out in single steps, found again.

ONNX has an op for it, `LRN`, but PyTorch's exporters never write that, and alexc itself writes
other forms where they are faster. They all end in the division of

    b = a / (k + α · s)^β,        s = the average of a² over a window

The power is a Pow, or roots: √d, or √d · √√d for β = ¾. The average is one of

    over channels     a² → Reshape or Unsqueeze to (N, 1, C, H, W) → Pad in C → AveragePool of
                      (size, 1, 1) → Squeeze, or an If around it → Reshape back       (PyTorch)
                      a² → Reshape to (N, 1, C, H·W) → AveragePool of (size, 1) → Reshape back
                      a² → a 1×1 convolution whose matrix is a band, and whose bias is k
    within a channel  a² → AveragePool of (size, size)

One more form ends in a product: LRN with k = 1, and k^−β taken out of the bracket.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from alexc.importers.onnx_model.evaluation import NotConstantError
from alexc.importers.onnx_model.model import Model, only, subgraph
from alexc.importers.onnx_model.node import Node
from alexc.importers.onnx_model.padding import pad_amounts, pad_value
from alexc.importers.onnx_model.tensors import Array
from alexc.importers.proto import shortest

# A band for more channels is none that a net would have, and costly to look at.
_MOST_CHANNELS = 2048


@dataclass(frozen=True, slots=True)
class Response:
    """A response normalisation that was found: its own input and the formula's numbers.

    `lifted` is the tensor whose shape must begin as `axes` does once the input's shape is known:
    then the window runs over channels. It is empty where nothing is left to check.
    """

    source: str
    size: int
    alpha: float  # for a whole window
    beta: float
    k: float
    within: bool = False
    lifted: str = ""
    channels: int | None = None  # of the band, which must be the input's


def response(model: Model, node: Node) -> Response | None:
    """The normalisation that ends in this division or product, if it is one."""
    try:
        return _scaled(model, node) if node.op == "Mul" else _divided(model, node)
    except NotConstantError:
        return None


def tidy(value: float, same: Callable[[float], bool]) -> float:
    """The shortest decimal near a computed number that gives the very same float32."""
    for digits in range(1, 9):
        candidate = float(f"{value:.{digits}g}")
        if same(candidate):
            return candidate
    return value


def _scaled(model: Model, mul: Node) -> Response | None:
    """k^−β · LRN with k = 1 and α/k: the bracket's k taken out."""
    rest, scale = _with_constant(model, mul)
    lrn = _producer(model, rest, "LRN")
    if lrn is None or lrn.number("bias", 1.0) != 1 or not 0 < scale < np.inf:
        return None
    if only(model.readers.get(lrn.output, [])) is not mul or lrn.output in model.outputs:
        return None
    beta = shortest(lrn.number("beta", 0.75))
    alpha = shortest(lrn.number("alpha", 1e-4))
    if not beta > 0:
        return None
    try:
        k = tidy(scale ** (-1 / beta), lambda k: _equal(k**-beta, scale))
        whole = tidy(alpha * k, lambda whole: _equal(whole / k, alpha))
    except (OverflowError, ZeroDivisionError):
        return None
    return Response(lrn.input(0), lrn.integer("size"), whole, beta, k)


def _divided(model: Model, div: Node) -> Response | None:
    source = div.input(0)
    base, beta = _power(model, div.input(1))
    if (conv := _producer(model, base, "Conv")) is not None:
        return _banded(model, conv, source, beta)
    total = _producer(model, base, "Add")
    if total is None:
        return None
    rest, k = _with_constant(model, total)
    alpha = 1.0
    if (scaled := _producer(model, rest, "Mul")) is not None:
        rest, alpha = _with_constant(model, scaled)
    pool = _behind_layout(model, rest)
    if pool is None or pool.text("auto_pad", "NOTSET") != "NOTSET":
        return None
    kernel = pool.integers("kernel_shape") or []
    if len(kernel) not in (2, 3) or set(pool.integers("strides") or ()) - {1}:
        return None
    pads, before = _pads(model, pool, len(kernel))
    reach, far = kernel[0] // 2, (kernel[0] - 1) // 2
    square = len(kernel) == 2 and kernel[0] == kernel[1]
    if square and pads == [reach] * 4 and _squares(model, before, source):
        return Response(source, kernel[0], alpha, beta, k, within=True)
    nowhere = [0] * (len(kernel) - 1)
    if kernel[1:] != [1] * len(nowhere) or pads != [reach, *nowhere, far, *nowhere]:
        return None
    lifted = model.producers.get(before)
    if lifted is None or lifted.op not in ("Reshape", "Unsqueeze"):
        return None
    if not _squares(model, lifted.input(0), source):
        return None
    return Response(source, kernel[0], alpha, beta, k, lifted=before)


def _pads(model: Model, pool: Node, rank: int) -> tuple[list[int], str]:
    """The padding of the window, be it the pool's own or that of a Pad, and what is padded."""
    own = pool.integers("pads") or [0] * (2 * rank)
    if any(own) and not pool.integer("count_include_pad", 0):
        raise NotConstantError
    pad = _producer(model, pool.input(0), "Pad")
    if pad is None:
        return own, pool.input(0)
    listed = pad_amounts(model, pad)
    outside = [listed[i] for i in (0, 1, rank + 2, rank + 3) if i < len(listed)]
    if pad_value(model, pad) != 0 or any(own) or len(listed) != 2 * rank + 4 or any(outside):
        raise NotConstantError
    return [*listed[2 : rank + 2], *listed[rank + 4 :]], pad.input(0)


def _banded(model: Model, conv: Node, source: str, beta: float) -> Response | None:
    """k + A · Σ a² as a 1×1 convolution of the squares, whose matrix is a band of one number."""
    if not _squares(model, conv.input(0), source) or conv.integer("group", 1) != 1:
        return None
    for name in ("pads", "strides", "dilations"):
        if set(conv.integers(name) or ()) - {1 if name != "pads" else 0}:
            return None
    asked = ("band", conv.input(1), conv.input(2))
    if asked not in model.answers:
        model.answers[asked] = _band(model, conv)
    found = model.answers[asked]
    if found is None:
        return None
    size, alpha, k, channels = found
    return Response(source, size, alpha, beta, k, channels=channels)


def _band(model: Model, conv: Node) -> tuple[int, float, float, int] | None:
    """Size, alpha, k and channels of a 1×1 convolution that is a band of one number."""
    weight, bias = model.constant(conv.input(1)), model.constant(conv.input(2))
    channels = weight.shape[0]
    if weight.shape != (channels, channels, 1, 1) or not 0 < channels <= _MOST_CHANNELS:
        return None
    matrix: Array = weight.reshape(channels, channels)
    reach = int(np.count_nonzero(matrix[0])) - 1
    each = shortest(float(matrix[0, 0]))
    apart = np.abs(np.subtract.outer(np.arange(channels), np.arange(channels)))
    wanted = np.where(apart <= reach, matrix[0, 0], 0)
    if reach < 0 or (matrix != wanted).any() or (bias != bias.reshape(-1)[0]).any():
        return None
    size = 2 * reach + 1
    alpha = tidy(each * size, lambda alpha: _equal(alpha / size, each))
    return size, alpha, shortest(float(bias.reshape(-1)[0])), channels


def _power(model: Model, name: str) -> tuple[str, float]:
    """What is raised to a power, and the power: by a Pow, by roots, or to the first."""
    node = model.producers.get(name)
    if node is None:
        raise NotConstantError
    if node.op == "Pow":
        return node.input(0), model.scalar(node.input(1))
    if node.op == "Sqrt":
        return node.input(0), 0.5
    if node.op == "Mul":
        root, fourth = (_producer(model, one, "Sqrt") for one in (node.input(0), node.input(1)))
        if root is not None and fourth is not None and fourth.input(0) == root.output:
            return root.input(0), 0.75
    return name, 1.0


def _producer(model: Model, name: str, op: str) -> Node | None:
    node = model.producers.get(name)
    return node if node is not None and node.op == op else None


def _with_constant(model: Model, node: Node) -> tuple[str, float]:
    """The other input of a sum or product with one number, and the number."""
    for position in (0, 1):
        if model.is_constant(node.input(position)):
            return node.input(1 - position), model.scalar(node.input(position))
    raise NotConstantError


def _squares(model: Model, name: str, source: str) -> bool:
    """Whether a tensor is the square of another."""
    node = model.producers.get(name)
    if node is None:
        return False
    if node.op == "Mul":
        return node.inputs == (source, source)
    return node.op == "Pow" and node.input(0) == source and model.scalar(node.input(1)) == 2


def _behind_layout(model: Model, name: str) -> Node | None:
    """The AveragePool that a tensor comes from through nothing but changes of its shape."""
    for _ in range(8):
        node = model.producers.get(name)
        if node is None:
            return None
        if node.op == "AveragePool":
            return node
        if node.op == "If":
            # PyTorch's squeeze of an axis whose length it doesn't know: both branches pass on the
            # same tensor, with and without the axis.
            branches = [subgraph(node, word, model) for word in ("then_branch", "else_branch")]
            inner = [only([n for n in branch if n.op != "Constant"]) for branch in branches]
            if any(one is None or one.op not in ("Squeeze", "Identity") for one in inner):
                return None
            names = {one.input(0) for one in inner}
            if len(names) != 1:
                return None
            name = names.pop()
        elif node.op in ("Reshape", "Squeeze", "Unsqueeze", "Identity"):
            name = node.input(0)
        else:
            return None
    return None


def _equal(left: float, right: float) -> bool:
    with np.errstate(over="ignore"):
        return bool(np.float32(left) == np.float32(right))
