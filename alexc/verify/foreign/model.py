"""A model that another tool exported, as layers: what a reader of such files hands to this room."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from alexc.diagnostics import AlexcError, Diagnostic
from alexc.graph.graph import Graph
from alexc.ops.base import Shape, format_shape

# What a model states of a tensor's shape, its batch included; None is what it leaves open.
Stated = tuple[int | None, ...]


@dataclass(frozen=True, slots=True, eq=False)
class ForeignLayer:
    """One layer of the file, of however many nodes.

    `tensor` is its result, `sources` are the tensors that flow into it. `label` shows it to people;
    `names` are those that a person gave it, the likeliest first. `kind` is the op of the spec
    language, None where it has none. `passes` says that it hands its input on. `shape` is without
    the batch, None where it can't be told. `weights` are by local name, as the op has them.
    """

    tensor: str
    label: str
    kind: str | None
    sources: tuple[str, ...]
    shape: Shape | None = None
    names: tuple[str, ...] = ()
    weights: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    passes: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class ForeignModel:
    """A file with its one input, its outputs with what it states of them, and its layers."""

    path: Path
    producer: str
    input: str
    input_shape: Stated
    outputs: Mapping[str, Stated | None]
    layers: tuple[ForeignLayer, ...]

    @property
    def batch(self) -> int | None:
        """How many images it takes, where it takes no other number of them."""
        return self.input_shape[0]

    def outputs_of(self, graph: Graph) -> dict[str, str]:
        """The file's output for each of the graph's: by name if all agree, else in their order."""
        if set(self.outputs) == set(graph.outputs):
            return {name: name for name in graph.outputs}
        return dict(zip(graph.outputs, self.outputs, strict=True))

    def check(self, graph: Graph) -> None:
        """Raise AlexcError unless what goes in and comes out is what the graph's does."""
        wanted = graph.input_shape
        if not _fits(self.input_shape, wanted):
            given = self.input_shape[1:]
            last = len(given) == len(wanted) and _fits((None, *given), (*wanted[1:], wanted[0]))
            raise AlexcError(
                Diagnostic(
                    "verify/foreign-input",
                    f"{self.path} takes {_shown(self.input_shape)} and {graph.name} takes "
                    f"batch×{format_shape(wanted)}",
                    notes=("its channels are last, and a spec's are first",) if last else (),
                    help="export it with the channels first (tf2onnx: --inputs-as-nchw)"
                    if last
                    else "export it for images of that size, or change the spec's input",
                )
            )
        if len(self.outputs) != len(graph.outputs):
            theirs, ours = ", ".join(self.outputs), ", ".join(graph.outputs)
            raise AlexcError(
                Diagnostic(
                    "verify/foreign-outputs",
                    f"{self.path} gives {len(self.outputs)} ({theirs}) and {graph.name} "
                    f"{len(graph.outputs)} ({ours})",
                    help="`outputs:` in the spec says which layers are",
                )
            )
        wrong = [
            Diagnostic(
                "verify/foreign-outputs",
                f"{self.path} gives {theirs} as {_shown(stated)}, and the spec's {ours} is "
                f"batch×{format_shape(graph.shapes[ours])}",
            )
            for ours, theirs in self.outputs_of(graph).items()
            if (stated := self.outputs[theirs]) is not None
            and not _fits(stated, graph.shapes[ours])
        ]
        if wrong:
            raise AlexcError(*wrong)


def _fits(stated: Stated, shape: Shape) -> bool:
    """Whether a tensor of this shape, without the batch, can be what is stated."""
    return len(stated) == 1 + len(shape) and all(
        size in (None, wanted) for size, wanted in zip(stated[1:], shape, strict=True)
    )


def _shown(stated: Stated) -> str:
    sizes = ["batch" if stated and stated[0] is None else str(stated[0])] if stated else []
    return "×".join([*sizes, *("?" if size is None else str(size) for size in stated[1:])]) or (
        "a single number"
    )
