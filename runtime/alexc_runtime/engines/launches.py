"""How batches get onto the GPU's stream: as a CUDA graph where one is worth it, call by call else.

A graph holds all that a batch of one size takes, at the addresses where it lies, and is put on the
stream with one call. It costs a context and a recording, so a bounded number is kept. Sizes and
addresses that came once are run call by call, on one context for each profile of the plan.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

from alexc_runtime.engines.collection import without_collection
from alexc_runtime.engines.cuda import Cuda
from alexc_runtime.engines.tensorrt_plan import Plan, Profile
from alexc_runtime.errors import BatchError, EngineError

_log = logging.getLogger("alexc_runtime")

MOST_GRAPHS = 32
_MOST_SIGHTS = 256
_MOST_FAULTS = 3  # of recordings in a row: one may be ended by what another thread does


class Job(NamedTuple):
    """What is to be put on the stream: `images` images at `addresses`, by the tensor's name.

    `before` and `after` are copies that belong to it, each a call that gives CUDA's status.
    `lasting` is whether the memory stays ours; that of a caller may never come again.
    """

    images: int
    addresses: Mapping[str, int]
    before: tuple[Callable[[], Any], ...] = ()
    after: tuple[Callable[[], Any], ...] = ()
    lasting: bool = True


@dataclass
class _Graph:
    """A recorded job: the call that launches it, and what it lives on."""

    launch: Callable[[], Any]
    context: Any
    held: ExitStack


class Launches:
    """Puts jobs on the stream of a plan, and keeps their graphs."""

    def __init__(
        self, plan: Plan, cuda: Cuda, stream: Any, input: str, shape: tuple[int, ...]
    ) -> None:
        self._plan = plan
        self._cuda = cuda
        self._stream = stream
        self._handle = int(stream)
        self._input = input
        self._shape = shape
        self._graphs: OrderedDict[object, _Graph] = OrderedDict()
        self._sights: dict[object, int] = {}
        self._direct: dict[Profile, Any] = {}
        self._recording = True
        self._faults = 0

    def put(self, key: object, describe: Callable[[], Job]) -> None:
        """Put the job of this key on the stream; `describe` is asked where there is no graph of it.

        The same key always means the same job. Raises EngineError, and BatchError if no profile
        takes so many images.
        """
        graph = self._graphs.get(key)
        if graph is None:
            # Here TensorRT logs, and what records may give back no memory.
            with without_collection():
                self._run(key, describe())
            return
        self._graphs.move_to_end(key)
        (status,) = graph.launch()
        if status:
            raise self._cuda.fault(status, "launch a CUDA graph")

    def close(self) -> None:
        """Let go of all graphs and contexts. Nothing may be going on in them."""
        while self._graphs:
            self._drop(self._graphs.popitem()[1])
        self._direct.clear()

    # ---- without a graph -------------------------------------------------------------------------

    def _run(self, key: object, job: Job) -> None:
        """Run a job that has no graph yet, and make one if it is worth it."""
        if self._recording and self._is_worth_it(key, job):
            try:
                self._record(key, job)
                return
            except _NotRecorded as fault:
                self._faults += 1
                if fault.lasting or self._faults == _MOST_FAULTS:
                    self._recording = False
                    _log.warning("%s runs without CUDA graphs: %s", self._cuda.who, fault)
        profile = self._profile(job.images)
        context = self._direct.get(profile)
        if context is None:
            context = self._direct[profile] = self._plan.context(profile)
        self._bind(context, job)
        self._enqueue(context, job)

    def _is_worth_it(self, key: object, job: Job) -> bool:
        """A job that will come again is recorded at once, and others when they have.

        Where there is no more room, only what comes often takes the place of another.
        """
        if len(self._sights) >= _MOST_SIGHTS:
            self._sights.clear()
        sights = self._sights[key] = self._sights.get(key, 0) + 1
        if len(self._graphs) >= MOST_GRAPHS:
            return sights >= 8
        return job.lasting or sights >= 2

    def _profile(self, images: int) -> Profile:
        profile = self._plan.profile(images)
        if profile is None:
            ranges = ", ".join(f"{p.smallest} to {p.largest}" for p in self._plan.profiles)
            raise BatchError(
                "batch/size",
                f"a batch of {images} images; the profiles of the plan take {ranges}",
                help="run it in parts, or build with another --batch MIN,OPT,MAX",
            )
        return profile

    def _bind(self, context: Any, job: Job) -> None:
        if not context.set_input_shape(self._input, (job.images, *self._shape)):
            raise self._failure(f"it takes no batch of {job.images}")
        for name, address in job.addresses.items():
            if not context.set_tensor_address(name, address):
                raise self._failure(f"it takes no memory for {name}")

    def _enqueue(self, context: Any, job: Job) -> None:
        for copy in job.before:
            self._cuda.call(copy)
        if not context.execute_async_v3(self._handle):
            raise self._failure("the plan did not start")
        for copy in job.after:
            self._cuda.call(copy)

    def _failure(self, reason: str) -> EngineError:
        messages = tuple(self._plan.log.messages)
        self._plan.log.messages.clear()
        return EngineError("engine/run", f"{self._cuda.who} failed: {reason}", notes=messages)

    # ---- graphs ----------------------------------------------------------------------------------

    def _record(self, key: object, job: Job) -> None:
        """Run the job, then record it. Raises _NotRecorded if that can't be done.

        In the first run of a size, TensorRT does work that must not be in the graph.
        """
        if len(self._graphs) >= MOST_GRAPHS:
            self._cuda.call(self._cuda.api.cudaStreamSynchronize, self._stream)
            self._drop(self._graphs.popitem(last=False)[1])
        context = self._plan.context(self._profile(job.images))
        try:
            self._bind(context, job)
            self._enqueue(context, job)
            self._cuda.call(self._cuda.api.cudaStreamSynchronize, self._stream)
            with ExitStack() as held:
                recorded = self._graph(context, job, held)
                kept = held.pop_all()
        except BaseException:
            self._plan.forget(context)
            raise
        launch, stream = self._cuda.api.cudaGraphLaunch, self._stream
        self._graphs[key] = _Graph(lambda: launch(recorded, stream), context, kept)
        self._faults = 0
        self._sights.pop(key, None)
        # Running the size has compiled its kernels, where the library compiles any.
        self._plan.keep_kernels()

    def _graph(self, context: Any, job: Job, held: ExitStack) -> Any:
        # TensorRT for RTX knows by itself; the other finds out.
        capturable = getattr(context, "is_stream_capturable", None)
        if capturable is not None and not capturable(self._handle):
            raise _NotRecorded("the plan can't be recorded", lasting=True)
        try:
            return self._cuda.graph(self._stream, lambda: self._enqueue(context, job), held)
        except EngineError as error:
            raise _NotRecorded(error.message, lasting=False) from error

    def _drop(self, graph: _Graph) -> None:
        graph.held.close()
        self._plan.forget(graph.context)


class _NotRecorded(Exception):  # noqa: N818  (it becomes a line in the log)
    """No graph could be made of a job, for the reason given; `lasting` if none ever can."""

    def __init__(self, reason: str, *, lasting: bool) -> None:
        super().__init__(reason)
        self.lasting = lasting
