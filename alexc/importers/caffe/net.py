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

from alexc.importers.builder import MAX_LAYERS, Builder, Value
from alexc.importers.caffe.data import DataSource, blob_array, data_source, preprocess
from alexc.importers.caffe.files import Files
from alexc.importers.caffe.input import input_of
from alexc.importers.caffe.layer import CaffeLayer, Phase
from alexc.importers.caffe.operations import OPERATIONS
from alexc.importers.caffe.solver import recipe, training_notes
from alexc.importers.caffe.step import Blobs, Step
from alexc.importers.caffe.wiring import MOST_GUESSES, Ref, Wired, scales_of, wanted, wire
from alexc.importers.foreign import ForeignNet, Request
from alexc.ops.base import Shape
from alexc.spec.names import Names, clip


def read_caffe(path: Path, request: Request) -> ForeignNet:
    """The net of a prototxt (a net's or a solver's) or of a caffemodel alone.

    Raises UsageError for a file that can't be read, AlexcError with everything in it that can't be
    said in a spec.
    """
    return _Reader(path, request).read()


class _Reader:
    def __init__(self, path: Path, request: Request) -> None:
        self.request = request
        self.builder = Builder("Caffe", path)
        self.files = Files(path, request.weights, self.builder)
        self.net, self.every_layer = self.files.net, self.files.layers

    # ---- the way through the net -----------------------------------------------------------------

    def read(self) -> ForeignNet:
        self._check_net()
        phase = self._phase()
        layers = [layer for layer in self.every_layer if layer.in_phase(phase)]
        wired = wire(self.builder, self.net.texts("input"), layers)
        needed, ends = wanted(self.builder, wired, self.request.partial)
        source = self._source(layers)
        shape, input_ref = input_of(
            self.builder, self.files, self.request.input_shape, wired, needed, source
        )
        self.builder.check()
        blobs = self._blobs(wired, needed)
        outputs = self._translate(wired, needed, ends, input_ref, shape, blobs)
        folder = self.files.net_file.parent
        described = preprocess(self.builder, source, shape, self.request.mean, folder)
        for layer in self.every_layer:
            if not layer.in_phase(phase):
                self.builder.left_out(layer.origin, f"not in phase {phase}")
        training = self._training_source()
        self.builder.notes += training_notes(self.files.solver, self.every_layer, training)
        return self.builder.finish(
            self.net.text("name") or None,
            self.files.paths,
            outputs,
            preprocess=described,
            train=self._recipe(training),
            release=self.files.release,
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

    # ---- what is said beside the layers ----------------------------------------------------------

    def _source(self, layers: Sequence[CaffeLayer]) -> DataSource | None:
        """The data layer that says how images are prepared: this net's, or the trained one's."""
        every: list[DataSource] = []
        for candidates in (layers, self.every_layer, self.files.trained):
            every += [data_source(layer) for layer in candidates if layer.reads_images]
        told = (source for source in every if source.says_something or source.size is not None)
        return next(told, every[0] if every else None)

    def _training_source(self) -> DataSource | None:
        for layer in [*self.every_layer, *self.files.trained]:
            if layer.is_data and layer.in_phase("TRAIN"):
                source = data_source(layer)
                if source.says_something:
                    return source
        return None

    def _recipe(self, source: DataSource | None) -> dict[str, Any] | None:
        """The spec's `train`, where a solver says enough for one."""
        if self.files.solver is None:
            return None
        found = recipe(self.files.solver, self.every_layer, source)
        if isinstance(found, str):
            self.builder.notes.append(f"There is no `train` here, since {found}.")
            return None
        return found

    # ---- weights ---------------------------------------------------------------------------------

    def _blobs(self, wired: Sequence[Wired], needed: Iterable[int]) -> dict[str, Blobs] | None:
        """The trained weights by the names of their layers, None where there are none."""
        if not self.files.trained:
            return None
        shown = str(self.files.weights_file)
        names = {wired[i].layer.name for i in needed if wired[i].layer.may_have_weights}
        found: dict[str, list[NDArray[Any]]] = {}
        left: list[str] = []
        for layer in self.files.trained:
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
