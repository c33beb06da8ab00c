"""Calibration images: which files, read as the net reads them, and whether they are fit for it.

What images can't tell is refused, since ranges from it would be wrong without anything showing it:
too few of them, flat ones, copies of each other, and noise. Pixels of a photograph are much like
their neighbours; those of noise are not, and it gives a net other activations than any photograph.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexc.diagnostics import AlexcError, Diagnostic, usage_fault
from alexc.ops.base import Shape
from alexc.verify.inputs import structured
from alexc_runtime.errors import PhotoError
from alexc_runtime.manifest import Preprocess
from alexc_runtime.preprocess import load_photo, normalised

Images = NDArray[np.float32]
Pixels = NDArray[np.uint8]

# A third is held out. The largest of 10 photographs' maxima is already within some percent of that
# of 1,000 in the nets of docs/precision.md, and the methods other than `max` look at less.
FEWEST = 16
# More than this many tell nothing new; taken at even distances from what is given.
MOST = 256
# The correlation of neighbouring pixels: 0.00 ± 0.02 of noise at 28×28, 0.5 of handwritten digits,
# 0.9 and more of photographs.
_LEAST_CORRELATION = 0.2
_SUFFIXES = frozenset(".jpg .jpeg .png .webp .bmp .gif .tif .tiff .ppm .pgm .jp2 .avif".split())
_MOST_NAMED = 5


def photo_files(paths: Sequence[Path]) -> list[Path]:
    """The photographs among files and, at any depth, in folders; each once, in order.

    Raises UsageError for a path that isn't there.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.suffix.lower() in _SUFFIXES)
            found.update(dict.fromkeys(file for file in files if file.is_file()))
        elif path.exists():
            found[path] = None
        else:
            raise usage_fault("file/missing", f"there is no file {path}")
    files = list(found)
    if len(files) > MOST:
        files = [files[index * len(files) // MOST] for index in range(MOST)]
    return files


def load_images(paths: Sequence[Path], preprocess: Preprocess) -> Images:
    """The photographs as the net takes them, float32 `(images, channels, height, width)`.

    Raises AlexcError calibrate/images with everything that makes them unfit.
    """
    return normalised(load_pixels(paths, preprocess), preprocess)


def load_as_taken(paths: Sequence[Path], preprocess: Preprocess) -> NDArray[Any]:
    """As a model takes them: before they are normalised where `preprocess` is of uint8."""
    pixels = load_pixels(paths, preprocess)
    return pixels if preprocess.dtype == "uint8" else normalised(pixels, preprocess)


def load_pixels(paths: Sequence[Path], preprocess: Preprocess) -> Pixels:
    """As `load_images`, before they are normalised: uint8."""
    files = photo_files(paths)
    images: list[Pixels] = []
    faults = []
    for file in files:
        try:
            photo = load_photo(file, replace(preprocess, dtype="uint8"))
            images.append(photo.astype(np.uint8, copy=False))
        except PhotoError as error:
            faults.append(Diagnostic("calibrate/images", error.message))
    if faults:
        raise AlexcError(*faults[:_MOST_NAMED])
    check([str(file) for file in files], images)
    return np.stack(images)


def check(names: Sequence[str], images: Sequence[Images | Pixels]) -> None:
    """Raise AlexcError calibrate/images if ranges can't be measured on these images."""
    seen: dict[bytes, str] = {}
    copies, flat, noise = [], [], []
    for name, image in zip(names, images, strict=True):
        digest = hashlib.sha256(image.tobytes()).digest()
        if digest in seen:
            copies.append(f"{name} (of {seen[digest]})")
        seen.setdefault(digest, name)
        if float(np.ptp(image)) == 0 or all(float(np.ptp(plane)) == 0 for plane in image):
            flat.append(name)
        elif neighbour_correlation(image) < _LEAST_CORRELATION:
            noise.append(name)
    faults = []
    if flat:
        faults.append(_fault(f"{_count(flat)} of one colour all over", flat))
    if noise:
        faults.append(
            _fault(
                f"{_count(noise)} noise: neighbouring pixels have nothing to do with each other",
                noise,
            )
        )
    if not faults and len(seen) < FEWEST:
        what = f"{len(seen)} different images" if copies else f"{len(images)} images"
        faults.append(_fault(f"{what} are too few to calibrate on: {FEWEST} or more", copies))
    if faults:
        raise AlexcError(*faults)


def stand_ins(shape: Shape, preprocess: Preprocess | None, count: int = 4) -> Images:
    """Where no photographs are given: pictures with the spectrum and the pixels of one.

    They show the magnitudes of a net's tensors, roughly; ranges are never taken from them.
    """
    generator = np.random.default_rng(0)
    pictures = np.stack([structured(shape, generator) for _ in range(count)])
    if preprocess is None:
        return pictures
    pixels = np.clip(pictures * 64 + 128, 0, 255) * preprocess.scale
    mean, std = (np.array(values).reshape(-1, 1, 1) for values in (preprocess.mean, preprocess.std))
    return np.asarray((pixels - mean) / std, np.float32)


def neighbour_correlation(image: Images | Pixels) -> float:
    """The correlation of pixels with their right and lower neighbours, from −1 to 1."""
    total, weight = 0.0, 0.0
    for plane in image.astype(np.float64):
        centred = plane - plane.mean()
        for first, second in (
            (centred[:, :-1], centred[:, 1:]),
            (centred[:-1], centred[1:]),
        ):
            total += float((first * second).sum())
            weight += float(np.sqrt((first**2).sum() * (second**2).sum()))
    return total / weight if weight else 0.0


def _count(names: Sequence[str]) -> str:
    return "1 image is" if len(names) == 1 else f"{len(names)} images are"


def _fault(message: str, names: Sequence[str]) -> Diagnostic:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return Diagnostic(
        "calibrate/images",
        message,
        notes=(", ".join(names[:_MOST_NAMED]) + more,) if names else (),
        help="give photographs like those that the net will see",
    )
