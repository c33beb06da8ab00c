"""Arrays that come from other libraries, and arrays that stay on the GPU.

What `Session.run` takes, in the order in which it is looked for:

    numpy.ndarray                    as it is
    __dlpack__, __dlpack_device__    torch, CuPy, JAX and others, in memory of the CPU or of a GPU
    __cuda_array_interface__         Numba and others, in memory of a GPU

Memory of the CPU becomes a numpy array without a copy. Memory of a GPU stays there: an engine that
computes there reads it where it lies, and answers with arrays of the class `DeviceArray`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from alexc_runtime import dlpack
from alexc_runtime.errors import BatchError

# A default stream of CUDA, by the number that both protocols have for it.
LEGACY_STREAM = 1


@dataclass(frozen=True)
class OnGpu:
    """An array in memory of a GPU, of which nothing has been read yet.

    `device` is the number of the GPU, None if the array does not tell.
    """

    array: Any
    device: int | None = None

    @property
    def images(self) -> int:
        """How many images it holds, if it is a batch. Raises BatchError if it can't say."""
        try:
            shape = getattr(self.array, "shape", None)
            if shape is None:
                shape = self.array.__cuda_array_interface__["shape"]
            return int(shape[0]) if len(shape) else 0
        except Exception as error:
            raise _not_lent(self.array, error) from error


class Borrowed(NamedTuple):
    """An array on a GPU that is somebody else's. `owner` is to be held as long as it is used.

    `type` is None if numpy has no such. `stream` is the one on which its owner works, None if that
    is not told. `ready` says whether what the owner has done is certain to come before what we put
    on our stream from now on; otherwise we have to wait for his.
    """

    address: int
    shape: tuple[int, ...]
    type: np.dtype[Any] | None
    contiguous: bool
    owner: object
    stream: int | None
    ready: bool


def on_cpu(batch: object) -> NDArray[Any] | OnGpu:
    """The batch as a numpy array of the same memory, unless it lies on a GPU. Raises BatchError."""
    if isinstance(batch, np.ndarray):
        return batch
    if _offers(batch, "__dlpack__") and _offers(batch, "__dlpack_device__"):
        lender: Any = batch
        try:
            kind, number = map(int, lender.__dlpack_device__())
        except Exception as error:
            raise _not_lent(batch, error) from error
        if kind in (dlpack.CUDA, dlpack.CUDA_MANAGED):
            return OnGpu(batch, number if kind == dlpack.CUDA else None)
        if kind not in (dlpack.CPU, dlpack.CUDA_HOST):
            raise BatchError(
                "batch/device",
                f"the batch lies on a device of DLPack's kind {kind}, neither CPU nor CUDA",
                help="copy it to the CPU first",
            )
        try:
            return np.from_dlpack(lender)
        except Exception as error:
            raise _not_lent(batch, error) from error
    if _offers(batch, "__cuda_array_interface__"):
        return OnGpu(batch)
    raise BatchError(
        "batch/type",
        f"the batch is a {type(batch).__name__}, not a numpy array, "
        "and offers neither DLPack nor __cuda_array_interface__",
        help="numpy.asarray(batch, numpy.float32) may make an array of it",
    )


def _offers(array: object, protocol: str) -> bool:
    """Whether an array has an attribute. Raises BatchError if it can't say.

    That of a tensor of torch that takes part in a gradient is there, and raises when it is read.
    """
    try:
        return hasattr(array, protocol)
    except Exception as error:
        raise _not_lent(array, error) from error


def borrowed(batch: OnGpu, stream: int) -> Borrowed:
    """The array, to be read on our `stream`, given by its handle. Raises BatchError."""
    array = batch.array
    try:
        if hasattr(array, "__dlpack__"):
            capsule = array.__dlpack__(stream=stream)
            found = dlpack.read(capsule)
            return Borrowed(
                found.address,
                found.shape,
                found.type,
                found.contiguous,
                owner=capsule,
                stream=None,
                ready=True,
            )
        return _of_interface(array, array.__cuda_array_interface__)
    except Exception as error:
        raise _not_lent(array, error) from error


def _of_interface(array: Any, says: dict[str, Any]) -> Borrowed:
    """https://nvidia.github.io/numba-cuda/user/cuda_array_interface.html, versions 2 and 3."""
    if says.get("mask") is not None:
        raise ValueError("it has a mask")
    shape, kind = tuple(map(int, says["shape"])), np.dtype(says["typestr"])
    stream = says.get("stream")
    if stream == 0:
        raise ValueError("it names the stream 0, which the protocol forbids as ambiguous")
    strides = says.get("strides")
    return Borrowed(
        int(says["data"][0]),
        shape,
        kind,
        contiguous=strides is None or _is_contiguous(shape, strides, kind.itemsize),
        owner=array,
        stream=None if stream is None else int(stream),
        # Without a stream, its owner says, there is nothing to wait for.
        ready=stream is None,
    )


def _is_contiguous(shape: tuple[int, ...], strides: Iterable[int], size: int) -> bool:
    """Whether there are no gaps, by the bytes from one index to the next, axis by axis.

    Those of an axis with one index say nothing.
    """
    for length, stride in zip(reversed(shape), reversed(tuple(strides)), strict=True):
        if length > 1 and stride != size:
            return False
        size *= length
    return True


def _not_lent(array: object, error: Exception) -> BatchError:
    return BatchError(
        "batch/type",
        f"the batch, a {type(array).__module__}.{type(array).__name__}, "
        f"can't be read where it lies: {error}",
        help="of torch, batch.detach() of a dense tensor in float32 can",
    )


class Holder(ABC):
    """What memory on a GPU lies in, and how its content is waited for."""

    @property
    @abstractmethod
    def address(self) -> int:
        """Where the memory begins."""

    @property
    @abstractmethod
    def stream(self) -> int | None:
        """The stream on which the content comes about; None if it is there."""

    @abstractmethod
    def let_wait(self, stream: int) -> None:
        """Let what is put on this stream from now on wait until the content is there."""

    @abstractmethod
    def copy(self, array: NDArray[Any]) -> None:
        """Fill an array of the CPU with the content, when it is there."""


class DeviceArray:
    """An output in memory of the GPU: the caller's own, which no later run overwrites.

    The GPU may still be at work on it when `run` returns. Whoever takes it by `__dlpack__` or
    `__cuda_array_interface__` (`torch.from_dlpack(array)`, `cupy.from_dlpack(array)`) gets it in
    the right order by itself; `numpy()` waits and copies it to the CPU. It stays valid when the
    session is closed, and its memory is given back when nobody holds it any more.
    """

    def __init__(
        self, holder: Holder, shape: tuple[int, ...], dtype: np.dtype[Any], device: int
    ) -> None:
        self._holder = holder
        self.shape = shape
        self.dtype = dtype
        self.device = device

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "version": 3,
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self._holder.address, False),
            "strides": None,
            "stream": self._holder.stream,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CUDA, self.device

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        if copy or (dl_device is not None and tuple(dl_device) != self.__dlpack_device__()):
            raise BufferError("an alexc_runtime.DeviceArray is lent where it lies, without a copy")
        if stream == 0:
            raise ValueError("stream 0 is ambiguous: 1 is the legacy default stream, 2 a thread's")
        if stream != -1:  # by which the other side says that it waits itself
            self._holder.let_wait(LEGACY_STREAM if stream is None else int(stream))
        place = self._holder.address
        return dlpack.write(place, self.shape, self.dtype, self.__dlpack_device__(), self._holder)

    def numpy(self) -> NDArray[Any]:
        """The numbers in memory of the CPU, once the GPU is done. Raises EngineError."""
        array = np.empty(self.shape, self.dtype)
        self._holder.copy(array)
        return array

    def __array__(self, *_: Any, **__: Any) -> Any:
        # numpy would make an array of it that holds one object, this one.
        raise TypeError("an alexc_runtime.DeviceArray lies on the GPU; its numpy() copies it")

    def __repr__(self) -> str:
        return f"<alexc_runtime.DeviceArray {self.dtype} {self.shape} on GPU {self.device}>"
