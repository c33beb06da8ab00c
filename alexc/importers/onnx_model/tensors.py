"""Tensors that stand in a model: in bytes, in a list of numbers, or in a file beside it.

External data is read only from the model's own folder: a model must not tell which of the user's
files to open.
"""

from __future__ import annotations

import math
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexc.diagnostics import AlexcError, fault
from alexc.importers.proto import Message
from alexc.importers.wire import Mapped
from alexc.ops.base import MAX_ELEMENTS
from alexc.spec.names import clip

Array = NDArray[Any]

# ONNX's types of numbers that a net may hold, and their names in numpy.
DTYPES = {
    1: "<f4", 2: "u1", 3: "i1", 4: "<u2", 5: "<i2", 6: "<i4", 7: "<i8", 9: "?", 10: "<f2",
    11: "<f8", 12: "<u4", 13: "<u8",
}  # fmt: skip
_BFLOAT16 = 16


class Tensors:
    """Reads the tensors of the model at `path`; `external` are the files that it needed so far."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.external: dict[str, Mapped] = {}

    def array(self, message: Message) -> Array:
        """The values of a TensorProto, where they lie if they can be used as they are."""
        name = clip(message.text("name")) or "a constant"
        kind = message.integer("data_type")
        shape = message.integers("dims")
        count = math.prod(shape)
        if any(n < 0 for n in shape) or count > MAX_ELEMENTS or len(shape) > 16:
            raise fault("import/damaged", f"{self.path}: {name} has an impossible shape")
        if kind not in DTYPES and kind != _BFLOAT16:
            raise fault(
                "import/tensor-type",
                f"{self.path}: {name} holds numbers of ONNX's type {kind}, which is not read",
                help="float32, float16, bfloat16 and float64 are, and whole numbers for shapes",
            )
        values = self._values(message, name, kind)
        if values.size != count:
            raise fault(
                "import/damaged",
                f"{self.path}: {name} needs {count:,} numbers and comes with {values.size:,}",
            )
        return values.reshape(shape)

    def _values(self, message: Message, name: str, kind: int) -> Array:
        dtype = np.dtype("<u2" if kind == _BFLOAT16 else DTYPES[kind])
        if message.integer("data_location") == 1:
            data = self._external(message, name)
        elif message.has("raw_data"):
            data = memoryview(message.values["raw_data"][-1])
        else:
            return self._listed(message, kind, dtype)
        if len(data) % dtype.itemsize:
            raise fault("import/damaged", f"{self.path}: {name} ends within a number")
        values = np.frombuffer(data, dtype)
        return _from_bfloat16(values) if kind == _BFLOAT16 else values

    def _listed(self, message: Message, kind: int, dtype: np.dtype[Any]) -> Array:
        """Values that stand in a field for their type, as ONNX lists it."""
        if kind == 1:
            return message.array("float_data")
        if kind == 11:
            return message.array("double_data", "<f8")
        field_name = {7: "int64_data", 12: "uint64_data", 13: "uint64_data"}.get(kind, "int32_data")
        numbers = message.integers(field_name)
        if kind in (10, _BFLOAT16):  # the bits of a 16-bit float
            bits = np.array([n & 0xFFFF for n in numbers], "<u2")
            return _from_bfloat16(bits) if kind == _BFLOAT16 else bits.view("<f2")
        try:
            return np.array(numbers, dtype)
        except OverflowError:
            raise fault("import/damaged", f"{self.path}: a number is out of its range") from None

    def _external(self, message: Message, name: str) -> memoryview:
        entries = {e.text("key"): e.text("value") for e in message.messages("external_data")}
        location = entries.get("location", "")
        file = self._file(location, name)
        try:
            offset = int(entries.get("offset") or "0")
            length = int(entries.get("length") or str(len(file) - offset))
        except ValueError:
            offset = length = -1
        if offset < 0 or length < 0 or offset + length > len(file):
            raise fault(
                "import/damaged",
                f"{self.path}: {name} is to lie in bytes of {clip(location)} that aren't there",
            )
        return file.bytes[offset : offset + length]

    def _file(self, location: str, name: str) -> Mapped:
        if location in self.external:
            return self.external[location]
        parts = PurePosixPath(location.replace("\\", "/"))
        folder = self.path.parent.resolve()
        inside = location and "\0" not in location and len(location) < 1000
        if not inside or parts.is_absolute() or ".." in parts.parts:
            raise _outside(self.path, name, location)
        file = (folder / parts).resolve()
        if not file.is_relative_to(folder):  # by way of a link
            raise _outside(self.path, name, location)
        self.external[location] = Mapped(file)
        return self.external[location]


def _outside(path: Path, name: str, location: str) -> AlexcError:
    return fault(
        "import/external-data",
        f"{path}: {name} is said to lie in {clip(location)!r}, outside of the model's folder",
        help="put the file beside the model, and its bare name into the model",
    )


def _from_bfloat16(bits: Array) -> Array:
    return (bits.astype(np.uint32) << 16).view(np.float32)
