"""Ctrl-C and SIGTERM: the status, and a sentence that says what is kept and how to go on."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from tests.command_line import Alexc, alexc
from tests.train_nets import DATA, run, small_net

__all__ = ["alexc"]  # a fixture, which pytest finds here by its name


def ctrl_c(*_: object, **__: object) -> NoReturn:
    raise KeyboardInterrupt


def sigterm(*_: object, **__: object) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)


@pytest.mark.parametrize(("end", "status"), [(ctrl_c, 130), (sigterm, 143)])
@pytest.mark.parametrize(
    ("interrupted", "arguments", "kept"),
    [
        (
            "alexc.build.build",
            ("build", "small.yaml", "--out", "net"),
            "net holds what it held before; the same command starts again",
        ),
        (
            "alexc.plan.bench.bench",
            ("bench", "small.yaml"),
            "not all was measured, and nothing is kept; the same command starts again",
        ),
        (
            "alexc.verify.crosscheck.verify",
            ("verify", "small.yaml"),
            "not all was compared, and there is no verdict",
        ),
        (
            "alexc.train.start.train",
            ("train", "small.yaml", "--data", DATA, "--device", "cpu"),
            "no step is saved in runs/small; --resume begins at the first one",
        ),
        (
            "alexc.train.score.score_run",
            ("eval", "net", "--data", DATA),
            "not all images were seen, and nothing is kept",
        ),
        (
            "alexc.train.features.write_features",
            ("features", "net", "--data", DATA, "--layer", "fc", "--out", "fc.safetensors"),
            "fc.safetensors holds what it held before",
        ),
        (
            "alexc.train.data.pack.pack",
            ("data", "pack", "photos", "shards"),
            "the shards in shards are whole, and the same command goes on with them",
        ),
    ],
    ids=["build", "bench", "verify", "train", "eval", "features", "pack"],
)
def test_what_is_kept_is_told(
    alexc: Alexc,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    interrupted: str,
    arguments: tuple[str, ...],
    kept: str,
    end: object,
    status: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    small_net(tmp_path)
    monkeypatch.setattr(interrupted, end)
    ran = alexc(*arguments)
    assert (ran.status, ran.out) == (status, "")
    assert ran.err.splitlines()[-1] == f"interrupted: {kept}"


def test_an_interrupted_run_says_up_to_where_it_is_saved(
    alexc: Alexc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(small_net(tmp_path), tmp_path / "run", stop_after=7)
    monkeypatch.setattr("alexc.train.loop.Loop.go", ctrl_c)
    spec, out = tmp_path / "small.yaml", tmp_path / "run"
    ran = alexc("train", spec, "--data", DATA, "--out", out, "--device", "cpu", "--resume")
    assert ran.status == 130
    assert ran.err.splitlines()[-1] == (
        f"interrupted: {out} is saved up to step 7; --resume goes on"
    )


def test_an_end_that_nobody_asked_for_is_no_interrupt(
    alexc: Alexc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_net(tmp_path)
    monkeypatch.setattr("alexc.build.build", lambda *_: sys.exit(3))
    ran = alexc("build", tmp_path / "small.yaml", "--out", tmp_path / "net")
    assert ran.status == 3
    assert "interrupted" not in ran.err
