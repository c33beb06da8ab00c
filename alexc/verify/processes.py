"""Backends run in worker processes: watched, waited for with a limit, and ended.

A worker that crashes or hangs loses the steps it did not get to, and nothing else.
"""

from __future__ import annotations

import queue
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir
from types import TracebackType
from typing import Self

from alexc.diagnostics import fault
from alexc.folders import scratch
from alexc.verify import python
from alexc.verify.answers import Answer, Layers, Step, Whole, answers, steps_after
from alexc.verify.backends.base import Backend, Subject
from alexc.verify.exchange import Exchange
from alexc.weights import store

# What a worker is doing in each step, for the message when it does not come to its end.
_DOING: dict[Step, str] = {
    "open": "being loaded",
    "parameters": "comparing weights",
    "alone": "computing layers alone",
    "provoked": "computing provoked layers",
    "end_to_end": "computing the whole net",
    "shipped": "computing the outputs",
    "samples": "computing samples",
}


@dataclass(frozen=True)
class Ended:
    """A worker that ended too early: `status` says how and when, `due` what it did not get to."""

    status: str
    due: tuple[Step, ...]


class Worker:
    """One backend's process, which starts on the whole net, if that is asked. Whoever starts it
    ends it.

    `patience` is how many seconds the worker may take for a step, its start included.
    """

    def __init__(
        self,
        kind: type[Backend],
        subject: Subject,
        exchange: Exchange,
        whole: Whole | None,
        patience: float,
    ) -> None:
        self._kind = kind
        self._whole = whole
        self._subject = subject
        self._exchange = exchange
        self._patience = patience
        self._errors = (exchange.folder / f"{kind.name}.stderr").open("wb+")
        self._process = subprocess.Popen(
            python.command("alexc.verify.worker", str(exchange.folder), _name(kind)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=python.environment(),
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()
        name = f"{kind.name}-whole"
        if whole is not None:
            with _full_disk():
                exchange.put_whole(name, whole)
        self._say(name if whole is not None else "")

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.decode().strip())
        self._lines.put("")

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended already, and `answers` tells how
            self._process.stdin.write(f"{line}\n".encode())
            self._process.stdin.flush()

    def answers(self, layers: Layers) -> Iterator[Answer | Ended]:
        """The worker's answers, step by step; an Ended in place of those that did not come."""
        name = f"{self._kind.name}-layers"
        with _full_disk():
            self._exchange.put_layers(name, layers, self._subject)
        self._say(name)
        due: list[Step] = ["open"]
        while due:
            doing = _DOING[due[0]]
            try:
                line = self._lines.get(timeout=self._patience)
            except queue.Empty:
                self._process.kill()
                status = f"timed out: no answer for {self._patience:g} s while {doing}"
                yield Ended(status, tuple(due))
                return
            if not line:
                status = f"crashed: {self._how_it_ended(self._process.wait())} while {doing}"
                yield Ended(status, tuple(due))
                return
            answer = self._exchange.answer(line)
            yield answer
            del due[0]
            if answer.step == "open":
                due += steps_after(answer, self._whole)
            elif answer.unsupported:
                return

    def _how_it_ended(self, status: int) -> str:
        if status < 0:
            try:
                return f"ended by {signal.Signals(-status).name}"
            except ValueError:
                return f"ended by signal {-status}"
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"exit status {status}" + (f" ({said[-1][:200]})" if said else "")

    def end(self) -> None:
        """End the process, if it has not ended. Doing so twice does nothing."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()


def _name(kind: type[Backend]) -> str:
    """What `worker.backend_class` makes the class of again."""
    return f"{kind.__module__}:{kind.__qualname__}"


@contextmanager
def _full_disk() -> Iterator[None]:
    """Tell of a temporary folder without room as of what the user can mend."""
    try:
        yield
    except OSError as error:
        raise fault(
            "verify/temporary-folder",
            f"the temporary folder {gettempdir()} can't be written: {error.strerror or error}",
            help="make room there, or set TMPDIR to another folder",
        ) from error


class Crew:
    """The backends of one verification, each in a process of its own, asked one after the other.

    A worker is started one turn ahead, so that it computes the whole net while the one before it is
    heard, or the reference is computed; never more than two are there at a time, for each holds the
    weights in memory.
    """

    def __init__(
        self,
        asked: Mapping[type[Backend], Whole],
        subject: Subject,
        weights_file: Path | None,
        patience: float,
    ) -> None:
        """`asked` is what each backend computes of the whole net, in the order of their turns.

        `weights_file` holds the subject's weights; without one they are written for the time.
        """
        self._asked = asked
        self._kinds = list(asked)
        self._subject = subject
        self._weights_file = weights_file
        self._patience = patience
        self._workers: dict[str, Worker] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with _full_disk(), self._stack:
            folder = self._stack.enter_context(scratch("verify"))
            self._exchange = Exchange(folder)
            file = self._weights_file
            if file is None:
                file = folder / "weights.safetensors"
                store.write(file, self._subject.weights)
            self._exchange.put_subject(self._subject, file)
            for kind in self._kinds[:2]:
                self._start(kind)
            self._stack = self._stack.pop_all()  # all went well: closed at the end, not here
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for worker in self._workers.values():
            worker.end()
        self._stack.close()

    def ask(self, kind: type[Backend], layers: Layers) -> Iterator[Answer | Ended]:
        """Everything that this backend answers; kinds are to be asked in the order given.

        One that ends over the whole net is started again for the layers alone: they tell where it
        went wrong.
        """
        turn = self._kinds.index(kind)
        for ahead in self._kinds[turn : turn + 2]:
            self._start(ahead)
        for answer in self._workers[kind.name].answers(layers):
            yield answer
            if isinstance(answer, Ended) and answer.due[0] not in ("open", "alone", "provoked"):
                self._workers[kind.name].end()
                again = Worker(kind, self._subject, self._exchange, None, self._patience)
                self._workers[kind.name] = again
                yield from again.answers(layers)
        self._workers[kind.name].end()

    def _start(self, kind: type[Backend]) -> None:
        if kind.name not in self._workers:
            whole = self._asked[kind]
            worker = Worker(kind, self._subject, self._exchange, whole, self._patience)
            self._workers[kind.name] = worker


def ask(
    kind: type[Backend], subject: Subject, whole: Whole, layers: Layers, crew: Crew | None
) -> Iterator[Answer | Ended]:
    """Everything that a backend answers, from its process in the crew; without one, from this."""
    if crew is not None:
        return crew.ask(kind, layers)
    return answers(kind(subject), whole, lambda: layers)
