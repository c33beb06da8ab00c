"""ONNX Runtime's providers for the GPU: how they are asked for, and bound to memory.

Binding is tried with the real ONNX Runtime, whose provider for the CPU takes the same calls; what
needs a GPU, against a double that notes what it is told.
"""

from __future__ import annotations

import gc
import sys
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import alexc_runtime
from alexc_runtime import BatchError, EngineError, EngineUnavailableError, dlpack
from alexc_runtime.engines import onnxruntime_gpu
from alexc_runtime.manifest import MODEL, WEIGHTS, EngineRecord
from alexc_runtime.opening import ENGINES
from tests.cuda_double import LEGACY, Status
from tests.gpu_machine import Machine, gpu_machine
from tests.small_bundle import IMAGE, Array, built, expected, images, make
from tests.straw_onnxruntime import HostArray, OnCpu
from tests.test_runtime_arrays import ByDlpack, ByInterface

__all__ = ["built"]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Machine]:
    monkeypatch.setattr(onnxruntime_gpu, "no_driver", lambda: None)
    with gpu_machine(monkeypatch, tmp_path / "cache") as machine:
        yield machine


def test_input_and_outputs_are_bound_to_their_memory(
    built: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ENGINES, "onnxruntime_cuda", OnCpu)
    with alexc_runtime.open(built, "onnxruntime_cuda", threads=1) as opened:
        assert (opened.engine, opened.status) == ("onnxruntime_cuda", "not verified by the build")
        kept = []
        for count in (3, 1):
            outputs = opened.run(HostArray(images(count)))
            kept.append(outputs)
            for name, value in expected(images(count)).items():
                np.testing.assert_allclose(outputs[name].numpy(), value, rtol=1e-5, atol=1e-5)
                says = outputs[name].__cuda_array_interface__
                assert (says["shape"], says["stream"]) == (value.shape, None)
                assert dlpack.read(outputs[name].__dlpack__(stream=7)).address == says["data"][0]
        scores = kept[0]["scores"].numpy()
        np.testing.assert_allclose(scores, expected(images(3))["scores"], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(
            opened.run(images(2))["conv"], expected(images(2))["conv"], rtol=1e-5, atol=1e-5
        )
        other = HostArray(images(2))
        other.device = 1
        with pytest.raises(BatchError, match="lies on GPU 1, and the engine is on GPU 0"):
            opened.run(other)
        with pytest.raises(BatchError, match="takes float32"):
            opened.run(HostArray(images(2).astype(np.float64)))
        machine.patch.setitem(sys.modules, "cuda.bindings.runtime", None)
        with pytest.raises(EngineError, match="takes no batches on the GPU") as caught:
            opened.run(HostArray(images(2)))
        assert str(caught.value.help).startswith("pip install cuda-python")


# ---- against a double ----------------------------------------------------------------------------


class _Double:
    """`onnxruntime` as far as the engine calls it; it computes on the GPU of straw."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.available = ["TensorrtExecutionProvider", "CUDAExecutionProvider"]
        self.starting = list(self.available)
        self.providers: list[Any] = []
        self.config: dict[str, str] = {}
        self.fault: Exception | None = None

    def module(self) -> ModuleType:
        double, gpu = self, self.machine.gpu
        module = ModuleType("onnxruntime")

        class SessionOptions:
            log_severity_level = 2

            def add_session_config_entry(self, key: str, value: str) -> None:
                double.config[key] = value

        class OrtValue:
            def __init__(self, shape: tuple[int, ...]) -> None:
                self.shape = shape
                _, self.place = gpu.cudaMalloc(4 * int(np.prod(shape)))

            def __del__(self) -> None:
                gpu.cudaFree(self.place)  # type: ignore[arg-type]

            @staticmethod
            def ortvalue_from_shape_and_type(
                shape: tuple[int, ...], kind: Any, memory: str, device: int
            ) -> OrtValue:
                assert (kind, memory, device) == (np.float32, "cuda", 0)
                return OrtValue(shape)

            def data_ptr(self) -> int | None:
                return self.place

            def numpy(self) -> Array:
                assert self.place is not None
                raw = gpu.bytes_at(self.place, 4 * int(np.prod(self.shape)))
                return raw.view(np.float32).reshape(self.shape).copy()

        class Binding:
            def bind_input(self, name: str, *bound: Any) -> None:
                assert name == "input"
                self.input = bound

            def bind_ortvalue_output(self, name: str, value: OrtValue) -> None:
                vars(self).setdefault("outputs", {})[name] = value

        class InferenceSession:
            def __init__(
                self, path: str, options: Any, providers: list[Any], enable_fallback: int
            ) -> None:
                assert options.log_severity_level == 3
                assert enable_fallback == 0
                assert Path(path).name == MODEL
                double.providers = providers
                for _, settings in providers:
                    if cache := settings.get("trt_engine_cache_path"):
                        assert Path(cache).parent.is_dir(), "it makes the last folder alone"
                if double.fault is not None:
                    raise double.fault
                self.started = [name for name, _ in providers if name in double.starting]

            def get_providers(self) -> list[str]:
                return [*self.started, "CPUExecutionProvider"]

            def io_binding(self) -> Binding:
                return Binding()

            def run_with_iobinding(self, binding: Any) -> None:
                memory, device, kind, shape, place = binding.input
                assert (memory, device, kind, shape[1:]) == ("cuda", 0, np.float32, IMAGE)
                raw = gpu.bytes_at(place, 4 * int(np.prod(shape)))
                for name, value in expected(raw.view(np.float32).reshape(shape)).items():
                    to = gpu.bytes_at(binding.outputs[name].place, value.nbytes)
                    to[...] = value.reshape(-1).view(np.uint8)

        def preload_dlls() -> None:
            print("Failed to load libcudnn.so.9")  # noqa: T201  (as it does)

        vars(module).update(
            SessionOptions=SessionOptions,
            OrtValue=OrtValue,
            InferenceSession=InferenceSession,
            get_available_providers=lambda: double.available,
            preload_dlls=preload_dlls,
        )
        return module


@pytest.fixture
def double(machine: Machine) -> _Double:
    double = _Double(machine)
    machine.patch.setitem(sys.modules, "onnxruntime", double.module())
    return double


@pytest.mark.parametrize("kind", [ByDlpack, ByInterface])
def test_a_batch_on_the_gpu_is_read_where_it_lies_when_it_is_written(
    built: Path, machine: Machine, double: _Double, kind: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with alexc_runtime.open(built, "onnxruntime_cuda") as opened:
        assert double.config == {"session.disable_cpu_ep_fallback": "1"}
        assert double.providers == [("CUDAExecutionProvider", {"device_id": "0", "use_tf32": "0"})]
        for count in (3, 2):
            outputs = opened.run(kind(machine.gpu, images(count)))
            for name, value in expected(images(count)).items():
                np.testing.assert_array_equal(outputs[name].numpy(), value)
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("double")
def test_memory_of_an_output_is_written_again_when_nobody_reads_it(
    built: Path, machine: Machine
) -> None:
    """Whoever had the output may have let it go, and read it on a stream of his own still."""
    gpu = machine.gpu
    batch = ByDlpack(gpu, images(2))
    with alexc_runtime.open(built, "onnxruntime_cuda") as opened:
        places = set()
        for turn in range(9):
            if turn == 8:  # time to wait for the GPU, which another's recording forbids
                gpu.failing["cudaDeviceSynchronize"] = Status["cudaErrorStreamCaptureUnsupported"]
            place = opened.run(batch)["scores"].__cuda_array_interface__["data"][0]
            gpu.put(LEGACY, partial(gpu.bytes_at, place, 40))  # read it, some time
            places.add(place)
        assert len(places) == 9
        gpu.failing.clear()
        last = opened.run(batch)["scores"]
        assert last.__cuda_array_interface__["data"][0] in places
    np.testing.assert_array_equal(last.numpy(), expected(images(2))["scores"])


@pytest.mark.usefixtures("double")
def test_memory_of_sizes_that_come_no_more_is_given_back(built: Path, machine: Machine) -> None:
    with alexc_runtime.open(built, "onnxruntime_cuda") as opened:
        for count in range(1, 200):
            opened.run(ByDlpack(machine.gpu, images(count)))
        assert len(machine.gpu.memory) < 70


@pytest.mark.usefixtures("double")
def test_a_session_that_nobody_closes_gives_back_all_when_it_is_collected(
    built: Path, machine: Machine
) -> None:
    batch = ByDlpack(machine.gpu, images(2))
    opened = alexc_runtime.open(built, "onnxruntime_cuda")
    kept = opened.run(batch)["scores"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del opened
        gc.collect()
    assert "streams" not in machine.gpu.left()
    np.testing.assert_array_equal(kept.numpy(), expected(images(2))["scores"])


def test_it_serves_unasked_where_nothing_does_that_the_build_verified(
    built: Path, double: _Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ENGINES["onnxruntime"], "obstacle", lambda: "it is not there")
    with alexc_runtime.open(built) as opened:
        assert (opened.engine, opened.status) == ("onnxruntime_cuda", "not verified by the build")
    assert double.providers


def test_the_provider_for_tensorrt_gets_the_batches_and_a_cache(
    tmp_path: Path, machine: Machine, double: _Double
) -> None:
    records = [EngineRecord("onnxruntime_tensorrt", "fp16", "verified", MODEL)]
    manifest = make(tmp_path / "small", engines=tuple(records))
    machine.patch.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))
    machine.patch.setenv("ALEXC_CACHE", str(tmp_path / "small" / MODEL / "cache"))
    alexc_runtime.open(tmp_path / "small", "onnxruntime_tensorrt").close()
    assert "trt_engine_cache_enable" not in double.providers[0][1]
    machine.patch.setenv("ALEXC_CACHE", str(tmp_path / "cache"))
    with alexc_runtime.open(tmp_path / "small", "onnxruntime_tensorrt") as opened:
        assert opened.batch_limits == (1, 4)
    (name, settings), (second, _) = double.providers
    assert (name, second) == ("TensorrtExecutionProvider", "CUDAExecutionProvider")
    assert settings == {
        "device_id": "0",
        "trt_profile_min_shapes": "input:1x3x9x11",
        "trt_profile_opt_shapes": "input:2x3x9x11",
        "trt_profile_max_shapes": "input:4x3x9x11",
        "trt_fp16_enable": "1",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(
            tmp_path / "cache" / "onnxruntime" / manifest.files[WEIGHTS].sha256
        ),
    }


def test_what_does_not_start_is_an_error_and_no_other_provider(
    built: Path, machine: Machine, double: _Double
) -> None:
    double.fault = RuntimeError("assigned to the default CPU EP, but fallback\nat session.cc:1")
    with pytest.raises(
        EngineError, match=r"onnxruntime_cuda can't load .*: assigned to the default"
    ) as caught:
        alexc_runtime.open(built, "onnxruntime_cuda")
    assert str(caught.value.help).startswith("look whether CUDA and cuDNN are installed")
    double.fault = None
    double.starting = []
    with pytest.raises(EngineError, match="the CUDAExecutionProvider could not be started"):
        alexc_runtime.open(built, "onnxruntime_cuda")
    double.available = ["CPUExecutionProvider"]
    with pytest.raises(EngineUnavailableError, match="pip install onnxruntime-gpu"):
        alexc_runtime.open(built, "onnxruntime_cuda")
    double.available = ["TensorrtExecutionProvider"]
    machine.patch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(EngineUnavailableError, match="the package tensorrt is not installed"):
        alexc_runtime.open(built, "onnxruntime_tensorrt")
    machine.patch.setattr(onnxruntime_gpu, "no_driver", lambda: "there is no NVIDIA driver here")
    with pytest.raises(EngineUnavailableError, match="there is no NVIDIA driver here"):
        alexc_runtime.open(built, "onnxruntime_cuda")


def test_every_name_used_of_onnxruntime_is_in_the_real_library(
    machine: Machine,
) -> None:
    real = pytest.importorskip("onnxruntime")
    fake = _Double(machine).module()
    for name in ("SessionOptions", "OrtValue", "InferenceSession"):
        for member in vars(vars(fake)[name]):
            if not member.startswith("_"):
                known = hasattr(getattr(real, name), member)
                assert known or name == "OrtValue", f"{name}.{member}"
    for member in ("ortvalue_from_shape_and_type", "data_ptr", "numpy"):
        assert hasattr(real.OrtValue, member)
    for member in ("bind_input", "bind_ortvalue_output"):
        assert hasattr(real.IOBinding, member)
    assert hasattr(real, "preload_dlls")
    assert hasattr(real, "get_available_providers")
