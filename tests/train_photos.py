"""Class folders of photographs that the tests of data sets make: plain colours in many formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from alexc.train.data.dataset import Dataset, ImageForm
from alexc.train.data.uri import Split, open_data

COLOURS = {"ant": (200, 10, 10), "bee": (10, 200, 10), "cat": (10, 10, 200)}
PHOTO = ImageForm(3, (24, 20), 4)


def make_photos(folder: Path, count: int = 11) -> Path:
    """A folder for each of three classes, in all the kinds of files that are found in the wild."""
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            size = (30 + number, 26 + 2 * number)
            path = folder / name / f"{number:02}.png"
            picture = Image.new("RGB", size, colour)
            match number % 4:
                case 1:
                    picture.save(path.with_suffix(".jpg"), quality=95)
                case 2:
                    picture.convert("RGBA").save(path)
                case 3 if name == "ant":
                    picture.convert("CMYK").save(path.with_suffix(".jpg"), quality=95)
                case _:
                    picture.save(path)
    return folder


def opened(uri: str, split: Split, form: ImageForm = PHOTO) -> Dataset:
    return open_data(uri, split, form)


def colours_are_those_of_the_labels(data: Dataset) -> None:
    """Every image has the colour of its class, as nearly as JPEG keeps it."""
    images, labels = data.read(np.arange(len(data)))
    wanted = np.array(list(COLOURS.values()))[labels]
    np.testing.assert_allclose(images.mean(axis=(1, 2)), wanted, atol=6, err_msg=data.name)
