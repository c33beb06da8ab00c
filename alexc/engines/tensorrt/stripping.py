"""Taking the weights out of a plan of TensorRT for RTX, without a GPU.

TensorRT's own way, BuilderFlag.STRIP_PLAN and a Refitter where the plan is loaded, needs a GPU with
TensorRT for RTX 1.7.1 to build already (docs/tensorrt.md has what it says). But such a plan holds
the weights as they are, in one place each: as the model writes them or with the channels last, in
the type that the layer computes in; and of a batch norm what its parser makes of them
(`tensorrt.weights`). So they can be cut out, and any others put in.

The plan that is stripped is not built from the weights that it is for but from random numbers, all
different. So each tensor is found in one place only, whatever the real ones are, and no value
that they happen to have, such as a bias that is all zeros, can change what is built. And it is
built again, of other numbers: what is left must be the same, or something in it was made of the
weights and would be wrong with others.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexc.diagnostics import AlexcError, Diagnostic
from alexc.engines.tensorrt.weights import weights_of
from alexc_runtime.stripped import TYPES, Place, as_in_plan, parse, strip

# Fewer bytes than this would be found in a plan by chance; of more, another build would tell.
_LEAST_BYTES = 4
_SOUGHT_BYTES = 64
_PADDINGS = (1, 2, 4, 8)  # what the count of input channels may be rounded up to


def stripped(plan: bytes, model: Path) -> bytes:
    """The plan of a model with random weights, without them.

    Raises AlexcError engine/strip if a tensor is not in the plan as it is.
    """
    free = _Free(plan)
    places: list[Place] = []
    weights = weights_of(model)
    in_plan = weights.in_plan(model.parent)
    for name, values in in_plan.items():
        forms = forms_of(name, values.shape)
        found = next(filter(None, (free.places(values, form) for form in forms)), None)
        if not found:
            raise AlexcError(
                Diagnostic(
                    "engine/strip",
                    f"the plan can't be stripped: it does not hold {name} as it is",
                    notes=(f"{name} is too small to be told from other bytes",)
                    if 2 * values.size < _LEAST_BYTES
                    else ("TensorRT has changed it on the way, or made one of it and another",),
                    help="build it without --strip-weights",
                )
            )
        places += found
    # With these gone there is little left to look for further copies in, in another form.
    for name, values in in_plan.items():
        for form in forms_of(name, values.shape):
            places += free.places(values, form)
    return strip(plan, places, weights.batch_norms)


def in_common(plans: Iterable[bytes]) -> bytes:
    """The first of stripped plans, all built of other weights, that is like one before it.

    Two builds of one model give other numbers to tensors and places in memory, and list layers in
    another order; so it is counted how often each byte is there, and digits are left out. Such a
    number may also be longer than in the other build, 10002 for 9998, and all behind it lies
    elsewhere: hence more plans than two, which are taken only as long as no two are alike.

    Raises AlexcError engine/strip if no two are.
    """
    before = set()
    for plan in plans:
        found = _counts(plan).tobytes()
        if found in before:
            return plan
        before.add(found)
    raise AlexcError(
        Diagnostic(
            "engine/strip",
            "the plan can't be stripped: it holds more than the weights that was made of them",
            help="build it without --strip-weights",
        )
    )


def _counts(plan: bytes) -> NDArray[np.int64]:
    found = parse(plan)
    counts = np.bincount(np.frombuffer(found.rest, np.uint8), minlength=256)
    counts[ord("0") : ord("9") + 1] = 0
    forms = [(place.name, place.type, place.shape, place.axes) for place in found.places]
    return np.append(counts, zlib.crc32(repr(sorted(forms)).encode()))


def forms_of(name: str, shape: tuple[int, ...]) -> Iterator[Place]:
    """Every form in which a tensor may lie in the plan; the offsets are yet to be found.

    As it is, with the channels last, or, as a large matrix product in 16 bits has it, with the
    input channels first.
    """
    plain = tuple(range(len(shape)))
    for type in TYPES:
        yield Place(name, 0, type, shape, plain)
        if len(shape) > 1:
            last = (0, *plain[2:], 1)
            for multiple in _PADDINGS:
                channels = -(-shape[1] // multiple) * multiple
                yield Place(name, 0, type, (shape[0], *shape[2:], channels), last)
            first = (1, 0, *plain[2:])
            yield Place(name, 0, type, tuple(shape[axis] for axis in first), first)


def _beginning(values: NDArray[np.float32], form: Place) -> bytes:
    """The first bytes of the tensor in a form, made of its first rows there alone."""
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

    def places(self, values: NDArray[np.float32], form: Place) -> list[Place]:
        """Everywhere that the values lie in this form; these bytes are free no more."""
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
        return [replace(form, offset=offset) for offset in found]

    def _take(self, start: int, end: int) -> None:
        parts = []
        for first, last in self._parts:
            if first <= start and end <= last:
                parts += [(first, start), (end, last)]
            else:
                parts.append((first, last))
        self._parts = [(first, last) for first, last in parts if first < last]
