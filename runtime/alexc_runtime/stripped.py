"""Plans without their weights, and how these are put in: the format of a stripped plan.

    21 bytes     "alexc-stripped-plan 1"
    8 bytes      the length of the header, little-endian
    the header   JSON: {"bytes": of the whole plan, "weights": [{"name", "offset", "type", "shape",
                 "axes"}, …]}, in the order of the offsets
    the rest     the plan's bytes that are no weights, in their order

A tensor of `weights.safetensors` lies in the plan from `offset` on, as numbers of `type`. `axes`
says which of the tensor's each axis there is: (0, 2, 3, 1) are channels last. Where `shape`, that
in the plan, has more of the tensor's axis 1, the input channels, the others are zero.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from alexc_runtime.errors import EngineError
from alexc_runtime.fields import Fields

Type = Literal["float32", "float16", "bfloat16"]
TYPES: tuple[Type, ...] = ("float32", "float16", "bfloat16")

_MAGIC = b"alexc-stripped-plan 1"
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


def is_stripped(plan: bytes) -> bool:
    """Whether the file's weights have still to be put in."""
    return plan.startswith(_MAGIC)


def strip(plan: bytes, places: list[Place]) -> bytes:
    """The plan without what lies in `places`, which must not overlap."""
    places = sorted(places, key=lambda place: place.offset)
    rest, end = [], 0
    for place in places:
        if place.offset < end:
            raise ValueError(f"{place.name} lies at {place.offset}, before {end}")
        rest.append(plan[end : place.offset])
        end = place.offset + place.size
    rest.append(plan[end:])
    content = {"bytes": len(plan), "weights": [asdict(place) for place in places]}
    header = json.dumps(content).encode()
    return b"".join((_MAGIC, len(header).to_bytes(8, "little"), header, *rest))


def whole(plan: bytes, weights: Mapping[str, NDArray[Any]]) -> bytearray:
    """The plan with its weights, which are those in `weights.safetensors` by name.

    Raises EngineError engine/load if the file is no stripped plan, or is one of other weights.
    """
    try:
        total, places, rest = parse(plan)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise EngineError("engine/load", f"the stripped plan is damaged: {error}") from None
    try:
        made = bytearray(total)
    except MemoryError:
        raise EngineError(
            "engine/load", f"the whole plan has {total:,} bytes, more than there is memory for"
        ) from None
    end = 0
    for place in places:
        made[end : place.offset] = rest[: place.offset - end]
        rest = rest[place.offset - end :]
        end = place.offset + place.size
        if place.name not in weights:
            raise EngineError(
                "engine/load", f"the plan takes weights {place.name}, and there are none"
            )
        put(made, place.offset, weights[place.name], place)
    made[end:] = rest
    return made


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


def parse(plan: bytes) -> tuple[int, list[Place], memoryview]:
    """The bytes of the whole plan, where weights lie in it, and what lies between them.

    Raises ValueError, TypeError or RecursionError if it is no stripped plan.
    """
    start = len(_MAGIC) + 8
    length = int.from_bytes(plan[len(_MAGIC) : start], "little")
    if not is_stripped(plan) or length > len(plan) - start:
        raise ValueError("its header is cut short")
    fields = Fields(json.loads(plan[start : start + length]), "")
    total, places = fields.integer("bytes"), fields.listing("weights", _place)
    rest = memoryview(plan)[start + length :]
    end = 0
    for place in places:
        if place.offset < end:
            raise ValueError(f"{place.name} lies at {place.offset}, before {end}")
        end = place.offset + place.size
    if not end <= total <= _MOST_BYTES or len(rest) != total - sum(p.size for p in places):
        raise ValueError("its bytes are not as many as its header says")
    return total, list(places), rest


def _place(fields: Fields) -> Place:
    (type,) = (known for known in TYPES if known == fields.text("type"))
    shape = fields.integers("shape")
    if min(shape, default=1) < 1:
        raise ValueError(f"{fields.place('shape')} is {list(shape)}")
    axes = fields.integers("axes")
    if sorted(axes) != list(range(len(shape))):
        raise ValueError(f"{fields.place('axes')} is {list(axes)}")
    return Place(fields.text("name"), fields.integer("offset"), type, shape, axes)
