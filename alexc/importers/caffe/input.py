"""The one input of a Caffe net: where it comes in, and whatever tells how large it is.

A net for use declares it. One for training reads a database, of whose images its data layer may say
the size; else the trained weights tell the channels, or a file beside it, which describes the same
net for use, tells all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alexc.diagnostics import AlexcError, Place
from alexc.importers import prototext
from alexc.importers.builder import Builder
from alexc.importers.caffe.data import DataSource, blob_array, declared_shape
from alexc.importers.caffe.files import Files
from alexc.importers.caffe.layer import CaffeLayer, layers_of
from alexc.importers.caffe.schema import SCHEMAS
from alexc.importers.caffe.wiring import Ref, Wired
from alexc.importers.proto import Message
from alexc.ops.base import Shape, format_shape
from alexc.spec.names import clip

# Files beside the one at hand that are looked into for the size of the input, and their size.
_MOST_NEIGHBOURS = 10
_LARGEST_NEIGHBOUR = 200_000


def input_of(
    builder: Builder,
    files: Files,
    asked: Shape | None,
    wired: Sequence[Wired],
    needed: set[int],
    source: DataSource | None,
) -> tuple[Shape, Ref]:
    """The shape of the one input that the net reads, `asked` or found, and where it comes from.

    Raises AlexcError, with the faults so far, if there is none or more than one, or if nothing
    tells its shape.
    """
    read: dict[Ref, CaffeLayer] = {}
    for index in sorted(needed):
        one = wired[index]
        for ref in one.reads:
            from_data = ref.layer < 0 or wired[ref.layer].layer.is_data
            if from_data and not one.layer.is_data:
                read.setdefault(ref, one.layer)
    if not read:
        builder.stop("import/no-input", "no layer of the net reads an input")
    if len(read) > 1:
        names = ", ".join(_name(files, wired, ref) for ref in read)
        builder.stop("import/inputs", f"the net reads several inputs ({names}), and a spec has one")
    ref, reader = next(iter(read.items()))
    if asked is not None:
        return asked, ref
    declared, place = _declared(files, wired, ref)
    if declared is None:
        assert ref.layer >= 0
        return _size_of_data(builder, files, wired[ref.layer].layer, reader, source), ref
    if len(declared) != 4 or min(declared[1:]) < 1:
        builder.stop(
            "import/not-an-image",
            f"the input is {'×'.join(map(str, declared))}, and a spec's is batch×channels×"
            "height×width",
            place,
            help="--input CHANNELS,HEIGHT,WIDTH says what it is",
        )
    return declared[1:], ref


def _name(files: Files, wired: Sequence[Wired], ref: Ref) -> str:
    if ref.layer < 0:
        return clip(files.net.texts("input")[ref.top])
    return clip(wired[ref.layer].layer.tops[ref.top])


def _declared(
    files: Files, wired: Sequence[Wired], ref: Ref
) -> tuple[tuple[int, ...] | None, Place | None]:
    if ref.layer >= 0:
        layer = wired[ref.layer].layer
        return declared_shape(layer, ref.top), layer.place
    shapes = files.net.messages("input_shape")
    if shapes:
        chosen = shapes[min(ref.top, len(shapes) - 1)]
        return tuple(chosen.integers("dim")), chosen.place
    every = files.net.integers("input_dim")
    return tuple(every[4 * ref.top : 4 * ref.top + 4]), files.net.place_of("input_dim")


def _size_of_data(
    builder: Builder, files: Files, layer: CaffeLayer, reader: CaffeLayer, source: DataSource | None
) -> Shape:
    """The input of a net that reads a database, from whatever tells it."""
    image = source.image if source is not None else None
    channels = source.channels if source is not None else None
    if channels is None:
        channels = _channels_of_weights(files, reader)
    if image is not None and channels is not None:
        return (channels, *image)
    if (found := _neighbour(files)) is not None:
        file, shape = found
        if image in (None, shape[1:]):
            builder.notes.append(
                f"The size of the input is that of {file.name}, which describes the same net."
            )
            builder.warn(
                "import/assumed-input",
                f"the input is taken to be {format_shape(shape)}, as in {file.name}, which has "
                "the same layers",
                layer.place,
                help="--input CHANNELS,HEIGHT,WIDTH says otherwise",
            )
            return shape
    if image is None:
        builder.stop(
            "import/input-size",
            f"{layer.origin} reads images from elsewhere, and the file doesn't say their size",
            layer.place,
            help="--input CHANNELS,HEIGHT,WIDTH says it",
        )
    builder.warn(
        "import/assumed-input",
        f"{layer.origin} doesn't say how many channels its images have: 3 are assumed",
        layer.place,
        help="--input CHANNELS,HEIGHT,WIDTH says otherwise",
    )
    return (3, *image)


def _channels_of_weights(files: Files, reader: CaffeLayer) -> int | None:
    """What the trained weights of the first convolution tell of its input."""
    if reader.type != "Convolution":
        return None
    for layer in files.trained:
        blobs = layer.message.messages("blobs")
        if layer.name == reader.name and blobs:
            shape = blob_array(blobs[0], str(files.paths[-1])).shape
            groups = reader.message.message("convolution_param").integer("group", 1)
            if len(shape) == 4 and shape[1] > 0 and groups > 0:
                return int(shape[1]) * groups
    return None


def _neighbour(files: Files) -> tuple[Path, Shape] | None:
    """A file beside this one that describes the same net and declares its input."""
    own = files.net_file
    mine = _fingerprint(files.layers)
    found: list[tuple[Path, Shape]] = []
    for file in sorted(own.parent.glob("*.prototxt"))[:_MOST_NEIGHBOURS]:
        try:
            if file.stat().st_size > _LARGEST_NEIGHBOUR or file.samefile(own):
                continue
            net = prototext.read(file, SCHEMAS["File"], SCHEMAS)
        except (AlexcError, OSError):
            continue
        layers = layers_of(net)
        shape = _stated_input(net, layers)
        if shape is not None and _fingerprint(layers) == mine:
            found.append((file, shape))
    return found[0] if len({shape for _, shape in found}) == 1 else None


def _fingerprint(layers: Sequence[CaffeLayer]) -> tuple[tuple[str, str], ...]:
    """The layers with weights by name and type: the same in all files of one net."""
    return tuple((layer.name, layer.type) for layer in layers if layer.may_have_weights)


def _stated_input(net: Message, layers: Sequence[CaffeLayer]) -> Shape | None:
    """The (channels, height, width) that a file for use, not for training, declares."""
    dims: Sequence[int] = net.integers("input_dim")
    if shapes := net.messages("input_shape"):
        dims = shapes[0].integers("dim")
    for layer in layers:
        if layer.type == "Input":
            dims = declared_shape(layer, 0) or ()
            break
    if len(dims) != 4 or min(dims) < 1:
        return None
    return (dims[1], dims[2], dims[3])
