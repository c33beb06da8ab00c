"""Blocks of the GPU's memory, for outputs that the caller keeps there."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

from alexc_runtime.engines.cuda import Cuda
from alexc_runtime.engines.pool import Pool


class Block:
    """A piece of the GPU's memory."""

    def __init__(self, cuda: Cuda, size: int) -> None:
        self._held = ExitStack()
        self.address = cuda.memory(size, self._held, "outputs that stay there")

    def free(self) -> None:
        """Give the memory back."""
        self._held.close()


def blocks(cuda: Cuda) -> Pool[int, Block]:
    """Blocks, to be taken by how many bytes `block_size` says."""
    return Pool(cuda, partial(Block, cuda), Block.free)


def block_size(size: int) -> int:
    """The bytes of the block for so many: few sizes, so that a block often comes again."""
    return max(256, 1 << (size - 1).bit_length())
