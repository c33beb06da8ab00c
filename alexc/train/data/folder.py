"""A folder of photographs for each class: `folder:DIR`.

DIR/train/cat/1.jpg …   to learn from; without such a folder, DIR/cat/1.jpg …
DIR/test/cat/7.jpg …    to test with, or `val`, `validation`; without one, every tenth photo of
                        a class is held out
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from alexc.diagnostics import AlexcError, Diagnostic, fault, usage_fault
from alexc.train.data.dataset import Dataset, ImageForm, Images
from alexc.train.data.photo import SUFFIXES, from_file
from alexc.train.data.photos import PhotoDataset, held

_TEST_FOLDERS = ("test", "val", "validation")
_HELD_OUT = 10


@dataclass(frozen=True, slots=True)
class Listing:
    """Files in the order of classes and names, with the number of their class."""

    classes: tuple[str, ...]
    files: tuple[Path, ...]
    numbers: tuple[int, ...]


class FolderDataset(PhotoDataset):
    """The photographs of a listing."""

    def __init__(self, name: str, listing: Listing, form: ImageForm) -> None:
        numbers = numbered(listing.classes, form, name)
        labels = np.array([numbers[number] for number in listing.numbers], np.int64)
        super().__init__(name, labels, listing.classes, form)
        self.files = listing.files

    def decode(self, index: int) -> Images:
        return from_file(self.files[index], self.form.size, self.form.channels)


def load(rest: str, split: Literal["train", "test"], form: ImageForm) -> Dataset:
    """The set in the folder. Raises UsageError if it is missing, AlexcError if a class is empty."""
    folder = Path(rest)
    return held(FolderDataset(f"folder:{folder}", listed(folder, split), form))


def listed(folder: Path, split: Literal["train", "test"]) -> Listing:
    """The files of one part, found by the rules above."""
    if not folder.is_dir():
        raise usage_fault("data/missing", f"there is no folder {folder}")
    test = next((folder / name for name in _TEST_FOLDERS if (folder / name).is_dir()), None)
    train = folder / "train"
    if split == "train":
        chosen = train if train.is_dir() else folder
    else:
        chosen = test or (train if train.is_dir() else folder)
    found = _walked(chosen)
    if test is not None:
        return found
    place = _place_in_class(found)
    kept = [(number % _HELD_OUT == _HELD_OUT - 1) == (split == "test") for number in place]
    return Listing(
        found.classes,
        tuple(file for file, keep in zip(found.files, kept, strict=True) if keep),
        tuple(number for number, keep in zip(found.numbers, kept, strict=True) if keep),
    )


def numbered(classes: tuple[str, ...], form: ImageForm, name: str) -> dict[int, int]:
    """The label of each class: by its name where the spec names its classes, else by its place."""
    known = {label: number for number, label in enumerate(form.labels or ())}
    if known and set(classes) <= known.keys():
        return {number: known[label] for number, label in enumerate(classes)}
    if known:
        strange = [label for label in classes if label not in known]
        if len(strange) < len(classes):
            raise fault(
                "data/classes",
                f"{name} has classes that the spec's labels don't name: {', '.join(strange[:5])}",
            )
    return {number: number for number in range(len(classes))}


def _walked(folder: Path) -> Listing:
    """Every class below the folder. Raises UsageError if a folder can't be read."""
    try:
        return _classes(folder)
    except OSError as error:
        place = error.filename or folder
        raise usage_fault("file/unreadable", f"{place}: {error.strerror or error}") from None


def _classes(folder: Path) -> Listing:
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
    if not classes:
        raise usage_fault(
            "data/missing",
            f"{folder} holds no folders, and should hold one for each class",
            help="folder:DIR reads DIR/cat/1.jpg, DIR/dog/2.jpg and so on",
        )
    files: list[Path] = []
    numbers: list[int] = []
    empty = []
    for number, name in enumerate(classes):
        inside = sorted(
            path for path in (folder / name).rglob("*") if path.suffix.lower() in SUFFIXES
        )
        if not inside:
            empty.append(name)
        files += inside
        numbers += [number] * len(inside)
    if empty:
        raise AlexcError(
            *(
                Diagnostic(
                    "data/empty-class",
                    f"{folder / name} holds no photographs",
                    help="remove the folder, or put files in: " + ", ".join(sorted(SUFFIXES)),
                )
                for name in empty
            )
        )
    return Listing(tuple(classes), tuple(files), tuple(numbers))


def _place_in_class(listing: Listing) -> list[int]:
    """For every file, how many of its class come before it."""
    counts = dict.fromkeys(range(len(listing.classes)), 0)
    places = []
    for number in listing.numbers:
        places.append(counts[number])
        counts[number] += 1
    return places
