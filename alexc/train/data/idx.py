"""MNIST and Fashion-MNIST in the IDX format, gzipped or plain.

magic 00 00 TYPE RANK, then RANK sizes, each 4 bytes, the most significant first, then values
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexc.diagnostics import AlexcError, fault, usage_fault
from alexc.train.data.dataset import ArrayDataset, ImageForm, with_channels

_UNSIGNED_BYTE = 8
_STEMS = {"train": "train", "test": "t10k"}

FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
MNIST_CLASSES = tuple("0123456789")


def load(name: str, folder: Path, split: str, form: ImageForm) -> ArrayDataset:
    """The `train` or `test` part of `mnist` or `fashion-mnist` in `folder`.

    Raises UsageError if files are missing and AlexcError if they are damaged or don't fit together.
    """
    stem = _STEMS[split]
    images = read_idx(_find(folder, f"{stem}-images", "idx3-ubyte"), 3)
    labels = read_idx(_find(folder, f"{stem}-labels", "idx1-ubyte"), 1)
    if len(images) != len(labels):
        raise fault(
            "data/count",
            f"{folder} holds {len(images):,} {split} images and {len(labels):,} labels",
        )
    classes = FASHION_CLASSES if name == "fashion-mnist" else MNIST_CLASSES
    pixels = with_channels(images[..., np.newaxis], form.channels)
    return ArrayDataset(f"{name}:{folder}", pixels, labels.astype(np.int64), classes)


def _find(folder: Path, start: str, end: str) -> Path:
    if not folder.is_dir():
        raise usage_fault("data/missing", f"there is no folder {folder}")
    for joint in ("-", "."):
        for suffix in ("", ".gz"):
            if (path := folder / f"{start}{joint}{end}{suffix}").is_file():
                return path
    raise usage_fault(
        "data/missing",
        f"{folder} holds no {start}-{end}, neither plain nor .gz",
        help="the set is four files: train-images-idx3-ubyte, train-labels-idx1-ubyte and the "
        "same two beginning with t10k",
    )


def read_idx(path: Path, rank: int) -> NDArray[np.uint8]:
    """The array of an IDX file of unsigned bytes. Raises AlexcError if it is not one, whole."""
    data = _content(path)
    start = 4 + 4 * rank
    if len(data) < start or data[:4] != bytes((0, 0, _UNSIGNED_BYTE, rank)):
        raise fault(
            "data/format",
            f"{path} is no IDX file of bytes with {rank} sizes: it begins {data[:4].hex(' ')}, "
            f"not {bytes((0, 0, _UNSIGNED_BYTE, rank)).hex(' ')}",
        )
    shape = tuple(np.frombuffer(data, ">u4", rank, 4).tolist())
    if len(data) - start != math.prod(shape):
        raise _incomplete(
            path, f"it holds {len(data) - start:,} values and its head says {math.prod(shape):,}"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _content(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise usage_fault("file/unreadable", f"{path}: {error.strerror}") from None
    if data[:2] != b"\x1f\x8b":
        return data
    try:
        return gzip.decompress(data)
    except (EOFError, OSError, zlib.error) as error:
        raise _incomplete(path, f"it can't be unpacked ({error})") from None


def _incomplete(path: Path, reason: str) -> AlexcError:
    return fault(
        "data/damaged",
        f"{path} is damaged: {reason}",
        help="it was not loaded whole: fetch it again",
    )
