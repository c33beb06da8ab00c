"""The fully connected layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, final

from pydantic import Field

from alexc.ops.base import (
    Array,
    Op,
    Parameter,
    Positive,
    Shape,
    ShapeFault,
    format_shape,
    require_size,
)


@final
class Linear(Op):
    """A fully connected layer: b = weight · a + bias; weight is (out_features, in_features)."""

    kind: ClassVar[str] = "linear"

    out_features: Positive = Field(
        description="Number of units, which is the number of features of the output.",
        examples=[4096],
    )
    bias: bool = Field(
        True,
        description="Whether a learned number is added to each output feature.",
        examples=[False],
    )

    def output_shape(self, *inputs: Shape) -> Shape:
        (shape,) = inputs
        if len(shape) != 1:
            product = "·".join(map(str, shape))
            raise ShapeFault(
                "shape/not-flat",
                f"linear needs features and gets {format_shape(shape)}",
                help=f"put a flatten before it: {product} = {math.prod(shape)} features",
            )
        require_size("the weight", (self.out_features, *shape), field="out_features")
        return (self.out_features,)

    def parameters(self, *inputs: Shape) -> dict[str, Parameter]:
        (shape,) = inputs
        parameters = {"weight": Parameter((self.out_features, *shape))}
        if self.bias:
            parameters["bias"] = Parameter((self.out_features,))
        return parameters

    def macs(self, *inputs: Shape) -> int:
        ((features,),) = inputs
        return features * self.out_features

    def reference(self, inputs: Sequence[Array], parameters: Mapping[str, Array]) -> Array:
        (vectors,) = inputs
        output: Array = vectors @ parameters["weight"].T
        return output + parameters["bias"] if self.bias else output
