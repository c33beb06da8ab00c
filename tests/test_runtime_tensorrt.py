"""TensorRT in the runtime, on a GPU of straw.

No machine of the tests has a GPU, so the engine runs against a double of both libraries that keeps
device memory on the host. Two tests hold the double's names against the real libraries: what the
engine uses must be there, and the double offers nothing else.
"""

from __future__ import annotations

import ctypes
import enum
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import alexc_runtime
from alexc.bundle import staged
from alexc_runtime import (
    BatchError,
    EngineError,
    EngineUnavailableError,
)
from alexc_runtime.engines import tensorrt
from alexc_runtime.manifest import (
    MODEL,
    EngineRecord,
)
from tests.small_bundle import IMAGE, MANIFEST, PLAN, Array, expected, fill, images, make


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that no test may change."""
    out = tmp_path_factory.mktemp("built") / "small"
    make(out)
    return out


class _TensorIOMode(enum.Enum):
    INPUT = 1
    OUTPUT = 2


class _DataType(enum.Enum):
    FLOAT = 0
    HALF = 1


_MemcpyKind = enum.IntEnum("_MemcpyKind", ["cudaMemcpyHostToDevice", "cudaMemcpyDeviceToHost"])


class _Severity(enum.Enum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2


class _ILogger:
    INTERNAL_ERROR = _Severity.INTERNAL_ERROR
    ERROR = _Severity.ERROR
    WARNING = _Severity.WARNING

    def __init__(self) -> None:
        pass


class _Gpu:
    """What a test sets before opening, and reads after closing."""

    def __init__(self) -> None:
        self.devices = 1
        self.failing = ""  # the function that fails
        self.shapes: dict[str, tuple[int, ...]] = {
            "input": (-1, *IMAGE), "scores": (-1, 5), "conv": (-1, 5, 7, 9),
        }  # fmt: skip
        self.dtype = _DataType.FLOAT
        self.profiles = 1
        self.memory: dict[int, Any] = {}
        self.streams: set[int] = set()
        self.events: list[str] = []

    def status(self, function: str) -> int:
        self.events.append(function)
        return 2 if self.failing == function else 0


def _fake_cuda(gpu: _Gpu) -> ModuleType:
    module = ModuleType("cuda.bindings.runtime")

    def malloc(size: int) -> tuple[int, int | None]:
        if status := gpu.status("cudaMalloc"):
            return status, None
        block = ctypes.create_string_buffer(size)
        gpu.memory[ctypes.addressof(block)] = block
        return 0, ctypes.addressof(block)

    def free(address: int) -> tuple[int]:
        del gpu.memory[address]
        return (gpu.status("cudaFree"),)

    def copy(target: int, source: int, size: int, kind: int, stream: int) -> tuple[int]:
        device = target if kind == _MemcpyKind["cudaMemcpyHostToDevice"] else source
        assert size <= len(gpu.memory[device])
        assert stream in gpu.streams
        status = gpu.status("cudaMemcpyAsync")
        if not status:
            ctypes.memmove(target, source, size)
        return (status,)

    def create() -> tuple[int, int | None]:
        if status := gpu.status("cudaStreamCreate"):
            return status, None
        gpu.streams.add(17)
        return 0, 17

    def destroy(stream: int) -> tuple[int]:
        gpu.streams.remove(stream)
        return (gpu.status("cudaStreamDestroy"),)

    vars(module).update(
        cudaMemcpyKind=_MemcpyKind,
        cudaMalloc=malloc,
        cudaFree=free,
        cudaMemcpyAsync=copy,
        cudaStreamCreate=create,
        cudaStreamDestroy=destroy,
        cudaStreamSynchronize=lambda _: (gpu.status("cudaStreamSynchronize"),),
        cudaGetDeviceCount=lambda: (gpu.status("cudaGetDeviceCount"), gpu.devices),
        cudaGetErrorString=lambda _: (0, b"out of memory"),
    )
    return module


def _fake_tensorrt(gpu: _Gpu) -> ModuleType:
    module = ModuleType("tensorrt_rtx")

    class Context:
        def __init__(self) -> None:
            self.addresses: dict[str, int] = {}
            self.batch = 0

        def set_tensor_address(self, name: str, memory: int) -> bool:
            self.addresses[name] = memory
            return gpu.status("set_tensor_address") == 0

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            assert name == "input"
            self.batch = shape[0]
            return gpu.status("set_input_shape") == 0

        def execute_async_v3(self, stream_handle: int) -> bool:
            assert stream_handle in gpu.streams
            if gpu.status("execute_async_v3"):
                return False

            def view(name: str) -> Array:
                shape = (self.batch, *gpu.shapes[name][1:])
                block = gpu.memory[self.addresses[name]]
                flat = np.frombuffer(block, np.float32, int(np.prod(shape)))
                return flat.reshape(shape)

            for name, value in expected(view("input")).items():
                view(name)[...] = value
            return True

    class CudaEngine:
        num_io_tensors = len(gpu.shapes)
        num_optimization_profiles = gpu.profiles

        def get_tensor_name(self, index: int) -> str:
            return list(gpu.shapes)[index]

        def get_tensor_mode(self, name: str) -> _TensorIOMode:
            return _TensorIOMode.INPUT if name == "input" else _TensorIOMode.OUTPUT

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return gpu.shapes[name]

        def get_tensor_dtype(self, name: str) -> _DataType:
            return gpu.dtype if name == "conv" else _DataType.FLOAT

        def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
            assert (name, index) == ("input", 0)
            return [(size, *IMAGE) for size in (2, 3, 4)]

        def create_execution_context(self) -> Context | None:
            return None if gpu.status("create_execution_context") else Context()

    class Runtime:
        def __init__(self, log: Any) -> None:
            self.log = log

        def deserialize_cuda_engine(self, plan: bytes) -> CudaEngine | None:
            assert plan == b"a plan\0" * 99
            if gpu.status("deserialize_cuda_engine"):
                self.log.log(_Severity.WARNING, "this is of no importance")
                self.log.log(_Severity.ERROR, "the plan is of version 9\nin runtime.cpp:48")
                return None
            return CudaEngine()

    vars(module).update(
        ILogger=_ILogger,
        Runtime=Runtime,
        ICudaEngine=CudaEngine,
        IExecutionContext=Context,
        TensorIOMode=_TensorIOMode,
        DataType=_DataType,
    )
    return module


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> _Gpu:
    gpu = _Gpu()
    monkeypatch.setattr(tensorrt, "_no_driver", lambda: None)
    cuda = _fake_cuda(gpu)
    monkeypatch.setitem(sys.modules, "cuda", ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", ModuleType("cuda.bindings"))
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", _fake_tensorrt(gpu))
    return gpu


def test_a_plan_runs_where_there_is_a_gpu(built: Path, gpu: _Gpu) -> None:
    with alexc_runtime.open(built) as opened:
        assert (opened.engine, opened.status) == ("tensorrt_rtx", "built, not run: no GPU")
        assert opened.why.startswith(
            "tensorrt_rtx: the best engine at hand; built, not run: no GPU. Passed over: tensorrt:"
        )
        assert opened.batch_limits == (2, 4)
        assert len(gpu.memory) == 3
        for count in (4, 2, 3):
            batch = images(count)
            outputs = opened.run(batch)
            for name, value in expected(batch).items():
                np.testing.assert_array_equal(outputs[name], value)
        for count in (1, 5):
            with pytest.raises(BatchError, match="tensorrt_rtx takes 2 to 4"):
                opened.run(images(count))
    assert not gpu.memory
    assert not gpu.streams


def test_nothing_is_freed_while_a_copy_goes_on(built: Path, gpu: _Gpu) -> None:
    with alexc_runtime.open(built) as opened:
        gpu.failing = "execute_async_v3"
        gpu.events.clear()
        with pytest.raises(EngineError, match="the plan did not start"):
            opened.run(images(2))
        assert gpu.events[-1] == "cudaStreamSynchronize"


@pytest.mark.parametrize(
    "failing",
    ["set_input_shape", "cudaMemcpyAsync", "execute_async_v3", "cudaStreamSynchronize"],
)
def test_a_plan_that_fails_while_running_is_an_engine_error(
    built: Path, gpu: _Gpu, failing: str
) -> None:
    with alexc_runtime.open(built, engine="tensorrt_rtx") as opened:
        gpu.failing = failing
        with pytest.raises(EngineError, match=r"^tensorrt_rtx failed: "):
            opened.run(images(2))
        gpu.failing = ""
        opened.run(images(2))
    assert not gpu.memory
    assert not gpu.streams


@pytest.mark.parametrize(
    "failing",
    [
        "deserialize_cuda_engine",
        "create_execution_context",
        "cudaStreamCreate",
        "cudaMalloc",
        "set_tensor_address",
    ],
)
def test_a_plan_that_does_not_load_holds_nothing(built: Path, gpu: _Gpu, failing: str) -> None:
    gpu.failing = failing
    with pytest.raises(EngineError, match=r"^tensorrt_rtx (can't load|failed)") as caught:
        alexc_runtime.open(built, engine="tensorrt_rtx")
    assert not gpu.memory
    assert not gpu.streams
    if failing == "deserialize_cuda_engine":
        assert caught.value.notes == ("the plan is of version 9",)
        assert "another version of the library" in caught.value.message
    if failing == "cudaMalloc":
        assert "CUDA error 2, out of memory" in caught.value.message


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"shapes": {"input": (-1, *IMAGE), "x": (-1, 5)}}, "from input to x, and the manifest"),
        (
            {"shapes": {"input": (-1, 3, 11, 9), "scores": (-1, 5), "conv": (-1, 5, 7, 9)}},
            "its input is 3×11×9, and the manifest says 3×9×11",
        ),
        ({"dtype": _DataType.HALF}, "its conv is _DataType.HALF, and a bundle's is float32"),
        ({"profiles": 2}, "it has 2 profiles"),
    ],
)
def test_a_plan_of_another_network_is_refused(
    built: Path, gpu: _Gpu, change: dict[str, Any], text: str
) -> None:
    vars(gpu).update(change)
    vars(sys.modules["tensorrt_rtx"]).update(vars(_fake_tensorrt(gpu)))
    with pytest.raises(EngineError, match=re.escape(text)):
        alexc_runtime.open(built, engine="tensorrt_rtx")


def test_what_the_machine_lacks_for_a_plan_is_told_exactly(
    built: Path, gpu: _Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reason() -> str:
        with pytest.raises(EngineUnavailableError) as caught:
            alexc_runtime.open(built, engine="tensorrt_rtx")
        return caught.value.message.removeprefix(f"tensorrt_rtx can't run {built}: ")

    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    assert reason() == "the package tensorrt-rtx is not installed"
    gpu.devices = 0
    assert reason() == "there is no NVIDIA GPU on this machine"
    gpu.failing = "cudaGetDeviceCount"
    assert reason() == "CUDA can't use the NVIDIA driver: out of memory"
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    assert reason() == "the package cuda-python is not installed"
    monkeypatch.setattr(tensorrt, "_no_driver", lambda: "there is no NVIDIA driver here")
    assert reason() == "there is no NVIDIA driver here"


def test_one_class_serves_both_libraries(tmp_path: Path, gpu: _Gpu) -> None:
    out = tmp_path / "small"
    make(out, engines=(EngineRecord("tensorrt", "fp32", "verified", PLAN),))
    library = sys.modules.pop("tensorrt_rtx")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "tensorrt", library)
        with alexc_runtime.open(out) as opened:
            assert opened.engine == "tensorrt"
            assert opened.run(images(3))["conv"].shape == (3, 5, 7, 9)
    assert not gpu.memory


def _names(thing: Any) -> set[str]:
    return {name for name in vars(thing) if not name.startswith("_")}


def test_every_name_used_of_tensorrt_is_in_the_real_library() -> None:
    real = pytest.importorskip("tensorrt_rtx")
    fake = _fake_tensorrt(_Gpu())
    for name in _names(fake):
        assert hasattr(real, name), name
        if isinstance(vars(fake)[name], type):
            for member in _names(vars(fake)[name]):
                assert hasattr(getattr(real, name), member), f"{name}.{member}"
    # The engine's own logger, too, is one that the library takes.
    log = tensorrt._log(real)
    real.Runtime(log)
    log.log(real.ILogger.ERROR, "first\nsecond")
    log.log(real.ILogger.INFO, "third")
    assert "first" in log.messages
    assert "third" not in log.messages


def test_every_name_used_of_cuda_is_in_the_real_library() -> None:
    real = pytest.importorskip("cuda.bindings.runtime")
    fake = _fake_cuda(_Gpu())
    for name in _names(fake):
        assert hasattr(real, name), name
    for member in fake.cudaMemcpyKind.__members__:
        assert hasattr(real.cudaMemcpyKind, member)


@pytest.mark.gpu
def test_a_real_plan_runs_on_a_real_gpu(tmp_path: Path) -> None:
    library = pytest.importorskip("tensorrt_rtx")
    pytest.importorskip("cuda.bindings.runtime")
    log = library.Logger(library.Logger.ERROR)
    builder = library.Builder(log)
    network = builder.create_network(1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    with staged(tmp_path / "small") as stage:
        fill(stage.folder)
        assert library.OnnxParser(network, log).parse_from_file(str(stage.folder / MODEL))
        profile = builder.create_optimization_profile()
        profile.set_shape("input", *((count, *IMAGE) for count in (1, 2, 4)))
        config = builder.create_builder_config()
        config.add_optimization_profile(profile)
        plan = builder.build_serialized_network(network, config)
        (stage.folder / PLAN).write_bytes(bytes(plan))
        stage.commit(MANIFEST)
    with alexc_runtime.open(tmp_path / "small") as opened:
        assert opened.engine == "tensorrt_rtx"
        assert opened.batch_limits == (1, 4)
        for count in (1, 4, 3):
            outputs = opened.run(images(count))
            for name, value in expected(images(count)).items():
                # TF32 keeps 11 bits of each factor.
                np.testing.assert_allclose(outputs[name], value, rtol=1e-2, atol=1e-2)
