"""Sets of the Hugging Face hub, or saved to disk by its library: `hf:NAME` or `hf:DIR`.

The package `datasets`, of the extra `train`, finds, fetches and decodes them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from alexc.diagnostics import fault, usage_fault
from alexc.train.data.dataset import Dataset, ImageForm, Images
from alexc.train.data.photo import UnreadablePhotoError, stored
from alexc.train.data.photos import PhotoDataset, held

_IMAGES, _LABELS = ("image", "img"), ("label", "labels", "fine_label")
_SPLITS = {"train": ("train",), "test": ("test", "validation", "valid", "val")}


class HubDataset(PhotoDataset):
    """One part of a set, by its columns of images and labels."""

    def __init__(self, name: str, rows: Any, columns: tuple[str, str], form: ImageForm) -> None:
        image, label = columns
        names = getattr(rows.features[label], "names", None)
        labels = np.array(rows[label], np.int64)
        super().__init__(name, labels, tuple(names) if names else None, form)
        self.rows, self.image = rows, image

    def decode(self, index: int) -> Images:
        try:
            picture = self.rows[index][self.image]
            return stored(picture, self.form.size, self.form.channels)
        except Exception as error:  # noqa: BLE001  (whatever its decoders raise)
            raise UnreadablePhotoError(f"{self.name}, row {index:,}: {error}") from None


def load(rest: str, split: Literal["train", "test"], form: ImageForm) -> Dataset:
    """The set. Raises UsageError if it or the package is missing, AlexcError without images."""
    try:
        import datasets
    except ImportError:
        raise usage_fault(
            "data/package", "hf: needs the package datasets", help="pip install 'alexc[train]'"
        ) from None
    try:
        found: Any = (
            datasets.load_from_disk(rest) if Path(rest).is_dir() else datasets.load_dataset(rest)
        )
    except Exception as error:  # noqa: BLE001  (network, names, formats: its own kinds)
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise usage_fault("data/missing", f"hf:{rest}: {reason[0]}") from None
    part = next((name for name in _SPLITS[split] if name in found), None)
    if part is None:
        raise usage_fault("data/missing", f"hf:{rest} has no part to {split}: {', '.join(found)}")
    rows = found[part]
    image = next((name for name in _IMAGES if name in rows.features), None)
    label = next((name for name in _LABELS if name in rows.features), None)
    if image is None or label is None:
        raise fault(
            "data/columns",
            f"hf:{rest} has the columns {', '.join(rows.features)}, and none is "
            f"{'an image' if image is None else 'a label'}",
        )
    return held(HubDataset(f"hf:{rest}", rows, (image, label), form))
