"""What every op has in common: its fields, its rules, and how it says that shapes don't fit.

A shape is that of one image, without the batch axis: `(channels, height, width)` or `(features,)`.
The batch is symbolic everywhere; arrays carry it as their first axis.

Only references compute with numpy, and they import it themselves: it takes longer to load than
everything else that checking a spec needs.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Shape = tuple[int, ...]
Array: TypeAlias = "NDArray[np.float64]"

# No backend takes a tensor with more elements than a signed 32-bit index can count. A typing error
# such as `out_channels: 100000000` must end in a message, not in a lack of memory.
MAX_ELEMENTS = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Parameter:
    """One tensor of weights that an op owns. The statistics of batch norm are not trainable."""

    shape: Shape
    trainable: bool = True

    @property
    def count(self) -> int:
        return math.prod(self.shape)


class ShapeFault(Exception):  # noqa: N818  (it becomes a Diagnostic, and is no error of the program)
    """Shapes that don't fit an op.

    The message holds the arithmetic with its numbers; `field` names the field to blame; `help`
    says what would fit. Where the input came from is added by the graph, which knows.
    """

    def __init__(
        self, code: str, message: str, *, field: str | None = None, help: str | None = None
    ):
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field
        self.help = help


class Record(BaseModel):
    """A mapping of the spec language: frozen, without unknown keys, no value converted."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Op(Record, ABC):
    """What a layer does. The validated fields are the attributes of the graph node: no other copy.

    A subclass states its name in the spec language (`kind`), how many inputs it takes, and the
    four rules below, which must agree with each other.
    """

    kind: ClassVar[str]
    min_inputs: ClassVar[int] = 1
    max_inputs: ClassVar[int | None] = 1

    @abstractmethod
    def output_shape(self, *inputs: Shape) -> Shape:
        """The shape of the result for these input shapes. Raises ShapeFault if they don't fit."""

    def parameters(self, *inputs: Shape) -> dict[str, Parameter]:
        """The op's own tensors by name (`weight`, `bias`), for input shapes known to fit."""
        return {}

    def macs(self, *inputs: Shape) -> int:
        """Multiply–accumulates per image. Only products of weights with activations count."""
        return 0

    @abstractmethod
    def reference(self, inputs: Sequence[Array], parameters: Mapping[str, Array]) -> Array:
        """The op's value in float64, in inference: the oracle that every backend is held against.

        Arrays are `(batch, *shape)`. Written from the formula, in numpy alone, never with the help
        of a backend.
        """


def format_shape(shape: Shape) -> str:
    """`(96, 27, 27)` as people write it: 96×27×27."""
    return "×".join(map(str, shape)) if shape else "scalar"


def require_image(op: str, shape: Shape) -> tuple[int, int, int]:
    """The shape as (channels, height, width). Raises ShapeFault if it is not an image."""
    if len(shape) != 3:
        raise ShapeFault(
            "shape/not-an-image",
            f"{op} needs channels×height×width and gets {format_shape(shape)}",
            help="put it before the flatten",
        )
    return shape[0], shape[1], shape[2]


def require_size(what: str, shape: Shape, *, field: str | None = None) -> Shape:
    """The shape itself. Raises ShapeFault if it has more elements than any backend can index."""
    if (elements := math.prod(shape)) > MAX_ELEMENTS:
        raise ShapeFault(
            "shape/too-large",
            f"{what} would be {format_shape(shape)} = {elements:,} numbers",
            field=field,
            help=f"a tensor holds at most {MAX_ELEMENTS:,} numbers",
        )
    return shape


# ---- fields --------------------------------------------------------------------------------------

Positive = Annotated[int, Field(ge=1, le=2**31 - 1)]
NonNegative = Annotated[int, Field(ge=0, le=2**31 - 1)]


def as_tuple(value: Any) -> Any:
    """A list of the file as the tuple that a field holds."""
    return tuple(value) if isinstance(value, list) else value


AsTuple = BeforeValidator(as_tuple)


def _as_pair(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return (value, value)
    return as_tuple(value)


def _one_or_two(number: dict[str, Any]) -> list[dict[str, Any]]:
    """The schemas of one number for both axes, and of a list of two."""
    return [number, {"type": "array", "items": number, "minItems": 2, "maxItems": 2}]


# One number for both axes, or [height, width].
Pair = Annotated[
    tuple[Positive, Positive],
    BeforeValidator(_as_pair),
    WithJsonSchema({"anyOf": _one_or_two({"type": "integer", "minimum": 1})}),
]


class Padding(Record):
    """Rows and columns added on each side; in a spec 2, or [rows, columns], or sides by name."""

    top: NonNegative = 0
    left: NonNegative = 0
    bottom: NonNegative = 0
    right: NonNegative = 0

    @property
    def symmetric(self) -> bool:
        return self.top == self.bottom and self.left == self.right

    def __bool__(self) -> bool:
        return any((self.top, self.left, self.bottom, self.right))


def _as_padding(value: Any) -> Any:
    pair = _as_pair(value)
    if isinstance(pair, tuple) and len(pair) == 2:
        return {"top": pair[0], "left": pair[1], "bottom": pair[0], "right": pair[1]}
    return value


_SIDE = {"type": "integer", "minimum": 0}
PaddingField = Annotated[
    Padding,
    BeforeValidator(_as_padding),
    WithJsonSchema(
        {
            "anyOf": [
                *_one_or_two(_SIDE),
                {
                    "type": "object",
                    "properties": dict.fromkeys(("top", "left", "bottom", "right"), _SIDE),
                    "additionalProperties": False,
                },
            ]
        }
    ),
]
