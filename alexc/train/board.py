"""The run's metrics as TensorBoard reads them, in RUN/tensorboard."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from alexc.diagnostics import usage_fault

FOLDER = "tensorboard"

# Metric of an epoch → its name in TensorBoard, which groups by what stands before the slash.
_EPOCH = {
    "train_loss": "loss/train",
    "loss": "loss/test",
    "train_top1": "top1/train",
    "top1": "top1/test",
    "top5": "top5/test",
}
_STEP = {
    "learning_rate": "step/learning rate",
    "images_per_s": "step/images per second",
    "loading": "step/share of time waiting for images",
}


def require() -> None:
    """Raise UsageError if the package tensorboard is not there."""
    if find_spec("tensorboard") is None:
        raise usage_fault(
            "train/package",
            "--tensorboard needs the package tensorboard",
            help="pip install 'alexc[train]'",
        )


class Board:
    """Writes event files. A run that goes on hides what was written after its checkpoint."""

    def __init__(self, run: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run / FOLDER), purge_step=step + 1)

    def write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """The values of a line of metrics."""
        for key, name in (_EPOCH if kind == "epoch" else _STEP).items():
            if key in values:
                self._writer.add_scalar(name, values[key], step)
        self._writer.flush()
