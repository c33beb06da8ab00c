"""CIFAR-10 in the three forms that it is passed around in.

binary   data_batch_1.bin … 5, test_batch.bin: 1 byte label, 3072 bytes R, G, B planes, an image
python   data_batch_1 … 5, test_batch: pickled dictionaries, read here without running them
sheets   data_batch_1.png … 5, test_batch.png: an image a row of 1024 pixels, labels in JSON lists
"""

from __future__ import annotations

import io
import json
import pickle  # noqa: TID251  (only its reader of opcodes, which here can name no code: see _Inert)
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexc.diagnostics import AlexcError, fault, usage_fault
from alexc.train.data.dataset import ArrayDataset, ImageForm, Images, Labels, with_channels

_SIDE = 32
_BYTES = 3 * _SIDE * _SIDE
_PARTS = {"train": tuple(f"data_batch_{n}" for n in range(1, 6)), "test": ("test_batch",)}
_SUBFOLDERS = ("", "cifar-10-batches-bin", "cifar-10-batches-py", "package")

CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip


def load(folder: Path, split: str, form: ImageForm) -> ArrayDataset:
    """The `train` or `test` part. Raises UsageError if it is missing, AlexcError if damaged."""
    if not folder.is_dir():
        raise usage_fault("data/missing", f"there is no folder {folder}")
    parts = _PARTS[split]
    for name in _SUBFOLDERS:
        for suffix, read in ((".bin", _binary), ("", _python), (".png", _sheets)):
            paths = [folder / name / f"{part}{suffix}" for part in parts]
            there = [path for path in paths if path.is_file()]
            if not there:
                continue
            if missing := [path.name for path in paths if path not in there]:
                raise usage_fault("data/missing", f"{folder} lacks {', '.join(missing)}")
            images, labels = read(paths, split)
            if len(images) != len(labels) or labels.min() < 0 or labels.max() >= len(CLASSES):
                raise fault(
                    "data/labels",
                    f"{folder}: {len(images):,} {split} images have {len(labels):,} labels "
                    f"from {labels.min()} to {labels.max()}, and should have one each from 0 to 9",
                )
            pixels = with_channels(images, form.channels)
            return ArrayDataset(f"cifar10:{folder}", pixels, labels, CLASSES)
    raise usage_fault(
        "data/missing",
        f"{folder} holds no CIFAR-10",
        help="it is known as data_batch_1.bin …, as data_batch_1 … and as data_batch_1.png …",
    )


def _planes(data: NDArray[np.uint8]) -> Images:
    """Rows of 3072 bytes, a plane after the other, as (n, 32, 32, 3)."""
    return np.ascontiguousarray(data.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1))


def _binary(paths: list[Path], split: str) -> tuple[Images, Labels]:
    del split
    images, labels = [], []
    for path in paths:
        data = np.frombuffer(path.read_bytes(), np.uint8)
        if not data.size or data.size % (1 + _BYTES):
            raise _damaged(path, f"{data.size:,} bytes are no multiple of {1 + _BYTES}")
        rows = data.reshape(-1, 1 + _BYTES)
        labels.append(rows[:, 0].astype(np.int64))
        images.append(_planes(rows[:, 1:]))
    return np.concatenate(images), np.concatenate(labels)


def _sheets(paths: list[Path], split: str) -> tuple[Images, Labels]:
    images = np.concatenate([_sheet(path) for path in paths])
    folder = paths[0].parent
    # The package that carries these sheets spells the word in its own way.
    for name in (f"{split}_labels.json", f"{split}_lables.json"):
        if (path := folder / name).is_file():
            try:
                labels = np.array(json.loads(path.read_text(encoding="utf-8")), np.int64)
            except (ValueError, TypeError, OverflowError) as error:
                raise _damaged(path, str(error)) from None
            return images, labels.reshape(-1)
    raise usage_fault("data/missing", f"{folder} lacks {split}_labels.json")


def _sheet(path: Path) -> Images:
    from PIL import Image, UnidentifiedImageError

    try:
        # A sheet of ten thousand rows is no decompression bomb: it is read row by row by size.
        with Image.open(path, formats=("PNG",)) as sheet:
            if sheet.width != _SIDE * _SIDE:
                raise _damaged(path, f"rows of {sheet.width} pixels are not 32×32")
            rows = np.asarray(sheet.convert("RGB"))
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise _damaged(path, str(error)) from None
    return rows.reshape(-1, _SIDE, _SIDE, 3)


# ---- the Python release --------------------------------------------------------------------------


class _Inert:
    """Stands for whatever a pickle names. It keeps what it is given and does nothing with it."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _DataOnly(pickle.Unpickler):
    """Reads the opcodes of a pickle. Every name in it becomes `_Inert`, so that no code can run."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return _encode
        return _Inert

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError(f"it refers to {pid!r}")


def _encode(text: object, encoding: object = "latin1") -> bytes:
    """How Python 3 writes bytes into a pickle of protocol 2."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("it holds no bytes")
    return text.encode("latin1")


def _python(paths: list[Path], split: str) -> tuple[Images, Labels]:
    del split
    images, labels = [], []
    for path in paths:
        try:
            content = _DataOnly(io.BytesIO(path.read_bytes()), encoding="bytes").load()
            found = {_text(key): value for key, value in content.items()}
            data = found["data"]
            raw = data.state[4] if isinstance(data, _Inert) else data
            rows = np.frombuffer(raw if isinstance(raw, bytes) else raw.encode("latin1"), np.uint8)
            labels.append(np.array(found["labels"], np.int64))
            images.append(_planes(rows.reshape(-1, _BYTES)))
        except Exception as error:  # noqa: BLE001  (a damaged pickle can raise anything)
            raise _damaged(path, f"{type(error).__name__}: {error}") from None
    return np.concatenate(images), np.concatenate(labels)


def _text(key: object) -> str:
    return key.decode("latin1") if isinstance(key, bytes) else str(key)


def _damaged(path: Path, reason: str) -> AlexcError:
    return fault(
        "data/damaged",
        f"{path} is damaged: {reason}",
        help="it was not loaded whole: fetch it again",
    )
