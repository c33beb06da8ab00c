"""What all commands share in talking to a person: diagnostics, colour, tables, progress."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import TextIOBase
from typing import IO, TYPE_CHECKING, Annotated, Any, TextIO, cast

import typer

from alexc.diagnostics import Diagnostic, render

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn, Task

    from alexc_runtime.manifest import Origin

# More than these are of no help at once; `--json` holds them all.
_MOST_SHOWN = 50

JsonOption = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON on stdout.", show_default=False)
]


def wants_color(stream: TextIO) -> bool:
    """Colour only on a terminal, and never where NO_COLOR is set."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


def print_diagnostics(diagnostics: Sequence[Diagnostic]) -> None:
    """The first diagnostics on stderr, and how many more there are."""
    color = wants_color(sys.stderr)
    for diagnostic in diagnostics[:_MOST_SHOWN]:
        print(render(diagnostic, color=color), end="\n\n", file=sys.stderr)
    if len(diagnostics) > _MOST_SHOWN:
        rest = len(diagnostics) - _MOST_SHOWN
        print(f"… and {rest:,} more; --json lists them all\n", file=sys.stderr)


def print_json(value: Any) -> None:
    """A result on stdout, on one line, with text as it is where stdout can hold all of it."""
    encoding = sys.stdout.encoding or "utf-8"  # a stream of text, and no file, has none
    print(json.dumps(value, ensure_ascii=not encoding.lower().startswith("utf")))


# Nothing is folded where nobody says how wide the paper is: a line that is one can be searched.
_NO_LIMIT = 10_000


class _Unpadded(TextIOBase):
    """stdout without the blanks that tables are filled up with behind."""

    def __init__(self) -> None:
        self._blanks = ""  # at the end so far: what follows says whether they end a line

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return sys.stdout.encoding

    def write(self, text: str) -> int:
        whole = re.sub(r" +\n", "\n", self._blanks + text)
        kept = whole.rstrip(" ")
        self._blanks = whole[len(kept) :]
        sys.stdout.write(kept)
        return len(text)

    def flush(self) -> None:
        sys.stdout.flush()


def console() -> Console:
    """Where tables are printed: stdout, as wide as the terminal. A file is as wide as COLUMNS says,
    or else as wide as is needed. Brackets are text here, and no markup.
    """
    from rich.console import Console

    if sys.stdout.isatty():
        return Console(highlight=False, markup=False)
    columns = os.environ.get("COLUMNS", "")
    width = int(columns) if columns.isdecimal() and int(columns) > 0 else _NO_LIMIT
    file = cast(IO[str], _Unpadded())
    return Console(highlight=False, markup=False, file=file, width=width, no_color=True)


def say(text: str, *, indent: str = "") -> None:
    """A sentence on stderr, in lines as long as the terminal, or as one line off a terminal."""
    if sys.stderr.isatty():
        width = max(40, shutil.get_terminal_size().columns)
        text = textwrap.fill(text, width, initial_indent=indent, subsequent_indent=indent)
    else:
        text = indent + text
    print(text, file=sys.stderr)


def counted(count: int, what: str) -> str:
    """`1 image`, `1,024 images`."""
    return f"{count:,} {what}{'s' * (count != 1)}"


def bytes_in_words(count: int) -> str:
    """`244 MB`: powers of 1000, three figures."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if size >= 100 or unit == "B" else f"{size:.3g} {unit}"


class Steps:
    """What is being done now, told by a call, and how much of it is done, where that is known."""

    def __call__(self, step: str) -> None:
        """Say what is being done now."""

    def part(self, done: float, what: str) -> None:
        """Say that a fraction of the step is done, and what of it is being done."""


class _Lines(Steps):
    """Each step is a line; of its parts a file of lines needs to know nothing."""

    def __call__(self, step: str) -> None:
        print(step, file=sys.stderr, flush=True)


class _Bar(Steps):
    """On a terminal: a spinner and the step, and a bar and the time that is left of it."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=None)

    def __call__(self, step: str) -> None:
        self._progress.reset(self._task, total=None, description=step)

    def part(self, done: float, what: str) -> None:  # noqa: ARG002  (TensorRT's own words)
        self._progress.update(self._task, total=1.0, completed=done)


@contextmanager
def interruptible(kept: str | Callable[[], str]) -> Iterator[None]:
    """Ctrl-C and SIGTERM in the block end it with a sentence: what is kept, and how to go on."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as stopped:
        if isinstance(stopped, KeyboardInterrupt) or stopped.code == 128 + signal.SIGTERM:
            say(f"interrupted: {kept if isinstance(kept, str) else kept()}")
        raise


def warn_of_drawn(origin: Origin | None) -> None:
    """Say on stderr that what follows means little, where the weights are chance."""
    if origin is not None and origin.seed is not None:
        print(f"the weights are drawn from seed {origin.seed}, not trained", file=sys.stderr)


@contextmanager
def steps(enabled: bool) -> Iterator[Steps]:
    """Progress on stderr: call it with what is being done now.

    On a terminal a spinner shows the step, and a bar how much of it is done where that is known;
    elsewhere each step is a line.
    """
    if not enabled:
        yield Steps()
    elif not sys.stderr.isatty():
        yield _Lines()
    else:
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn

        columns = (SpinnerColumn(), TextColumn("{task.description}"), _part_done())
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            yield _Bar(progress)


def _part_done() -> ProgressColumn:
    """A bar and about how long it will take yet, or nothing where nothing is known of it."""
    from rich.progress import ProgressColumn
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    class PartDone(ProgressColumn):
        def render(self, task: Task) -> Table:
            row = Table.grid(padding=(0, 1))
            if task.total is not None:
                done, elapsed = task.percentage / 100, task.elapsed or 0.0
                left = ""
                if 0.05 <= done < 1.0:
                    left = f"about {max(1, round(elapsed * (1 - done) / done))} s left"
                row.add_row(ProgressBar(1.0, done, width=24), left)
            return row

    return PartDone()
