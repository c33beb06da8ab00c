"""WebDataset shards: tar files in which `KEY.jpg` and `KEY.cls` are an image and its label.

They are read by place and not as streams: the index of every shard is made when the set is opened,
so that images come in the order of the run from any step on, whatever the number of workers. The
package `webdataset` reads shards as shuffled streams, whose position can't be found again; what one
of the two writes, the other reads. KEY is what stands before the first point of a name, and the
kind what stands after the last: `7.input.png` is an image too. Of several images in a sample the
first is taken, and `cls` before the `label` of a `json`.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from alexc.diagnostics import AlexcError, fault, usage_fault
from alexc.train.data.dataset import Dataset, ImageForm, Images
from alexc.train.data.folder import numbered
from alexc.train.data.photo import SUFFIXES, from_bytes
from alexc.train.data.photos import PhotoDataset, held

CLASSES = "classes.json"
_MOST_SHARDS = 1_000_000
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_SPLITS = {"train": ("train",), "test": ("test", "val", "validation")}
_HELD_OUT = 10
_LABELS = ("cls", "json")
_GZIP = b"\x1f\x8b"


class ShardDataset(PhotoDataset):
    """Images at known places of shards. Each process opens the files for itself."""

    def __init__(
        self,
        name: str,
        shards: list[Path],
        places: np.ndarray,
        classes: tuple[str, ...] | None,
        form: ImageForm,
    ) -> None:
        super().__init__(name, places["label"].astype(np.int64), classes, form)
        self.shards = shards
        self.places = places
        self._files: dict[tuple[int, int], int] = {}

    def decode(self, index: int) -> Images:
        shard, offset, size, _ = self.places[index].tolist()
        shown = f"{self.shards[shard]}, byte {offset:,}"
        data = os.pread(self._open(shard), size, offset)
        return from_bytes(data, shown, self.form.size, self.form.channels)

    def _open(self, shard: int) -> int:
        key = (os.getpid(), shard)
        if key not in self._files:
            self._files[key] = os.open(self.shards[shard], os.O_RDONLY)
        return self._files[key]

    def __del__(self) -> None:
        for (process, _), descriptor in getattr(self, "_files", {}).items():
            if process == os.getpid():
                os.close(descriptor)


_PLACE = np.dtype([("shard", "i4"), ("offset", "i8"), ("size", "i8"), ("label", "i8")])


def load(rest: str, split: Literal["train", "test"], form: ImageForm) -> Dataset:
    """The set of the shards that `rest` names: a folder, a pattern with * or with {0000..0123}.

    In a folder, shards named train-… are to learn from and test-… or val-… to test with. Where
    there are none to test with, every tenth image is held out. Raises UsageError if there are no
    shards, and AlexcError if one is damaged.
    """
    shards, whole = _found(rest, split)
    rows = [row for number, path in enumerate(shards) for row in _index(number, path)]
    if not whole:
        keep = split == "test"
        rows = [
            row for number, row in enumerate(rows) if (number % _HELD_OUT == _HELD_OUT - 1) == keep
        ]
    places = np.array(rows, _PLACE)
    classes = _classes(shards[0].parent)
    if classes is not None:
        numbers = numbered(classes, form, f"wds:{rest}")
        places["label"] = [numbers.get(int(label), int(label)) for label in places["label"]]
    return held(ShardDataset(f"wds:{rest}", shards, places, classes, form))


def _found(rest: str, split: str) -> tuple[list[Path], bool]:
    """The shards of one part, and whether they are all of it."""
    folder = Path(rest)
    if folder.is_dir():
        for name in _SPLITS[split]:
            if shards := sorted(folder.glob(f"{name}-*.tar")):
                return shards, split == "test" or _has_tests(folder)
        shards = sorted(folder.glob("*.tar"))
        if shards:
            return shards, False
    else:
        patterns = [rest]
        if split == "test" and "train" in folder.name:
            others = [folder.name.replace("train", name) for name in _SPLITS["test"]]
            patterns = [str(folder.with_name(name)) for name in others] + patterns
        for pattern in patterns:
            shards = [path for name in _expanded(pattern) for path in _globbed(Path(name))]
            if shards:
                whole = pattern != rest if split == "test" else _has_sibling(folder)
                return shards, whole
    raise usage_fault(
        "data/missing",
        f"there are no shards {rest}",
        help="wds:DIR, wds:DIR/train-*.tar or wds:DIR/train-{00000..00012}.tar",
    )


def _has_tests(folder: Path) -> bool:
    return any(any(folder.glob(f"{name}-*.tar")) for name in _SPLITS["test"])


def _has_sibling(pattern: Path) -> bool:
    """Whether there are shards to test with beside those of a pattern with `train` in its name."""
    if "train" not in pattern.name:
        return False
    return any(
        any(_globbed(Path(name)))
        for other in _SPLITS["test"]
        for name in _expanded(str(pattern.with_name(pattern.name.replace("train", other))))
    )


def _expanded(pattern: str) -> Iterator[str]:
    """`a-{08..10}.tar` → `a-08.tar`, `a-09.tar`, `a-10.tar`."""
    found = _RANGE.search(pattern)
    if found is None:
        yield pattern
        return
    first, last = found.groups()
    if int(last) - int(first) >= _MOST_SHARDS:
        raise usage_fault(
            "data/shards",
            f"{pattern} names {int(last) - int(first) + 1:,} shards, and a set has at most "
            f"{_MOST_SHARDS:,}",
        )
    for number in range(int(first), int(last) + 1):
        yield from _expanded(
            f"{pattern[: found.start()]}{number:0{len(first)}}{pattern[found.end() :]}"
        )


def _globbed(path: Path) -> list[Path]:
    if any(sign in path.name for sign in "*?["):
        return sorted(path.parent.glob(path.name))
    return [path] if path.is_file() else []


def _index(number: int, path: Path) -> Iterator[tuple[int, int, int, int]]:
    """(shard, offset, size, label) of every image in the shard, in its order."""
    sample = _Sample("")
    try:
        with tarfile.open(path, "r:") as shard:
            for member in shard:
                if not member.isfile():
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, _, suffixes = name.partition(".")
                kind = suffixes.rpartition(".")[2].lower()
                if (key := f"{folder}/{stem}") != sample.key:
                    if sample.image is not None:
                        yield number, *sample.image, sample.label(path)
                    sample = _Sample(key)
                if f".{kind}" in SUFFIXES and sample.image is None:
                    sample.image = member.offset_data, member.size
                elif kind in _LABELS:
                    content = shard.extractfile(member)
                    assert content is not None
                    sample.labels[kind] = member.name, content.read()
            # A tar file ends in blocks of zeros, which one that was cut short does not have.
            if path.stat().st_size < shard.offset + tarfile.BLOCKSIZE:
                raise tarfile.ReadError("its end is missing")
            if sample.image is not None:
                yield number, *sample.image, sample.label(path)
    except (tarfile.TarError, EOFError) as error:
        raise _unreadable(path, error) from None
    except OSError as error:
        raise usage_fault("file/unreadable", f"{path}: {error.strerror or error}") from None


@dataclass(slots=True)
class _Sample:
    """The files of one key, so far."""

    key: str
    image: tuple[int, int] | None = None  # offset, size
    labels: dict[str, tuple[str, bytes]] = field(default_factory=dict)  # by kind

    def label(self, path: Path) -> int:
        """The number that `cls` holds, or `json`. Raises AlexcError if there is none."""
        for kind in _LABELS:
            if kind in self.labels:
                return _label(*self.labels[kind], kind, path)
        raise fault(
            "data/labels",
            f"{path}: the image {self.key.lstrip('/')} has no label beside it",
            help="a sample is KEY.jpg with KEY.cls, which holds the number of its class",
        )


def _unreadable(path: Path, error: Exception) -> AlexcError:
    with path.open("rb") as file:
        if file.read(len(_GZIP)) == _GZIP:
            return fault(
                "data/format",
                f"{path} is compressed, and images are read by their place in a shard",
                help="gunzip it: what is in JPEG hardly gets smaller",
            )
    return fault(
        "data/damaged",
        f"{path} is damaged: {error}",
        help="it was not loaded whole: fetch or pack it again",
    )


def _label(name: str, content: bytes, kind: str, path: Path) -> int:
    try:
        value = json.loads(content) if kind == "json" else int(content)
        return int(value["label"] if isinstance(value, dict) else value)
    except (ValueError, KeyError, TypeError):
        raise _no_label(path, name, content) from None


def _no_label(path: Path, name: str, content: bytes) -> AlexcError:
    return fault("data/labels", f"{path}: {name} holds {content[:40]!r} and should hold a number")


def _classes(folder: Path) -> tuple[str, ...] | None:
    """The names that `alexc data pack` keeps beside the shards."""
    try:
        return tuple(map(str, json.loads((folder / CLASSES).read_text(encoding="utf-8"))))
    except (OSError, ValueError, TypeError):
        return None
