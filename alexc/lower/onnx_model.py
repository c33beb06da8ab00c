"""An ONNX model while it is written: its nodes, and where each tensor of them comes from.

The weights stay where they are: an initializer says at which byte of the safetensors file its
tensor lies, so that PyTorch and every engine read the same bytes. Constants of a few numbers are
written into the model.

A layer of another precision than fp32 reads its inputs and its weights through a Cast, which an
engine computes once where it is of a weight; so the weights file is the same for all precisions.
Casts are named `<tensor>.<precision>`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from alexc import __version__
from alexc.diagnostics import fault
from alexc.graph.graph import INPUT, Graph
from alexc.graph.quantization import QuantizedFormat
from alexc.ops.base import Shape, format_shape
from alexc.spec.model import Precision
from alexc.weights.store import Extent

# Version of the operators, and of the file format that came with it. The oldest that has all that a
# precision needs: the more engines can read the model.
VERSIONS: dict[Precision, tuple[int, int]] = {"fp32": (19, 9), "fp16": (19, 9), "bf16": (22, 10)}
BATCH = "batch"  # the symbolic first dimension of every tensor

ElementType = Precision | QuantizedFormat | Literal["uint8"]
TYPES: dict[ElementType, int] = {
    "fp32": TensorProto.FLOAT,
    "fp16": TensorProto.FLOAT16,
    "bf16": TensorProto.BFLOAT16,
    "int8": TensorProto.INT8,
    "uint8": TensorProto.UINT8,
    "fp8": TensorProto.FLOAT8E4M3FN,
}
NUMPY_TYPES: dict[ElementType, Any] = {
    "fp32": np.float32,
    "fp16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "int8": np.int8,
    "uint8": np.uint8,
    "fp8": ml_dtypes.float8_e4m3fn,
}


@dataclass
class ModelWriter:
    """The model of a graph, as its parts are added."""

    graph: Graph
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    # What the nodes make of the input, and not of weights: shape without the batch, and type.
    tensors: dict[str, tuple[Shape, ElementType]] = field(default_factory=dict)
    # What has been made of weights, and the constants of a few numbers.
    derived: set[str] = field(default_factory=set)

    def weight(self, name: str, shape: Shape, extent: Extent | None) -> None:
        """Declare a tensor that lies in a file beside the model."""
        if extent is None:
            raise fault("weights/missing", f"{name} is in no weights file")
        if extent.dtype != "F32":
            raise fault(
                "weights/dtype",
                f"{name} is stored as {extent.dtype} in {extent.file}; "
                "the model reads float32 from it",
            )
        if extent.shape != shape:
            raise fault(
                "weights/shape",
                f"{name} is {format_shape(extent.shape)} in {extent.file} "
                f"and {format_shape(shape)} in the spec",
            )
        tensor = TensorProto(name=name, dims=shape, data_type=TensorProto.FLOAT)
        tensor.data_location = TensorProto.EXTERNAL
        place = {"location": extent.file, "offset": extent.offset, "length": extent.length}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        self.initializers.append(tensor)

    def add(
        self,
        name: str,
        shape: Shape,
        type_: ElementType,
        op_type: str,
        inputs: Sequence[str],
        attributes: Mapping[str, Any],
    ) -> str:
        """Add the node that makes the tensor `name`, and return the name."""
        self.nodes.append(helper.make_node(op_type, inputs, [name], name, **attributes))
        self.tensors[name] = (shape, type_)
        return name

    def derive(self, name: str, op_type: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add the node that makes `name` of a weight, unless it is there, and return the name."""
        if name not in self.derived:
            self.derived.add(name)
            self.nodes.append(helper.make_node(op_type, inputs, [name], name, **attributes))
        return name

    def constant(self, name: str, values: NDArray[Any]) -> str:
        """Write a few numbers into the model, unless they are there, and return their name."""
        if name not in self.derived:
            self.derived.add(name)
            self.initializers.append(numpy_helper.from_array(values, name))
        return name

    def tensor_in(self, name: str, precision: Precision) -> str:
        """The name under which the input or a layer's result is to be had in a precision."""
        if name == INPUT or name in self.graph.outputs:
            kept: Precision = "fp32"
            # An output is cast from what its layer computed, which is there to be read.
            if f"{name}.{precision}" in self.tensors:
                return f"{name}.{precision}"
        else:
            kept = self.graph.precision_of(name)
        if kept == precision:
            return name
        cast = f"{name}.{precision}"
        if cast not in self.tensors:
            shape = self.graph.shapes[name]
            self.add(cast, shape, precision, "Cast", [name], {"to": TYPES[precision]})
        return cast

    def weight_in(self, name: str, precision: Precision) -> str:
        """The name under which a weight is to be had in a precision."""
        if precision == "fp32":
            return name
        return self.derive(f"{name}.{precision}", "Cast", [name], to=TYPES[precision])

    def finish(self) -> onnx.ModelProto:
        """The model of all that was added, with the graph's input and outputs."""
        graph = self.graph
        opset, ir_version = max(
            VERSIONS[precision] for precision in ("fp32", *graph.precisions.values())
        )
        body = helper.make_graph(
            nodes=self.nodes,
            name=graph.name,
            inputs=[_tensor(INPUT, graph.input_shape, "uint8" if graph.pixels else "fp32")],
            outputs=[_tensor(name, graph.shapes[name], "fp32") for name in graph.outputs],
            initializer=self.initializers,
            value_info=[
                _tensor(name, shape, type_)
                for name, (shape, type_) in self.tensors.items()
                if name not in graph.outputs
            ],
        )
        return helper.make_model(
            body,
            opset_imports=[helper.make_opsetid("", opset)],
            ir_version=ir_version,
            producer_name="alexc",
            producer_version=__version__,
        )


def _tensor(name: str, shape: Shape, type_: ElementType) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TYPES[type_], [BATCH, *shape])
