"""`metrics.jsonl`: a line of JSON for every fifty steps, for every epoch, for the end.

    {"kind": "step",  "step", "epoch", "loss", "top1", "learning_rate", "images_per_s", "loading"}
    {"kind": "epoch", "step", "epoch", "train_loss", "train_top1", "loss", "top1", "top5", …}
    {"kind": "end",   "step", "epoch", "top1", "top5", "views", "seconds"}

`epoch` counts epochs that are complete; `loading` is the share of the time that was spent waiting
for images. A run that goes on from a checkpoint first drops the lines after it, so that the file
tells one story.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

FILE = "metrics.jsonl"


class Metrics:
    """Appends to the file. A full disk costs lines, never the run."""

    def __init__(self, run: Path, step: int, say: Callable[[str], None]) -> None:
        self.path = run / FILE
        self._say = say
        self._warned = False
        lines = [line for line in read(run) if line.get("step", 0) <= step]
        self.ended = any(line.get("kind") == "end" for line in lines)
        partial = self.path.with_name(f".{FILE}.partial")
        text = "".join(json.dumps(line) + "\n" for line in lines)
        partial.write_text(text, encoding="utf-8")
        partial.replace(self.path)

    def write(self, kind: str, **values: Any) -> None:
        line = json.dumps({"kind": kind, **values})
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            if not self._warned:
                self._say(f"{self.path}: {error.strerror}; the run goes on")
                self._warned = True


def read(run: Path) -> list[dict[str, Any]]:
    """The lines written so far; what a kill cut short is left out."""
    lines = []
    with contextlib.suppress(OSError):
        for text in (run / FILE).read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                line = json.loads(text)
                if isinstance(line, dict):
                    lines.append(line)
    return lines
