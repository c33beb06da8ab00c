"""Ranges from images: what is measured, which method is kept, what is refused; builds with them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import alexc_runtime
from alexc.calibrate.calibration import Calibration, calibrate, read, split
from alexc.calibrate.histogram import BINS, Histogram
from alexc.calibrate.images import FEWEST, MOST, check, load_images, photo_files
from alexc.calibrate.narrow import narrow
from alexc.calibrate.overflow import foretell
from alexc.calibrate.ranges import METHODS, limit
from alexc.calibrate.simulate import Simulation
from alexc.diagnostics import AlexcError, UsageError
from alexc.engines.record import WITHOUT_KERNELS
from alexc.frontend import load_net
from alexc.graph.graph import Graph
from alexc.graph.quantization import LARGEST, QuantizedFormat, Scheme, on_grid
from alexc.ops.base import Op
from alexc.ops.conv import Conv
from alexc.ops.dense import Linear
from alexc.ops.norm import Lrn
from alexc.ops.pointwise import Relu
from alexc.ops.structure import Flatten
from alexc.passes.precision import with_precision
from alexc.passes.quantize import quantizable, tensors_to_range
from alexc.plan.variant import PRECISIONS as SEARCHED
from alexc.spec.model import InitSpec
from alexc.verify.reference import evaluate
from alexc.weights.init import draw
from alexc_runtime.manifest import Preprocess
from tests.command_line import Alexc, alexc

__all__ = ["alexc"]  # a fixture, which pytest finds here by its name

Weights = dict[str, NDArray[np.float32]]
Images = NDArray[np.float32]

READ_AS_IS = Preprocess(None, (17, 13), "rgb", 1 / 64, (2.0, 2.0, 2.0), (1.0, 1.0, 1.0))


def pictures(count: int, seed: int = 0) -> Images:
    """Smooth pictures of whole pixels, 0 … 255: `(count, 3, 17, 13)`."""
    random = np.random.default_rng(seed)
    coarse = random.uniform(0, 255, (count, 3, 5, 4))
    fine = coarse.repeat(4, axis=2).repeat(4, axis=3)[:, :, :17, :13]
    return np.rint(fine + random.uniform(-9, 9, fine.shape)).clip(0, 255).astype(np.float32)


def inputs(count: int) -> Images:
    """The same as READ_AS_IS makes them."""
    return pictures(count) / np.float32(64) - np.float32(2)


def save(folder: Path, images: Images) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        pixels = image.transpose(1, 2, 0).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03}.png")
    return folder


def say(_: str) -> None:
    """Progress that nobody looks at."""


def net() -> Graph:
    conv = Conv.model_validate({"out_channels": 6, "kernel_size": 3, "stride": 2})
    layers: list[tuple[str, Op, tuple[str, ...]]] = [
        ("conv1", conv, ("input",)),
        ("relu1", Relu(), ("conv1",)),
        ("flatten", Flatten(), ("relu1",)),
        ("fc2", Linear(out_features=10), ("flatten",)),
        ("relu2", Relu(), ("fc2",)),
        ("fc3", Linear(out_features=7), ("relu2",)),
    ]
    return Graph.build("net", (3, 17, 13), layers, ("fc3",))


@pytest.fixture(scope="module")
def weights() -> Weights:
    return draw(net(), InitSpec(), {}, seed=6)


@pytest.fixture(scope="module")
def calibration(weights: Weights) -> Calibration:
    return calibrate(net(), weights, inputs(24), quantizable(net()), "int8")[0]


# ---- histograms and ranges -----------------------------------------------------------------------


def histogram_of(values: NDArray[Any]) -> Histogram:
    histogram = Histogram()
    histogram.add(values.astype(np.float32))
    return histogram


def test_a_histogram_is_the_same_however_it_is_fed() -> None:
    values = np.random.default_rng(1).laplace(size=6000).astype(np.float32)
    values[::7] = 0
    whole, parts = histogram_of(values), Histogram()
    for part in np.split(np.sort(values), 6):  # small magnitudes in the middle, largest last
        parts.add(part)
    assert whole.largest == parts.largest == np.abs(values).max()
    assert whole.counts.sum() == parts.counts.sum() == np.count_nonzero(values)
    edges = np.arange(BINS + 1) * parts.width
    expected, _ = np.histogram(np.abs(values[values != 0]), edges)
    np.testing.assert_array_equal(parts.counts, expected)


def test_nothing_but_zeros_has_the_limit_zero() -> None:
    histogram = histogram_of(np.zeros(9))
    assert {limit(method, histogram, "int8") for method in METHODS} == {0.0}


@pytest.mark.parametrize("format", ["int8", "fp8"])
def test_methods_cut_an_outlier_off_and_max_does_not(format: QuantizedFormat) -> None:
    values = np.append(np.random.default_rng(2).normal(size=500_000), 40.0)
    histogram = histogram_of(values)
    limits = {method: limit(method, histogram, format) for method in METHODS}
    assert limits["max"] == 40.0
    assert 3 < limits["percentile"] < 5
    assert limits["entropy"] < 40
    if format == "int8":
        assert limits["mse"] < 20

    def error(most: float) -> float:
        return float(((on_grid(values, most / LARGEST[format], format) - values) ** 2).sum())

    assert error(limits["mse"]) == min(map(error, limits.values()))


def test_evenly_spread_magnitudes_are_kept_whole() -> None:
    histogram = histogram_of(np.linspace(0.001, 8, 100_000))
    for method in ("max", "mse", "percentile"):
        assert limit(method, histogram, "int8") == pytest.approx(8, rel=0.06)


# ---- the images ----------------------------------------------------------------------------------


def test_photographs_are_found_at_any_depth_and_each_once(tmp_path: Path) -> None:
    save(tmp_path / "a" / "b", pictures(3))
    save(tmp_path / "c", pictures(2))
    (tmp_path / "c" / "notes.txt").write_text("no photograph")
    found = photo_files([tmp_path, tmp_path / "c", tmp_path / "a" / "b" / "000.png"])
    names = [file.relative_to(tmp_path).as_posix() for file in found]
    assert names == ["a/b/000.png", "a/b/001.png", "a/b/002.png", "c/000.png", "c/001.png"]


def test_of_very_many_some_are_taken_evenly(tmp_path: Path) -> None:
    for number in range(3 * MOST):
        (tmp_path / f"{number:04}.png").touch()
    found = photo_files([tmp_path])
    assert [file.name for file in found[:3]] == ["0000.png", "0003.png", "0006.png"]
    assert len(found) == MOST


def test_good_images_are_read_as_the_net_reads_them(tmp_path: Path) -> None:
    found = load_images([save(tmp_path, pictures(FEWEST))], READ_AS_IS)
    np.testing.assert_allclose(found, inputs(FEWEST), atol=1e-6)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (pictures(FEWEST - 1), f"{FEWEST - 1} images are too few to calibrate on"),
        (np.zeros((0, 3, 17, 13), np.float32), "0 images are too few"),
        (pictures(4).repeat(9, axis=0), "4 different images are too few"),
        (np.append(pictures(20), np.full((1, 3, 17, 13), 7.0, np.float32), 0), "of one colour"),
        (
            np.random.default_rng(0).normal(size=(20, 3, 17, 13)).astype(np.float32),
            "20 images are noise",
        ),
    ],
    ids=["few", "none", "copies", "constant", "noise"],
)
def test_images_that_tell_no_range_are_refused(images: Images, said: str) -> None:
    with pytest.raises(AlexcError, match=said) as caught:
        check([f"{number}.png" for number in range(len(images))], list(images))
    assert {d.code for d in caught.value.diagnostics} == {"calibrate/images"}


def test_what_is_no_photograph_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no file"):
        photo_files([tmp_path / "nowhere"])
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(AlexcError, match=r"broken\.png"):
        load_images([tmp_path], READ_AS_IS)


# ---- the calibration -----------------------------------------------------------------------------


def test_a_third_is_held_out_and_not_measured() -> None:
    images = pictures(24)
    measured, held_out = split(images)
    assert (len(measured), len(held_out)) == (16, 8)
    np.testing.assert_array_equal(held_out, images[2::3])
    assert len(split(pictures(200))[1]) <= 16


def test_the_method_of_the_least_error_is_kept(calibration: Calibration) -> None:
    assert set(calibration.tried) == set(METHODS)
    errors = {method: tried.rel_l2 for method, tried in calibration.tried.items()}
    assert errors[calibration.method] == min(errors.values())
    assert 0 < min(errors.values()) < 0.05
    for tried in calibration.tried.values():
        assert tried.limits.keys() == tensors_to_range(net(), calibration.layers, "int8").keys()
        assert tried.top1_agreement is not None
        assert tried.max_abs > 0


def test_the_largest_of_the_measured_images_is_the_range_of_max(
    calibration: Calibration, weights: Weights
) -> None:
    measured, _ = split(inputs(24))
    values = evaluate(net(), weights, measured)
    for name, most in calibration.tried["max"].limits.items():
        assert most == pytest.approx(float(np.abs(values[name]).max()), rel=1e-5)


@pytest.mark.parametrize("scheme", ["int8", "u8s8", "fp8"])
def test_the_simulation_is_the_reference_on_its_grids(weights: Weights, scheme: Scheme) -> None:
    images = inputs(24)
    made, samples = calibrate(net(), weights, images, quantizable(net()), scheme)
    quantized = made.apply(net(), weights)
    found = Simulation(net(), weights).outputs(samples.images, quantized)["fc3"]
    expected = evaluate(quantized, weights, samples.images)["fc3"]
    # A tie that float32 sees otherwise costs a step somewhere.
    assert np.abs(found - expected).max() < 0.05 * np.abs(samples.exact["fc3"]).max()
    assert np.median(np.abs(found - expected)) < 1e-4


def test_a_calibration_is_read_as_it_was_written(calibration: Calibration, tmp_path: Path) -> None:
    calibration.write(tmp_path / "calibration.json")
    assert read(tmp_path / "calibration.json") == calibration


def test_ranges_of_another_net_or_other_weights_are_refused(
    calibration: Calibration, weights: Weights
) -> None:
    with pytest.raises(AlexcError, match="other weights"):
        calibration.apply(net(), {name: array + 1 for name, array in weights.items()})
    other = net()
    shorter = Graph.build("net", other.input_shape, other.layers()[:-1], ("relu2",))
    with pytest.raises(AlexcError, match="other layers"):
        calibration.apply(shorter, weights)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"format": "alexc-bundle"}',
        '{"format": "alexc-calibration", "version": 2}',
        '{"format": "alexc-calibration", "version": 1}',
        "NEGATIVE",
        "ZERO",
        "HUGE",
        "METHOD",
        "NUMBERS",
    ],
)
def test_a_file_that_is_no_calibration_is_refused(
    calibration: Calibration, tmp_path: Path, text: str
) -> None:
    content = calibration.to_json()
    if text == "NEGATIVE":
        content["methods"]["max"]["limits"]["input"] = -1
    elif text == "ZERO":
        content["methods"]["mse"]["limits"]["input"] = 0
    elif text == "HUGE":
        content["methods"]["max"]["limits"]["input"] = 10**400
    elif text == "METHOD":
        content["method"] = "guess"
    elif text == "NUMBERS":
        content["numbers"] = "int4"
    (tmp_path / "c.json").write_text(json.dumps(content) if text.isupper() else text)
    with pytest.raises(AlexcError, match=r"c\.json is no calibration"):
        read(tmp_path / "c.json")


def test_weights_that_overflow_fp32_are_refused(weights: Weights) -> None:
    huge = {name: array * np.float32(1e30) for name, array in weights.items()}
    with pytest.raises(AlexcError, match="is not finite"):
        calibrate(net(), huge, pictures(24), quantizable(net()), "int8")


# ---- overflow ------------------------------------------------------------------------------------


def test_an_overflow_is_foretold_with_a_patch() -> None:
    lrn = Lrn(size=5, alpha=1e-4, beta=0.75, k=2.0, alpha_per="element")
    conv = Conv.model_validate({"out_channels": 4, "kernel_size": 3})
    layers: list[tuple[str, Op, tuple[str, ...]]] = [
        ("conv1", conv, ("input",)),
        ("norm1", lrn, ("conv1",)),
        ("conv2", conv, ("norm1",)),
    ]
    plain = Graph.build("net", (3, 9, 8), layers, ("conv2",))
    largest = {"input": 1.0, "conv1": 120.0, "norm1": 2.0, "conv2": 3.0}
    assert foretell(with_precision(plain, "fp16"), largest) is None  # norm1 stays in fp32
    named = with_precision(plain, "fp16", {"norm1": "fp16"})
    found = foretell(named, largest)
    assert found is not None
    assert "norm1 reaches 7.2e+04 in fp16" in found.message
    assert "precision:\n  norm1: fp32" in (found.help or "")
    assert foretell(with_precision(plain, "bf16", {"norm1": "bf16"}), largest) is None
    overflowing = foretell(named, {**largest, "conv1": 7e4})
    assert overflowing is not None
    assert "precision:\n  conv1: fp32\n  norm1: fp32" in (overflowing.help or "")


# ---- builds --------------------------------------------------------------------------------------

SPEC = """\
alexc: 1
name: small
input: {channels: 3, height: 17, width: 13}
layers:
  conv1: {op: conv, out_channels: 6, kernel_size: 3, stride: 2}
  relu1: relu
  norm1: {op: lrn, size: 3, alpha: 1e-2, beta: 0.75, k: 2, alpha_per: element}
  flatten: flatten
  fc2: {op: linear, out_features: 10}
  drop2: {op: dropout, p: 0.5}
  fc3: {op: linear, out_features: 7}
preprocess: {scale: 0.015625, mean: [2, 2, 2]}
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    (tmp_path / "small.yaml").write_text(SPEC)
    return tmp_path / "small.yaml"


def test_an_int8_bundle_is_built_verified_run_and_rebuilt_from_its_ranges(
    alexc: Alexc, spec: Path, tmp_path: Path
) -> None:
    photos = save(tmp_path / "photos", pictures(24))
    target = ("--target", "onnxruntime", "--precision", "int8")
    first = alexc("build", spec, "--out", tmp_path / "b", "--calibrate", photos, *target, "--json")
    assert first.status == 0, first.err
    (engine,) = first.json["engines"]
    assert (engine["precision"], engine["status"]) == ("int8", "verified")
    (accuracy,) = [a for a in first.json["accuracy"] if a["backend"] == "onnxruntime"]
    assert accuracy["images"] == 8
    assert 0 < accuracy["rel_l2"] < 0.05
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    assert "calibration.json" in manifest["files"]
    assert alexc("verify", tmp_path / "b", "--backend", "onnxruntime").status == 0
    with alexc_runtime.open(tmp_path / "b") as session:
        assert session.precision == "int8"
        assert session.run(inputs(2))["fc3"].shape == (2, 7)
    again = alexc("build", spec, "--out", tmp_path / "b", "--calibrate", photos, *target, "--json")
    assert again.json["up_to_date"]


def test_ranges_of_an_earlier_build_give_the_same_graph(weights: Weights, tmp_path: Path) -> None:
    photos = save(tmp_path / "photos", pictures(24))
    first = narrow(net(), weights, "int8", {}, [photos], READ_AS_IS, say)
    assert first.calibration is not None
    first.calibration.write(tmp_path / "ranges.json")
    again = narrow(net(), weights, "int8", {}, [tmp_path / "ranges.json"], None, say)
    assert again.graph == first.graph
    with pytest.raises(AlexcError, match="not those of fp8"):
        narrow(net(), weights, "fp8", {}, [tmp_path / "ranges.json"], None, say)
    with pytest.raises(AlexcError, match="does not say how to read"):
        narrow(net(), weights, "int8", {}, [photos], None, say)


def test_int8_without_images_or_with_both_kinds_is_wrong_usage(
    alexc: Alexc, spec: Path, tmp_path: Path
) -> None:
    ran = alexc("build", spec, "--out", tmp_path / "b", "--precision", "int8")
    assert (ran.status, "error[calibrate/missing]" in ran.err) == (2, True)
    assert not (tmp_path / "b").exists()
    (tmp_path / "c.json").write_text("{}")
    both = ("--calibrate", tmp_path / "c.json", "--calibrate", save(tmp_path / "p", pictures(3)))
    ran = alexc("build", spec, "--out", tmp_path / "b", "--precision", "int8", *both)
    assert (ran.status, "error[calibrate/missing]" in ran.err) == (2, True)


def test_a_layer_named_in_the_spec_is_not_quantized(alexc: Alexc, spec: Path) -> None:
    spec.write_text(SPEC + "precision: {conv1: fp32}\n")
    named = load_net(spec).spec.header.precision
    assert quantizable(load_net(spec).graph, named) == ("fc2",)
    assert alexc("check", spec).status == 0


def test_bf16_says_that_onnx_runtime_can_not_and_openvino_runs_it(
    alexc: Alexc, spec: Path, tmp_path: Path
) -> None:
    pytest.importorskip("openvino")
    ran = alexc("build", spec, "--out", tmp_path / "b", "--precision", "bf16", "--json")
    assert ran.status == 0, ran.err
    engines = {engine["engine"]: engine for engine in ran.json["engines"]}
    assert engines["openvino"]["status"] == "verified"
    assert engines["onnxruntime"]["path"] is None
    assert "does not run bf16" in engines["onnxruntime"]["status"]
    # What is found here refuses it where it is asked for by name, and is not searched for.
    assert WITHOUT_KERNELS == {"onnxruntime": ("bf16",)}
    assert "bf16" not in SEARCHED["onnxruntime"]
    assert {engine["precision"] for engine in engines.values()} == {"bf16"}
    with alexc_runtime.open(tmp_path / "b") as session:
        assert (session.engine, session.precision) == ("openvino", "bf16")
    with pytest.raises(alexc_runtime.RuntimeFaultError, match="does not run bf16"):
        alexc_runtime.open(tmp_path / "b", "onnxruntime")


def test_fp16_that_would_overflow_is_refused_with_the_patch(
    alexc: Alexc, spec: Path, tmp_path: Path
) -> None:
    spec.write_text(SPEC.replace("scale: 0.015625, mean: [2, 2, 2]", "mean: [120, 120, 120]"))
    with spec.open("a") as file:
        file.write("precision: {norm1: fp16}\n")
    ran = alexc("build", spec, "--out", tmp_path / "b", "--precision", "fp16")
    assert ran.status == 1
    assert "error[precision/overflow]: norm1 reaches" in ran.err
    assert "norm1: fp32" in ran.err
    assert not (tmp_path / "b").exists()


def test_with_photographs_fp16_has_its_accuracy_taken_on_them(
    weights: Weights, tmp_path: Path
) -> None:
    photos = save(tmp_path, pictures(24))
    found = narrow(net(), weights, "fp16", {"fc2": "fp32"}, [photos], READ_AS_IS, say)
    assert found.graph.precisions.keys() == {"conv1", "relu1", "flatten", "relu2", "fc3"}
    assert found.samples is not None
    np.testing.assert_array_equal(found.samples.images, inputs(24)[2::3])
    exact = evaluate(net(), weights, found.samples.images)["fc3"]
    np.testing.assert_array_equal(found.samples.exact["fc3"], exact)
    assert narrow(net(), weights, "tf32", {}, [], None, say).graph.precisions == {}


def test_other_ranges_make_another_model(calibration: Calibration, weights: Weights) -> None:
    wider = {name: 2 * most for name, most in calibration.limits.items()}
    tried = replace(calibration.tried["max"], limits=wider)
    other = replace(calibration, method="max", tried={"max": tried})
    digests = {each.apply(net(), weights).digest() for each in (calibration, other)}
    assert len(digests) == 2
