"""The folder of a run: what it is of, where it stands, and how it is opened again.

RUN/run.json          the spec with `extends` written out, recipe, data, labels, versions
RUN/metrics.jsonl     a line of JSON for every stretch of steps and every epoch
RUN/checkpoints/      see `alexc.train.checkpoint`
RUN/*.png, index.html what `alexc.train.plots` draws
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from alexc import __version__
from alexc.diagnostics import AlexcError, Diagnostic, fault, usage_fault
from alexc.frontend import Net, net_of
from alexc.spec.recipe import TrainSpec
from alexc.train.checkpoint import WEIGHTS, Checkpoint, latest, passed_over

FILE = "run.json"
FORMAT = 1
LOCK = ".lock"
_PATIENCE = 5.0  # seconds
_PATIENCE_AGAIN = 60.0  # of a group that torchrun starts again: twice what it lets workers end in


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What a run is of. `threads` and `precision` belong to it, since they change the last bits."""

    spec: dict[str, Any]
    graph_digest: str
    labels: tuple[str, ...] | None
    recipe: dict[str, Any]
    data: str
    images: tuple[int, int]  # to learn from, to test with
    threads: int
    precision: str
    weights: str | None
    versions: dict[str, str]


@dataclass(frozen=True, slots=True)
class Run:
    """A run on disk, with the net that it trains."""

    folder: Path
    net: Net
    recipe: TrainSpec
    record: RunRecord

    def last(self) -> Checkpoint:
        """The last whole checkpoint. Raises AlexcError if there is none yet."""
        found = latest(self.folder)
        if found is None:
            if damaged := passed_over(self.folder, None):
                raise fault(
                    "run/damaged",
                    f"no checkpoint in {self.folder} is whole: {', '.join(damaged)}",
                    help="copy it again from where it came, or train again",
                )
            raise fault(
                "run/no-checkpoint",
                f"{self.folder} holds no checkpoint yet",
                help="train until the first one is written",
            )
        return found


def is_run(folder: Path) -> bool:
    """Whether the folder is a run's."""
    return (folder / FILE).is_file()


def record_of(
    net: Net,
    recipe: TrainSpec,
    data: str,
    images: tuple[int, int],
    *,
    threads: int,
    precision: str,
    weights: str | None,
) -> RunRecord:
    """What is kept of a run that starts now."""
    import numpy
    import torch

    return RunRecord(
        spec=net.spec.to_json(),
        graph_digest=net.graph.digest(),
        labels=net.labels,
        recipe=recipe.model_dump(mode="json"),
        data=data,
        images=images,
        threads=threads,
        precision=precision,
        weights=weights,
        versions={
            "alexc": __version__,
            "numpy": numpy.__version__,
            "torch": str(torch.__version__),
        },
    )


def write_record(folder: Path, record: RunRecord) -> None:
    """Put `run.json` in place, whole. Raises UsageError if the folder can't be written."""
    text = json.dumps({"format": FORMAT, **asdict(record)}, ensure_ascii=False, indent=1) + "\n"
    partial = folder / f".{FILE}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(folder / FILE)
    except OSError as error:
        raise usage_fault("file/unwritable", f"{folder}: {error.strerror}") from None


@contextmanager
def claimed(folder: Path, *, restarted: bool = False) -> Iterator[None]:
    """While this is open, no other process may train into the folder.

    Where torchrun has `restarted` the group, the worker that it takes down on another machine gets
    the time for it. Raises UsageError if the folder is taken for longer, or can't be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("w")
    except OSError as error:
        raise usage_fault("file/unwritable", f"{folder}: {error.strerror}") from None
    with file:
        deadline = time.monotonic() + (_PATIENCE_AGAIN if restarted else _PATIENCE)
        while not _locked(file):
            if time.monotonic() > deadline:
                raise usage_fault("run/busy", f"another process is training into {folder}")
            time.sleep(0.1)
        yield


def _locked(file: TextIO) -> bool:
    """Take the lock, if nobody has it. It is let go of when the process ends, however it ends."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks: nothing can be said
    return True


def open_run(folder: Path) -> Run:
    """The run in this folder. Raises UsageError if there is none, AlexcError if it is damaged."""
    path = folder / FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        version = data.pop("format")
        if version != FORMAT:
            raise fault("run/format", f"{path} is of format {version}; this alexc reads {FORMAT}")
        labels = data.pop("labels")
        images = tuple(data.pop("images"))
        record = RunRecord(labels=tuple(labels) if labels else None, images=images, **data)
        recipe = TrainSpec.model_validate(record.recipe)
    except (FileNotFoundError, NotADirectoryError):
        raise usage_fault(
            "run/missing",
            f"{folder} is no run: it has no {FILE}",
            help="`alexc train SPEC --data URI --out RUN` makes one",
        ) from None
    except OSError as error:
        raise usage_fault("file/unreadable", f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise fault("run/damaged", f"{path} is no record of a run: {error}") from None
    return Run(folder, net_of(record.spec, record.labels, str(path)), recipe, record)


def refuse_unless_same(folder: Path, before: RunRecord, now: RunRecord) -> None:
    """Raise AlexcError unless the run that is in the folder is the one that is asked for."""
    if before.graph_digest != now.graph_digest:
        raise fault(
            "run/other-spec",
            f"the checkpoints in {folder} are of another net than {now.spec.get('name')}",
            help="train into another folder; --weights takes weights that fit",
        )
    changed = [
        Diagnostic("run/other-recipe", f"{folder} was started with {name} {was}, not {given}")
        for name, was, given in (
            *_differences(before.recipe, now.recipe, "train"),
            ("data", before.data, now.data),
            ("images", before.images, now.images),
        )
        if was != given
    ]
    if changed:
        last = changed.pop()
        help = "a run that goes on is the same run; start another one, from its --weights if needed"
        raise AlexcError(*changed, Diagnostic(last.code, last.message, help=help))


def _differences(was: Any, given: Any, path: str) -> list[tuple[str, Any, Any]]:
    if isinstance(was, dict) and isinstance(given, dict):
        return [
            difference
            for key in dict.fromkeys([*was, *given])
            for difference in _differences(was.get(key), given.get(key), f"{path}.{key}")
        ]
    return [(path, was, given)] if was != given else []


def weights_in(path: Path) -> Path:
    """The weights file that `--weights` names: a file itself, a checkpoint's, or a run's last."""
    if is_run(path):
        return open_run(path).last().weights
    if (inside := path / WEIGHTS).is_file():
        return inside
    return path
