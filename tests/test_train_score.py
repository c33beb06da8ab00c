"""After training: accuracy of run and bundle, what builds take, features, pictures, commands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from alexc.diagnostics import UsageError
from alexc.train import checkpoint
from alexc.train.run import open_run
from tests.command_line import Alexc, alexc
from tests.train_nets import DATA, SMALL, run, small_net

__all__ = ["alexc"]


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    run(small_net(tmp_path), tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("takes", ["float32", "uint8"])
def test_a_trained_net_is_built_and_is_right_as_often_on_every_engine(
    trained: Path, tmp_path: Path, alexc: Alexc, takes: str
) -> None:
    of_run = alexc("eval", trained, "--data", DATA, "--json")
    assert of_run.status == 0, of_run.err
    assert of_run.json["images"] == 88
    assert of_run.json["top1"] == json.loads(_last_line(trained))["top1"]
    out = tmp_path / "bundle"
    spec = tmp_path / "small.yaml"
    built = alexc("build", spec, "--weights", trained, "--out", out, "--input", takes)
    assert built.status == 0, built.err
    last = checkpoint.latest(trained)
    assert last is not None
    kept, shipped = load_file(last.weights), load_file(out / "weights.safetensors")
    assert {k: v.tobytes() for k, v in kept.items()} == {k: v.tobytes() for k, v in shipped.items()}
    of_bundle = alexc("eval", out, "--data", DATA, "--engine", "all", "--json")
    assert of_bundle.status == 0, of_bundle.err
    engines = {row["engine"]: row for row in of_bundle.json["engines"]}
    assert {"onnxruntime", "openvino"} <= engines.keys()
    for row in engines.values():
        assert (row["top1"], row["top5"]) == (of_run.json["top1"], of_run.json["top5"])


def _last_line(folder: Path) -> str:
    return (folder / "metrics.jsonl").read_text().splitlines()[-1]


def test_ten_views_are_of_the_net_too(trained: Path, alexc: Alexc) -> None:
    ran = alexc("eval", trained, "--data", DATA, "--views", 10, "--json")
    assert ran.status == 0
    assert ran.json["views"] == 10
    assert alexc("eval", trained, "--data", DATA, "--views", 3).status == 2


def test_features_are_what_the_layer_gives(trained: Path, tmp_path: Path, alexc: Alexc) -> None:
    out = tmp_path / "features.safetensors"
    ran = alexc("features", trained, "--data", DATA, "--layer", "pool1", "--out", out, "--json")
    assert ran.status == 0, ran.err
    assert ran.json["shape"] == [88, 6, 4, 5]
    written = load_file(out)
    assert written["features"].shape == (88, 6, 4, 5)
    assert np.bincount(written["labels"]).tolist() == [18, 18, 18, 17, 17]
    ran = alexc("features", trained, "--data", DATA, "--layer", "pool2", "--out", out)
    assert ran.status == 2
    assert "did you mean pool1?" in ran.err


def test_the_command_trains_draws_and_goes_on(tmp_path: Path, alexc: Alexc) -> None:
    small_net(tmp_path)
    out = tmp_path / "run"
    common = ("train", tmp_path / "small.yaml", "--data", DATA, "--out", out, "--device", "cpu")
    ran = alexc(*common, "--stop-after", 7, "--threads", 1, "--json")
    assert ran.status == 0, ran.err
    assert (ran.json["step"], ran.json["steps"], ran.json["finished"]) == (7, 15, False)
    ran = alexc(*common, "--resume")
    assert ran.status == 0, ran.err
    assert "top-1" in ran.out
    assert "epoch 3:" in ran.err
    page = (out / "index.html").read_text()
    assert "Kernels of the first layer" in page
    for name in ("curves.png", "filters.png", "confusion.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    assert alexc(*common).status == 2


def test_a_spec_without_a_recipe_says_how_to_write_one(tmp_path: Path, alexc: Alexc) -> None:
    small_net(tmp_path, SMALL[: SMALL.index("train:")])
    ran = alexc("train", tmp_path / "small.yaml", "--data", DATA, "--out", tmp_path / "run")
    assert ran.status == 1
    assert "add `train: {epochs: 10}`" in ran.err


def test_faults_of_a_recipe_stand_at_their_line(tmp_path: Path, alexc: Alexc) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL.replace("epochs: 3", "epochs: 0").replace("padding: 2", "pading: 2"))
    ran = alexc("check", path, "--json")
    assert ran.status == 1
    found = {(d["code"], d["line"]) for d in ran.json["files"][0]["diagnostics"]}
    lines = path.read_text().splitlines()
    epochs = next(n for n, line in enumerate(lines, 1) if "epochs" in line)
    pading = next(n for n, line in enumerate(lines, 1) if "pading" in line)
    assert found == {("spec/range", epochs), ("spec/unknown-field", pading)}


def test_what_is_no_run(tmp_path: Path, alexc: Alexc) -> None:
    assert alexc("eval", tmp_path, "--data", DATA).status == 2
    assert alexc("eval", tmp_path, "--data", DATA, "--engine", "onnxruntime").status == 2
    with pytest.raises(UsageError, match="run/missing"):
        open_run(tmp_path)


def test_pca_prints_what_a_spec_takes(tmp_path: Path, alexc: Alexc) -> None:
    small_net(tmp_path)
    ran = alexc("data", "pca", tmp_path / "small.yaml", "--data", DATA)
    assert ran.status == 0, ran.err
    noise = ran.out[ran.out.index("noise:") :].replace("\n", "\n    ")
    text = SMALL.replace("  augment: {", f"  augment:\n    {noise.rstrip()}\n    # {{")
    path = tmp_path / "noisy.yaml"
    path.write_text(text)
    assert alexc("check", path).status == 0
    run(small_net(tmp_path, text), tmp_path / "noisy", stop_after=2)
