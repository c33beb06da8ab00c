"""What an error is: data with a stable code and a place. Text and JSON are two renderings of it.

    AlexcError            a fault of the spec, the check or the comparison      exit status 1
    └── UsageError        wrong usage, a missing file, a missing package        exit status 2

Every fault that a user can cause is raised as one of these two, with all the diagnostics that
could be found in one go. Anything else that escapes is a bug of alexc.
"""

from __future__ import annotations

import textwrap
import unicodedata
from dataclasses import dataclass
from typing import Any, Literal

Severity = Literal["error", "warning"]

# A snippet is cut to this many characters around its caret, so that a line of a megabyte still
# gives an error of a few lines.
_SNIPPET_WIDTH = 120
_TEXT_WIDTH = 100  # of notes and help; the message is one line, however long

_BOLD, _RED, _YELLOW, _BLUE, _RESET = "\033[1m", "\033[1;31m", "\033[1;33m", "\033[1;34m", "\033[0m"


@dataclass(frozen=True, slots=True, eq=False)
class SourceText:
    """The text of one file, kept so that a diagnostic can show the line it speaks of.

    One is equal only to itself, so that comparing places doesn't compare texts.
    """

    path: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """A stretch of one line of a file. Line and column count from 1, columns in characters."""

    source: SourceText
    line: int
    column: int
    length: int = 1

    def __str__(self) -> str:
        return f"{self.source.path}:{self.line}:{self.column}"

    def seen_from(self, other: Place | None) -> str:
        """How a message placed at `other` refers to this place: `line 12`, or `base.yaml:12`."""
        if other is not None and other.source.path == self.source.path:
            return f"line {self.line}"
        return f"{self.source.path}:{self.line}"


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One fault or warning. The first line of its text must be understood on its own."""

    code: str
    message: str
    place: Place | None = None
    severity: Severity = "error"
    notes: tuple[str, ...] = ()
    help: str | None = None

    def __str__(self) -> str:
        return render(self)


class AlexcError(Exception):
    """A fault that the user can mend, with everything that is known about it."""

    exit_code = 1

    def __init__(self, *diagnostics: Diagnostic) -> None:
        super().__init__(*diagnostics)
        self.diagnostics = diagnostics

    def __str__(self) -> str:
        return "\n\n".join(render(diagnostic) for diagnostic in self.diagnostics)


class UsageError(AlexcError):
    """Wrong usage, a missing file or a missing package."""

    exit_code = 2


def fault(code: str, message: str, *, help: str | None = None) -> AlexcError:
    """An error without a place in a file, ready to raise."""
    return AlexcError(Diagnostic(code, message, help=help))


def usage_fault(code: str, message: str, *, help: str | None = None) -> UsageError:
    """A usage error without a place in a file, ready to raise."""
    return UsageError(Diagnostic(code, message, help=help))


def to_json(diagnostic: Diagnostic) -> dict[str, Any]:
    """The diagnostic as `--json` prints it; without a place, file, line and column are null."""
    place = diagnostic.place
    return {
        "code": diagnostic.code,
        "severity": diagnostic.severity,
        "message": diagnostic.message,
        "file": place.source.path if place else None,
        "line": place.line if place else None,
        "column": place.column if place else None,
        "notes": list(diagnostic.notes),
        "help": diagnostic.help,
    }


def render(diagnostic: Diagnostic, *, color: bool = False) -> str:
    """The diagnostic as text: headline, place, the line with a caret, notes and help."""

    def paint(style: str, text: str) -> str:
        return f"{style}{text}{_RESET}" if color else text

    style = _RED if diagnostic.severity == "error" else _YELLOW
    label = paint(style, f"{diagnostic.severity}[{diagnostic.code}]")
    out = [f"{label}: {paint(_BOLD, diagnostic.message)}"]
    gutter = " "
    if (place := diagnostic.place) is not None:
        gutter = " " * (len(str(place.line)) + 1)
        bar = paint(_BLUE, "|")
        out.append(f"{gutter[1:]}{paint(_BLUE, '-->')} {place}")
        if place.line <= len(place.source.lines):
            line, caret = _snippet(place)
            out.append(f"{gutter}{bar}")
            out.append(f"{paint(_BLUE, str(place.line))} {bar} {line}".rstrip())
            out.append(f"{gutter}{bar} {paint(style, caret)}")
    equals = paint(_BLUE, "=")
    texts = [("note", note) for note in diagnostic.notes]
    if diagnostic.help is not None:
        texts.append(("help", diagnostic.help))
    for word, text in texts:
        out.append(f"{gutter}{equals} {word}: {_wrap(text, indent=len(gutter) + 8)}")
    return "\n".join(out)


def _wrap(text: str, indent: int) -> str:
    """The text in lines of readable length; all but the first are indented."""
    lines = [
        part
        for line in text.split("\n")
        for part in textwrap.wrap(
            line, _TEXT_WIDTH - indent, break_long_words=False, break_on_hyphens=False
        )
    ]
    return ("\n" + " " * indent).join(lines)


def _snippet(place: Place) -> tuple[str, str]:
    """The line of `place` and the caret line below it, cut to a width that a terminal shows."""
    text = place.source.lines[place.line - 1]
    start = place.column - 1
    first = max(0, min(start - _SNIPPET_WIDTH // 2, len(text) - _SNIPPET_WIDTH))
    shown = text[first : first + _SNIPPET_WIDTH]
    before = "…" if first > 0 else ""
    after = "…" if first + _SNIPPET_WIDTH < len(text) else ""
    # Tabs are kept and control characters shown as a mark, so that the caret stays below its token.
    shown = "".join(c if c == "\t" or c.isprintable() else "�" for c in shown)
    lead = before + shown[: start - first]
    blank = "".join("\t" if c == "\t" else " " * _cells(c) for c in lead)
    token = shown[start - first :][: place.length]
    return before + shown + after, blank + "^" * max(1, sum(map(_cells, token)))


def _cells(character: str) -> int:
    """Terminal columns that a character takes: Chinese, Japanese and Korean ones take two."""
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
