"""ONNX models, from alexc and from others, held against ONNX Runtime and against their own nets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from alexc.diagnostics import AlexcError
from alexc.frontend import load_net
from alexc.graph.graph import INPUT, Graph, LrnForm
from alexc.importers.foreign import ForeignNet, Request
from alexc.importers.formats import read_foreign
from alexc.importers.proto import shortest
from alexc.importers.writer import write
from alexc.lower.to_onnx import serialize, to_onnx
from alexc.ops.base import Op
from alexc.ops.conv import Conv
from alexc.ops.dense import Linear
from alexc.ops.norm import BatchNorm, Lrn
from alexc.ops.pointwise import Relu
from alexc.ops.pool import AdaptiveAvgPool, AvgPool, MaxPool
from alexc.ops.structure import Flatten
from alexc.passes.inference import inference
from alexc.passes.lrn_form import lrn_form
from alexc.verify.reference import evaluate
from alexc.weights import store
from alexc.weights.store import Extent
from tests.random_graphs import random_graph, random_weights

SPECS = Path(__file__).resolve().parents[1] / "specs"
Array = NDArray[Any]


def read(path: Path, **request: Any) -> ForeignNet:
    return read_foreign(path, Request(**request))


def fault(path: Path, **request: Any) -> str:
    """The message of the only fault."""
    with pytest.raises(AlexcError) as caught:
        read(path, **request)
    assert len(caught.value.diagnostics) == 1, str(caught.value)
    return f"{caught.value.diagnostics[0].code}: {caught.value.diagnostics[0].message}"


# ---- models that alexc wrote ---------------------------------------------------------------------


def exported(graph: Graph, folder: Path) -> Path:
    """A model of the graph. Its weights are a hole in a file: nothing reads them here."""
    extents, end = {}, 0
    for name, parameter in graph.parameters.items():
        length = 4 * parameter.count
        extents[name] = Extent(end, length, "F32", parameter.shape, "weights.safetensors")
        end += length
    with (folder / "weights.safetensors").open("wb") as file:
        file.truncate(max(end, 1))
    path = folder / "model.onnx"
    path.write_bytes(serialize(to_onnx(graph, extents)))
    return path


def canonical(op: Op, shape: tuple[int, ...]) -> Op:
    """The op as ONNX can tell it: other ops and fields may mean the same function."""
    if isinstance(op, Lrn):
        alpha = shortest(op.alpha_per_window)
        fields = op.model_dump() | {"alpha": alpha, "alpha_per": "window"}
        return Lrn(**fields | {name: shortest(fields[name]) for name in ("beta", "k")})
    if isinstance(op, BatchNorm):
        return BatchNorm(eps=shortest(op.eps), affine=op.affine)
    if isinstance(op, AdaptiveAvgPool):
        rows, columns = (n // m for n, m in zip(shape[1:], op.output_size, strict=True))
        even = (rows * op.output_size[0], columns * op.output_size[1]) == shape[1:]
        if op.output_size == (1, 1) or (rows, columns) == (1, 1) or not even:
            return op
        return AvgPool(kernel_size=(rows, columns))
    if isinstance(op, MaxPool | AvgPool):
        return canonical_pool(op, shape)
    return op


def canonical_pool(op: MaxPool | AvgPool, shape: tuple[int, ...]) -> Op:
    axes = op.axes(shape)
    sides = op.padding
    fields = op.model_dump() | {"stride": None if op.steps == op.kernel_size else op.steps}
    counted = isinstance(op, AvgPool) and op.count_include_pad
    if isinstance(op, AvgPool) and not sides:
        if op.kernel_size == shape[1:]:
            return AdaptiveAvgPool(output_size=(1, 1))
        if op.kernel_size == op.steps == (1, 1):
            return AdaptiveAvgPool(output_size=(shape[1], shape[2]))
        counted = False  # there is none to count
    fields["ceil_mode"] = False
    if counted:
        # Only here what hangs over is not the same as padding: it doesn't count.
        fields["ceil_mode"] = any(axis.overhang for axis in axes)
    else:
        ends = [axis.after + axis.overhang for axis in axes]
        fields["padding"] = {
            "top": sides.top, "left": sides.left, "bottom": ends[0], "right": ends[1]
        }  # fmt: skip
        if isinstance(op, AvgPool):
            fields["count_include_pad"] = not any(fields["padding"].values())
    return type(op)(**fields)


def assert_same(imported: Graph, original: Graph) -> None:
    assert imported.input_shape == original.input_shape
    assert imported.outputs == original.outputs
    assert [node.name for node in imported.nodes] == [node.name for node in original.nodes]
    for ours, theirs in zip(imported.nodes, original.nodes, strict=True):
        assert ours.inputs == theirs.inputs
        found, wanted = (canonical(node.op, theirs.input_shapes[0]) for node in (ours, theirs))
        if isinstance(wanted, Lrn):
            # ONNX keeps its numbers in float32, and some of them only multiplied.
            numbers = [name for name, field in wanted.model_dump().items() if type(field) is float]
            assert found.kind == wanted.kind
            for name in numbers:
                assert getattr(found, name) == pytest.approx(getattr(wanted, name), rel=1e-6)
            found = found.model_copy(update={name: getattr(wanted, name) for name in numbers})
        assert found == wanted, ours.name


def reached(graph: Graph) -> Graph:
    """The graph without layers that no output depends on: a model's outputs don't lead to them."""
    used = set(graph.outputs)
    for node in reversed(graph.nodes):
        if node.name in used:
            used.update(node.inputs)
    layers = [layer for layer in graph.layers() if layer[0] in used]
    return Graph.build(graph.name, graph.input_shape, layers, graph.outputs)


@pytest.mark.parametrize("spec", sorted(SPECS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_spec_comes_back_from_its_model(spec: Path, tmp_path: Path) -> None:
    graph = inference(load_net(spec).graph)
    assert_same(read(exported(graph, tmp_path)).graph, graph)


@pytest.mark.parametrize("seed", range(60))
def test_any_net_comes_back_from_its_model(seed: int, tmp_path: Path) -> None:
    generator = np.random.default_rng(seed)
    graph = reached(inference(random_graph(generator)))
    while any(node.op.kind == "dropout" for node in graph.nodes):
        # One that is an output is an Identity in the model, which tells nothing of it.
        graph = reached(inference(random_graph(generator)))
    assert_same(read(exported(graph, tmp_path)).graph, graph)


@pytest.mark.parametrize("form", ["banded", "windowed"])
@pytest.mark.parametrize(("beta", "k"), [(0.75, 2.0), (0.5, 0.3), (1.0, 1.0), (0.6, 1.5)])
def test_every_form_of_lrn_comes_back(form: LrnForm, beta: float, k: float, tmp_path: Path) -> None:
    op = Lrn(size=5, alpha=1e-4, beta=beta, k=k, alpha_per="window")
    plain = Graph.build("lrn", (7, 5, 4), [("norm1", op, (INPUT,))], ("norm1",))
    assert_same(read(exported(plain, tmp_path)).graph, plain)
    assert_same(read(exported(lrn_form(plain, form), tmp_path)).graph, plain)


def test_weights_come_back_and_the_function_is_the_same(tmp_path: Path) -> None:
    generator = np.random.default_rng(11)
    graph = Graph.build(
        "small",
        (3, 17, 14),
        [
            ("conv1", Conv(out_channels=8, kernel_size=(3, 3), padding=[1, 1], groups=1), (INPUT,)),  # type: ignore[arg-type]
            ("bn1", BatchNorm(affine=False), ("conv1",)),
            ("relu1", Relu(), ("bn1",)),
            ("pool1", MaxPool(kernel_size=(3, 3), stride=(2, 2), ceil_mode=True), ("relu1",)),
            ("flatten", Flatten(), ("pool1",)),
            ("fc2", Linear(out_features=5), ("flatten",)),
        ],
        ("fc2",),
    )
    weights = random_weights(generator, graph)
    extents = store.write(tmp_path / "weights.safetensors", weights)
    (tmp_path / "model.onnx").write_bytes(serialize(to_onnx(graph, extents)))
    done = write(read(tmp_path / "model.onnx"), tmp_path / "spec.yaml")
    assert done.weights is not None
    assert "\nname: small\n" in done.spec.read_text()
    back = store.read(done.weights, load_net(done.spec).graph)
    assert back.keys() == weights.keys()
    for name, array in weights.items():
        np.testing.assert_array_equal(back[name], array)


# ---- models that others wrote --------------------------------------------------------------------


class Models:
    """Makes a model of nodes and constants, as other exporters would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.chance = np.random.default_rng(7)

    def node(
        self, op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any
    ) -> None:
        name = attributes.pop("name", "")
        self.nodes.append(helper.make_node(op, inputs, outputs, name, **attributes))

    def constant(self, name: str, value: Any) -> str:
        self.initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def drawn(self, name: str, *shape: int) -> str:
        return self.constant(name, self.chance.normal(size=shape).astype(np.float32))

    def save(
        self,
        *outputs: str,
        shape: Sequence[int | str] = ("batch", 3, 11, 9),
        opset: int = 17,
        producer: str = "pytorch",  # its names of tensors are no names of layers
    ) -> Path:
        graph = helper.make_graph(
            self.nodes,
            "main_graph",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            self.initializers,
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8
        )
        model.producer_name = producer
        path = self.folder / "model.onnx"
        path.write_bytes(model.SerializeToString())
        return path


@pytest.fixture
def models(tmp_path: Path) -> Models:
    return Models(tmp_path)


def agrees(path: Path, tmp_path: Path, batch: int = 2) -> ForeignNet:
    """Import the model and hold what it computes against ONNX Runtime."""
    net = read(path)
    done = write(net, tmp_path / "net.yaml")
    graph = load_net(done.spec).graph
    images = np.random.default_rng(3).normal(size=(batch, *graph.input_shape)).astype(np.float32)
    weights = store.read(done.weights, graph) if done.weights else {}
    ours = evaluate(graph, weights, images)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for name, theirs in zip(graph.outputs, session.run(None, {"x": images}), strict=True):
        np.testing.assert_allclose(ours[name], theirs, rtol=1e-4, atol=1e-5)
    return net


def kinds(net: ForeignNet) -> dict[str, str]:
    return {layer.name: layer.op.kind for layer in net.layers}


def test_unnamed_layers_get_the_names_that_people_use(models: Models, tmp_path: Path) -> None:
    models.node("Conv", ["x", models.drawn("0", 8, 3, 3, 3), models.drawn("1", 8)], ["10"])
    models.node("Relu", ["10"], ["11"], name="Relu_1")
    models.node("LRN", ["11"], ["12"], size=3, alpha=0.3, beta=0.5, bias=2.0)
    models.node("MaxPool", ["12"], ["13"], kernel_shape=[2, 2], strides=[2, 2])
    models.node("Flatten", ["13"], ["14"])
    models.node("Gemm", ["14", models.drawn("2", 96, 5), models.drawn("3", 5)], ["15"])
    models.node("Dropout", ["15"], ["16", "mask"])
    models.node("Tanh", ["16"], ["17"])
    net = agrees(models.save("17", opset=11), tmp_path)
    assert kinds(net) == {
        "conv1": "conv",
        "relu1": "relu",
        "norm1": "lrn",
        "pool1": "max_pool",
        "flatten": "flatten",
        "fc2": "linear",
        "drop2": "dropout",
        "tanh2": "tanh",
    }


def test_names_of_modules_are_kept(models: Models, tmp_path: Path) -> None:
    weight = models.drawn("features.0.weight", 4, 3, 3, 3)
    models.node("Conv", ["x", weight], ["/a"], name="/features/features.0/Conv")
    models.node("Relu", ["/a"], ["/b"], name="/features/features.1/Relu")
    models.node("Relu", ["/b"], ["/c"], name="/layer1/layer1.0/act/Relu_1")
    net = agrees(models.save("/c"), tmp_path)
    assert list(kinds(net)) == ["features/0", "features/1", "layer1/0/act"]


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("bias", [None, (5,), (1, 5), ()])
def test_gemm(
    models: Models, tmp_path: Path, transposed: bool, bias: tuple[int, ...] | None
) -> None:
    models.node("Flatten", ["x"], ["flat"])
    shape = (5, 297) if transposed else (297, 5)
    inputs = ["flat", models.drawn("w", *shape)]
    if bias is not None:
        inputs.append(models.drawn("b", *bias))
    models.node("Gemm", inputs, ["y"], transB=int(transposed), alpha=0.5, beta=2.0)
    net = agrees(models.save("y"), tmp_path)
    assert net.layers[-1].op == Linear(out_features=5, bias=bias is not None)


@pytest.mark.parametrize("bias", [(5,), (1, 5), (1, 1)])
def test_a_product_and_a_sum_are_a_linear_layer(
    models: Models, tmp_path: Path, bias: tuple[int, ...]
) -> None:
    models.node("Flatten", ["x"], ["flat"])
    models.node("MatMul", ["flat", models.drawn("w", 297, 5)], ["product"], name="fc7/MatMul")
    models.node("Add", [models.drawn("b", *bias), "product"], ["y"], name="fc7/Add")
    net = agrees(models.save("y"), tmp_path)
    assert kinds(net) == {"flatten": "flatten", "fc7": "linear"}


def test_a_convolution_takes_the_bias_that_is_added_to_it(models: Models, tmp_path: Path) -> None:
    models.node("Conv", ["x", models.drawn("w", 4, 3, 3, 3)], ["c"])
    models.node("Add", ["c", models.drawn("b", 1, 4, 1, 1)], ["y"])
    net = agrees(models.save("y"), tmp_path)
    assert net.layers[0].op == Conv(out_channels=4, kernel_size=(3, 3))


@pytest.mark.parametrize("opset", [9, 13, 17])
def test_constants_by_every_way(models: Models, tmp_path: Path, opset: int) -> None:
    weight = models.chance.normal(size=(3, 3, 4, 3)).astype(np.float32)
    models.node("Constant", [], ["w0"], value=numpy_helper.from_array(weight))
    models.node("Transpose", ["w0"], ["w1"], perm=[2, 3, 0, 1])
    models.node("Identity", ["w1"], ["w2"])
    models.node("Conv", ["x", "w2"], ["c"])
    models.node("Shape", ["c"], ["shape"])
    index = models.constant("zero", np.array(0, np.int64))
    models.node("Gather", ["shape", index], ["n"])
    if opset < 13:
        models.node("Unsqueeze", ["n"], ["ns"], axes=[0])
    else:
        models.node("Unsqueeze", ["n", models.constant("axes", np.array([0], np.int64))], ["ns"])
    models.node("Concat", ["ns", models.constant("rest", np.array([-1], np.int64))], ["to"], axis=0)
    models.node("Reshape", ["c", "to"], ["flat"])
    size = models.constant("size", np.array([252, 6], np.int64))
    filled = numpy_helper.from_array(np.array([0.25], np.float32))
    models.node("ConstantOfShape", [size], ["v"], value=filled)
    models.node("Gemm", ["flat", "v", models.drawn("b", 6)], ["y"])
    net = agrees(models.save("y", opset=opset), tmp_path)
    assert kinds(net) == {"conv1": "conv", "flatten": "flatten", "fc2": "linear"}


@pytest.mark.parametrize("value", ["raw", "listed", "half", "brain", "double"])
def test_weights_in_every_type(models: Models, tmp_path: Path, value: str) -> None:
    weight = models.chance.integers(-8, 8, size=(4, 3, 3, 3)).astype(np.float32)
    match value:
        case "raw":
            tensor = numpy_helper.from_array(weight, "w")
        case "listed":
            tensor = helper.make_tensor("w", TensorProto.FLOAT, weight.shape, weight.reshape(-1))
        case "half":
            tensor = numpy_helper.from_array(weight.astype(np.float16), "w")
        case "double":
            tensor = numpy_helper.from_array(weight.astype(np.float64), "w")
        case _:
            bits = (weight.view(np.uint32) >> 16).astype(np.uint16)
            tensor = TensorProto(name="w", dims=weight.shape, data_type=TensorProto.BFLOAT16)
            tensor.raw_data = bits.tobytes()
    models.initializers.append(tensor)
    models.node("Conv", ["x", "w"], ["y"])
    done = write(read(models.save("y")), tmp_path / "net.yaml")
    assert done.weights is not None
    np.testing.assert_array_equal(store.read(done.weights, done.net.graph)["conv1.weight"], weight)


@pytest.mark.parametrize("opset", [7, 11, 18])
def test_a_padding_before_is_folded(models: Models, tmp_path: Path, opset: int) -> None:
    def pad(source: str, output: str, pads: list[int]) -> None:
        if opset < 11:
            models.node("Pad", [source], [output], pads=pads)
        else:
            listed = models.constant(f"pads of {output}", np.array(pads, np.int64))
            models.node("Pad", [source, listed], [output])

    pad("x", "p1", [0, 0, 1, 0, 0, 0, 2, 1])
    models.node("Conv", ["p1", models.drawn("w", 4, 3, 3, 3)], ["c"], pads=[0, 1, 0, 0])
    models.node("Relu", ["c"], ["r"])
    pad("r", "p2", [0, 0, 1, 1, 0, 0, 1, 1])
    models.node("MaxPool", ["p2"], ["m"], kernel_shape=[3, 3], strides=[2, 2])
    pad("m", "p3", [0, 0, 1, 1, 0, 0, 1, 1])
    models.node("AveragePool", ["p3"], ["y"], kernel_shape=[3, 3], strides=[1, 1])
    net = agrees(models.save("y", opset=opset), tmp_path)
    described = [layer.op.model_dump(mode="json")["padding"] for layer in net.layers[::2]]
    assert described[0] == {"top": 1, "left": 1, "bottom": 2, "right": 1}
    assert [layer.op.kind for layer in net.layers] == ["conv", "relu", "max_pool", "avg_pool"]


def test_padding_that_may_win_a_maximum_is_refused(models: Models) -> None:
    pads = models.constant("pads", np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64))
    models.node("Pad", ["x", pads], ["p"])
    models.node("MaxPool", ["p"], ["y"], kernel_shape=[3, 3])
    assert fault(models.save("y")).endswith("is of 0, which may be a maximum")


def test_padding_below_everything_is_folded_into_a_maximum(models: Models, tmp_path: Path) -> None:
    pads = models.constant("pads", np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64))
    models.node("Pad", ["x", pads, models.constant("low", np.float32(-np.inf))], ["p"])
    models.node("MaxPool", ["p"], ["y"], kernel_shape=[3, 3])
    assert kinds(agrees(models.save("y"), tmp_path)) == {"pool1": "max_pool"}


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_automatic_padding(models: Models, tmp_path: Path, auto_pad: str) -> None:
    weight = models.drawn("w", 4, 3, 4, 3)
    models.node("Conv", ["x", weight], ["c"], auto_pad=auto_pad, strides=[2, 1])
    models.node("AveragePool", ["c"], ["y"], auto_pad=auto_pad, kernel_shape=[2, 2])
    agrees(models.save("y"), tmp_path)


@pytest.mark.parametrize("counted", [0, 1])
@pytest.mark.parametrize("ceil", [0, 1])
def test_average_pools(models: Models, tmp_path: Path, counted: int, ceil: int) -> None:
    models.node(
        "AveragePool",
        ["x"],
        ["y"],
        kernel_shape=[3, 3],
        strides=[2, 2],
        pads=[1, 1, 1, 1],
        count_include_pad=counted,
        ceil_mode=ceil,
    )
    net = agrees(models.save("y", opset=19, shape=("batch", 3, 11, 9)), tmp_path)
    assert net.layers[0].op.model_dump()["count_include_pad"] is bool(counted)


@pytest.mark.parametrize(
    ("op", "attributes", "expected"),
    [
        ("GlobalAveragePool", {}, ["adaptive_avg_pool"]),
        ("GlobalMaxPool", {}, ["max_pool"]),
        ("ReduceMean", {"axes": [2, 3]}, ["adaptive_avg_pool"]),
        ("ReduceMean", {"axes": [-1, -2], "keepdims": 0}, ["adaptive_avg_pool", "flatten"]),
        ("AveragePool", {"kernel_shape": [11, 9]}, ["adaptive_avg_pool"]),
    ],
)
def test_pools_of_the_whole_image(
    models: Models, tmp_path: Path, op: str, attributes: dict[str, Any], expected: list[str]
) -> None:
    models.node(op, ["x"], ["y"], **attributes)
    net = agrees(models.save("y", opset=13), tmp_path)
    assert [layer.op.kind for layer in net.layers] == expected


@pytest.mark.parametrize("opset", [7, 9, 14, 17])
def test_batch_norm_of_every_generation(models: Models, tmp_path: Path, opset: int) -> None:
    names = ["bn.weight", "bn.bias", "bn.running_mean"]
    inputs = ["x", *(models.drawn(name, 3) for name in names)]
    inputs.append(models.constant("bn.running_var", np.array([0.5, 1.5, 2.5], np.float32)))
    attributes = {"spatial": 1} if opset < 9 else {}
    models.node("BatchNormalization", inputs, ["y"], epsilon=0.001, momentum=0.99, **attributes)
    net = agrees(models.save("y", opset=opset), tmp_path)
    assert net.layers[0].name == "bn"
    assert net.layers[0].op == BatchNorm(eps=0.001, momentum=0.01)


@pytest.mark.parametrize(
    ("opset", "shape", "axis"), [(11, (3, 1, 1), 1), (13, (3, 4, 5), 1), (11, (3, 1, 1), -3)]
)
def test_softmax_of_both_meanings(
    models: Models, tmp_path: Path, opset: int, shape: tuple[int, ...], axis: int
) -> None:
    models.node("Softmax", ["x"], ["y"], axis=axis)
    agrees(models.save("y", opset=opset, shape=("n", *shape)), tmp_path)


def test_softmax_over_the_whole_image_is_refused(models: Models) -> None:
    models.node("Softmax", ["x"], ["y"])
    assert "softmax goes over channels" in fault(models.save("y", opset=11))


def test_sums_and_joins(models: Models, tmp_path: Path) -> None:
    models.node("Relu", ["x"], ["r"])
    models.node("Tanh", ["x"], ["t"])
    models.node("Sum", ["r", "t", "x"], ["s"])
    models.node("Concat", ["s", "r"], ["y"], axis=-3)
    net = agrees(models.save("y"), tmp_path)
    assert net.layers[-1].inputs == ("add1", "relu1")


def test_a_fixed_batch_is_no_size(models: Models, tmp_path: Path) -> None:
    models.node("Reshape", ["x", models.constant("to", np.array([4, 297], np.int64))], ["y"])
    agrees(models.save("y", shape=(4, 3, 11, 9)), tmp_path, batch=4)


# ---- local response normalisation, written out ---------------------------------------------------


def lrn_of_torch(models: Models, opset: int, *, squeeze_by: str, dynamic: bool) -> None:
    """What PyTorch's exporters write for `LocalResponseNorm(5, alpha=0.2, beta=0.75, k=2)`."""

    def ints(name: str, *values: int) -> str:
        return models.constant(name, np.array(values, np.int64))

    models.node("Mul", ["x", "x"], ["square"])
    if dynamic:
        models.node("Shape", ["x"], ["sizes"])
        for i in range(3):
            models.node("Gather", ["sizes", models.constant(f"i{i}", np.array(i))], [f"n{i}"])
            if opset < 13:
                models.node("Unsqueeze", [f"n{i}"], [f"u{i}"], axes=[0])
            else:
                models.node("Unsqueeze", [f"n{i}", ints(f"a{i}", 0)], [f"u{i}"])
        inputs = ["u0", ints("one", 1), "u1", "u2", ints("minus", -1)]
        models.node("Concat", inputs, ["lifted shape"], axis=0)
        back = "sizes"
    else:
        ints("lifted shape", -1, 1, 3, 11, 9)
        back = ints("flat shape", -1, 3, 11, 9)
    models.node("Reshape", ["square", "lifted shape"], ["lifted"])
    # The pads are counted from the last axis, and turned around by a little program.
    models.node("ConstantOfShape", [ints("four", 4)], ["zeros"],
                value=numpy_helper.from_array(np.array([0], np.int64)))  # fmt: skip
    models.node("Concat", [ints("given", 0, 0, 0, 0, 2, 2), "zeros"], ["ten"], axis=0)
    models.node("Reshape", ["ten", ints("pairs", -1, 2)], ["rows"])
    reverse = [ints("from", -1), ints("past", -(2**63) + 1), ints("axis", 0), ints("step", -1)]
    models.node("Slice", ["rows", *reverse], ["turned"])
    models.node("Transpose", ["turned"], ["columns"], perm=[1, 0])
    models.node("Reshape", ["columns", ints("all", -1)], ["in order"])
    models.node("Cast", ["in order"], ["pads"], to=TensorProto.INT64)
    models.node("Pad", ["lifted", "pads"], ["padded"])
    models.node("AveragePool", ["padded"], ["mean"], kernel_shape=[5, 1, 1], strides=[1, 1, 1])
    if squeeze_by == "if":
        squeezed = helper.make_tensor_value_info("s", TensorProto.FLOAT, None)
        passed = helper.make_tensor_value_info("i", TensorProto.FLOAT, None)
        axes: dict[str, Any] = {"axes": [1]} if opset < 13 else {}
        constants = []
        if opset >= 13:
            value = numpy_helper.from_array(np.array([1], np.int64))
            constants = [helper.make_node("Constant", [], ["ax"], value=value)]
        names = ["mean"] if opset < 13 else ["mean", "ax"]
        then = helper.make_graph(
            [*constants, helper.make_node("Squeeze", names, ["s"], **axes)], "t", [], [squeezed]
        )
        other = helper.make_graph(
            [helper.make_node("Identity", ["mean"], ["i"])], "e", [], [passed]
        )
        models.node("Shape", ["mean"], ["mean sizes"])
        models.node("Gather", ["mean sizes", models.constant("first", np.array(1))], ["length"])
        models.node("Equal", ["length", models.constant("is one", np.array(1))], ["flag"])
        models.node("If", ["flag"], ["dropped"], then_branch=then, else_branch=other)
    elif opset < 13:
        models.node("Squeeze", ["mean"], ["dropped"], axes=[1])
    else:
        models.node("Squeeze", ["mean", ints("squeezed axes", 1)], ["dropped"])
    models.node("Reshape", ["dropped", back], ["mean again"])
    alpha, k, beta = (
        models.constant(name, np.float32(value))
        for name, value in (("alpha", 0.2), ("k", 2), ("beta", 0.75))
    )
    models.node("Mul", ["mean again", alpha], ["scaled"])
    models.node("Add", ["scaled", k], ["base"])
    models.node("Pow", ["base", beta], ["power"])
    models.node("Div", ["x", "power"], ["y"])


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("squeeze_by", ["if", "axis"])
@pytest.mark.parametrize("dynamic", [True, False])
def test_lrn_written_out_is_recognised(
    models: Models, tmp_path: Path, opset: int, squeeze_by: str, dynamic: bool
) -> None:
    lrn_of_torch(models, opset, squeeze_by=squeeze_by, dynamic=dynamic)
    net = agrees(models.save("y", opset=opset), tmp_path)
    assert [layer.op for layer in net.layers] == [
        Lrn(size=5, alpha=0.2, beta=0.75, k=2, alpha_per="window")
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("given", (0, 0, 0, 0, 1, 3)),  # the window lies askew
        ("lifted shape", (-1, 1, 11, 3, 9)),  # over rows
        ("lifted shape", (-1, 3, 1, 11, 9)),
    ],
)
def test_what_only_resembles_lrn_is_refused(
    models: Models, name: str, value: tuple[int, ...]
) -> None:
    lrn_of_torch(models, 17, squeeze_by="axis", dynamic=False)
    (tensor,) = (one for one in models.initializers if one.name == name)
    tensor.CopyFrom(numpy_helper.from_array(np.array(value, np.int64), name))
    with pytest.raises(AlexcError):
        read(models.save("y", opset=17))


# ---- what can't be said --------------------------------------------------------------------------


def test_everything_that_can_not_be_said_is_refused_at_once(models: Models) -> None:
    models.node("Conv", ["x", models.drawn("w", 4, 3, 3, 3)], ["c"], name="first")
    models.node("LeakyRelu", ["c"], ["l"], name="leaky")
    models.node("Thing", ["l"], ["t"], name="thing", domain="vendor")
    models.node("Resize", ["t"], ["y"], name="larger")
    path = models.save("y")
    with pytest.raises(AlexcError) as caught:
        read(path)
    assert [diagnostic.message.split(": ", 1)[1] for diagnostic in caught.value.diagnostics] == [
        "leaky: a spec can't say ONNX's LeakyRelu",
        "thing: a spec can't say ONNX's vendor.Thing",
        "larger: a spec can't say ONNX's Resize",
    ]
    assert caught.value.diagnostics[0].help == "--partial first imports the net up to there"
    assert kinds(read(path, partial="first")) == {"first": "conv"}


def test_layers_behind_a_refused_one_are_neither_faults_nor_where_to_stop(models: Models) -> None:
    models.node("Conv", ["x", models.drawn("w", 4, 3, 3, 3)], ["c"], name="first")
    models.node("Gelu", ["c"], ["g"], name="smooth")
    models.node("LRN", ["g"], ["n"], name="norm", size=5)
    models.node("MaxPool", ["n"], ["y"], name="last", kernel_shape=[3, 3])
    with pytest.raises(AlexcError) as caught:
        read(models.save("y", opset=20))
    (only,) = caught.value.diagnostics
    assert only.code == "import/unsupported-layer"
    assert only.help == "--partial first imports the net up to there"


@pytest.mark.parametrize(
    ("op", "attributes", "code"),
    [
        ("Reshape to rows", {"sizes": [-1, 9]}, "import/unsupported-field"),
        ("Reshape to a batch", {"sizes": [7, 297]}, "import/unsupported-field"),
        ("Flatten", {"axis": 2}, "import/unsupported-field"),
        ("MaxPool", {"kernel_shape": [3]}, "import/unsupported-field"),
        ("MaxPool", {"kernel_shape": [30, 3]}, "shape/kernel-too-large"),
        ("MaxPool", {"kernel_shape": [3, 3], "dilations": [2, 2]}, "import/unsupported-field"),
        ("LRN", {"size": 4}, "import/value"),
        ("Cast", {"to": 7}, "import/unsupported-field"),
        ("Dropout", {"ratio": 1.5}, "import/value"),
        ("Transpose", {"perm": [0, 1, 3, 2]}, "import/unsupported-layer"),
        ("Split", {"axis": 1}, "import/unsupported-layer"),
    ],
    ids=str,
)
def test_a_fault_has_its_code(
    models: Models, op: str, attributes: dict[str, Any], code: str
) -> None:
    inputs = ["x"]
    if "sizes" in attributes:
        inputs.append(models.constant("to", np.array(attributes["sizes"], np.int64)))
        op, attributes = "Reshape", {}
    models.node(op, inputs, ["y"], **attributes)
    assert fault(models.save("y", opset=11)).startswith(code)


def test_old_opsets_unknown_sizes_and_outputs_without_a_node_are_told(models: Models) -> None:
    models.node("Relu", ["x"], ["y"])
    assert fault(models.save("y", opset=6)).startswith("import/too-old")
    unknown = models.save("y", shape=("n", 3, "h", "w"))
    assert fault(unknown).startswith("import/input-size")
    assert read(unknown, input_shape=(3, 5, 4)).graph.shapes["relu1"] == (3, 5, 4)
    assert fault(models.save("y", shape=("n", 3))).startswith("import/not-an-image")
    assert fault(models.save("nowhere")).startswith("import/inputs")


@pytest.mark.parametrize("location", ["../secret", "/etc/hostname", "link", "a/../../secret", ""])
def test_external_data_stays_in_the_folder(models: Models, tmp_path: Path, location: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(b"\0" * 432)
    (folder / "link").symlink_to(tmp_path / "secret")
    tensor = TensorProto(
        name="w", dims=[4, 3, 3, 3], data_type=1, data_location=TensorProto.EXTERNAL
    )
    tensor.external_data.add(key="location", value=location)
    models.folder = folder
    models.initializers.append(tensor)
    models.node("Conv", ["x", "w"], ["y"])
    assert fault(models.save("y")).startswith("import/external-data")


@pytest.mark.parametrize(
    ("offset", "length"), [("0", "433"), ("-1", "432"), ("a", "1"), ("9", "9")]
)
def test_external_data_that_is_not_there_is_refused(
    models: Models, tmp_path: Path, offset: str, length: str
) -> None:
    (tmp_path / "data").write_bytes(b"\0" * 432)
    tensor = TensorProto(
        name="w", dims=[4, 3, 3, 3], data_type=1, data_location=TensorProto.EXTERNAL
    )
    for key, value in (("location", "data"), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=value)
    models.initializers.append(tensor)
    models.node("Conv", ["x", "w"], ["y"])
    assert fault(models.save("y")).startswith("import/damaged")


def test_a_tensor_that_a_thousand_layers_share_is_refused(models: Models) -> None:
    models.drawn("w", 512, 512, 3, 3)
    source = models.drawn("w0", 512, 3, 3, 3)
    models.node("Conv", ["x", source], ["c0"], pads=[1, 1, 1, 1])
    for i in range(60):
        models.node("Conv", [f"c{i}", "w"], [f"c{i + 1}"], pads=[1, 1, 1, 1])
    assert fault(models.save("c60")).startswith("import/weights-too-large")


def test_a_truncated_model_is_refused(models: Models, tmp_path: Path) -> None:
    models.node("Conv", ["x", models.drawn("w", 4, 3, 3, 3)], ["y"])
    data = models.save("y").read_bytes()
    for length in range(0, len(data), 7):
        path = tmp_path / "cut.onnx"
        path.write_bytes(data[:length])
        with pytest.raises(AlexcError):
            read(path)
