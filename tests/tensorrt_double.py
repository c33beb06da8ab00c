"""TensorRT of straw on a GPU of straw: it computes the small bundle's network, forgiving nothing.

It may wait for the whole GPU where plans and contexts are made, and so gives none while a stream
records. What TensorRT's pages forbid is an AssertionError here: to run a context without shapes,
addresses or memory to work in, to record the first run of a size, to change a context of which a
graph is still in use, addresses that are not aligned, and a plan that was refitted in part.
"""

# The methods take what the real ones do.
# ruff: noqa: ARG002

from __future__ import annotations

import enum
import gc
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from tests.cuda_double import Gpu
from tests.small_bundle import IMAGE, expected, weights


class TensorIOMode(enum.Enum):
    INPUT = 1
    OUTPUT = 2


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    UINT8 = 2


class Severity(enum.Enum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2


class EngineValidity(enum.Enum):
    VALID = 0
    SUBOPTIMAL = 1
    INVALID = 2


class EngineInvalidityDiagnostics(enum.IntFlag):
    VERSION_MISMATCH = 1
    UNSUPPORTED_CC = 2
    OLD_CUDA_DRIVER = 4
    OLD_CUDA_RUNTIME = 8
    INSUFFICIENT_GPU_MEMORY = 16
    MALFORMED_ENGINE = 32
    CUDA_ERROR = 64


class ExecutionContextAllocationStrategy(enum.Enum):
    STATIC = 0
    USER_MANAGED = 2


class DynamicShapesKernelSpecializationStrategy(enum.Enum):
    LAZY = 0
    EAGER = 1


class ILogger:
    INTERNAL_ERROR = Severity.INTERNAL_ERROR
    ERROR = Severity.ERROR
    WARNING = Severity.WARNING
    INFO = Severity.WARNING

    def __init__(self) -> None:
        pass


class Behaviour:
    """What the library is to do. A function in `failing` gives False, or None."""

    def __init__(self) -> None:
        self.failing: set[str] = set()
        self.said = "the plan is of version 9\nin runtime.cpp:48"  # where it is not loaded
        self.plan = b"a plan\0" * 99
        self.shapes: dict[str, tuple[int, ...]] = {
            "input": (-1, *IMAGE), "scores": (-1, 5), "conv": (-1, 5, 7, 9),
        }  # fmt: skip
        self.types = dict.fromkeys(self.shapes, DataType.FLOAT)
        self.profiles = [(2, 3, 4)]
        self.scratch = 4096
        self.stripped = False
        self.capturable = True
        self.invalid = EngineInvalidityDiagnostics(0)
        self.compiled: set[int] = set()  # the sizes whose kernels the cache holds
        self.contexts = 0  # that live
        self.while_recording: Callable[[], None] = lambda: None

    def fails(self, function: str) -> bool:
        return function in self.failing


def library(gpu: Gpu, does: Behaviour, name: str = "tensorrt_rtx") -> ModuleType:
    """The module `tensorrt_rtx`, or `tensorrt`, which lacks what only the former has."""
    module = ModuleType(name)

    class Context:
        batch: int
        profile: int
        scratch: tuple[int, int]
        version: int  # counts the changes
        ran: int  # the version that was run, outside of a recording

        def __init__(self, engine: CudaEngine) -> None:
            self.engine = engine
            self.addresses: dict[str, int] = {}
            self.batch = self.version = 0
            self.profile = -1  # has to be set
            self.scratch = (0, 0)
            self.ran = -1
            does.contexts += 1

        def __del__(self) -> None:
            does.contexts -= 1

        def set_device_memory(self, memory: int, size: int) -> None:
            assert size >= does.scratch
            self.version += 1
            self.scratch = (memory, size)

        def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
            gpu.stream(stream_handle)
            self.version += 1
            self.profile = profile_index
            return not does.fails("set_optimization_profile_async")

        def set_tensor_address(self, name: str, memory: int) -> bool:
            assert memory % 256 == 0
            assert name in does.shapes
            self.version += 1
            self.addresses[name] = memory
            return not does.fails("set_tensor_address")

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            assert (name, shape[1:]) == ("input", IMAGE)
            assert self.profile >= 0
            smallest, _, largest = does.profiles[self.profile]
            self.version += 1
            self.batch = shape[0]
            return smallest <= shape[0] <= largest and not does.fails("set_input_shape")

        def execute_async_v3(self, stream_handle: int) -> bool:
            if does.fails("execute_async_v3"):
                return False
            assert set(self.addresses) == set(does.shapes)
            assert self.scratch[0], "a context without memory of its own takes none"
            stream = gpu.stream(stream_handle)
            recording = stream.recorded is not None
            if recording:
                assert self.ran == self.version, "the first run of a size can't be recorded"
                assert not gc.isenabled(), "a collection may free memory, which ends a recording"
                does.while_recording()
                if does.fails("execute_async_v3"):
                    return False
                if does.fails("recording"):
                    stream.invalid = True
            else:
                self.ran = self.version
                does.compiled.add(self.batch)
            version, addresses, batch = self.version, dict(self.addresses), self.batch
            scratch = self.scratch

            def work() -> None:
                if recording:
                    assert self.version == version, "the context of a graph was changed"
                if does.scratch:
                    gpu.bytes_at(*scratch)[:8] = 1
                gpu.order.append("computation")
                self.engine._compute(addresses, batch)

            gpu.put(stream_handle, work)
            return True

        def is_stream_capturable(self, stream: int) -> bool:
            gpu.stream(stream)
            return does.capturable

    class RuntimeCache:
        def __init__(self) -> None:
            self.content: set[int] = set()

        def serialize(self) -> bytes:
            return b"kernels" + bytes(sorted(self.content | does.compiled))

        def deserialize(self, blob: bytes) -> bool:
            if not blob.startswith(b"kernels"):
                return False
            self.content = set(blob[7:])
            return True

    class RuntimeConfig:
        dynamic_shapes_kernel_specialization_strategy = (
            DynamicShapesKernelSpecializationStrategy.LAZY
        )

        def __init__(self) -> None:
            self.strategy = ExecutionContextAllocationStrategy.STATIC
            self.cache: RuntimeCache | None = None

        def set_execution_context_allocation_strategy(
            self, strategy: ExecutionContextAllocationStrategy
        ) -> None:
            self.strategy = strategy

        def create_runtime_cache(self) -> RuntimeCache:
            return RuntimeCache()

        def set_runtime_cache(self, cache: RuntimeCache) -> bool:
            self.cache = cache
            return True

    class CudaEngine:
        num_io_tensors = len(does.shapes)
        num_optimization_profiles = len(does.profiles)
        device_memory_size_v2 = does.scratch

        def __init__(self) -> None:
            self.refittable = does.stripped
            self.weights: dict[str, NDArray[Any]] = {}
            if not does.stripped:
                self.weights = dict(weights())

        def get_tensor_name(self, index: int) -> str:
            return list(does.shapes)[index]

        def get_tensor_mode(self, name: str) -> TensorIOMode:
            return TensorIOMode.INPUT if name == "input" else TensorIOMode.OUTPUT

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return does.shapes[name]

        def get_tensor_dtype(self, name: str) -> DataType:
            return does.types[name]

        def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
            assert name == "input"
            return [(size, *IMAGE) for size in does.profiles[index]]

        def create_runtime_config(self) -> RuntimeConfig:
            return RuntimeConfig()

        def create_execution_context(self, how: Any) -> Context | None:
            if isinstance(how, RuntimeConfig):
                chosen = how.dynamic_shapes_kernel_specialization_strategy
                assert chosen is DynamicShapesKernelSpecializationStrategy.EAGER
                how = how.strategy
            assert how is ExecutionContextAllocationStrategy.USER_MANAGED
            if does.fails("create_execution_context") or not gpu.may_wait_for_all():
                return None
            return Context(self)

        def _compute(self, addresses: dict[str, int], batch: int) -> None:
            def view(name: str) -> NDArray[Any]:
                kind = np.uint8 if does.types[name] is DataType.UINT8 else np.float32
                shape = (batch, *does.shapes[name][1:])
                size = math.prod(shape) * np.dtype(kind).itemsize
                return gpu.bytes_at(addresses[name], size).view(kind).reshape(shape)

            assert self.weights.keys() == weights().keys()
            for name, value in weights().items():
                np.testing.assert_array_equal(self.weights[name].reshape(value.shape), value)
            for name, result in expected(view("input").astype(np.float32)).items():
                view(name)[...] = result

    class Refitter:
        def __init__(self, engine: CudaEngine, log: Any) -> None:
            assert engine.refittable
            self.engine = engine
            self.given: dict[str, NDArray[Any]] = {}

        def get_missing_weights(self) -> list[str]:
            return ["conv.bias"] if does.fails("get_missing_weights") else []

        def refit_cuda_engine(self) -> bool:
            self.engine.weights = {name: array.copy() for name, array in self.given.items()}
            return not does.fails("refit_cuda_engine")

    class ParserError:
        def desc(self) -> str:
            return "Only successfully refitted 1 weights out of 2\nin ModelRefitter.cpp:48"

    class OnnxParserRefitter:
        """Gives the weights that the model refers to, which lie beside it."""

        def __init__(self, refitter: Refitter, log: Any) -> None:
            self.refitter = refitter
            self.num_errors = 0

        def refit_from_file(self, model: str) -> bool:
            tensors = onnx.load(model).graph.initializer
            self.refitter.given = {t.name: onnx.numpy_helper.to_array(t) for t in tensors}
            self.num_errors = int(does.fails("refit_from_file"))
            return not self.num_errors

        def get_error(self, index: int) -> ParserError:
            assert index < self.num_errors
            return ParserError()

    class Runtime:
        def __init__(self, log: Any) -> None:
            if does.fails("Runtime"):
                raise TypeError("pybind11::init(): factory function returned nullptr")
            self.log = log

        def get_engine_validity(self, buffer: bytes) -> tuple[EngineValidity, int]:
            bad = bool(does.invalid)
            return (EngineValidity.INVALID if bad else EngineValidity.VALID), int(does.invalid)

        def deserialize_cuda_engine(self, plan: bytes) -> CudaEngine | None:
            assert plan == does.plan
            if not gpu.may_wait_for_all():
                return None
            if does.fails("deserialize_cuda_engine"):
                self.log.log(Severity.WARNING, "this is of no importance")
                self.log.log(Severity.ERROR, does.said)
                return None
            return CudaEngine()

    vars(module).update(
        __version__="1.7.1.2",
        ILogger=ILogger,
        Runtime=Runtime,
        Refitter=Refitter,
        OnnxParserRefitter=OnnxParserRefitter,
        ICudaEngine=CudaEngine,
        IExecutionContext=Context,
        TensorIOMode=TensorIOMode,
        DataType=DataType,
        ExecutionContextAllocationStrategy=ExecutionContextAllocationStrategy,
    )
    if name == "tensorrt":
        del Runtime.get_engine_validity
        del Context.is_stream_capturable
    else:
        vars(module).update(
            IRuntimeCache=RuntimeCache,
            IRuntimeConfig=RuntimeConfig,
            EngineValidity=EngineValidity,
            EngineInvalidityDiagnostics=EngineInvalidityDiagnostics,
            DynamicShapesKernelSpecializationStrategy=DynamicShapesKernelSpecializationStrategy,
        )
    return module
