"""Taking the weights out of a plan of TensorRT for RTX, without a GPU.

TensorRT's own way, BuilderFlag.STRIP_PLAN and a Refitter where the plan is loaded, needs a GPU with
TensorRT for RTX 1.7.1 to build already (docs/tensorrt.md has what it says). But such a plan holds
the weights as they are, in one place each: as the model writes them or with the channels last, in
the type that the layer computes in. So they can be cut out, and any others put in.

The plan that is stripped is not built from the weights that it is for but from random numbers, all
different. So each tensor is found in one place only, whatever the real ones are, and no value
that they happen to have, such as a bias that is all zeros, can change what is built. And it is
built twice, of other numbers each time: what is left must be the same, or something in it was made
of the weights and would be wrong with others.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from alexc.diagnostics import AlexcError, Diagnostic
from alexc.engines.model import load as load_model
from alexc_runtime.stripped import TYPES, Place, as_in_plan, parse, strip

if TYPE_CHECKING:
    import onnx

# Fewer bytes than this could be found in a plan by chance; of more, the second build would tell.
_LEAST_BYTES = 8
_SOUGHT_BYTES = 64
_CHUNK = 1 << 22
_PADDINGS = (1, 2, 4, 8)  # what the count of input channels may be rounded up to


@dataclass(frozen=True, slots=True)
class Weight:
    """A tensor of weights that the model has in a file beside it."""

    name: str
    file: str
    offset: int
    shape: tuple[int, ...]


def weights_of(model: Path) -> list[Weight]:
    """The model's weights, largest first."""
    tensors = load_model(model).graph.initializer
    found = [_weight(tensor) for tensor in tensors if tensor.external_data]
    return sorted(found, key=lambda weight: -int(np.prod(weight.shape)))


def _weight(tensor: onnx.TensorProto) -> Weight:
    said = {entry.key: entry.value for entry in tensor.external_data}
    return Weight(tensor.name, said["location"], int(said.get("offset", 0)), tuple(tensor.dims))


def write_random(model: Path, folder: Path, seed: int = 0) -> Path:
    """The model in another folder, with random weights between -½ and ½. Returns its path."""
    ends: dict[str, int] = {}
    for weight in weights_of(model):
        end = weight.offset + 4 * int(np.prod(weight.shape))
        ends[weight.file] = max(end, ends.get(weight.file, 0))
    generator = np.random.default_rng(seed)
    for name, end in ends.items():
        with (folder / name).open("wb") as file:
            for start in range(0, end, 4 * _CHUNK):
                count = min(_CHUNK, -(-(end - start) // 4))
                file.write((generator.random(count, np.float32) - np.float32(0.5)).tobytes())
    (folder / model.name).write_bytes(model.read_bytes())
    return folder / model.name


def stripped(plan: bytes, model: Path) -> bytes:
    """The plan of a model with random weights, without them.

    Raises AlexcError engine/strip if a tensor is not in the plan as it is.
    """
    free = _Free(plan)
    places: list[Place] = []
    weights = {each: _values(model.parent / each.file, each) for each in weights_of(model)}
    for weight, values in weights.items():
        found = next(filter(None, (free.places(weight, values, p) for p in _forms(weight))), None)
        if not found:
            raise AlexcError(
                Diagnostic(
                    "engine/strip",
                    f"the plan can't be stripped: it does not hold {weight.name} as it is",
                    notes=(f"{weight.name} is too small to be told from other bytes",)
                    if 2 * values.size < _LEAST_BYTES
                    else ("TensorRT has changed it on the way, or made one of it and another",),
                    help="build it without --strip-weights",
                )
            )
        places += found
    # With these gone there is little left to look for further copies in, in another form.
    for weight, values in weights.items():
        for form in _forms(weight):
            places += free.places(weight, values, form)
    return strip(plan, places)


def check_alike(first: bytes, second: bytes) -> None:
    """Raise AlexcError engine/strip if two stripped plans differ, built of different weights.

    Two builds of one model give other numbers to tensors and places in memory, and list layers in
    another order; so it is counted how often each byte is there, and digits are left out.
    """
    if not np.array_equal(_counts(first), _counts(second)):
        raise AlexcError(
            Diagnostic(
                "engine/strip",
                "the plan can't be stripped: it holds more than the weights that was made of them",
                help="build it without --strip-weights",
            )
        )


def _counts(plan: bytes) -> NDArray[np.int64]:
    _, places, rest = parse(plan)
    counts = np.bincount(np.frombuffer(rest, np.uint8), minlength=256)
    counts[ord("0") : ord("9") + 1] = 0
    forms = [(place.name, place.type, place.shape, place.axes) for place in places]
    return np.append(counts, zlib.crc32(repr(sorted(forms)).encode()))


def _values(file: Path, weight: Weight) -> NDArray[np.float32]:
    count = int(np.prod(weight.shape))
    flat: NDArray[Any] = np.memmap(file, "<f4", "r", weight.offset, (count,))
    return flat.reshape(weight.shape)


def _forms(weight: Weight) -> Iterator[Place]:
    """Every form in which the weight may lie in the plan; the offsets are yet to be found.

    As it is, with the channels last, or, as a large matrix product in 16 bits has it, with the
    input channels first.
    """
    shape, plain = weight.shape, tuple(range(len(weight.shape)))
    for type in TYPES:
        yield Place(weight.name, 0, type, shape, plain)
        if len(shape) > 2:
            last = (0, *plain[2:], 1)
            for multiple in _PADDINGS:
                channels = -(-shape[1] // multiple) * multiple
                yield Place(weight.name, 0, type, (shape[0], *shape[2:], channels), last)
        if len(shape) > 1:
            first = (1, 0, *plain[2:])
            yield Place(weight.name, 0, type, tuple(shape[axis] for axis in first), first)


def _beginning(values: NDArray[np.float32], form: Place) -> bytes:
    """The first bytes of the weight in a form, made of its first rows there alone."""
    rows = -(-_SOUGHT_BYTES // max(1, form.size // form.shape[0]))
    axis = form.axes[0]
    few = values[(slice(None),) * axis + (slice(rows),)]
    shape = (min(rows, form.shape[0]), *form.shape[1:])
    return as_in_plan(few, Place(form.name, 0, form.type, shape, form.axes))[:_SOUGHT_BYTES]


class _Free:
    """The parts of a plan in which no weights have been found yet."""

    def __init__(self, plan: bytes) -> None:
        self._plan = plan
        self._parts = [(0, len(plan))]

    def places(self, weight: Weight, values: NDArray[np.float32], form: Place) -> list[Place]:
        """Everywhere that the weight lies in this form; these bytes are free no more."""
        if form.size < _LEAST_BYTES:
            return []
        start = _beginning(values, form)
        sought: bytes | None = None
        found = []
        for first, last in self._parts:
            offset = self._plan.find(start, first, last)
            while offset >= 0:
                if sought is None:
                    sought = as_in_plan(values, form)
                end = offset + form.size
                if end <= last and memoryview(self._plan)[offset:end] == sought:
                    found.append(offset)
                    offset = self._plan.find(start, end, last)
                else:
                    offset = self._plan.find(start, offset + 1, last)
        for offset in found:
            self._take(offset, offset + form.size)
        return [Place(weight.name, offset, form.type, form.shape, form.axes) for offset in found]

    def _take(self, start: int, end: int) -> None:
        parts = []
        for first, last in self._parts:
            if first <= start and end <= last:
                parts += [(first, start), (end, last)]
            else:
                parts.append((first, last))
        self._parts = [(first, last) for first, last in parts if first < last]
