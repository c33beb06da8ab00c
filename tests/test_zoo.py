"""The nets of the zoo, built and cross-checked on small images: no language of one net."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexc.frontend import load_net
from alexc.model import write_model
from alexc.verify.crosscheck import verify
from alexc.weights.init import draw

ZOO = Path(__file__).parent.parent / "specs" / "zoo"

# What has to differ for an input of a few dozen pixels.
SMALLER = {
    "vgg16": "input: {height: 32, width: 32}",
    "nin-imagenet": "input: {height: 67, width: 67}",
    "squeezenet-1.1": "input: {height: 63, width: 63}",
    "googlenet": "input: {height: 64, width: 64}",
    "resnet18": "input: {height: 64, width: 64}",
}


def test_every_net_of_the_zoo_is_here() -> None:
    assert {path.stem for path in ZOO.glob("*.yaml")} == set(SMALLER)


@pytest.mark.parametrize("name", SMALLER)
def test_a_net_is_built_and_verified(name: str, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "base.yaml").write_bytes((ZOO / f"{name}.yaml").read_bytes())
    text = "alexc: 1\nname: small\nextends: base.yaml\npreprocess: null\ninit: kaiming\n"
    (tmp_path / "small.yaml").write_text(f"{text}{SMALLER[name]}\n")
    net = load_net(tmp_path / "small.yaml")
    graph = net.graph
    weights = draw(graph, net.spec.header.init, {}, seed=3)
    write_model(graph, weights, tmp_path)
    report = verify(
        graph, weights, tmp_path / "model.onnx", backends=["torch", "onnxruntime"], batch=1
    )
    assert report.passed, report.first_divergence
