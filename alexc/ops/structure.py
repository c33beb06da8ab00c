"""Ops that rearrange or join tensors: flatten, add, concat."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, final

from alexc.ops.base import Array, Op, Shape, ShapeFault, format_shape, require_size


@final
class Flatten(Op):
    """All numbers of an image as features, in the order channel, row, column (columns fastest)."""

    kind: ClassVar[str] = "flatten"

    def output_shape(self, *inputs: Shape) -> Shape:
        (shape,) = inputs
        return (math.prod(shape),)

    def reference(self, inputs: Sequence[Array], parameters: Mapping[str, Array]) -> Array:
        (values,) = inputs
        return values.reshape(len(values), -1)


@final
class Add(Op):
    """The sum of two or more inputs of one shape."""

    kind: ClassVar[str] = "add"
    min_inputs: ClassVar[int] = 2
    max_inputs: ClassVar[int | None] = None

    def output_shape(self, *inputs: Shape) -> Shape:
        first = inputs[0]
        for other in inputs[1:]:
            if other != first:
                raise ShapeFault(
                    "shape/add",
                    f"cannot add {_listing(inputs)}: {format_shape(other)} differs from "
                    f"{format_shape(first)}",
                    field="inputs",
                    help=_how_to_match(first, other),
                )
        return first

    def reference(self, inputs: Sequence[Array], parameters: Mapping[str, Array]) -> Array:
        total = inputs[0]
        for other in inputs[1:]:
            total = total + other
        return total


@final
class Concat(Op):
    """The inputs' channels (or features), one input after the other."""

    kind: ClassVar[str] = "concat"
    min_inputs: ClassVar[int] = 2
    max_inputs: ClassVar[int | None] = None

    def output_shape(self, *inputs: Shape) -> Shape:
        first = inputs[0]
        for other in inputs[1:]:
            if len(other) != len(first):
                raise ShapeFault(
                    "shape/concat",
                    f"cannot concatenate {_listing(inputs)}: an image and features do not join",
                    field="inputs",
                    help="flatten all of the inputs or none of them",
                )
            if other[1:] != first[1:]:
                wanted = format_shape(first[1:])
                raise ShapeFault(
                    "shape/concat",
                    f"cannot concatenate {_listing(inputs)}: all but the channels must agree, "
                    f"and {format_shape(other[1:])} differs from {wanted}",
                    field="inputs",
                    help=f"make height×width {wanted} in every input; "
                    "stride and padding of the branches set it",
                )
        return require_size("the output", (sum(shape[0] for shape in inputs), *first[1:]))

    def reference(self, inputs: Sequence[Array], parameters: Mapping[str, Array]) -> Array:
        import numpy as np

        return np.concatenate(list(inputs), axis=1)


def _listing(shapes: Sequence[Shape]) -> str:
    return ", ".join(map(format_shape, shapes[:-1])) + " and " + format_shape(shapes[-1])


def _how_to_match(wanted: Shape, given: Shape) -> str:
    """What to change so that an input of shape `given` becomes `wanted`."""
    if len(wanted) != len(given):
        return "flatten all of the inputs or none of them"
    if len(wanted) == 1:
        return f"a linear layer with out_features={wanted[0]} gives {format_shape(wanted)}"
    if wanted[1:] == given[1:]:
        return f"a 1×1 convolution with out_channels={wanted[0]} gives {format_shape(wanted)}"
    return f"make every input {format_shape(wanted)}; stride and padding set height and width"
