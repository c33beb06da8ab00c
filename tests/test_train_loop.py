"""A run learns, is the same every time, and goes on after any stop as if there had been none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
from safetensors.numpy import load_file
from torch import Tensor

from alexc.diagnostics import AlexcError, UsageError
from alexc.train import checkpoint, metrics
from alexc.train.checkpoint import State
from alexc.train.guard import Guard
from alexc.train.run import claimed
from alexc.train.tally import Diagnose, Tally
from tests.train_nets import DATA, SMALL, Quiet, run, small_net

# Seconds after which what hangs is ended; a busy machine starts PyTorch in a minute.
PATIENCE = 900


def _bytes(folder: Path) -> tuple[bytes, bytes]:
    last = checkpoint.latest(folder)
    assert last is not None
    return last.weights.read_bytes(), (last.folder / checkpoint.TRAINING).read_bytes()


def test_a_run_learns_what_can_be_learnt(tmp_path: Path) -> None:
    outcome = run(small_net(tmp_path), tmp_path / "run", "train.epochs=6")
    assert outcome.scores is not None
    assert outcome.scores.images == 88
    assert outcome.scores.top1 > 0.9  # guessing gives 0.2
    lines = metrics.read(tmp_path / "run")
    assert [line["kind"] for line in lines if line["kind"] != "step"] == ["epoch"] * 6 + ["end"]
    assert lines[-1]["top1"] == outcome.scores.top1


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path: Path) -> None:
    net = small_net(tmp_path)
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        run(net, tmp_path / name, f"train.seed={seed}")
    assert _bytes(tmp_path / "a") == _bytes(tmp_path / "b")
    assert _bytes(tmp_path / "a")[0] != _bytes(tmp_path / "c")[0]


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("train.optimizer.name=adamw", "train.schedule.name=plateau", "train.schedule.patience=1"),
        ("train.optimizer.name=lars", "train.clip=0.5", "train.accumulate=2"),
        ("train.precision=bf16", "train.label_smoothing=0.1", "train.schedule.warmup=1"),
        ("train.precision=fp16", "train.optimizer.nesterov=true", "train.clip=1"),
        ("train.precision=fp64", "train.channels_last=false", "train.schedule.name=step"),
    ],
    ids=["sgd", "adamw", "lars", "bf16", "fp16", "fp64"],
)
def test_a_run_that_goes_on_in_the_middle_of_an_epoch_is_the_same_run(
    tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    net = small_net(tmp_path)
    whole = run(net, tmp_path / "whole", *overrides)
    parts = [run(net, tmp_path / "parts", *overrides, stop_after=3)]
    while parts[-1].scores is None:
        parts.append(run(net, tmp_path / "parts", *overrides, stop_after=4, resume=True))
    assert [part.step for part in parts] == [3, 7, 11, 15]
    assert _bytes(tmp_path / "whole") == _bytes(tmp_path / "parts")
    assert whole.scores is not None
    assert parts[-1].scores is not None
    assert whole.scores.loss == parts[-1].scores.loss

    def story(folder: Path) -> list[tuple[float, float]]:
        lines = metrics.read(folder)
        return [(line["step"], line["loss"]) for line in lines if line["kind"] == "epoch"]

    assert story(tmp_path / "whole") == story(tmp_path / "parts")


def test_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    net, report = small_net(tmp_path), Quiet()
    run(net, tmp_path / "run")
    before = _bytes(tmp_path / "run")
    outcome = run(net, tmp_path / "run", resume=True, report=report)
    assert outcome.scores is not None
    assert _bytes(tmp_path / "run") == before
    assert "finished" in report.said[0]


def test_the_kept_weights_are_the_moving_average(tmp_path: Path) -> None:
    net = small_net(tmp_path)
    run(net, tmp_path / "run")
    last = checkpoint.latest(tmp_path / "run")
    assert last is not None
    kept, state = load_file(last.weights), load_file(last.folder / checkpoint.TRAINING)
    assert list(kept) == sorted(net.graph.parameters)
    np.testing.assert_array_equal(kept["fc.weight"], state["average:fc.weight"])
    assert not np.array_equal(kept["fc.weight"], state["net:fc.weight"])


def test_accumulated_parts_are_the_same_step(tmp_path: Path) -> None:
    # Batch norm and dropout look at a part alone, so the net here has neither.
    text = SMALL.replace("  bn1: batch_norm\n", "").replace("p: 0.2", "p: 0.0")
    net = small_net(tmp_path, text)
    weights = []
    for name, parts in (("one", 1), ("four", 4)):
        run(net, tmp_path / name, "train.precision=fp64", f"train.accumulate={parts}")
        weights.append(load_file(_state(tmp_path / name)))
    for key, value in weights[0].items():
        np.testing.assert_allclose(weights[1][key], value, rtol=0, atol=1e-12, err_msg=key)


def _state(folder: Path) -> Path:
    last = checkpoint.latest(folder)
    assert last is not None
    return last.folder / checkpoint.TRAINING


# ---- what is kept --------------------------------------------------------------------------------


def test_the_last_checkpoints_and_the_best_are_kept(tmp_path: Path) -> None:
    run(small_net(tmp_path), tmp_path / "run", "train.checkpoint.steps=1", "train.epochs=8")
    last = checkpoint.latest(tmp_path / "run")
    assert last is not None
    assert last.state.step == 40
    names = {path.name for path in (tmp_path / "run" / checkpoint.FOLDER).iterdir()}
    assert names == {"0000000039", "0000000040", f"{last.state.best_step:010}"}
    best = checkpoint.best(tmp_path / "run")
    assert best is not None
    assert best.state.step == last.state.best_step


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path) -> None:
    run(small_net(tmp_path), tmp_path / "run", "train.checkpoint.steps=1", stop_after=4)
    newest = tmp_path / "run" / checkpoint.FOLDER / "0000000004" / checkpoint.WEIGHTS
    data = bytearray(newest.read_bytes())
    data[-1] ^= 1
    newest.write_bytes(data)
    last = checkpoint.latest(tmp_path / "run")
    assert last is not None
    assert last.state.step == 3


def test_a_full_disk_costs_a_checkpoint_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = []

    def save_file(tensors: dict[str, Tensor], path: Path) -> None:
        if "0000000003" in str(path):
            failed.append(path)
            raise OSError(28, "No space left on device")
        safetensors.torch.save_file(tensors, path)

    monkeypatch.setattr("alexc.train.checkpoint.save_file", save_file)
    report = Quiet()
    outcome = run(
        small_net(tmp_path),
        tmp_path / "run",
        "train.checkpoint.steps=1",
        report=report,
        stop_after=5,
    )
    assert len(failed) == 1
    assert outcome.step == 5
    assert report.said == [
        "the checkpoint of step 3 could not be written: No space left on device; the run goes on"
    ]
    names = {path.name for path in (tmp_path / "run" / checkpoint.FOLDER).iterdir()}
    assert names == {"0000000004", "0000000005"}


def test_no_room_for_the_last_checkpoint_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save_file(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("alexc.train.checkpoint.save_file", save_file)
    with pytest.raises(AlexcError, match="checkpoint/unwritable"):
        run(small_net(tmp_path), tmp_path / "run", stop_after=2)


# ---- what is refused -----------------------------------------------------------------------------


def test_a_run_is_not_overwritten(tmp_path: Path) -> None:
    net = small_net(tmp_path)
    run(net, tmp_path / "run", stop_after=1)
    with pytest.raises(UsageError, match="run/exists"):
        run(net, tmp_path / "run")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear")
    with pytest.raises(UsageError, match="run/not-empty"):
        run(net, tmp_path / "other")


def test_two_processes_do_not_train_into_one_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alexc.train.run._PATIENCE", 0.1)
    net = small_net(tmp_path)
    with claimed(tmp_path / "run"), pytest.raises(UsageError, match="run/busy"):
        run(net, tmp_path / "run")
    run(net, tmp_path / "run", stop_after=1)


def test_checkpoints_of_another_net_or_recipe_are_refused(tmp_path: Path) -> None:
    run(small_net(tmp_path), tmp_path / "run", stop_after=1)
    wider = small_net(tmp_path, SMALL.replace("out_channels: 6", "out_channels: 7"))
    with pytest.raises(AlexcError, match="run/other-spec"):
        run(wider, tmp_path / "run", resume=True)
    net = small_net(tmp_path)
    with pytest.raises(AlexcError, match=r"started with train\.batch 16, not 8"):
        run(net, tmp_path / "run", "train.batch=8", resume=True)
    with pytest.raises(AlexcError, match="started with data synthetic:88, not synthetic:90"):
        run(net, tmp_path / "run", data="synthetic:90", resume=True)


@pytest.mark.parametrize(
    ("overrides", "data", "code"),
    [
        (("train.batch=96",), DATA, "recipe/batch"),
        (("train.accumulate=3",), DATA, "recipe/set"),
        (("train.schedule.warmup=3",), DATA, "recipe/set"),
        (("train.epochs=two",), DATA, "recipe/set"),
        (("train.epoch=2",), DATA, "recipe/set"),
        (("epochs=2",), DATA, "recipe/set"),
        ((), "synthetic:many", "data/uri"),
        ((), "imagenet:/data", "data/uri"),
        ((), "mnist:/no/such/folder", "data/missing"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    tmp_path: Path, overrides: tuple[str, ...], data: str, code: str
) -> None:
    with pytest.raises(AlexcError) as caught:
        run(small_net(tmp_path), tmp_path / "run", *overrides, data=data)
    assert caught.value.diagnostics[0].code == code
    assert not (tmp_path / "run").exists()


def test_colour_noise_on_grey_images_is_refused(tmp_path: Path) -> None:
    text = SMALL.replace("channels: 3", "channels: 1").replace(
        "mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25]", "channels: grey"
    )
    noise = "train.augment.noise.eigenvalues=[1, 1, 1]"
    rows = "train.augment.noise.eigenvectors=[[1, 0, 0], [0, 1, 0], [0, 0, 1]]"
    with pytest.raises(AlexcError, match="recipe/noise"):
        run(small_net(tmp_path, text), tmp_path / "run", noise, rows)


# ---- runs that learn nothing ---------------------------------------------------------------------


def test_a_loss_stuck_at_guessing_stops_the_run(tmp_path: Path) -> None:
    text = SMALL.replace("  bn1: batch_norm\n", "") + "init: {weight: {constant: 0}}\n"
    with pytest.raises(AlexcError) as caught:
        run(small_net(tmp_path, text), tmp_path / "run", "train.stuck_after=12")
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "train/stuck"
    assert (
        "after 12 steps, where guessing among 5 classes gives ln 5 = 1.6094" in diagnostic.message
    )
    assert "conv1 is the first layer that is 0 for every image" in diagnostic.notes[0]


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    text = SMALL.replace("  bn1: batch_norm\n", "")
    with pytest.raises(AlexcError) as caught:
        run(small_net(tmp_path, text), tmp_path / "run", "train.optimizer.learning_rate=1e30")
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "train/not-finite"
    assert any("not finite" in note for note in diagnostic.notes)


@pytest.mark.parametrize(("every", "words"), [(3, "one more update"), (9, "4 more updates")])
def test_losses_that_are_looked_at_late_are_of_their_step_and_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int, words: str
) -> None:
    """As on a GPU, which is not waited for at every step; no GPU has run this."""
    text = SMALL.replace("  bn1: batch_norm\n", "")
    rates = ("train.optimizer.learning_rate=1e30", "train.schedule.warmup=1")
    with pytest.raises(AlexcError) as at_once:
        run(small_net(tmp_path, text), tmp_path / "at-once", *rates)

    def late(state: State, guard: Guard, diagnose: Diagnose, _: int) -> Tally:
        return Tally(state, guard, diagnose, every)

    monkeypatch.setattr("alexc.train.loop.Tally", late)
    with pytest.raises(AlexcError) as caught:
        run(small_net(tmp_path, text), tmp_path / "late", *rates)
    (soon,), (diagnostic,) = at_once.value.diagnostics, caught.value.diagnostics
    assert diagnostic.message == soon.message
    assert diagnostic.notes[-1] == soon.notes[-1]  # the learning rate of that step
    assert f"the layers below are seen after {words}, when" in diagnostic.notes[0]
    assert not any("looked at now and then" in note for note in soon.notes)
    assert checkpoint.latest(tmp_path / "late") is None


# ---- killed --------------------------------------------------------------------------------------


def _command(spec: Path, out: Path) -> list[str]:
    arguments = ["train", spec, "--data", DATA, "--out", out, "--resume", "--threads", 1]
    options = ["--device", "cpu", "--set", "train.epochs=30", "--set", "train.checkpoint.steps=1"]
    program = "from alexc.cli.main import main; main()"
    return [sys.executable, "-c", program, *map(str, arguments), *options]


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_as_the_same_run(tmp_path: Path) -> None:
    small_net(tmp_path)
    spec, killed, whole = tmp_path / "small.yaml", tmp_path / "killed", tmp_path / "whole"
    subprocess.run(_command(spec, whole), check=True, capture_output=True)
    chance = np.random.default_rng(2012)
    kills = 0
    while True:
        process = subprocess.Popen(_command(spec, killed), stderr=subprocess.DEVNULL)
        before = checkpoint.latest(killed)
        _wait_for_a_step(killed, before.state.step if before else -1, process)
        time.sleep(float(chance.uniform(0, 0.1)))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        if process.wait() == 0 or kills == 3:
            break
    subprocess.run(_command(spec, killed), check=True, capture_output=True)
    assert kills
    assert _bytes(killed) == _bytes(whole)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_asked_to_stop_saves_and_says_so(
    tmp_path: Path, number: signal.Signals
) -> None:
    small_net(tmp_path)
    command = _command(tmp_path / "small.yaml", tmp_path / "run")
    command[-1] = "train.checkpoint.minutes=60"
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + PATIENCE
    while not metrics.read(tmp_path / "run") and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode in (0, 130), out
    last = checkpoint.latest(tmp_path / "run")
    assert last is not None
    if process.returncode == 130:
        assert "--resume goes on" in out
        assert last.state.step < 150


def _wait_for_a_step(folder: Path, step: int, process: subprocess.Popen[bytes]) -> None:
    """Until the run has saved a step later than `step`, or has ended."""
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        above = folder / checkpoint.FOLDER
        names = os.listdir(above) if above.is_dir() else []  # noqa: PTH208
        if any(name.isdecimal() and int(name) > step for name in names):
            return
        time.sleep(0.01)


def test_a_run_leaves_denormals_to_those_after_it(tmp_path: Path) -> None:
    """Flushing them is a setting of the thread, which numpy's float64 reference would feel too."""
    run(small_net(tmp_path), tmp_path / "run", "train.epochs=1")
    assert np.array([1e-310]) * 0.5 > 0
