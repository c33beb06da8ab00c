"""Planted faults: a few of each kind in every run, all of them with `make mutants`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.campaigns.mutants import mutants
from tests.mutants.nets import NETS
from tests.mutants.planting import Equivalent, Mutant, caught, run
from tests.mutants.unchanged import equivalents

# Every so many of the list, which is sorted by layer: so that each family has some.
SHORT = 6


def test_there_is_a_fault_in_every_layer_of_the_nets() -> None:
    assert {m.layer for m in mutants()} >= {node.name for net in NETS for node in net.nodes}


def test_names_tell_the_mutants_apart() -> None:
    names = [str(mutant) for mutant in mutants()]
    assert len(set(names)) == len(names) >= 80


@pytest.mark.parametrize("mutant", mutants()[::SHORT], ids=str)
def test_a_planted_fault_is_caught_and_placed(mutant: Mutant, tmp_path: Path) -> None:
    report = run(mutant, tmp_path)
    assert caught(mutant, report), report.first_divergence or "passed"


@pytest.mark.slow
@pytest.mark.parametrize("mutant", [m for i, m in enumerate(mutants()) if i % SHORT], ids=str)
def test_every_planted_fault_is_caught_and_placed(mutant: Mutant, tmp_path: Path) -> None:
    report = run(mutant, tmp_path)
    assert caught(mutant, report), report.first_divergence or "passed"


@pytest.mark.parametrize("change", equivalents(), ids=lambda change: str(change.mutant))
def test_a_change_that_is_none_is_accepted(change: Equivalent, tmp_path: Path) -> None:
    report = run(change.mutant, tmp_path)
    assert report.passed, report.first_divergence
    assert change.proof
