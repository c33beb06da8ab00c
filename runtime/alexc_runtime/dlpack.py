"""DLPack, by which libraries hand each other arrays without a copy: its C structures, both ways.

An array that offers `__dlpack__` gives a capsule that holds a `DLManagedTensor`: an address, a
shape, strides, a type and a device, and a function that whoever used it calls when it is done.
numpy reads such capsules for memory of the CPU; this module reads those of a GPU, and writes them.
The structures are those of version 0 of the format, which every library reads and writes where the
other side does not ask for a newer one.

https://dmlc.github.io/dlpack/latest/c_api.html
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np

# Kinds of device. Of CUDA there is memory of a GPU, page-locked memory of the host, and memory that
# moves between the two, which any GPU may use.
CPU, CUDA, CUDA_HOST, CUDA_MANAGED = 1, 2, 3, 13

_UNUSED = b"dltensor"  # the name of a capsule until somebody takes what is in it
_KINDS = {0: "i", 1: "u", 2: "f"}  # numpy's letters by the format's codes


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    _fields_ = (
        ("tensor", _Tensor),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    )


# Functions of Python itself, which take a capsule by its address.
_python = ctypes.pythonapi
_named = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_IsValid", _python)
)
_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", _python)
)


@dataclass(frozen=True)
class Description:
    """What a capsule says of its array. `type` is numpy's, None if numpy has none such.

    `contiguous` is whether the numbers lie in the order of the axes without gaps.
    """

    address: int
    shape: tuple[int, ...]
    type: np.dtype[Any] | None
    device: tuple[int, int]
    contiguous: bool


def read(capsule: Any) -> Description:
    """What the capsule holds, which stays its own: hold the capsule as long as the memory is used.

    Raises ValueError if it is no capsule of version 0 that nobody has used yet.
    """
    if not _named(id(capsule), _UNUSED):
        raise ValueError("its __dlpack__ gives no fresh capsule")
    tensor = _Managed.from_address(_pointer(id(capsule), _UNUSED)).tensor
    shape = tuple(tensor.shape[axis] for axis in range(tensor.ndim))
    contiguous, step = True, 1
    for axis in reversed(range(tensor.ndim)):
        if tensor.strides and shape[axis] > 1:
            contiguous = contiguous and tensor.strides[axis] == step
        step *= shape[axis]
    kind = _KINDS.get(tensor.code)
    known = kind is not None and tensor.lanes == 1 and tensor.bits in (8, 16, 32, 64)
    return Description(
        address=(tensor.data or 0) + tensor.byte_offset,
        shape=shape,
        type=np.dtype(f"{kind}{tensor.bits // 8}") if known else None,
        device=(tensor.device_type, tensor.device_id),
        contiguous=contiguous,
    )


class _Memory:
    """Memory as numpy wants it told. `owner` is held by the array that numpy makes of it."""

    def __init__(
        self, address: int, shape: tuple[int, ...], type: np.dtype[Any], owner: object
    ) -> None:
        self.owner = owner
        self.__array_interface__ = {
            "version": 3,
            "shape": shape,
            "typestr": type.str,
            "data": (address, False),
            "strides": None,
        }


def write(
    address: int,
    shape: tuple[int, ...],
    type: np.dtype[Any],
    device: tuple[int, int],
    owner: object,
) -> Any:
    """A capsule of the contiguous array at this address. `owner` is held until it is given back.

    numpy makes it, of an array that never looks at its memory, and is told the device afterwards.
    So the functions that give it back are numpy's, of C. They may be called while an exception is
    on its way, and a function of Python that ctypes lends to C would swallow that.
    """
    capsule = np.asarray(_Memory(address, shape, type, owner)).__dlpack__()
    tensor = _Managed.from_address(_pointer(id(capsule), _UNUSED)).tensor
    tensor.device_type, tensor.device_id = device
    return capsule
