"""Batches of stored images in the order of the run, from any step on.

What is in memory is taken from there. What must be decoded is read by torch's DataLoader in worker
processes, which are told the indices of each batch, so that they change nothing in the order.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from alexc.train.data.dataset import Dataset, Images, Indices, Labels
from alexc.train.data.order import epoch_order, share

Batch = tuple[Tensor, Tensor]


def batches(
    data: Dataset,
    *,
    seed: int,
    batch: int,
    steps: range,
    rank: int = 0,
    workers: int = 1,
    processes: int = 0,
) -> Iterator[Batch]:
    """The batches of these steps, counted over the whole run: uint8 images and int64 labels.

    `batch` images in all; worker `rank` of `workers` gets its part. The images left over at the end
    of an epoch are left out; they are others in the next.
    """
    plan = _plan(data, seed, batch, steps, share(batch, rank, workers))
    if data.in_memory:
        for indices in plan:
            yield _tensors(data.read(indices))
        return
    # PyTorch's types want its own base class, where these two methods are all that it calls.
    source: Any = data
    sampler: Any = (indices.tolist() for indices in plan)
    loader: DataLoader[Any] = DataLoader(
        source,
        batch_sampler=sampler,
        num_workers=processes,
        # A process with threads must not be copied as it stands.
        multiprocessing_context="forkserver" if processes else None,
        collate_fn=_collated,
        prefetch_factor=4 if processes else None,
    )
    yield from loader


def _plan(data: Dataset, seed: int, batch: int, steps: range, part: slice) -> Iterator[Indices]:
    """The indices of each step's part of its batch."""
    per_epoch = len(data) // batch
    epoch, order = -1, np.empty(0, np.int64)
    for step in steps:
        if step // per_epoch != epoch:
            epoch = step // per_epoch
            order = epoch_order(seed, epoch, len(data))
        first = step % per_epoch * batch
        yield order[first : first + batch][part]


def _collated(read: Any) -> Batch:
    """A worker process hands over the batch that `__getitems__` read, as it is."""
    return _tensors(read)


def _tensors(read: tuple[Images, Labels]) -> Batch:
    images, labels = read
    return torch.from_numpy(images), torch.from_numpy(labels)
