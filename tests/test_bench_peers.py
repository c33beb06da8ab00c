"""The peer that NNCF quantizes: on which images it measures, and what its row says of them."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from alexc.plan import bench, peers
from alexc.plan.contestant import Subject
from tests.command_line import Alexc, alexc

__all__ = ["alexc"]

IMAGE = (3, 5, 4)


class Dataset:
    """NNCF's: items, and what makes an input of an item."""

    def __init__(self, items: Any, transform: Any) -> None:
        self.inputs = [transform(item) for item in items]


@pytest.fixture
def nncf(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a double of NNCF was told; it returns the model as it is."""
    told: dict[str, Any] = {}

    def quantize(model: Any, dataset: Dataset, **settings: Any) -> Any:
        told.update(settings, inputs=dataset.inputs)
        return model

    module: Any = ModuleType("nncf")
    module.__spec__ = ModuleSpec("nncf", None)
    module.Dataset, module.quantize = Dataset, quantize
    module.TargetDevice = SimpleNamespace(CPU="cpu")
    monkeypatch.setitem(sys.modules, "nncf", module)
    return told


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    random = np.random.default_rng(4)
    np.save(tmp_path / "images.npy", random.standard_normal((2, *IMAGE)).astype(np.float32))
    np.save(tmp_path / "photographs.npy", random.standard_normal((7, *IMAGE)).astype(np.float32))
    unused = tmp_path / "unused"
    return Subject(unused, unused, tmp_path / "images.npy", unused, tmp_path)


def test_photographs_are_what_ranges_are_measured_on(
    nncf: dict[str, Any], subject: Subject
) -> None:
    given = replace(subject, photographs=subject.scratch / "photographs.npy")
    assert Subject.from_json(given.to_json()) == given
    assert Subject.from_json(subject.to_json()) == subject
    assert peers._quantized("a model", given) == "a model"
    assert nncf["target_device"] == "cpu"
    stored = np.load(subject.scratch / "photographs.npy")
    np.testing.assert_array_equal(np.concatenate(nncf["inputs"]), stored)


def test_without_them_mixtures_of_the_images_are(nncf: dict[str, Any], subject: Subject) -> None:
    peers._quantized("a model", subject)
    inputs = nncf["inputs"]
    assert len(inputs) == nncf["subset_size"] == 300
    assert {each.shape for each in inputs} == {(1, *IMAGE)}
    assert len({each.tobytes() for each in inputs}) == 300


def test_the_row_says_so() -> None:
    def notes(photographs: int | None) -> dict[str, str]:
        given = None if photographs is None else np.zeros((photographs, *IMAGE), np.float32)
        options = bench.Options(peers=("export-openvino",), photographs=given)
        return {each.precision: each.note for each in bench._peers(options)}

    assert notes(None)["int8"].endswith("for want of photographs")
    assert notes(48)["int8"].endswith("quantized by NNCF, ranges of 48 photographs")
    assert notes(400)["int8"].endswith("ranges of 300 photographs")
    assert "ranges" not in notes(48)["fp32"]


def test_photographs_that_can_not_be_read_are_a_fault(alexc: Alexc, tmp_path: Path) -> None:
    spec = tmp_path / "small.yaml"
    text = "alexc: 1\nname: small\ninput: {channels: 3, height: 9, width: 8}\n"
    spec.write_text(text + "layers:\n  conv1: {op: conv, out_channels: 2, kernel_size: 3}\n")
    ran = alexc("bench", spec, "--calibrate", tmp_path)
    assert ran.status == 1
    assert "the spec does not say how to read photographs" in ran.err
    spec.write_text(spec.read_text() + "preprocess: {resize: 9}\n")
    ran = alexc("bench", spec, "--calibrate", tmp_path / "nowhere")
    assert ran.status == 2
    assert "there is no file" in ran.err
