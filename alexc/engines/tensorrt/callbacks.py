"""What TensorRT calls while it works: its log, its progress, and where the plan goes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, BinaryIO

from alexc.engines.tensorrt.words import is_noise

# Called as the build goes on, from whatever thread TensorRT builds in: the fraction that is done,
# from 0 to 1, and TensorRT's name of the phase.
Progress = Callable[[float, str], None]

_log = logging.getLogger(__name__)

# The three classes below are called by TensorRT. Their bases exist only once the library is loaded,
# so they are made then. None may raise: what they meet is kept, and raised when TensorRT has
# returned.


def logger(library: Any) -> Any:
    """TensorRT's log as Python's, nothing of it printed; errors and warnings are kept as well."""
    severity = library.ILogger.Severity
    levels = {
        severity.INTERNAL_ERROR: logging.ERROR,
        severity.ERROR: logging.ERROR,
        severity.WARNING: logging.WARNING,
        severity.INFO: logging.INFO,
        severity.VERBOSE: logging.DEBUG,
    }

    class Logger(library.ILogger):  # type: ignore[misc]  # known only when it runs
        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self.errors: list[str] = []
            self.warnings: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            level = levels.get(severity, logging.INFO)
            if level >= logging.ERROR and not is_noise(message):
                self.errors.append(message)
            elif level == logging.WARNING:
                self.warnings.append(message)
            # Errors go into the AlexcError; logging them loudly too would print them twice.
            _log.log(min(level, logging.INFO), "%s", message)

    return Logger()


def monitor(library: Any, progress: Progress) -> Any:
    """TensorRT's progress, phases within phases, as one fraction for `progress`."""

    class Monitor(library.IProgressMonitor):  # type: ignore[misc]  # known only when it runs
        def __init__(self) -> None:
            library.IProgressMonitor.__init__(self)
            self.stopped: BaseException | None = None
            self._done = 0.0
            # Open phases, outermost first: name, what of the whole it covers, steps, steps done.
            self._phases: dict[str, tuple[float, float, int, int]] = {}

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            first, share = 0.0, 1.0
            if parent in self._phases:
                start, whole, count, done = self._phases[parent]
                share = whole / max(1, count)
                first = start + share * min(done, count)
            self._phases[name] = (first, share, steps, 0)
            self._tell(first, name)

        def step_complete(self, name: str, step: int) -> bool:
            if name in self._phases:
                first, share, steps, _ = self._phases[name]
                self._phases[name] = (first, share, steps, step + 1)
                self._tell(first + share * min(1.0, (step + 1) / max(1, steps)), name)
            return self.stopped is None

        def phase_finish(self, name: str) -> None:
            self._phases.pop(name, None)

        def _tell(self, fraction: float, name: str) -> None:
            self._done = max(self._done, min(1.0, fraction))
            try:
                if self.stopped is None:
                    progress(self._done, name)
            except BaseException as error:  # noqa: BLE001  (Ctrl-C too: raised after the build)
                self.stopped = error

    return Monitor()


def writer(library: Any, file: BinaryIO) -> Any:
    """Writes the plan as it comes, in pieces of some MB."""

    class Writer(library.IStreamWriter):  # type: ignore[misc]  # known only when it runs
        def __init__(self) -> None:
            library.IStreamWriter.__init__(self)
            self.stopped: BaseException | None = None

        def write(self, data: bytes) -> int:
            try:
                return file.write(data)
            except BaseException as error:  # noqa: BLE001  (raised after the build)
                self.stopped = error
                return 0

    return Writer()
