"""From photo files, good and bad, to the network's input."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
import zlib
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from alexc_runtime import PhotoError, PhotoMissingError, load_photo, load_photos
from alexc_runtime.manifest import Channels, Preprocess
from alexc_runtime.preprocess import MAX_PIXELS, normalised, read_photo, to_input


def plain(
    crop: tuple[int, int], resize: int | None = None, channels: Channels = "rgb"
) -> Preprocess:
    """Pixels as they are, 0 to 255."""
    count = 1 if channels == "grey" else 3
    return Preprocess(resize, crop, channels, 1.0, (0.0,) * count, (1.0,) * count)


def noise(height: int, width: int, seed: int = 3) -> Image.Image:
    """A picture with structure at all scales, so that a shift or a swap shows."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (height, width, 3), np.uint8)
    ramp = np.linspace(0, 255, height * width).reshape(height, width, 1)
    return Image.fromarray(((pixels + 3 * ramp) / 4).astype(np.uint8))


def pixels_of(image: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(image)


# ---- the arithmetic ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channels", "scale", "mean", "std", "expected"),
    [
        # (pixel · scale − mean) / std, by hand, for the colour (200, 100, 51)
        ("rgb", 1 / 255, (0.5, 0.25, 0.0), (0.25, 0.5, 0.1), (1.1372549, 0.28431373, 2.0)),
        ("bgr", 1.0, (104.0, 117.0, 123.0), (1.0, 1.0, 1.0), (-53.0, -17.0, 77.0)),
        # 0.299 · 200 + 0.587 · 100 + 0.114 · 51 = 124.3, rounded to a pixel
        ("grey", 1.0, (24.0,), (4.0,), (25.0,)),
    ],
)
def test_a_pixel_becomes_what_the_formula_says(
    tmp_path: Path,
    channels: Channels,
    scale: float,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    expected: tuple[float, ...],
) -> None:
    Image.new("RGB", (13, 17), (200, 100, 51)).save(tmp_path / "photo.png")
    array = load_photo(tmp_path / "photo.png", Preprocess(9, (5, 7), channels, scale, mean, std))
    assert array.dtype == np.float32
    assert array.shape == (len(expected), 5, 7)
    assert array.flags.c_contiguous
    for plane, value in zip(array, expected, strict=True):
        np.testing.assert_allclose(plane, value, rtol=1e-6)


@pytest.mark.parametrize("channels", ["rgb", "bgr", "grey"])
def test_where_the_model_normalises_a_photo_ends_as_its_pixels(
    tmp_path: Path, channels: Channels
) -> None:
    noise(22, 31).save(tmp_path / "photo.png")
    count = 1 if channels == "grey" else 3
    mean, std = (0.4, 0.5, 0.6)[:count], (0.2, 0.3, 0.25)[:count]
    outside = Preprocess(9, (5, 7), channels, 1 / 255, mean, std)
    inside = replace(outside, dtype="uint8")
    pixels = load_photos([tmp_path / "photo.png"] * 2, inside)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (2, count, 5, 7)
    assert pixels.flags.c_contiguous
    np.testing.assert_array_equal(
        normalised(pixels, outside), load_photos([tmp_path / "photo.png"] * 2, outside)
    )


@pytest.mark.parametrize("size", [(40, 61), (61, 40), (50, 50), (19, 227), (24, 24), (7, 9)])
@pytest.mark.parametrize(("resize", "crop"), [(24, (24, 24)), (24, (17, 20)), (33, (12, 31))])
def test_it_is_resizing_the_shorter_side_and_then_cropping_the_centre(
    size: tuple[int, int], resize: int, crop: tuple[int, int]
) -> None:
    image = noise(*size)
    width, height = image.size
    if width < height:
        scaled = image.resize((resize, int(resize * height / width)), Image.Resampling.BILINEAR)
    else:
        scaled = image.resize((int(resize * width / height), resize), Image.Resampling.BILINEAR)
    top = round((scaled.height - crop[0]) / 2)
    left = round((scaled.width - crop[1]) / 2)
    expected = pixels_of(scaled)[top : top + crop[0], left : left + crop[1]].astype(np.float32)
    found = to_input(image, plain(crop, resize)).transpose(1, 2, 0)
    np.testing.assert_array_equal(found, expected)


def test_without_resize_the_centre_is_cut_out_untouched() -> None:
    image = noise(21, 30)
    np.testing.assert_array_equal(
        to_input(image, plain((11, 14))), pixels_of(image)[5:16, 8:22].transpose(2, 0, 1)
    )
    with pytest.raises(ValueError, match="30×21 pixels, too few to cut 14×22 out"):
        to_input(image, plain((22, 14)))


def test_a_photo_that_is_too_small_to_cut_is_refused(tmp_path: Path) -> None:
    noise(21, 30).save(tmp_path / "small.png")
    with pytest.raises(
        PhotoError, match=r"small\.png: 30×21 pixels, too few to cut 14×22"
    ) as caught:
        load_photo(tmp_path / "small.png", plain((22, 14)))
    assert caught.value.code == "photo/size"


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1)])
def test_a_thin_strip_is_not_blown_up(tmp_path: Path, size: tuple[int, int]) -> None:
    noise(*size).save(tmp_path / "strip.png")
    with pytest.raises(PhotoError, match=r"strip\.png: .* would become .*15,360,000"):  # 12 GB
        load_photo(tmp_path / "strip.png", plain((227, 227), 256))


def test_several_photos_make_a_batch(tmp_path: Path) -> None:
    preprocess = plain((5, 7), 9)
    for index in range(3):
        noise(20 + index, 31, seed=index).save(tmp_path / f"{index}.png")
    paths = [tmp_path / f"{index}.png" for index in range(3)]
    batch = load_photos(paths, preprocess)
    assert batch.shape == (3, 3, 5, 7)
    for image, path in zip(batch, paths, strict=True):
        np.testing.assert_array_equal(image, load_photo(str(path), preprocess))
    assert load_photos([], preprocess).shape == (0, 3, 5, 7)


# ---- what files hold -----------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
def test_a_photo_is_turned_upright(tmp_path: Path, orientation: int, kind: str) -> None:
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :12] = 255  # one quarter is white, another grey: every turn gives another picture
    upright[:8, 12:] = 128
    # The turn that undoes what a viewer does for each value of the tag (EXIF 2.3, table 6).
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"photo.{kind}"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif, quality=95)
    found = np.asarray(read_photo(path), int)
    assert found.shape == upright.shape
    assert np.abs(found - upright).max() < 60


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_exif_data_does_not_spoil_a_good_photo(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    noise(16, 24).save(path, exif=b"Exif\0\0II*\0\xff\xff\xff\xff", quality=95)
    assert read_photo(path).size == (24, 16)


def test_greyscale_becomes_three_equal_channels(tmp_path: Path) -> None:
    for mode in ("L", "1"):
        noise(16, 24).convert(mode).save(tmp_path / "grey.png")
        red, green, blue = load_photo(tmp_path / "grey.png", plain((16, 24)))
        np.testing.assert_array_equal(red, green)
        np.testing.assert_array_equal(red, blue)
        np.testing.assert_array_equal(red, pixels_of(noise(16, 24).convert(mode).convert("L")))


def test_colour_becomes_grey_by_brightness(tmp_path: Path) -> None:
    noise(16, 24).save(tmp_path / "colour.png")
    (found,) = load_photo(tmp_path / "colour.png", plain((16, 24), channels="grey"))
    brightness = pixels_of(noise(16, 24)) @ np.array([0.299, 0.587, 0.114])
    assert np.abs(found - brightness).max() <= 0.51


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_shows_white(tmp_path: Path, mode: str) -> None:
    alpha = np.zeros((16, 24), np.uint8)
    alpha[:, 6:] = 128
    alpha[:, 12:] = 255
    black = Image.new("L", (24, 16), 0)
    if mode == "P":
        image = Image.frombytes("P", (24, 16), (alpha // 127).tobytes())
        image.putpalette([0, 0, 0] * 3)
        image.save(tmp_path / "clear.png", transparency=bytes([0, 128, 255]))
    else:
        bands = [black] * (3 if mode == "RGBA" else 1)
        image = Image.merge(mode, (*bands, Image.fromarray(alpha)))
        image.save(tmp_path / "clear.png")
    found = load_photo(tmp_path / "clear.png", plain((16, 24)))
    assert np.abs(found - (255 - alpha.astype(float))).max() <= 1


def test_a_colour_that_stands_for_transparency_shows_white(tmp_path: Path) -> None:
    image = noise(16, 24)
    image.paste((1, 2, 3), (0, 0, 12, 16))
    image.save(tmp_path / "keyed.png", transparency=(1, 2, 3))
    found = load_photo(tmp_path / "keyed.png", plain((16, 24)))
    assert (found[:, :, :12] == 255).all()
    np.testing.assert_array_equal(found[:, :, 12:], pixels_of(image)[:, 12:].transpose(2, 0, 1))


def test_a_palette_is_looked_up(tmp_path: Path) -> None:
    image = noise(16, 24).quantize(32)
    image.save(tmp_path / "palette.gif")
    with Image.open(tmp_path / "palette.gif") as stored:
        expected = pixels_of(stored.convert("RGB")).transpose(2, 0, 1)
    np.testing.assert_array_equal(load_photo(tmp_path / "palette.gif", plain((16, 24))), expected)


def test_print_colours_become_light(tmp_path: Path) -> None:
    # Cyan, magenta and yellow ink take red, green and blue away; black takes all.
    for ink, colour in (((255, 0, 0, 0), (0, 255, 255)), ((0, 0, 0, 255), (0, 0, 0))):
        Image.new("CMYK", (24, 16), ink).save(tmp_path / "print.jpg", quality=100)
        found = load_photo(tmp_path / "print.jpg", plain((16, 24))).mean(axis=(1, 2))
        np.testing.assert_allclose(found, colour, atol=3)


@pytest.mark.parametrize("kind", ["png", "tif", "pgm"])
def test_sixteen_bits_keep_their_brightness(tmp_path: Path, kind: str) -> None:
    wide = np.arange(16 * 24, dtype=np.uint16).reshape(16, 24) * 171
    Image.fromarray(wide).save(tmp_path / f"wide.{kind}")
    (red, _, blue) = load_photo(tmp_path / f"wide.{kind}", plain((16, 24)))
    np.testing.assert_array_equal(red, np.round(wide / 257))
    np.testing.assert_array_equal(red, blue)


def test_values_without_a_known_range_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((4, 5), np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(np.full((4, 5), 70_000, np.int32)).save(tmp_path / "integer.tif")
    for name in ("float.tif", "integer.tif"):
        with pytest.raises(PhotoError, match="no known range") as caught:
            read_photo(tmp_path / name)
        assert caught.value.code == "photo/values"


def test_of_several_pictures_the_first_is_taken(tmp_path: Path) -> None:
    more = [noise(16, 24, seed=9)]
    noise(16, 24).save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=more, quality=95)
    noise(16, 24).save(tmp_path / "b.png", save_all=True, append_images=more)
    for name in ("a.jpg", "b.png"):
        found = load_photo(tmp_path / name, plain((16, 24)))
        assert np.abs(found - pixels_of(noise(16, 24)).transpose(2, 0, 1)).mean() < 12


def test_names_may_be_in_any_script(tmp_path: Path) -> None:
    noise(16, 24).save(tmp_path / "照片 ñ.jpg")
    assert read_photo(tmp_path / "照片 ñ.jpg").size == (24, 16)


# ---- files that are no photos --------------------------------------------------------------------


def _png_header(width: int, height: int) -> bytes:
    """A PNG that says how large it is and holds no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def _jpeg() -> bytes:
    file = BytesIO()
    noise(60, 80).save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "photo/damaged"),
        (b"not a photo at all\n" * 100, "photo/not-a-photo"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "photo/not-a-photo"),
        (b"\xff\xd8\xff\xe0", "photo/not-a-photo"),
        (_jpeg()[:-900], "photo/damaged"),
        (_png_header(30, 20), "photo/damaged"),
        (_png_header(20_001, 5_000), "photo/too-large"),
        (_png_header(2**31 - 1, 2**31 - 1), "photo/too-large"),
    ],
)
def test_what_is_no_photo_is_refused(tmp_path: Path, content: bytes, code: str) -> None:
    (tmp_path / "photo.jpg").write_bytes(content)
    with pytest.raises(PhotoError) as caught:
        load_photo(tmp_path / "photo.jpg", plain((5, 7), 9))
    assert caught.value.code == code
    assert caught.value.message.startswith(str(tmp_path / "photo.jpg"))


def test_a_large_photo_is_refused_with_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MAX_PIXELS < 20_001 * 5_000
    (tmp_path / "huge.png").write_bytes(_png_header(20_001, 5_000))
    message = r"huge\.png has \S+ pixels; more than 100,000,000 are refused"
    with pytest.raises(PhotoError, match=message):
        read_photo(tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # Pillow's own limit
    with pytest.raises(PhotoError, match=r"has 20,001×5,000 pixels"):
        read_photo(tmp_path / "huge.png")


def test_paths_that_are_no_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PhotoMissingError, match=r"there is no file .*nowhere\.jpg"):
        read_photo(tmp_path / "nowhere.jpg")
    with pytest.raises(PhotoError, match="is not a file"):
        read_photo(tmp_path)
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(PhotoError, match="is not a file"):
        read_photo(tmp_path / "pipe.jpg")
    with pytest.raises(PhotoError):
        read_photo("nul\0byte.jpg")


def test_a_file_that_may_not_be_read_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise(16, 24).save(tmp_path / "photo.png")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(PhotoError, match="can't be read: Permission denied") as caught:
        read_photo(tmp_path / "photo.png")
    assert caught.value.code == "photo/unreadable"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"])
def test_damaged_files_end_in_an_array_or_an_error(tmp_path: Path, kind: str) -> None:
    file = BytesIO()
    noise(20, 30).save(file, kind)
    good = file.getvalue()
    chance = random.Random(kind)
    for _ in range(60):
        data = bytearray(good)
        for _ in range(chance.choice((1, 1, 4, 30))):
            data[chance.randrange(len(data))] = chance.randrange(256)
        if chance.random() < 0.3:
            del data[chance.randrange(len(data)) :]
        (tmp_path / "photo").write_bytes(data)
        try:
            array = load_photo(tmp_path / "photo", plain((5, 7), 9))
        except PhotoError:
            continue
        assert array.shape == (3, 5, 7)


def test_pillow_is_loaded_with_the_first_photo() -> None:
    script = "import sys, alexc_runtime; print('PIL' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout.strip() == b"False"
