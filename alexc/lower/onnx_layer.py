"""One layer of an ONNX model while it is written, as a row of the dictionary sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from alexc.graph.graph import Node
from alexc.graph.quantization import Quantization
from alexc.lower.onnx_grids import (
    round_to_grid,
    tensor_on_grid,
    weight_alone_on_grid,
    weight_on_grid,
)
from alexc.lower.onnx_model import NUMPY_TYPES, TYPES, ModelWriter
from alexc.ops.base import Op, Shape
from alexc.spec.model import Precision

OpType = TypeVar("OpType", bound=Op)


@dataclass(frozen=True)
class Layer(Generic[OpType]):
    """One layer while it is written: what a row of `to_onnx.LOWERINGS` reads and calls."""

    writer: ModelWriter
    node: Node
    op: OpType  # the node's own, with the type that the row expects

    @property
    def precision(self) -> Precision:
        return self.writer.graph.precision_of(self.node.name)

    @property
    def quantization(self) -> Quantization | None:
        return self.writer.graph.quantized.get(self.node.name)

    def inputs(self) -> list[str]:
        """The names of the inputs, in the layer's precision and on its grid.

        The nodes that bring them there are added, unless a layer before has done it.
        """
        names = [self.writer.tensor_in(source, self.precision) for source in self.node.inputs]
        grid = self.quantization
        if grid is not None and grid.input_step is not None:
            shape, step = self.node.input_shapes[0], grid.input_step
            names[0] = tensor_on_grid(self.writer, names[0], shape, step, grid.input_format)
        return names

    def x(self) -> str:
        """The name of the first input, as `inputs` gives it."""
        return self.inputs()[0]

    def parameters(self) -> dict[str, str]:
        """The names of the weights in the layer's precision and on its grid, by local ones.

        The nodes that bring them there are added.
        """
        wholes = self.node.parameter_names()
        names = {
            local: self.writer.weight_in(whole, self.precision) for local, whole in wholes.items()
        }
        if (grid := self.quantization) is not None:
            put = weight_on_grid if grid.input_step is not None else weight_alone_on_grid
            names["weight"] = put(self.writer, names["weight"], grid.weight_steps, grid.format)
        return names

    def emit(self, op_type: str, inputs: Sequence[str], **attributes: Any) -> None:
        """Add the node that makes the layer's own tensor. An output is made to be fp32."""
        name, precision = self.node.name, self.precision
        add, shape = self.writer.add, self.node.shape
        grid = self.quantization
        if grid is not None and grid.output_step is not None:
            exact = add(f"{name}.exact", shape, "fp32", op_type, inputs, attributes)
            round_to_grid(self.writer, exact, name, shape, grid.output_step, grid.output_format)
        elif precision == "fp32" or name not in self.writer.graph.outputs:
            add(name, shape, precision, op_type, inputs, attributes)
        else:
            computed = f"{name}.{precision}"
            add(computed, shape, precision, op_type, inputs, attributes)
            add(name, shape, "fp32", "Cast", [computed], {"to": TYPES["fp32"]})

    def step(
        self, what: str, shape: Shape, op_type: str, inputs: Sequence[str], **attributes: Any
    ) -> str:
        """Add a node on the way there, and name what it makes `<layer>.<what>`."""
        name = f"{self.node.name}.{what}"
        return self.writer.add(name, shape, self.precision, op_type, inputs, attributes)

    def constant(self, what: str, values: NDArray[Any]) -> str:
        """Write a few numbers into the model, and name them `<layer>.<what>`.

        Fractions are written in the layer's precision.
        """
        if values.dtype.kind == "f":
            values = values.astype(NUMPY_TYPES[self.precision])
        return self.writer.constant(f"{self.node.name}.{what}", values)

    def number(self, what: str, value: float) -> str:
        """Write one number into the model, and name it `<layer>.<what>`."""
        return self.constant(what, np.array(value, np.float32))
