"""A net that another tool wrote, in the terms of the spec language: what every importer gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexc.diagnostics import Diagnostic, Place
from alexc.graph.graph import Graph
from alexc.ops.base import Op, Shape
from alexc.spec.names import clip


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asks for beside the file: see `alexc import --help`."""

    weights: Path | None = None
    input_shape: Shape | None = None
    mean: str | None = None
    partial: str | None = None
    like: Path | None = None
    params: Path | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """What one layer is in the file that it comes from; `name` is empty where it has none."""

    name: str
    type: str
    place: Place | None = None

    def __str__(self) -> str:
        return clip(self.name) if self.name else f"{'an' if self._vowel else 'a'} {clip(self.type)}"

    @property
    def _vowel(self) -> bool:
        return self.type[:1].lower() in "aeiou"


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one foreign layer: `layer` in the spec, or none and the `note` why."""

    origin: Origin
    layer: str | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class ForeignLayer:
    """One layer of the new net. Weights are by local name, in the shapes of the op."""

    name: str
    op: Op
    inputs: tuple[str, ...]
    origin: Origin
    weights: Mapping[str, NDArray[Any]] | None
    init: Mapping[str, Any]


@dataclass(frozen=True)
class ForeignNet:
    """A whole net with everything that its file says of it.

    `files` are those that were read; `notes` are paragraphs for the reader of the spec, and
    `preprocess`, `train` and each layer's `init` are data as a spec has them. `release` lets go of
    the memory that the mapped weights take, which stay readable.
    """

    tool: str
    name: str | None
    files: tuple[Path, ...]
    graph: Graph
    layers: tuple[ForeignLayer, ...]
    rows: tuple[Row, ...]
    preprocess: dict[str, Any] | None = None
    train: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[Diagnostic, ...] = ()
    extends: Path | None = None
    release: Callable[[], None] = lambda: None

    @property
    def has_weights(self) -> bool:
        return any(layer.weights is not None for layer in self.layers)

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """Every tensor by its whole name, in the order of `graph.parameters`."""
        named = {layer.name: layer.weights or {} for layer in self.layers}
        return {
            whole: as_float32(named[node.name][local])
            for node in self.graph.nodes
            for local, whole in node.parameter_names().items()
        }


def as_float32(array: NDArray[Any]) -> NDArray[np.float32]:
    """The array in the type of all weights: itself where it is of that type already."""
    with np.errstate(over="ignore"):
        return array.astype("<f4", copy=False)
