"""Writes files of protocol buffers, field by field, so that tests need no tool that made them.

field(1, "conv1")            a text
field(100, *fields)          a message
field(4, 3)                  a whole number
floats(5, array)             packed floats
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def varint(number: int) -> bytes:
    number &= 2**64 - 1
    digits = []
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*digits, number])


def field(number: int, *values: bytes | str | int | float) -> bytes:
    """One field: a whole number, a float, a text, or a message made of other fields."""
    if len(values) == 1 and isinstance(values[0], int):
        return varint(number << 3) + varint(values[0])
    if len(values) == 1 and isinstance(values[0], float):
        return varint(number << 3 | 5) + struct.pack("<f", values[0])
    parts = [value.encode() if isinstance(value, str) else value for value in values]
    body = b"".join(part for part in parts if isinstance(part, bytes))
    return varint(number << 3 | 2) + varint(len(body)) + body


def floats(number: int, values: NDArray[Any]) -> bytes:
    return field(number, np.ascontiguousarray(values, "<f4").tobytes())


def blob(array: NDArray[Any]) -> bytes:
    """A BlobProto with its shape, as Caffe writes it today."""
    shape = b"".join(varint(length) for length in array.shape)
    return field(7, field(1, shape)) + floats(5, array)


def old_blob(array: NDArray[Any]) -> bytes:
    """A BlobProto of the old kind: four sizes, the first ones being 1 where there are fewer."""
    sizes = (1, 1, 1, 1, *array.shape)[-4:]
    return b"".join(field(i + 1, size) for i, size in enumerate(sizes)) + floats(5, array)


def caffemodel(layers: Mapping[str, tuple[str, Sequence[NDArray[Any]]]]) -> bytes:
    """A caffemodel of the new syntax: the type and the blobs of each layer by its name."""
    return field(1, "trained") + b"".join(
        field(100, field(1, name), field(2, kind), *(field(7, blob(array)) for array in blobs))
        for name, (kind, blobs) in layers.items()
    )


def old_caffemodel(layers: Mapping[str, tuple[int, Sequence[NDArray[Any]]]]) -> bytes:
    """A caffemodel of the old syntax, in which types are numbers."""
    return b"".join(
        field(2, field(4, name), field(5, kind), *(field(6, old_blob(array)) for array in blobs))
        for name, (kind, blobs) in layers.items()
    )
