"""Memory on the GPU for outputs that the caller keeps there.

Each run gives a block of its own, so that no later run overwrites what a caller still holds. A
block that was given back may still be read on some stream of the caller's, which nobody can name:
it is used again only after the whole device has come to rest once, which is asked for when there
are many such.
"""

from __future__ import annotations

from collections import deque
from contextlib import ExitStack, suppress

from alexc_runtime.engines.cuda import Cuda

# At most so many wait before the device is asked to come to rest.
MOST_RESTING = 16


class Blocks:
    """Blocks of any size, kept for the next of the same size.

    Whoever takes one holds the engine's lock. One is given back wherever its holder ends, also by
    a collection that begins while another thread waits for this one: without any lock.
    """

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._free: dict[int, list[_Memory]] = {}
        self._resting: deque[_Memory] = deque()
        self._open = True

    def take(self, size: int) -> Block:
        """A block of at least `size` bytes."""
        rounded = max(256, 1 << (size - 1).bit_length())
        if not self._free.get(rounded):
            # What is given back meanwhile has not rested with the others.
            count = len(self._resting)
            if count >= MOST_RESTING and self._cuda.rest():
                for _ in range(count):
                    memory = self._resting.popleft()
                    self._free.setdefault(memory.size, []).append(memory)
        if free := self._free.get(rounded):
            return Block(self, free.pop())
        return Block(self, _Memory(self._cuda, rounded))

    def give_back(self, memory: _Memory) -> None:
        """Take a block back; what is read from it may still be going on."""
        self._resting.append(memory)
        if not self._open:
            self._free_resting()

    def close(self) -> None:
        """Let go of all blocks that nobody holds; the others go when they are given back."""
        self._open = False
        self._free_resting()
        for held in self._free.values():
            for memory in held:
                memory.free()
        self._free.clear()

    def _free_resting(self) -> None:
        with suppress(IndexError):  # when there are no more
            while True:
                self._resting.popleft().free()


class _Memory:
    """A piece of the GPU's memory."""

    def __init__(self, cuda: Cuda, size: int) -> None:
        self.size = size
        self._held = ExitStack()
        self.address = cuda.memory(size, self._held, "outputs that stay there")

    def free(self) -> None:
        self._held.close()


class Block:
    """Memory that is its holder's until this is gone."""

    def __init__(self, blocks: Blocks, memory: _Memory) -> None:
        self._blocks = blocks
        self._memory = memory
        self.address = memory.address

    def __del__(self) -> None:
        self._blocks.give_back(self._memory)
