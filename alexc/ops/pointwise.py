"""Ops that keep the shape and own no parameters: activations, softmax, dropout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, final

from pydantic import Field

from alexc.ops.base import Array, Op, Shape


class _Pointwise(Op):
    def output_shape(self, *inputs: Shape) -> Shape:
        (shape,) = inputs
        return shape


@final
class Relu(_Pointwise):
    """The rectifier: b = max(a, 0)."""

    kind: ClassVar[str] = "relu"

    def reference(self, inputs: Sequence[Array], parameters: Mapping[str, Array]) -> Array:
        import numpy as np

        (values,) = inputs
        return np.maximum(values, 0.0)


@final
class Tanh(_Pointwise):
    """The hyperbolic tangent: b = (e^a − e^−a) / (e^a + e^−a)."""

    kind: ClassVar[str] = "tanh"

    def reference(self, inputs: Sequence[Array], parameters: Mapping[str, Array]) -> Array:
        import numpy as np

        (values,) = inputs
        return np.tanh(values)


@final
class Sigmoid(_Pointwise):
    """The logistic function: b = 1 / (1 + e^−a)."""

    kind: ClassVar[str] = "sigmoid"

    def reference(self, inputs: Sequence[Array], parameters: Mapping[str, Array]) -> Array:
        import numpy as np

        (values,) = inputs
        # e^−|a| cannot overflow, and neither form loses digits where it is used.
        small = np.exp(-np.abs(values))
        return np.where(values >= 0, 1.0, small) / (1.0 + small)


@final
class Softmax(_Pointwise):
    """Softmax over the features, or over the channels at each pixel: b = e^a / Σ e^a."""

    kind: ClassVar[str] = "softmax"

    def reference(self, inputs: Sequence[Array], parameters: Mapping[str, Array]) -> Array:
        import numpy as np

        (values,) = inputs
        powers = np.exp(values - values.max(axis=1, keepdims=True))
        shares: Array = powers / powers.sum(axis=1, keepdims=True)
        return shares


@final
class Dropout(_Pointwise):
    """In training sets each number to zero with probability p and scales the rest by 1 / (1 − p).

    In inference it does nothing.
    """

    kind: ClassVar[str] = "dropout"

    p: float = Field(
        0.5,
        ge=0,
        lt=1,
        allow_inf_nan=False,
        description="Probability that a number is set to zero while training.",
        examples=[0.5],
    )

    def reference(self, inputs: Sequence[Array], parameters: Mapping[str, Array]) -> Array:
        (values,) = inputs
        return values
