"""The race: honest times from those that behave, a reason in words from those that don't."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexc.plan import measure
from alexc.plan.contestant import Contestant, Subject
from alexc.plan.measure import Pace, Result, Standard, Step, race

PACE = Pace(rounds=3, seconds=0.0, fewest=2, most=2, profile_runs=5)
BATCHES = (1, 3)
SHAPE = (2, 5, 4)


def contestant(name: str, opener: str = "doubling", **settings: Any) -> Contestant:
    return Contestant(name, "ours", "fp32", f"tests.bench_contestants:{opener}", settings)


def ran(folder: Path, contestants: Sequence[Contestant]) -> dict[str, Result]:
    """The results by name, of a race for two distinct images over and over."""
    distinct = np.random.default_rng(5).standard_normal((2, *SHAPE), np.float32)
    images = distinct[np.arange(max(BATCHES)) % 2]
    np.save(folder / "images.npy", images)
    unused = folder / "unused"
    subject = Subject(unused, unused, folder / "images.npy", unused, folder)
    expected = {"y": distinct.astype(np.float64) * 2}
    standard = Standard(expected, {"y": np.abs(expected["y"]) * 2**-24})
    steps: list[Step] = []
    results = race(contestants, subject, BATCHES, standard, PACE, steps.append)
    assert [result.contestant for result in results] == list(contestants)
    timed = [(step.batch, step.round) for step in steps if step.round is not None]
    assert timed == [(batch, number) for batch in BATCHES for number in (1, 2, 3)]
    told = list(map(str, steps))
    assert told[0] == f"loading {contestants[0].label}"
    assert told[len(contestants) :][:2] == [
        "batch 1: holding outputs against the reference",
        "batch 1: round 1 of 3",
    ]
    return {result.contestant.engine: result for result in results}


def test_a_race(tmp_path: Path) -> None:
    """The slow one is slower, whatever becomes of the others."""
    # Loading takes one run. A batch takes one that is checked, and in each round three.
    results = ran(
        tmp_path,
        [
            contestant("quick", ms=2),
            contestant("missing", "missing"),
            contestant("unloadable", "unloadable"),
            contestant("unknown", "no_such_function"),
            contestant("dies", trouble="die", at=6),
            contestant("fails", trouble="fail", at=6),
            contestant("wrong", trouble="wrong", at=2),
            contestant("drifts", trouble="wrong", at=6),
            contestant("nan", trouble="nan"),
            contestant("shape", trouble="shape", at=12),
            contestant("slow", ms=20),
        ],
    )
    quick, slow = results["quick"], results["slow"]
    for result, least in ((quick, 2.0), (slow, 20.0)):
        assert result.fault is None
        assert [len(each) for each in result.times[3].rounds] == [2, 2, 2]
        assert min(result.times[1].runs) >= least
        assert result.errors[3].exact
        assert result.errors[3].rel_l2 < 2**-23
        assert 0 < (result.load_ms or 0) < (result.cold_start_ms or 0)
        assert 10e6 < (result.peak_bytes or 0) < 2e9
    assert quick.times[1].p50 < slow.times[1].p50
    assert quick.nodes[3] == {"conv.steps": 0.75, "relu": 0.5, "ReorderInput": 0.005}
    faults = {name: result.fault for name, result in results.items() if result.fault}
    assert faults.pop("unknown", "").startswith("AttributeError: ")
    assert faults == {
        "missing": "the package left is not installed",
        "unloadable": "ValueError: no kernel for LRN",
        "dies": "the process was ended by signal 9: Segmentation fault in kernel",
        "fails": "RuntimeError: out of memory",
        "wrong": "gave wrong numbers: 5.0e-01 from the reference",
        "drifts": "RuntimeError: gave other numbers than at first, for the same batch",
        "nan": "gave numbers of y that are not finite",
        "shape": "gave y in the shape (3, 1, 5, 4), not (3, 2, 5, 4)",
    }
    assert [name for name, result in results.items() if result.missing] == ["missing"]
    # What was measured before a contestant dropped out stays; the batch it failed at has no times.
    assert set(results["shape"].times) == {1}
    assert set(results["dies"].times) == set()


def test_a_contestant_that_hangs_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "LOAD_TIMEOUT", 0.01)
    results = ran(tmp_path, [contestant("sleeps", ms=10_000)])
    assert results["sleeps"].fault == "gave no answer for 0.01 s"


def held(found: Any, expected: Any, tolerance: Any = 0.0) -> Any:
    standard = Standard({"y": np.array(expected)}, {"y": np.array(tolerance)})
    return standard.hold({"y": np.array(found, np.float32)}, len(found))


def test_errors_are_relative_and_of_the_worst_output() -> None:
    assert held([[3.0, 4.0]], [[3.0, 4.0]]).exact
    error = held([[3.0, 4.5]], [[3.0, 4.0]], 0.4)
    assert error.rel_l2 == pytest.approx(0.1)
    assert not error.exact
    assert held([[3.0, 4.5]], [[3.0, 4.0]], 0.6).exact
    # Two images over and over: the third is the first again.
    assert held([[1.0], [2.0], [1.0]], [[1.0], [2.0]]).exact
    assert not held([[1.0], [2.0], [2.0]], [[1.0], [2.0]]).exact
    assert Standard({"z": np.zeros((1, 2))}, {"z": 0}).hold({}, 1) == "gave no output z"
