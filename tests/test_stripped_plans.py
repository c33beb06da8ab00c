"""Plans without their weights: cutting these out, and putting others in."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from alexc.diagnostics import AlexcError, UsageError
from alexc.engines import driver, tensorrt
from alexc.engines.options import PlanOptions
from alexc.engines.record import BatchRange
from alexc.engines.tensorrt import stripping
from alexc.engines.tensorrt.weights import weights_of, write_random
from alexc.frontend import load_net
from alexc.graph.graph import INPUT, Graph
from alexc.lower.to_onnx import serialize, to_onnx
from alexc.ops.base import Padding
from alexc.ops.conv import Conv
from alexc.ops.dense import Linear
from alexc.ops.norm import BatchNorm
from alexc.ops.pointwise import Relu
from alexc.ops.pool import MaxPool
from alexc.ops.structure import Flatten
from alexc.passes.inference import inference
from alexc.passes.precision import with_precision
from alexc.spec.model import InitSpec
from alexc.weights.init import draw
from alexc.weights.store import write
from alexc_runtime import batch_norm, stripped
from alexc_runtime.stripped import Place
from tests.cases import weights_for

Array = NDArray[np.float32]

STRIPPED = PlanOptions(stripped=True)


def net() -> Graph:
    pads = Padding(top=1, left=1, bottom=1, right=1)
    layers: list[tuple[str, Any, tuple[str, ...]]] = [
        ("conv1", Conv(out_channels=16, kernel_size=(3, 5), stride=(2, 1)), (INPUT,)),
        ("relu1", Relu(), ("conv1",)),
        ("pool1", MaxPool(kernel_size=(2, 2), stride=(2, 2)), ("relu1",)),
        ("conv2", Conv(out_channels=24, kernel_size=(3, 3), padding=pads, groups=2), ("pool1",)),
        ("flat", Flatten(), ("conv2",)),
        ("fc", Linear(out_features=21), ("flat",)),
    ]
    return Graph.build("little", (3, 19, 23), layers, ("fc",))


def written(graph: Graph, folder: Path, seed: int, precision: str = "fp32") -> Path:
    """The model of a graph with weights of this seed; 0 has biases of zero."""
    weights = draw(graph, InitSpec(recipe="torch"), {}, seed=seed)
    if not seed:
        weights = {name: w * (w.ndim > 1) for name, w in weights.items()}
    return written_with(graph, weights, folder, precision)


def written_with(graph: Graph, weights: dict[str, Array], folder: Path, precision: str) -> Path:
    folder.mkdir()
    extents = write(folder / "weights.safetensors", weights)
    of_precision: Any = precision
    narrow = with_precision(inference(graph), of_precision, {})
    (folder / "model.onnx").write_bytes(serialize(to_onnx(narrow, extents)))
    return folder / "model.onnx"


def normalised() -> Graph:
    """Batch norms behind convolutions with and without a bias, a pooling and a linear layer.

    One has no γ and β.
    """
    layers: list[tuple[str, Any, tuple[str, ...]]] = [
        ("conv1", Conv(out_channels=16, kernel_size=(3, 5), bias=False), (INPUT,)),
        ("bn1", BatchNorm(eps=1e-3), ("conv1",)),
        ("relu1", Relu(), ("bn1",)),
        ("pool1", MaxPool(kernel_size=(2, 2), stride=(2, 2)), ("relu1",)),
        ("bn2", BatchNorm(affine=False), ("pool1",)),
        ("conv2", Conv(out_channels=24, kernel_size=(3, 3)), ("bn2",)),
        ("bn3", BatchNorm(), ("conv2",)),
        ("flat", Flatten(), ("bn3",)),
        ("fc", Linear(out_features=21), ("flat",)),
        ("bn4", BatchNorm(), ("fc",)),
    ]
    return Graph.build("normalised", (3, 13, 17), layers, ("bn4",))


def weights_beside(model: Path) -> dict[str, Array]:
    tensors = weights_of(model).tensors
    return {name: weight.values(model.parent) for name, weight in tensors.items()}


def parts(cut: bytes) -> tuple[list[tuple[Any, ...]], bytes]:
    """The weights of a stripped plan, without their places, and the rest of it, without digits.

    Two builds of one model number their tensors, and lay out their memory, each in its own way.
    """
    found = stripped.parse(cut)
    kinds = [(place.name, place.type, place.shape, place.axes) for place in found.places]
    return kinds, re.sub(rb"\d+", b"", bytes(found.rest))


@pytest.fixture
def rtx(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    if obstacle := tensorrt.flavours()["tensorrt_rtx"].obstacle:
        pytest.skip(obstacle)
    monkeypatch.setattr(driver, "gpu_count", lambda: 0)
    return sys.modules["tensorrt_rtx"]


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_stripped_plan_is_what_is_built_but_for_its_weights(
    precision: str, tmp_path: Path
) -> None:
    models = [written(net(), tmp_path / str(seed), seed, precision) for seed in (0, 1)]
    shared = tmp_path / "stripped.plan"
    built = tensorrt.build_plan(models[0], shared, precision=precision, options=STRIPPED)
    assert built.record.built is not None
    assert built.record.built.stripped
    assert built.record.path == str(shared)
    kinds, rest = parts(shared.read_bytes())
    assert {name for name, *_ in kinds} == weights_beside(models[0]).keys()
    # Of zeros nobody can tell where they are; the other's are found, and nothing else differs.
    direct = tmp_path / "1" / "direct.plan"
    tensorrt.build_plan(models[1], direct, precision=precision)
    assert parts(stripping.stripped(direct.read_bytes(), models[1])) == (kinds, rest)
    for model in models:
        full = bytes(stripped.whole(shared.read_bytes(), weights_beside(model)))
        for place in stripped.parse(shared.read_bytes()).places:
            found = full[place.offset : place.offset + place.size]
            assert found == stripped.as_in_plan(weights_beside(model)[place.name], place)
    numbers = sum(array.size for array in weights_beside(models[0]).values())
    saved = numbers * (4 if precision == "fp32" else 2)
    assert shared.stat().st_size < direct.stat().st_size - saved + 3000
    assert {file.name for file in tmp_path.iterdir()} == {"0", "1", "stripped.plan"}


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_of_a_batch_norm_a_plan_has_what_its_weights_come_to(
    precision: str, tmp_path: Path
) -> None:
    graph = normalised()
    model = written_with(graph, weights_for(graph), tmp_path / "net", precision)
    shared = tmp_path / "stripped.plan"
    tensorrt.build_plan(model, shared, precision=precision, options=STRIPPED)
    kinds, rest = parts(shared.read_bytes())
    held = {"conv1.weight", "conv2.weight", "fc.weight", "fc.bias"}
    held |= {f"bn{number}.{what}" for number in (1, 2, 3, 4) for what in ("scale", "shift")}
    if precision != "fp32":
        held.add("conv2.bias")  # a cast keeps it from the batch norm behind it
    assert {name for name, *_ in kinds} == held
    # A plan that is built in the plain way of any weights has these bytes where its own lie.
    direct = tmp_path / "net" / "direct.plan"
    tensorrt.build_plan(model, direct, precision=precision)
    cut = stripping.stripped(direct.read_bytes(), model)
    assert parts(cut)[0] == kinds
    full = bytes(stripped.whole(shared.read_bytes(), weights_beside(model)))
    pairs = zip(stripped.parse(shared.read_bytes()).places, stripped.parse(cut).places, strict=True)
    for ours, theirs in pairs:
        found = full[ours.offset : ours.offset + ours.size]
        assert found == direct.read_bytes()[theirs.offset : theirs.offset + theirs.size]
    # And nothing else differs, but for numbers in a comment: here they are all of one length.
    (tmp_path / "other").mkdir()
    other = write_random(model, tmp_path / "other", 11)
    tensorrt.build_plan(other, tmp_path / "other" / "direct.plan", precision=precision)
    plan = (tmp_path / "other" / "direct.plan").read_bytes()
    assert parts(stripping.stripped(plan, other)) == (kinds, rest)


@pytest.mark.usefixtures("rtx")
def test_a_wrong_formula_for_batch_norms_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = normalised()
    model = written_with(graph, weights_for(graph), tmp_path / "net", "fp32")

    def without_eps(mean: Array, variance: Array, eps: float, *affine: Array) -> Any:  # noqa: ARG001
        return batch_norm.scale_and_shift(mean, variance, 0.0, *affine)

    monkeypatch.setattr(stripped, "scale_and_shift", without_eps)
    with pytest.raises(AlexcError, match=r"it does not hold bn\d\.(scale|shift) as it is"):
        tensorrt.build_plan(model, tmp_path / "net.plan", options=STRIPPED)


def test_random_weights_come_to_numbers_of_one_length(tmp_path: Path) -> None:
    """So that a plan has the same size whichever of them TensorRT writes into it as text."""
    graph = normalised()
    model = written_with(graph, weights_for(graph), tmp_path / "net", "fp32")
    folders = [tmp_path / str(seed) for seed in (3, 4)]
    for seed, folder in enumerate(folders):
        folder.mkdir()
        write_random(model, folder, seed)
    drawn = [weights_of(folder / model.name).in_plan(folder) for folder in folders]
    for name, first in drawn[0].items():
        second = drawn[1][name]
        assert not np.array_equal(first, second)
        if first.ndim == 1:
            texts = [f"{value:.6g}" for value in (*first, *second)]
            assert {len(text.removeprefix("-")) for text in texts} == {8}
            np.testing.assert_array_equal(np.sign(first), np.sign(second))
    beside = weights_beside(folders[0] / model.name)
    variances = [values for name, values in beside.items() if "var" in name]
    assert len(variances) == 4
    assert min(values.min() for values in variances) > 0


@pytest.mark.usefixtures("rtx")
def test_every_profiles_weights_are_found(tmp_path: Path) -> None:
    model = written(net(), tmp_path / "net", 3)
    profiles = (BatchRange(1, 1, 1), BatchRange(2, 6, 8))
    plan = tmp_path / "two.plan"
    tensorrt.build_plan(model, plan, options=PlanOptions(profiles, stripped=True))
    kinds, rest = parts(plan.read_bytes())
    tensorrt.build_plan(model, tmp_path / "direct.plan", options=PlanOptions(profiles))
    direct = stripping.stripped((tmp_path / "direct.plan").read_bytes(), model)
    assert parts(direct) == (kinds, rest)
    # Each profile has its own kernels, and with them some of the weights.
    assert len(kinds) > len(weights_beside(model)) == len({name for name, *_ in kinds})


@pytest.mark.usefixtures("rtx")
def test_what_can_not_be_stripped_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = tmp_path / "net.plan"
    model = written(net(), tmp_path / "net", 1)
    monkeypatch.setattr(stripping, "forms_of", lambda *_: ())
    with pytest.raises(AlexcError, match=r"it does not hold \S+ as it is") as caught:
        tensorrt.build_plan(model, plan, options=STRIPPED)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "engine/strip"
    assert "TensorRT has changed it" in diagnostic.notes[0]
    with pytest.raises(AlexcError, match="a plan in int8 can't be stripped"):
        tensorrt.build_plan(model, plan, precision="int8", options=STRIPPED)
    assert not plan.exists()
    with pytest.raises(UsageError, match="No such file"):
        tensorrt.build_plan(model, tmp_path / "nowhere" / "net.plan", options=STRIPPED)


@pytest.mark.usefixtures("rtx")
def test_a_weight_of_a_few_bytes_is_not_looked_for(tmp_path: Path) -> None:
    graph = Graph.build(
        "narrow", (3, 5, 7), [("conv1", Conv(out_channels=1, kernel_size=(2, 2)), (INPUT,))],
        ("conv1",),
    )  # fmt: skip
    model, plan = written(graph, tmp_path / "net", 1, "fp16"), tmp_path / "net.plan"
    with pytest.raises(AlexcError, match="can't be stripped") as caught:
        tensorrt.build_plan(model, plan, precision="fp16", options=STRIPPED)
    assert "too small" in caught.value.diagnostics[0].notes[0]


@pytest.mark.usefixtures("rtx")
def test_layers_that_no_output_needs_are_in_no_plan(tmp_path: Path) -> None:
    layers: list[tuple[str, Any, tuple[str, ...]]] = [
        ("conv1", Conv(out_channels=6, kernel_size=(5, 3)), (INPUT,)),
        ("norm1", BatchNorm(), ("conv1",)),
        ("conv2", Conv(out_channels=7, kernel_size=(3, 3)), ("conv1",)),
        ("norm2", BatchNorm(), ("conv2",)),
    ]
    graph = Graph.build("cut", (3, 11, 13), layers, ("norm1",))
    model = written_with(graph, weights_for(graph), tmp_path / "net", "fp32")
    plan = tmp_path / "net.plan"
    tensorrt.build_plan(model, plan, options=STRIPPED)
    names = {place.name for place in stripped.parse(plan.read_bytes()).places}
    assert names == {"conv1.weight", "norm1.scale", "norm1.shift"}


@pytest.mark.usefixtures("rtx")
def test_grey_images_take_channels_in_pairs(tmp_path: Path) -> None:
    """In fp16 TensorRT pads the one channel with another of zeros."""
    graph = Graph.build(
        "grey", (1, 11, 13), [("conv1", Conv(out_channels=6, kernel_size=(5, 3)), (INPUT,))],
        ("conv1",),
    )  # fmt: skip
    model = written(graph, tmp_path / "net", 1, "fp16")
    plan = tmp_path / "net.plan"
    tensorrt.build_plan(model, plan, precision="fp16", options=STRIPPED)
    shapes = {place.name: place.shape for place in stripped.parse(plan.read_bytes()).places}
    assert shapes == {"conv1.weight": (6, 5, 3, 2), "conv1.bias": (6,)}


@pytest.mark.usefixtures("rtx")
def test_a_linear_layer_of_the_pixels_is_padded(tmp_path: Path) -> None:
    linear = Linear(out_features=17)
    layers = [("flat", Flatten(), (INPUT,)), ("fc", linear, ("flat",))]
    graph = Graph.build("perceptron", (3, 5, 7), layers, ("fc",))
    plan = tmp_path / "net.plan"
    tensorrt.build_plan(written(graph, tmp_path / "net", 1), plan, options=STRIPPED)
    shapes = {place.name: place.shape for place in stripped.parse(plan.read_bytes()).places}
    rows, columns = shapes["fc.weight"]
    assert (rows, columns > 105, columns % 2) == (17, True, 0)


@pytest.mark.usefixtures("rtx")
def test_a_large_product_in_16_bits_has_its_inputs_first(tmp_path: Path) -> None:
    conv = Conv(out_channels=512, kernel_size=(3, 3))
    one = Conv(out_channels=1000, kernel_size=(1, 1))
    graph = Graph.build(
        "wide", (16, 7, 9), [("conv1", conv, (INPUT,)), ("conv2", one, ("conv1",))], ("conv2",)
    )
    model = written(graph, tmp_path / "net", 1, "fp16")
    plan = tmp_path / "net.plan"
    tensorrt.build_plan(model, plan, precision="fp16", options=STRIPPED)
    axes = {place.name: place.axes for place in stripped.parse(plan.read_bytes()).places}
    assert axes["conv1.weight"] == (0, 2, 3, 1)
    assert axes["conv2.weight"] == (1, 0, 2, 3)


def test_every_copy_of_a_weight_is_found(tmp_path: Path) -> None:
    model = written(net(), tmp_path / "net", 2)
    own = weights_beside(model)
    forms = [next(stripping.forms_of(name, array.shape)) for name, array in own.items()]
    plain = b"".join(stripped.as_in_plan(own[form.name], form) for form in forms)
    short = Place("fc.weight", 0, "bfloat16", own["fc.weight"].shape, (0, 1))
    last = Place("conv1.weight", 0, "float16", (16, 3, 5, 4), (0, 2, 3, 1))
    more = (stripped.as_in_plan(own[place.name], place) for place in (short, last))
    cut = stripping.stripped(b"head" + plain + b"between".join(more), model)
    found = stripped.parse(cut)
    assert bytes(found.rest) == b"headbetween"
    kinds = [(place.name, place.type, place.shape, place.axes) for place in found.places[-2:]]
    assert kinds == [(p.name, p.type, p.shape, p.axes) for p in (short, last)]


def test_what_else_was_made_of_weights_is_noticed() -> None:
    place = Place("b", 8, "float16", (3,), (0,))
    other = Place("b", 8, "bfloat16", (3,), (0,))

    def cut(before: bytes, place: Place = place) -> bytes:
        return stripped.strip(before + bytes(6) + b"layers", [place])

    assert stripping.in_common([cut(b"tensor 7"), cut(b"tensor 9")]) == cut(b"tensor 9")
    # The number of a tensor may have a digit more, and what lies behind it lies elsewhere.
    longer = cut(b"tensor at \x10: 17")
    drawn = iter([longer, cut(b"a, then "), cut(b"then a, "), cut(b"never built")])
    assert stripping.in_common(drawn) == cut(b"then a, ")
    assert list(drawn) == [cut(b"never built")]
    for second in (cut(b"tensor \xff"), cut(b"tensor 7", other)):
        with pytest.raises(AlexcError, match="holds more than the weights") as caught:
            stripping.in_common([cut(b"tensor 7"), second])
        assert caught.value.diagnostics[0].code == "engine/strip"


# ---- nets that are shipped -----------------------------------------------------------------------


def stripped_spec(name: str, folder: Path, precision: str) -> tuple[Graph, Path, Path]:
    """Graph, model and stripped plan of a spec under specs/."""
    graph = load_net(Path(__file__).resolve().parents[1] / "specs" / f"{name}.yaml").graph
    model, plan = written(graph, folder / "net", 1, precision), folder / "net.plan"
    tensorrt.build_plan(model, plan, precision=precision, options=STRIPPED)
    assert plan.stat().st_size <= 2_000_000
    return graph, model, plan


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize("name", ["alexnet-fashion-small", "zoo/resnet18"])
def test_nets_with_batch_norm_are_stripped(name: str, tmp_path: Path) -> None:
    graph, _, plan = stripped_spec(name, tmp_path, "fp16")
    norms = {node.name for node in graph.nodes if isinstance(node.op, BatchNorm)}
    found = stripped.parse(plan.read_bytes())
    assert {norm.name for norm in found.batch_norms} == norms
    put = {place.name for place in found.places}
    assert {name for name in put if name.endswith((".scale", ".shift"))} == {
        f"{norm}.{what}" for norm in norms for what in ("scale", "shift")
    }


@pytest.mark.slow
@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_stripped_plan_of_alexnet_takes_at_most_2_mb(precision: str, tmp_path: Path) -> None:
    graph, model, plan = stripped_spec("alexnet", tmp_path, precision)
    places = stripped.parse(plan.read_bytes()).places
    assert {place.name for place in places} == set(graph.parameters)
    start = time.process_time()
    tensorrt.build_plan(model, plan, precision=precision)
    assert time.process_time() - start <= 3.0


@pytest.mark.slow
@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_so_does_one_with_batch_norm(precision: str, tmp_path: Path) -> None:
    stripped_spec("alexnet-bn", tmp_path, precision)
