"""The race: every contestant in a process of its own, in turns, round after round.

Each is started and loaded while nothing else runs, then all wait. A turn is a few runs of one of
them: A B C A B C …, so that whatever else the machine does falls on all alike. One that can't be
loaded, dies, hangs or gives wrong numbers drops out with the reason, and the others go on.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from alexc.plan.contestant import Contestant, Outputs, Subject
from alexc.plan.timing import Comparison, Times, compare

# After a run, engines let their threads spin for some milliseconds in wait of the next; by then
# they sleep.
_SETTLE_SECONDS = 0.02
LOAD_TIMEOUT, ANSWER_TIMEOUT = 600.0, 300.0  # NNCF and torch.compile take a minute on few cores
_REASON_CHARACTERS = 200


@dataclass(frozen=True)
class Step:
    """What a race does now. `batch` is the batch size that it is about, and `round`, from 1, of
    `rounds` what is timed of it."""

    what: str
    batch: int | None = None
    round: int | None = None
    rounds: int | None = None

    def __str__(self) -> str:
        what = self.what if self.round is None else f"round {self.round} of {self.rounds}"
        return what if self.batch is None else f"batch {self.batch}: {what}"


@dataclass(frozen=True)
class Pace:
    """How long to measure: rounds for each batch size, and what one turn in a round is.

    `profile_runs` are the runs in which engines count what layers take, and `overhead_runs` those
    that are held against the engine's own call; without `profile_runs` neither is asked for. After
    `most_seconds` for one batch size no further round is begun.
    """

    rounds: int = 9
    seconds: float = 0.15
    fewest: int = 3
    most: int = 30
    profile_runs: int = 9
    overhead_runs: int = 31
    most_seconds: float | None = None


@dataclass
class Result:
    """What became of one contestant. `fault` is why it dropped out, in words.

    By batch: `errors`, `times`, `nodes` (what each took in the engine's own account), `overheads`
    (how many times as long a run is as the engine's own call). What it had done for other batches
    before it dropped out stays.
    """

    contestant: Contestant
    fault: str | None = None
    missing: bool = False
    prepare_ms: float | None = None
    load_ms: float | None = None
    cold_start_ms: float | None = None
    peak_bytes: int | None = None
    errors: dict[int, Error] = field(default_factory=dict)
    times: dict[int, Times] = field(default_factory=dict)
    nodes: dict[int, dict[str, float]] = field(default_factory=dict)
    overheads: dict[int, Comparison] = field(default_factory=dict)


@dataclass(frozen=True)
class Error:
    """How far outputs lie from the reference: relative in the Euclidean norm, and whether every
    number is within what rounding in fp32 explains."""

    rel_l2: float
    exact: bool


@dataclass(frozen=True)
class Standard:
    """The float64 outputs for the first images, over and over, and their tolerances in fp32."""

    values: Mapping[str, Any]
    tolerances: Mapping[str, Any]

    def hold(self, outputs: Outputs, batch: int) -> Error | str:
        """The error of the outputs for a batch, or in words why there is none."""
        worst, exact = 0.0, True
        for name, value in self.values.items():
            order = np.arange(batch) % len(value)
            expected, allowed = value[order], np.broadcast_to(self.tolerances[name], value.shape)
            if name not in outputs:
                return f"gave no output {name}"
            found = outputs[name]
            if found.shape != expected.shape:
                return f"gave {name} in the shape {found.shape}, not {expected.shape}"
            if not np.isfinite(found).all():
                return f"gave numbers of {name} that are not finite"
            departure = np.abs(found.astype(np.float64) - expected)
            exact = exact and bool((departure <= allowed[order]).all())
            scale = float(np.linalg.norm(expected)) or 1.0
            worst = max(worst, float(np.linalg.norm(departure)) / scale)
        return Error(worst, exact)


# Beyond this an answer has nothing to do with the question; no number format explains it.
WRONG = {"fp32": 1e-3}
_WRONG_OTHERS = 0.2


class WorkerFault(Exception):  # noqa: N818  (it becomes the status of a row)
    """A contestant dropped out. `missing` if it can't run here by no fault of its own."""

    def __init__(self, reason: str, *, missing: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason[:_REASON_CHARACTERS]
        self.missing = missing


class Process:
    """One contestant's process, and the talk with it. Use it as a context manager."""

    def __init__(self, contestant: Contestant, subject: Subject) -> None:
        job = {
            "opener": contestant.opener,
            "settings": dict(contestant.settings),
            "subject": subject.to_json(),
        }
        self.started = time.perf_counter()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the process)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "alexc.plan.worker", json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            bufsize=0,
            env=_environment(),
        )

    def ask(self, command: str, timeout: float, **request: Any) -> dict[str, Any]:
        """The answer to a command. Raises WorkerFault if it is a fault, or does not come."""
        assert self._process.stdin is not None
        line = json.dumps({"command": command, **request}) + "\n"
        try:
            self._process.stdin.write(line.encode())
            answer: dict[str, Any] = json.loads(self._line(timeout))
        except (BrokenPipeError, EOFError):
            raise WorkerFault(self._died()) from None
        if "missing" in answer:
            raise WorkerFault(answer["missing"], missing=True)
        if "fault" in answer:
            raise WorkerFault(answer["fault"])
        return answer

    def _line(self, timeout: float) -> bytes:
        assert self._process.stdout is not None
        end, data = time.monotonic() + timeout, b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while not data.endswith(b"\n"):
                if not selector.select(max(0.0, end - time.monotonic())):
                    self._process.kill()
                    raise WorkerFault(f"gave no answer for {timeout:g} s")
                part = os.read(self._process.stdout.fileno(), 1 << 16)
                if not part:
                    raise EOFError
                data += part
        return data

    def _died(self) -> str:
        """How the process ended, and the last that it said."""
        status = self._process.wait()
        how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return f"the process {how}" + (f": {lines[-1].strip()}" if lines else "")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the process, if need be against its will."""
        assert self._process.stdin is not None and self._process.stdout is not None
        for pipe in (self._process.stdin, self._process.stdout):
            pipe.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


def _environment() -> dict[str, str]:
    """The environment with the caller's path, so that the same alexc is imported."""
    here = Path(__file__).resolve().parents[2]
    paths = [str(here), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONWARNINGS": "ignore"}


def race(
    contestants: Sequence[Contestant],
    subject: Subject,
    batches: Sequence[int],
    standard: Standard,
    pace: Pace,
    progress: Callable[[Step], None],
    between: Callable[[int], None] | None = None,
) -> list[Result]:
    """Measure all contestants, and give one result for each, in their order.

    `between` is called before each round with the batch size, for what else is to be measured then.
    """
    results = [Result(contestant) for contestant in contestants]
    with ExitStack() as stack:
        field: list[tuple[Result, Process]] = []
        for result in results:
            progress(Step(f"loading {result.contestant.label}"))
            field.append((result, stack.enter_context(Process(result.contestant, subject))))
            _load(*field[-1])
        for batch in batches:
            progress(Step("holding outputs against the reference", batch))
            for result, process in _running(field):
                _check(result, process, subject, batch, standard)
            taken: dict[int, list[tuple[float, ...]]] = {id(result): [] for result in results}
            end = None if pace.most_seconds is None else time.monotonic() + pace.most_seconds
            for number in range(pace.rounds):
                if number and end is not None and time.monotonic() > end:
                    break
                progress(Step("timing", batch, number + 1, pace.rounds))
                if between is not None:
                    time.sleep(_SETTLE_SECONDS)
                    between(batch)
                for result, process in _running(field):
                    taken[id(result)] += _turn(result, process, batch, pace)
            for result, _ in _running(field):
                result.times[batch] = Times(tuple(taken[id(result)]))
        progress(Step("looking into layers"))
        for result, process in _running(field):
            _look(result, process, batches, pace)
    return results


def run_alone(contestant: Contestant, subject: Subject) -> Result:
    """Load one contestant in a process of its own, for what that leaves behind."""
    result = Result(contestant)
    with Process(contestant, subject) as process:
        _load(result, process)
    return result


def _running(field: Sequence[tuple[Result, Process]]) -> Iterator[tuple[Result, Process]]:
    """Those that have not dropped out, asked again for each."""
    return ((result, process) for result, process in field if result.fault is None)


@contextmanager
def _dropping_out(result: Result) -> Iterator[None]:
    """Makes a fault in the block the end of the contestant, and of nothing else."""
    try:
        yield
    except WorkerFault as fault:
        result.fault, result.missing = fault.reason, fault.missing


def _load(result: Result, process: Process) -> None:
    with _dropping_out(result):
        answer = process.ask("load", LOAD_TIMEOUT)
        result.load_ms = answer["load_ms"]
        result.cold_start_ms = (time.perf_counter() - process.started) * 1e3


def _check(
    result: Result, process: Process, subject: Subject, batch: int, standard: Standard
) -> None:
    """Hold what the contestant computes for a batch against the reference."""
    file = subject.scratch / "outputs.npz"
    with _dropping_out(result):
        start = time.perf_counter()
        process.ask("check", ANSWER_TIMEOUT, batch=batch, file=str(file))
        result.prepare_ms = (result.prepare_ms or 0.0) + (time.perf_counter() - start) * 1e3
        with np.load(file) as stored:
            found = standard.hold(dict(stored), batch)
        if isinstance(found, str):
            raise WorkerFault(found)
        result.errors[batch] = found
        if found.rel_l2 > WRONG.get(result.contestant.precision, _WRONG_OTHERS):
            raise WorkerFault(f"gave wrong numbers: {found.rel_l2:.1e} from the reference")


def _turn(result: Result, process: Process, batch: int, pace: Pace) -> Iterator[tuple[float, ...]]:
    """The milliseconds of the runs in one turn; nothing if the contestant drops out."""
    with _dropping_out(result):
        time.sleep(_SETTLE_SECONDS)
        answer = process.ask(
            "time",
            ANSWER_TIMEOUT,
            batch=batch,
            seconds=pace.seconds,
            fewest=pace.fewest,
            most=pace.most,
        )
        yield tuple(each / 1e6 for each in answer["ns"])


def _look(result: Result, process: Process, batches: Sequence[int], pace: Pace) -> None:
    """Ask for memory and layers. A contestant that fails here keeps its times."""
    with suppress(WorkerFault):
        result.peak_bytes = process.ask("memory", ANSWER_TIMEOUT)["peak_bytes"]
        for batch in batches if pace.profile_runs else ():
            answer = process.ask("profile", ANSWER_TIMEOUT, batch=batch, runs=pace.profile_runs)
            if answer["nodes"]:
                result.nodes[batch] = answer["nodes"]
            answer = process.ask("overhead", ANSWER_TIMEOUT, batch=batch, runs=pace.overhead_runs)
            if answer["whole"]:
                result.overheads[batch] = compare(answer["bare"], answer["whole"])
