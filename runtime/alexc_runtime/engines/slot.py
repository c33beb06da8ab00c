"""The memory of one batch: its input and outputs, on the host and on the GPU."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexc_runtime.engines.cuda import Cuda

ALIGNMENT = 256  # of the addresses that TensorRT takes


@dataclass(frozen=True)
class Tensor:
    """An input or output of the network, by the shape and numpy type of one image of it."""

    name: str
    shape: tuple[int, ...]
    type: np.dtype[Any]

    @property
    def bytes(self) -> int:
        """Of one image."""
        return math.prod(self.shape) * self.type.itemsize


class Slot:
    """Memory for batches of up to `largest` images, the same on both sides.

    `host` are arrays of page-locked memory, `device` the addresses on the GPU; both are by the name
    of the tensor. The events mark, for whom works on several slots at a time, how far it is.
    """

    def __init__(
        self, cuda: Cuda, input: Tensor, outputs: tuple[Tensor, ...], largest: int, held: ExitStack
    ) -> None:
        tensors = (input, *outputs)
        places, size = _places(tensors, largest)
        purpose = f"batches of up to {largest}"
        base = cuda.memory(size, held, purpose)
        host = cuda.page_locked(size, held, purpose)
        self.input = input
        self.outputs = outputs
        self.device = {name: base + place for name, place in places.items()}
        self.addresses = {name: host + place for name, place in places.items()}
        self.host: dict[str, NDArray[Any]] = {}
        for tensor in tensors:
            place = self.addresses[tensor.name]
            raw = (ctypes.c_uint8 * (largest * tensor.bytes)).from_address(place)
            flat = np.frombuffer(memoryview(raw).cast("B"), tensor.type)
            self.host[tensor.name] = flat.reshape(largest, *tensor.shape)
        self.filled, self.computed, self.finished = (cuda.event(held) for _ in range(3))

    def results(self, images: int) -> dict[str, NDArray[Any]]:
        """The outputs on the host, copied: the next batch overwrites the slot."""
        return {tensor.name: self.host[tensor.name][:images].copy() for tensor in self.outputs}


def _places(tensors: tuple[Tensor, ...], largest: int) -> tuple[Mapping[str, int], int]:
    """Where each tensor begins in one piece of memory, and the size of that."""
    places, size = {}, 0
    for tensor in tensors:
        places[tensor.name] = size
        size += -(-largest * tensor.bytes // ALIGNMENT) * ALIGNMENT
    return places, size
