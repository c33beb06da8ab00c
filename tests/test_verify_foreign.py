"""Files of another exporter held against a spec: what passes, what is caught, and what is told."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from alexc.diagnostics import AlexcError, UsageError
from alexc.graph.graph import Graph
from alexc.importers.onnx_model.layers import read_layers
from alexc.ops.base import Op, Padding
from alexc.ops.conv import Conv
from alexc.ops.dense import Linear
from alexc.ops.norm import BatchNorm, Lrn
from alexc.ops.pointwise import Dropout, Relu, Softmax, Tanh
from alexc.ops.pool import MaxPool
from alexc.ops.structure import Add, Concat, Flatten
from alexc.verify.foreign.crosscheck import verify_foreign
from alexc.verify.foreign.match import match
from alexc.verify.foreign.report import ForeignReport
from alexc.weights import store
from tests.command_line import Alexc, alexc
from tests.small_specs import Project, project

__all__ = ["alexc", "project"]  # fixtures

IMAGE = (3, 11, 13)
PADDED = Padding(top=1, left=1, bottom=1, right=1)
Weights = dict[str, NDArray[np.float32]]

SPEC = """\
alexc: 1
name: small
input: {channels: 3, height: 11, width: 13}
layers:
  conv1: {op: conv, out_channels: 8, kernel_size: 3, padding: 1}
  relu1: relu
  norm1: {op: lrn, size: 5, alpha: 0.5, beta: 0.75, k: 2, alpha_per: window}
  pool1: {op: max_pool, kernel_size: 3, stride: 2}
  conv2: {op: conv, out_channels: 6, kernel_size: 3, padding: 1, groups: 2}
  relu2: relu
  flat: flatten
  drop: {op: dropout, p: 0.5}
  fc3: {op: linear, out_features: 7}
  relu3: relu
  fc4: {op: linear, out_features: 7}
"""


def chain(*layers: tuple[str, Op]) -> Graph:
    names = ["input", *(name for name, _ in layers)]
    triples = [(name, op, (before,)) for (name, op), before in zip(layers, names, strict=False)]
    return Graph.build("small", IMAGE, triples, (names[-1],))


GRAPH = chain(
    ("conv1", Conv(out_channels=8, kernel_size=(3, 3), padding=PADDED)),
    ("relu1", Relu()),
    ("norm1", Lrn(size=5, alpha=0.5, beta=0.75, k=2.0, alpha_per="window")),
    ("pool1", MaxPool(kernel_size=(3, 3), stride=(2, 2))),
    ("conv2", Conv(out_channels=6, kernel_size=(3, 3), padding=PADDED, groups=2)),
    ("relu2", Relu()),
    ("flat", Flatten()),
    ("drop", Dropout(p=0.5)),
    ("fc3", Linear(out_features=7)),
    ("relu3", Relu()),
    ("fc4", Linear(out_features=7)),
)


def features() -> list[nn.Module]:
    return [
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.LocalResponseNorm(5, alpha=0.5, beta=0.75, k=2.0),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(8, 6, 3, padding=1, groups=2),
        nn.ReLU(),
    ]


def head() -> list[nn.Module]:
    return [nn.Flatten(), nn.Dropout(), nn.Linear(180, 7), nn.ReLU(), nn.Linear(7, 7)]


def export(modules: list[nn.Module], file: Path, *, batch: int = 0, newest: bool = False) -> Path:
    """torch.onnx.export's file of these modules; of a fixed batch if one is given."""
    torch.manual_seed(5)
    net = nn.Sequential(*modules).eval()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    images = (torch.zeros(batch or 2, *IMAGE),)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if newest:
            sizes = ({0: torch.export.Dim("batch")},)
            torch.onnx.export(  # noqa: TID251  (it is what is verified)
                net, images, file, dynamo=True, dynamic_shapes=sizes, verbose=False
            )
        else:
            axes = {} if batch else {"x": {0: "n"}}
            torch.onnx.export(  # noqa: TID251
                net, images, file, dynamo=False, input_names=["x"], dynamic_axes=axes
            )
    return file


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The net of `GRAPH` under names of PyTorch's, which no test may change."""
    return export([*features(), *head()], tmp_path_factory.mktemp("exported") / "net.onnx")


@dataclass(frozen=True)
class Planting:
    """Changes a copy of a file and holds it against the spec."""

    source: Path
    folder: Path

    def verify(self, change: Callable[[onnx.ModelProto], Any], **options: Any) -> ForeignReport:
        model = onnx.load(str(self.source))
        change(model)
        file = self.folder / "changed.onnx"
        onnx.save(model, str(file))
        return check(file, **options)


@pytest.fixture
def planting(exported: Path, tmp_path: Path) -> Planting:
    return Planting(exported, tmp_path)


def check(file: Path, graph: Graph = GRAPH, **options: Any) -> ForeignReport:
    model = read_layers(file, graph.input_shape)
    return verify_foreign(
        graph, model, **{"isolate": False, "backends": ["onnxruntime"], **options}
    )


def node(model: onnx.ModelProto, op: str, index: int = 0) -> onnx.NodeProto:
    found: onnx.NodeProto = [each for each in model.graph.node if each.op_type == op][index]
    return found


def set_attribute(target: onnx.NodeProto, name: str, value: Any) -> None:
    kept = [attribute for attribute in target.attribute if attribute.name != name]
    del target.attribute[:]
    target.attribute.extend([*kept, helper.make_attribute(name, value)])


def fault_of(call: Callable[[], Any]) -> str:
    with pytest.raises(AlexcError) as caught:
        call()
    first = caught.value.diagnostics[0]
    return f"{first.code}: {first.message}"


# ---- what passes ---------------------------------------------------------------------------------


def test_an_exported_net_is_verified_layer_by_layer(exported: Path) -> None:
    report = check(exported, backends=None)
    assert report.passed, report.to_json()
    assert {(b.backend, b.passed) for b in report.backends} == {
        ("onnxruntime", True),
        ("openvino", True),
    }
    assert report.matched.keys() == {n.name for n in GRAPH.nodes} - {"drop"}
    assert report.no_counterpart == {"drop": "acts in training only"}
    held = {(row.layer, row.check) for row in report.rows}
    assert {("norm1", "alone"), ("norm1", "provoked"), ("norm1", "end_to_end")} <= held
    assert ("fc4", "shipped") in held
    assert not any(row.layer == "drop" for row in report.rows)


def test_names_do_not_matter(planting: Planting) -> None:
    def rename(model: onnx.ModelProto) -> None:
        names: dict[str, str] = {}

        def new(name: str) -> str:
            return names.setdefault(name, f"t{len(names)}") if name else ""

        def within(graph: onnx.GraphProto) -> None:
            for each in graph.node:
                each.name = ""
                each.input[:] = map(new, each.input)
                each.output[:] = map(new, each.output)
                for attribute in each.attribute:
                    if attribute.HasField("g"):
                        within(attribute.g)
            for value in (*graph.initializer, *graph.input, *graph.output):
                value.name = new(value.name)
            del graph.value_info[:]

        within(model.graph)

    report = planting.verify(rename)
    assert report.passed, report.to_json()
    assert report.matched.keys() == {n.name for n in GRAPH.nodes} - {"drop"}
    assert set(report.matched.values()) <= {f"t{i}" for i in range(500)}


def test_a_batch_norm_that_was_folded_is_verified_with_its_convolution(tmp_path: Path) -> None:
    graph = chain(
        ("conv1", Conv(out_channels=8, kernel_size=(3, 3), bias=False)),
        ("bn1", BatchNorm()),
        ("relu1", Relu()),
    )
    modules = [nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    file = export(modules, tmp_path / "folded.onnx")
    report = check(file, graph)
    assert report.passed, report.to_json()
    assert report.no_counterpart == {"conv1": "the file has it and bn1 in one"}
    assert {row.layer for row in report.rows} == {"bn1", "relu1"}
    state = {name: tensor.numpy() for name, tensor in nn.Sequential(*modules).state_dict().items()}
    of_file = {"0": "conv1", "1": "bn1"}
    weights = {
        f"{of_file[index]}.{local}": array
        for name, array in state.items()
        for index, local in [name.split(".")]
        if local != "num_batches_tracked"
    }
    assert check(file, graph, weights=weights).passed
    weights["bn1.running_mean"] = weights["bn1.running_mean"] + np.float32(0.01)
    report = check(file, graph, weights=weights)
    assert report.first_divergence is not None
    assert report.first_divergence.layer == "bn1"


def test_a_file_for_one_image_is_run_on_one_after_the_other(tmp_path: Path) -> None:
    file = export([*features(), *head()], tmp_path / "one.onnx", batch=1)
    report = check(file, batch=3)
    assert report.passed, report.to_json()
    assert "the file takes 1 at a time, and was run so" in report.notes


def test_weights_beside_the_file_are_read_there(exported: Path, tmp_path: Path) -> None:
    model = onnx.load(str(exported))
    file = tmp_path / "beside.onnx"
    onnx.save(model, str(file), save_as_external_data=True, location="w.bin", size_threshold=0)
    assert check(file, backends=None).passed
    (tmp_path / "w.bin").unlink()
    assert fault_of(lambda: check(file)) == f"file/missing: there is no file {tmp_path / 'w.bin'}"


def test_the_same_function_in_other_steps_passes(tmp_path: Path) -> None:
    """A ReLU after the pool is the same as one before it, and nothing in the file is that one."""
    graph = chain(
        ("conv1", Conv(out_channels=8, kernel_size=(3, 3))),
        ("relu1", Relu()),
        ("pool1", MaxPool(kernel_size=(3, 3), stride=(2, 2))),
        ("conv2", Conv(out_channels=5, kernel_size=(2, 2))),
    )
    modules = [nn.Conv2d(3, 8, 3), nn.MaxPool2d(3, 2), nn.ReLU(), nn.Conv2d(8, 5, 2)]
    report = check(export(modules, tmp_path / "swapped.onnx"), graph)
    assert report.passed, report.to_json()
    assert set(report.matched) < {"conv1", "relu1", "pool1", "conv2"}
    assert {"conv1", "conv2"} <= set(report.matched)


def test_branches_in_another_order_are_found_by_what_they_read(tmp_path: Path) -> None:
    graph = Graph.build(
        "branches",
        IMAGE,
        [
            ("a", Conv(out_channels=4, kernel_size=(1, 1)), ("input",)),
            ("ra", Relu(), ("a",)),
            ("b", Conv(out_channels=4, kernel_size=(3, 3), padding=PADDED), ("input",)),
            ("nb", Lrn(size=3, alpha=1.0, beta=0.5, k=1.0, alpha_per="window"), ("b",)),
            ("both", Add(), ("ra", "nb")),
            ("twice", Concat(), ("both", "nb")),
        ],
        ("twice",),
    )
    generator = np.random.default_rng(3)
    names = {"wa": (4, 3, 1, 1), "wb": (4, 3, 3, 3)}
    drawn = {n: generator.standard_normal(s).astype(np.float32) for n, s in names.items()}
    bias = {n: np.zeros(4, np.float32) for n in ("ba", "bb")}
    nodes = [
        helper.make_node("Conv", ["x", "wb", "bb"], ["p"], pads=[1, 1, 1, 1]),
        helper.make_node("LRN", ["p"], ["q"], size=3, alpha=1.0, beta=0.5, bias=1.0),
        helper.make_node("Conv", ["x", "wa", "ba"], ["r"]),
        helper.make_node("Relu", ["r"], ["s"]),
        helper.make_node("Add", ["s", "q"], ["t"]),
        helper.make_node("Concat", ["t", "q"], ["u"], axis=1),
    ]
    file = by_hand(tmp_path, nodes, {**drawn, **bias}, {"u": (8, 11, 13)})
    report = check(file, graph)
    assert report.passed, report.to_json()
    assert report.matched == {"a": "r", "ra": "s", "b": "p", "nb": "q", "both": "t", "twice": "u"}


def by_hand(
    folder: Path,
    nodes: list[onnx.NodeProto],
    weights: Weights,
    outputs: dict[str, tuple[int | str, ...]],
    inputs: dict[str, tuple[int | str, ...]] | None = None,
    **options: Any,
) -> Path:
    graph = helper.make_graph(
        nodes,
        "hand",
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ("n", *shape))
            for name, shape in (inputs or {"x": IMAGE}).items()
        ],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ("n", *shape))
            for name, shape in outputs.items()
        ],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", options.get("opset", 17)), helper.make_opsetid("own", 1)]
    path = folder / "hand.onnx"
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


def test_layers_that_are_written_otherwise_are_found(tmp_path: Path) -> None:
    """As Keras's files have them: automatic padding, a product and a sum, a pad of its own."""
    graph = chain(
        ("conv1", Conv(out_channels=8, kernel_size=(3, 3), padding=PADDED)),
        ("act1", Tanh()),
        ("conv2", Conv(out_channels=5, kernel_size=(3, 3), stride=(2, 2), padding=PADDED)),
        ("flat", Flatten()),
        ("fc3", Linear(out_features=7)),
        ("prob", Softmax()),
    )
    generator = np.random.default_rng(4)

    def drawn(*shape: int) -> NDArray[np.float32]:
        return generator.standard_normal(shape).astype(np.float32)

    weights: Any = {
        "k1": drawn(8, 3, 3, 3), "b1": drawn(8), "k2": drawn(5, 8, 3, 3), "m": drawn(210, 7),
        "b3": drawn(7), "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "flat": np.array([-1, 210]),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "k1", "b1"], ["a"], auto_pad="SAME_UPPER"),
        helper.make_node("Tanh", ["a"], ["b"]),
        helper.make_node("Identity", ["b"], ["b2"]),
        helper.make_node("Pad", ["b2", "pads"], ["c"]),
        helper.make_node("Conv", ["c", "k2"], ["d"], strides=[2, 2]),
        helper.make_node("Reshape", ["d", "flat"], ["e"]),
        helper.make_node("MatMul", ["e", "m"], ["f"]),
        helper.make_node("Add", ["f", "b3"], ["g"]),
        helper.make_node("Softmax", ["g"], ["h"]),
        helper.make_node("Identity", ["h"], ["out"]),
    ]
    report = check(by_hand(tmp_path, nodes, weights, {"out": (7,)}), graph, backends=None)
    assert report.passed, report.to_json()
    assert report.matched == {
        "conv1": "a", "act1": "b", "conv2": "d", "flat": "e", "fc3": "g", "prob": "h",
    }  # fmt: skip
    alone = {row.layer for row in report.rows if row.check == "alone"}
    assert alone == set(report.matched)


# ---- what is caught ------------------------------------------------------------------------------


def alpha(model: onnx.ModelProto) -> None:
    """The constant that the average of squares is multiplied by."""
    for each in model.graph.node:
        value = each.attribute[0].t if each.op_type == "Constant" else None
        if value is not None and not value.dims and numpy_helper.to_array(value) == 0.5:
            value.CopyFrom(numpy_helper.from_array(np.array(0.1, np.float32)))


def shifted(model: onnx.ModelProto) -> None:
    set_attribute(node(model, "Conv", 1), "pads", [0, 0, 2, 2])


def smaller(model: onnx.ModelProto) -> None:
    set_attribute(node(model, "MaxPool"), "strides", [1, 1])


def not_reset(model: onnx.ModelProto) -> None:
    node(model, "Relu", 1).op_type = "Identity"


def other_activation(model: onnx.ModelProto) -> None:
    node(model, "Relu", 1).op_type = "Sigmoid"


def other_pooling(model: onnx.ModelProto) -> None:
    node(model, "MaxPool").op_type = "AveragePool"


@pytest.mark.parametrize(
    ("plant", "layer", "kind"),
    [
        (alpha, "norm1", "local"),
        (shifted, "conv2", "local"),
        (other_activation, "relu2", "local"),
        (other_pooling, "pool1", "local"),
    ],
)
def test_a_fault_in_the_file_is_localised_in_the_spec(
    planting: Planting, plant: Callable[[onnx.ModelProto], None], layer: str, kind: str
) -> None:
    report = planting.verify(plant, backends=None)
    assert not report.passed
    first = report.first_divergence
    assert first is not None
    assert (first.layer, first.kind) == (layer, kind)
    assert any(note.startswith(f"{layer} is {report.matched[layer]} (") for note in report.notes)
    assert all(result.passed is False for result in report.backends)
    before = {row.layer for row in report.rows if row.passed}
    assert "relu1" in before


def without_relu(index: int) -> Callable[[onnx.ModelProto], None]:
    """The file without a ReLU: what read it reads what it read."""

    def removed(model: onnx.ModelProto) -> None:
        gone = node(model, "Relu", index)
        model.graph.node.remove(gone)
        for each in model.graph.node:
            each.input[:] = [gone.input[0] if n == gone.output[0] else n for n in each.input]

    return removed


@pytest.mark.parametrize(
    ("plant", "layer", "behind"),
    [
        (not_reset, "relu2", "flat"),
        (without_relu(0), "relu1", "norm1"),
        (without_relu(1), "relu2", "flat"),
        (without_relu(2), "relu3", "fc4"),
    ],
)
def test_a_layer_that_is_missing_is_named(
    planting: Planting, plant: Callable[[onnx.ModelProto], None], layer: str, behind: str
) -> None:
    report = planting.verify(plant, backends=None)
    assert not report.passed
    assert report.no_counterpart[layer] == "the file has no relu in its place"
    first = report.first_divergence
    assert first is not None
    assert (first.layer, first.kind) == (layer, "wiring")
    assert f"{behind} reads there what {layer} should read: {layer} is missing" in report.notes
    assert {(row.backend, row.message) for row in report.rows if row.layer == layer} == {
        (result.backend, "not there") for result in report.backends
    }


def test_layers_in_another_order_are_a_fault(tmp_path: Path) -> None:
    first, second, norm, pool, *rest = features()
    report = check(export([first, second, pool, norm, *rest, *head()], tmp_path / "other.onnx"))
    assert not report.passed
    assert report.first_divergence is not None
    assert report.first_divergence.layer in ("norm1", "pool1")


def test_a_shape_that_differs_is_told(planting: Planting) -> None:
    """The linear layer does not fit any more: the file can't run, and that is no pass."""
    report = planting.verify(smaller)
    assert not report.passed
    (result,) = report.backends
    assert result.passed is False
    assert result.status.startswith("failed: ")
    wrong = {row.layer for row in report.rows if not row.passed and row.check == "alone"}
    assert "pool1" in wrong


def test_weights_that_are_not_those_meant_are_named(planting: Planting, exported: Path) -> None:
    model = read_layers(exported, IMAGE)
    pairs = match(GRAPH, model).pairs
    meant = {
        whole: np.array(pairs[each.name].weights[local], np.float32)
        for each in GRAPH.nodes
        for local, whole in each.parameter_names().items()
    }
    assert check(exported, weights=meant).passed

    def transpose(model: onnx.ModelProto) -> None:
        set_attribute(node(model, "Gemm", 1), "transB", 0)

    assert planting.verify(transpose).passed  # whose weights they are nobody said
    report = planting.verify(transpose, weights=meant)
    assert report.first_divergence is not None
    assert report.first_divergence.layer == "fc4"
    assert report.first_divergence.check == "parameters"
    (row,) = [row for row in report.rows if row.check == "parameters" and not row.passed]
    assert row.message is not None
    assert row.message.startswith("fc4.weight differs from the weights in ")


def test_a_bias_that_the_spec_does_not_have_is_a_fault(tmp_path: Path) -> None:
    graph = chain(
        ("conv1", Conv(out_channels=8, kernel_size=(3, 3), bias=False)), ("relu1", Relu())
    )
    report = check(export([nn.Conv2d(3, 8, 3), nn.ReLU()], tmp_path / "bias.onnx"), graph)
    assert report.first_divergence is not None
    assert report.first_divergence.layer == "conv1"
    messages = [row.message for row in report.rows if row.check == "parameters"]
    assert messages == ["the file adds a bias to conv1, which has none in the spec"]


def test_an_output_that_goes_on_after_the_specs_is_a_fault(tmp_path: Path) -> None:
    graph = chain(("conv1", Conv(out_channels=8, kernel_size=(3, 3))))
    report = check(export([nn.Conv2d(3, 8, 3), nn.Softmax(1)], tmp_path / "more.onnx"), graph)
    assert not report.passed
    failing = {(row.layer, row.check) for row in report.rows if not row.passed}
    assert failing == {("conv1", "shipped")}
    assert any(
        note.startswith("in the file alone: ") and "Softmax" in note for note in report.notes
    )


def written_out(shift: int) -> tuple[list[onnx.NodeProto], Weights]:
    """ReLU, an LRN over a band of channels, a softmax over all numbers, in single steps."""
    away = np.subtract.outer(np.arange(3), np.arange(3)) + shift
    band = np.where(np.abs(away) <= 1, 0.25, 0).astype(np.float32).reshape(3, 3, 1, 1)
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Mul", ["r", "r"], ["s"]),
        helper.make_node("Conv", ["s", "band", "k"], ["d"]),
        helper.make_node("Pow", ["d", "beta"], ["q"]),
        helper.make_node("Div", ["r", "q"], ["n"]),
        helper.make_node("Flatten", ["n"], ["f"]),
        helper.make_node("ReduceMax", ["f"], ["m"], axes=[1], keepdims=1),
        helper.make_node("Sub", ["f", "m"], ["g"]),
        helper.make_node("Exp", ["g"], ["e"]),
        helper.make_node("ReduceSum", ["e", "axes"], ["t"], keepdims=1),
        helper.make_node("Div", ["e", "t"], ["p"]),
    ]
    weights: Any = {
        "band": band, "k": np.full(3, 2, np.float32), "beta": np.array(0.5, np.float32),
        "axes": np.array([1]),
    }  # fmt: skip
    return nodes, weights


WRITTEN_OUT = chain(
    ("relu1", Relu()),
    ("norm1", Lrn(size=3, alpha=0.75, beta=0.5, k=2.0, alpha_per="window")),
    ("flat", Flatten()),
    ("prob", Softmax()),
)


def test_what_is_written_out_in_an_unknown_way_is_found_by_its_place(tmp_path: Path) -> None:
    """A shifted window is no LRN that anybody would recognise, nor is a softmax in five steps."""
    report = check(by_hand(tmp_path, *written_out(0), {"p": (429,)}), WRITTEN_OUT)
    assert report.passed, report.to_json()
    assert report.matched == {"relu1": "r", "norm1": "n", "flat": "f", "prob": "p"}
    report = check(by_hand(tmp_path, *written_out(1), {"p": (429,)}), WRITTEN_OUT)
    first = report.first_divergence
    assert first is not None
    assert (first.layer, first.kind, report.matched["norm1"]) == ("norm1", "local", "n")
    assert {row.layer for row in report.rows if row.check == "alone" and not row.passed} == {
        "norm1"
    }


# ---- what can't be held against a spec -----------------------------------------------------------


def relu(folder: Path, **options: Any) -> Path:
    nodes = options.pop("nodes", [helper.make_node("Relu", ["x"], ["y"])])
    return by_hand(folder, nodes, {}, options.pop("outputs", {"y": IMAGE}), **options)


RELU = chain(("relu1", Relu()))


def test_files_of_other_nets_are_refused_with_both_shapes(tmp_path: Path) -> None:
    last = relu(tmp_path, inputs={"x": (11, 13, 3)}, outputs={"y": (11, 13, 3)})
    with pytest.raises(AlexcError) as caught:
        check(last, RELU)
    (fault,) = caught.value.diagnostics
    assert fault.message == f"{last} takes batch×11×13×3 and small takes batch×3×11×13"
    assert fault.notes == ("its channels are last, and a spec's are first",)
    other = relu(tmp_path, outputs={"y": (3, 12, 13)})
    assert fault_of(lambda: check(other, RELU)) == (
        f"verify/foreign-outputs: {other} gives y as batch×3×12×13, "
        "and the spec's relu1 is batch×3×11×13"
    )
    two = relu(
        tmp_path,
        nodes=[helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Tanh", ["x"], ["z"])],
        outputs={"y": IMAGE, "z": IMAGE},
    )
    assert fault_of(lambda: check(two, RELU)) == (
        f"verify/foreign-outputs: {two} gives 2 (y, z) and small 1 (relu1)"
    )
    inputs = relu(
        tmp_path,
        nodes=[helper.make_node("Add", ["x", "w"], ["y"])],
        inputs={"x": IMAGE, "w": IMAGE},
    )
    assert fault_of(lambda: check(inputs, RELU)) == (
        f"verify/foreign-input: {inputs} takes so many inputs: x, w; a spec has one"
    )


def test_ops_that_onnx_does_not_have_are_named(tmp_path: Path) -> None:
    unknown = relu(tmp_path, nodes=[helper.make_node("Reluu", ["x"], ["y"], "act")])
    assert fault_of(lambda: check(unknown, RELU)) == (
        f"verify/foreign-op: {unknown}: act: ONNX has no op Reluu"
    )
    newer = relu(tmp_path, opset=99)
    assert fault_of(lambda: check(newer, RELU)).startswith(
        f"verify/foreign-opset: {newer}: its ops are those of opset 99, "
    )
    older = relu(tmp_path, opset=3)
    assert fault_of(lambda: check(older, RELU)).startswith("verify/foreign-opset: ")


def test_ops_of_another_domain_are_left_to_the_backend(tmp_path: Path) -> None:
    own = relu(tmp_path, nodes=[helper.make_node("Relu", ["x"], ["y"], domain="own")])
    report = check(own, RELU)
    assert not report.passed
    (result,) = report.backends
    assert result.passed is False
    assert "own" in result.status


def test_sizes_that_the_file_leaves_open_are_the_specs(tmp_path: Path) -> None:
    free = relu(tmp_path, inputs={"x": (3, "h", "w")}, outputs={"y": (3, "h", "w")})
    assert check(free, RELU).passed


def test_narrow_files_are_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Cast", ["r"], ["y"], to=TensorProto.FLOAT),
    ]
    narrow = relu(tmp_path, nodes=nodes)
    assert fault_of(lambda: check(narrow, RELU)) == (
        f"verify/foreign-type: {narrow} computes relu1, its r (Relu), in float16, "
        "and only float32 is held to a spec"
    )


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    for content in (b"a model\n", b"2 models, all text", b"\xff\xd8\xff\xe0 a photograph"):
        other.write_bytes(content)
        said = fault_of(lambda: check(other, RELU))
        assert said == f"import/damaged: {other} is no ONNX model"
    other.write_bytes(b"\x08\x0a\x12\xff")  # cut off
    assert fault_of(lambda: check(other, RELU)).startswith(f"import/damaged: {other}: byte ")
    assert fault_of(lambda: check(tmp_path / "none.onnx", RELU)).startswith("file/missing: ")


def test_weights_that_can_not_be_read_are_named(tmp_path: Path) -> None:
    graph = chain(("conv1", Conv(out_channels=8, kernel_size=(3, 3))))
    nodes = [
        helper.make_node("Abs", ["w"], ["v"]),
        helper.make_node("Conv", ["x", "v"], ["y"]),
    ]
    weights = {"w": np.ones((8, 3, 3, 3), np.float32)}
    file = by_hand(tmp_path, nodes, weights, {"y": (8, 9, 11)})
    assert fault_of(lambda: check(file, graph)) == (
        f"verify/foreign-weights: {file} gives no conv1.weight: y (Conv) has none that can be read"
    )


def test_a_backend_that_reads_no_files_is_no_choice(exported: Path) -> None:
    with pytest.raises(UsageError):
        check(exported, backends=["torch"])


def test_what_did_not_run_has_not_passed(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from alexc.verify.backends.foreign import ForeignOnnxRuntime, ForeignOpenVino

    for kind in (ForeignOnnxRuntime, ForeignOpenVino):
        monkeypatch.setattr(kind, "packages", ("no_such_package",))
    report = check(exported, backends=None)
    assert not report.passed
    assert {result.passed for result in report.backends} == {None}
    assert not report.rows


# ---- the command ---------------------------------------------------------------------------------


def test_the_command_tells_of_the_file(
    alexc: Alexc, project: Project, exported: Path, tmp_path: Path
) -> None:
    spec = project.write(SPEC)
    assert project.load(SPEC).graph.digest() == GRAPH.digest()
    ran = alexc("verify", spec, "--onnx", exported, "--backend", "onnxruntime", "--json")
    assert ran.status == 0, ran.err
    assert ran.json["passed"] is True
    assert ran.json["foreign"]["no_counterpart"] == {"drop": "acts in training only"}
    assert ran.json["foreign"]["producer"] == "pytorch"
    weights = {
        name: np.zeros(parameter.shape, np.float32) for name, parameter in GRAPH.parameters.items()
    }
    store.write(tmp_path / "zeros.safetensors", weights)
    ran = alexc(
        "verify", spec, "--onnx", exported, "--weights", tmp_path / "zeros.safetensors",
        "--backend", "onnxruntime",
    )  # fmt: skip
    assert ran.status == 1
    assert "first divergence: conv1" in ran.out
    assert "conv1 is " in ran.out
    assert "no counterpart" in ran.out


@pytest.mark.slow
def test_the_newest_exporters_files_are_read_too(tmp_path: Path) -> None:
    report = check(export([*features(), *head()], tmp_path / "dynamo.onnx", newest=True))
    assert report.passed, report.to_json()
    assert report.matched.keys() == {n.name for n in GRAPH.nodes} - {"drop"}
