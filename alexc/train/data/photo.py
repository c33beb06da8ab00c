"""Photographs as they are stored to be learnt from: upright, 8 bits, the shorter side to a size.

What a camera or a scanner makes of a picture (EXIF turns, 16 bits, CMYK, alpha) is undone by the
runtime's reader, so that training and deployment see the same pixels.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from alexc.train.data.dataset import Images
from alexc_runtime.errors import PhotoError
from alexc_runtime.preprocess import read_photo, read_photo_from

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = frozenset(".jpg .jpeg .png .webp .bmp .gif .tif .tiff .ppm .pgm .jp2 .avif".split())


class UnreadablePhotoError(Exception):
    """Why an image can't be read. The message begins with what it is called."""


def from_file(path: Path, size: tuple[int, int], channels: int) -> Images:
    """The photo in the file, (height, width, channels). Raises UnreadablePhotoError."""
    try:
        with warnings.catch_warnings(action="ignore"):
            image = read_photo(path)
    except PhotoError as error:
        raise UnreadablePhotoError(error.message) from None
    return stored(image, size, channels)


def from_bytes(data: bytes, shown: str, size: tuple[int, int], channels: int) -> Images:
    """The photo in a file's content, of a shard say. Raises UnreadablePhotoError."""
    try:
        with warnings.catch_warnings(action="ignore"):
            image = read_photo_from(io.BytesIO(data), shown)
    except PhotoError as error:
        raise UnreadablePhotoError(error.message) from None
    return stored(image, size, channels)


def stored(image: Image.Image, size: tuple[int, int], channels: int) -> Images:
    """The image scaled until it covers `size`, its centre cut out: (height, width, channels)."""
    from PIL import Image

    image = image.convert("L" if channels == 1 else "RGB")
    height, width = size
    if image.size != (width, height):
        factor = max(width / image.width, height / image.height)
        scaled = (
            max(width, round(image.width * factor)),
            max(height, round(image.height * factor)),
        )
        left, top = round((scaled[0] - width) / 2), round((scaled[1] - height) / 2)
        image = image.resize(scaled, Image.Resampling.BILINEAR)
        image = image.crop((left, top, left + width, top + height))
    pixels = np.asarray(image, np.uint8)
    return pixels.reshape(height, width, channels)
