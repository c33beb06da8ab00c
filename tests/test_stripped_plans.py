"""Plans without their weights: cutting these out, and putting others in."""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from alexc.bundle import staged
from alexc.diagnostics import AlexcError, UsageError
from alexc.engines import driver, tensorrt
from alexc.engines.options import PlanOptions
from alexc.engines.record import BatchRange
from alexc.engines.tensorrt import stripping
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
from alexc_runtime import EngineError, stripped
from alexc_runtime.stripped import Place
from tests import small_bundle
from tests.gpu_machine import gpu_machine

Array = NDArray[np.float32]

STRIPPED = PlanOptions(stripped=True)


def net(*extra: tuple[str, Any, tuple[str, ...]]) -> Graph:
    layers: list[tuple[str, Any, tuple[str, ...]]] = [
        ("conv1", Conv(out_channels=16, kernel_size=(3, 5), stride=(2, 1)), (INPUT,)),
        ("relu1", Relu(), ("conv1",)),
        ("pool1", MaxPool(kernel_size=(2, 2), stride=(2, 2)), ("relu1",)),
        (
            "conv2",
            Conv(
                out_channels=24,
                kernel_size=(3, 3),
                padding=Padding(top=1, left=1, bottom=1, right=1),
                groups=2,
            ),
            ("pool1",),
        ),
        *extra,
        ("flat", Flatten(), (extra[-1][0] if extra else "conv2",)),
        ("fc", Linear(out_features=21), ("flat",)),
    ]
    return Graph.build("little", (3, 19, 23), layers, ("fc",))


def written(graph: Graph, folder: Path, seed: int, precision: str = "fp32") -> Path:
    """The model of a graph with weights of this seed; 0 has biases of zero."""
    folder.mkdir()
    weights = draw(graph, InitSpec(recipe="torch"), {}, seed=seed)
    if not seed:
        weights = {name: w * (w.ndim > 1) for name, w in weights.items()}
    extents = write(folder / "weights.safetensors", weights)
    of_precision: Any = precision
    narrow = with_precision(inference(graph), of_precision, {})
    (folder / "model.onnx").write_bytes(serialize(to_onnx(narrow, extents)))
    return folder / "model.onnx"


def weights_beside(model: Path) -> dict[str, Array]:
    return {
        weight.name: stripping._values(model.parent / weight.file, weight)
        for weight in stripping.weights_of(model)
    }


def parts(cut: bytes) -> tuple[list[tuple[Any, ...]], bytes]:
    """The weights of a stripped plan, without their places, and the rest of it, without digits.

    Two builds of one model number their tensors, and lay out their memory, each in its own way.
    """
    _, places, rest = stripped.parse(cut)
    kinds = [(place.name, place.type, place.shape, place.axes) for place in places]
    return kinds, re.sub(rb"\d+", b"", bytes(rest))


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
        for place in stripped.parse(shared.read_bytes())[1]:
            found = full[place.offset : place.offset + place.size]
            assert found == stripped.as_in_plan(weights_beside(model)[place.name], place)
    numbers = sum(array.size for array in weights_beside(models[0]).values())
    saved = numbers * (4 if precision == "fp32" else 2)
    assert shared.stat().st_size < direct.stat().st_size - saved + 3000
    assert {file.name for file in tmp_path.iterdir()} == {"0", "1", "stripped.plan"}


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
def test_what_can_not_be_stripped_is_said(tmp_path: Path) -> None:
    plan = tmp_path / "net.plan"
    model = written(net(("bn", BatchNorm(), ("conv2",))), tmp_path / "norm", 1)
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
    with pytest.raises(AlexcError, match="can't be stripped") as caught:
        tensorrt.build_plan(
            written(graph, tmp_path / "net", 1), tmp_path / "net.plan", options=STRIPPED
        )
    assert "too small" in caught.value.diagnostics[0].notes[0]


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
    shapes = {place.name: place.shape for place in stripped.parse(plan.read_bytes())[1]}
    assert shapes == {"conv1.weight": (6, 5, 3, 2), "conv1.bias": (6,)}


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
    axes = {place.name: place.axes for place in stripped.parse(plan.read_bytes())[1]}
    assert axes["conv1.weight"] == (0, 2, 3, 1)
    assert axes["conv2.weight"] == (1, 0, 2, 3)


def test_every_copy_of_a_weight_is_found(tmp_path: Path) -> None:
    model = written(net(), tmp_path / "net", 2)
    own = weights_beside(model)
    forms = [next(stripping._forms(weight)) for weight in stripping.weights_of(model)]
    plain = b"".join(stripped.as_in_plan(own[form.name], form) for form in forms)
    short = Place("fc.weight", 0, "bfloat16", own["fc.weight"].shape, (0, 1))
    last = Place("conv1.weight", 0, "float16", (16, 3, 5, 4), (0, 2, 3, 1))
    more = (stripped.as_in_plan(own[place.name], place) for place in (short, last))
    cut = stripping.stripped(b"head" + plain + b"between".join(more), model)
    _, places, rest = stripped.parse(cut)
    assert bytes(rest) == b"headbetween"
    kinds = [(place.name, place.type, place.shape, place.axes) for place in places[-2:]]
    assert kinds == [(p.name, p.type, p.shape, p.axes) for p in (short, last)]


def test_what_else_was_made_of_weights_is_noticed() -> None:
    place = Place("b", 8, "float16", (3,), (0,))
    other = Place("b", 8, "bfloat16", (3,), (0,))

    def cut(before: bytes, place: Place = place) -> bytes:
        return stripped.strip(before + bytes(6) + b"layers", [place])

    stripping.check_alike(cut(b"tensor 7"), cut(b"tensor 9"))
    stripping.check_alike(cut(b"a, then "), cut(b"then a, "))
    for second in (cut(b"tensor \xff"), cut(b"tensor 7", other)):
        with pytest.raises(AlexcError, match="holds more than the weights") as caught:
            stripping.check_alike(cut(b"tensor 7"), second)
        assert caught.value.diagnostics[0].code == "engine/strip"


# ---- the format ----------------------------------------------------------------------------------

PLACES = [
    Place("c", 41, "bfloat16", (2, 3), (0, 1)),
    Place("a", 3, "float32", (2, 1, 2, 2), (0, 2, 3, 1)),
    Place("b", 35, "float16", (3,), (0,)),
]
WEIGHTS: dict[str, Array] = {
    "a": np.arange(4, dtype=np.float32).reshape(2, 2, 1, 1).repeat(1, axis=2) + 1,
    "b": np.array([1.0, 70000.0, -1e-7], np.float32),
    "c": np.array([[1.0, 1.00390625, 1.01171875], [-2.5, 0.0, 3e38]], np.float32),
}


def test_weights_are_put_where_they_belong() -> None:
    plan = bytes(range(60))
    places = [Place("a", 3, "float32", (2, 1, 1, 4), (0, 2, 3, 1)), *PLACES[::2]]
    cut = stripped.strip(plan, places)
    assert stripped.is_stripped(cut)
    assert not stripped.is_stripped(plan)
    made = stripped.whole(cut, WEIGHTS)
    assert len(made) == 60
    assert made[:3] + made[53:] == plan[:3] + plan[53:]
    a = np.frombuffer(made, "<f4", 8, 3).reshape(2, 4)
    np.testing.assert_array_equal(a, [[1, 2, 0, 0], [3, 4, 0, 0]])  # padded with zeros
    np.testing.assert_array_equal(
        np.frombuffer(made, "<f2", 3, 35), np.array([1, np.inf, -1e-7], np.float16)
    )
    bits = np.frombuffer(made, "<u2", 6, 41).astype(np.uint32) << 16
    np.testing.assert_array_equal(bits.view(np.float32)[:4], [1.0, 1.0, 1.015625, -2.5])


def test_places_may_not_overlap() -> None:
    with pytest.raises(ValueError, match="b lies at 4, before 8"):
        stripped.strip(
            bytes(20), [Place("a", 0, "float32", (2,), (0,)), Place("b", 4, "float32", (2,), (0,))]
        )


@pytest.mark.parametrize(
    "change",
    [
        lambda cut: cut[:25],
        lambda cut: cut[:-1],
        lambda cut: cut + b"!",
        lambda cut: cut.replace(b"float16", b"float17"),
        lambda cut: cut.replace(b'"offset": 41', b'"offset": 36'),
        lambda cut: cut.replace(b'"offset": 41', b'"offset": -1'),
        lambda cut: cut.replace(b'"shape": [3]', b'"shape": [0]'),
        lambda cut: cut.replace(b'"bytes": 60', b'"bytes": 61'),
        lambda cut: cut.replace(b'"bytes"', b'"bites"'),
        lambda cut: cut[:40] + b"\xff" + cut[41:],
    ],
    ids=["short", "cut", "longer", "type", "overlap", "before", "shape", "size", "key", "text"],
)  # fmt: skip
def test_a_damaged_stripped_plan_is_said_to_be_so(change: Any) -> None:
    places = [Place("b", 35, "float16", (3,), (0,)), Place("c", 41, "bfloat16", (2, 3), (0, 1))]
    cut = stripped.strip(bytes(60), places)
    assert change(cut) != cut
    with pytest.raises(EngineError, match="the stripped plan is damaged"):
        stripped.whole(change(cut), WEIGHTS)


def test_weights_of_another_net_are_refused() -> None:
    cut = stripped.strip(bytes(60), [Place("b", 35, "float16", (4,), (0,))])
    with pytest.raises(EngineError, match=r"takes b of shape \[4\], not \[3\]"):
        stripped.whole(cut, WEIGHTS)
    wider = stripped.strip(bytes(100), [Place("c", 4, "float32", (2, 11), (0, 1))])
    with pytest.raises(EngineError, match=r"takes c of shape \[2, 11\], not \[2, 3\]"):
        stripped.whole(wider, WEIGHTS)
    other = stripped.strip(bytes(60), [Place("b", 4, "float32", (3, 1), (0, 1))])
    with pytest.raises(EngineError, match=r"takes b of shape \[3, 1\], not \[3\]"):
        stripped.whole(other, WEIGHTS)
    with pytest.raises(EngineError, match="takes weights b, and there are none"):
        stripped.whole(cut, {})


def test_the_header_says_what_is_where() -> None:
    cut = stripped.strip(bytes(60), [Place("b", 35, "float16", (3,), (0,))])
    header = json.loads(cut[29 : 29 + int.from_bytes(cut[21:29], "little")])
    assert header == {
        "bytes": 60,
        "weights": [{"name": "b", "offset": 35, "type": "float16", "shape": [3], "axes": [0]}],
    }


# ---- in a session --------------------------------------------------------------------------------


def test_a_session_puts_the_bundles_weights_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = small_bundle.weights()["conv.bias"]
    with gpu_machine(monkeypatch, tmp_path / "cache") as machine:
        plan = machine.does.plan
        whole = plan[:4] + own.tobytes() + plan[4:]
        machine.does.plan = whole
        with staged(tmp_path / "small") as stage:
            small_bundle.fill(stage.folder)
            cut = stripped.strip(whole, [Place("conv.bias", 4, "float32", (5,), (0,))])
            (stage.folder / small_bundle.PLAN).write_bytes(cut)
            stage.commit(small_bundle.MANIFEST)
        with machine.open(tmp_path / "small") as opened:
            assert list(opened.run(small_bundle.images(3))) == ["scores", "conv"]
        shutil.rmtree(tmp_path / "small")
        with staged(tmp_path / "small") as stage:
            small_bundle.fill(stage.folder)
            cut = stripped.strip(whole, [Place("conv.bias", 4, "float32", (2, 2), (0, 1))])
            (stage.folder / small_bundle.PLAN).write_bytes(cut)
            stage.commit(small_bundle.MANIFEST)
        with pytest.raises(EngineError, match=r"can't load .*: the plan takes conv.bias of shape"):
            machine.open(tmp_path / "small")


# ---- AlexNet -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_stripped_plan_of_alexnet_takes_at_most_2_mb(precision: str, tmp_path: Path) -> None:
    spec = load_net(Path(__file__).resolve().parents[1] / "specs" / "alexnet.yaml")
    model = written(spec.graph, tmp_path / "net", 1, precision)
    plan = tmp_path / "alexnet.plan"
    tensorrt.build_plan(model, plan, precision=precision, options=STRIPPED)
    assert plan.stat().st_size <= 2_000_000
    places = stripped.parse(plan.read_bytes())[1]
    assert {place.name for place in places} == set(spec.graph.parameters)
    start = time.process_time()
    tensorrt.build_plan(model, plan, precision=precision)
    assert time.process_time() - start <= 3.0
