"""What all commands share in talking to a person: diagnostics, colour, tables, progress."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from alexc.diagnostics import Diagnostic, render

if TYPE_CHECKING:
    from rich.console import Console

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
    """A result on stdout, on one line, with text as it is."""
    print(json.dumps(value, ensure_ascii=False))


def console() -> Console:
    """Where tables are printed: stdout, as wide as the terminal, or 160 columns elsewhere."""
    from rich.console import Console

    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(highlight=False, width=160, no_color=True)


@contextmanager
def steps(enabled: bool) -> Iterator[Callable[[str], None]]:
    """Progress on stderr: call it with what is being done now.

    On a terminal a spinner shows the step; elsewhere each step is a line.
    """
    if enabled and sys.stderr.isatty():
        from rich.console import Console

        with Console(stderr=True).status("") as status:
            yield status.update
    elif enabled:
        yield lambda text: print(text, file=sys.stderr, flush=True)
    else:
        yield lambda _: None
