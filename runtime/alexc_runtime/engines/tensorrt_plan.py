"""A plan of TensorRT, loaded: what it is checked for, its profiles, and contexts to run it with.

Both libraries, `tensorrt` and `tensorrt_rtx`, have the interface that is used here.

All contexts of a plan work in one piece of the GPU's memory, since they take turns on one stream.
So a context costs little, and each CUDA graph gets one of its own: TensorRT does not allow a
context to be changed in any way while a graph that was recorded from it is still in use.
"""

from __future__ import annotations

import hashlib
import logging
import re
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from alexc_runtime import stripped, user_cache, weights
from alexc_runtime.engines.base import first_line
from alexc_runtime.engines.cuda import Cuda, capability, driver_version
from alexc_runtime.engines.slot import Tensor
from alexc_runtime.errors import EngineError
from alexc_runtime.manifest import MODEL, WEIGHTS, Bundle, EngineRecord, format_shape

_log = logging.getLogger("alexc_runtime")

_REBUILD = "build it on this machine with `alexc build`"

# What TensorRT for RTX says of a plan that can't run, and what is to be done about it.
_INVALID = {
    "VERSION_MISMATCH": ("it was built by another version of the library", _REBUILD),
    "UNSUPPORTED_CC": ("it was not built for this kind of GPU", _REBUILD),
    "OLD_CUDA_DRIVER": ("the NVIDIA driver is too old for it", "update the NVIDIA driver"),
    "OLD_CUDA_RUNTIME": ("the CUDA runtime is too old for it", "update tensorrt-rtx"),
    "INSUFFICIENT_GPU_MEMORY": (
        "the GPU has too little free memory for it",
        "end what else runs on the GPU (nvidia-smi lists), or build with a smaller --batch",
    ),
    "MALFORMED_ENGINE": ("it is damaged or no plan", _REBUILD),
    "CUDA_ERROR": ("CUDA does not work on this machine", "look whether nvidia-smi works"),
}


@dataclass(frozen=True)
class Profile:
    """The batches that one optimisation profile of the plan takes: `smallest` to `largest`."""

    index: int
    smallest: int
    largest: int


class Plan:
    """A plan that was found to fit the bundle. `held` is what gives back everything, in order."""

    def __init__(
        self,
        library: Any,
        cuda: Cuda,
        bundle: Bundle,
        record: EngineRecord,
        tensors: tuple[Tensor, ...],
        stream: Any,
        held: ExitStack,
    ) -> None:
        self._library = library
        self._cuda = cuda
        assert record.path is not None
        self._path = bundle.path(record.path)
        self._stream = stream
        self._input, *self._outputs = tensors
        self.log = log(library)
        file = self._read()
        plan = self._with_weights(file, bundle)
        # TensorRT asks that a runtime outlives its engines, and an engine its contexts.
        runtime = library.Runtime(self.log)
        held.callback(setattr, self, "_runtime", None)
        self._runtime: Any = runtime
        if record.built is not None and record.built.any_version:
            # Such a plan brings the code that loads it.
            runtime.engine_host_code_allowed = True
        self._check_validity(plan)
        self._engine: Any = runtime.deserialize_cuda_engine(plan)
        held.callback(setattr, self, "_engine", None)
        if self._engine is None:
            raise self._misfit()
        self._check_tensors()
        self.profiles = self._profiles()
        self._refit(bundle)
        self._kernels = _Kernels(self._engine, cuda, library, file)
        held.callback(self._kernels.let_go)
        self._scratch_size = max(1, int(self._engine.device_memory_size_v2))
        self._scratch = cuda.memory(self._scratch_size, held, "the plan to work in")
        # Let go before what they work in.
        self._contexts: list[Any] = []
        held.callback(self._contexts.clear)

    # ---- what it takes ---------------------------------------------------------------------------

    @property
    def batch_limits(self) -> tuple[int, int]:
        """The smallest and the largest batch that any profile takes."""
        smallest = min(profile.smallest for profile in self.profiles)
        return smallest, max(profile.largest for profile in self.profiles)

    def profile(self, images: int) -> Profile | None:
        """The profile for a batch: of those that take it, the one made for the fewest sizes."""
        fitting = [p for p in self.profiles if p.smallest <= images <= p.largest]
        return min(fitting, key=lambda p: p.largest - p.smallest, default=None)

    def context(self, profile: Profile) -> Any:
        """A new execution context in this profile."""
        with self._cuda.alone():
            context = self._kernels.context()
        if context is None:
            raise self.refusal("no execution context could be made", help=self._room())
        self._contexts.append(context)
        context.set_device_memory(self._scratch, self._scratch_size)
        # The first context alone is in a profile by itself.
        if not context.set_optimization_profile_async(profile.index, int(self._stream)):
            raise self.refusal(f"it does not take its profile {profile.index}")
        return context

    def forget(self, context: Any) -> None:
        """Let go of a context that no work is going on in."""
        self._contexts.remove(context)

    def keep_kernels(self) -> None:
        """Keep the kernels that were compiled until now for the next time the plan is loaded."""
        self._kernels.keep()

    # ---- loading ---------------------------------------------------------------------------------

    def _read(self) -> bytes:
        try:
            return self._path.read_bytes()
        except OSError as error:
            raise self.refusal(error.strerror or str(error)) from error

    def _with_weights(self, plan: bytes, bundle: Bundle) -> bytes | bytearray:
        """The plan, with the bundle's weights in it if it was stripped of its own."""
        if not stripped.is_stripped(plan):
            return plan
        try:
            return stripped.whole(plan, weights.read(bundle.path(WEIGHTS)))
        except EngineError as error:
            raise self.refusal(str(error)) from None

    def _check_validity(self, plan: bytes | bytearray) -> None:
        """Ask TensorRT for RTX what it makes of the plan, by its first bytes."""
        ask = getattr(self._runtime, "get_engine_validity", None)
        if ask is None:
            return
        validity, found = ask(plan)
        if validity != self._library.EngineValidity.INVALID:
            return
        kinds = self._library.EngineInvalidityDiagnostics.__members__
        for name, (reason, help) in _INVALID.items():
            if name in kinds and int(kinds[name]) & int(found):
                raise self.refusal(reason, help=help)
        # It gives no reason: deserialising will.

    def _misfit(self) -> EngineError:
        if any(re.search("out ?of ?memory", said, re.IGNORECASE) for said in self.log.messages):
            return self.refusal("there is too little memory for it", help=self._room())
        name, number = capability()
        return self.refusal(
            "it is damaged, or was built by another version of the library, or for other GPUs than "
            f"this one ({name}, compute capability {number})",
            help=_REBUILD,
        )

    def _check_tensors(self) -> None:
        """Hold the plan's tensors against the manifest."""
        library, engine = self._library, self._engine
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = [n for n in names if engine.get_tensor_mode(n) == library.TensorIOMode.INPUT]
        outputs = {tensor.name for tensor in self._outputs}
        if inputs != [self._input.name] or set(names) - set(inputs) != outputs:
            raise self.refusal(
                f"it goes from {', '.join(inputs)} to {', '.join(sorted(set(names) - set(inputs)))}"
                f", and the manifest says {self._input.name} to {', '.join(sorted(outputs))}"
            )
        types = {"float32": library.DataType.FLOAT, "uint8": library.DataType.UINT8}
        for tensor in (self._input, *self._outputs):
            found = tuple(engine.get_tensor_shape(tensor.name))
            if found[1:] != tensor.shape:
                raise self.refusal(
                    f"its {tensor.name} is {format_shape(found[1:])}, "
                    f"and the manifest says {format_shape(tensor.shape)}"
                )
            kind = engine.get_tensor_dtype(tensor.name)
            if kind != types[tensor.type.name]:
                raise self.refusal(f"its {tensor.name} is {kind}, and a bundle's is {tensor.type}")

    def _profiles(self) -> tuple[Profile, ...]:
        profiles = []
        for index in range(self._engine.num_optimization_profiles):
            sizes = self._engine.get_tensor_profile_shape(self._input.name, index)
            profiles.append(Profile(index, int(sizes[0][0]), int(sizes[2][0])))
        return tuple(profiles)

    def _refit(self, bundle: Bundle) -> None:
        """Give a plan that was built without its weights those of the bundle."""
        if not self._engine.refittable:
            return
        refitter = self._library.Refitter(self._engine, self.log)
        # By the model, as the plan was built: the parser gives names of its own to what it makes of
        # a batch norm's weights, and the constants of other layers stand in the model alone.
        parser = self._library.OnnxParserRefitter(refitter, self.log)
        if not parser.refit_from_file(str(bundle.path(MODEL))):
            reasons = (first_line(parser.get_error(i).desc()) for i in range(parser.num_errors))
            why = next(reasons, "it gives no reason")
            raise self.refusal(f"it does not take the weights of {MODEL}: {why}")
        # The parser holds the weights: TensorRT copies nothing before it refits.
        if missing := refitter.get_missing_weights():
            raise self.refusal(f"it lacks the weights {', '.join(missing)}")
        if not refitter.refit_cuda_engine():
            raise self.refusal(f"it does not take the weights of {MODEL}")

    def _room(self) -> str:
        free, total = self._cuda.free_memory()
        return (
            f"{free / 1e9:.1f} of {total / 1e9:.1f} GB on the GPU are free: if that is too little, "
            "build with a smaller --batch MIN,OPT,MAX, or end what else runs there"
        )

    def refusal(self, reason: str, help: str | None = None) -> EngineError:
        """The error that the plan can't be loaded, with what TensorRT said."""
        message = f"{self._library.__name__} can't load {self._path}: {reason}"
        return EngineError("engine/load", message, notes=tuple(self.log.messages), help=help)


class _Kernels:
    """Makes contexts; for TensorRT for RTX, which compiles kernels then, with a cache of those.

    The cache is a file in the user's cache folder, for this plan, library, driver and kind of GPU.
    A stripped plan has one for whatever weights are put in: NVIDIA names no more than those others
    for what kernels depend on.
    """

    def __init__(self, engine: Any, cuda: Cuda, library: Any, plan: bytes) -> None:
        self._engine = engine
        self._library = library
        self._file = self._cache = self._config = None
        self._kept = b""
        strategy = library.ExecutionContextAllocationStrategy.USER_MANAGED
        self._strategy = strategy
        with cuda.current():
            config = engine.create_runtime_config() if _compiles(library) else None
        if config is None:
            return
        config.set_execution_context_allocation_strategy(strategy)
        # By default the kernels for a size of batch are compiled while others already serve it. A
        # graph that is recorded then would keep the slow ones for ever.
        config.dynamic_shapes_kernel_specialization_strategy = (
            library.DynamicShapesKernelSpecializationStrategy.EAGER
        )
        self._config = config
        folder = user_cache.user_cache()
        if folder is None:
            return
        key = "\n".join(
            (
                hashlib.sha256(plan).hexdigest(),
                f"{library.__name__} {library.__version__}",
                *capability(),
                str(driver_version()),
            )
        )
        self._file = folder / "kernels" / hashlib.sha256(key.encode()).hexdigest()
        self._cache = config.create_runtime_cache()
        self._kept = user_cache.fetch(self._file) or b""
        if self._kept and not self._cache.deserialize(self._kept):
            _log.warning("%s is not used: %s does not take it", self._file, library.__name__)
            self._cache, self._kept = config.create_runtime_cache(), b""
        if not config.set_runtime_cache(self._cache):
            self._file = self._cache = None

    def context(self) -> Any:
        return self._engine.create_execution_context(
            self._strategy if self._config is None else self._config
        )

    def keep(self) -> None:
        if self._cache is None or self._file is None:
            return
        memory = self._cache.serialize()
        if memory is None:
            return
        content = bytes(memory)
        if content != self._kept:
            user_cache.keep(self._file, content)
            self._kept = content

    def let_go(self) -> None:
        self._cache = self._config = self._engine = None


def _compiles(library: Any) -> bool:
    """Whether the library compiles kernels where a plan is run."""
    return hasattr(library, "IRuntimeCache")


def log(library: Any) -> Any:
    """A logger for TensorRT that keeps errors for the exception instead of printing them."""

    class Log(library.ILogger):  # type: ignore[misc]  # the library is known only when it runs
        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self.messages: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (library.ILogger.INTERNAL_ERROR, library.ILogger.ERROR):
                self.messages.append(first_line(message))

    return Log()
