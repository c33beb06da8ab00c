"""What each type of cuda-convnet's layers is in the spec language: `OPERATIONS`, a dictionary.

What differs here from other libraries:

    sizes     are rounded up, of convolutions too: ⌈(size + 2·padding − filterSize) / stride⌉ + 1.
              A convolution then reads zeros below and to the right, which is said as padding there
    neuron=   is an activation behind the layer that has it
    scale     of a normalisation is divided by the size of its window, and minDiv is its k
    rnorm     is normalisation within a channel, cmrnorm across channels
    hs        keeps a unit with probability `keep`
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from alexc.importers.builder import Value
from alexc.importers.cuda_convnet.sections import numbers, only_float
from alexc.importers.cuda_convnet.step import Step
from alexc.importers.foreign import Row
from alexc.ops.base import Shape
from alexc.ops.conv import Conv
from alexc.ops.dense import Linear
from alexc.ops.norm import Lrn
from alexc.ops.pointwise import Dropout, Softmax
from alexc.ops.pool import AvgPool, MaxPool
from alexc.ops.structure import Add
from alexc.spec.names import clip

# The keys of a layer that say how it is computed, not what, or what other keys say already; and
# those that mean something, by the layer's type.
WITHOUT_MEANING = frozenset(("gpu", "partialsum", "type", "inputs", "dataidx", "channels"))
FIELDS = {
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


def translate(step: Step) -> Value | None:
    """Add what the unit is, with the activation behind it; None if that can't be said."""
    value = OPERATIONS[step.section.type](step)
    neuron = step.section.values.get("neuron", "")
    if neuron and step.section.type != "neuron":
        value = step.neuron(value, neuron, step.neuron_name())
    return value


def _conv(step: Step) -> Value | None:
    step.refuse_unless("sharedbiases", ("1", "true", "yes"), "biases of every pixel")
    step.refuse_unless("randsparse", ("0", "false", "no"), "connections by chance")
    value = step.gathered()
    kernel, stride = step.one("filtersize"), step.one("stride", 1)
    padding, filters = step.one("padding", 0), step.one("filters")
    groups = step.one("groups", 1)
    if value is None or kernel is None or stride is None or padding is None:
        return None
    if filters is None or groups is None:
        return None
    within = step.unit.columns == 2 and not set.intersection(*step.unit.inputs)
    _check_channels(step, value, 2 if within else 1)
    if within:
        groups *= 2
    fields: dict[str, Any] = {
        "out_channels": filters * step.unit.columns,
        "kernel_size": kernel,
        "stride": stride,
        "padding": _padding(value.shape, kernel, stride, padding),
        "groups": groups,
    }
    return step.add(Conv, fields, [value], step.init())


def _check_channels(step: Step, value: Value, columns: int) -> None:
    """Whether the file's own word on its input agrees with what it reads."""
    stated = numbers(step.section, "channels")
    if value.shape is None or not stated:
        return
    total = sum(stated) * columns
    if total != value.shape[0]:
        step.builder.fault(
            "import/channels",
            f"{step.section.origin} says channels={','.join(map(str, stated))} and reads "
            f"{value.shape[0]} in all",
            step.section.places.get("channels"),
        )


def _fc(step: Step) -> Value | None:
    section = step.section
    outputs = step.one("outputs")
    if any(inputs != step.unit.inputs[0] for inputs in step.unit.inputs):
        message = f"{section.origin}: fully connected layers within a column can't be said"
        step.builder.fault("import/unsupported-field", message, section.place)
        return None
    value = step.builder.flat(step.gathered(), section.origin)
    if outputs is None or value is None:
        return None
    fields = {"out_features": outputs * step.unit.columns}
    return step.add(Linear, fields, [value], step.init())


def _pool(step: Step) -> Value | None:
    section = step.section
    value = step.gathered()
    size, stride = step.one("sizex"), step.one("stride", 1)
    start, outputs = step.one("start", 0), step.one("outputsx", 0)
    method = section.values.get("pool", "")
    if method not in ("max", "avg"):
        message = f"{section.origin}: {clip(method) or 'no'} pooling can't be said"
        place = section.places.get("pool", section.place)
        step.builder.fault("import/unsupported-field", message, place)
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
        step.builder.fault("import/unsupported-field", message, section.place)
    if counts[1]:
        fields["ceil_mode"] = True
    return step.add(kind, fields, [value])


def _norm(step: Step) -> Value | None:
    section = step.section
    step.refuse_unless("blocked", ("0", "false", "no"), "windows in blocks")
    own = step.own
    size = step.one("size")
    found = {}
    for key, default in (("scale", None), ("pow", None), ("mindiv", 1.0)):
        number = only_float(own, key) if own is not None else None
        if number is None and (own is None or key not in own.values):
            number = default
        if number is None:
            where = "its section of the parameters" if own else "a file of parameters (--params)"
            step.builder.fault(
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
    return step.add(Lrn, fields, [step.gathered()])


def _dropout(step: Step) -> Value | None:
    section = step.section
    own = step.own
    keep = only_float(section, "keep")
    if keep is None:
        message = f"{section.origin}: keep must be a probability"
        step.builder.fault("import/value", message, section.places.get("keep", section.place))
        return None
    value = step.gathered()
    if own is not None and own.values.get("enable", "true").lower() in ("false", "0", "no"):
        for member in step.unit.members:
            step.builder.left_out(member.origin, "not enabled")
        return value
    return step.add(Dropout, {"p": round(1 - keep, 10)}, [value])


def _softmax(step: Step) -> Value | None:
    return step.add(Softmax, {}, [step.gathered()])


def _only_neuron(step: Step) -> Value | None:
    neuron = step.section.values.get("neuron", "")
    value = step.neuron(step.gathered(), neuron, step.unit.name)
    step.builder.rows += [
        Row(member.origin, value.layer if value is not None else None)
        for member in step.unit.members
    ]
    return value


def _sum(step: Step) -> Value | None:
    step.refuse_unless("coeffs", None, "a sum with coefficients")
    return step.add(Add, {}, [step.values.get(name) for name in step.section.inputs])


OPERATIONS: dict[str, Callable[[Step], Value | None]] = {
    "conv": _conv,
    "fc": _fc,
    "pool": _pool,
    "cmrnorm": _norm,
    "rnorm": _norm,
    "hs": _dropout,
    "softmax": _softmax,
    "neuron": _only_neuron,
    "eltsum": _sum,
}


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
