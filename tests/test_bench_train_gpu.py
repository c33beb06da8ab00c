"""benchmarks/train_gpu.py where there is no GPU: that it runs, and what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import train_gpu


def test_all_of_it_runs_on_a_few_images(tmp_path: Path) -> None:
    data = ("--fashion", "synthetic:16", "--cifar", "synthetic:24")
    assert train_gpu.main(["--tiny", "--results", str(tmp_path), *data]) == 0
    kept = json.loads((tmp_path / "train-tiny.json").read_text())
    assert kept["step"]["images_per_s"]["eager"] > 0
    assert kept["step"]["operations_per_image"] == 6 * 27_593_984
    assert kept["trainer"]["images_per_s"] > 0
    assert (kept["fashion"]["images"], kept["cifar"]["images"]) == (16, 24)
    assert kept["bars"] == {}  # on so few images they say nothing


def test_bars_are_held_against_what_was_measured() -> None:
    step = {"of_products": 0.36, "over_eager_fp32": 3.9}
    assert train_gpu.judged({"step": step, "cifar": {"top1": 0.92}}) == {
        "cifar": True,
        "of_products": True,
        "over_eager_fp32": False,
    }


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train_gpu.main(["--results", str(tmp_path)]) == 2
    assert "there is no NVIDIA GPU" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.gpu
def test_a_step_on_the_gpu(tmp_path: Path) -> None:
    train_gpu.main(["--batch", "16", "--results", str(tmp_path)])
    (file,) = tmp_path.iterdir()
    assert json.loads(file.read_text())["step"]["batch"] == 16
