"""The engines of a plan as one: each batch runs on the engine that was chosen for its size.

An engine is loaded when a batch of its range comes first, but for that of the smallest batches,
with which a session opens. Each keeps the weights once more, in memory and in the precision that it
likes; who wants one engine only opens the bundle with `engine=`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby
from typing import TYPE_CHECKING

from alexc_runtime.engines.base import Engine, closed, why_passed_over
from alexc_runtime.errors import EngineError
from alexc_runtime.planned import Plan, Way

if TYPE_CHECKING:
    from alexc_runtime.arrays import Borrowed, DeviceArray, OnGpu
    from alexc_runtime.engines.base import Array

# Loads a way. Raises EngineError if it can't be.
Loader = Callable[[Way], Engine]


class PlannedEngine(Engine):
    """The engines of a plan, each loaded when a batch of its range comes first.

    One that can't be loaded, or takes no batch of that size, is passed over for the next best of
    the plan. Threads may share it. `first` is the way that the smallest batches are run, those of
    `smallest` images.
    """

    def __init__(self, plan: Plan, load: Loader, smallest: int = 1) -> None:
        self._plan = plan
        self._load = load
        self._loading = threading.Lock()
        self._open = True
        self._engines: dict[Way, Engine] = {}
        self._failed: dict[Way, str] = {}
        # By batch, once it is known: ranking the ways takes as long as a small net.
        self._for: dict[int, Engine] = {}
        self.first = self._way(max(smallest, plan.choices[0].min))

    @classmethod
    def obstacle(cls) -> str | None:
        return None

    @property
    def passed_over(self) -> Mapping[str, str]:
        """The ways of the plan that could not be loaded so far, and why."""
        return {str(way): reason for way, reason in self._failed.items()}

    def way(self, images: int) -> str:
        return str(self._way(images))

    def run(self, batch: Array) -> dict[str, Array]:
        return self._engine(len(batch)).run(batch)

    def run_many(self, batches: Iterable[Array]) -> Iterator[dict[str, Array]]:
        """As each engine does it, for as many as come to it in a row."""
        for engine, those in groupby(batches, lambda batch: self._engine(len(batch))):
            yield from engine.run_many(those)

    def run_on_gpu(self, batch: OnGpu, check: Callable[[Borrowed], None]) -> dict[str, DeviceArray]:
        return self._engine(batch.images).run_on_gpu(batch, check)

    def close(self) -> None:
        with self._loading:  # what another thread loads just now is among them
            self._open = False
            for engine in self._engines.values():
                engine.close()

    def _engine(self, batch: int) -> Engine:
        """The engine that runs batches of this size, loaded. Raises EngineError."""
        found = self._for.get(batch)
        if found is None:
            found = self._for[batch] = self._engines[self._way(batch)]
        return found

    def _way(self, batch: int) -> Way:
        """The way that a batch of this size is run, loaded. Raises EngineError if there is none."""
        for way in self._plan.ways(batch):
            if way in self._failed:
                continue
            engine = self._engines.get(way) or self._loaded(way)
            if engine is not None and _takes(engine, batch):
                return way
        raise EngineError(
            "engine/none",
            f"no engine of the plan can run a batch of {batch} on this machine",
            notes=tuple(f"{way}: {reason}" for way, reason in self.passed_over.items()),
        )

    def _loaded(self, way: Way) -> Engine | None:
        with self._loading:
            if not self._open:
                raise closed()
            if way not in self._engines and way not in self._failed:
                try:
                    self._engines[way] = self._load(way)
                except EngineError as error:
                    self._failed[way] = why_passed_over(error)
            return self._engines.get(way)


def _takes(engine: Engine, batch: int) -> bool:
    smallest, largest = engine.batch_limits
    return smallest <= batch and (largest is None or batch <= largest)
