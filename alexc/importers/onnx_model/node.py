"""One node of an ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from alexc.importers.foreign import Origin
from alexc.importers.proto import Message


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One node; `index` is its place in the model. Attributes are read by their names."""

    index: int
    op: str
    name: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Message]

    @property
    def origin(self) -> Origin:
        return Origin(self.name or (self.outputs[0] if self.outputs else ""), self.op)

    @property
    def output(self) -> str:
        return self.outputs[0] if self.outputs else ""

    def input(self, position: int) -> str:
        """The name of an input, empty where it is left out."""
        return self.inputs[position] if position < len(self.inputs) else ""

    def integer(self, name: str, default: int = 0) -> int:
        return self.attributes[name].integer("i") if name in self.attributes else default

    def number(self, name: str, default: float) -> float:
        return self.attributes[name].number("f") if name in self.attributes else default

    def text(self, name: str, default: str) -> str:
        if name not in self.attributes:
            return default
        values = self.attributes[name].values.get("s", [b""])
        return bytes(values[-1]).decode("utf-8", "replace")

    def integers(self, name: str) -> list[int] | None:
        return self.attributes[name].integers("ints") if name in self.attributes else None


def nodes_of(graph: Message) -> list[Node]:
    """The nodes of a graph in its order."""
    return [
        Node(
            index,
            message.text("op_type"),
            message.text("name"),
            message.text("domain"),
            tuple(message.texts("input")),
            tuple(message.texts("output")),
            {one.text("name"): one for one in message.messages("attribute")},
        )
        for index, message in enumerate(graph.messages("node"))
    ]
