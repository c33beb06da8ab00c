"""Graph → ONNX: `LOWERINGS` is the dictionary from each op to the nodes that compute it.

The model is built here and not by an exporter, so that it has the layers' names, one node for one
layer wherever ONNX has the op, and nothing that depends on the batch. Rounding modes are never left
to a backend: every pad is written out, and ceil_mode stays 0, because engines and exporters have
often disagreed on it.

The weights stay where they are: an initializer says at which byte of the safetensors file its
tensor lies, so that PyTorch and every engine read the same bytes. Constants of a few numbers are
written into the model.

A layer of another precision than fp32 reads its inputs and its weights through a Cast, which an
engine computes once where it is of a weight; so the weights file is the same for all precisions.
Casts are named `<tensor>.<precision>`.

A quantized layer reads inputs and weights through QuantizeLinear and DequantizeLinear, for which
engines put integer kernels (the scheme of Jacob et al., 2018). Weights are put on
their grid when the model is loaded, so that here too the file stays as it is. Of a tensor `x` the
numbers of eight bits are called `x.int8`, `x.uint8` or `x.fp8`, and what they stand for
`x.rounded`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from alexc import __version__
from alexc.diagnostics import fault
from alexc.graph.graph import INPUT, Graph, Node, Precision
from alexc.graph.quantization import Quantization, QuantizedFormat
from alexc.ops.base import Op, Shape, format_shape
from alexc.ops.conv import Conv
from alexc.ops.dense import Linear
from alexc.ops.norm import BatchNorm, Lrn
from alexc.ops.pixels import Pixels
from alexc.ops.pointwise import Dropout, Relu, Sigmoid, Softmax, Tanh
from alexc.ops.pool import AdaptiveAvgPool, AvgPool, MaxPool
from alexc.ops.structure import Add, Concat, Flatten
from alexc.ops.window import Axis
from alexc.weights.store import Extent

# Version of the operators, and of the file format that came with it. The oldest that has all that a
# precision needs: the more engines can read the model.
VERSIONS: dict[Precision, tuple[int, int]] = {"fp32": (19, 9), "fp16": (19, 9), "bf16": (22, 10)}
BATCH = "batch"  # the symbolic first dimension of every tensor

ElementType = Precision | QuantizedFormat | Literal["uint8"]
OpType = TypeVar("OpType", bound=Op)


def to_onnx(graph: Graph, extents: Mapping[str, Extent]) -> onnx.ModelProto:
    """The model of a graph in its inference form (see `passes.inference`).

    `extents` says where each of the graph's weights lies: in which file beside the model, and at
    which bytes. The input is called `input`, uint8 if the graph takes pixels, each layer's result
    as the layer; where a layer takes several nodes, the tensors between them are
    `<layer>.<what it is>`. The first dimension of every tensor is the symbol `batch`.

    Raises AlexcError if a weight is not in `extents`, or is not float32 of the graph's shape.
    """
    writer = _Writer(graph)
    for name, parameter in graph.parameters.items():
        writer.weight(name, parameter.shape, extents.get(name))
    for node in graph.nodes:
        LOWERINGS[type(node.op)](_Layer(writer, node, node.op))
    opset, ir_version = max(
        VERSIONS[precision] for precision in ("fp32", *graph.precisions.values())
    )
    body = helper.make_graph(
        nodes=writer.nodes,
        name=graph.name,
        inputs=[_tensor(INPUT, graph.input_shape, "uint8" if graph.pixels else "fp32")],
        outputs=[_tensor(name, graph.shapes[name]) for name in graph.outputs],
        initializer=writer.initializers,
        value_info=[
            _tensor(name, shape, type_)
            for name, (shape, type_) in writer.tensors.items()
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


def serialize(model: onnx.ModelProto) -> bytes:
    """The model's bytes, the same for the same model on every run."""
    data: bytes = model.SerializeToString(deterministic=True)
    return data


# ---- writing -------------------------------------------------------------------------------------


@dataclass
class _Writer:
    """The parts of the model, as they grow."""

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
            self.add(cast, shape, precision, "Cast", [name], {"to": _TYPES[precision]})
        return cast

    def weight_in(self, name: str, precision: Precision) -> str:
        """The name under which a weight is to be had in a precision."""
        if precision == "fp32":
            return name
        return self.derive(f"{name}.{precision}", "Cast", [name], to=_TYPES[precision])

    def rounded(self, name: str, shape: Shape, step: float, format: QuantizedFormat) -> str:
        """The name under which a tensor is to be had on a grid."""
        rounded = f"{name}.rounded"
        if rounded not in self.tensors:
            self.round(name, rounded, shape, step, format)
        return rounded

    def round(
        self, name: str, rounded: str, shape: Shape, step: float, format: QuantizedFormat
    ) -> None:
        """Add the two nodes that put the tensor `name` on a grid and call the result `rounded`."""
        grid = self._grid(rounded.removesuffix(".rounded"), np.float32(step), format)
        small = f"{rounded.removesuffix('.rounded')}.{format}"
        self.add(small, shape, format, "QuantizeLinear", [name, *grid], {})
        self.add(rounded, shape, "fp32", "DequantizeLinear", [small, *grid], {})

    def rounded_weight(self, name: str, steps: Sequence[float], format: QuantizedFormat) -> str:
        """The name under which a weight is to be had on a grid for each output channel."""
        grid = self._grid(name, np.array(steps, np.float32), format)
        small = self.derive(f"{name}.{format}", "QuantizeLinear", [name, *grid], axis=0)
        return self.derive(f"{name}.rounded", "DequantizeLinear", [small, *grid], axis=0)

    def weight_of_integers(self, name: str, steps: Sequence[float], format: QuantizedFormat) -> str:
        """The name under which the weight of a linear layer is to be had that is rounded alone.

        Not by QuantizeLinear and DequantizeLinear: for these engines look for layers whose input is
        rounded, too, and where it is not, OpenVINO (2026.4) writes the weights out in float32 and
        ONNX Runtime (1.31) does so on every run. A cast from int8 that is scaled OpenVINO keeps as
        int8, and ONNX Runtime computes once.
        """
        column = np.array(steps, np.float32)[:, np.newaxis]
        step = self.constant(f"{name}.step", column)
        info = np.iinfo(_NUMPY_TYPES[format])
        limits = [
            self.constant(f"{format}.{what}", np.array(value, np.float32))
            for what, value in (("least", info.min), ("most", info.max))
        ]
        scaled = self.derive(f"{name}.scaled", "Div", [name, step])
        whole = self.derive(f"{name}.whole", "Round", [scaled])
        inside = self.derive(f"{name}.inside", "Clip", [whole, *limits])
        small = self.derive(f"{name}.{format}", "Cast", [inside], to=_TYPES[format])
        back = self.derive(f"{name}.back", "Cast", [small], to=_TYPES["fp32"])
        return self.derive(f"{name}.rounded", "Mul", [back, step])

    def _grid(self, name: str, steps: Any, format: QuantizedFormat) -> list[str]:
        """The steps, and the zero point that says the type: all zeros, as TensorRT wants it."""
        zeros = np.zeros(np.shape(steps), _NUMPY_TYPES[format])
        return [
            self.constant(f"{name}.step", np.asarray(steps)),
            self.constant(f"{name}.zero", zeros),
        ]


@dataclass(frozen=True)
class _Layer(Generic[OpType]):
    """One layer while it is written: what a row of `LOWERINGS` reads and calls."""

    writer: _Writer
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
            names[0] = self.writer.rounded(names[0], shape, step, grid.input_format)
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
            round_weight = self.writer.rounded_weight
            if grid.input_step is None:
                round_weight = self.writer.weight_of_integers
            names["weight"] = round_weight(names["weight"], grid.weight_steps, grid.format)
        return names

    def emit(self, op_type: str, inputs: Sequence[str], **attributes: Any) -> None:
        """Add the node that makes the layer's own tensor. An output is made to be fp32."""
        name, precision = self.node.name, self.precision
        add, shape = self.writer.add, self.node.shape
        grid = self.quantization
        if grid is not None and grid.output_step is not None:
            exact = add(f"{name}.exact", shape, "fp32", op_type, inputs, attributes)
            self.writer.round(exact, name, shape, grid.output_step, grid.output_format)
        elif precision == "fp32" or name not in self.writer.graph.outputs:
            add(name, shape, precision, op_type, inputs, attributes)
        else:
            computed = f"{name}.{precision}"
            add(computed, shape, precision, op_type, inputs, attributes)
            add(name, shape, "fp32", "Cast", [computed], {"to": _TYPES["fp32"]})

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
            values = values.astype(_NUMPY_TYPES[self.precision])
        return self.writer.constant(f"{self.node.name}.{what}", values)

    def number(self, what: str, value: float) -> str:
        """Write one number into the model, and name it `<layer>.<what>`."""
        return self.constant(what, np.array(value, np.float32))


_TYPES: dict[ElementType, int] = {
    "fp32": TensorProto.FLOAT,
    "fp16": TensorProto.FLOAT16,
    "bf16": TensorProto.BFLOAT16,
    "int8": TensorProto.INT8,
    "uint8": TensorProto.UINT8,
    "fp8": TensorProto.FLOAT8E4M3FN,
}
_NUMPY_TYPES: dict[ElementType, Any] = {
    "fp32": np.float32,
    "fp16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "int8": np.int8,
    "uint8": np.uint8,
    "fp8": ml_dtypes.float8_e4m3fn,
}


def _tensor(name: str, shape: Shape, type_: ElementType = "fp32") -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, _TYPES[type_], [BATCH, *shape])


# ---- the dictionary ------------------------------------------------------------------------------


def _pixels(layer: _Layer[Pixels]) -> None:
    """A Cast, which TensorRT wants to be the first, and x = p · factor + offset by channels.

    What would change nothing is left out.
    """
    op, shape = layer.op, layer.node.shape
    mean, std = np.array(op.mean), np.array(op.std)
    factor, offset = op.scale / std, -mean / std
    arithmetic = [("Mul", "factor", factor)] if np.any(factor != 1) else []
    arithmetic += [("Add", "offset", offset)] if np.any(offset) else []
    if not arithmetic:
        layer.emit("Cast", [INPUT], to=_TYPES["fp32"])
        return
    x = layer.step("float", shape, "Cast", [INPUT], to=_TYPES["fp32"])
    for op_type, what, values in arithmetic:
        constant = layer.constant(what, values[:, np.newaxis, np.newaxis].astype(np.float32))
        if what == arithmetic[-1][1]:
            layer.emit(op_type, [x, constant])
        else:
            x = layer.step("scaled", shape, op_type, [x, constant])


def _conv(layer: _Layer[Conv]) -> None:
    weights = layer.parameters()
    layer.emit(
        "Conv",
        [layer.x(), *weights.values()],
        kernel_shape=layer.op.kernel_size,
        strides=layer.op.stride,
        pads=_pads(layer.op.axes(layer.node.input_shapes[0])),
        dilations=layer.op.dilation,
        group=layer.op.groups,
    )


def _linear(layer: _Layer[Linear]) -> None:
    layer.emit("Gemm", [layer.x(), *layer.parameters().values()], transB=1)


def _max_pool(layer: _Layer[MaxPool]) -> None:
    axes = layer.op.axes(layer.node.input_shapes[0])
    layer.emit(
        "MaxPool",
        [layer.x()],
        kernel_shape=layer.op.kernel_size,
        strides=layer.op.steps,
        pads=_pads(axes),
    )


def _avg_pool(layer: _Layer[AvgPool]) -> None:
    """What hangs over the edge must not count in the divisor, even where the padding does.

    ONNX has one switch for both. So where there are both, the padding becomes part of the image.
    """
    shape = layer.node.input_shapes[0]
    rows, columns = layer.op.axes(shape)
    overhang = [0, 0, rows.overhang, columns.overhang]
    x, pads, counted = layer.x(), _pads((rows, columns)), layer.op.count_include_pad
    if counted and any(overhang):
        if layer.op.padding:
            p = layer.op.padding
            sides = np.array([0, 0, p.top, p.left, 0, 0, p.bottom, p.right], np.int64)
            padded = (shape[0], rows.padded, columns.padded)
            x = layer.step("padded", padded, "Pad", [x, layer.constant("pads", sides)])
        pads, counted = overhang, False
    layer.emit(
        "AveragePool",
        [x],
        kernel_shape=layer.op.kernel_size,
        strides=layer.op.steps,
        pads=pads,
        count_include_pad=int(counted),
    )


def _adaptive_avg_pool(layer: _Layer[AdaptiveAvgPool]) -> None:
    """Bins of one size are an ordinary pool. Others are two products: rows · image · columnsᵀ."""
    channels, height, width = layer.node.input_shapes[0]
    down, across = layer.op.output_size
    if height % down == 0 and width % across == 0:
        size = [height // down, width // across]
        layer.emit("AveragePool", [layer.x()], kernel_shape=size, strides=size)
        return
    rows, columns = layer.op.bins((channels, height, width))
    average_rows = layer.constant("average_rows", _averaging(rows, height))
    average_columns = layer.constant("average_columns", _averaging(columns, width).T.copy())
    bands = layer.step("rows", (channels, down, width), "MatMul", [average_rows, layer.x()])
    layer.emit("MatMul", [bands, average_columns])


def _lrn(layer: _Layer[Lrn]) -> None:
    op = layer.op
    if op.region == "within_channel":
        _lrn_within_channel(layer)
        return
    if (form := layer.writer.graph.forms.get(layer.node.name)) is not None:
        base = _lrn_base_banded(layer) if form == "banded" else _lrn_base_windowed(layer)
        layer.emit("Div", [layer.x(), _raised(layer, base, op.beta)])
        return
    # ONNX divides its alpha by size.
    fields: dict[str, Any] = {"size": op.size, "alpha": op.alpha_per_window, "beta": op.beta}
    if op.k.is_integer():
        layer.emit("LRN", [layer.x()], bias=op.k, **fields)
        return
    # OpenVINO (2026.4) cuts k down to a whole number. With k taken out of the bracket,
    # a / (k + A·Σ)^β = k^−β · a / (1 + (A / k)·Σ)^β, there is no other than 1.
    fields["alpha"] /= op.k
    unscaled = layer.step("unscaled", layer.node.shape, "LRN", [layer.x()], bias=1.0, **fields)
    layer.emit("Mul", [unscaled, layer.number("scale", op.k**-op.beta)])


def _lrn_base_banded(layer: _Layer[Lrn]) -> str:
    """k + A · Σ a² as a 1×1 convolution of the squares.

    Its weight (channel, neighbour) is A where they are at most size // 2 apart, and 0 elsewhere.
    """
    channels = layer.node.shape[0]
    apart = np.abs(np.subtract.outer(np.arange(channels), np.arange(channels)))
    band = np.where(apart <= layer.op.size // 2, layer.op.alpha_per_element, 0.0)
    square = layer.step("square", layer.node.shape, "Mul", [layer.x(), layer.x()])
    weight = layer.constant("band", band.astype(np.float32)[:, :, np.newaxis, np.newaxis])
    bias = layer.constant("k", np.full(channels, layer.op.k, np.float32))
    return layer.step("base", layer.node.shape, "Conv", [square, weight, bias], kernel_shape=[1, 1])


def _lrn_base_windowed(layer: _Layer[Lrn]) -> str:
    """k + A · Σ a² from the average over a window of channels, which are taken for an image's rows.

    Beyond the first and the last channel are zeros, which count in the average.
    """
    channels, height, width = shape = layer.node.shape
    reach = layer.op.size // 2
    square = layer.step("square", shape, "Mul", [layer.x(), layer.x()])
    rows = (1, channels, height * width)
    as_rows = layer.constant("as_rows", np.array([0, *rows], np.int64))
    column = layer.step("rows", rows, "Reshape", [square, as_rows])
    mean = layer.step(
        "mean",
        rows,
        "AveragePool",
        [column],
        kernel_shape=[layer.op.size, 1],
        pads=[reach, 0, reach, 0],
        count_include_pad=1,
    )
    as_channels = layer.constant("as_channels", np.array([0, *shape], np.int64))
    window = layer.step("window", shape, "Reshape", [mean, as_channels])
    alpha = layer.number("alpha", layer.op.alpha_per_window)
    scaled = layer.step("scaled", shape, "Mul", [window, alpha])
    return layer.step("base", shape, "Add", [scaled, layer.number("k", layer.op.k)])


def _raised(layer: _Layer[Lrn], base: str, exponent: float) -> str:
    """The tensor `base` raised to `exponent`: by roots where they give it, since a power costs more
    than all the rest. d^¾ = √d · √√d."""
    shape = layer.node.shape
    if exponent == 1.0:
        return base
    if exponent not in (0.5, 0.75):
        return layer.step("power", shape, "Pow", [base, layer.number("beta", exponent)])
    root = layer.step("root", shape, "Sqrt", [base])
    if exponent == 0.5:
        return root
    fourth = layer.step("fourth_root", shape, "Sqrt", [root])
    return layer.step("power", shape, "Mul", [root, fourth])


def _lrn_within_channel(layer: _Layer[Lrn]) -> None:
    """ONNX has no such op: x / (k + alpha · mean of squares)^beta, node by node."""
    shape = layer.node.shape
    window: dict[str, Any] = {"kernel_shape": [layer.op.size] * 2, "pads": [layer.op.size // 2] * 4}
    square = layer.step("square", shape, "Mul", [layer.x(), layer.x()])
    mean = layer.step("mean", shape, "AveragePool", [square], count_include_pad=1, **window)
    alpha = layer.number("alpha", layer.op.alpha_per_window)
    scaled = layer.step("scaled", shape, "Mul", [mean, alpha])
    base = layer.step("base", shape, "Add", [scaled, layer.number("k", layer.op.k)])
    power = layer.step("power", shape, "Pow", [base, layer.number("beta", layer.op.beta)])
    layer.emit("Div", [layer.x(), power])


def _batch_norm(layer: _Layer[BatchNorm]) -> None:
    names = layer.parameters()
    channels = layer.node.shape[0]
    if not layer.op.affine:
        names["weight"] = layer.constant("ones", np.ones(channels, np.float32))
        names["bias"] = layer.constant("zeros", np.zeros(channels, np.float32))
    order = ("weight", "bias", "running_mean", "running_var")
    inputs = [layer.x(), *(names[name] for name in order)]
    layer.emit("BatchNormalization", inputs, epsilon=layer.op.eps)


def _sum(layer: _Layer[Add]) -> None:
    inputs = layer.inputs()
    layer.emit("Add" if len(inputs) == 2 else "Sum", inputs)


def _one_node(op_type: str, **attributes: Any) -> Callable[[_Layer[Any]], None]:
    """The lowering of an op that ONNX has under another name."""
    return lambda layer: layer.emit(op_type, layer.inputs(), **attributes)


def _pads(axes: tuple[Axis, Axis]) -> list[int]:
    """Padding as ONNX lists it: top, left, bottom, right, the last two with what hangs over."""
    return [axis.before for axis in axes] + [axis.after + axis.overhang for axis in axes]


def _averaging(bins: Sequence[tuple[int, int]], size: int) -> NDArray[np.float32]:
    """The matrix (bins, size) whose product with `size` pixels is the average of each bin."""
    matrix = np.zeros((len(bins), size), np.float32)
    for row, (first, last) in zip(matrix, bins, strict=True):
        row[first:last] = 1 / (last - first)
    return matrix


# What each op is in ONNX.
LOWERINGS: dict[type[Op], Callable[[_Layer[Any]], None]] = {
    Conv: _conv,
    Linear: _linear,
    MaxPool: _max_pool,
    AvgPool: _avg_pool,
    AdaptiveAvgPool: _adaptive_avg_pool,
    Lrn: _lrn,
    BatchNorm: _batch_norm,
    Relu: _one_node("Relu"),
    Tanh: _one_node("Tanh"),
    Sigmoid: _one_node("Sigmoid"),
    Softmax: _one_node("Softmax", axis=1),
    Dropout: _one_node("Identity"),  # only where it is an output: see passes.inference
    Flatten: _one_node("Flatten", axis=1),
    Add: _sum,
    Concat: _one_node("Concat", axis=1),
    Pixels: _pixels,  # where the model normalises: see passes.read_pixels
}
