"""`alexc build`, `verify` and `predict` from the outside: files, contract, status, bad input."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import shutil
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

import alexc_runtime
from alexc.assembly.options import Options
from alexc.build import build
from alexc.frontend import load_net
from alexc_runtime.digests import sha256
from alexc_runtime.manifest import read as read_manifest
from tests.command_line import Alexc, alexc

__all__ = ["alexc"]  # a fixture, which pytest finds here by its name

SMALL = """\
alexc: 1
name: small
input: {channels: 3, height: 23, width: 19}
layers:
  conv1: {op: conv, out_channels: 6, kernel_size: 3, stride: 2}
  relu1: relu
  norm1: {op: lrn, size: 3, alpha: 1e-2, beta: 0.75, k: 2, alpha_per: element}
  pool1: {op: max_pool, kernel_size: 3, stride: 2}
  conv2: {op: conv, out_channels: 4, kernel_size: 3, padding: 1, groups: 2}
  flatten: flatten
  drop: {op: dropout, p: 0.5}
  fc: {op: linear, out_features: 7}
preprocess: {resize: 24, scale: 0.01, mean: [0.4, 0.5, 0.6]}
"""
NAMES = {
    "manifest.json",
    "model.onnx",
    "model-onnxruntime.onnx",
    "weights.safetensors",
    "verify.json",
    "engines",
}


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that tests copy before they alter it."""
    folder = tmp_path_factory.mktemp("built")
    (folder / "small.yaml").write_text(SMALL)
    net = load_net(folder / "small.yaml")
    build(net, Options(folder / "bundle"), progress=lambda _: None)
    return folder / "bundle"


@pytest.fixture
def bundle(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "bundle"))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(5).integers(0, 256, (40, 31, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


# ---- what a build makes --------------------------------------------------------------------------


def test_a_bundle_has_the_four_files_and_says_so(
    alexc: Alexc, spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = alexc("build", spec, "--json")
    assert ran.status == 0, ran.err
    result = ran.json
    assert result["bundle"] == "build/small"
    assert result["verified"] is True
    assert {path.name for path in Path("build/small").iterdir()} == NAMES
    assert Path(result["model"]).is_file()
    assert Path(result["weights"]).is_file()
    by_engine = {engine["engine"]: engine for engine in result["engines"]}
    assert by_engine["onnxruntime"]["status"] == "verified"
    assert by_engine["onnxruntime"]["path"] == "build/small/model-onnxruntime.onnx"
    if "openvino" in by_engine:
        assert by_engine["openvino"]["path"] == result["model"]
    rtx = by_engine.get("tensorrt_rtx")
    if rtx is not None:  # its wheels are not for every machine
        assert rtx["status"] in ("built, not run: no GPU", "built, not run")
        assert Path(rtx["path"]).is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["build", "small.yaml"]


def test_a_second_build_does_nothing_and_says_so(alexc: Alexc, spec: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert alexc("build", spec, "--out", out).status == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    again = alexc("build", spec, "--out", out)
    assert (again.status, again.out) == (0, f"{out} is up to date\n")
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


@pytest.mark.parametrize("change", ["seed", "batch", "precision", "spec", "damage"])
def test_what_changes_the_bundle_builds_it_again(
    alexc: Alexc, spec: Path, bundle: Path, change: str
) -> None:
    arguments: list[object] = []
    if change == "spec":
        spec.write_text(SMALL.replace("beta: 0.75", "beta: 0.5"))
    elif change == "damage":
        with (bundle / "model.onnx").open("ab") as file:
            file.write(b"x")
    else:
        value = {"seed": "7", "batch": "1,2,3", "precision": "tf32"}[change]
        arguments = [f"--{change}", value]
    ran = alexc("build", spec, "--out", bundle, "--json", *arguments)
    assert ran.status == 0, ran.err
    assert ran.json["up_to_date"] is False
    assert alexc("build", spec, "--out", bundle, "--json", *arguments).json["up_to_date"] is True


def test_two_builds_give_the_same_bytes(spec: Path, built: Path, tmp_path: Path) -> None:
    build(load_net(spec), Options(tmp_path / "other"), progress=lambda _: None)
    for name in ("model.onnx", "weights.safetensors"):
        assert (tmp_path / "other" / name).read_bytes() == (built / name).read_bytes()


def test_the_seed_draws_other_weights(spec: Path, built: Path, tmp_path: Path) -> None:
    build(load_net(spec), Options(tmp_path / "other", seed=1), progress=lambda _: None)
    first, second = (
        load_file(folder / "weights.safetensors") for folder in (built, tmp_path / "other")
    )
    assert first.keys() == second.keys()
    assert not np.array_equal(first["conv1.weight"], second["conv1.weight"])


def test_weights_that_were_given_are_not_replaced_by_drawn_ones_unasked(
    alexc: Alexc, spec: Path, built: Path, tmp_path: Path
) -> None:
    out, given = tmp_path / "out", built / "weights.safetensors"
    command = ["build", spec, "--out", out, "--target", "onnxruntime", "--json"]
    assert alexc(*command, "--weights", given).status == 0
    assert json.loads((out / "manifest.json").read_text())["weights"] == {"seed": None}
    refused = alexc(*command)
    assert refused.status == 2
    assert "error[build/given-weights]" in refused.err
    assert alexc(*command, "--weights", given).json["up_to_date"] is True
    drawn = alexc(*command, "--seed", 0)
    assert drawn.status == 0, drawn.err
    assert json.loads((out / "manifest.json").read_text())["weights"] == {"seed": 0}
    assert alexc(*command).json["up_to_date"] is True


def test_predictions_from_drawn_weights_are_told_apart(
    alexc: Alexc, spec: Path, bundle: Path, photo: Path, tmp_path: Path
) -> None:
    said = "the weights are drawn from seed 0, not trained"
    assert said in alexc("predict", bundle, photo).err
    net, given = load_net(spec), bundle / "weights.safetensors"
    build(net, Options(tmp_path / "given", weights=given), progress=lambda _: None)
    assert said not in alexc("predict", tmp_path / "given", photo).err


def test_given_weights_are_those_of_the_bundle(
    alexc: Alexc, spec: Path, built: Path, tmp_path: Path
) -> None:
    weights = load_file(built / "weights.safetensors")
    weights["fc.bias"] = np.arange(7, dtype=np.float32)
    save_file(weights, tmp_path / "mine.safetensors")
    out = tmp_path / "out"
    ran = alexc("build", spec, "--out", out, "--weights", tmp_path / "mine.safetensors")
    assert ran.status == 0, ran.err
    stored = load_file(out / "weights.safetensors")
    assert all(np.array_equal(stored[name], weights[name]) for name in weights)
    with alexc_runtime.open(out, "onnxruntime") as session:
        outputs = session.run(np.zeros((2, 3, 23, 19), np.float32))
    assert outputs["fc"].shape == (2, 7)


def test_the_model_passes_onnx_checker_and_is_small(built: Path) -> None:
    model = built / "model.onnx"
    onnx.checker.check_model(str(model), full_check=True)
    assert model.stat().st_size < 4096
    assert "LRN" in {node.op_type for node in onnx.load(model, load_external_data=False).graph.node}


def test_the_certificate_does_not_speak_of_a_form_that_nobody_ran(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr("alexc.verify.backends.OnnxRuntime.missing", lambda: "onnxruntime")
    monkeypatch.setattr("alexc.assembly.plans.PLAN_ENGINES", ())
    made = build(load_net(spec), Options(tmp_path / "out"), progress=lambda _: None)
    assert set(made.manifest.verification.digests) == {"model.onnx", "weights.safetensors"}


def test_the_certificate_is_bound_to_the_files(built: Path) -> None:
    manifest = json.loads((built / "manifest.json").read_text())
    verification = manifest["verification"]
    assert verification["passed"] is True
    for name in ("model.onnx", "weights.safetensors"):
        assert verification["digests"][name] == manifest["files"][name]["sha256"]
    assert "model-onnxruntime.onnx" in verification["digests"]
    report = json.loads((built / "verify.json").read_text())
    assert report["passed"] is True
    assert {b["backend"] for b in report["backends"] if b["passed"]} >= {"torch", "onnxruntime"}
    layers = {row["layer"] for row in report["layers"]}
    assert layers >= {"conv1", "relu1", "norm1", "pool1", "conv2", "flatten", "drop", "fc"}


# ---- verify and predict --------------------------------------------------------------------------


def test_verify_holds_the_contract(alexc: Alexc, built: Path) -> None:
    ran = alexc("verify", built, "--json")
    assert ran.status == 0, ran.err
    report = ran.json
    assert report["passed"] is True
    assert report["first_divergence"] is None
    for row in report["layers"]:
        assert {"layer", "backend", "max_abs", "rel_l2", "tolerance", "passed"} <= row.keys()


def test_verify_takes_a_spec_and_its_weights(alexc: Alexc, built: Path, spec: Path) -> None:
    ran = alexc("verify", spec, "--weights", built / "weights.safetensors", "--json")
    assert ran.status == 0, ran.err
    assert ran.json["passed"] is True
    ran = alexc("verify", built, "--weights", built / "weights.safetensors")
    assert ran.status == 2
    assert "error[verify/weights]" in ran.err


def test_verify_takes_photographs_and_one_backend(alexc: Alexc, built: Path, photo: Path) -> None:
    ran = alexc("verify", built, "--image", photo, "--backend", "onnxruntime")
    assert ran.status == 0, ran.err
    assert "onnxruntime" in ran.out
    assert "torch" not in ran.out


def test_the_certificate_says_of_which_images(
    alexc: Alexc, built: Path, photo: Path, tmp_path: Path
) -> None:
    report = json.loads((built / "verify.json").read_text())
    inputs = report["inputs"]
    assert inputs["images"] == len(inputs["kinds"]) == 8
    assert inputs["batches"] == [1, 3, 8, 32]
    assert read_manifest(built).verification.inputs == inputs
    page = tmp_path / "report.html"
    ran = alexc("verify", built, "--image", photo, "--backend", "torch", "--html", page)
    assert "given one photograph; outputs in batches of 1, 3" in " ".join(ran.out.split())
    assert "one photograph" in page.read_text(encoding="utf-8")
    found = alexc("verify", built, "--image", photo, "--backend", "torch", "--json").json["inputs"]
    assert found["photographs"] == [sha256(photo)]
    assert found["kinds"] == []


def test_verify_holds_a_backend_against_another(alexc: Alexc, built: Path) -> None:
    ran = alexc("verify", built, "--against", "torch", "--backend", "onnxruntime", "--json")
    assert ran.status == 0, ran.err
    assert ran.json["reference"] == "torch"
    assert {row["backend"] for row in ran.json["layers"]} == {"onnxruntime"}
    ran = alexc("verify", built, "--against", "tensorflow")
    assert ran.status == 2
    assert "error[verify/unknown-backend]" in ran.err


def test_verify_writes_a_page(
    alexc: Alexc, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "report.html"
    assert alexc("verify", built, "--backend", "onnxruntime", "--html", page).status == 0
    text = page.read_text(encoding="utf-8")
    assert "<svg" in text
    assert "norm1" in text
    # Where none can be written, nothing is computed first.
    monkeypatch.setattr("alexc.verify.crosscheck.verify", None)
    for place in (tmp_path / "spec.yaml", tmp_path / "none" / "report.html"):
        ran = alexc("verify", built, "--backend", "onnxruntime", "--html", place)
        assert ran.status == 2, ran.err


def test_a_backend_that_is_not_installed_is_wrong_usage(
    alexc: Alexc, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alexc.verify.backends.OpenVino.missing", lambda: "openvino")
    ran = alexc("verify", built, "--backend", "openvino")
    assert ran.status == 2
    assert "error[verify/not-installed]" in ran.err


def test_predict_holds_the_contract(alexc: Alexc, built: Path, photo: Path) -> None:
    ran = alexc("predict", built, photo, photo, "--json")
    assert ran.status == 0, ran.err
    first, second = ran.json
    assert first["file"] == str(photo)
    assert first == second
    assert [best.keys() for best in first["top"]] == [{"label", "index", "probability"}] * 5
    probabilities = [best["probability"] for best in first["top"]]
    assert probabilities == sorted(probabilities, reverse=True)


def test_predict_says_which_engine_ran(alexc: Alexc, built: Path, photo: Path) -> None:
    ran = alexc("predict", built, photo)
    assert ran.status == 0
    assert "run by onnxruntime in fp32\n  onnxruntime: the best engine" in ran.err


def test_predict_offers_another_engine_in_words_of_the_command_line(
    alexc: Alexc, built: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alexc_runtime.ENGINES["openvino"], "obstacle", lambda: "it is away")
    ran = alexc("predict", built, photo, "--engine", "openvino")
    assert ran.status == 2
    assert "openvino can't run" in ran.err
    assert "help: onnxruntime runs it on this machine: --engine onnxruntime\n" in ran.err
    with pytest.raises(alexc_runtime.EngineUnavailableError) as caught:
        alexc_runtime.open(built, "openvino")
    assert caught.value.instead == "onnxruntime"
    assert caught.value.help == "onnxruntime runs it on this machine: open(path, 'onnxruntime')"


def test_on_a_terminal_predict_says_so_in_lines_of_its_width(
    alexc: Alexc, built: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "50")
    ran = alexc("predict", built, photo)
    assert ran.status == 0
    lines = ran.err.splitlines()
    start = lines.index("run by onnxruntime in fp32")
    assert len(lines) > start + 2
    assert all(len(line) <= 50 and line.startswith("  ") for line in lines[start + 1 :])


# ---- bad input -----------------------------------------------------------------------------------


def _altered(weights: dict[str, Any], fault: str) -> dict[str, Any]:
    altered = dict(weights)
    if fault == "missing":
        del altered["conv1.weight"]
    elif fault == "extra":
        altered["conv9.weight"] = np.zeros(3, np.float32)
    elif fault == "shape":
        altered["fc.bias"] = np.zeros(8, np.float32)
    else:
        altered["fc.bias"] = np.full(7, np.nan, np.float32)
    return altered


@pytest.mark.parametrize(
    "fault, code",
    [
        ("missing", "weights/missing"),
        ("extra", "weights/extra"),
        ("shape", "weights/shape"),
        ("nan", "weights/not-finite"),
    ],
)
def test_weights_that_dont_fit_leave_the_old_bundle(
    alexc: Alexc, spec: Path, bundle: Path, tmp_path: Path, fault: str, code: str
) -> None:
    weights = tmp_path / "mine.safetensors"
    save_file(_altered(load_file(bundle / "weights.safetensors"), fault), weights)
    before = (bundle / "manifest.json").read_bytes()
    ran = alexc("build", spec, "--out", bundle, "--weights", weights, "--json")
    assert ran.status == 1
    assert code in [d["code"] for d in ran.json["diagnostics"]]
    assert f"error[{code}]" in ran.err
    assert (bundle / "manifest.json").read_bytes() == before
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    "arguments, code",
    [
        (["build", "nowhere.yaml"], "file/missing"),
        (["build", "SPEC", "--weights", "nowhere.safetensors"], "file/missing"),
        (["build", "SPEC", "--precision", "fp4"], "build/precision"),
        (["build", "SPEC", "--target", "tensorflow"], "build/target"),
        (["build", "SPEC", "--target", "onnxruntime:8.9"], "build/target"),
        (["build", "SPEC", "--target", "tensorrt_rtx:8.9,,12.0"], "build/target"),
        (["build", "SPEC", "--target", "tensorrt_rtx:"], "build/target"),
        (
            ["build", "SPEC", "--target", "tensorrt_rtx:8.9", "--target", "tensorrt_rtx:12.0"],
            "build/target",
        ),
        (["build", "SPEC", "--batch", "3,2,1"], "batch/range"),
        (["verify", "nowhere"], "bundle/missing"),
        (["predict", "nowhere", "photo.png"], "bundle/missing"),
        (["predict", "BUNDLE", "nowhere.png"], "photo/missing"),
        (["predict", "BUNDLE", "BUNDLE"], "photo/not-a-file"),
        (["predict", "BUNDLE", "SPEC"], "photo/"),
        (["predict", "BUNDLE", "photo.png", "--engine", "tensorflow"], "engine/unknown"),
    ],
)
def test_wrong_usage_is_told_and_leaves_nothing(
    alexc: Alexc,
    spec: Path,
    built: Path,
    photo: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: str,
) -> None:
    monkeypatch.chdir(spec.parent)
    names = {"SPEC": str(spec), "BUNDLE": str(built), "photo.png": str(photo)}
    ran = alexc(*(names.get(a, a) for a in arguments))
    assert ran.status == (1 if code == "photo/" else 2), ran.err
    assert f"error[{code}" in ran.err
    assert "Traceback" not in ran.err
    assert not ran.out
    assert {path.name for path in spec.parent.iterdir()} == {"small.yaml", "photo.png"}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--precision", "int8"], "calibrate/missing"),
        (["--precision", "int8", "--calibrate", "PHOTO", "--calibrate", "c.json"], "calibrate/m"),
        (["--precision", "int8-weights"], "precision/no-layers"),
        (["--target", "openvino"], "build/target"),
        (["--target", "onnxruntime", "--precision", "bf16"], "build/target"),
        (["--target", "tensorrt_rtx", "--precision", "u8s8", "--calibrate", "PHOTO"], "build/tar"),
        (["--target", "tensorrt_rtx", "--hardware-compatible"], "engine/option"),
        (["--out", "PHOTO/in/a/file"], "bundle/not-"),
    ],
)
def test_what_can_be_known_is_refused_before_anything_is_made(
    alexc: Alexc,
    spec: Path,
    photo: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: str,
) -> None:
    def drawn(*_: object) -> None:
        raise AssertionError("work has begun")

    monkeypatch.chdir(spec.parent)
    monkeypatch.setattr("alexc.build.weights_for", drawn)
    missing = "the package openvino is not installed"
    monkeypatch.setattr(alexc_runtime.ENGINES["openvino"], "obstacle", lambda: missing)
    if "--hardware-compatible" in arguments:
        pytest.importorskip("tensorrt_rtx")
    Path("c.json").write_text("{}")
    ran = alexc("build", spec, *(word.replace("PHOTO", str(photo)) for word in arguments))
    assert f"error[{code}" in ran.err
    assert ran.status == (1 if code.startswith("precision") else 2), ran.err
    assert not Path("build").exists()


def test_the_help_cuts_no_name_of_an_option(alexc: Alexc, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    for command in ("build", "bench"):
        module = importlib.import_module(f"alexc.cli.{command}")
        declared = re.findall(r'"(--[a-z-]+)"', inspect.getsource(module))
        told = alexc(command, "--help").out
        assert [name for name in declared if f"{name} " not in told] == []


def test_a_bundle_of_another_version_is_told_from_a_damaged_one(alexc: Alexc, bundle: Path) -> None:
    manifest = bundle / "manifest.json"
    content = json.loads(manifest.read_text(encoding="utf-8"))
    manifest.write_text(json.dumps({**content, "version": 2}), encoding="utf-8")
    ran = alexc("verify", bundle)
    assert ran.status == 1
    assert "error[bundle/version]" in ran.err


@pytest.mark.parametrize("name", ["model.onnx", "weights.safetensors", "manifest.json"])
def test_an_altered_byte_is_noticed(alexc: Alexc, bundle: Path, photo: Path, name: str) -> None:
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(bytes(data))
    for command in (["verify", bundle], ["predict", bundle, photo]):
        ran = alexc(*command)
        assert ran.status == 1
        assert "error[bundle/" in ran.err
        assert name in ran.err


def test_a_folder_that_is_no_bundle_is_left_alone(alexc: Alexc, spec: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    ran = alexc("build", spec, "--out", tmp_path / "mine")
    assert ran.status == 2
    assert "error[bundle/not-a-bundle]" in ran.err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("op_type", "backend"), [("LRN", "onnxruntime:"), ("Sqrt", "onnxruntime_form:")]
)
def test_a_backend_that_diverges_stops_the_build(
    alexc: Alexc,
    spec: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    op_type: str,
    backend: str,
) -> None:
    """A fault in model.onnx, or only in the model that ONNX Runtime has for itself."""
    from alexc.lower import to_onnx
    from alexc.ops.norm import Lrn

    right = to_onnx.LOWERINGS[Lrn]

    def altered_lrn(layer: Any) -> None:
        right(layer)
        for node in layer.writer.nodes:
            if node.op_type == op_type == "LRN":
                next(each for each in node.attribute if each.name == "alpha").f /= 2
            elif node.op_type == op_type:
                node.op_type = "Exp"

    altered: dict[Any, Any] = {**to_onnx.LOWERINGS, Lrn: altered_lrn}
    monkeypatch.setattr(to_onnx, "LOWERINGS", altered)
    ran = alexc("build", spec, "--out", tmp_path / "out")
    assert ran.status == 1
    assert "error[build/diverges]: norm1 on onnxruntime" in ran.err
    assert f"= note: {backend} ran" in ran.err
    assert [path.name for path in tmp_path.iterdir()] == ["small.yaml"]


@pytest.mark.parametrize("asked", [False, True])
def test_a_net_that_tensorrt_cant_take_fails_only_where_it_was_asked(
    alexc: Alexc, spec: Path, tmp_path: Path, asked: bool
) -> None:
    pytest.importorskip("tensorrt_rtx")
    spec.write_text(SMALL.replace("size: 3, alpha", "size: 17, alpha"))  # its LRN ends at 15
    target = ["--target", "tensorrt_rtx"] if asked else []
    ran = alexc("build", spec, "--out", tmp_path / "out", "--json", *target)
    if asked:
        assert ran.status == 1
        assert [d["code"] for d in ran.json["diagnostics"]] == ["engine/parse"]
    else:
        assert ran.status == 0, ran.err
        (plan,) = [e for e in ran.json["engines"] if e["engine"] == "tensorrt_rtx"]
        assert plan["path"] is None
        assert plan["status"].startswith("not built: ")


def test_ctrl_c_leaves_nothing_behind(
    alexc: Alexc, spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("alexc.build.prove", interrupted)
    ran = alexc("build", spec, "--out", tmp_path / "deep" / "out")
    assert ran.status == 130
    assert [path.name for path in tmp_path.iterdir()] == ["small.yaml"]


def test_a_faulty_spec_builds_nothing(alexc: Alexc, spec: Path, tmp_path: Path) -> None:
    spec.write_text(textwrap.dedent(SMALL).replace("groups: 2", "groups: 5"))
    ran = alexc("build", spec, "--out", tmp_path / "out", "--json")
    assert ran.status == 1
    assert [d["code"] for d in ran.json["diagnostics"]] == ["shape/groups"]
    assert not (tmp_path / "out").exists()
