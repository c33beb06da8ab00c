"""Arrays of other libraries as batches, and outputs that stay on the GPU: who copies, who waits.

On the CPU with the real torch; on the GPU of straw with arrays that follow both protocols.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import alexc_runtime
from alexc_runtime import BatchError, dlpack
from alexc_runtime.arrays import DeviceArray
from alexc_runtime.engines import cuda
from tests.cuda_double import LEGACY, Gpu, Status
from tests.gpu_machine import Machine, machine
from tests.small_bundle import IMAGE, Array, built, expected, images

__all__ = ["built", "machine"]

# ---- on the CPU ----------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_tensors_of_torch_run_where_they_lie(
    built: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(images(3)).clone()
    places = []
    with alexc_runtime.open(built, engine, threads=1) as opened:
        loaded = opened._engine
        assert loaded is not None
        run = loaded.run

        def watched(batch: Array) -> dict[str, Array]:
            places.append(batch.ctypes.data)
            return run(batch)

        monkeypatch.setattr(loaded, "run", watched)
        outputs = opened.run(tensor)
        assert places == [tensor.data_ptr()]
        for name, value in expected(images(3)).items():
            assert isinstance(outputs[name], np.ndarray)
            np.testing.assert_allclose(outputs[name], value, rtol=1e-5, atol=1e-5)
        # In another order of the axes it takes a copy, and is right as well.
        last = tensor.contiguous(memory_format=torch.channels_last)
        np.testing.assert_array_equal(opened.run(last)["scores"], outputs["scores"])
        (many,) = opened.run_many([tensor])
        np.testing.assert_array_equal(many["scores"], outputs["scores"])


def test_tensors_that_can_not_be_lent_or_are_no_batch_are_refused(built: Path) -> None:
    torch = pytest.importorskip("torch")
    with alexc_runtime.open(built, "onnxruntime", threads=1) as opened:
        for tensor, code, text in (
            (torch.zeros(2, *IMAGE, requires_grad=True), "batch/type", "torch.Tensor, can't be"),
            (torch.zeros(2, *IMAGE, dtype=torch.bfloat16), "batch/type", "can't be read where"),
            (torch.zeros(2, *IMAGE, dtype=torch.float64), "batch/dtype", "holds float64"),
            (torch.zeros(*IMAGE), "batch/shape", "the batch is (3, 9, 11)"),
        ):
            with pytest.raises(BatchError) as caught:
                opened.run(tensor)
            assert caught.value.code == code
            assert text in caught.value.message


def test_what_lies_elsewhere_is_refused_in_words(built: Path) -> None:
    class Elsewhere:
        def __dlpack__(self, **_: Any) -> Any:
            raise AssertionError("nobody asked where it lies")

        def __dlpack_device__(self) -> tuple[int, int]:
            return self.kind, 0

        kind = 8

    class OnGpu:
        @property
        def __cuda_array_interface__(self) -> dict[str, Any]:
            return {"shape": (2, *IMAGE)}

    here = Elsewhere()
    with alexc_runtime.open(built, "onnxruntime", threads=1) as opened:
        with pytest.raises(BatchError, match="DLPack's kind 8, neither CPU nor CUDA"):
            opened.run(here)
        here.kind = dlpack.CUDA
        for batch in (here, OnGpu()):
            with pytest.raises(BatchError, match="on a GPU, and onnxruntime computes on the CPU"):
                opened.run(batch)
            with pytest.raises(BatchError, match="here it is to lie in memory of the CPU"):
                list(opened.run_many([batch]))


@pytest.mark.parametrize("says", [None, (), 1, ("x", 0), RuntimeError("lost"), OSError()])
def test_what_can_not_say_where_it_lies_is_refused(built: Path, says: object) -> None:
    class Silent:
        def __dlpack__(self, **_: Any) -> Any:
            raise AssertionError("nobody knows where it lies")

        def __dlpack_device__(self) -> Any:
            if isinstance(says, Exception):
                raise says
            return says

    with (
        alexc_runtime.open(built, "onnxruntime", threads=1) as opened,
        pytest.raises(BatchError, match=r"Silent, can't be read where it lies"),
    ):
        opened.run(Silent())


@pytest.mark.parametrize(
    "protocol", ["__dlpack__", "__dlpack_device__", "__cuda_array_interface__"]
)
def test_what_can_not_say_whether_it_is_lent_is_refused(built: Path, protocol: str) -> None:
    """As a tensor of torch that takes part in a gradient, of its __cuda_array_interface__."""

    def lost(_: object) -> Any:
        raise RuntimeError("use tensor.detach()")

    names = {"__dlpack__": None, "__dlpack_device__": None} if protocol != "__dlpack__" else {}
    members = {} if protocol == "__cuda_array_interface__" else names
    torn = type("Torn", (), members | {protocol: property(lost)})()
    with alexc_runtime.open(built, "onnxruntime", threads=1) as opened:
        for run in (opened.run, lambda batch: next(opened.run_many([batch]))):
            with pytest.raises(BatchError, match=r"Torn, can't be read .*: use tensor\.detach"):
                run(torn)


# ---- capsules ------------------------------------------------------------------------------------


class _Lender:
    """A numpy array lent by this project's own capsules."""

    device = dlpack.CPU

    def __init__(self, array: Array) -> None:
        self.array = array
        self.owner = _Owner()

    def __dlpack__(self, **_: Any) -> Any:
        place, shape = self.array.ctypes.data, self.array.shape
        return dlpack.write(place, shape, self.array.dtype, (self.device, 0), self.owner)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device, 0


class _Owner:
    """Something that can be seen to be held."""


@pytest.mark.parametrize("taker", ["numpy", "torch"])
def test_a_capsule_holds_its_array_until_it_is_given_back(taker: str) -> None:
    library = pytest.importorskip(taker)
    lender = _Lender(images(2))
    owner = weakref.ref(lender.owner)
    taken = library.from_dlpack(lender)
    np.testing.assert_array_equal(np.asarray(taken), images(2))
    array = lender.array
    del lender
    assert owner() is not None
    del taken
    assert owner() is None
    assert array is not None


def test_a_capsule_that_nobody_takes_gives_its_array_back() -> None:
    lender = _Lender(images(2))
    owner = weakref.ref(lender.owner)
    capsule = lender.__dlpack__()
    found = dlpack.read(capsule)
    assert (found.shape, found.device) == ((2, *IMAGE), (dlpack.CPU, 0))
    assert found.type == np.float32
    assert found.contiguous
    del lender, capsule
    assert owner() is None


@pytest.mark.parametrize("taker", ["numpy", "torch"])
def test_an_exception_on_its_way_passes_an_array_that_is_given_back(taker: str) -> None:
    library = pytest.importorskip(taker)
    lender = _Lender(images(2))
    owner = weakref.ref(lender.owner)
    # The array goes while the exception is there, and so does a capsule that is refused.
    with pytest.raises((ValueError, RuntimeError), match=r"reshape|invalid for input"):
        library.from_dlpack(lender).reshape(7)
    lender.device = 7
    with pytest.raises((BufferError, RuntimeError), match=r"[Uu]nsupported device"):
        library.from_dlpack(lender)
    del lender
    gc.collect()
    assert owner() is None


def test_what_capsules_of_torch_say_is_read() -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.zeros(2, 3, 4)
    assert not dlpack.read(tensor.transpose(1, 2).__dlpack__()).contiguous
    # The stride of an axis with one entry says nothing.
    assert dlpack.read(torch.zeros(1, 4, 1).transpose(0, 2).__dlpack__()).contiguous
    assert dlpack.read(tensor[1].__dlpack__()).address == tensor.data_ptr() + 48
    assert dlpack.read(tensor.to(torch.bfloat16).__dlpack__()).type is None
    capsule = tensor.__dlpack__()
    torch.from_dlpack(capsule)
    with pytest.raises(ValueError, match="no fresh capsule"):
        dlpack.read(capsule)


# ---- on the GPU ----------------------------------------------------------------------------------


class Straw:
    """An array of another library on the GPU of straw: written on its own stream, when it is time.

    `offset` bytes lie before it in its block.
    """

    def __init__(self, gpu: Gpu, array: Array, stream: int = LEGACY, offset: int = 0) -> None:
        self.gpu = gpu
        self.shape = array.shape
        self.dtype = array.dtype
        self.theirs = stream
        _, self.block = gpu.cudaMalloc(offset + array.nbytes)
        assert self.block is not None
        self.address = self.block + offset
        self.write(array)

    def write(self, array: Array) -> None:
        """Put new numbers there, in the order of the own stream."""
        data = array.copy().view(np.uint8).reshape(-1)

        def work() -> None:
            self.gpu.bytes_at(self.address, len(data))[...] = data

        self.gpu.put(self.theirs, work)

    def __del__(self) -> None:
        self.gpu.cudaFree(self.block)  # type: ignore[arg-type]


class ByDlpack(Straw):
    device = 0

    def __dlpack__(self, *, stream: int) -> Any:
        gpu = self.gpu
        _, event = gpu.cudaEventCreateWithFlags(2)
        gpu.cudaEventRecord(event, self.theirs)
        gpu.cudaStreamWaitEvent(stream, event, 0)
        gpu.drain(gpu.stream(stream))  # so that the event may go
        gpu.cudaEventDestroy(event)
        return dlpack.write(self.address, self.shape, self.dtype, (2, self.device), self)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.device


class ByInterface(Straw):
    strides: tuple[int, ...] | None = None

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "version": 3, "shape": self.shape, "typestr": self.dtype.str,
            "data": (self.address, False), "strides": self.strides, "stream": self.theirs,
        }  # fmt: skip


KINDS = [ByDlpack, ByInterface]


def numbers(outputs: dict[str, Any]) -> dict[str, Array]:
    return {name: output.numpy() for name, output in outputs.items()}


def agree(outputs: dict[str, Any], batch: Array) -> None:
    assert list(outputs) == ["scores", "conv"]
    for name, value in expected(batch).items():
        assert isinstance(outputs[name], DeviceArray)
        assert (outputs[name].shape, outputs[name].dtype) == (value.shape, value.dtype)
        np.testing.assert_array_equal(outputs[name].numpy(), value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_on_the_gpu_is_read_where_it_lies(
    built: Path, machine: Machine, kind: type[Straw]
) -> None:
    with machine.open(built) as opened:
        batch = kind(machine.gpu, images(3))
        for _ in range(4):
            machine.gpu.order.clear()
            agree(opened.run(batch), images(3))
            # Its outputs are copied to memory of the caller's; nothing else is.
            assert machine.gpu.order == ["computation", *["DeviceToDevice"] * 2]
        assert "cudaGraphLaunch" in machine.gpu.calls
        agree(opened.run(kind(machine.gpu, images(4))), images(4))
        agree(opened.run(kind(machine.gpu, images(2), offset=4)), images(2))
        np.testing.assert_array_equal(opened.run(images(3))["conv"], expected(images(3))["conv"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_on_the_gpu_does_not_wait(built: Path, machine: Machine, kind: type[Straw]) -> None:
    batch = kind(machine.gpu, images(3))
    with machine.open(built) as opened:
        for _ in range(3):
            opened.run(batch)
        machine.gpu.calls.clear()
        outputs = opened.run(batch)
        assert not [call for call in machine.gpu.calls if "Synchronize" in call]
        agree(outputs, images(3))


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_owner_writes_afterwards_comes_afterwards(
    built: Path, machine: Machine, kind: type[Straw]
) -> None:
    batch = kind(machine.gpu, images(3))
    with machine.open(built) as opened:
        for count in range(4):
            batch.write(images(3) + count)
            outputs = opened.run(batch)
            batch.write(images(3) - 9)
            machine.gpu.drain(machine.gpu.streams[LEGACY])
            agree(outputs, images(3) + count)


@pytest.mark.parametrize("kind", KINDS)
def test_the_input_is_held_until_it_was_read(
    built: Path, machine: Machine, kind: type[Straw]
) -> None:
    with machine.open(built) as opened:
        for _ in range(20):
            outputs = opened.run(kind(machine.gpu, images(3)))
            assert len(machine.gpu.memory) > 3
            agree(outputs, images(3))
        held = [machine.gpu.used]
        for _ in range(20):
            agree(opened.run(kind(machine.gpu, images(3))), images(3))
            held.append(machine.gpu.used)
        assert max(held) == held[0]


def test_the_last_input_is_given_back_by_a_batch_of_the_host(built: Path, machine: Machine) -> None:
    with machine.open(built) as opened:
        batch = ByDlpack(machine.gpu, images(3))
        opened.run(batch)
        lent = weakref.ref(batch)
        del batch
        assert lent() is not None
        opened.run(images(2))
        gc.collect()
        assert lent() is None


def test_outputs_on_the_gpu_are_the_callers_own(built: Path, machine: Machine) -> None:
    opened = machine.open(built)
    batches = [ByDlpack(machine.gpu, images(3) + n) for n in range(5)]
    outputs = [opened.run(batch) for batch in batches]
    scores = outputs[4].pop("scores")
    for n in range(4):
        agree(outputs[n], images(3) + n)
    opened.close()
    # They outlive the session, and what nobody holds is given back.
    assert scores.__cuda_array_interface__["stream"] is None
    np.testing.assert_array_equal(scores.numpy(), expected(images(3) + 4)["scores"])
    agree(outputs[2], images(3) + 2)
    del outputs, batches
    gc.collect()
    assert machine.gpu.left() == {"memory": 1}
    assert repr(scores) == "<alexc_runtime.DeviceArray float32 (3, 5) on GPU 0>"


def test_an_output_on_the_gpu_is_copied_where_that_is_asked_for(
    built: Path, machine: Machine
) -> None:
    with machine.open(built) as opened:
        outputs = opened.run(ByDlpack(machine.gpu, images(3)))
        with pytest.raises(TypeError, match=r"its numpy\(\) copies it"):
            np.asarray(outputs["scores"])
        found = alexc_runtime.top(outputs, opened.manifest, k=2)
        assert found == alexc_runtime.top(expected(images(3)), opened.manifest, k=2)


def test_who_takes_an_output_gets_it_in_order(built: Path, machine: Machine) -> None:
    gpu = machine.gpu
    with machine.open(built) as opened:
        scores = opened.run(ByDlpack(gpu, images(2)))["scores"]
        _, theirs = gpu.cudaStreamCreateWithFlags(1)
        capsule = scores.__dlpack__(stream=int(theirs), max_version=(1, 1))
        found = dlpack.read(capsule)
        assert (found.device, found.shape, found.contiguous) == ((2, 0), (2, 5), True)
        gpu.drain(gpu.stream(theirs))
        raw = gpu.bytes_at(found.address, 40).view(np.float32).reshape(2, 5)
        np.testing.assert_array_equal(raw, expected(images(2))["scores"])
        gpu.cudaStreamDestroy(theirs)

        scores = opened.run(ByDlpack(gpu, images(3)))["scores"]
        says = scores.__cuda_array_interface__
        gpu.drain(gpu.stream(says["stream"]))
        raw = gpu.bytes_at(says["data"][0], 60).view(np.float32).reshape(says["shape"])
        np.testing.assert_array_equal(raw, expected(images(3))["scores"])

        assert scores.__dlpack_device__() == (2, 0)
        gpu.calls.clear()
        scores.__dlpack__(stream=-1)
        assert gpu.calls == []
        for wrong in ({"copy": True}, {"dl_device": (dlpack.CPU, 0)}):
            with pytest.raises(BufferError):
                scores.__dlpack__(**wrong)
        with pytest.raises(ValueError, match="ambiguous"):
            scores.__dlpack__(stream=0)
        # What was taken lives on without the array.
        capsule = scores.__dlpack__()
        place = dlpack.read(capsule).address
        del scores
        assert gpu.bytes_at(place, 60).size == 60
        del capsule
        del says


@pytest.mark.parametrize("said", [True, False])
def test_a_batch_on_another_gpu_is_refused_before_it_is_touched(
    built: Path, machine: Machine, said: bool
) -> None:
    gpu = machine.gpu
    gpu.devices = 2
    batch = (ByDlpack if said else ByInterface)(gpu, images(3))
    if isinstance(batch, ByDlpack):
        batch.device = 1
    else:  # the interface says nothing of it
        gpu.elsewhere.add(batch.address)
    with machine.open(built) as opened:
        gpu.calls.clear()
        with pytest.raises(BatchError, match="lies on GPU 1, and the engine is on GPU 0"):
            opened.run(batch)
        assert not {"cudaEventRecord", "cudaStreamWaitEvent"} & set(gpu.calls)
    gpu.drain(gpu.streams[LEGACY])  # which nobody has waited for


def test_memory_that_moves_is_read_like_that_of_a_gpu(built: Path, machine: Machine) -> None:
    class Managed(ByDlpack):
        def __dlpack_device__(self) -> tuple[int, int]:
            return dlpack.CUDA_MANAGED, 0

    machine.gpu.devices = 2
    batch = Managed(machine.gpu, images(3))
    machine.gpu.managed.add(batch.address)
    machine.gpu.elsewhere.add(batch.address)  # where it was last
    with machine.open(built) as opened:
        agree(opened.run(batch), images(3))


def test_a_fork_gives_back_nothing_of_its_parent(
    built: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with machine.open(built) as opened:
        opened.run(images(3))
        engine = opened._engine
        assert engine is not None
        machine.gpu.calls.clear()
        own = os.getpid()
        monkeypatch.setattr(os, "getpid", lambda: own + 1)
        engine._state.close()  # type: ignore[attr-defined]
        assert machine.gpu.calls == []
        monkeypatch.undo()
        np.testing.assert_array_equal(opened.run(images(3))["conv"], expected(images(3))["conv"])


def test_memory_for_outputs_is_bounded(built: Path, machine: Machine) -> None:
    with machine.open(built) as opened:
        batch = ByDlpack(machine.gpu, images(3))
        blocks = set()
        for _ in range(60):
            opened.run(batch)
            blocks.add(len(machine.gpu.memory))
        assert max(blocks) <= 25
        assert machine.gpu.calls.count("cudaDeviceSynchronize") <= 10


def test_memory_is_not_used_again_while_nobody_may_wait_for_the_gpu(
    built: Path, machine: Machine
) -> None:
    with machine.open(built) as opened:
        batch = ByDlpack(machine.gpu, images(3))
        machine.gpu.failing["cudaDeviceSynchronize"] = Status["cudaErrorStreamCaptureUnsupported"]
        for _ in range(20):
            agree(opened.run(batch), images(3))
        assert len(machine.gpu.memory) > 30
        machine.gpu.failing.clear()
        agree(opened.run(batch), images(3))


def test_an_output_is_given_back_while_another_thread_waits_for_the_gpu(
    built: Path, machine: Machine
) -> None:
    """Whoever collects it may be what that thread waits for."""
    library = sys.modules[cuda.MODULE]
    synchronize = library.cudaDeviceSynchronize
    reached, go_on = threading.Event(), threading.Event()

    def slow() -> Any:
        reached.set()
        assert go_on.wait(20)
        return synchronize()

    with machine.open(built) as opened:
        batch = ByDlpack(machine.gpu, images(3))
        kept = [opened.run(batch)]
        for _ in range(8):
            opened.run(batch)
        machine.patch.setattr(library, "cudaDeviceSynchronize", slow)
        running = threading.Thread(target=lambda: kept.append(opened.run(batch)))
        running.start()
        assert reached.wait(20)
        dropping = threading.Thread(target=lambda: kept.pop(0))
        dropping.start()
        dropping.join(5)
        assert not dropping.is_alive()
        go_on.set()
        running.join()
        agree(kept[0], images(3))


def test_the_gpu_that_is_current_may_be_another(built: Path, machine: Machine) -> None:
    machine.gpu.devices = 2
    batch = ByDlpack(machine.gpu, images(3))
    with machine.open(built) as opened:
        opened.run(batch)
        machine.gpu.current = 1
        outputs = opened.run(batch)
        for output in outputs.values():
            output.__dlpack__()
        agree(outputs, images(3))
    assert machine.gpu.current == 1
    machine.gpu.current = 0


def test_arrays_on_the_gpu_that_are_no_batch_are_refused(built: Path, machine: Machine) -> None:
    gpu = machine.gpu
    with machine.open(built) as opened:

        def fault(batch: object) -> BatchError:
            with pytest.raises(BatchError) as caught:
                opened.run(batch)
            return caught.value

        assert "holds float64" in fault(ByDlpack(gpu, np.zeros((2, *IMAGE)))).message  # type: ignore[arg-type]
        assert fault(ByInterface(gpu, images(2)[0])).help == (
            "batch[np.newaxis] makes a batch of one image"
        )
        assert fault(ByDlpack(gpu, images(9))).code == "batch/size"
        strided = ByInterface(gpu, images(2))
        strided.strides = (1188, 4, 132, 12)
        assert fault(strided).code == "batch/layout"
        strided.strides = (1188, 396, 44, 4)
        agree(opened.run(strided), images(2))
        short = ByInterface(gpu, images(2)[:1])
        short.strides = (4752, 396, 44, 4)  # one image, of every fourth
        assert fault(short).code == "batch/size"
        other = ByDlpack(gpu, images(2))
        other.device = 3
        assert "lies on GPU 3, and the engine is on GPU 0" in fault(other).message
        nowhere = ByInterface(gpu, images(2), stream=LEGACY)
        nowhere.theirs = 0
        assert "the stream 0, which the protocol forbids" in fault(nowhere).message
        agree(opened.run(ByDlpack(gpu, images(2))), images(2))
