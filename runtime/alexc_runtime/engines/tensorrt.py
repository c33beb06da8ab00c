"""TensorRT and TensorRT for RTX: plans on an NVIDIA GPU.

The two libraries are imported by different names and share the API used here, so one class serves
both. Device memory, streams and graphs come from NVIDIA's `cuda-python`.

A plan fits one library version, and the kinds of GPU that it was built for. TensorRT for RTX
compiles the last step of its kernels on the GPU at hand, so that loading takes some seconds there;
what was compiled is kept in the user's cache.

All work of an engine goes over two streams: batches are computed on one, and `run_many` copies on
the other, so that the copy in of the next batch and the copy out of the last go on meanwhile.
Threads take turns by a lock that is held while a batch is put on the streams, and by `run` until
its outputs are there; the GPU computes one batch at a time anyway, and a context for each thread
would take memory for nothing.
"""

from __future__ import annotations

import re
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from alexc_runtime.arrays import Borrowed, DeviceArray, OnGpu, borrowed
from alexc_runtime.engines.base import Engine, closed, first_line, import_obstacle, load
from alexc_runtime.engines.blocks import block_size, blocks
from alexc_runtime.engines.collection import without_collection
from alexc_runtime.engines.cuda import Cuda, capability, no_driver, no_gpu
from alexc_runtime.engines.launches import Job, Launches
from alexc_runtime.engines.lending import Computed, Lent, State
from alexc_runtime.engines.slot import ALIGNMENT, Slot, Tensor
from alexc_runtime.engines.tensorrt_plan import Plan
from alexc_runtime.errors import BatchError, EngineError
from alexc_runtime.manifest import Bundle, EngineRecord

if TYPE_CHECKING:
    from alexc_runtime.engines.base import Array

_OLDEST = (7, 5)  # of the compute capabilities that either library runs on
_SLOTS = 2  # of a pipeline: one is computed while the other is filled and emptied


class TensorRT(Engine):
    """Runs a plan of `tensorrt`. Memory for the plan's largest batch is held while open."""

    name: ClassVar[str] = "tensorrt"
    needs_plan: ClassVar[bool] = True
    on_gpu: ClassVar[bool] = True
    package: ClassVar[str] = "tensorrt"

    @classmethod
    def obstacle(cls) -> str | None:
        # The machine first and the packages after it: without a GPU, no package would help.
        obstacle = no_driver() or no_gpu() or import_obstacle(cls.name, cls.package)
        if obstacle is not None and "does not load" in obstacle:
            # The libraries themselves are packages of their own, which may be missing or cut short.
            obstacle += f"; pip install --force-reinstall {cls.package} brings its libraries"
        return obstacle

    @classmethod
    def misfit(cls, record: EngineRecord) -> str | None:
        built = record.built
        if built is None:
            return None
        installed = str(load(cls.name).__version__)
        if installed != built.library and not (
            built.any_version and _numbers(installed) > _numbers(built.library)
        ):
            return (
                f"its plan was built by {cls.package} {built.library}, and {installed} is "
                f"installed; pip install {cls.package}=={built.library}, "
                "or build it again with `alexc build`"
            )
        name, number = capability()
        if built.targets and not built.any_gpu and number not in built.targets:
            return (
                f"its plan was built for GPUs of compute capability {', '.join(built.targets)}, "
                f"and this one ({name}) has {number}; build it on this machine with `alexc build`"
            )
        if _numbers(number) < _OLDEST:
            return f"this GPU ({name}) has compute capability {number}, and plans take 7.5 or later"
        return None

    def __init__(
        self,
        bundle: Bundle,
        record: EngineRecord,
        threads: int | None,  # noqa: ARG002  (it bounds threads of the CPU)
    ) -> None:
        manifest = bundle.manifest
        self._input = Tensor(
            manifest.input.name, manifest.input.shape, np.dtype(manifest.input.dtype)
        )
        self._outputs = tuple(
            Tensor(output.name, output.shape, np.dtype(np.float32)) for output in manifest.outputs
        )
        held = ExitStack()
        with without_collection(), ExitStack() as failing:  # given back if anything below fails
            failing.push(held.__exit__)
            self._cuda = Cuda(self.name)
            self._compute = self._cuda.stream(held)
            self._copies = self._cuda.stream(held)
            self._event = self._cuda.event(held)
            self._plan = self._loaded(bundle, record, held)
            self.batch_limits = self._plan.batch_limits
            self._blocks = blocks(self._cuda)
            held.callback(self._blocks.close)
            # Nothing here may hold the engine, or it would be let go by a collection alone.
            largest = self.batch_limits[1]
            new = partial(Slot, self._cuda, self._input, self._outputs, largest)
            self._slots = _Slots(new)
            self._slots.give_back(new(held))
            self._launches = Launches(
                self._plan, self._cuda, self._compute, self._input.name, self._input.shape
            )
            held.callback(self._launches.close)
            self._lent = Lent(self._cuda, self._compute, held)
            held.callback(self._lent.close)
            self._state = State(self._cuda, (self._compute, self._copies), held)
            failing.pop_all()
        self._lock = self._state.lock
        # Also when nobody closes it: at its collection, or where Python ends.
        weakref.finalize(self, self._state.close)

    def _loaded(self, bundle: Bundle, record: EngineRecord, held: ExitStack) -> Plan:
        library, tensors = load(self.name), (self._input, *self._outputs)
        try:
            with self._cuda.alone():
                return Plan(library, self._cuda, bundle, record, tensors, self._compute, held)
        except (AttributeError, RuntimeError, TypeError) as error:
            # Its C++ side returned nothing, or it is older than what is used of it.
            raise EngineError(
                "engine/load",
                f"{self.name} {library.__version__} can't load {record.path}: {first_line(error)}",
                help=f"pip install --upgrade {self.package}",
            ) from error

    # ---- from and to the CPU ---------------------------------------------------------------------

    def run(self, batch: Array) -> dict[str, Array]:
        images = len(batch)
        with self._lock, self._ready():
            slot = self._slots.first
            np.copyto(slot.host[self._input.name][:images], batch)
            try:
                self._launches.put((slot, images), lambda: self._whole(slot, images))
            finally:
                # Also when something failed: what has begun still reads and writes the slot.
                (status,) = self._synchronize(self._compute)
            if status:
                raise self._cuda.fault(status)
            self._lent.release()  # what batches on the GPU have left, if any came before
            return slot.results(images)

    def run_many(self, batches: Iterable[Array]) -> Iterator[dict[str, Array]]:
        """As `run` for each, the copies of one batch while another is computed.

        Up to two batches are taken before the first outputs are given.
        """
        waiting: deque[tuple[Slot, int]] = deque()
        with ExitStack() as taken:
            slots = [self._take(taken) for _ in range(_SLOTS)]
            for number, batch in enumerate(batches):
                slot = slots[number % _SLOTS]
                self._start(slot, batch, waiting[-1] if waiting else None)
                waiting.append((slot, len(batch)))
                if len(waiting) == _SLOTS:
                    yield self._finish(*waiting.popleft())
            if waiting:
                with self._lock, self._ready():
                    self._copy_out(*waiting[-1])
            while waiting:
                yield self._finish(*waiting.popleft())

    def _start(self, slot: Slot, batch: Array, before: tuple[Slot, int] | None) -> None:
        """Put a batch on the streams, and on that for copies then the outputs of the one before.

        In this order: a copy out waits for a computation, and what stands behind it waits with it.
        """
        name, images = self._input.name, len(batch)
        with self._state.used():
            np.copyto(slot.host[name][:images], batch)
        cuda = self._cuda
        with self._lock, self._ready():
            size = images * self._input.bytes
            copy = cuda.copy(
                slot.device[name], slot.addresses[name], size, cuda.to_device, self._copies
            )
            cuda.call(copy)
            cuda.after(self._copies, self._compute, slot.filled)
            key = (slot, images, "computation")
            self._launches.put(key, lambda: Job(images, slot.device))
            cuda.call(cuda.api.cudaEventRecord, slot.computed, self._compute)
            if before is not None:
                self._copy_out(*before)

    def _copy_out(self, slot: Slot, images: int) -> None:
        cuda = self._cuda
        cuda.call(cuda.api.cudaStreamWaitEvent, self._copies, slot.computed, 0)
        for copy in self._copies_out(slot, images, self._copies):
            cuda.call(copy)
        cuda.call(cuda.api.cudaEventRecord, slot.finished, self._copies)

    def _finish(self, slot: Slot, images: int) -> dict[str, Array]:
        """The outputs of a slot when they are there. Other threads may work meanwhile."""
        with self._state.used(), self._cuda.current():
            self._cuda.call(self._cuda.api.cudaEventSynchronize, slot.finished)
            return slot.results(images)

    def _take(self, taken: ExitStack) -> Slot:
        """A slot for a pipeline, given back when nothing goes on in it any more."""
        with self._lock, self._ready():
            slot = self._slots.take(self._state.held)

        def give_back() -> None:
            with self._lock:
                if self._state.open:
                    for stream in (self._copies, self._compute):
                        self._synchronize(stream)
                    self._slots.give_back(slot)

        taken.callback(give_back)
        return slot

    def _whole(self, slot: Slot, images: int) -> Job:
        """All that a batch takes from the CPU's memory to the CPU's memory."""
        name, cuda = self._input.name, self._cuda
        copy_in = cuda.copy(
            slot.device[name],
            slot.addresses[name],
            images * self._input.bytes,
            cuda.to_device,
            self._compute,
        )
        return Job(images, slot.device, (copy_in,), self._copies_out(slot, images, self._compute))

    def _copies_out(self, slot: Slot, images: int, stream: Any) -> tuple[Callable[[], Any], ...]:
        cuda = self._cuda
        return tuple(
            cuda.copy(
                slot.addresses[tensor.name],
                slot.device[tensor.name],
                images * tensor.bytes,
                cuda.to_host,
                stream,
            )
            for tensor in self._outputs
        )

    # ---- on the GPU ------------------------------------------------------------------------------

    def run_on_gpu(self, batch: OnGpu, check: Callable[[Borrowed], None]) -> dict[str, DeviceArray]:
        """As `run`, without a copy of the input, and without waiting for the outputs."""
        with self._lock, self._ready():
            # Before its owner is asked to wait with our stream, which he could not on another GPU.
            if batch.device is not None:
                self._check_device(batch.device)
            lent = borrowed(batch, int(self._compute))
            check(lent)
            if batch.device is None:
                self._check_device(self._cuda.device_of(lent.address))
            self._lent.release()
            try:
                return self._run_lent(lent)
            finally:
                self._lent.hold(lent)

    def _check_device(self, device: int) -> None:
        own = self._cuda.device
        if device != own:
            raise BatchError(
                "batch/device",
                f"the batch lies on GPU {device}, and the engine is on GPU {own}",
                help="copy it there, or open the bundle while the other GPU is the current one",
            )

    def _run_lent(self, lent: Borrowed) -> dict[str, DeviceArray]:
        cuda, images, slot = self._cuda, lent.shape[0], self._slots.first
        if not lent.ready:
            cuda.after(cuda.api.cudaStream_t(lent.stream), self._compute, self._event)
        if lent.address % ALIGNMENT:
            size = images * self._input.bytes
            place = slot.device[self._input.name]
            cuda.call(cuda.copy(place, lent.address, size, cuda.on_device, self._compute))
            key: object = (slot, images, "computation")
            self._launches.put(key, lambda: Job(images, slot.device))
        else:
            place = lent.address
            self._launches.put(
                (place, images),
                lambda: Job(images, {**slot.device, self._input.name: place}, lasting=False),
            )
        outputs, copy = {}, cuda.api.cudaMemcpyAsync
        for tensor in self._outputs:
            size = images * tensor.bytes
            block = self._blocks.take(block_size(size))
            source = slot.device[tensor.name]
            cuda.call(copy, block.thing.address, source, size, cuda.on_device, self._compute)
            holder = Computed(block, self._state, self._compute, self._event)
            shape = (images, *tensor.shape)
            outputs[tensor.name] = DeviceArray(holder, shape, tensor.type, cuda.device)
        return outputs

    # ---- the end ---------------------------------------------------------------------------------

    def close(self) -> None:
        self._state.close()

    def _synchronize(self, stream: Any) -> Any:
        return self._cuda.api.cudaStreamSynchronize(stream)

    def _ready(self) -> AbstractContextManager[None]:
        """The engine's GPU as the current one. Raises EngineError if the engine was closed."""
        if not self._state.open:
            raise closed()
        return self._cuda.current()


class TensorRTForRTX(TensorRT):
    """Runs a plan of `tensorrt_rtx`."""

    name: ClassVar[str] = "tensorrt_rtx"
    package: ClassVar[str] = "tensorrt-rtx"


def _numbers(version: str) -> tuple[int, ...]:
    """A version, or a compute capability, in an order of its own."""
    return tuple(map(int, re.findall(r"\d+", version)))


class _Slots:
    """Slots that are not in use; the first is `run`'s and never given away."""

    def __init__(self, make: Callable[[ExitStack], Slot]) -> None:
        self._make = make
        self._idle: list[Slot] = []

    @property
    def first(self) -> Slot:
        return self._idle[0]

    def take(self, held: ExitStack) -> Slot:
        if len(self._idle) > 1:
            return self._idle.pop()
        with ExitStack() as making:
            slot = self._make(making)
            held.enter_context(making.pop_all())
        return slot

    def give_back(self, slot: Slot) -> None:
        self._idle.append(slot)
