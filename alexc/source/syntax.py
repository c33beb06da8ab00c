"""What the parser's complaints mean.

A parser says what it expected and where it gave up. A newcomer needs to know what he did: which
bracket is open, that a key has a value already, that a space is missing. That is told here from the
place of the complaint, the line there, and the collections that are open.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from alexc.diagnostics import Diagnostic, Place, SourceText

_MOST_SHOWN = 40
_LONGEST_KEY = 1024  # characters that YAML allows on one line before the colon
_WORD = re.compile(r"[^\s,\[\]{}]+")
_KEY_WITHOUT_SPACE = re.compile(r"([^\s:{\[,]+):(?=\S)")


@dataclass(slots=True)
class Open:
    """A collection whose end has not been read yet.

    In a mapping `key` waits for its value, and `last_key` is the last that has got one.
    """

    place: Place
    flow: bool
    key: tuple[str, Place] | None = None
    last_key: tuple[str, Place] | None = None


@dataclass(frozen=True, slots=True)
class _Spot:
    """Where the parser gave up: a position in a line, and the rest of the line."""

    source: SourceText
    line: int  # from 0
    column: int

    @property
    def text(self) -> str:
        lines = self.source.lines
        return lines[self.line] if self.line < len(lines) else ""

    @property
    def rest(self) -> str:
        return self.text[self.column :]

    @property
    def begins_line(self) -> bool:
        return not self.text[: self.column].strip()

    @property
    def indent(self) -> int:
        return len(self.text) - len(self.text.lstrip(" "))

    def place(self, length: int = 1) -> Place:
        return Place(self.source, self.line + 1, self.column + 1, max(1, length))

    def word(self) -> Place:
        """The place with the word there underlined."""
        match = _WORD.match(self.rest)
        return self.place(match.end() if match else 1)


def explain(
    error: Any, source: SourceText, opened: Sequence[Open], closed: int, last_scalar: Any
) -> Diagnostic:
    """The diagnostic for an error of the parser.

    `opened` are the collections that it was in, the innermost last; `closed` is the column of a
    block collection that has just ended, or -1; `last_scalar` is the event of the last scalar read.
    """
    mark = error.problem_mark or error.context_mark
    spot = _Spot(source, mark.line, mark.column) if mark else _Spot(source, 0, 0)
    context = error.context_mark
    begin = _Spot(source, context.line, context.column) if context else spot
    problem = " ".join(str(error.problem or error.context).split())
    where = str(error.context or "")
    top = opened[-1] if opened else None

    if "quoted scalar" in where:
        if "escape" in problem or "hexdec" in problem:
            return _escape(spot)
        return _unclosed(begin)
    if "anchor" in where or "alias" in where:
        help = "letters and digits: &name value, and *name to repeat it; or put the text in quotes"
        return Diagnostic("yaml/anchor", "an anchor needs a name", begin.place(), help=help)
    if "tag" in where or "tag handle" in problem:
        message = "tags (a word after !) have no meaning in a spec"
        help = "take it away, or put the text in quotes"
        return Diagnostic("yaml/tag", message, begin.word(), help=help)
    if "directive" in where or "directive" in problem or "incompatible" in problem:
        message = "a line that begins with % has no meaning in a spec"
        help = "take the line away; or put the text in quotes"
        return Diagnostic("yaml/directive", message, begin.word(), help=help)
    if "block scalar" in where:
        return _block_text(begin, spot)
    if open_quote := _swallowed(last_scalar, spot):
        return _unclosed(open_quote)
    if top is not None and top.flow:
        return _in_brackets(spot, problem, opened)
    if "mapping values are not allowed" in problem:
        return _second_value(spot, top, last_scalar)
    if "document start" in problem:
        before = source.lines[: spot.line]
        if any(line.startswith("...") for line in before):
            message = "a spec file holds one YAML document, which has ended at ..."
            return Diagnostic("yaml/documents", message, spot.word(), help="one file for each net")
        if any(line.startswith("%") for line in before):
            message = "after a line with % one of --- must follow"
            help = "or take the line with % away"
            return Diagnostic("yaml/directive", message, spot.word(), help=help)
    if "could not find expected ':'" in problem:
        return _no_colon(begin)
    if spot.begins_line and spot.rest.strip() and "start any token" not in problem:
        return _stray_line(spot, opened, closed)
    return _in_block(spot, problem)


def _in_brackets(spot: _Spot, problem: str, opened: Sequence[Open]) -> Diagnostic:
    """A fault between [ ] or { }."""
    bracket = opened[-1].place
    opening = _Spot(bracket.source, bracket.line - 1, bracket.column - 1)
    mark = spot.rest[:1]
    # A line that isn't indented belongs to the next key: the bracket before it is still open.
    block = next((o.place.column - 1 for o in reversed(opened) if not o.flow), -1)
    later = spot.line > opening.line
    if not mark.strip() or (later and spot.indent <= block and mark not in "]}"):
        return _unclosed(opening)
    if "unexpected ':'" in problem:
        return _no_space_after_colon(spot)
    closer = "]" if opening.rest[:1] == "[" else "}"
    if mark in "]}" and mark != closer:
        note = f"the {opening.rest[:1]} to close is at line {bracket.line}, column {bracket.column}"
        message = f"{closer} is expected, and here is {mark}"
        return Diagnostic("yaml/bracket", message, spot.place(), notes=(note,))
    if mark == ",":
        message = "there is nothing before this comma"
        return Diagnostic("yaml/comma", message, spot.place(), help="take it away")
    if mark == "-" and (spot.rest[1:2] or " ") in " ,]}":
        message, help = "there are no dashes in brackets", "part the items by commas"
        return Diagnostic("yaml/dash", message, spot.place(), help=help)
    if mark == ":":
        if "content" in problem:
            return Diagnostic("yaml/key", "there is no key before the colon", spot.place())
        message = "a comma is missing before the key of this colon"
        help = "or put the value before it in quotes, if it is meant to hold the colon"
        return Diagnostic("yaml/comma", message, spot.place(), help=help)
    if "start any token" in problem:
        return _reserved(spot)
    if "content" in problem:
        return _fallback(spot, problem)
    message = f"a comma or {closer} is missing here"
    help = "or one pair of quotes around the whole text"
    return Diagnostic("yaml/comma", message, spot.word(), help=help)


def _in_block(spot: _Spot, problem: str) -> Diagnostic:
    """A fault behind something on a line that is in no bracket."""
    mark = spot.rest[:1]
    if "start any token" in problem:
        return _reserved(spot)
    if "sequence entries are not allowed" in problem:
        message = "a list doesn't begin on the line of its key"
        help = "put each - on a line of its own, or the items in [ ], with commas"
        return Diagnostic("yaml/dash", message, spot.place(), help=help)
    if mark and mark in "]}":
        message = f"this {mark} closes nothing"
        return Diagnostic("yaml/bracket", message, spot.place(), help="take it away")
    if mark == ",":
        message = "there is nothing before this comma"
        return Diagnostic("yaml/comma", message, spot.place(), help="take it away")
    if mark == ":":
        message = "a key must be a word, not a list or a mapping"
        return Diagnostic("yaml/key", message, spot.place(), help="key: value")
    if mark:
        match = _WORD.match(spot.rest)
        word = (match.group() if match else mark)[:_MOST_SHOWN]
        message = f"the value before it is complete, and here follows {word}"
        help = "put the whole text in quotes"
        return Diagnostic("yaml/trailing", message, spot.word(), help=help)
    return _fallback(spot, problem)


def _unclosed(opening: _Spot) -> Diagnostic:
    mark = opening.rest[:1]
    closer = {"[": "]", "{": "}"}.get(mark, mark)
    help = f"put a {closer} where it ends"
    if mark == "'":
        help += ", or write a text with an apostrophe in double quotes"
    message = f"this {mark} is never closed"
    return Diagnostic("yaml/unclosed", message, opening.place(), help=help)


def _swallowed(last_scalar: Any, spot: _Spot) -> _Spot | None:
    """Where a quote opened that closed on a later line only, on the line of the fault."""
    if last_scalar is None or last_scalar.style not in ("'", '"'):
        return None
    start, end = last_scalar.start_mark, last_scalar.end_mark
    if end.line == spot.line and start.line < end.line and end.column <= spot.column:
        return _Spot(spot.source, start.line, start.column)
    return None


def _escape(spot: _Spot) -> Diagnostic:
    at = spot.text.find("\\", max(0, spot.column - 1))
    spot = _Spot(spot.source, spot.line, at if at >= 0 else spot.column)
    message = f"{spot.rest[:2]} means nothing in a text in double quotes"
    help = "write \\\\ for a backslash, or use single quotes"
    return Diagnostic("yaml/escape", message, spot.place(2), help=help)


def _block_text(begin: _Spot, spot: _Spot) -> Diagnostic:
    mark = begin.rest[:1]
    if spot.rest[:1] == "\t":
        return _tab(spot)
    message = f"behind {mark} the text begins on the next line"
    help = f"put a text that begins with {mark} in quotes"
    if spot.line > begin.line:
        message = f"the lines of a text after {mark} begin in one column"
        help = "indent the first as far as the others, or less"
        return Diagnostic("yaml/block-text", message, spot.place(), help=help)
    return Diagnostic("yaml/block-text", message, begin.place(), help=help)


def _tab(spot: _Spot) -> Diagnostic:
    message = "a tab can't indent a line: editors disagree on its width"
    return Diagnostic("yaml/tab", message, spot.place(), help="indent with spaces")


def _reserved(spot: _Spot) -> Diagnostic:
    mark = spot.rest[:1]
    if mark == "\t":
        return _tab(spot)
    message = f"a text can't begin with {mark}"
    return Diagnostic("yaml/reserved", message, spot.place(), help="put it in quotes")


def _no_space_after_colon(spot: _Spot) -> Diagnostic:
    colon = spot.text.find(":", spot.column)
    spot = _Spot(spot.source, spot.line, colon if colon >= 0 else spot.column)
    before = re.split(r"[\s{\[,]", spot.text[: spot.column])[-1]
    behind = _WORD.match(spot.rest[1:])
    help = f"{before[-_MOST_SHOWN:]}: {behind.group()[:_MOST_SHOWN] if behind else ''}".rstrip()
    help += ", or quotes around the text if it is meant to hold the colon"
    message = "a colon after a key needs a space behind it"
    return Diagnostic("yaml/colon", message, spot.place(), help=help)


def _no_colon(begin: _Spot) -> Diagnostic:
    """A line among keys that is none."""
    line = begin.rest.rstrip()
    if line[:1] in ("'", '"') and line.count(line[0]) == 1:
        return _unclosed(begin)
    if match := _KEY_WITHOUT_SPACE.match(begin.rest):
        return _no_space_after_colon(_Spot(begin.source, begin.line, begin.column + match.end(1)))
    message = "a key with a colon is expected here, as in the lines above"
    help = f"{line[:_MOST_SHOWN]}: and its value"
    return Diagnostic("yaml/key", message, begin.place(len(line)), help=help)


def _second_value(spot: _Spot, top: Open | None, last_scalar: Any) -> Diagnostic:
    """A colon where no key can be."""
    if spot.begins_line:
        return Diagnostic("yaml/key", "there is no key before the colon", spot.place())
    if spot.column > _LONGEST_KEY:
        message = f"a key is longer than {_LONGEST_KEY} characters"
        return Diagnostic("yaml/key", message, spot.place(), help="it is this colon's")
    message = "a value can't hold a colon with a space behind it"
    if last_scalar is not None and last_scalar.start_mark.line < spot.line:
        # The text above goes on to here, for the line is indented under it.
        mark = last_scalar.start_mark
        begin = _Spot(spot.source, mark.line, mark.column)
        if match := _KEY_WITHOUT_SPACE.match(begin.rest):
            return _no_space_after_colon(_Spot(spot.source, mark.line, mark.column + match.end(1)))
        if key := top and (top.key or top.last_key):
            return _under_a_value(_Spot(spot.source, spot.line, spot.indent), *key)
        message = f"the text that begins at line {mark.line + 1} goes on to here, and {message[2:]}"
    help = "put the whole value in quotes; or if these are keys, put them in { }"
    return Diagnostic("yaml/colon", message, spot.place(), help=help)


def _under_a_value(line: _Spot, name: str, place: Place) -> Diagnostic:
    shown = name if len(name) <= _MOST_SHOWN else name[: _MOST_SHOWN - 1] + "…"
    message = f"{shown} has a value already, so nothing can stand indented under it"
    help = f"indent the line by {place.column - 1}, like {shown}; or take that value away"
    return Diagnostic("yaml/indent", message, line.word(), help=help)


def _stray_line(spot: _Spot, opened: Sequence[Open], closed: int) -> Diagnostic:
    """A line that stands in no column of the collections around it, or is of another kind."""
    mark = spot.rest[0]
    if mark in "]}":
        message = f"this {mark} closes nothing"
        return Diagnostic("yaml/bracket", message, spot.place(), help="take it away")
    if mark == ":":
        return Diagnostic("yaml/key", "there is no key before the colon", spot.place())
    columns = sorted({o.place.column - 1 for o in opened if not o.flow})
    if spot.column in columns and spot.rest[:2] in ("-", "- "):
        message = "a list item stands among keys"
        help = "indent it under the key that it belongs to"
        return Diagnostic("yaml/indent", message, spot.place(), help=help)
    if spot.column in columns:
        if not re.search(r":(\s|$)", spot.rest):
            return _no_colon(spot)
        message = "a key stands among list items"
        help = "begin it with a dash, or indent it as far as the keys that it belongs to"
        return Diagnostic("yaml/indent", message, spot.word(), help=help)
    top = opened[-1] if opened else None
    if closed < 0 and top and top.last_key and columns and spot.column > columns[-1]:
        return _under_a_value(spot, *top.last_key)
    here = [column for column in columns if column < spot.column][-1:]
    here += [column for column in (*columns, closed) if column > spot.column][:1]
    those = " or ".join(map(str, here)) or "0"
    message = f"the line is indented by {spot.column}, and those that it could belong to by {those}"
    return Diagnostic("yaml/indent", message, spot.word(), help="indent it as far as those")


def _fallback(spot: _Spot, problem: str) -> Diagnostic:
    return Diagnostic("yaml/syntax", f"this is not YAML: {problem}", spot.place())
