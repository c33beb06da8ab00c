"""The example that reproduces figure 1 of the paper: its specs, its picture, its kept result."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from alexc.frontend import load_net

FOLDER = Path(__file__).resolve().parents[1] / "examples" / "figure-1"


@pytest.fixture(scope="module")
def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("figure_1", FOLDER / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for their module
    spec.loader.exec_module(module)
    return module


def test_the_nets_of_a_pair_differ_in_their_activations_alone(program: ModuleType) -> None:
    for pair in program.PAIRS:
        relu, tanh = (load_net(FOLDER / f"{name}.yaml") for name in pair.nets)
        for one, other in zip(relu.graph.nodes, tanh.graph.nodes, strict=True):
            assert (one.op == other.op) != one.name.startswith("act"), one.name
        assert relu.spec.header.train == tanh.spec.header.train
        assert relu.spec.header.init == tanh.spec.header.init


def test_epochs_are_counted_on_the_lines_between_them(program: ModuleType) -> None:
    assert program.reached([0.5, 0.3, 0.2]) == 2.5
    assert program.reached([0.25]) == 1.0
    assert program.reached([0.5, 0.26]) is None


def test_the_kept_result_is_what_its_errors_say(program: ModuleType, tmp_path: Path) -> None:
    kept = json.loads((FOLDER / "figure-1.json").read_text(encoding="utf-8"))
    for pair, found in zip(program.PAIRS, kept["pairs"], strict=True):
        assert found["title"] == pair.title
        for name, title in pair.nets.items():
            curve = found[title]
            assert curve["spec"] == f"{name}.yaml"
            assert curve["epochs_to_25_percent"] == program.reached(curve["errors"])
            last = {rate: errors[-1] for rate, errors in curve["search"].items()}
            assert min(last, key=last.__getitem__) == str(curve["learning_rate"])
            assert curve["errors"][: program.LOOK] == curve["search"][str(curve["learning_rate"])]
    program.draw(kept["pairs"]).savefig(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000
