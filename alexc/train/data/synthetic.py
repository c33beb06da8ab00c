"""Images made from a seed, with classes that can be learnt: `synthetic:` or `synthetic:4096`.

Every class has a coarse pattern of its own, laid over with noise, so that a net that learns reaches
a high accuracy and one that does not stays at 1 / classes. Nothing is read, so it also measures a
step without a loader.
"""

from __future__ import annotations

import numpy as np

from alexc.diagnostics import usage_fault
from alexc.train.data.dataset import ArrayDataset, ImageForm

_COUNT = 2048
_COARSE = 4  # a pattern is this many fields high and wide


def load(text: str, split: str, form: ImageForm) -> ArrayDataset:
    """`text` is the number of images, or nothing. Raises UsageError if it is something else."""
    if text and not (text.isascii() and text.isdecimal() and 0 < int(text) <= 10**7):
        raise usage_fault("data/uri", f"synthetic:{text} should be synthetic: or synthetic:COUNT")
    count = int(text or _COUNT)
    height, width = form.size
    patterns = np.random.default_rng([2012, 0]).integers(
        48, 208, (form.classes, _COARSE, _COARSE, form.channels)
    )
    chance = np.random.default_rng([2012, 1 + (split == "test")])
    labels = np.arange(count, dtype=np.int64) % form.classes
    rows = np.arange(height) * _COARSE // height
    columns = np.arange(width) * _COARSE // width
    images = np.empty((count, height, width, form.channels), np.uint8)
    for first in range(0, count, 64):
        chosen = patterns[labels[first : first + 64]][:, rows][:, :, columns]
        noisy = chosen + chance.normal(0, 24, chosen.shape)
        images[first : first + 64] = np.clip(noisy, 0, 255).astype(np.uint8)
    return ArrayDataset(f"synthetic:{count}", images, labels)
