"""Nets and runs small enough to train in a test."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from alexc.frontend import Net, load_net
from alexc.train.loop import Options, Outcome
from alexc.train.recipe import recipe_of
from alexc.train.start import train
from alexc.train.workers import joined

# Three channels, 10×12 pixels, five classes: batch norm, dropout and a pool, all that has a state.
SMALL = """\
alexc: 1
name: small
input: {channels: 3, height: 10, width: 12}
layers:
  conv1: {op: conv, out_channels: 6, kernel_size: 3}
  bn1: batch_norm
  relu1: relu
  pool1: {op: max_pool, kernel_size: 2}
  flatten: flatten
  drop: {op: dropout, p: 0.2}
  fc: {op: linear, out_features: 5}
preprocess: {scale: 0.00392156862745098, mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25]}
train:
  epochs: 3
  batch: 16
  optimizer: {learning_rate: 0.05}
  augment: {padding: 2, flip: true, erase: 3}
  ema: 0.9
"""
DATA = "synthetic:88"  # 5 batches of 16 an epoch, and 8 images left over


class Quiet:
    """Listens, and keeps what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.epochs: dict[int, Mapping[str, float]] = {}

    def begin(self, name: str, step: int, steps: int, per_epoch: int) -> None: ...

    def step(self, step: int, values: Mapping[str, float]) -> None: ...

    def epoch(self, epoch: int, values: Mapping[str, float]) -> None:
        self.epochs[epoch] = values

    def say(self, text: str) -> None:
        self.said.append(text)


def small_net(folder: Path, text: str = SMALL) -> Net:
    path = folder / "small.yaml"
    path.write_text(text, encoding="utf-8")
    return load_net(path)


def run(
    net: Net,
    out: Path,
    *overrides: str,
    data: str = DATA,
    resume: bool = False,
    stop_after: int | None = None,
    processes: int = 0,
    weights: Path | None = None,
    report: Quiet | None = None,
) -> Outcome:
    options = Options(out, resume, weights, "cpu", 1, processes, stop_after)
    with joined("cpu") as workers:
        return train(net, recipe_of(net, overrides), data, options, workers, report or Quiet())
