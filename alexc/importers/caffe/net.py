"""A prototxt or caffemodel, with or without trained weights → a ForeignNet.

The net is read as Caffe runs it to classify: phase TEST, level 0, no stages. Its layers are wired
first (in-place layers make new versions of a blob), so that only those that lead to the outputs
are translated. Data layers become the input and its preprocessing, losses and accuracies are left
out, and what a solver says of training becomes notes for the reader of the spec.

The outputs are what no layer reads, or the one layer that `--partial` names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from alexc.diagnostics import AlexcError, Diagnostic, Place
from alexc.importers import prototext
from alexc.importers.caffe.data import (
    DataSource,
    beside,
    blob_array,
    data_source,
    declared_shape,
    preprocess,
)
from alexc.importers.caffe.layer import CaffeLayer, Phase, layers_of
from alexc.importers.caffe.operations import OPERATIONS, Blobs, Step
from alexc.importers.caffe.schema import SCHEMAS
from alexc.importers.caffe.solver import is_solver, recipe, training_notes
from alexc.importers.caffe.wiring import MOST_GUESSES, Ref, Wired, scales_of, wanted, wire
from alexc.importers.foreign import MAX_LAYERS, Builder, ForeignNet, Request, Value
from alexc.importers.proto import Message
from alexc.importers.wire import Mapped
from alexc.importers.wire import read as read_wire
from alexc.ops.base import Shape, format_shape
from alexc.spec.names import Names, clip

_WEIGHTED = ("Convolution", "InnerProduct", "BatchNorm", "Scale")
# Files beside the one at hand that are looked into for the size of the input, and their size.
_MOST_NEIGHBOURS = 10
_LARGEST_NEIGHBOUR = 200_000


def read_caffe(path: Path, request: Request) -> ForeignNet:
    """The net of a prototxt (a net's or a solver's) or of a caffemodel alone.

    Raises UsageError for a file that can't be read, AlexcError with everything in it that can't be
    said in a spec.
    """
    return _Reader(path, request).read()


class _Reader:
    def __init__(self, path: Path, request: Request) -> None:
        self.path = path
        self.request = request
        self.builder = Builder("Caffe", path)
        self.files = [path]
        self.net_file = path
        self.solver: Message | None = None
        self.mapped: Mapped | None = None
        self.net = self._load(path)
        self.every_layer = layers_of(self.net)
        self.trained = self._load_trained()

    # ---- files -----------------------------------------------------------------------------------

    def _load(self, path: Path) -> Message:
        """The net of a file: its own, or the one that a solver names."""
        if _is_binary(path):
            self.mapped = Mapped(path)
            return read_wire(self.mapped, SCHEMAS["Net"], SCHEMAS)
        file = prototext.read(path, SCHEMAS["File"], SCHEMAS)
        if not is_solver(file):
            return file
        self.solver = file
        for name in ("net_param", "train_net_param"):
            if file.has(name):
                return file.message(name)
        field = "net" if file.has("net") else "train_net"
        named = file.text(field)
        found = beside(path.parent, named) if named else None
        if found is None or found.resolve() == path.resolve():
            self.builder.stop(
                "import/solver-net",
                f"the solver names the net {clip(named, 200)!r}, which is not beside it"
                if named
                else "the solver names no net",
                file.place_of(field),
                help="import the net's own file, or put it beside the solver",
            )
        self.files.append(found)
        self.net_file = found
        net = prototext.read(found, SCHEMAS["File"], SCHEMAS)
        if is_solver(net):
            self.builder.stop("import/solver-net", f"{found} is a solver too", file.place_of(field))
        return net

    def _load_trained(self) -> list[CaffeLayer]:
        """The layers of the file that holds the weights; none where the import is without."""
        if self.request.weights is None:
            return self.every_layer if self.mapped is not None else []
        self.mapped = Mapped(self.request.weights)
        if bytes(self.mapped.bytes[:4]) == b"\x89HDF":
            raise AlexcError(
                Diagnostic(
                    "import/hdf5",
                    f"{self.request.weights} is an HDF5 file, and only binary protos are read",
                    help="Caffe writes them with snapshot_format: BINARYPROTO",
                )
            )
        self.files.append(self.request.weights)
        trained = layers_of(read_wire(self.mapped, SCHEMAS["Net"], SCHEMAS))
        if not trained:
            raise AlexcError(
                Diagnostic(
                    "import/damaged",
                    f"{self.request.weights} holds no layers, so it is no caffemodel of a net",
                )
            )
        return trained

    # ---- the way through the net -----------------------------------------------------------------

    def read(self) -> ForeignNet:
        self._check_net()
        phase = self._phase()
        layers = [layer for layer in self.every_layer if layer.in_phase(phase)]
        wired = wire(self.builder, self.net.texts("input"), layers)
        needed, ends = wanted(self.builder, wired, self.request.partial)
        source = self._source(layers)
        shape, input_ref = self._input(wired, needed, source)
        self.builder.check()
        blobs = self._blobs(wired, needed)
        outputs = self._translate(wired, needed, ends, input_ref, shape, blobs)
        folder = self.net_file.parent
        described = preprocess(self.builder, source, shape, self.request.mean, folder)
        for layer in self.every_layer:
            if not layer.in_phase(phase):
                self.builder.left_out(layer.origin, f"not in phase {phase}")
        training = self._training_source()
        self.builder.notes += training_notes(self.solver, self.every_layer, training)
        return self.builder.finish(
            self.net.text("name") or None,
            self.files,
            outputs,
            preprocess=described,
            train=self._recipe(training),
            release=self.mapped.release if self.mapped is not None else lambda: None,
        )

    def _check_net(self) -> None:
        """What must hold before the layers are looked at."""
        builder = self.builder
        for name, offset in self.net.unknown:
            place = self.net.document.place(offset, len(name))
            builder.fault("import/unknown-field", f"a Caffe net has no field {name}", place)
        for layer in self.every_layer:
            if layer.is_old and layer.message.has("layer"):
                builder.stop(
                    "import/too-old",
                    "this is the syntax that Caffe gave up in 2013",
                    layer.place,
                    help="Caffe's upgrade_net_proto_text (or …_binary) writes it anew",
                )
        if self.net.has("layers") and self.net.has("layer"):
            builder.stop("import/two-syntaxes", "it writes layers in the old and in the new syntax")
        if not self.every_layer:
            builder.stop("import/empty", "it holds no layers, so it is no Caffe net")
        if len(self.every_layer) > MAX_LAYERS:
            builder.stop("import/too-many-layers", f"it holds more than {MAX_LAYERS:,} layers")

    def _phase(self) -> Phase:
        """TEST, as a net is used; TRAIN where only that phase has anything to read."""

        def has_input(phase: Phase) -> bool:
            return any(layer.is_data and layer.in_phase(phase) for layer in self.every_layer)

        only_training = has_input("TRAIN") and not has_input("TEST") and not self.net.has("input")
        return "TRAIN" if only_training else "TEST"

    # ---- the input -------------------------------------------------------------------------------

    def _source(self, layers: Sequence[CaffeLayer]) -> DataSource | None:
        """The data layer that says how images are prepared: this net's, or the trained one's."""
        every: list[DataSource] = []
        for candidates in (layers, self.every_layer, self.trained):
            every += [data_source(layer) for layer in candidates if layer.reads_images]
        told = (source for source in every if source.says_something or source.size is not None)
        return next(told, every[0] if every else None)

    def _training_source(self) -> DataSource | None:
        for layer in [*self.every_layer, *self.trained]:
            if layer.is_data and layer.in_phase("TRAIN"):
                source = data_source(layer)
                if source.says_something:
                    return source
        return None

    def _recipe(self, source: DataSource | None) -> dict[str, Any] | None:
        """The spec's `train`, where a solver says enough for one."""
        if self.solver is None:
            return None
        found = recipe(self.solver, self.every_layer, source)
        if isinstance(found, str):
            self.builder.notes.append(f"There is no `train` here, since {found}.")
            return None
        return found

    def _input(
        self, wired: Sequence[Wired], needed: set[int], source: DataSource | None
    ) -> tuple[Shape, Ref]:
        """The shape of the one input that the net reads, and where it comes from."""
        read: dict[Ref, CaffeLayer] = {}
        for index in sorted(needed):
            one = wired[index]
            for ref in one.reads:
                from_data = ref.layer < 0 or wired[ref.layer].layer.is_data
                if from_data and not one.layer.is_data:
                    read.setdefault(ref, one.layer)
        if not read:
            self.builder.stop("import/no-input", "no layer of the net reads an input")
        if len(read) > 1:
            names = ", ".join(self._name(wired, ref) for ref in read)
            self.builder.stop(
                "import/inputs", f"the net reads several inputs ({names}), and a spec has one"
            )
        ref, reader = next(iter(read.items()))
        if self.request.input_shape is not None:
            return self.request.input_shape, ref
        declared, place = self._declared(wired, ref)
        if declared is None:
            assert ref.layer >= 0
            return self._size_of_data(wired[ref.layer].layer, reader, source), ref
        if len(declared) != 4 or min(declared[1:]) < 1:
            self.builder.stop(
                "import/not-an-image",
                f"the input is {'×'.join(map(str, declared))}, and a spec's is batch×channels×"
                "height×width",
                place,
                help="--input CHANNELS,HEIGHT,WIDTH says what it is",
            )
        return declared[1:], ref

    def _name(self, wired: Sequence[Wired], ref: Ref) -> str:
        if ref.layer < 0:
            return clip(self.net.texts("input")[ref.top])
        return clip(wired[ref.layer].layer.tops[ref.top])

    def _declared(
        self, wired: Sequence[Wired], ref: Ref
    ) -> tuple[tuple[int, ...] | None, Place | None]:
        if ref.layer >= 0:
            layer = wired[ref.layer].layer
            return declared_shape(layer, ref.top), layer.place
        shapes = self.net.messages("input_shape")
        if shapes:
            chosen = shapes[min(ref.top, len(shapes) - 1)]
            return tuple(chosen.integers("dim")), chosen.place
        every = self.net.integers("input_dim")
        return tuple(every[4 * ref.top : 4 * ref.top + 4]), self.net.place_of("input_dim")

    def _size_of_data(
        self, layer: CaffeLayer, reader: CaffeLayer, source: DataSource | None
    ) -> Shape:
        """The input of a net that reads a database, from whatever tells it."""
        image = source.image if source is not None else None
        channels = source.channels if source is not None else None
        if channels is None:
            channels = self._channels_of_weights(reader)
        if image is not None and channels is not None:
            return (channels, *image)
        if (found := self._neighbour()) is not None:
            file, shape = found
            if image in (None, shape[1:]):
                self.builder.notes.append(
                    f"The size of the input is that of {file.name}, which describes the same net."
                )
                self.builder.warn(
                    "import/assumed-input",
                    f"the input is taken to be {format_shape(shape)}, as in {file.name}, which has "
                    "the same layers",
                    layer.place,
                    help="--input CHANNELS,HEIGHT,WIDTH says otherwise",
                )
                return shape
        if image is None:
            self.builder.stop(
                "import/input-size",
                f"{layer.origin} reads images from elsewhere, and the file doesn't say their size",
                layer.place,
                help="--input CHANNELS,HEIGHT,WIDTH says it",
            )
        self.builder.warn(
            "import/assumed-input",
            f"{layer.origin} doesn't say how many channels its images have: 3 are assumed",
            layer.place,
            help="--input CHANNELS,HEIGHT,WIDTH says otherwise",
        )
        return (3, *image)

    def _channels_of_weights(self, reader: CaffeLayer) -> int | None:
        """What the trained weights of the first convolution tell of its input."""
        if reader.type != "Convolution":
            return None
        for layer in self.trained:
            blobs = layer.message.messages("blobs")
            if layer.name == reader.name and blobs:
                shape = blob_array(blobs[0], str(self.files[-1])).shape
                groups = reader.message.message("convolution_param").integer("group", 1)
                if len(shape) == 4 and shape[1] > 0 and groups > 0:
                    return int(shape[1]) * groups
        return None

    def _neighbour(self) -> tuple[Path, Shape] | None:
        """A file beside this one that describes the same net and declares its input."""
        own = self.net_file
        mine = _fingerprint(self.every_layer)
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

    # ---- weights ---------------------------------------------------------------------------------

    def _blobs(self, wired: Sequence[Wired], needed: Iterable[int]) -> dict[str, Blobs] | None:
        """The trained weights by the names of their layers, None where there are none."""
        if not self.trained:
            return None
        shown = str(self.request.weights or self.path)
        names = {wired[i].layer.name for i in needed if wired[i].layer.type in _WEIGHTED}
        found: dict[str, list[NDArray[Any]]] = {}
        left: list[str] = []
        for layer in self.trained:
            messages = layer.message.messages("blobs")
            if not messages:
                continue
            if layer.name not in names:
                left.append(layer.name)
                continue
            if layer.name in found:
                self.builder.fault(
                    "import/two-weights",
                    f"{shown} holds weights for two layers of the name {clip(layer.name)}",
                )
            found[layer.name] = [blob_array(message, shown) for message in messages]
        if not found and self.request.weights is None:
            return None  # a net in binary form that was never trained
        known = Names(name for name in left[:2_000] if len(name) <= 64)
        for name in sorted(names - found.keys())[:MOST_GUESSES]:
            if (close := known.nearest(name)) is not None:
                self.builder.hints[name] = f"there are weights for {clip(close)}"
        if left and self.request.partial is None:
            shown_names = ", ".join(map(clip, left[:10])) + (", …" if len(left) > 10 else "")
            self.builder.warn(
                "import/unused-weights",
                f"{shown} holds weights for layers that the net doesn't have: {shown_names}",
            )
        return dict(found)

    # ---- translation -----------------------------------------------------------------------------

    def _translate(
        self,
        wired: Sequence[Wired],
        needed: set[int],
        ends: Sequence[Ref],
        input_ref: Ref,
        shape: Shape,
        blobs: Mapping[str, Blobs] | None,
    ) -> list[Value | None]:
        """Add every wanted layer to the net; the values of its outputs."""
        self._refuse_unknown(wired, needed)
        values: dict[Ref, Value | None] = {input_ref: self.builder.input(shape)}
        scales = scales_of(wired, needed)
        merged = {scale: norm for norm, scale in scales.items()}
        for index, one in enumerate(wired):
            layer = one.layer
            if index not in needed or layer.is_data:
                self.builder.left_out(layer.origin, self._why_left_out(layer, index in needed))
                continue
            if index in merged:
                values[Ref(index, 0)] = values.get(Ref(merged[index], 0))
                continue
            inputs = [values.get(ref) for ref in one.reads]
            operation = OPERATIONS.get(layer.type)
            if operation is None:
                continue
            self._check_fields(layer)
            scale = wired[scales[index]].layer if index in scales else None
            value = operation(
                Step(
                    self.builder,
                    layer,
                    inputs,
                    None if blobs is None else blobs.get(layer.name, ()),
                    scale,
                    None if blobs is None or scale is None else blobs.get(scale.name, ()),
                )
            )
            for position in range(len(layer.tops)):
                values[Ref(index, position)] = value
        return [values.get(end) for end in ends]

    def _check_fields(self, layer: CaffeLayer) -> None:
        """A fault for every field that no layer of Caffe has."""
        for name, offset in layer.message.unknown:
            self.builder.fault(
                "import/unknown-field",
                f"{layer.origin}: a Caffe layer has no field {clip(name)}",
                layer.message.document.place(offset, len(name)),
                help="a fork of Caffe may give it a meaning, which is not known here",
            )

    def _why_left_out(self, layer: CaffeLayer, needed: bool) -> str:
        if layer.is_data:
            return "the input"
        if layer.is_for_training:
            return "measures only"
        if self.request.partial is not None and not needed:
            return f"not needed for {clip(self.request.partial)}"
        return "part of training only"

    def _refuse_unknown(self, wired: Sequence[Wired], needed: set[int]) -> None:
        """A fault for every layer of a type that the language doesn't have."""
        refused = [
            index
            for index in sorted(needed)
            if wired[index].layer.type not in OPERATIONS and not wired[index].layer.is_data
        ]
        for position, index in enumerate(refused):
            layer = wired[index].layer
            message = f"{layer.origin}: a spec can't say Caffe's {clip(layer.type) or 'no type'}"
            if layer.type == "Python":
                message = f"{layer.origin}: a Python layer is code of its own, which isn't run here"
            help = None
            if position == 0 and self.request.partial is None:
                before = [
                    wired[i].layer.name
                    for i in range(index)
                    if i in needed and wired[i].layer.type in OPERATIONS
                ]
                if before:
                    help = f"--partial {clip(before[-1])} imports the net up to there"
            self.builder.fault("import/unsupported-layer", message, layer.place, help=help)


def _is_binary(path: Path) -> bool:
    return path.suffix.lower() in (".caffemodel", ".binaryproto")


def _fingerprint(layers: Sequence[CaffeLayer]) -> tuple[tuple[str, str], ...]:
    """The layers with weights by name and type: the same in all files of one net."""
    return tuple((layer.name, layer.type) for layer in layers if layer.type in _WEIGHTED)


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
