"""A foreign net while it is read: its layers so far, and everything that is wrong with it.

An importer walks through its file in order and calls `Builder.add` for each layer. The builder
gives the layer a name that the language allows, works out its shape, and keeps what is wrong
together with the place in the foreign file, so that all faults come out in one go and none is the
consequence of another. `Builder.finish` gives the `ForeignNet`, whose graph is whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from numpy.typing import NDArray
from pydantic import ValidationError

from alexc.diagnostics import AlexcError, Diagnostic, Place
from alexc.graph.graph import INPUT, Graph
from alexc.importers.foreign import ForeignLayer, ForeignNet, Origin, Row
from alexc.importers.naming import allowed_name, conventional_name
from alexc.ops.base import MAX_ELEMENTS, Op, Shape, ShapeFault, format_shape
from alexc.ops.conv import Conv
from alexc.ops.dense import Linear
from alexc.ops.norm import Lrn
from alexc.ops.pointwise import Dropout, Relu, Sigmoid, Softmax
from alexc.ops.pool import AdaptiveAvgPool, AvgPool, MaxPool
from alexc.ops.structure import Add, Concat, Flatten
from alexc.spec.names import clip, listing

# Deeper nets than any that was published; a file that claims more is hostile or damaged.
MAX_LAYERS = 5_000
_MOST_FAULTS = 1_000
# Weights may take so many times the bytes of their files (16-bit floats double), and so many more.
_MOST_GROWTH, _FREE_GROWTH = 4, 64 * 2**20


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor of the net: the layer that makes it, and its shape, None where that is at fault."""

    layer: str
    shape: Shape | None
    non_negative: bool = False


class Builder:
    """The net while an importer reads it, and everything that is wrong with it."""

    def __init__(self, tool: str, path: Path) -> None:
        self.tool = tool
        self.path = path
        self.layers: list[ForeignLayer] = []
        self.rows: list[Row] = []
        self.faults: list[Diagnostic] = []
        self.warnings: list[Diagnostic] = []
        self.notes: list[str] = []
        self.hints: dict[str, str] = {}  # where weights of a layer may be, by its foreign name
        self.input_shape: Shape | None = None
        self._names: set[str] = set()
        self._flat: dict[str, Value] = {}
        self._weighted = 0

    # ---- what is wrong ---------------------------------------------------------------------------

    def fault(
        self,
        code: str,
        message: str,
        place: Place | None = None,
        *,
        notes: tuple[str, ...] = (),
        help: str | None = None,
    ) -> None:
        """Keep a fault, to be raised with all others, or at once when there are too many."""
        if place is None:
            message = f"{self.path}: {message}"
        self.faults.append(Diagnostic(code, message, place, notes=notes, help=help))
        if len(self.faults) >= _MOST_FAULTS:
            raise AlexcError(*self.faults)

    def warn(
        self, code: str, message: str, place: Place | None = None, *, help: str | None = None
    ) -> None:
        """Keep a warning: what the spec can't say, or what was assumed."""
        self.warnings.append(Diagnostic(code, message, place, severity="warning", help=help))

    def stop(
        self, code: str, message: str, place: Place | None = None, *, help: str | None = None
    ) -> NoReturn:
        """Raise with the faults so far and this one, after which nothing can be judged."""
        self.fault(code, message, place, help=help)
        raise AlexcError(*self.faults)

    def check(self) -> None:
        """Raise if anything was found wrong."""
        if self.faults:
            raise AlexcError(*self.faults)

    # ---- building --------------------------------------------------------------------------------

    def input(self, shape: Shape) -> Value:
        """Say what the net takes, a (channels, height, width)."""
        if len(shape) != 3 or min(shape) < 1 or math.prod(shape) > MAX_ELEMENTS:
            sizes = clip("×".join(map(str, shape[:8])))
            self.stop(
                "import/not-an-image", f"the input would be {sizes}, which is no image's size"
            )
        self.input_shape = shape
        return Value(INPUT, shape)

    def add(
        self,
        origin: Origin,
        kind: type[Op],
        fields: Mapping[str, Any],
        inputs: Sequence[Value | None],
        *,
        name: str | None = None,
        weights: Mapping[str, NDArray[Any]] | None = None,
        init: Mapping[str, Any] | None = None,
        note: str = "",
        listed: bool = True,
    ) -> Value:
        """Add a layer and tell what it gives; a fault of the foreign layer is kept.

        `name` is the one to take, by default the origin's or a conventional one; an input of None
        is the result of a layer that could not be expressed. `listed` is False for what a foreign
        layer does beside its main work, such as the flatten before a fully connected one.
        """
        if len(self.layers) >= MAX_LAYERS:
            self.stop("import/too-many-layers", f"the net has more than {MAX_LAYERS:,} layers")
        if issubclass(kind, Conv | Linear):
            self._weighted += 1
        layer = self.unique(origin.name if name is None else name, kind)
        if listed:
            self.rows.append(Row(origin, layer, note))
        op = self._op(origin, kind, fields)
        known = [value for value in inputs if value is not None]
        if len(known) < len(inputs) and not self.faults:
            message = f"{origin} reads nothing, or what is no part of the net"
            self.fault("import/inputs", message, origin.place)
        shapes = [value.shape for value in known if value.shape is not None]
        shape: Shape | None = None
        if op is not None and len(shapes) == len(inputs) and self._arity(origin, op, len(inputs)):
            try:
                shape = op.output_shape(*shapes)
            except ShapeFault as problem:
                sources = ", ".join(
                    f"{format_shape(value.shape)} from {value.layer}"
                    for value in known
                    if value.shape is not None
                )
                self.fault(
                    problem.code,
                    f"{origin}: {problem.message}",
                    origin.place,
                    notes=(f"it reads {sources}",),
                    help=problem.help,
                )
        if op is not None:
            sources_named = tuple(value.layer for value in known)
            self.layers.append(
                ForeignLayer(layer, op, sources_named, origin, weights, dict(init or {}))
            )
        return Value(layer, shape, _non_negative(kind, known))

    def flat(self, value: Value | None, origin: Origin) -> Value | None:
        """The value as features, through one flatten however many layers read it."""
        if value is None or value.shape is None or len(value.shape) == 1:
            return value
        if value.layer not in self._flat:
            self._flat[value.layer] = self.add(
                origin, Flatten, {}, [value], name="flatten", listed=False
            )
        return self._flat[value.layer]

    def left_out(self, origin: Origin, note: str) -> None:
        """Say that a foreign layer has no counterpart, and why it needs none."""
        self.rows.append(Row(origin, None, note))

    def unique(self, wanted: str, kind: type[Op]) -> str:
        """A name that the language allows and that no layer has, as near as can be to `wanted`."""
        name = allowed_name(wanted)
        if name is None:
            name = conventional_name(kind, self._weighted)
        base, number = name, 2
        while name in self._names:
            name = f"{base}_{number}"
            number += 1
        self._names.add(name)
        return name

    def _op(self, origin: Origin, kind: type[Op], fields: Mapping[str, Any]) -> Op | None:
        try:
            return kind.model_validate(dict(fields))
        except ValidationError as error:
            for detail in error.errors(include_url=False):
                what = ".".join(str(step) for step in detail["loc"] if isinstance(step, str))
                value = clip(str(detail["input"]))
                reason = detail["msg"].replace("Input should be", "must be")
                self.fault(
                    "import/value",
                    f"{origin}: {what} is {value} and can't be: {reason}",
                    origin.place,
                )
            return None

    def _arity(self, origin: Origin, op: Op, count: int) -> bool:
        if count >= op.min_inputs and (op.max_inputs is None or count <= op.max_inputs):
            return True
        wanted = f"{op.min_inputs} or more" if op.max_inputs is None else f"{op.min_inputs}"
        message = f"{origin}: a {origin.type} takes {wanted} inputs and gets {count}"
        self.fault("import/inputs", message, origin.place)
        return False

    # ---- the end ---------------------------------------------------------------------------------

    def finish(
        self,
        name: str | None,
        files: Sequence[Path],
        outputs: Sequence[Value | None],
        *,
        preprocess: dict[str, Any] | None = None,
        train: dict[str, Any] | None = None,
        release: Callable[[], None] = lambda: None,
    ) -> ForeignNet:
        """The whole net. Raises AlexcError with every fault that was found on the way."""
        self.check()
        names = tuple(dict.fromkeys(value.layer for value in outputs if value is not None))
        if self.input_shape is None or not self.layers or not names or INPUT in names:
            self.stop("import/empty", "it holds no net: nothing leads from an input to an output")
        triples = [(layer.name, layer.op, layer.inputs) for layer in self.layers]
        graph = Graph.build(name or "net", self.input_shape, triples, names)
        layers = self._fitted(graph)
        self.check()
        self._check_size(graph, layers, files)
        return ForeignNet(
            self.tool,
            name,
            tuple(files),
            graph,
            layers,
            tuple(self.rows),
            preprocess,
            train,
            tuple(self.notes),
            tuple(self.warnings),
            release=release,
        )

    def _check_size(
        self, graph: Graph, layers: Sequence[ForeignLayer], files: Sequence[Path]
    ) -> None:
        """Refuse weights that take far more bytes than the files that they come from.

        A small file can say of a thousand layers that they share one tensor.
        """
        if all(layer.weights is None for layer in layers):
            return
        needed = 4 * sum(parameter.count for parameter in graph.parameters.values())
        given = sum(file.stat().st_size for file in files)
        if needed > _MOST_GROWTH * given + _FREE_GROWTH:
            self.stop(
                "import/weights-too-large",
                f"its weights would take {needed:,} bytes, and its files have {given:,}",
                help="weights that several layers share can't be said in a spec",
            )

    def _fitted(self, graph: Graph) -> tuple[ForeignLayer, ...]:
        """The layers, each with its weights in the shapes that it needs; a fault if they are not.

        Axes of length 1 in front of a shape are no difference: old files write every shape with
        four axes, and biases as rows of a matrix.
        """
        if all(layer.weights is None for layer in self.layers):
            return tuple(self.layers)
        fitted = []
        for layer in self.layers:
            weights = dict(layer.weights or {})
            parameters = graph.by_name[layer.name].parameters
            if missing := [local for local in parameters if local not in weights]:
                self.fault(
                    "import/missing-weights",
                    f"{layer.origin}: there is no {listing(missing, 'or')} for it in the weights",
                    layer.origin.place,
                    help=self.hints.get(layer.origin.name),
                )
            for local, parameter in parameters.items():
                if (array := weights.get(local)) is None:
                    continue
                if _without_ones(array.shape) == _without_ones(parameter.shape):
                    weights[local] = array.reshape(parameter.shape)
                else:
                    self.fault(
                        "import/weight-shape",
                        f"{layer.origin}: its {local} is {format_shape(array.shape)} "
                        f"and the net needs {format_shape(parameter.shape)}",
                        layer.origin.place,
                    )
            fitted.append(replace(layer, weights=weights))
        return tuple(fitted)


def _without_ones(shape: Shape) -> Shape:
    first = next((i for i, length in enumerate(shape) if length != 1), len(shape))
    return shape[first:]


def _non_negative(kind: type[Op], inputs: Sequence[Value]) -> bool:
    """Whether a layer's results are never below zero, whatever its weights are."""
    if issubclass(kind, Relu | Sigmoid | Softmax):
        return True
    keeps = (MaxPool, AvgPool, AdaptiveAvgPool, Dropout, Lrn, Flatten, Add, Concat)
    return issubclass(kind, keeps) and all(value.non_negative for value in inputs)
