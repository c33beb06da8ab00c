"""CUDA's runtime of straw, by the names of `cuda.bindings.runtime`, stricter than a GPU.

The GPU's memory is the host's, behind addresses that are nobody's: it is reached by copies alone.
A stream is a queue that nothing takes from until somebody waits for it, so that a wait that was
forgotten shows as numbers that are not there. Any use of what was freed or destroyed, a copy beyond
a block, a copy from memory that is not page-locked, or a call that may not be recorded is an
AssertionError, and no status: a GPU would go on with wrong numbers, or die.
"""

# The methods are called, and take what, the real functions do.
# ruff: noqa: ARG002, N802, N803

from __future__ import annotations

import ctypes
import enum
import itertools
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any, get_args, get_type_hints

import numpy as np
from numpy.typing import NDArray

Status = enum.IntEnum(
    "Status", {"cudaSuccess": 0, "cudaErrorMemoryAllocation": 2, "cudaErrorInsufficientDriver": 35,
               "cudaErrorNoDevice": 100, "cudaErrorNotReady": 600, "cudaErrorIllegalAddress": 700,
               "cudaErrorStreamCaptureUnsupported": 900, "cudaErrorStreamCaptureInvalidated": 901},
)  # fmt: skip
MemcpyKind = enum.IntEnum(
    "MemcpyKind",
    ["cudaMemcpyHostToDevice", "cudaMemcpyDeviceToHost", "cudaMemcpyDeviceToDevice"],
)
MemoryType = enum.IntEnum("MemoryType", {"cudaMemoryTypeDevice": 2, "cudaMemoryTypeManaged": 3})
CaptureMode = enum.IntEnum("CaptureMode", ["cudaStreamCaptureModeThreadLocal"], start=1)
DeviceAttr = enum.IntEnum(
    "DeviceAttr",
    ["cudaDevAttrComputeCapabilityMajor", "cudaDevAttrComputeCapabilityMinor"],
    start=75,
)

OK = Status["cudaSuccess"]
LEGACY = 1


class Handle:
    """What CUDA gives out: an object of which `int` is the handle."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __int__(self) -> int:
        return self.value


@dataclass
class Stream:
    """Work that waits to be done, each a function; `recorded` is what goes into a graph."""

    work: deque[Callable[[], object]] = field(default_factory=deque)
    recorded: list[Callable[[], object]] | None = None
    recorder: int = 0  # the thread that began
    invalid: bool = False


@dataclass
class Event:
    """`records` were put on a stream, `reached` of them were done there."""

    stream: Stream | None = None
    records: int = 0
    reached: int = 0


class Gpu:
    """The GPU: what a test sets beforehand, and looks at afterwards.

    `failing` maps a function to the status that it gives, once if `once` names it. `order` lists
    what was done, as it was done on the GPU; `calls` what was called.
    """

    def __init__(self, total: int = 1 << 30) -> None:
        self.total = total
        self.devices = 1
        self.current = 0  # the device; all work is on device 0
        self.elsewhere: set[int] = set()  # addresses that are said to lie on device 1
        self.managed: set[int] = set()  # and those on any
        self.driver, self.runtime = 13010, 13000
        self.capability = (8, 9)
        self.failing: dict[str, Status] = {}
        self.calls: list[str] = []
        self.order: list[str] = []
        self.memory: dict[int, NDArray[np.uint8]] = {}
        self.pinned: dict[int, Any] = {}
        self.streams: dict[int, Stream] = {LEGACY: Stream()}
        self.events: dict[int, Event] = {}
        self.graphs: dict[int, list[Callable[[], object]]] = {}
        self.ready_graphs: dict[int, list[Callable[[], object]]] = {}
        self.last: dict[int, Status] = {}  # the last error of each thread, until it is asked for
        self._lock = threading.RLock()  # the real functions may be called from many threads
        self._addresses = itertools.count(0x7F00_0000_0000, 1 << 28)
        self._handles = itertools.count(1000)

    # ---- for tests -------------------------------------------------------------------------------

    @property
    def used(self) -> int:
        return sum(len(block) for block in self.memory.values())

    def left(self) -> dict[str, int]:
        """What has not been given back, by kind; nothing where all was."""
        kinds = {
            "memory": self.memory, "pinned": self.pinned, "events": self.events,
            "graphs": self.graphs, "ready graphs": self.ready_graphs,
            "streams": {key: value for key, value in self.streams.items() if key != LEGACY},
        }  # fmt: skip
        return {kind: len(things) for kind, things in kinds.items() if things}

    def bytes_at(self, address: int, size: int) -> NDArray[np.uint8]:
        """The GPU's memory from an address on, all in one block."""
        for start, block in self.memory.items():
            if start <= address < start + max(1, len(block)):
                offset = address - start
                assert offset + size <= len(block), "beyond the block's end"
                return block[offset : offset + size]
        raise AssertionError(f"{address:#x} is no memory of the GPU, or was freed")

    def put(self, stream: Any, work: Callable[[], object]) -> None:
        """Put work on a stream; a stream that is recording keeps it for the graph."""
        found = self.stream(stream)
        if found.recorded is not None:
            found.recorded.append(work)
        else:
            found.work.append(work)

    def stream(self, handle: Any) -> Stream:
        assert int(handle) in self.streams, "this stream was destroyed, or never made"
        assert int(handle) != LEGACY or self.current == 0, "the default stream of another device"
        return self.streams[int(handle)]

    def drain(self, stream: Stream, until: Event | None = None, count: int = 0) -> None:
        """Do what waits on a stream, all of it or until an event was recorded so many times."""
        while stream.work and (until is None or until.reached < count):
            stream.work.popleft()()

    def handle(self) -> Handle:
        return Handle(next(self._handles))

    # ---- the library -----------------------------------------------------------------------------

    def library(self) -> ModuleType:
        """The module `cuda.bindings.runtime`."""
        module = ModuleType("cuda.bindings.runtime")
        for name in dir(type(self)):
            if name.startswith("cuda"):
                setattr(module, name, self._called(name))
        vars(module).update(
            cudaMemcpyKind=MemcpyKind,
            cudaMemoryType=MemoryType,
            cudaStreamCaptureMode=CaptureMode,
            cudaDeviceAttr=DeviceAttr,
            cudaStreamNonBlocking=1,
            cudaEventDisableTiming=2,
            cudaStream_t=Handle,
        )
        return module

    def _called(self, name: str) -> Callable[..., tuple[Any, ...]]:
        function = getattr(self, name)
        # Beside a status a function gives so many results, which are None where there is a fault.
        results = len(get_args(get_type_hints(function)["return"])[1:])

        def call(*arguments: Any) -> tuple[Any, ...]:
            with self._lock:
                self.calls.append(name)
                if name in self.failing:
                    if name == "cudaStreamEndCapture":
                        self.stream(arguments[0]).recorded = None
                    return self._noted(self.failing[name], *[None] * results)
                found = function(*arguments)
                if name == "cudaGetLastError":
                    return (found,)
                return self._noted(*found) if isinstance(found, tuple) else self._noted(found)

        return call

    def _noted(self, status: Status, *results: Any) -> tuple[Any, ...]:
        if status:
            self.last[threading.get_ident()] = status
        return status, *results

    def _not_recording(self, anywhere: bool = False) -> Status:
        """Calls that wait or allocate may not come while a stream of the thread records.

        And those that wait for the device not while a stream of any thread does.
        """
        recording = [
            stream
            for stream in self.streams.values()
            if stream.recorded is not None
            and (anywhere or stream.recorder == threading.get_ident())
        ]
        for stream in recording:
            stream.invalid = True
        return Status["cudaErrorStreamCaptureUnsupported"] if recording else OK

    def may_wait_for_all(self) -> bool:
        """Whether a library may wait for the device now; where it may not, recordings are ended."""
        return not self._not_recording(anywhere=True)

    def cudaGetDeviceCount(self) -> tuple[Status, int]:
        return OK, self.devices

    def cudaGetDevice(self) -> tuple[Status, int]:
        return OK, self.current

    def cudaSetDevice(self, device: int) -> Status:
        assert 0 <= device < self.devices
        self.current = device
        return OK

    def cudaDriverGetVersion(self) -> tuple[Status, int]:
        return OK, self.driver

    def cudaRuntimeGetVersion(self) -> tuple[Status, int]:
        return OK, self.runtime

    def cudaDeviceGetAttribute(self, attr: Any, device: int) -> tuple[Status, int]:
        return OK, self.capability[int(attr) - 75]

    def cudaGetDeviceProperties(self, device: int) -> tuple[Status, Any]:
        return OK, SimpleNamespace(name=b"GPU of straw\0\0")

    def cudaPointerGetAttributes(self, ptr: int) -> tuple[Status, Any]:
        kind = MemoryType[
            "cudaMemoryTypeManaged" if ptr in self.managed else "cudaMemoryTypeDevice"
        ]
        return OK, SimpleNamespace(type=kind, device=int(ptr in self.elsewhere))

    def cudaMemGetInfo(self) -> tuple[Status, int, int]:
        return OK, self.total - self.used, self.total

    def cudaGetLastError(self) -> Status:
        return self.last.pop(threading.get_ident(), OK)

    def cudaGetErrorString(self, error: Any) -> tuple[Status, bytes]:
        words = {2: b"out of memory", 700: b"an illegal memory access was encountered"}
        return OK, words.get(int(error), b"something failed")

    def cudaMalloc(self, size: int) -> tuple[Status, int | None]:
        if status := self._not_recording():
            return status, None
        if self.used + size > self.total:
            return Status["cudaErrorMemoryAllocation"], None
        address = next(self._addresses)
        self.memory[address] = np.full(size, 0xEE, np.uint8)
        return OK, address

    def cudaFree(self, devPtr: int) -> Status:
        if status := self._not_recording():
            return status
        del self.memory[devPtr]
        return OK

    def cudaMallocHost(self, size: int) -> tuple[Status, int | None]:
        if status := self._not_recording():
            return status, None
        block = ctypes.create_string_buffer(b"\xdd" * size, size)
        self.pinned[ctypes.addressof(block)] = block
        return OK, ctypes.addressof(block)

    def cudaFreeHost(self, ptr: int) -> Status:
        if status := self._not_recording():
            return status
        del self.pinned[ptr]
        return OK

    def _host(self, address: int, size: int, pinned: bool) -> NDArray[np.uint8]:
        if pinned:
            assert any(
                start <= address and address + size <= start + len(block)
                for start, block in self.pinned.items()
            ), "an asynchronous copy wants page-locked memory on the host"
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def cudaMemcpyAsync(self, dst: int, src: int, count: int, kind: Any, stream: Any) -> Status:
        def work() -> None:
            self.order.append(MemcpyKind(kind).name.removeprefix("cudaMemcpy"))
            if kind == MemcpyKind["cudaMemcpyHostToDevice"]:
                self.bytes_at(dst, count)[...] = self._host(src, count, pinned=True)
            elif kind == MemcpyKind["cudaMemcpyDeviceToHost"]:
                self._host(dst, count, pinned=True)[...] = self.bytes_at(src, count)
            else:
                self.bytes_at(dst, count)[...] = self.bytes_at(src, count)

        self.put(stream, work)
        return OK

    def cudaMemcpy(self, dst: int, src: int, count: int, kind: Any) -> Status:
        assert kind == MemcpyKind["cudaMemcpyDeviceToHost"]
        self.drain(self.streams[LEGACY])
        self._host(dst, count, pinned=False)[...] = self.bytes_at(src, count)
        return OK

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Status, Handle]:
        assert flags == 1
        handle = self.handle()
        self.streams[int(handle)] = Stream()
        return OK, handle

    def cudaStreamDestroy(self, stream: Any) -> Status:
        assert not self.stream(stream).work, "work goes on on this stream"
        del self.streams[int(stream)]
        return OK

    def cudaStreamSynchronize(self, stream: Any) -> Status:
        if status := self._not_recording():
            return status
        self.drain(self.stream(stream))
        return OK

    def cudaDeviceSynchronize(self) -> Status:
        if status := self._not_recording(anywhere=True):
            return status
        for stream in self.streams.values():
            self.drain(stream)
        return OK

    def cudaStreamWaitEvent(self, stream: Any, event: Any, flags: int) -> Status:
        assert flags == 0
        found = self.events[int(event)]
        count = found.records  # the last that was recorded until now

        def work() -> None:
            if found.stream is not None:
                self.drain(found.stream, found, count)
            assert found.reached >= count

        self.put(stream, work)
        return OK

    def cudaEventCreateWithFlags(self, flags: int) -> tuple[Status, Handle]:
        handle = self.handle()
        self.events[int(handle)] = Event()
        return OK, handle

    def cudaEventDestroy(self, event: Any) -> Status:
        del self.events[int(event)]
        return OK

    def cudaEventRecord(self, event: Any, stream: Any) -> Status:
        found = self.events[int(event)]
        found.stream = self.stream(stream)
        found.records += 1

        def work() -> None:
            found.reached += 1

        self.put(stream, work)
        return OK

    def cudaEventQuery(self, event: Any) -> Status:
        if status := self._not_recording():
            return status
        found = self.events[int(event)]
        return OK if found.reached == found.records else Status["cudaErrorNotReady"]

    def cudaEventSynchronize(self, event: Any) -> Status:
        found = self.events[int(event)]
        assert found.stream is not None, "nobody recorded this event"
        self.drain(found.stream, found, found.records)
        return OK

    def cudaStreamBeginCapture(self, stream: Any, mode: Any) -> Status:
        found = self.stream(stream)
        assert found.recorded is None
        assert int(stream) != LEGACY
        found.recorded, found.recorder, found.invalid = [], threading.get_ident(), False
        return OK

    def cudaStreamEndCapture(self, stream: Any) -> tuple[Status, Handle | None]:
        found = self.stream(stream)
        assert found.recorded is not None
        recorded, found.recorded = found.recorded, None
        if found.invalid:
            return Status["cudaErrorStreamCaptureInvalidated"], None
        handle = self.handle()
        self.graphs[int(handle)] = recorded
        return OK, handle

    def cudaGraphInstantiate(self, graph: Any, flags: int) -> tuple[Status, Handle]:
        handle = self.handle()
        self.ready_graphs[int(handle)] = self.graphs[int(graph)]
        return OK, handle

    def cudaGraphDestroy(self, graph: Any) -> Status:
        del self.graphs[int(graph)]
        return OK

    def cudaGraphExecDestroy(self, graphExec: Any) -> Status:
        del self.ready_graphs[int(graphExec)]
        return OK

    def cudaGraphLaunch(self, graphExec: Any, stream: Any) -> Status:
        recorded = self.ready_graphs[int(graphExec)]
        for work in recorded:
            self.put(stream, work)
        return OK
