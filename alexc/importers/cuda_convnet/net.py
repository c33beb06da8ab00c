"""cuda-convnet's layer files of 2012, `layers.cfg` with `layer-params.cfg` → a spec.

The released nets run in two columns, one on each GPU, as layers in pairs: conv2a and conv2b. A pair
that does the same is written as one layer over both columns, a convolution within its column as
`groups: 2`, wherever that is the same function. It is not for normalisation across channels, whose
windows end at the column's edge: such layers, and those before them, stay as two branches.

The files hold no weights. Rates, momentum and decay go into notes for the spec's reader.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alexc.importers.builder import Builder, Value
from alexc.importers.cuda_convnet.columns import units
from alexc.importers.cuda_convnet.operations import FIELDS, WITHOUT_MEANING, translate
from alexc.importers.cuda_convnet.sections import (
    Section,
    floats,
    numbers,
    parameters_file,
    sections,
)
from alexc.importers.cuda_convnet.step import Step
from alexc.importers.foreign import ForeignNet, Request
from alexc.importers.naming import guess
from alexc.ops.base import Shape
from alexc.spec.names import clip, listing

# The images of the ILSVRC nets, whose first convolution is known by its size. The files don't say.
_ILSVRC_IMAGE = 224
_ILSVRC_FILTER, _ILSVRC_STRIDE = 11, 4


def read_cuda_convnet(path: Path, request: Request) -> ForeignNet:
    """The net of a layer file, with the parameters of the file beside it.

    Raises UsageError for a file that can't be read, AlexcError with everything in it that can't be
    said in a spec.
    """
    return _Reader(path, request).read()


class _Reader:
    def __init__(self, path: Path, request: Request) -> None:
        self.builder = Builder("cuda-convnet", path)
        self.request = request
        self.files = [path]
        self.sections = sections(path, self.builder)
        self.by_name = {section.name: section for section in self.sections}
        self.parameters: dict[str, Section] = {}
        chosen = request.params or parameters_file(path)
        if chosen is not None:
            self.files.append(chosen)
            self.parameters = {s.name: s for s in sections(chosen, self.builder)}
        self.values: dict[str, Value | None] = {}  # by the name of a unit, or of a member

    def read(self) -> ForeignNet:
        self._check()
        wanted = self._wanted()
        joined = units(
            [section for section in self.sections if section.name in wanted],
            self.by_name,
            self.parameters,
        )
        image = self._image(wanted)
        shape = self._input_shape(image, wanted)
        self.values[image.name] = self.builder.input(shape)
        read = set()
        for unit in joined:
            read |= {name for member in unit.members for name in member.inputs}
            if unit.first.type == "data":
                note = "the input" if unit.first is image else "labels"
                self.builder.left_out(unit.first.origin, note)
                continue
            own = self.parameters.get(unit.first.name)
            value = translate(Step(self.builder, unit, own, self.values))
            for member in unit.members:
                self.values[member.name] = value
        for section in self.sections:
            if section.name not in wanted:
                self.builder.left_out(section.origin, "measures only")
        ends = [unit for unit in joined if not any(m.name in read for m in unit.members)]
        outputs = [self.values.get(u.first.name) for u in ends if u.first.type != "data"]
        self.builder.notes += self._notes()
        preprocess: dict[str, Any] | None = None
        if (channels := {1: "grey", 3: "rgb"}.get(shape[0])) is not None:
            resize = 256 if shape[1:] == (_ILSVRC_IMAGE, _ILSVRC_IMAGE) else max(shape[1:])
            preprocess = {"resize": resize, "channels": channels}
        self.builder.warn(
            "import/no-mean",
            "the files don't say what was subtracted from the images, so `preprocess` has no mean",
        )
        return self.builder.finish(None, self.files, outputs, preprocess=preprocess)

    # ---- what is there ---------------------------------------------------------------------------

    def _check(self) -> None:
        """Types, keys and inputs; every layer that the language doesn't have."""
        builder = self.builder
        before: set[str] = set()
        for section in self.sections:
            for name in section.inputs:
                if name not in before:
                    builder.fault(
                        "import/unknown-blob",
                        f"{section.origin} reads {clip(name)}, which no layer before it is",
                        section.places.get("inputs"),
                        help=guess(name, before) if len(builder.faults) < 20 else None,
                    )
            before.add(section.name)
            if (
                section.type
                and not section.is_cost
                and section.type != "data"
                and not section.inputs
            ):
                builder.fault("import/inputs", f"{section.origin} has no inputs", section.place)
        builder.check()
        wanted = self._wanted()
        for section in self.sections:
            if section.name not in wanted:
                continue
            if section.type not in FIELDS:
                what = (
                    f"cuda-convnet's {clip(section.type)}" if section.type else "a layer of no type"
                )
                message = f"{section.origin}: a spec can't say {what}"
                builder.fault("import/unsupported-layer", message, section.place)
                continue
            known = WITHOUT_MEANING | set(FIELDS[section.type].lower().split())
            for key in section.values.keys() - known:
                builder.fault(
                    "import/unknown-field",
                    f"{section.origin}: the field {clip(key)} has no meaning here",
                    section.places[key],
                )
        builder.check()

    def _wanted(self) -> set[str]:
        """The layers that lead to what the net gives: all but costs, and the softmax before one."""
        if self.request.partial is not None:
            if self.request.partial not in self.by_name:
                self.builder.stop(
                    "import/partial",
                    f"there is no layer {clip(self.request.partial)}",
                    help=guess(self.request.partial, self.by_name),
                )
            ends = {self.request.partial}
        else:
            costs = {section.name for section in self.sections if section.is_cost}
            scored = {name for cost in costs for name in self.by_name[cost].inputs}
            read = {n for s in self.sections if s.name not in costs for n in s.inputs}
            softmaxes = {n for n in scored - read if self.by_name[n].type == "softmax"}
            ends = self.by_name.keys() - costs - softmaxes
        wanted, waiting = set(ends), list(ends)
        while waiting:
            for name in self.by_name[waiting.pop()].inputs:
                if name not in wanted:
                    wanted.add(name)
                    waiting.append(name)
        return wanted

    def _image(self, wanted: set[str]) -> Section:
        """The data layer that layers read; the others hold labels."""
        read = {n for name in wanted for n in self.by_name[name].inputs}
        data = [s for s in self.sections if s.type == "data" and s.name in read]
        if len(data) != 1:
            self.builder.stop(
                "import/inputs", f"the net reads {len(data)} data layers, and a spec has one input"
            )
        return data[0]

    def _input_shape(self, image: Section, wanted: set[str]) -> Shape:
        if self.request.input_shape is not None:
            return self.request.input_shape
        readers = [s for s in self.sections if s.name in wanted and image.name in s.inputs]
        first = readers[0]
        size = numbers(first, "filtersize") + numbers(first, "stride")
        if first.type != "conv" or size != [_ILSVRC_FILTER, _ILSVRC_STRIDE]:
            self.builder.stop(
                "import/input-size",
                "cuda-convnet's files don't say how large the images are",
                image.place,
                help="--input CHANNELS,HEIGHT,WIDTH says it",
            )
        channels = (numbers(first, "channels") or [3])[0]
        self.builder.warn(
            "import/assumed-input",
            f"the files don't say how large the images are: {_ILSVRC_IMAGE}×{_ILSVRC_IMAGE} is "
            "assumed, as the nets of 2012 had it",
            image.place,
            help="--input CHANNELS,HEIGHT,WIDTH says otherwise",
        )
        return (channels, _ILSVRC_IMAGE, _ILSVRC_IMAGE)

    def _notes(self) -> list[str]:
        """What the parameters say of training, in a sentence for all layers that it holds of."""
        groups: dict[str, list[str]] = {}
        for section in self.sections:
            own = self.parameters.get(section.name)
            if own is not None and "epsw" in own.values:
                groups.setdefault(_said(own), []).append(clip(section.name))
        return [f"{listing(names)}: {said}." for said, names in groups.items()][:20]


def _said(own: Section) -> str:
    def first(key: str) -> str:
        return f"{(floats(own, key) or [0.0])[0]:g}"

    return (
        f"learning rate {first('epsw')} on weights and {first('epsb')} on biases, "
        f"momentum {first('momw')} and {first('momb')}, weight decay {first('wc')}"
    )
