"""The search as a whole, with ways to run the net that behave and misbehave."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

import alexc_runtime
from alexc.assembly.options import Options
from alexc.build import build
from alexc.calibrate import calibration as calibrations
from alexc.calibrate.images import load_pixels
from alexc.diagnostics import AlexcError, UsageError, fault
from alexc.engines.options import PlanOptions
from alexc.engines.tensorrt import Plan
from alexc.engines.tensorrt.layers import layers_file
from alexc.frontend import Net, load_net
from alexc.passes.inference import inference
from alexc.plan import search as searching
from alexc.plan import trials, workshop
from alexc.plan.budget import parse_budget
from alexc.plan.choice import Tried
from alexc.plan.contestant import Contestant, Subject
from alexc.plan.measure import Pace, Result, race
from alexc.plan.ours import opened_as_planned
from alexc.plan.photographs import MOST_IMAGES, Labelled, photographs
from alexc.plan.request import Material, Request, check
from alexc.plan.search import Found, search
from alexc.plan.timing import Times
from alexc.plan.trials import Trials
from alexc.plan.variant import Variant
from alexc.plan.workshop import Workshop
from alexc.train.score import labelled
from alexc.verify.inputs import structured
from alexc.verify.reference import evaluate
from alexc.weights.init import draw
from alexc_runtime.manifest import BatchRange, EngineRecord
from alexc_runtime.planned import this_machine
from tests.command_line import Alexc, alexc

__all__ = ["alexc"]

SPEC = """\
alexc: 1
name: small
input: {channels: 3, height: 9, width: 8}
layers:
  conv1: {op: conv, out_channels: 6, kernel_size: 2}
  bn1: batch_norm
  relu1: relu
  flatten: flatten
  fc: {op: linear, out_features: 7}
init: kaiming
"""
PLANS = PlanOptions(profiles=(BatchRange(1, 2, 4),))
QUICK = Pace(rounds=2, seconds=0.0, fewest=1, most=1, profile_runs=0)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paces that take no time, and one core, on which no numbers of threads are tried."""
    monkeypatch.setattr(searching, "_SHORT", QUICK)
    monkeypatch.setattr(searching, "_FINAL", replace(QUICK, rounds=6))
    monkeypatch.setattr(searching, "this_machine", lambda: replace(this_machine(), cores=1))


@pytest.fixture
def net(tmp_path: Path) -> Net:
    (tmp_path / "small.yaml").write_text(SPEC, encoding="utf-8")
    return load_net(tmp_path / "small.yaml")


def found(net: Net, folder: Path, budget: str, **changes: Any) -> Found:
    weights = draw(net.graph, net.spec.header.init, {}, 0)
    request = Request(parse_budget(budget), PLANS, **changes)
    (folder / "into").mkdir(exist_ok=True)
    return search(net, weights, request, folder / "into", lambda _: None)


# ---- contestants of straw ------------------------------------------------------------------------


def stand_in(monkeypatch: pytest.MonkeyPatch, behaviour: dict[Variant, dict[str, Any]]) -> None:
    """Let ways be run by `tests.plan_contestants`, each of which behaves as it is told.

    The cross-check passes what it is not told to refuse. Ways that are not named can't be made.
    """

    def contestant(self: Workshop, variant: Variant) -> Contestant:
        self.make(variant)
        if variant not in behaviour:
            raise fault("engine/build", f"it can't build {self.folder / variant.model}")
        settings = {"folder": str(self.folder), **behaviour[variant]}
        return Contestant(
            variant.engine,
            "ours",
            variant.precision,
            "tests.plan_contestants:opened",
            settings,
        )

    def cross_check(_: Any, each: Tried) -> None:
        each.rejection = behaviour[each.variant].get("rejection")
        each.verified = each.rejection is None

    set_times(monkeypatch, lambda contestant: contestant.settings.get("ms", 1.0))
    monkeypatch.setattr(Workshop, "contestant", contestant)
    monkeypatch.setattr(Trials, "cross_check", cross_check)
    for engine in ("onnxruntime", "openvino"):
        kind = alexc_runtime.ENGINES[engine]
        monkeypatch.setattr(kind, "obstacle", classmethod(lambda _: None))


def set_times(monkeypatch: pytest.MonkeyPatch, ms: Callable[[Contestant], float]) -> None:
    """Let the times of a race be those that are told."""

    def timed(contestants: Any, *words: Any) -> list[Result]:
        results = race(contestants, *words)
        for result in results:
            taken = Times(((ms(result.contestant),),) * 6)
            result.times = dict.fromkeys(result.times, taken)
        return results

    monkeypatch.setattr(trials, "race", timed)


PLAIN = Variant("onnxruntime")
FOLDED = Variant("onnxruntime", forms=("folded",))
OTHER = Variant("openvino")
OTHER_FOLDED = Variant("openvino", forms=("folded",))
NARROW = Variant("openvino", "bf16")
EIGHT = Variant("onnxruntime", "u8s8")
NARROW_FOLDED = Variant("openvino", "bf16", ("folded",))


def verdicts(found: Found) -> dict[str, str]:
    return {
        Variant(each.engine, each.precision, each.forms).label: each.verdict
        for each in found.plan.candidates
    }


def test_what_crashes_or_lies_in_the_middle_only_loses(
    net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(
        monkeypatch,
        {
            PLAIN: {"ms": 12},
            FOLDED: {"ms": 1, "dies_at": 6},
            OTHER: {"ms": 6},
            OTHER_FOLDED: {"ms": 1, "off": 0.05},
            NARROW: {"ms": 1, "off": 4e-3},
        },
    )
    result = found(net, tmp_path, "1e-3")
    assert result.plan.said == "all batches on openvino in fp32"
    said = verdicts(result)
    assert said["onnxruntime fp32, folded"].startswith("failed: the process was ended by signal 9")
    assert said["openvino fp32, folded"].startswith("failed: gave wrong numbers: 5.0e-02")
    assert said["openvino bf16"] == "over the budget: an error of 4.0e-03, where 0.001 is allowed"
    assert said["onnxruntime fp32"].startswith("2.00 × the time of openvino fp32 at batch 1")
    # What is over the budget is not raced at all.
    times = {Variant(c.engine, c.precision, c.forms): c.times for c in result.plan.candidates}
    assert times[NARROW] == ()
    assert {each.final for each in times[OTHER]} == {True}
    assert result.plan.ways(1)[1].engine == "onnxruntime"


def test_a_way_that_is_not_verified_is_not_chosen(
    net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(
        monkeypatch,
        {
            PLAIN: {"ms": 9},
            FOLDED: {"ms": 9},
            OTHER: {"ms": 6},
            OTHER_FOLDED: {"ms": 3},
            NARROW_FOLDED: {"ms": 1, "off": 4e-3, "rejection": "bn1 computes something else"},
        },
    )
    result = found(net, tmp_path, "1e-2")
    # Nobody else was left in after the short race: the next best of it comes back.
    assert result.plan.choices[0].way.path == "model-folded.onnx"
    said = verdicts(result)
    assert said["openvino bf16, folded"] == "not verified: bn1 computes something else"
    # Named as it would be in the bundle, not in the folder that is gone.
    assert said["openvino bf16"] == "failed: it can't build model-bf16.onnx"
    # The model came into the bundle, and with it the weights that are its own.
    assert {path.name for path in (tmp_path / "into").iterdir()} >= {
        "model-folded.onnx",
        "weights-folded.safetensors",
    }
    assert not (tmp_path / "into" / "model-folded-bf16.onnx").exists()


def test_onnx_runtime_on_a_gpu_is_tried_in_half_precision_too(
    net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_gpu = Variant("onnxruntime_cuda")
    half = replace(on_gpu, precision="fp16")
    stand_in(monkeypatch, {PLAIN: {}, on_gpu: {"ms": 0.5}, half: {"ms": 0.2, "off": 2e-4}})
    kind = alexc_runtime.ENGINES[on_gpu.engine]
    monkeypatch.setattr(kind, "obstacle", classmethod(lambda _: None))
    result = found(net, tmp_path, "1e-2")
    assert {choice.way.path for choice in result.plan.choices} == {"model-fp16.onnx"}
    assert {choice.way.engine for choice in result.plan.choices} == {"onnxruntime_cuda"}
    assert EngineRecord(half.engine, "fp16", "verified", "model-fp16.onnx") in result.records


def test_nothing_passes(net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, {PLAIN: {"off": 2e-4}, OTHER: {"off": 5e-4}})
    with pytest.raises(AlexcError) as caught:
        found(net, tmp_path, "1e-5")
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "plan/nothing-passes"
    assert diagnostic.help in (
        "--budget 0.0002 takes onnxruntime fp32",
        "--budget 0.00021 takes onnxruntime fp32",
    )
    assert any(
        note == "openvino fp32: over the budget: an error of 5.0e-04, where 1e-05 is allowed"
        for note in diagnostic.notes
    )


def test_agreement_and_accuracy_on_images_with_labels(
    net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the classes are others in one precision, and the accuracy is that of each."""
    stand_in(
        monkeypatch,
        {PLAIN: {"ms": 6}, OTHER: {"ms": 6}, NARROW: {"ms": 1, "off": 1e-3, "turns_every": 2}},
    )
    images = np.random.default_rng(1).standard_normal((20, 3, 9, 8), np.float32)
    asked: list[int] = []

    def some(count: int) -> Any:
        asked.append(count)
        return images

    weights = draw(net.graph, net.spec.header.init, {}, 0)
    labels = evaluate(inference(net.graph), weights, images)["fc"].argmax(1)
    labels[:5] = (labels[:5] + 1) % 7  # the net itself is wrong of one in four

    def score(forward: Any) -> tuple[float, float]:
        return float((forward(images).argmax(1) == labels).mean()), 0.8

    given = Labelled(some, score)
    result = found(net, tmp_path, "top1:99%", labelled=given)
    said = verdicts(result)
    assert "for 50.00% of the photographs, where 99.00% is asked for" in said["openvino bf16"]
    assert (result.plan.images, result.plan.photographs) == (20, True)
    chosen = [each for each in result.plan.candidates if each.verdict.startswith("chosen")]
    assert (chosen[0].agreement, chosen[0].top1, chosen[0].top5) == (1.0, 0.75, 0.8)
    assert asked == [MOST_IMAGES]


def test_the_plan_that_was_measured_is_the_one_that_is_shipped(
    net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = Variant("tensorrt")
    stand_in(monkeypatch, {PLAIN: {"ms": 6}, planned: {"ms": 1}})
    monkeypatch.setattr(alexc_runtime.ENGINES["tensorrt"], "obstacle", classmethod(lambda _: None))

    def built(self: Workshop, variant: Variant, made: Any) -> EngineRecord:
        assert made.model.exists()
        file = self.folder / variant.path
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"measured")
        return EngineRecord(variant.engine, variant.precision, "built", variant.path)

    monkeypatch.setattr(Workshop, "_build", built)
    shipped = tmp_path / "into" / planned.path
    shipped.parent.mkdir(parents=True)
    shipped.write_bytes(b"of the build")
    layers = tmp_path / "into" / layers_file(planned.path)
    layers.write_text("{}")
    result = found(net, tmp_path, "exact")
    assert result.plan.choices[0].way.path == planned.path
    assert shipped.read_bytes() == b"measured"
    assert not layers.exists()


def test_of_stripped_plans_those_that_the_runtime_can_fill_are_stripped(
    net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[bool] = []

    def built(*_: Any, flavour: str, precision: str, options: PlanOptions, **__: Any) -> Plan:
        told.append(options.stripped)
        return Plan(EngineRecord(flavour, precision, "built", "a.plan"))

    monkeypatch.setattr(workshop, "cached_plan", built)
    images = np.random.default_rng(3).standard_normal((9, *net.graph.input_shape))
    material = Material(photographs=images.astype(np.float32))
    request = Request(parse_budget("1e-2"), PlanOptions(stripped=True), material)
    weights = draw(net.graph, net.spec.header.init, {}, 0)
    place = Workshop(net, weights, tmp_path / "ways", request, lambda _: None)
    for variant in (
        Variant("tensorrt", "fp16"),
        Variant("tensorrt", forms=("pool-first",)),
        Variant("tensorrt", "int8"),
    ):
        place.record(variant)
    assert told == [True, False, False]


def test_forms_that_make_the_same_weights_share_their_file(tmp_path: Path) -> None:
    pooled = SPEC.replace("  flatten:", "  pool1: {op: max_pool, kernel_size: 2}\n  flatten:")
    (tmp_path / "pooled.yaml").write_text(pooled, encoding="utf-8")
    net = load_net(tmp_path / "pooled.yaml")
    weights = draw(net.graph, net.spec.header.init, {}, 0)
    request = Request(parse_budget("exact"), PLANS)
    place = Workshop(net, weights, tmp_path / "ways", request, lambda _: None)
    folded, both, moved = (
        place.make(Variant("onnxruntime", forms=forms))
        for forms in (("folded",), ("folded", "pool-first"), ("pool-first",))
    )
    assert folded.files[1:] == both.files[1:]
    assert len(folded.files) == 3
    assert len(moved.files) == 2
    assert len(list((tmp_path / "ways").glob("weights*.safetensors"))) == 2
    image = np.random.default_rng(5).standard_normal((1, 3, 9, 8)).astype(np.float32)
    outputs = [
        onnxruntime.InferenceSession(each.model).run(None, {"input": image})[0]
        for each in (folded, both, moved)
    ]
    np.testing.assert_allclose(outputs[1], outputs[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(outputs[2], outputs[0], rtol=1e-4, atol=1e-5)


def test_errors_are_measured_on_photographs_that_no_ranges_come_from(
    net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, {PLAIN: {"ms": 6}, EIGHT: {"ms": 1, "off": 4e-3}})
    ranged: list[Any] = []
    calibrate = calibrations.calibrate

    def watched(graph: Any, weights: Any, images: Any, *words: Any) -> Any:
        ranged.extend(images)
        return calibrate(graph, weights, images, *words)

    monkeypatch.setattr(calibrations, "calibrate", watched)
    measured: list[Any] = []

    def seen(graph: Any, weights: Any, images: Any, *words: Any) -> Any:
        measured.extend(images)
        return photographs(graph, weights, images, *words)

    monkeypatch.setattr(trials, "photographs", seen)
    images = np.random.default_rng(4).standard_normal((50, 3, 9, 8), np.float32)
    result = found(net, tmp_path, "1e-2", material=Material(photographs=images))
    assert result.plan.said == "all batches on onnxruntime in u8s8"
    assert (result.plan.images, result.plan.photographs) == (16, True)
    assert not {each.tobytes() for each in measured} & {each.tobytes() for each in ranged}
    assert {each.tobytes() for each in (*measured, *ranged)} == {each.tobytes() for each in images}


# ---- asked for wrongly ---------------------------------------------------------------------------


def test_an_agreement_takes_photographs(net: Net) -> None:
    budget = parse_budget("top1:99%")
    with pytest.raises(UsageError, match="is about photographs, and there are none"):
        check(net, Request(budget))
    few = Material(photographs=np.zeros((47, 3, 9, 8), np.float32))
    with pytest.raises(UsageError, match=r"47 photographs are too few .*: 48 or more"):
        check(net, Request(budget, material=few))
    labels = Labelled(
        lambda count: np.zeros((min(5, count), 3, 9, 8), np.float32), lambda _: (0, 0)
    )
    with pytest.raises(UsageError, match="5 photographs are too few"):
        check(net, Request(budget, labelled=labels))
    check(net, Request(parse_budget("1e-3"), labelled=labels))
    check(net, Request(parse_budget("1e-3")))
    image = replace(net, graph=net.graph.rebuilt(outputs=("relu1",)))
    enough = Material(photographs=np.zeros((48, 3, 9, 8), np.float32))
    check(net, Request(budget, material=enough))
    with pytest.raises(UsageError, match="relu1 is an image, and has no first class"):
        check(image, Request(budget, material=enough))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budget", "1e-3"], "--budget is for a search"),
        (["--threads", "2"], "--threads is for a search"),
        (["--target", "auto", "--budget", "some"], "'some' is no budget"),
        (["--target", "auto", "--budget", ""], "is empty"),
        (["--target", "auto", "--precision", "bf16"], "finds the precision itself"),
        (["--target", "auto", "--target", "openvino"], "there is no engine 'auto'"),
        (["--target", "auto", "--budget", "top1:99%"], "is about photographs"),
    ],
)
def test_wrong_usage(
    arguments: list[str], message: str, net: Net, tmp_path: Path, alexc: Alexc
) -> None:
    ran = alexc("build", tmp_path / "small.yaml", "--out", tmp_path / "out", *arguments)
    assert ran.status == 2, ran.err
    assert message in ran.err
    assert net.spec.name == "small"
    assert not (tmp_path / "out").exists()


# ---- for real ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("net")
def test_a_build_that_searches(
    tmp_path: Path, alexc: Alexc, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On one engine, from the command line to a session; a second build does nothing."""
    pytest.importorskip("onnxruntime")
    from alexc.assembly import inputs, plans
    from alexc.assembly.options import Auto

    monkeypatch.setattr(searching, "ENGINES", {"onnxruntime": alexc_runtime.ENGINES["onnxruntime"]})
    monkeypatch.setattr(plans, "PLAN_ENGINES", ())
    place = ("build", tmp_path / "small.yaml", "--out", tmp_path / "out")
    words = ("--target", "auto", "--batch", "1,1,2", "--json")
    ran = alexc(*place, *words)
    assert ran.status == 0, ran.err
    plan = ran.json["plan"]
    assert plan["budget"] == "exact"
    assert {tuple(each["forms"]) for each in plan["candidates"]} == {(), ("folded",)}
    assert all(each["exact"] for each in plan["candidates"])
    with alexc_runtime.open(tmp_path / "out") as session:
        assert "planned, the fastest of 2 within exact" in session.why
        images = np.random.default_rng(2).standard_normal((3, 3, 9, 8), np.float32)
        planned = session.run(images)["fc"]
    with alexc_runtime.open(tmp_path / "out", "onnxruntime") as session:
        np.testing.assert_allclose(session.run(images)["fc"], planned, rtol=1e-4, atol=1e-5)
    assert alexc(*place, *words).json["up_to_date"] is True
    # On another machine it is measured again.
    options = Options(tmp_path / "out", auto=Auto(parse_budget("exact")))
    net = load_net(tmp_path / "small.yaml")
    here = inputs.key_of(net, options)
    monkeypatch.setattr(inputs, "this_machine", lambda: replace(this_machine(), cpu="another"))
    assert inputs.key_of(net, options) != here


def test_a_build_that_searches_for_a_model_that_takes_pixels(
    tmp_path: Path, alexc: Alexc, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors and ranges are those of photographs as pixels, and the planned session takes them."""
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(searching, "ENGINES", {"onnxruntime": alexc_runtime.ENGINES["onnxruntime"]})
    monkeypatch.setattr("alexc.assembly.plans.PLAN_ENGINES", ())
    # Faster by more than a tie, and by less than what is clear in a short race.
    set_times(monkeypatch, lambda each: 1.0 if each.precision == "u8s8" else 1.025)
    says = "preprocess: {scale: 0.02, mean: [2, 3, 2.5], std: [1, 0.8, 1.25], channels: bgr}\n"
    spec = SPEC.replace("  bn1: batch_norm\n", "") + says
    (tmp_path / "small.yaml").write_text(spec, encoding="utf-8")
    generator = np.random.default_rng(8)
    (tmp_path / "photos").mkdir()
    for index in range(48):
        picture = np.clip(128 + 60 * structured((3, 9, 8), generator), 0, 255)
        pixels = picture.astype(np.uint8).transpose(1, 2, 0)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{index:02}.png")
    reading = Mock(wraps=load_pixels)
    monkeypatch.setattr("alexc.calibrate.images.load_pixels", reading)
    ran = alexc(
        *("build", tmp_path / "small.yaml", "--out", tmp_path / "uint8", "--input", "uint8"),
        *("--calibrate", tmp_path / "photos", "--target", "auto", "--budget", "0.2,top1:10%"),
        *("--batch", "1,1,2", "--json"),
    )
    assert ran.status == 0, ran.err
    reading.assert_called_once()  # however many of the build's parts want them
    plan = ran.json["plan"]
    assert (plan["images"], plan["photographs"]) == (16, True)
    ways = {way["precision"]: way for way in plan["candidates"]}
    assert all(way["usable"] for way in ways.values())
    assert {precision: way["exact"] for precision, way in ways.items()} == {
        "fp32": True,
        "u8s8": False,
    }
    assert ways["fp32"]["rel_l2"] < 1e-6 < ways["u8s8"]["rel_l2"] < 0.05
    for way in ways.values():
        model = onnx.load(str(tmp_path / "uint8" / way["path"]), load_external_data=False)
        assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    build(load_net(tmp_path / "small.yaml"), Options(tmp_path / "float32"), lambda _: None)
    photos = sorted((tmp_path / "photos").iterdir())[:3]
    outputs, batches = {}, {}
    for takes in ("uint8", "float32"):
        with alexc_runtime.open(tmp_path / takes) as session:
            assert session.manifest.preprocess is not None
            batches[takes] = alexc_runtime.load_photos(photos, session.manifest.preprocess)
            outputs[takes] = session.run(batches[takes])["fc"]
    assert batches["uint8"].dtype == np.uint8
    largest = float(np.abs(outputs["float32"]).max())
    np.testing.assert_allclose(outputs["uint8"], outputs["float32"], rtol=0, atol=0.1 * largest)
    # A benchmark gives the planned session pixels, too.
    folder = str(tmp_path / "uint8")
    served = opened_as_planned(
        Subject(tmp_path, tmp_path, tmp_path, tmp_path, tmp_path), {"folder": folder}
    )
    np.testing.assert_array_equal(served.taken(batches["float32"]), batches["uint8"])
    np.testing.assert_array_equal(served.taken(batches["uint8"]), batches["uint8"])


def test_images_with_labels_for_a_search(tmp_path: Path) -> None:
    """Those of a data set, as the net takes them, with an accuracy that is `alexc eval`'s."""
    for label in ("n1", "n2"):
        folder = tmp_path / "data" / "val" / label
        folder.mkdir(parents=True)
        for index in range(3):
            pixels = np.random.default_rng(index).integers(0, 256, (9, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{index}.png")
    spec = SPEC + "preprocess: {scale: 0.01}\nlabels: [n1, n2, a, b, c, d, e]\n"
    (tmp_path / "small.yaml").write_text(spec, encoding="utf-8")
    net = load_net(tmp_path / "small.yaml")
    given = labelled(net, f"folder:{tmp_path / 'data'}", "test")
    assert given.some(4).shape == (4, 3, 9, 8)
    of_pixels = labelled(net, f"folder:{tmp_path / 'data'}", "test", "uint8")
    assert of_pixels.some(4).dtype == np.uint8
    np.testing.assert_allclose(given.some(4), of_pixels.some(4) * 0.01, rtol=1e-6)
    asked: set[Any] = set()

    def first_class(images: Any) -> Any:
        asked.add(images.dtype)
        return np.tile(np.array([1, 0, 0, 0, 0, 0, 0.5], np.float32), (len(images), 1))

    for each, takes in ((given, np.float32), (of_pixels, np.uint8)):
        assert each.score(first_class) == (0.5, 1.0)
        assert asked == {np.dtype(takes)}
        asked.clear()
