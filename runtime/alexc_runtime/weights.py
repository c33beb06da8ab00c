"""weights.safetensors, read with numpy alone.

    8 bytes      the length of the header, little-endian
    the header   JSON: by name {"dtype", "shape", "data_offsets": [from, to]}, and "__metadata__"
    the rest     the tensors' bytes, to which the offsets are relative

The file is mapped and not read: what nobody looks at costs nothing.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexc_runtime.errors import BundleError

# numpy has no bfloat16; what holds it is left out, as the file's other types that it lacks.
_TYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
}
_MOST_HEADER_BYTES = 100_000_000  # the format's own limit


def read(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors by name, as arrays that can't be written to. Raises BundleError."""
    try:
        data = np.memmap(path, np.uint8, "r")
        length = int.from_bytes(data[:8].tobytes(), "little")
        if len(data) < 8 or length > min(_MOST_HEADER_BYTES, len(data) - 8):
            raise ValueError("its header is longer than the file")
        header = json.loads(data[8 : 8 + length].tobytes())
        body = data[8 + length :]
        header.pop("__metadata__", None)
        return {
            name: _array(body, entry) for name, entry in header.items() if entry["dtype"] in _TYPES
        }
    except OSError as error:
        reason = error.strerror or str(error)
        raise BundleError("bundle/weights", f"{path} can't be read: {reason}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BundleError("bundle/weights", f"{path} is no safetensors file: {error}") from None


def _array(body: NDArray[np.uint8], entry: dict[str, Any]) -> NDArray[Any]:
    type, shape = np.dtype(_TYPES[entry["dtype"]]), tuple(entry["shape"])
    start, end = entry["data_offsets"]
    if not 0 <= start <= end <= len(body) or end - start != math.prod(shape) * type.itemsize:
        raise ValueError("a tensor's bytes are not where its header says")
    return np.frombuffer(body[start:end].data, type).reshape(shape)
