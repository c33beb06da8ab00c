"""Caffe's data layers: the size of the input, and how a photograph becomes it.

Caffe subtracts the mean and then scales, (x − mean) · scale; the spec language scales first,
x · scale − mean, so the mean is written scaled. Colour images are blue, green, red. A mean image
(`mean_file`) is written as its average in each channel, which is what Caffe's own classifier makes
of it; the spec language has no mean image, and a warning says by how much pixels differ from it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from alexc.diagnostics import AlexcError, Place, fault
from alexc.importers.builder import Builder
from alexc.importers.caffe.layer import CaffeLayer
from alexc.importers.caffe.schema import SCHEMAS
from alexc.importers.proto import Message, shortest
from alexc.importers.wire import Mapped
from alexc.importers.wire import read as read_wire
from alexc.ops.base import Shape, format_shape
from alexc.spec.model import Preprocess
from alexc.spec.names import clip

# Caffe's classifier scales photographs to this size before it takes the centre.
_CLASSIFIER_SIZE = 256
# A mean of more numbers than this is no mean image.
_MAX_NPY_HEADER = 10_000
_NPY_HEADER = re.compile(
    rb"\{'descr': '(?P<dtype>[<|](?:f[248]|[iu][1248]))', 'fortran_order': False, "
    rb"'shape': \((?P<shape>[0-9]{1,9}(?:, ?[0-9]{1,9}){0,8}),?\),? *\}"
)
_MAX_MEAN = 4 * 4096 * 4096


@dataclass(frozen=True, slots=True)
class DataSource:
    """What one data layer says of its images; None and empty where it says nothing."""

    layer: CaffeLayer
    scale: float
    means: tuple[float, ...]
    mean_file: str
    crop: int
    mirror: bool
    channels: int | None
    size: tuple[int, int] | None  # of the images before they are cropped
    batch: int
    path: str  # of the database or the list of images
    place: Place | None
    unknown: tuple[tuple[str, Place | None], ...]

    @property
    def image(self) -> tuple[int, int] | None:
        """Height and width of what the net gets."""
        return (self.crop, self.crop) if self.crop else self.size

    @property
    def says_something(self) -> bool:
        """Whether it prepares the images in any way."""
        return bool(self.scale != 1 or self.means or self.mean_file or self.crop or self.mirror)


def data_source(layer: CaffeLayer) -> DataSource:
    """What a data layer says, in its transform_param or, as old files do, in its own fields."""
    transform = layer.message.message("transform_param")
    kinds = {"ImageData": "image_data_param", "WindowData": "window_data_param"}
    own = layer.message.message(kinds.get(layer.type, "data_param"))

    def place(name: str) -> Message:
        return transform if transform.has(name) else own

    channels: int | None = None
    means = tuple(transform.numbers("mean_value"))
    if transform.flag("force_gray"):
        channels = 1
    elif layer.type == "ImageData":
        channels = 3 if own.flag("is_color", True) else 1
    elif transform.flag("force_color"):
        channels = 3
    elif len(means) > 1:
        channels = len(means)
    height, width = own.integer("new_height"), own.integer("new_width")
    return DataSource(
        layer,
        place("scale").number("scale", 1.0),
        means,
        place("mean_file").text("mean_file"),
        max(0, place("crop_size").integer("crop_size")),
        place("mirror").flag("mirror"),
        channels,
        (height, width) if height > 0 and width > 0 else None,
        own.integer("batch_size"),
        own.text("source"),
        transform.place if transform.values else layer.place,
        tuple(
            (name, transform.document.place(offset, len(name)))
            for name, offset in transform.unknown
        ),
    )


def declared_shape(layer: CaffeLayer, position: int) -> tuple[int, ...] | None:
    """The shape, with the batch, that a layer of its own states for one of its tops."""
    message = layer.message
    if layer.type == "Input":
        shapes = message.message("input_param").messages("shape")
        chosen = shapes[min(position, len(shapes) - 1)] if shapes else None
        return tuple(chosen.integers("dim")) if chosen is not None else None
    if layer.type == "DummyData":
        return _dummy_shape(message.message("dummy_data_param"), position)
    if layer.type == "MemoryData":
        own = message.message("memory_data_param")
        names = ("batch_size", "channels", "height", "width")
        return tuple(own.integer(name) for name in names) if position == 0 else None
    return None


def _dummy_shape(own: Message, position: int) -> tuple[int, ...] | None:
    shapes = own.messages("shape")
    if shapes:
        return tuple(shapes[min(position, len(shapes) - 1)].integers("dim"))
    columns = [own.integers(name) for name in ("num", "channels", "height", "width")]
    if not all(columns):
        return None
    return tuple(values[min(position, len(values) - 1)] for values in columns)


# ---- preprocessing -------------------------------------------------------------------------------


def preprocess(
    builder: Builder, source: DataSource | None, shape: Shape, mean: str | None, folder: Path
) -> dict[str, Any] | None:
    """The spec's `preprocess` for an input of this shape.

    `mean` is the user's own word (numbers, or a file), which goes before the data layer's;
    `folder` is where files that the data layer names are looked for.
    """
    channels = {1: "grey", 3: "bgr"}.get(shape[0])
    if channels is None:
        if source is not None and source.says_something:
            message = f"preprocessing of {shape[0]} channels can't be said, and is left out"
            builder.warn("import/preprocess", message, source.place)
        return None
    described: dict[str, Any] = {}
    scale = source.scale if source is not None else 1.0
    for name, place in source.unknown if source is not None else ():
        builder.warn("import/preprocess", f"{name} is not known, and is left out", place)
    values, size = _mean(builder, source, shape, mean, folder)
    described["resize"] = _resize(source, shape, size)
    described["channels"] = channels
    if scale != 1:
        described["scale"] = scale
    if values is not None:
        described["mean"] = [_plain(value * scale) for value in values]
    try:
        Preprocess.model_validate(described)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        name = ".".join(str(step) for step in detail["loc"][:1])
        place = source.place if source is not None else None
        message = f"preprocessing: {name} is {clip(str(detail['input']))}: {detail['msg']}"
        builder.fault("import/value", message, place)
    return described


def _resize(source: DataSource | None, shape: Shape, mean_size: tuple[int, int] | None) -> int:
    """The shorter side that photographs are scaled to before the centre is taken."""
    shorter = min(shape[1:])
    if source is not None and source.size is not None:
        return max(shorter, min(source.size))
    if source is not None and not source.crop:
        return max(shape[1:])  # the images of its database have the input's own size
    if mean_size is not None:
        return max(*shape[1:], *mean_size)
    return _CLASSIFIER_SIZE if 200 <= max(shape[1:]) <= _CLASSIFIER_SIZE else max(shape[1:])


def _mean(
    builder: Builder, source: DataSource | None, shape: Shape, given: str | None, folder: Path
) -> tuple[list[float] | None, tuple[int, int] | None]:
    """The mean of each channel, if there is one, and the size of the image it was taken from."""
    if given is not None:
        if (values := numbers(given)) is not None:
            return _per_channel(builder, values, shape), None
        return _mean_image(builder, Path(given), shape)
    if source is None:
        if shape[0] == 3:
            builder.warn(
                "import/no-mean",
                "the file doesn't say how photographs are prepared, so `preprocess` has no mean",
                help="give it with --mean FILE, or as --mean BLUE,GREEN,RED",
            )
        return None, None
    if source.means:
        return _per_channel(builder, source.means, shape), None
    if not source.mean_file:
        return None, None
    file = beside(folder, source.mean_file)
    if file is None:
        builder.warn(
            "import/no-mean",
            f"the mean image {source.mean_file} is not here, so `preprocess` has no mean",
            source.place,
            help="give it with --mean FILE, or its average as --mean BLUE,GREEN,RED",
        )
        builder.notes.append(
            f"The mean image {source.mean_file}, which the net was trained with, was not at hand: "
            "preprocess lacks a mean."
        )
        return None, None
    return _mean_image(builder, file, shape)


def _per_channel(builder: Builder, values: Sequence[float], shape: Shape) -> list[float] | None:
    if len(values) == 1:
        return [values[0]] * shape[0]
    if len(values) != shape[0]:
        message = f"a mean of {len(values)} values is given for {shape[0]} channels"
        builder.fault("import/mean", message)
        return None
    return list(values)


def _mean_image(
    builder: Builder, file: Path, shape: Shape
) -> tuple[list[float] | None, tuple[int, int] | None]:
    """The average of a mean image by channel, with a warning where pixels differ from it."""
    image = read_mean(file)
    if image.shape[0] != shape[0]:
        message = f"the mean image {file} has {image.shape[0]} channels, and the input {shape[0]}"
        builder.fault("import/mean", message)
        return None, None
    averages = image.mean(axis=(1, 2), dtype=np.float64)
    if not np.isfinite(averages).all():
        builder.fault("import/mean", f"the mean image {file} holds values that are not finite")
        return None, None
    furthest = float(np.abs(image - averages[:, np.newaxis, np.newaxis]).max())
    if furthest > 0.5:
        builder.warn(
            "import/mean-image",
            f"the mean image {file.name} is written as its average in each channel; its pixels "
            f"differ from that by up to {furthest:.3g}",
            help="Caffe's own classifier takes the average too",
        )
    size = (image.shape[1], image.shape[2])
    return [float(value) for value in averages], size if min(size) > 1 else None


def read_mean(file: Path) -> NDArray[np.float32]:
    """A mean image as (channels, height, width), from a binaryproto or a `.npy` file.

    Raises AlexcError if the file holds none.
    """
    image = _read_npy(file) if file.suffix == ".npy" else _read_binaryproto(file)
    while image.ndim > 3 and image.shape[0] == 1:
        image = image[0]
    if image.ndim == 1:
        image = image[:, np.newaxis, np.newaxis]
    if image.ndim != 3 or not 0 < image.size <= _MAX_MEAN:
        raise _no_mean(file, f"it holds {format_shape(image.shape)} numbers")
    return image.astype(np.float32)


def _read_binaryproto(file: Path) -> NDArray[Any]:
    return blob_array(read_wire(Mapped(file), SCHEMAS["Blob"], SCHEMAS), str(file))


def _read_npy(file: Path) -> NDArray[Any]:
    """The array of a `.npy` file: a mark, the header's length, a Python dictionary, the numbers.

    numpy's own reader lets a dozen kinds of exception out on files that are damaged.
    """
    data = Mapped(file).bytes
    start = bytes(data[:12])
    if start[:6] != b"\x93NUMPY" or len(start) < 12:
        raise _no_mean(file, "it does not begin as a .npy file does")
    first = 10 if start[6] == 1 else 12
    length = int.from_bytes(start[8:first], "little")
    header = bytes(data[first : first + min(length, _MAX_NPY_HEADER)])
    match = _NPY_HEADER.search(header)
    if match is None or length > _MAX_NPY_HEADER:
        raise _no_mean(file, "its header is not that of an array of numbers in C order")
    dtype = np.dtype(match["dtype"].decode())
    shape = tuple(int(part) for part in match["shape"].split(b","))
    values = data[first + length :]
    count = 1
    for size in shape:
        count *= size
    if count * dtype.itemsize != len(values):
        raise _no_mean(file, f"it has {len(values):,} bytes for {format_shape(shape)} numbers")
    return np.frombuffer(values, dtype, count).reshape(shape)


def _no_mean(file: Path, why: str) -> AlexcError:
    return fault("import/mean", f"{file} holds no mean image (channels, height, width): {why}")


def blob_array(blob: Message, shown_as: str) -> NDArray[Any]:
    """The numbers of one blob in its own shape. Raises AlexcError if they don't fill it."""
    array = blob.array("data")
    if not array.size and blob.has("double_data"):
        array = blob.array("double_data", "<f8")
    if blob.has("shape"):
        shape = blob.message("shape").integers("dim")
    elif any(blob.has(name) for name in ("num", "channels", "height", "width")):
        shape = [blob.integer(name) for name in ("num", "channels", "height", "width")]
    else:
        shape = [array.size]
    count = 1
    for length in shape:
        count *= length
    if count != array.size or any(length < 0 for length in shape) or len(shape) > 32:
        sizes = "×".join(map(str, shape[:8])) or "scalar"
        raise fault(
            "import/damaged",
            f"{shown_as}: a blob of {sizes} numbers comes with {array.size:,} of them",
        )
    return array.reshape(shape)


def numbers(text: str) -> list[float] | None:
    """`104,117,123` as numbers, or None if that is not what it is."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        return None
    return values if all(np.isfinite(value) for value in values) else None


def beside(folder: Path, named: str) -> Path | None:
    """The file of this name at or below a folder, or None.

    Caffe's files name others from wherever Caffe was started, so every tail of the path is tried:
    for `examples/mnist/net.prototxt` that path, `mnist/net.prototxt` and `net.prototxt`. What lies
    outside of the folder is never read: a net must not tell which of the user's files to open.
    """
    return next((file for file in _candidates(folder, named) if file.is_file()), None)


def _candidates(folder: Path, named: str) -> Iterator[Path]:
    parts = [part for part in PurePosixPath(named.replace("\\", "/")).parts if part != "/"]
    if not parts or ".." in parts or len(named) > 1000 or "\0" in named:
        return
    for first in range(len(parts)):
        yield folder.joinpath(*parts[first:])


def _plain(value: float) -> float:
    if not np.isfinite(value):
        return value
    short = shortest(value)
    return int(short) if short.is_integer() and abs(short) < 1e6 else short
