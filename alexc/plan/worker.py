"""The process of one contestant: loads it, and times batches when it is told to.

    python -m alexc.plan.worker '{"opener": …, "settings": …, "subject": …}'

It reads one JSON object a line from stdin and answers each with one on stdout. What libraries print
goes to stderr, of which the last line is the reason that is given when the process dies.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from alexc.diagnostics import AlexcError
from alexc.plan.contestant import Missing, Opener, Outputs, Runner, Subject

# Of the largest value: the same engine gives the same numbers again, but for a few roundings where
# it spreads sums over its threads in another way.
_SAME = 1e-4


class Worker:
    """One contestant and its commands, each of which returns what is answered."""

    def __init__(self, opener: str, settings: Mapping[str, Any], subject: Subject) -> None:
        self._opener = opener
        self._settings = settings
        self._subject = subject
        self._runner: Runner | None = None
        self._first: dict[int, Outputs] = {}

    @property
    def commands(self) -> dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]]:
        return {
            "load": self.load,
            "check": self.check,
            "answer": self.answer,
            "time": self.time,
            "profile": self.profile,
            "overhead": self.overhead,
            "serve": self.serve,
            "memory": self.memory,
        }

    def load(self, _: Mapping[str, Any]) -> dict[str, Any]:
        """Import, load, and run one image: what a process takes until its first result."""
        start = time.perf_counter()
        module, _colon, name = self._opener.partition(":")
        opener: Opener = getattr(importlib.import_module(module), name)
        self._runner = opener(self._subject, self._settings)
        loaded = time.perf_counter()
        self._ready.run(self._images(1))
        first = time.perf_counter()
        return {"load_ms": (loaded - start) * 1e3, "first_ms": (first - loaded) * 1e3}

    def check(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The outputs for a batch, written to the file that the request names."""
        batch = int(request["batch"])
        images = self._images(batch)
        self._ready.prepare(images)
        outputs = {name: np.array(array) for name, array in self._ready.run(images).items()}
        self._first[batch] = outputs
        np.savez(request["file"], **outputs)  # type: ignore[arg-type]
        return {}

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The outputs for all images of a `.npy` file, `batch` at a time, written to a file."""
        images, batch = np.load(request["images"], mmap_mode="r"), int(request["batch"])
        parts: list[Outputs] = []
        for first in range(0, len(images), batch):
            found = self._ready.run(self._ready.taken(np.array(images[first : first + batch])))
            parts.append({name: np.array(array) for name, array in found.items()})
        whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        np.savez(request["file"], **whole)  # type: ignore[arg-type]
        return {}

    def time(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Nanoseconds of each run of a batch, after one that is not timed.

        Runs until `seconds` have passed, `fewest` to `most` times.
        """
        images = self._images(int(request["batch"]))
        runner = self._ready
        taken: list[int] = []
        outputs = runner.run(images)  # brings the weights back that others drove out of the caches
        end = time.perf_counter() + float(request["seconds"])
        while len(taken) < int(request["most"]):
            start = time.perf_counter_ns()
            outputs = runner.run(images)
            taken.append(time.perf_counter_ns() - start)
            if time.perf_counter() > end and len(taken) >= int(request["fewest"]):
                break
        first = self._first.get(len(images))
        if first is not None and not _agree(outputs, first):
            raise RuntimeError("gave other numbers than at first, for the same batch")
        return {"ns": taken}

    def profile(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Milliseconds of each node."""
        images = self._images(int(request["batch"]))
        return {"nodes": self._ready.profile(images, int(request["runs"]))}

    def overhead(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Nanoseconds of runs, and of the engine's own call alone in turns with them."""
        images = self._images(int(request["batch"]))
        runner = self._ready
        bare = runner.bare(images)
        if bare is None:
            return {"whole": None, "bare": None}
        calls: dict[str, Callable[[], object]] = {"whole": lambda: runner.run(images), "bare": bare}
        taken: dict[str, list[int]] = {"whole": [], "bare": []}
        for index in range(int(request["runs"]) + 1):
            # Which of them comes first changes, and the first pair is not counted.
            for name in sorted(calls, reverse=bool(index % 2)):
                start = time.perf_counter_ns()
                calls[name]()
                if index:
                    taken[name].append(time.perf_counter_ns() - start)
        return taken

    def serve(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """What clients of the session get: so many at once, or at so many requests a second."""
        from alexc.plan.serving_load import DISTINCT_IMAGES, closed_loop, open_loop

        session = self._ready.session()
        if session is None:
            raise Missing("it has no session that clients could share")
        images, seconds = self._images(DISTINCT_IMAGES), float(request["seconds"])
        batching = bool(request["batching"])
        if "rate" in request:
            rate, seed = float(request["rate"]), int(request["seed"])
            traffic = open_loop(session, images, rate, seconds, batching=batching, seed=seed)
        else:
            clients = int(request["clients"])
            traffic = closed_loop(session, images, clients, seconds, batching=batching)
        return traffic.to_json()

    def memory(self, _: Mapping[str, Any]) -> dict[str, Any]:
        """The most memory that the process has had at any time, in bytes."""
        return {"peak_bytes": _peak_bytes()}

    @property
    def _ready(self) -> Runner:
        assert self._runner is not None, "load comes first"
        return self._runner

    def _images(self, batch: int) -> Any:
        images = np.array(np.load(self._subject.images, mmap_mode="r")[:batch])
        return self._ready.taken(images)


def _peak_bytes() -> int:
    """From the kernel's account of this program, where it has one.

    Elsewhere from that of the process, in which the program that started it counts, too.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, IndexError):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def _agree(found: Outputs, first: Outputs) -> bool:
    for name, array in first.items():
        if found[name].shape != array.shape:
            return False
        scale = float(np.abs(array).max(initial=0.0))
        # Written so that NaN does not agree.
        if not np.abs(found[name] - array).max(initial=0.0) <= _SAME * scale:
            return False
    return True


def answers(worker: Worker, requests: IO[str]) -> Iterator[dict[str, Any]]:
    """The answer to each request, in order. A fault is an answer too."""
    for line in requests:
        request = json.loads(line)
        try:
            answer = worker.commands[request["command"]](request)
        except Missing as missing:
            answer = {"missing": str(missing)}
        except AlexcError as error:
            answer = {"fault": error.diagnostics[0].message}
        except Exception as error:  # noqa: BLE001
            # An engine fails in any way it likes; its row says which.
            answer = {"fault": f"{type(error).__name__}: {_first_line(error)}"}
        yield answer


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason")


def main() -> None:
    """Serve until stdin ends."""
    job = json.loads(sys.argv[1])
    # Answers get a descriptor of their own, so that nothing a library prints comes between.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)
        worker = Worker(job["opener"], job["settings"], Subject.from_json(job["subject"]))
        for answer in answers(worker, sys.stdin):
            out.write(json.dumps(answer) + "\n")
            out.flush()
    # Engines may hang in their destructors, with nothing left to lose.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
