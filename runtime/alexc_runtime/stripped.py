"""Plans without their weights, and how these are put in: the format of a stripped plan.

    21 bytes     "alexc-stripped-plan 2"
    8 bytes      the length of the header, little-endian
    the header   JSON: {"bytes": of the whole plan, "weights": [{"name", "offset", "type", "shape",
                 "axes"}, …], "batch_norms": [{"name", "running_mean", "running_var", "weight",
                 "bias", "before", "eps"}, …]}, the weights in the order of their offsets
    the rest     the plan's bytes that are no weights, in their order

A tensor of `weights.safetensors` lies in the plan from `offset` on, as numbers of `type`. `axes`
says which of the tensor's each axis there is: (0, 2, 3, 1) are channels last. Where `shape`, that
in the plan, has more of the tensor's axis 1, the input channels, the others are zero.

Of a batch norm a plan holds only what its weights come to, the tensors `NAME.scale` and
`NAME.shift` (`batch_norm`): these are computed in float32, as TensorRT does, when the weights are
put in. A file with a 1 in its first line is of before that, and has no batch norms.

A reader of the manifest that knows nothing of `built.stripped` gives such a file to TensorRT as it
is, which takes it for no plan and refuses it. So the key took no new version of the manifest.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from alexc_runtime.batch_norm import scale_and_shift
from alexc_runtime.errors import EngineError
from alexc_runtime.fields import Fields

Type = Literal["float32", "float16", "bfloat16"]
TYPES: tuple[Type, ...] = ("float32", "float16", "bfloat16")

_MAGIC = b"alexc-stripped-plan "
_VERSION = 2
_START = len(_MAGIC) + 1 + 8  # of the header: a digit for the version, and the length
_MOST_BYTES = 2**40
_MOST_PADDING = 7  # channels, to a multiple of eight


@dataclass(frozen=True)
class Place:
    """Where a tensor of weights lies in the whole plan, as what; `shape` is that in the plan."""

    name: str
    offset: int
    type: Type
    shape: tuple[int, ...]
    axes: tuple[int, ...]

    @property
    def size(self) -> int:
        """Its bytes in the plan."""
        return math.prod(self.shape) * (4 if self.type == "float32" else 2)


@dataclass(frozen=True)
class BatchNorm:
    """A batch norm of the net, called `name`, and what its weights are called.

    `weight` or `bias` is None where the net has none. `before` is the bias of the layer before if
    it was put into the shift.
    """

    name: str
    running_mean: str
    running_var: str
    weight: str | None
    bias: str | None
    before: str | None
    eps: float

    def tensors(self, weights: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """Its `NAME.scale` and `NAME.shift`. Raises EngineError if the weights are of another net.

        In float32, as TensorRT's parser computes them.
        """
        mean, variance = _float32(weights, self.running_mean), _float32(weights, self.running_var)
        weight, bias, before = (
            None if name is None else _float32(weights, name)
            for name in (self.weight, self.bias, self.before)
        )
        given = (mean, variance, weight, bias, before)
        shapes = {each.shape for each in given if each is not None}
        if len(shapes) > 1 or mean.ndim != 1:
            raise EngineError("engine/load", f"the weights of {self.name} are of another net")
        scale, shift = scale_and_shift(mean, variance, self.eps, weight, bias, before)
        return {f"{self.name}.scale": scale, f"{self.name}.shift": shift}


@dataclass(frozen=True)
class Stripped:
    """A stripped plan: the bytes of the whole one, what is put in where, and what lies between."""

    size: int
    places: tuple[Place, ...]
    batch_norms: tuple[BatchNorm, ...]
    rest: memoryview


def is_stripped(plan: bytes) -> bool:
    """Whether the file's weights have still to be put in."""
    return plan.startswith(_MAGIC)


def strip(plan: bytes, places: list[Place], batch_norms: Sequence[BatchNorm] = ()) -> bytes:
    """The plan without what lies in `places`, which must not overlap.

    `batch_norms` are those whose tensors are among them.
    """
    places = sorted(places, key=lambda place: place.offset)
    rest, end = [], 0
    for place in places:
        if place.offset < end:
            raise ValueError(f"{place.name} lies at {place.offset}, before {end}")
        rest.append(plan[end : place.offset])
        end = place.offset + place.size
    rest.append(plan[end:])
    content = {
        "bytes": len(plan),
        "weights": [asdict(place) for place in places],
        "batch_norms": [asdict(norm) for norm in batch_norms],
    }
    header = json.dumps(content).encode()
    start = _MAGIC + str(_VERSION).encode() + len(header).to_bytes(8, "little")
    return b"".join((start, header, *rest))


def whole(plan: bytes, weights: Mapping[str, NDArray[Any]]) -> bytearray:
    """The plan with its weights, which are those in `weights.safetensors` by name.

    Raises EngineError engine/load if the file is no stripped plan, or is one of other weights.
    """
    stripped = parse(plan)
    try:
        made = bytearray(stripped.size)
    except MemoryError:
        raise EngineError(
            "engine/load",
            f"the whole plan has {stripped.size:,} bytes, more than there is memory for",
        ) from None
    held = dict(weights)
    for norm in stripped.batch_norms:
        held |= norm.tensors(weights)
    rest, end = stripped.rest, 0
    for place in stripped.places:
        made[end : place.offset] = rest[: place.offset - end]
        rest = rest[place.offset - end :]
        end = place.offset + place.size
        put(made, place.offset, _found(held, place.name), place)
    made[end:] = rest
    return made


def _found(weights: Mapping[str, NDArray[Any]], name: str) -> NDArray[Any]:
    if name not in weights:
        raise EngineError("engine/load", f"the plan takes weights {name}, and there are none")
    return weights[name]


def _float32(weights: Mapping[str, NDArray[Any]], name: str) -> NDArray[np.float32]:
    return _found(weights, name).astype(np.float32, copy=False)


def as_in_plan(tensor: NDArray[Any], place: Place) -> bytes:
    """The tensor's bytes as they lie in the plan. Raises EngineError if it has another shape."""
    made = bytearray(place.size)
    put(made, 0, tensor, place)
    return bytes(made)


def put(plan: bytearray, offset: int, tensor: NDArray[Any], place: Place) -> None:
    """Write the tensor as the plan has it, over zeros. Raises EngineError if the shape is other."""
    kind = np.dtype("<u2") if place.type == "bfloat16" else np.dtype(place.type)
    target: NDArray[Any] = np.frombuffer(plan, kind, math.prod(place.shape), offset)
    target = target.reshape(place.shape)
    fits = tensor.ndim == len(place.axes)
    if fits:
        tensor = np.transpose(tensor, place.axes)
        if tensor.ndim > 1:
            padded = place.axes.index(1)
            if 0 <= target.shape[padded] - tensor.shape[padded] <= _MOST_PADDING:
                target = target[(slice(None),) * padded + (slice(tensor.shape[padded]),)]
    if not fits or tensor.shape != target.shape:
        raise EngineError(
            "engine/load",
            f"the plan takes {place.name} of shape {list(place.shape)}, not {list(tensor.shape)}",
        )
    if place.type == "bfloat16":
        target[...] = bfloat16_bits(tensor)
    else:
        with np.errstate(over="ignore"):  # too large is infinite, as in ONNX's Cast
            target[...] = tensor


def bfloat16_bits(values: NDArray[Any]) -> NDArray[np.uint16]:
    """Rounded to the nearest, ties to even; numpy has no bfloat16 of its own."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def parse(plan: bytes) -> Stripped:
    """What a stripped plan says, and the bytes that it holds.

    Raises EngineError engine/load if it is no stripped plan, or of a format that is not known here.
    """
    version = plan[len(_MAGIC) : len(_MAGIC) + 1]
    if is_stripped(plan) and version not in (b"1", b"2"):
        raise EngineError(
            "engine/load",
            f"the stripped plan has version {version.decode(errors='replace')!a} of its format; "
            "this alexc_runtime reads 1 and 2",
            help="use the alexc_runtime that came with the alexc that built it",
        )
    try:
        return _parsed(plan, has_batch_norms=version != b"1")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise EngineError("engine/load", f"the stripped plan is damaged: {error}") from None


def _parsed(plan: bytes, *, has_batch_norms: bool) -> Stripped:
    length = int.from_bytes(plan[_START - 8 : _START], "little")
    if not is_stripped(plan) or length > len(plan) - _START:
        raise ValueError("its header is cut short")
    fields = Fields(json.loads(plan[_START : _START + length]), "")
    total, places = fields.integer("bytes"), fields.listing("weights", _place)
    norms = fields.listing("batch_norms", _batch_norm) if has_batch_norms else ()
    rest = memoryview(plan)[_START + length :]
    end = 0
    for place in places:
        if place.offset < end:
            raise ValueError(f"{place.name} lies at {place.offset}, before {end}")
        end = place.offset + place.size
    if not end <= total <= _MOST_BYTES or len(rest) != total - sum(p.size for p in places):
        raise ValueError("its bytes are not as many as its header says")
    return Stripped(total, places, norms, rest)


def _place(fields: Fields) -> Place:
    (type,) = (known for known in TYPES if known == fields.text("type"))
    shape = fields.integers("shape")
    if min(shape, default=1) < 1:
        raise ValueError(f"{fields.place('shape')} is {list(shape)}")
    axes = fields.integers("axes")
    if sorted(axes) != list(range(len(shape))):
        raise ValueError(f"{fields.place('axes')} is {list(axes)}")
    return Place(fields.text("name"), fields.integer("offset"), type, shape, axes)


def _batch_norm(fields: Fields) -> BatchNorm:
    return BatchNorm(
        fields.text("name"),
        fields.text("running_mean"),
        fields.text("running_var"),
        fields.optional_text("weight"),
        fields.optional_text("bias"),
        fields.optional_text("before"),
        fields.number("eps"),
    )
