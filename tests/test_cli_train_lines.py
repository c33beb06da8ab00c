"""What `alexc train` writes on stderr where that is no terminal, and how often."""

from __future__ import annotations

import pytest

from alexc.cli import train


def test_a_run_of_slow_steps_shows_that_it_lives(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr("alexc.cli.train.time.monotonic", lambda: now)
    lines = train._Lines()
    lines.begin("slow", 0, 9000, 450)
    for step in range(1, 13):
        now += 13
        lines.step(step, {})
    now += 11
    lines.step(13, {"loss": 1.5, "top1": 0.25, "images_per_s": 1234, "loading": 0.07})
    assert capsys.readouterr().err.splitlines() == [
        "slow: 9,000 steps, 450 an epoch",
        "  step 5",
        "  step 10",
        "  step 13: loss 1.5000, top-1 25.0%, 1,234 images/s, 7% loading",
    ]
