"""cuda-convnet's layer files of 2012, `layers.cfg` with `layer-params.cfg` → a spec.

The released nets run in two columns, one on each GPU, as layers in pairs: conv2a and conv2b. A pair
that does the same is written as one layer over both columns, a convolution within its column as
`groups: 2`, wherever that is the same function. It is not for normalisation across channels, whose
windows end at the column's edge: such layers, and those before them, stay as two branches.

What differs here from other libraries:

    sizes     are rounded up, of convolutions too: ⌈(size + 2·padding − filterSize) / stride⌉ + 1.
              A convolution then reads zeros below and to the right, which is said as padding there
    neuron=   is an activation behind the layer that has it
    scale     of a normalisation is divided by the size of its window, and minDiv is its k
    rnorm     is normalisation within a channel, cmrnorm across channels
    hs        keeps a unit with probability `keep`

The files hold no weights. Rates, momentum and decay go into notes for the spec's reader.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from alexc.importers.cuda_convnet.columns import Unit, units
from alexc.importers.cuda_convnet.sections import (
    Section,
    floats,
    numbers,
    only_float,
    parameters_file,
    sections,
)
from alexc.importers.foreign import Builder, ForeignNet, Origin, Request, Row, Value, guess
from alexc.ops.base import Op, Shape
from alexc.ops.conv import Conv
from alexc.ops.dense import Linear
from alexc.ops.norm import Lrn
from alexc.ops.pointwise import Dropout, Relu, Sigmoid, Softmax, Tanh
from alexc.ops.pool import AvgPool, MaxPool
from alexc.ops.structure import Add, Concat
from alexc.spec.names import clip, listing

# The images of the ILSVRC nets, whose first convolution is known by its size. The files don't say.
_ILSVRC_IMAGE = 224
_ILSVRC_FILTER, _ILSVRC_STRIDE = 11, 4

# How a layer is computed, not what: or what the other fields say already.
_WITHOUT_MEANING = frozenset(("gpu", "partialsum", "type", "inputs", "dataidx", "channels"))
_FIELDS = {
    "conv": "filters padding stride filterSize initW initB sharedBiases neuron groups randSparse",
    "fc": "outputs initW initB neuron",
    "pool": "pool sizeX stride start outputsX neuron",
    "cmrnorm": "size blocked neuron",
    "rnorm": "size neuron",
    "hs": "keep",
    "neuron": "neuron",
    "softmax": "",
    "eltsum": "coeffs neuron",
    "data": "",
}


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
            value = self._translate(unit)
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
            if section.type not in _FIELDS:
                what = (
                    f"cuda-convnet's {clip(section.type)}" if section.type else "a layer of no type"
                )
                message = f"{section.origin}: a spec can't say {what}"
                builder.fault("import/unsupported-layer", message, section.place)
                continue
            known = _WITHOUT_MEANING | set(_FIELDS[section.type].lower().split())
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

    def _gathered(self, unit: Unit) -> Value | None:
        """What a unit reads, of both columns where it has both, as one tensor."""
        names = list(dict.fromkeys(sorted(n for m in unit.members for n in m.inputs)))
        values: list[Value | None] = []
        for name in names:
            value = self.values.get(name)
            if value is None:
                return None
            if value not in values:
                values.append(value)
        if len(values) == 1:
            return values[0]
        origin = Origin(", ".join(names), "columns", unit.first.place)
        return self.builder.add(origin, Concat, {}, values, name="columns", listed=False)

    # ---- translation -----------------------------------------------------------------------------

    def _translate(self, unit: Unit) -> Value | None:
        section = unit.first
        value = _TRANSLATIONS[section.type](self, unit)
        neuron = section.values.get("neuron", "")
        if neuron and section.type != "neuron":
            value = self._neuron(unit, value, neuron, self._neuron_name(unit))
        return value

    def _add(
        self,
        unit: Unit,
        kind: type[Op],
        fields: Mapping[str, Any],
        inputs: Sequence[Value | None],
        init: Mapping[str, Any] | None = None,
    ) -> Value:
        value = self.builder.add(
            unit.first.origin, kind, fields, inputs, name=unit.name, init=init, listed=False
        )
        note = f"both columns in {value.layer}" if unit.columns == 2 else ""
        self.builder.rows += [Row(member.origin, value.layer, note) for member in unit.members]
        return value

    def _neuron(self, unit: Unit, value: Value | None, neuron: str, name: str) -> Value | None:
        plain = re.sub(r"\s", "", neuron.lower())
        kinds: dict[str, type[Op]] = {"relu": Relu, "logistic": Sigmoid, "tanh[1,1]": Tanh}
        if plain in ("ident", "linear", ""):
            return value
        if plain not in kinds:
            message = f"{unit.first.origin}: the neuron {clip(neuron)} can't be said in a spec"
            place = unit.first.places.get("neuron")
            self.builder.fault("import/unsupported-field", message, place)
            return None
        return self.builder.add(
            Origin(f"{unit.first.name}: neuron", neuron, unit.first.place),
            kinds[plain],
            {},
            [value],
            name=name,
            listed=False,
        )

    def _neuron_name(self, unit: Unit) -> str:
        """relu2 behind conv2, relu1a behind pool1a; otherwise by the layer's whole name."""
        neuron = re.sub(r"\W.*", "", unit.first.values["neuron"].lower()) or "neuron"
        number = re.fullmatch(r"[a-z]+(\d{1,2}[ab]?)", unit.name)
        wanted = f"{neuron}{number[1]}" if number else ""
        taken = {layer.name for layer in self.builder.layers}
        return wanted if wanted and wanted not in taken else f"{neuron}_{unit.name}"

    def conv(self, unit: Unit) -> Value | None:
        section = unit.first
        self._refuse_unless(section, "sharedbiases", ("1", "true", "yes"), "biases of every pixel")
        self._refuse_unless(section, "randsparse", ("0", "false", "no"), "connections by chance")
        value = self._gathered(unit)
        kernel, stride = self._one(section, "filtersize"), self._one(section, "stride", 1)
        padding, filters = self._one(section, "padding", 0), self._one(section, "filters")
        groups = self._one(section, "groups", 1)
        if value is None or None in (kernel, stride, padding, filters, groups):
            return None
        assert kernel is not None
        assert stride is not None
        assert padding is not None
        assert filters is not None
        assert groups is not None
        within = unit.columns == 2 and not set(unit.members[0].inputs) & set(unit.members[1].inputs)
        self._check_channels(unit, value, 2 if within else 1)
        if within:
            groups *= 2
        fields: dict[str, Any] = {
            "out_channels": filters * unit.columns,
            "kernel_size": kernel,
            "stride": stride,
            "padding": _padding(value.shape, kernel, stride, padding),
            "groups": groups,
        }
        return self._add(unit, Conv, fields, [value], self._init(section))

    def _check_channels(self, unit: Unit, value: Value, columns: int) -> None:
        """Whether the file's own word on its input agrees with what it reads."""
        stated = numbers(unit.first, "channels")
        if value.shape is None or not stated:
            return
        total = sum(stated) * columns
        if total != value.shape[0]:
            self.builder.fault(
                "import/channels",
                f"{unit.first.origin} says channels={','.join(map(str, stated))} and reads "
                f"{value.shape[0]} in all",
                unit.first.places.get("channels"),
            )

    def fc(self, unit: Unit) -> Value | None:
        section = unit.first
        outputs = self._one(section, "outputs")
        if unit.columns == 2 and set(unit.members[0].inputs) != set(unit.members[1].inputs):
            message = f"{section.origin}: fully connected layers within a column can't be said"
            self.builder.fault("import/unsupported-field", message, section.place)
            return None
        value = self.builder.flat(self._gathered(unit), section.origin)
        if outputs is None or value is None:
            return None
        fields = {"out_features": outputs * unit.columns}
        return self._add(unit, Linear, fields, [value], self._init(section))

    def pool(self, unit: Unit) -> Value | None:
        section = unit.first
        value = self._gathered(unit)
        size, stride = self._one(section, "sizex"), self._one(section, "stride", 1)
        start, outputs = self._one(section, "start", 0), self._one(section, "outputsx", 0)
        method = section.values.get("pool", "")
        if method not in ("max", "avg"):
            message = f"{section.origin}: {clip(method) or 'no'} pooling can't be said"
            place = section.places.get("pool", section.place)
            self.builder.fault("import/unsupported-field", message, place)
            return None
        if value is None or size is None or stride is None:
            return None
        kind = MaxPool if method == "max" else AvgPool
        fields: dict[str, Any] = {"kernel_size": size}
        if stride != size:
            fields["stride"] = stride
        counts = _counts(value.shape, size, stride)
        if start or (outputs and outputs != counts[0]):
            message = f"{section.origin}: windows that start elsewhere than at 0 can't be said"
            self.builder.fault("import/unsupported-field", message, section.place)
        if counts[1]:
            fields["ceil_mode"] = True
        return self._add(unit, kind, fields, [value])

    def norm(self, unit: Unit) -> Value | None:
        section = unit.first
        self._refuse_unless(section, "blocked", ("0", "false", "no"), "windows in blocks")
        own = self.parameters.get(section.name)
        size = self._one(section, "size")
        found = {}
        for key, default in (("scale", None), ("pow", None), ("mindiv", 1.0)):
            number = only_float(own, key) if own is not None else None
            if number is None and (own is None or key not in own.values):
                number = default
            if number is None:
                where = (
                    "its section of the parameters" if own else "a file of parameters (--params)"
                )
                self.builder.fault(
                    "import/missing-parameter",
                    f"{section.origin}: its {key} is looked for in {where}",
                    own.place if own else section.place,
                )
                return None
            found[key] = number
        fields: dict[str, Any] = {
            "size": size if size is not None else 1,
            "alpha": found["scale"],
            "beta": found["pow"],
            "k": found["mindiv"],
            "alpha_per": "window",
        }
        if section.type == "rnorm":
            fields["region"] = "within_channel"
        return self._add(unit, Lrn, fields, [self._gathered(unit)])

    def dropout(self, unit: Unit) -> Value | None:
        section = unit.first
        own = self.parameters.get(section.name)
        keep = only_float(section, "keep")
        if keep is None:
            message = f"{section.origin}: keep must be a probability"
            self.builder.fault("import/value", message, section.places.get("keep", section.place))
            return None
        value = self._gathered(unit)
        if own is not None and own.values.get("enable", "true").lower() in ("false", "0", "no"):
            for member in unit.members:
                self.builder.left_out(member.origin, "not enabled")
            return value
        return self._add(unit, Dropout, {"p": round(1 - keep, 10)}, [value])

    def softmax(self, unit: Unit) -> Value | None:
        return self._add(unit, Softmax, {}, [self._gathered(unit)])

    def only_neuron(self, unit: Unit) -> Value | None:
        neuron = unit.first.values.get("neuron", "")
        value = self._neuron(unit, self._gathered(unit), neuron, unit.name)
        self.builder.rows += [
            Row(member.origin, value.layer if value is not None else None)
            for member in unit.members
        ]
        return value

    def sum(self, unit: Unit) -> Value | None:
        section = unit.first
        self._refuse_unless(section, "coeffs", None, "a sum with coefficients")
        return self._add(unit, Add, {}, [self.values.get(name) for name in section.inputs])

    # ---- fields ----------------------------------------------------------------------------------

    def _one(self, section: Section, key: str, default: int | None = None) -> int | None:
        """A whole number, which must be the same for all inputs where it is given for each."""
        if key not in section.values:
            if default is None:
                message = f"{section.origin} says no {key}"
                self.builder.fault("import/missing-parameter", message, section.place)
            return default
        given = numbers(section, key)
        if not given or len(set(given)) != 1:
            shown = clip(section.values[key])
            message = f"{section.origin}: {key}={shown} is not one whole number for all inputs"
            self.builder.fault("import/value", message, section.places[key])
            return None
        return given[0]

    def _refuse_unless(
        self, section: Section, key: str, allowed: tuple[str, ...] | None, what: str
    ) -> None:
        value = section.values.get(key)
        if value is None:
            return
        plain = {part.strip().lower() for part in value.split(",")}
        fine = plain <= set(allowed) if allowed else all(_is_one(part) for part in plain)
        if not fine:
            message = f"{section.origin}: {what} can't be said ({key}={clip(value)})"
            self.builder.fault("import/unsupported-field", message, section.places[key])

    def _init(self, section: Section) -> dict[str, Any]:
        init: dict[str, Any] = {}
        deviations = floats(section, "initw")
        if deviations and len(set(deviations)) == 1:
            init["weight"] = {"normal": _plain(deviations[0])}
        if init or "initb" in section.values:
            init["bias"] = _plain((floats(section, "initb") or [0.0])[0])
        return init

    def _notes(self) -> list[str]:
        """What the parameters say of training, in a sentence for all layers that it holds of."""
        groups: dict[str, list[str]] = {}
        for section in self.sections:
            own = self.parameters.get(section.name)
            if own is not None and "epsw" in own.values:
                groups.setdefault(_said(own), []).append(clip(section.name))
        return [f"{listing(names)}: {said}." for said, names in groups.items()][:20]


_TRANSLATIONS: Mapping[str, Callable[[_Reader, Unit], Value | None]] = {
    "conv": _Reader.conv,
    "fc": _Reader.fc,
    "pool": _Reader.pool,
    "cmrnorm": _Reader.norm,
    "rnorm": _Reader.norm,
    "hs": _Reader.dropout,
    "softmax": _Reader.softmax,
    "neuron": _Reader.only_neuron,
    "eltsum": _Reader.sum,
}


def _said(own: Section) -> str:
    def first(key: str) -> str:
        return f"{(floats(own, key) or [0.0])[0]:g}"

    return (
        f"learning rate {first('epsw')} on weights and {first('epsb')} on biases, "
        f"momentum {first('momw')} and {first('momb')}, weight decay {first('wc')}"
    )


def _padding(shape: Shape | None, kernel: int, stride: int, padding: int) -> Any:
    """Padding on all sides, and below and to the right what rounding the size up reads."""
    if shape is None or len(shape) != 3 or stride < 1 or kernel < 1:
        return padding
    after = []
    for size in shape[1:]:
        over = -(size + 2 * padding - kernel) % stride
        after.append(padding + over)
    return {"top": padding, "left": padding, "bottom": after[0], "right": after[1]}


def _counts(shape: Shape | None, size: int, stride: int) -> tuple[int, bool]:
    """Windows across, rounded up, and whether rounding down would give fewer on an axis."""
    if shape is None or len(shape) != 3 or stride < 1:
        return 0, True
    up = [-(-(length - size) // stride) + 1 for length in shape[1:]]
    down = [(length - size) // stride + 1 for length in shape[1:]]
    return up[1], up != down


def _is_one(text: str) -> bool:
    try:
        return float(text) == 1
    except ValueError:
        return False


def _plain(value: float) -> float:
    return int(value) if value.is_integer() and abs(value) < 1e6 else value
