"""Accuracy of anything that turns images into scores: a module in training, a run, an engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from alexc.diagnostics import fault
from alexc.train.augment import Pixels
from alexc.train.data.dataset import Dataset
from alexc.train.workers import Workers

Forward = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Scores:
    """Counts over a data set. `confusion` is [label, predicted]; damaged images count nowhere."""

    images: int
    correct: int
    in_top5: int
    loss: float
    confusion: NDArray[np.int64]
    damaged: int = 0

    @property
    def top1(self) -> float:
        return self.correct / self.images

    @property
    def top5(self) -> float:
        return self.in_top5 / self.images


@torch.no_grad()
def evaluate(
    forward: Forward,
    data: Dataset,
    pixels: Pixels,
    classes: int,
    *,
    views: int = 1,
    batch: int = 256,
    probabilities: bool = False,
    part: tuple[int, int] = (0, 1),
) -> Scores:
    """How often the right class is the first, and among the first five, of `forward`'s scores.

    `forward` takes (n, channels, height, width) and gives (n, classes) scores: logits, or what
    comes out of a softmax where `probabilities`. With ten views their probabilities are averaged.
    `part` (r, w) takes the r-th of w parts of the set. Of equal scores the first class counts.
    """
    correct = in_top5 = images = damaged = 0
    loss = 0.0
    confusion = np.zeros((classes, classes), np.int64)
    for stored, labels in _batches(data, max(1, batch // views), part):
        known = labels >= 0
        damaged += int((~known).sum())
        labels = labels[known]
        if not len(labels):
            continue
        inputs = pixels.for_testing(stored[known], views)
        chances = _chances(forward(inputs), classes, probabilities)
        chances = chances.reshape(len(labels), views, classes).mean(1)
        order = chances.argsort(dim=1, descending=True, stable=True)[:, :5]
        hits = order == labels[:, None]
        images += len(labels)
        correct += int(hits[:, 0].sum())
        in_top5 += int(hits.any(1).sum())
        loss -= float(chances.gather(1, labels[:, None]).clamp_min(1e-30).log().sum())
        np.add.at(confusion, (labels.numpy(), order[:, 0].numpy()), 1)
    if not images and part[1] == 1:
        raise fault("data/empty", f"no image of {data.name} could be read")
    return Scores(images, correct, in_top5, loss / max(1, images), confusion, damaged)


def together(own: Scores, workers: Workers) -> Scores:
    """The scores over all parts, from each worker's own."""
    if workers.size == 1:
        return own
    counts = workers.total(own.images, own.correct, own.in_top5, own.damaged)
    images, correct, in_top5, damaged = map(int, counts)
    if not images:
        raise fault("data/empty", "no image that the net is tested on could be read")
    (loss,) = workers.total(own.loss * own.images)
    confusion = np.array(workers.total(*own.confusion.reshape(-1).tolist())).astype(np.int64)
    confusion = confusion.reshape(own.confusion.shape)
    return Scores(images, correct, in_top5, loss / images, confusion, damaged)


def _chances(scores: Tensor, classes: int, probabilities: bool) -> Tensor:
    scores = scores.flatten(1).double().cpu()
    if scores.shape[1] != classes:
        raise fault("eval/scores", f"{scores.shape[1]} scores for {classes} classes")
    return scores if probabilities else functional.softmax(scores, dim=1)


def _batches(data: Dataset, batch: int, part: tuple[int, int]) -> Iterator[tuple[Tensor, Tensor]]:
    indices = np.arange(part[0], len(data), part[1])
    for first in range(0, len(indices), batch):
        images, labels = data.read(indices[first : first + batch])
        yield torch.from_numpy(images), torch.from_numpy(labels)
