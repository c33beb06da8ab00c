"""Serving: what several clients of one session get, with and without dynamic batching.

Each engine has a process of its own, and they take turns, as in a race (see `measure`). A closed
loop is measured for every number of clients; then, where requests come by themselves, loads that
are shares of the most that the engine was seen to answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from alexc.plan.contestant import Contestant, Subject
from alexc.plan.measure import Process, WorkerFault
from alexc.plan.result import rounded

Progress = Callable[[str], None]

_TIMEOUT = 600.0

# Shares of the most that an engine answers, at which requests come by themselves.
LOADS = (0.5, 0.8)


@dataclass(frozen=True)
class ServingPace:
    """How long to measure: `rounds` of so many `seconds` for each engine, clients and way.

    The seconds for which requests come by themselves are all in one go.
    """

    rounds: int = 3
    seconds: float = 1.0
    open_seconds: float = 4.0


@dataclass(eq=False)
class _Engine:
    """A contestant in its process."""

    contestant: Contestant
    process: Process
    cases: list[_Case] = field(default_factory=list)

    @property
    def most(self) -> float:
        """Images a second, at its best so far."""
        return max((case.images_per_s for case in self.cases if case.fault is None), default=0.0)


@dataclass
class _Case:
    """One row as it grows: `clients` or a `rate` a second, `load` being its share of the most."""

    contestant: Contestant
    batching: bool
    clients: int | None = None
    load: float | None = None
    rate: float | None = None
    latencies_ms: list[float] = field(default_factory=list)
    per_second: list[float] = field(default_factory=list)
    batches: list[float] = field(default_factory=list)
    fault: str | None = None

    @property
    def images_per_s(self) -> float:
        return float(np.median(self.per_second)) if self.per_second else 0.0

    def to_json(self) -> dict[str, Any]:
        ok = self.fault is None and bool(self.latencies_ms)
        p50, p99 = np.percentile(self.latencies_ms, [50, 99]) if ok else (None, None)
        return {
            "engine": self.contestant.engine,
            "precision": self.contestant.precision,
            "arrivals": "closed" if self.clients is not None else "poisson",
            "clients": self.clients,
            "load": self.load,
            "rate": rounded(self.rate),
            "batching": self.batching,
            "status": "measured" if ok else f"failed: {self.fault or 'nothing was answered'}",
            "images_per_s": rounded(self.images_per_s) if ok else None,
            "p50_ms": rounded(p50),
            "p99_ms": rounded(p99),
            "requests": len(self.latencies_ms),
            "mean_batch": rounded(float(np.mean(self.batches))) if ok else None,
        }


def serve(
    contestants: Sequence[Contestant],
    subject: Subject,
    clients: Sequence[int],
    pace: ServingPace,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Rows of JSON, for each engine with and without batching: closed loops, then open ones.

    `contestants` are alexc's own. One that fails says so in its rows, and the others go on.
    """
    with ExitStack() as stack:
        engines = []
        for contestant in contestants:
            progress(f"serving: loading {contestant.label}")
            engine = _Engine(contestant, stack.enter_context(Process(contestant, subject)))
            engines.append(engine)
            loading = _Case(contestant, batching=False)
            with _noting(loading):
                engine.process.ask("load", _TIMEOUT)
            engine.cases = [
                _Case(contestant, batching, clients=count, fault=loading.fault)
                for count in clients
                for batching in (False, True)
            ]
        for number in range(pace.rounds):
            for count in clients:
                progress(f"serving {count} clients: round {number + 1} of {pace.rounds}")
                for engine in engines:
                    for case in engine.cases:
                        if case.clients == count:
                            _ask(case, engine.process, pace.seconds)
        for engine in engines:
            if (most := engine.most) > 0:
                loads = [(load, batching) for load in LOADS for batching in (False, True)]
                for load, batching in loads:
                    progress(f"serving {engine.contestant.label} at {load:.0%} of its most")
                    case = _Case(engine.contestant, batching, load=load, rate=load * most)
                    _ask(case, engine.process, pace.open_seconds)
                    engine.cases.append(case)
        return [case.to_json() for engine in engines for case in engine.cases]


def _ask(case: _Case, process: Process, seconds: float) -> None:
    if case.fault is not None:
        return
    request: dict[str, Any] = {"batching": case.batching, "seconds": seconds}
    request |= {"clients": case.clients} if case.rate is None else {"rate": case.rate, "seed": 0}
    with _noting(case):
        answer = process.ask("serve", _TIMEOUT, **request)
        case.latencies_ms += answer["latencies_ms"]
        case.per_second.append(answer["images_per_s"])
        case.batches.append(answer["mean_batch"])


@contextmanager
def _noting(case: _Case) -> Iterator[None]:
    """Makes a fault in the block the end of this row, and of nothing else."""
    try:
        yield
    except WorkerFault as fault:
        case.fault = fault.reason
