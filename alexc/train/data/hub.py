"""Sets of the Hugging Face hub, or on disk as its library keeps them: `hf:NAME` or `hf:DIR`.

The package `datasets`, of the extra `train`, finds, fetches and caches them. Photographs are read
here, as everywhere else in alexc, so that the pixels are those that the runtime sees. DIR is what
`save_to_disk` wrote, or a folder that `load_dataset` takes: parquet files, class folders.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np

from alexc.diagnostics import fault, usage_fault
from alexc.train.data.dataset import Dataset, ImageForm, Images, Labels
from alexc.train.data.folder import numbered
from alexc.train.data.photo import UnreadablePhotoError, from_bytes, from_file
from alexc.train.data.photos import PhotoDataset, held

_LABELS = ("label", "labels", "fine_label")
_SPLITS = {"train": ("train",), "test": ("test", "validation", "valid", "val")}
_SAVED = ("dataset_dict.json", "state.json")  # what save_to_disk leaves, of parts or of one
_HELD_OUT = 10


class HubDataset(PhotoDataset):
    """One part of a set. `rows` give {"bytes", "path"} in the column `image`."""

    def __init__(
        self,
        name: str,
        rows: Any,
        image: str,
        labels: Labels,
        classes: tuple[str, ...] | None,
        form: ImageForm,
    ) -> None:
        super().__init__(name, labels, classes, form)
        self.rows, self.image = rows, image

    def decode(self, index: int) -> Images:
        shown = f"{self.name}, row {index:,}"
        try:
            cell = self.rows[index][self.image]
        except Exception as error:  # noqa: BLE001  (a damaged file of Arrow raises its own kinds)
            raise UnreadablePhotoError(f"{shown}: {error}") from None
        if cell is None:
            raise UnreadablePhotoError(f"{shown}: there is no image in it")
        if cell["bytes"] is None:
            return from_file(Path(cell["path"]), self.form.size, self.form.channels)
        return from_bytes(cell["bytes"], shown, self.form.size, self.form.channels)


def load(rest: str, split: Literal["train", "test"], form: ImageForm) -> Dataset:
    """The set; every tenth row is held out to test with where it has no part for that.

    Raises UsageError if it or the package is missing, AlexcError if it is none of images.
    """
    try:
        import datasets
    except ImportError:
        raise usage_fault(
            "data/package", "hf: needs the package datasets", help="pip install 'alexc[train]'"
        ) from None
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    rows, whole = _part(_found(datasets, rest), rest, split)
    if not whole:
        keep = [
            n for n in range(len(rows)) if (n % _HELD_OUT == _HELD_OUT - 1) == (split == "test")
        ]
        rows = rows.select(keep)
    name = f"hf:{rest}"
    image, label = _columns(datasets, rows.features, name)
    classes = getattr(rows.features[label], "names", None)
    labels = _labels(rows[label][:], label, name)
    if classes:
        numbers = numbered(tuple(classes), form, name)
        labels = np.array([numbers.get(number, number) for number in labels.tolist()], np.int64)
    # Without decoding by the package: it would leave CMYK, alpha and 16 bits as they are.
    rows = rows.cast_column(image, datasets.Image(decode=False))
    return held(HubDataset(name, rows, image, labels, tuple(classes) if classes else None, form))


def _found(datasets: Any, rest: str) -> Any:
    """All parts of the set by name, or the only one."""
    try:
        if any((Path(rest) / name).is_file() for name in _SAVED):
            return datasets.load_from_disk(rest)
        with _retries_told_once(rest):
            return datasets.load_dataset(rest)
    except Exception as error:  # noqa: BLE001  (network, names, formats: its own kinds)
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise usage_fault(
            "data/missing",
            f"hf:{rest}: {reason[0]}",
            help="is the name right, and the hub within reach? With HF_HUB_OFFLINE=1 only what was "
            "fetched before is looked at",
        ) from None


class _Once(logging.Handler):
    """Tells the first warning in words of our own, and no other."""

    def __init__(self, words: str) -> None:
        super().__init__(logging.WARNING)
        self._words: str | None = words

    def emit(self, record: logging.LogRecord) -> None:
        del record
        if self._words is not None:
            logging.getLogger("alexc").warning(self._words)
            self._words = None


@contextmanager
def _retries_told_once(rest: str) -> Iterator[None]:
    """The hub's client logs each of its tries, over half a minute: here they are one line."""
    logger = logging.getLogger("huggingface_hub")
    before = logger.handlers, logger.propagate
    told = _Once(f"hf:{rest}: the Hugging Face hub does not answer; trying for half a minute")
    logger.handlers, logger.propagate = [told], False
    try:
        yield
    finally:
        logger.handlers, logger.propagate = before


def _part(found: Any, rest: str, split: str) -> tuple[Any, bool]:
    """The rows to train or test with, and whether no others are among them."""
    if not isinstance(found, dict):
        return found, False
    parts = {kind: [name for name in names if name in found] for kind, names in _SPLITS.items()}
    if not parts["train"]:
        if split == "test" and parts["test"]:
            return found[parts["test"][0]], True
        raise usage_fault("data/missing", f"hf:{rest} has no part to {split}: {', '.join(found)}")
    return found[(parts[split] or parts["train"])[0]], bool(parts["test"])


def _columns(datasets: Any, features: Any, name: str) -> tuple[str, str]:
    """The first column of images, and that of labels, by its name or else by its kind."""
    images = [key for key, kind in features.items() if isinstance(kind, datasets.Image)]
    labels = [key for key in _LABELS if key in features]
    labels += [key for key, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    if not images or not labels:
        raise fault(
            "data/columns",
            f"{name} has the columns {', '.join(features)}, and none is "
            f"{'a label' if images else 'an image'}",
        )
    return images[0], labels[0]


def _labels(values: Any, column: str, name: str) -> Labels:
    """The column as numbers. The hub's sets say -1 where labels are kept back."""
    try:
        labels = np.array(values, np.int64)
    except (TypeError, ValueError, OverflowError):
        raise fault(
            "data/labels",
            f"{name}: the column {column} holds {values[0]!r} and should hold numbers of classes",
            help=f"datasets' class_encode_column({column!r}) numbers them; then save_to_disk",
        ) from None
    if labels.ndim != 1 or (labels.size and labels.min() < 0):
        raise fault(
            "data/labels", f"{name}: the column {column} does not hold a class for each row"
        )
    return labels
