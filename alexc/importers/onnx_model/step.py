"""One layer of an ONNX model while it is translated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alexc.importers.builder import Builder, Value
from alexc.importers.onnx_model.evaluation import NotConstantError
from alexc.importers.onnx_model.model import Model
from alexc.importers.onnx_model.node import Node
from alexc.importers.onnx_model.plan import Planned
from alexc.importers.onnx_model.tensors import Array
from alexc.ops.base import Shape, format_shape


class Refused(Exception):  # noqa: N818  (it becomes a Diagnostic, and is no error of the program)
    """This node says what the language can't; the message says what."""


@dataclass(frozen=True, slots=True)
class Step:
    """One layer while it is translated: what a row of `OPERATIONS` reads."""

    builder: Builder
    model: Model
    planned: Planned
    inputs: Sequence[Value | None]
    name: str

    @property
    def node(self) -> Node:
        return self.planned.main

    @property
    def input(self) -> Value | None:
        return self.inputs[0] if self.inputs else None

    @property
    def shape(self) -> Shape | None:
        return self.input.shape if self.input is not None else None

    def add(
        self,
        kind: Any,
        fields: Mapping[str, Any],
        *,
        weights: Mapping[str, Array] | None = None,
        inputs: Sequence[Value | None] | None = None,
        note: str = "",
    ) -> Value:
        return self.builder.add(
            self.planned.node.origin,
            kind,
            fields,
            self.inputs if inputs is None else inputs,
            name=self.name,
            # A layer without weights has them all, which `None` would deny.
            weights=weights or {},
            note=note,
        )

    def same(self, note: str) -> Value | None:
        self.builder.left_out(self.planned.node.origin, note)
        return self.input

    def constant(self, position: int, what: str) -> Array:
        """An input that must be known: a weight, or a size."""
        try:
            return self.model.constant(self.node.input(position))
        except NotConstantError:
            raise Refused(f"its {what} is computed while the net runs") from None

    def image(self) -> tuple[int, int, int] | None:
        """The input's shape if it is an image's; None where a fault lies further up."""
        shape = self.shape
        if shape is None:
            return None
        if len(shape) != 3:
            raise Refused(f"it needs an image and gets {format_shape(shape)}")
        return (shape[0], shape[1], shape[2])


def pair(node: Node, name: str, default: int) -> tuple[int, int]:
    """A size for rows and one for columns, or the default for both."""
    values = node.integers(name)
    if values is None:
        return (default, default)
    if len(values) != 2:
        raise Refused(f"its {name} are given for {len(values)} axes, and an image has 2")
    return (values[0], values[1])
