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

CPU, CUDA, CUDA_HOST = 1, 2, 3  # kinds of device: of CUDA, memory of the GPU or page-locked

_UNUSED, _USED = b"dltensor", b"used_dltensor"
_CODES = {"i": 0, "u": 1, "f": 2}
_KINDS = {code: kind for kind, code in _CODES.items()}


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


_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Managed(ctypes.Structure):
    _fields_ = (
        ("tensor", _Tensor),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    )


# Functions of Python itself. A capsule that is being destroyed is given by its address alone: a
# reference to it would bring it back to life.
_python = ctypes.pythonapi
_new = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(
    ("PyCapsule_New", _python)
)
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


# What has been handed out and not yet been given back, by address. Both sides may outlive whoever
# made the other, so that it is held here.
_lent: dict[int, tuple[Any, ...]] = {}


def write(
    address: int,
    shape: tuple[int, ...],
    type: np.dtype[Any],
    device: tuple[int, int],
    owner: object,
) -> Any:
    """A capsule of the contiguous array at this address. `owner` is held until it is given back."""
    sizes = (ctypes.c_int64 * len(shape))(*shape)
    managed = _Managed()
    managed.tensor = _Tensor(
        data=address,
        device_type=device[0],
        device_id=device[1],
        ndim=len(shape),
        code=_CODES[type.kind],
        bits=type.itemsize * 8,
        lanes=1,
        shape=ctypes.cast(sizes, ctypes.POINTER(ctypes.c_int64)),
        strides=None,
        byte_offset=0,
    )
    managed.deleter = ctypes.cast(_give_back, ctypes.c_void_p)
    place = ctypes.addressof(managed)
    _lent[place] = (managed, sizes, owner)
    return _new(place, _UNUSED, ctypes.cast(_destroyed, ctypes.c_void_p))


# The two functions below are called from C, possibly while Python ends and has emptied modules, so
# that they take what they need with them.


def _given_back(place: int, lent: dict[int, tuple[Any, ...]] = _lent) -> None:
    lent.pop(place, None)


def _collected(
    capsule: int,
    named: Any = _named,
    pointer: Any = _pointer,
    unused: bytes = _UNUSED,
    lent: dict[int, tuple[Any, ...]] = _lent,
) -> None:
    """The end of a capsule: if nobody used it, nobody else gives its array back."""
    if named(capsule, unused):
        lent.pop(pointer(capsule, unused), None)


_give_back = _Deleter(_given_back)
_destroyed = _Deleter(_collected)
for _kept in (_give_back, _destroyed):
    # C holds their addresses for as long as the process lives.
    _python.Py_IncRef(ctypes.py_object(_kept))
