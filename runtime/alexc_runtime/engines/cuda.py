"""NVIDIA's CUDA runtime by way of `cuda-python`: memory, streams, events, graphs, and its errors.

Whatever is made here is noted in the `ExitStack` it is made for, and so given back in the opposite
order; what is given back late, or twice, or after the GPU has failed, fails silently, since nobody
could do anything about it.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from functools import partial
from typing import Any

from alexc_runtime.engines.base import first_line, import_obstacle, load
from alexc_runtime.engines.collection import without_collection
from alexc_runtime.errors import EngineError

MODULE = "cuda.bindings.runtime"

_NO_MEMORY, _OLD_DRIVER, _NO_DEVICE = 2, 35, 100  # of CUDA's errors
_OLDEST_CUDA = 12  # whose cuda-python has the module
# After these the process can do nothing more on the GPU, whatever it calls: by the pages of all but
# 709, a context that was destroyed, it "must be terminated and relaunched".
_FATAL = frozenset({226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, 810, 911})

_NOTHING = nullcontext()

# While a stream records, no thread may wait for the whole GPU: CUDA refuses that and ends the
# recording, whatever its mode (github.com/NVIDIA/TensorRT/issues/2888). So ours take turns, and so
# do plans and contexts that are made and destroyed, where TensorRT may wait in this way.
_recording = threading.RLock()

# What the build is to do where a GPU has too little memory.
SMALLER = (
    "build with a smaller --batch MIN,OPT,MAX, or end what else runs on the GPU (nvidia-smi lists)"
)


class Cuda:
    """The CUDA runtime on a GPU, by default the one that is current. `who` is for messages."""

    def __init__(self, who: str, device: int | None = None) -> None:
        self.api: Any = load(MODULE)
        self.who = who
        self.device = int(self.call(self.api.cudaGetDevice)) if device is None else device
        self._several = int(self.call(self.api.cudaGetDeviceCount)) > 1
        kinds = self.api.cudaMemcpyKind
        self.to_device = kinds.cudaMemcpyHostToDevice
        self.to_host = kinds.cudaMemcpyDeviceToHost
        self.on_device = kinds.cudaMemcpyDeviceToDevice

    # ---- errors ----------------------------------------------------------------------------------

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What a function of the CUDA runtime gives. Raises EngineError in CUDA's own words.

        Each returns its status, and then its results if it has any.
        """
        status, *results = function(*arguments)
        if status:
            raise self.fault(status)
        return results[0] if len(results) == 1 else tuple(results) or None

    def fault(self, status: Any, doing: str = "", help: str | None = None) -> EngineError:
        """The error of a status, which CUDA then forgets."""
        self.forget_error()
        words = f"CUDA error {int(status)}, {error_words(self.api, status)}"
        if int(status) in _FATAL:
            help = "the process can't use the GPU any more: start it again"
        message = f"{self.who} failed{doing and ' to ' + doing}: {words}"
        return EngineError("engine/run", message, help=help)

    def forget_error(self) -> None:
        """Let CUDA forget the last error of this thread, or whoever asks next takes it for his."""
        self.api.cudaGetLastError()

    # ---- what is made ----------------------------------------------------------------------------

    def memory(self, size: int, held: ExitStack, purpose: str) -> int:
        """The address of `size` bytes on the GPU, for `purpose` in words; aligned to 256 bytes."""
        status, address = self.api.cudaMalloc(size)
        if status:
            raise self._shortage(status, size, purpose)
        held.callback(self.api.cudaFree, int(address))
        return int(address)

    def page_locked(self, size: int, held: ExitStack, purpose: str) -> int:
        """The address of `size` bytes on the host, from which the GPU copies by itself."""
        status, address = self.api.cudaMallocHost(size)
        if status:
            doing = f"get {_bytes(size)} of page-locked memory on the host for {purpose}"
            raise self.fault(status, doing, SMALLER)
        held.callback(self.api.cudaFreeHost, int(address))
        return int(address)

    def stream(self, held: ExitStack) -> Any:
        """A stream that does not wait for the default stream, nor that for it."""
        made = self.call(self.api.cudaStreamCreateWithFlags, self.api.cudaStreamNonBlocking)
        held.callback(self.api.cudaStreamDestroy, made)
        return made

    def event(self, held: ExitStack) -> Any:
        """An event without a time."""
        made = self.call(self.api.cudaEventCreateWithFlags, self.api.cudaEventDisableTiming)
        held.callback(self.api.cudaEventDestroy, made)
        return made

    def graph(self, stream: Any, enqueue: Callable[[], None], held: ExitStack) -> Any:
        """What `enqueue` puts on the stream, recorded to be launched at once, and not yet run.

        Raises EngineError if it does anything that can't be recorded.
        """
        api = self.api
        with self.alone():
            # Of this thread alone: others may allocate and wait for their streams meanwhile.
            self.call(api.cudaStreamBeginCapture, stream, _mode(api))
            try:
                enqueue()
            except BaseException:
                # The stream would otherwise go on recording.
                status, begun = api.cudaStreamEndCapture(stream)
                if status:
                    self.forget_error()
                else:
                    api.cudaGraphDestroy(begun)
                raise
            status, graph = api.cudaStreamEndCapture(stream)
        if status:
            raise self.fault(status, "record a CUDA graph")
        try:
            made = self.call(api.cudaGraphInstantiate, graph, 0)
        finally:
            api.cudaGraphDestroy(graph)
        held.callback(api.cudaGraphExecDestroy, made)
        return made

    @contextmanager
    def alone(self) -> Iterator[None]:
        """A block in which nothing else of ours is recorded, or may wait for the whole GPU.

        Nor is anything collected: the end of an engine would wait for threads that wait for this.
        """
        with without_collection(), _recording:
            yield

    # ---- the GPU ---------------------------------------------------------------------------------

    def current(self) -> AbstractContextManager[None]:
        """A block in which this GPU is the thread's current one, on a machine with several."""
        return self._switched() if self._several else _NOTHING

    @contextmanager
    def _switched(self) -> Iterator[None]:
        before = int(self.call(self.api.cudaGetDevice))
        if before == self.device:
            yield
            return
        self.call(self.api.cudaSetDevice, self.device)
        try:
            yield
        finally:
            self.api.cudaSetDevice(before)

    def after(self, first: Any, then: Any, event: Any) -> None:
        """Let what is put on the stream `then` from now on wait for all that is on `first` now."""
        self.call(self.api.cudaEventRecord, event, first)
        self.call(self.api.cudaStreamWaitEvent, then, event, 0)

    def copy(self, target: int, source: int, size: int, kind: Any, stream: Any) -> Any:
        """The call that puts a copy on the stream, its arguments bound."""
        return partial(self.api.cudaMemcpyAsync, target, source, size, kind, stream)

    def rest(self) -> bool:
        """Wait for all that goes on on the GPU. False if somebody else's recording forbids it."""
        with self.alone():
            (status,) = self.api.cudaDeviceSynchronize()
        if status:
            self.forget_error()
        return not status

    def device_of(self, address: int) -> int:
        """The number of the GPU that memory lies on; this one, where it may lie on any."""
        if not self._several:
            return self.device
        found = self.call(self.api.cudaPointerGetAttributes, address)
        on_one = found.type == self.api.cudaMemoryType.cudaMemoryTypeDevice
        return int(found.device) if on_one else self.device

    def free_memory(self) -> tuple[int, int]:
        """The bytes that are free on the GPU, and all that it has."""
        free, total = self.call(self.api.cudaMemGetInfo)
        return int(free), int(total)

    def _shortage(self, status: Any, size: int, purpose: str) -> EngineError:
        if int(status) != _NO_MEMORY:
            return self.fault(status, f"get memory on the GPU for {purpose}")
        self.forget_error()
        free, total = self.free_memory()
        return EngineError(
            "engine/memory",
            f"{self.who} wants {_bytes(size)} on the GPU for {purpose}, "
            f"and {_bytes(free)} of {_bytes(total)} are free",
            help=SMALLER,
        )


def _mode(api: Any) -> Any:
    return api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal


def _bytes(size: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size} bytes"


def error_words(api: Any, status: Any) -> str:
    """What CUDA says of a status."""
    _, text = api.cudaGetErrorString(status)
    return first_line(text.decode() if isinstance(text, bytes) else text)


# ---- whether there is a GPU ----------------------------------------------------------------------

_NO_DRIVER = "there is no NVIDIA driver on this machine"


def no_driver() -> str | None:
    """That there is no NVIDIA driver on this machine, in words; None if there is."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        ctypes.CDLL(name)
    except OSError:
        return _NO_DRIVER
    return None


def no_gpu() -> str | None:
    """What keeps `cuda-python` from using a GPU here, in words; None if nothing does."""
    if obstacle := import_obstacle(MODULE, "cuda-python"):
        return obstacle
    api: Any = load(MODULE)
    try:
        status, count = api.cudaGetDeviceCount()
        _, driver = api.cudaDriverGetVersion()
    except RuntimeError as error:
        # cuda-python 12.6 gives no status where it finds no driver, or lacks a function of it.
        return no_driver() or f"CUDA can't use the NVIDIA driver: {first_line(error)}"
    if status:
        api.cudaGetLastError()  # as Cuda.forget_error does
    if int(status) == _NO_DEVICE or (not status and not count):
        return "there is no NVIDIA GPU on this machine, or CUDA_VISIBLE_DEVICES hides it"
    if int(status) == _OLD_DRIVER:
        # What is not there at all is too old as well, of version 0.
        return _too_old(driver, api.cudaRuntimeGetVersion()[1]) if driver else _NO_DRIVER
    if status:
        return f"CUDA can't use the NVIDIA driver: {error_words(api, status)}"
    return None


def _too_old(driver: int, runtime: int) -> str:
    reason = (
        f"the NVIDIA driver is too old: it offers CUDA {_version(driver)}, and the installed "
        f"cuda-python is of CUDA {_version(runtime)}; update the driver"
    )
    major = driver // 1000
    if major < _OLDEST_CUDA:
        return reason
    return f"{reason}, or pip install 'cuda-python=={major}.*'"


def staying() -> Callable[[], AbstractContextManager[None]]:
    """What makes the GPU that is current now the current one again, in whatever thread.

    Where there is none, or none that answers, it does nothing.
    """
    with suppress(EngineError):
        if not (no_driver() or no_gpu()):
            return Cuda("CUDA").current
    return lambda: _NOTHING


def capability() -> tuple[str, str]:
    """The name of the current GPU, and its compute capability as `8.9`. Asks no memory of it."""
    cuda = Cuda("CUDA")
    attributes = cuda.api.cudaDeviceAttr
    parts = (
        cuda.call(cuda.api.cudaDeviceGetAttribute, attribute, cuda.device)
        for attribute in (
            attributes.cudaDevAttrComputeCapabilityMajor,
            attributes.cudaDevAttrComputeCapabilityMinor,
        )
    )
    name = cuda.call(cuda.api.cudaGetDeviceProperties, cuda.device).name
    words = name.decode(errors="replace") if isinstance(name, bytes) else str(name)
    return words.rstrip("\0"), ".".join(map(str, parts))


def driver_version() -> int:
    """The CUDA that the driver offers, as 12040 for 12.4."""
    _, version = load(MODULE).cudaDriverGetVersion()
    return int(version)


def _version(number: int) -> str:
    """12040 as 12.4."""
    return f"{number // 1000}.{number % 1000 // 10}"
