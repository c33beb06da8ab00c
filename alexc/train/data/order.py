"""Which images are seen when: a function of seed, epoch and step, of nothing else.

So a run goes on anywhere without having kept a position in a stream, and on another number of
workers the same steps see the same images: worker r of w takes the r-th part of every batch.
"""

from __future__ import annotations

import hashlib

import numpy as np

from alexc.train.data.dataset import Indices


def chance(seed: int, purpose: str, *numbers: int) -> int:
    """A seed of 63 bits for one purpose at one place, independent of those of all others."""
    key = hashlib.sha256(f"alexc train 1\0{seed}\0{purpose}\0{numbers}".encode()).digest()
    return int.from_bytes(key[:8], "little") >> 1


def epoch_order(seed: int, epoch: int, count: int) -> Indices:
    """A permutation of 0 … count − 1, another in every epoch."""
    generator = np.random.Generator(np.random.Philox(chance(seed, "order", epoch)))
    return generator.permutation(count)


def share(count: int, rank: int, workers: int) -> slice:
    """The part of `count` things, a multiple of `workers`, that worker `rank` takes."""
    part = count // workers
    return slice(rank * part, (rank + 1) * part)
