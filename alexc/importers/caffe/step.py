"""One layer of a Caffe net while it is translated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from alexc.importers.builder import Builder, Value
from alexc.importers.caffe.layer import CaffeLayer
from alexc.importers.proto import Message
from alexc.ops.base import Shape

Blobs = Sequence[NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Step:
    """One layer while it is translated: what a row of `OPERATIONS` reads.

    `blobs` are its trained weights, None where the import is without. `scale` is the Scale layer
    that a BatchNorm takes along, with its own blobs.
    """

    builder: Builder
    layer: CaffeLayer
    inputs: Sequence[Value | None]
    blobs: Blobs | None
    scale: CaffeLayer | None = None
    scale_blobs: Blobs | None = None

    @property
    def input(self) -> Value | None:
        return self.inputs[0] if self.inputs else None

    @property
    def input_shape(self) -> Shape | None:
        return self.input.shape if self.input is not None else None

    def parameters(self, name: str, layer: CaffeLayer | None = None) -> Message:
        """The message with the layer's own fields; a field that Caffe doesn't have is a fault."""
        message = (layer or self.layer).message.message(name)
        self.known_fields(message)
        return message

    def known_fields(self, message: Message) -> None:
        for name, offset in message.unknown:
            self.builder.fault(
                "import/unknown-field",
                f"{self.layer.origin}: Caffe's {message.schema.name} has no field {name}",
                message.document.place(offset, len(name)),
                help="a fork of Caffe may give it a meaning, which is not known here",
            )

    def refuse(self, message: str, parameters: Message | None = None, field: str = "") -> None:
        """Keep the fault that this layer says what the language can't."""
        place = parameters.place_of(field) if parameters is not None else self.layer.place
        self.builder.fault("import/unsupported-field", f"{self.layer.origin}: {message}", place)

    def add(
        self,
        kind: Any,
        fields: Mapping[str, Any],
        *,
        inputs: Sequence[Value | None] | None = None,
        weights: Mapping[str, NDArray[Any]] | None = None,
        init: Mapping[str, Any] | None = None,
        note: str = "",
    ) -> Value:
        return self.builder.add(
            self.layer.origin,
            kind,
            fields,
            self.inputs if inputs is None else inputs,
            weights=weights,
            init=init,
            note=note,
        )

    def same(self, note: str) -> Value | None:
        """The layer changes nothing: who reads it reads what it reads."""
        self.builder.left_out(self.layer.origin, note)
        return self.input

    def weights(self, bias: bool) -> dict[str, NDArray[Any]] | None:
        """The blobs by the names that convolutions and fully connected layers give them."""
        if self.blobs is None:
            return None
        wanted = ("weight", "bias")[: 2 if bias else 1]
        if len(self.blobs) > len(wanted):
            self.builder.fault(
                "import/weight-shape",
                f"{self.layer.origin}: there are {len(self.blobs)} blobs of weights for it, "
                f"and it has {len(wanted)}",
                self.layer.place,
            )
        return dict(zip(wanted, self.blobs, strict=False))


def pair(
    step: Step, fields: Message, both: str, rows: str, columns: str, default: int | None
) -> tuple[int, int] | None:
    """A size that is given once for both axes, twice, or by the axes' own fields."""
    if rows and (fields.has(rows) or fields.has(columns)):
        missing = 0 if default is None else default
        return fields.integer(rows, missing), fields.integer(columns, missing)
    values = fields.integers(both)
    if len(values) > 2:
        step.refuse(f"{both} is given for {len(values)} axes, and an image has 2", fields, both)
        return None
    if not values:
        if default is None:
            step.refuse(f"it says no {both}", fields)
            return None
        return default, default
    return values[0], values[-1]
