"""Saving a run, whole or not at all, and finding it again.

    RUN/checkpoints/0000001250/
        weights.safetensors    what is tested and built from: the weights, or their moving average
        training.safetensors   what goes on: weights, momentum, statistics
        state.json             position, schedule, scaler, sums of the epoch; digests of both files

A checkpoint is written to a folder with another name, flushed to disk and renamed. A kill or a full
disk leaves the ones before it as they were. Nothing in it is a pickle. There is no random state in
it, because what is drawn is a function of the seed and the step alone.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from alexc.diagnostics import fault, usage_fault

FOLDER = "checkpoints"
WEIGHTS, TRAINING, STATE = "weights.safetensors", "training.safetensors", "state.json"
FORMAT = 1
_NAME = re.compile(r"\d{10}\Z")
_PARTIAL = ".partial-"


@dataclass(slots=True)
class Sums:
    """What an epoch's metrics are made of, up to a step."""

    images: int = 0
    loss: float = 0.0
    correct: int = 0
    damaged: int = 0


@dataclass(slots=True)
class State:
    """Where a run is. `step` counts from 0 over the whole run: the next one to be taken."""

    step: int = 0
    plateau_best: float = math.inf
    plateau_waited: int = 0
    plateau_lowered: int = 0
    best_top1: float | None = None
    best_step: int | None = None
    sums: Sums = field(default_factory=Sums)
    seconds: float = 0.0  # of training so far, over all starts
    scaler: dict[str, Any] = field(default_factory=dict)
    guard_loss: float | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A whole checkpoint on disk."""

    folder: Path
    state: State

    @property
    def weights(self) -> Path:
        return self.folder / WEIGHTS

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that training goes on with."""
        return load_file(self.folder / TRAINING)

    def averages(self) -> dict[str, Tensor]:
        """The tensors that are tested."""
        return load_file(self.folder / WEIGHTS)


def save(
    run: Path,
    state: State,
    weights: dict[str, Tensor],
    training: dict[str, Tensor],
    *,
    keep: int,
) -> Path:
    """Write a checkpoint, then remove those that are neither the last `keep` nor the best.

    Raises OSError if there is no room, or the disk fails; earlier checkpoints then stay.
    """
    above = run / FOLDER
    above.mkdir(parents=True, exist_ok=True)
    _sweep(above)
    target = above / f"{state.step:010}"
    partial = above / f"{_PARTIAL}{target.name}"
    try:
        partial.mkdir()
        digests = {}
        for name, tensors in ((WEIGHTS, weights), (TRAINING, training)):
            with _disk_errors():
                save_file(
                    {key: t.detach().cpu().contiguous() for key, t in tensors.items()},
                    partial / name,
                )
            digests[name] = _digest(partial / name)
        record = {"format": FORMAT, "digests": digests, **_plain(asdict(state))}
        (partial / STATE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        for path in (*partial.iterdir(), partial):
            _flush(path)
        if target.exists():
            # It was found to be damaged, so the run went back to an earlier one.
            shutil.rmtree(target)
        partial.rename(target)
        _flush(above)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _thin(above, keep, state.best_step)
    return target


def latest(run: Path) -> Checkpoint | None:
    """The last whole checkpoint, or None. Damaged ones, after a failing disk, are passed over."""
    for folder in sorted(_folders(run), reverse=True):
        if (found := _read(folder)) is not None:
            return found
    return None


def passed_over(run: Path, last: Checkpoint | None) -> list[str]:
    """The checkpoints, by name, that `latest` passed over to find the `last` one: damaged ones."""
    first = 0 if last is None else last.state.step + 1
    return sorted(folder.name for folder in _folders(run) if int(folder.name) >= first)


def best(run: Path) -> Checkpoint | None:
    """The checkpoint with the best validation accuracy; the last one where none was tested."""
    last = latest(run)
    if last is None or last.state.best_step is None:
        return last
    return _read(run / FOLDER / f"{last.state.best_step:010}") or last


def _folders(run: Path) -> Iterator[Path]:
    try:
        for folder in (run / FOLDER).iterdir():
            if _NAME.match(folder.name):
                yield folder
    except FileNotFoundError:
        return
    except OSError as error:
        raise usage_fault("file/unreadable", f"{run}: {error.strerror}") from None


def _read(folder: Path) -> Checkpoint | None:
    """The checkpoint, or None if it is not whole."""
    try:
        record = json.loads((folder / STATE).read_text(encoding="utf-8"))
        version = record.pop("format")
        digests = record.pop("digests")
        if version != FORMAT:
            raise fault(
                "checkpoint/format",
                f"{folder} is a checkpoint of format {version}, and this alexc reads {FORMAT}",
                help="go on with the version of alexc that wrote it",
            )
        if any(_digest(folder / name) != digests[name] for name in (WEIGHTS, TRAINING)):
            return None
        sums = Sums(**record.pop("sums"))
        if record["plateau_best"] is None:
            record["plateau_best"] = math.inf
        return Checkpoint(folder, State(sums=sums, **record))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _plain(record: dict[str, Any]) -> dict[str, Any]:
    """JSON has no infinity: an error that has not been measured yet is null."""
    if math.isinf(record["plateau_best"]):
        record["plateau_best"] = None
    return record


def _thin(above: Path, keep: int, best_step: int | None) -> None:
    folders = sorted(path for path in above.iterdir() if _NAME.match(path.name))
    kept = {path.name for path in folders[-keep:]} | {f"{best_step or 0:010}"}
    for folder in folders:
        if folder.name not in kept:
            # Renamed first, so that a kill half way leaves no half checkpoint with its name.
            aside = folder.with_name(f"{_PARTIAL}{folder.name}-old")
            with contextlib.suppress(OSError):
                folder.rename(aside)
                shutil.rmtree(aside)


def _sweep(above: Path) -> None:
    """Remove what a killed run left half written."""
    for path in above.glob(f"{_PARTIAL}*"):
        shutil.rmtree(path, ignore_errors=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    """safetensors reports a full disk as an error of its own kind."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(errno.EIO, str(error)) from None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
