"""What can go wrong when a bundle is used, as exceptions that say what to do about it.

    RuntimeFaultError
    ├── BundleError                 the folder is altered, truncated, or of another version
    │   └── BundleMissingError      there is no bundle at that path
    ├── EngineError                 an engine refused the model, or failed while running
    │   └── EngineUnavailableError  an engine that can't serve here: no library, driver, GPU or plan
    ├── BatchError                  the array handed to `run` is not what the network takes
    ├── BusyError                   a batcher's queue is full, or no result came in time
    └── PhotoError                  a file that can't be read as a photo
        └── PhotoMissingError       there is no file at that path

`code` is stable and meant for programs; the text is for people and may improve.
"""

from __future__ import annotations


class RuntimeFaultError(Exception):
    """A fault that the caller can mend. `notes` are the single findings, `help` what to do."""

    def __init__(
        self, code: str, message: str, *, notes: tuple[str, ...] = (), help: str | None = None
    ) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.notes = notes
        self.help = help

    def __str__(self) -> str:
        lines = [self.message, *(f"  - {note}" for note in self.notes)]
        if self.help is not None:
            lines.append(f"  help: {self.help}")
        return "\n".join(lines)


class BundleError(RuntimeFaultError):
    """The folder is not a bundle as it was written."""


class BundleMissingError(BundleError):
    """There is no bundle at that path."""


class EngineError(RuntimeFaultError):
    """An engine refused the model, or failed while running.

    `instead` is another engine that runs the bundle on this machine, where one was looked for.
    """

    instead: str | None = None
    _own_help: str | None = None

    def offer(self, engine: str | None) -> None:
        """Add to `help` that the bundle can be opened on this engine."""
        self._own_help, self.instead = self.help, engine
        self.help = self.help_by("open(path, {!r})")

    def help_by(self, way: str) -> str | None:
        """`help`, where an engine is asked for in another way than in Python: `--engine {}`."""
        if self.instead is None:
            return self.help
        offered = f"{self.instead} runs it on this machine: {way.format(self.instead)}"
        return "; or: ".join(filter(None, (self._own_help, offered)))


class EngineUnavailableError(EngineError):
    """The engine that was asked for can't serve here."""


class BatchError(RuntimeFaultError):
    """The array is not a batch that the network takes."""


class BusyError(RuntimeFaultError):
    """More is asked for than there is room or time for. Asking again later may do."""


class PhotoError(RuntimeFaultError):
    """The file can't be read as a photo."""


class PhotoMissingError(PhotoError):
    """There is no file at that path."""
