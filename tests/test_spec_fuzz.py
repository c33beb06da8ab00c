"""The short form of `tests.campaigns.fuzz_check`: two thousand inputs, and monsters."""

from __future__ import annotations

import pytest

from tests.campaigns.fuzz_check import (
    MONSTERS,
    MOST_MEGABYTES,
    ONE_MONSTER_IN,
    peak_megabytes,
    try_input,
    workplace,
)

# What this process holds already is not laid to an input's charge, nor is a busy machine.
_SECONDS = 3.0
_FIRST = 10_000_000
_PART = 500


@pytest.mark.parametrize("part", range(4))
def test_no_input_ends_without_a_verdict(part: int) -> None:
    megabytes = peak_megabytes() + MOST_MEGABYTES
    first = _FIRST + part * _PART
    with workplace() as folder:
        outcomes = [
            try_input(number, folder, _SECONDS, megabytes)
            for number in range(first, first + _PART)
            if number % ONE_MONSTER_IN
        ]
    assert [outcome for outcome in outcomes if outcome.complaint] == []
    # they are neither all refused at once nor all good
    assert {outcome.status for outcome in outcomes} == {0, 1}


@pytest.mark.parametrize(
    "index",
    [pytest.param(i, marks=pytest.mark.slow if i % 3 else ()) for i in range(len(MONSTERS))],
)
def test_no_monster_ends_without_a_verdict(index: int) -> None:
    megabytes = peak_megabytes() + MOST_MEGABYTES
    with workplace() as folder:
        outcome = try_input(index * ONE_MONSTER_IN, folder, _SECONDS, megabytes)
    assert outcome.complaint is None
