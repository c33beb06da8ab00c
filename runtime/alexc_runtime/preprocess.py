"""A photo file becomes what the network takes, by the `preprocess` of the manifest.

    upright         as the camera says (EXIF orientation)
    8 bits          16-bit greyscale by its upper eight; transparency over white
    rgb, bgr, grey  grey by ITU-R 601: 0.299 R + 0.587 G + 0.114 B
    resize          the shorter side to `resize`, in proportion, bilinear with antialiasing
    crop            the centre
    x = (pixel · scale − mean) / std, float32, channels first; where the bundle takes uint8, the
                    pixels themselves, since its model computes this

Resizing and cropping agree with torchvision's `Resize` and `CenterCrop` on a Pillow image, so that
published weights give their published accuracy. Colour profiles are not applied: the nets were
trained without. Pillow is imported when the first photo is read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from alexc_runtime.errors import PhotoError, PhotoMissingError
from alexc_runtime.manifest import Preprocess

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    # Of float32, or of uint8 where the bundle takes pixels.
    Images = NDArray[np.float32] | NDArray[np.uint8]

# Formats of photographs. The others that Pillow knows hold programs (EPS), documents or icons.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")

# A photo takes 3 bytes a pixel in memory, whatever its file takes: 300 MB at this size.
MAX_PIXELS = 100_000_000

_ORIENTATION = 0x0112  # the EXIF tag
_WITH_ALPHA = ("RGBA", "RGBa", "LA", "La", "PA")


def load_photos(paths: Iterable[str | os.PathLike[str]], preprocess: Preprocess) -> Images:
    """The photos as a batch of `preprocess.dtype`, `(photos, channels, height, width)`.

    Raises PhotoError for the first file that can't be read as a photo.
    """
    photos = [load_photo(path, preprocess) for path in paths]
    shape = (len(photos), preprocess.channel_count, *preprocess.crop)
    batch: Images = np.empty(shape, preprocess.dtype)
    for place, photo in zip(batch, photos, strict=True):
        place[...] = photo
    return batch


def load_photo(path: str | os.PathLike[str], preprocess: Preprocess) -> Images:
    """One photo, `(channels, height, width)`. Raises PhotoError if it can't be read."""
    image = read_photo(path)
    try:
        return to_input(image, preprocess)
    except ValueError as error:
        raise PhotoError("photo/size", f"{os.fspath(path)}: {error}") from None


def read_photo(path: str | os.PathLike[str]) -> Image.Image:
    """The photo upright, 8 bits a channel, in Pillow's mode `RGB` or `L`.

    Raises PhotoMissingError, or PhotoError if it is no photo, damaged or larger than MAX_PIXELS.
    """
    shown = os.fspath(path)
    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):
            raise PhotoMissingError("photo/not-a-file", f"{shown} is not a file")
        if status.st_size == 0:
            raise PhotoError("photo/damaged", f"{shown} is empty")
        with Path(path).open("rb") as file:
            return read_photo_from(file, shown)
    except FileNotFoundError:
        raise PhotoMissingError("photo/missing", f"there is no file {shown}") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        message = f"{shown} can't be read: {getattr(error, 'strerror', None) or error}"
        raise PhotoError("photo/unreadable", message) from None


def read_photo_from(file: BinaryIO, shown: str) -> Image.Image:
    """As `read_photo`, from a file that is open, or bytes that lie elsewhere; errors name `shown`.

    Raises PhotoError.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise _too_large(shown, f"{image.width:,}×{image.height:,} pixels")
            image.load()
            return _eight_bits(_upright(image), shown)
    except PhotoError:
        raise
    except UnidentifiedImageError:
        message = f"{shown} is not a photo in a format that can be read"
        raise PhotoError(
            "photo/not-a-photo", message, help=f"the formats are {', '.join(FORMATS)}"
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(shown, str(error).split(" pixels")[0].split("(")[-1] + " pixels") from None
    except Exception as error:  # noqa: BLE001
        # Pillow's decoders raise a dozen kinds of exception on damaged files.
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        unreadable = isinstance(error, OSError) and error.errno is not None
        raise PhotoError(
            "photo/unreadable" if unreadable else "photo/damaged",
            f"{shown} can't be read: {reason}" if unreadable else f"{shown} is damaged: {reason}",
        ) from None


def to_input(image: Image.Image, preprocess: Preprocess) -> Images:
    """An upright image of 8 bits a channel as the bundle takes it, `(channels, height, width)`.

    Raises ValueError if it is smaller than the crop and is not to be resized, or so much longer
    than wide that it would have more than MAX_PIXELS after resizing.
    """
    from PIL import Image

    image = image.convert("L" if preprocess.channels == "grey" else "RGB")
    height, width = preprocess.crop
    size = _resized(image.size, preprocess.resize)
    if size[0] < width or size[1] < height:
        raise ValueError(f"{size[0]}×{size[1]} pixels, too few to cut {width}×{height} out of them")
    if size[0] * size[1] > MAX_PIXELS:
        raise ValueError(
            f"{image.width:,}×{image.height:,} pixels would become {size[0]:,}×{size[1]:,} "
            f"by resizing; more than {MAX_PIXELS:,} are refused"
        )
    image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
    pixels = np.asarray(image.crop((left, top, left + width, top + height)))

    planes = pixels[np.newaxis] if preprocess.channels == "grey" else pixels.transpose(2, 0, 1)
    if preprocess.channels == "bgr":
        planes = planes[::-1]
    planes = np.ascontiguousarray(planes)
    return planes if preprocess.dtype == "uint8" else normalised(planes, preprocess)


def normalised(pixels: Images, preprocess: Preprocess) -> NDArray[np.float32]:
    """x = (pixel · scale − mean) / std of pixels `(…, channels, height, width)`, in float32."""
    mean = np.array(preprocess.mean, np.float32)[:, np.newaxis, np.newaxis]
    std = np.array(preprocess.std, np.float32)[:, np.newaxis, np.newaxis]
    scaled = pixels.astype(np.float32) * np.float32(preprocess.scale)
    return np.asarray((scaled - mean) / std, np.float32)


def _resized(size: tuple[int, int], shorter_side: int | None) -> tuple[int, int]:
    """Width and height once the shorter side has its length; the longer one is rounded down."""
    if shorter_side is None:
        return size
    longer_side = int(shorter_side * max(size) / min(size))
    return (longer_side, shorter_side) if size[0] >= size[1] else (shorter_side, longer_side)


def _upright(image: Image.Image) -> Image.Image:
    from PIL import Image

    turn = Image.Transpose
    turns = {
        2: turn.FLIP_LEFT_RIGHT,
        3: turn.ROTATE_180,
        4: turn.FLIP_TOP_BOTTOM,
        5: turn.TRANSPOSE,
        6: turn.ROTATE_270,
        7: turn.TRANSVERSE,
        8: turn.ROTATE_90,
    }
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # noqa: BLE001  (EXIF data that can't be read says nothing of the pixels)
        orientation = None
    return image.transpose(turns[orientation]) if orientation in turns else image


def _eight_bits(image: Image.Image, shown: str) -> Image.Image:
    """The image in mode `RGB` or `L`; Pillow's own conversion clips 16 bits and drops alpha."""
    from PIL import Image

    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image)
        if values.size and (values.min() < 0 or values.max() > 0xFFFF):
            raise PhotoError("photo/values", f"{shown} holds 32-bit values of no known range")
        # Adding half of the step before dividing rounds to the nearest: 65535 → 255.
        return Image.fromarray(((values.astype(np.int64) + 128) // 257).astype(np.uint8))
    if image.mode == "F":
        raise PhotoError("photo/values", f"{shown} holds floating-point values of no known range")
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        shaped = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, shaped).convert("RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _too_large(shown: str, size: str) -> PhotoError:
    message = f"{shown} has {size}; more than {MAX_PIXELS:,} are refused"
    return PhotoError("photo/too-large", message, help="scale it down")
