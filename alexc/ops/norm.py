"""Normalisation: local response normalisation, whose convention must be stated; batch norm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal, final

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from alexc.ops.base import Array, Op, Parameter, Positive, Shape, require_image


def _odd(size: int) -> int:
    if size % 2 == 0:
        raise PydanticCustomError(
            "even_window",
            "a window of {size} has no middle: libraries disagree on where it lies; "
            "{below} and {above} have one",
            {"size": size, "below": size - 1, "above": size + 1},
        )
    return size


@final
class Lrn(Op):
    """Local response normalisation: b = a / (k + A · Σ a²)^beta.

    The sum runs over the `size` channels around a's own (fewer at the first and last channels), or
    over the size×size pixels around a in its own channel (fewer at the edges). A is alpha, or alpha
    over the number of elements of a whole window: sources differ, so alpha_per says which.
    """

    kind: ClassVar[str] = "lrn"

    size: Annotated[Positive, AfterValidator(_odd)] = Field(
        description="Number of neighbouring channels, or side of the window in pixels; odd.",
        examples=[5],
        json_schema_extra={"not": {"multipleOf": 2}},
    )
    alpha: float = Field(
        ge=0,
        allow_inf_nan=False,
        description="Weight of the sum of squares; what it is per, alpha_per says.",
        examples=[1e-4],
    )
    beta: float = Field(
        gt=0, allow_inf_nan=False, description="Exponent of the denominator.", examples=[0.75]
    )
    k: float = Field(
        gt=0, allow_inf_nan=False, description="Constant in the denominator.", examples=[2.0]
    )
    alpha_per: Literal["element", "window"] = Field(
        description="`element`: each square is weighted by alpha (the 2012 paper, TensorFlow). "
        "`window`: by alpha / size, or alpha / size² within a channel (Caffe, PyTorch, ONNX).",
        examples=["element"],
    )
    region: Literal["across_channels", "within_channel"] = Field(
        "across_channels",
        description="What the window spans: neighbouring channels at one pixel, or neighbouring "
        "pixels of one channel.",
        examples=["within_channel"],
    )

    @property
    def window_elements(self) -> int:
        """Elements of a whole window: size, or size² within a channel."""
        return self.size if self.region == "across_channels" else self.size**2

    @property
    def alpha_per_element(self) -> float:
        """The A of the formula."""
        return self.alpha if self.alpha_per == "element" else self.alpha / self.window_elements

    @property
    def alpha_per_window(self) -> float:
        """The alpha of PyTorch and ONNX, which divide it by the window's elements themselves."""
        return self.alpha if self.alpha_per == "window" else self.alpha * self.window_elements

    def output_shape(self, *inputs: Shape) -> Shape:
        (shape,) = inputs
        return require_image(self.kind, shape)

    def reference(self, inputs: Sequence[Array], parameters: Mapping[str, Array]) -> Array:
        import numpy as np
        from numpy.lib.stride_tricks import sliding_window_view

        (images,) = inputs
        squares = images * images
        spanned = (1,) if self.region == "across_channels" else (2, 3)
        for axis in spanned:
            # Neighbours past an edge add nothing, and a window wider than the axis sees all of it.
            reach = min(self.size // 2, squares.shape[axis])
            sides = [(reach, reach) if a == axis else (0, 0) for a in range(4)]
            windows = sliding_window_view(np.pad(squares, sides), 2 * reach + 1, axis=axis)
            squares = np.zeros_like(squares)
            for place in range(2 * reach + 1):
                squares += windows[..., place]
        normalised: Array = images / (self.k + self.alpha_per_element * squares) ** self.beta
        return normalised


@final
class BatchNorm(Op):
    """Batch normalisation: b = (a − mean) / √(variance + eps) · weight + bias, for each channel.

    In inference mean and variance are the running statistics; in training those of the batch, over
    the batch and all pixels.
    """

    kind: ClassVar[str] = "batch_norm"

    eps: float = Field(
        1e-5,
        gt=0,
        allow_inf_nan=False,
        description="Added to the variance, so that a constant channel can be divided.",
        examples=[1e-3],
    )
    momentum: float = Field(
        0.1,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Weight of a new batch in the running statistics, as PyTorch counts it "
        "(TensorFlow and Caffe state one minus this).",
        examples=[0.01],
    )
    affine: bool = Field(
        True,
        description="Whether a learned weight and bias follow for each channel.",
        examples=[False],
    )

    def output_shape(self, *inputs: Shape) -> Shape:
        (shape,) = inputs
        return shape

    def parameters(self, *inputs: Shape) -> dict[str, Parameter]:
        ((channels, *_),) = inputs
        parameters = {}
        if self.affine:
            parameters = {"weight": Parameter((channels,)), "bias": Parameter((channels,))}
        parameters["running_mean"] = Parameter((channels,), trainable=False)
        parameters["running_var"] = Parameter((channels,), trainable=False)
        return parameters

    def reference(self, inputs: Sequence[Array], parameters: Mapping[str, Array]) -> Array:
        import numpy as np

        (values,) = inputs
        per_channel = (-1, *[1] * (values.ndim - 2))
        p = {name: array.reshape(per_channel) for name, array in parameters.items()}
        output: Array = (values - p["running_mean"]) / np.sqrt(p["running_var"] + self.eps)
        return output * p["weight"] + p["bias"] if self.affine else output
