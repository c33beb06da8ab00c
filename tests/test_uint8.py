"""Bundles that take pixels: what is in them, what they compute, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from PIL import Image

import alexc_runtime
from alexc.assembly.options import Options, Target
from alexc.build import build
from alexc.bundle import net_in
from alexc.cli.verify_foreign import meant
from alexc.diagnostics import UsageError
from alexc.frontend import load_net
from alexc.lower.to_onnx import serialize, to_onnx
from alexc.model import graph_of
from alexc.ops.pixels import Pixels
from alexc.passes.inference import inference
from alexc.passes.read_pixels import NORMALISED, read_pixels
from alexc.plan.contestant import Subject
from alexc.plan.ours import contestants, opened
from alexc.verify.crosscheck import verify
from alexc.verify.inputs import PIXEL_KINDS, batch_of_pixels, structured
from alexc.weights import store
from alexc_runtime.manifest import MODEL, WEIGHTS, open_bundle
from alexc_runtime.preprocess import normalised
from tests.cases import weights_for
from tests.command_line import Alexc, alexc

__all__ = ["alexc"]

SPEC = """\
alexc: 1
name: small
input: {channels: 3, height: 23, width: 19}
layers:
  conv1: {op: conv, out_channels: 6, kernel_size: 3, stride: 2, padding: 1}
  relu1: relu
  norm1: {op: lrn, size: 3, alpha: 1e-2, beta: 0.75, k: 2, alpha_per: element}
  flatten: flatten
  fc: {op: linear, out_features: 7}
preprocess: {resize: 24, scale: 0.01, mean: [0.4, 0.5, 0.6], std: [0.2, 0.3, 0.25], channels: bgr}
"""


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One net, built for images and for pixels."""
    folder = tmp_path_factory.mktemp("built")
    (folder / "small.yaml").write_text(SPEC)
    net = load_net(folder / "small.yaml")
    options = Options(folder / "float32", targets=(Target("onnxruntime"),))
    build(net, options, progress=lambda _: None)
    build(net, Options(folder / "uint8", input="uint8"), progress=lambda _: None)
    return {name: folder / name for name in ("float32", "uint8")}


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    generator = np.random.default_rng(5)
    for index in range(18):
        picture = np.clip(128 + 60 * structured((3, 40, 31), generator), 0, 255)
        pixels = picture.astype(np.uint8).transpose(1, 2, 0)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    return [tmp_path / f"{index}.png" for index in range(18)]


def test_the_model_takes_uint8_and_keeps_the_weights_that_were_trained(
    bundles: dict[str, Path],
) -> None:
    model = onnx.load(str(bundles["uint8"] / MODEL), load_external_data=False)
    (taken,) = model.graph.input
    assert (taken.name, taken.type.tensor_type.elem_type) == ("input", TensorProto.UINT8)
    first, *others = model.graph.node
    assert (first.op_type, list(first.input)) == ("Cast", ["input"])
    assert all("input" not in node.input for node in others)
    made = [name for node in model.graph.node for name in node.output]
    assert made[2:4] == [NORMALISED, "conv1"]
    weights = [(folder / WEIGHTS).read_bytes() for folder in bundles.values()]
    assert weights[0] == weights[1]
    engines = {each.engine: each for each in open_bundle(bundles["uint8"]).manifest.engines}
    assert all(each.path is not None for each in engines.values())  # a plan, too, where it can be
    report = json.loads((bundles["uint8"] / "verify.json").read_text())
    compared = {row["backend"] for row in report["layers"] if row["layer"] == NORMALISED}
    assert {"onnxruntime", "onnxruntime_form"} <= compared


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_pixels_give_what_the_normalised_photographs_give(
    bundles: dict[str, Path], photos: list[Path], engine: str
) -> None:
    pytest.importorskip(engine)
    outputs = {}
    for takes, folder in bundles.items():
        with alexc_runtime.open(folder, engine=engine) as session:
            assert session.manifest.preprocess is not None
            batch = alexc_runtime.load_photos(photos[:4], session.manifest.preprocess)
            assert batch.dtype == np.dtype(takes)
            outputs[takes] = session.run(batch)["fc"]
    largest = float(np.abs(outputs["float32"]).max())
    np.testing.assert_allclose(outputs["uint8"], outputs["float32"], rtol=0, atol=2**-18 * largest)


def test_a_session_says_what_it_takes(bundles: dict[str, Path]) -> None:
    for takes, other in (("uint8", "float32"), ("float32", "uint8")):
        with (
            alexc_runtime.open(bundles[takes], engine="onnxruntime") as session,
            pytest.raises(alexc_runtime.BatchError) as caught,
        ):
            session.run(np.zeros((2, 3, 23, 19), other))
        assert f"holds {other}" in str(caught.value)
        assert f"takes {takes} (batch, 3, 23, 19)" in str(caught.value)


def test_the_commands_work_on_it(
    alexc: Alexc, bundles: dict[str, Path], photos: list[Path]
) -> None:
    seen = {}
    for takes, folder in bundles.items():
        ran = alexc("predict", folder, *photos[:3], "--engine", "onnxruntime", "--json")
        assert ran.status == 0, ran.err
        seen[takes] = [[best["index"] for best in row["top"]] for row in ran.json]
    assert seen["uint8"] == seen["float32"]
    ran = alexc(
        "verify", bundles["uint8"], "--image", photos[0], "--backend", "onnxruntime", "--json"
    )
    assert ran.status == 0, ran.err
    assert ran.json["passed"]


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_other_precisions_take_pixels_too(
    tmp_path: Path, bundles: dict[str, Path], photos: list[Path], precision: str
) -> None:
    net = load_net(bundles["uint8"].with_name("small.yaml"))
    options = Options(
        tmp_path / "out",
        precision=precision,
        targets=(Target("onnxruntime"),),
        calibrate=(photos[0].parent,),
        input="uint8",
    )
    report = build(net, options, progress=lambda _: None).report
    assert report is not None
    assert report.passed
    # Taken on the photographs that were held out, as pixels.
    assert {each.images for each in report.accuracy} == {6}
    assert all(each.rel_l2 < 0.2 for each in report.accuracy)
    opened = open_bundle(tmp_path / "out")
    graph = net_in(opened.manifest, "out").graph
    written = graph_of(opened, graph, store.read(opened.path(WEIGHTS), graph))
    assert written.pixels == Pixels(scale=0.01, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))


def test_a_spec_that_says_nothing_of_pixels_is_refused(alexc: Alexc, tmp_path: Path) -> None:
    spec = tmp_path / "small.yaml"
    spec.write_text(SPEC.split("preprocess")[0])
    ran = alexc("build", spec, "--input", "uint8", "--out", tmp_path / "out")
    assert ran.status == 1
    assert "error[build/no-preprocess]" in ran.err
    assert not (tmp_path / "out").exists()


def test_a_wrong_mean_is_found_at_the_layer_that_has_it(
    bundles: dict[str, Path], tmp_path: Path
) -> None:
    """The model is held to the spec's normalisation, and so to what the net was trained on."""
    graph = load_net(bundles["uint8"].with_name("small.yaml")).graph
    weights = weights_for(graph)
    right = Pixels(scale=0.01, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    wrong = right.model_copy(update={"mean": (0.4, 0.501, 0.6)})
    extents = store.write(tmp_path / WEIGHTS, weights)
    model = tmp_path / MODEL
    model.write_bytes(serialize(to_onnx(read_pixels(inference(graph), wrong), extents)))
    report = verify(
        graph,
        weights,
        model,
        written=read_pixels(inference(graph), right),
        backends=["onnxruntime"],
        isolate=False,
    )
    assert report.first_divergence is not None
    assert report.first_divergence.layer == NORMALISED
    assert report.first_divergence.kind == "local"


def test_images_that_provoke_are_pixels() -> None:
    images = batch_of_pixels((3, 17, 13), 2 * PIXEL_KINDS, 1)
    assert (images == np.rint(images)).all()
    assert (images.min(), images.max()) == (0, 255)
    assert not np.array_equal(images[0], images[len(PIXEL_KINDS)])
    assert [float(images[index].std()) for index in (2, 3)] == [0.0, 0.0]


def test_a_benchmark_gives_each_what_it_takes(bundles: dict[str, Path]) -> None:
    """All of them the same pictures: normalised, or the pixels that they were made of."""
    preprocess = open_bundle(bundles["float32"]).manifest.preprocess
    assert preprocess is not None
    pixels = batch_of_pixels((3, 23, 19), PIXEL_KINDS, 1)
    images = normalised(pixels.astype(np.uint8), preprocess)
    outputs = {}
    for takes, folder in bundles.items():
        subject = Subject(folder, folder, folder, folder, folder)
        first, *_ = contestants(folder, open_bundle(folder).manifest)
        assert first.note == ("takes pixels" if takes == "uint8" else "")
        record = next(c for c in contestants(folder, open_bundle(folder).manifest) if not c.gpu)
        runner = opened(subject, record.settings)
        given = runner.taken(images)
        np.testing.assert_array_equal(given, pixels if takes == "uint8" else images)
        outputs[takes] = runner.run(given)["fc"]
    largest = float(np.abs(outputs["float32"]).max())
    np.testing.assert_allclose(outputs["uint8"], outputs["float32"], rtol=0, atol=2**-18 * largest)


def test_the_file_of_another_exporter_is_given_what_the_net_was_trained_on(
    bundles: dict[str, Path],
) -> None:
    _, _, _, of_images = meant(bundles["float32"], None)
    _, _, _, of_pixels = meant(bundles["uint8"], None)
    assert of_images is not None
    assert of_pixels == of_images


def test_inputs_that_are_no_pixels_are_refused(bundles: dict[str, Path]) -> None:
    graph = load_net(bundles["uint8"].with_name("small.yaml")).graph
    written = read_pixels(inference(graph), Pixels(scale=1.0, mean=(0,) * 3, std=(1,) * 3))
    with pytest.raises(UsageError, match="whole numbers from 0 to 255"):
        verify(
            graph,
            weights_for(graph),
            None,
            written=written,
            inputs=np.full((1, 3, 23, 19), 0.5, np.float32),
            isolate=False,
        )
