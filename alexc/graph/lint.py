"""Warnings: what is legal and yet probably not meant.

Each rule is a function of spec and graph with its code as its name. An author silences one with a
reason, in the spec:

    allow:
      - {lint: lint/dropped-pixels, layer: conv1, reason: the 2012 code drops them too}
"""

from __future__ import annotations

from collections.abc import Iterator

from alexc.diagnostics import Diagnostic
from alexc.graph.graph import INPUT, Graph, Node
from alexc.ops.conv import Conv
from alexc.ops.dense import Linear
from alexc.ops.norm import BatchNorm, Lrn
from alexc.ops.pointwise import Dropout, Sigmoid, Softmax, Tanh
from alexc.ops.pool import AvgPool, MaxPool
from alexc.spec.names import Names, clip, listing
from alexc.spec.parse import Spec

# The largest number whose square is a finite fp16: sqrt(65504).
_FP16_SQUARE_LIMIT = 255.9
# Below this magnitude of the inputs an unbounded net's activations rarely reach that limit.
_LARGE_INPUT = 64.0
_HEAVY_SHARE = 0.5
_HEAVY_LEAST = 1_000_000


def lint(spec: Spec, graph: Graph) -> list[Diagnostic]:
    """Every warning that the spec doesn't accept, and every acceptance that accepts nothing."""
    found = [warning for rule in _RULES for warning in rule(spec, graph)]
    allowed = {(allowance.lint, allowance.layer) for allowance in spec.header.allow}
    kept = [
        diagnostic
        for diagnostic, layer in found
        if not allowed & {(diagnostic.code, None), (diagnostic.code, layer)}
    ]
    given: set[tuple[str, str | None]] = set()
    for diagnostic, layer in found:
        given |= {(diagnostic.code, layer), (diagnostic.code, None)}
    codes, layers = Names(LINTS), Names(graph.by_name)
    for index, allowance in enumerate(spec.header.allow):
        if spec.place("allow", index).source is not spec.tree.place.source:
            continue  # the base's, which may have what this variant has not
        code, at = allowance.lint, allowance.layer
        if code not in LINTS:
            message = f"there is no warning {clip(code)}"
            help = codes.did_you_mean(code) or f"the warnings are {listing(LINTS)}"
            place = spec.place("allow", index, "lint")
            kept.append(_warning("lint/unknown-code", message, place=place, help=help))
        elif at is not None and at not in graph.by_name:
            message = f"{code} is accepted at {clip(at)}, but there is no such layer"
            help = layers.did_you_mean(at) or "remove it"
            place = spec.place("allow", index, "layer")
            kept.append(_warning("lint/unused-allowance", message, place=place, help=help))
        elif (code, at) not in given:
            where = f" at {at}" if at else ""
            message = f"{code} is accepted{where}, but nothing gives that warning"
            place = spec.place("allow", index, "lint")
            kept.append(_warning("lint/unused-allowance", message, place=place, help="remove it"))
    return kept


_Found = Iterator[tuple[Diagnostic, str]]


def _warning(code: str, message: str, **rest: object) -> Diagnostic:
    return Diagnostic(code, message, severity="warning", **rest)  # type: ignore[arg-type]


def _readers(graph: Graph) -> dict[str, list[Node]]:
    readers: dict[str, list[Node]] = {name: [] for name in graph.shapes}
    for node in graph.nodes:
        for source in node.inputs:
            readers[source].append(node)
    return readers


def _dropped_pixels(spec: Spec, graph: Graph) -> _Found:
    """A convolution or pool whose last rows or columns are read by no window."""
    for node in graph.nodes:
        if not isinstance(node.op, Conv | MaxPool | AvgPool):
            continue
        # Padding that no window reads is no loss; where windows lie apart, gaps are meant.
        short = [
            (axis, axis.unread - axis.after)
            for axis in node.op.axes(node.input_shapes[0])
            if axis.unread > axis.after and axis.stride <= axis.span
        ]
        if not short:
            continue
        axis, dropped = short[0]
        names = listing(axis.name if n > 1 else axis.name.removesuffix("s") for axis, n in short)
        many = len(short) > 1 or dropped > 1
        what = f"the last {f'{dropped} ' * (dropped > 1)}{names} of {axis.size}"
        fits = (axis.size - axis.unread, axis.size - axis.unread + axis.stride)
        yield (
            _warning(
                "lint/dropped-pixels",
                f"{node.name}: {what} {'are' if many else 'is'} read by no window",
                place=spec.place("layers", node.name, key=True),
                notes=(f"({axis.padded} − {axis.span}) / {axis.stride} leaves {axis.unread} over",),
                help=f"inputs of {fits[0]} or {fits[1]} {axis.name} divide; or add padding",
            ),
            node.name,
        )


def _bias_before_batch_norm(spec: Spec, graph: Graph) -> _Found:
    """A bias that batch norm subtracts again."""
    readers = _readers(graph)
    for node in graph.nodes:
        if (
            isinstance(node.op, Conv | Linear)
            and node.op.bias
            and readers[node.name]
            and node.name not in graph.outputs
            and all(isinstance(reader.op, BatchNorm) for reader in readers[node.name])
        ):
            yield (
                _warning(
                    "lint/bias-before-batch-norm",
                    f"{node.name}: its bias does nothing, since {readers[node.name][0].name} "
                    "subtracts the mean",
                    place=spec.place("layers", node.name, key=True),
                    help="bias: false",
                ),
                node.name,
            )


def _unused_layer(spec: Spec, graph: Graph) -> _Found:
    """A layer that no output depends on."""
    used = set(graph.outputs)
    for node in reversed(graph.nodes):
        if node.name in used:
            used.update(node.inputs)
    for node in graph.nodes:
        if node.name not in used:
            yield (
                _warning(
                    "lint/unused-layer",
                    f"{node.name}: no output depends on it",
                    place=spec.place("layers", node.name, key=True),
                    help="remove it, or name it in `outputs`",
                ),
                node.name,
            )


def _fp16_overflow(spec: Spec, graph: Graph) -> _Found:
    """Local response normalisation squares its input, which overflows fp16 above 255.

    A build keeps these layers in fp32; only a spec's own `precision` can make one fp16. Whether
    that is a risk shows in what the inputs may be: pixels of large magnitude that reach the layer
    through nothing that bounds them.
    """
    preprocess = spec.header.preprocess
    narrow = {name for name, precision in spec.header.precision.items() if precision == "fp16"}
    if preprocess is None or not narrow:
        return
    means = preprocess.mean or (0.0,)
    deviations = preprocess.std or (1.0,) * len(means)
    peak = max(
        max(abs(mean), abs(255 * preprocess.scale - mean)) / deviation
        for mean, deviation in zip(means, deviations, strict=False)
    )
    if peak < _LARGE_INPUT:
        return
    unbounded = {INPUT}
    for node in graph.nodes:
        if not unbounded.intersection(node.inputs):
            continue
        if isinstance(node.op, Lrn) and node.name in narrow:
            yield (
                _warning(
                    "lint/fp16-overflow",
                    f"{node.name}: its squares may overflow in fp16, which ends at 65504, "
                    f"the square of {_FP16_SQUARE_LIMIT}; the net's inputs reach ±{peak:.0f}",
                    place=spec.place("precision", node.name),
                    help=f"leave {node.name} out of `precision`, which keeps it in fp32",
                ),
                node.name,
            )
        if not isinstance(node.op, Lrn | BatchNorm | Tanh | Sigmoid | Softmax):
            unbounded.add(node.name)


def _heavy_layer(spec: Spec, graph: Graph) -> _Found:
    """One layer that holds most of the net."""
    total = max(1, graph.parameter_count)
    for node in graph.nodes:
        share = node.parameter_count / total
        if node.parameter_count >= _HEAVY_LEAST and share > _HEAVY_SHARE:
            yield (
                _warning(
                    "lint/heavy-layer",
                    f"{node.name} holds {node.parameter_count:,} of {total:,} parameters",
                    place=spec.place("layers", node.name, key=True),
                    help="pool its input further (adaptive_avg_pool), or give it fewer outputs",
                ),
                node.name,
            )


def _idle_dropout(spec: Spec, graph: Graph) -> _Found:
    """A dropout that drops nothing."""
    for node in graph.nodes:
        if isinstance(node.op, Dropout) and node.op.p == 0:
            yield (
                _warning(
                    "lint/idle-dropout",
                    f"{node.name}: with p: 0 it drops nothing",
                    place=spec.place("layers", node.name, "p"),
                    help="remove it",
                ),
                node.name,
            )


def _softmax_output(spec: Spec, graph: Graph) -> _Found:
    """A softmax at the end: the training loss applies its own, and so does `alexc predict`."""
    for name in graph.outputs:
        if isinstance(graph.by_name[name].op, Softmax):
            yield (
                _warning(
                    "lint/softmax-output",
                    f"{name}: the cross-entropy loss applies its own softmax",
                    place=spec.place("layers", name, key=True),
                    help="end in logits; `alexc predict` gives probabilities all the same",
                ),
                name,
            )


_RULES = (
    _dropped_pixels,
    _bias_before_batch_norm,
    _unused_layer,
    _fp16_overflow,
    _heavy_layer,
    _idle_dropout,
    _softmax_output,
)

# The codes of all warnings of this room, in their order.
LINTS = tuple(f"lint/{rule.__name__.strip('_').replace('_', '-')}" for rule in _RULES)
