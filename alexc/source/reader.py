"""YAML 1.2 syntax: text → tree.

A recursive descent over the text, which line ends `\\n` alone, with a regular expression for every
kind of token. Each method reads one construct from `self._pos` on. What is no YAML stops the
reading with a Diagnostic that says what was open and what was expected; repeated keys and numbers
out of range don't, and are told together.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import NoReturn

from alexc.diagnostics import AlexcError, Diagnostic, Place, SourceText
from alexc.source.scalars import (
    BadEscape,
    block_text,
    fold_plain,
    resolve,
    unquote_double,
    unquote_single,
)
from alexc.source.tree import MAX_DEPTH, MAX_VALUES, Entry, Listing, Mapping, Node, Scalar

# The text ends in this mark, so that no expression has to look out for the end.
_END = "\0"
_MOST_SHOWN = 40
MAX_KEY = 1024  # characters; YAML's own limit for a key on one line

# From the end of a token to the next: the rest of the line if it is blank or a comment, lines like
# that, and the indentation of the line that isn't.
_TO_CONTENT = re.compile(
    r"(?:[ \t]*+(?:(?<!\S)#[^\n\0]*+)?+\n)*+ *+(?:[ \t]*+(?:(?<!\S)#[^\n\0]*+)?+(?=\0))?+"
)
_BLANKS = re.compile(r"[ \t]*+")
_FLOW_GAP = re.compile(r"(?:[ \t\n]++|(?<!\S)#[^\n\0]*+)*+")
_INDENTED_BREAK = re.compile(r"[ \t]*+\n(?:[ \t]*+\n)*+( *+)[ \t]*+")

# A plain scalar's words: `:` and `#` are letters where no blank follows or comes before.
_WORDS = r"(?:[^\s:#\0]++|:(?=[^\s\0])|(?<=[^\s])#|[ \t]++(?=[^\s:#\0]|:[^\s\0]))++"
_FLOW_WORDS = (
    r"(?:[^\s:#\0,\[\]{}]++|:(?=[^\s\0,\[\]{}])|(?<=[^\s])#"
    r"|[ \t]++(?=[^\s:#\0,\[\]{}]|:[^\s\0,\[\]{}]))++"
)
_START = r"(?![,\[\]{}#&*!|>'\"%@`]|[-?:](?:[\s\0]))"
_FLOW_START = r"(?![,\[\]{}#&*!|>'\"%@`]|[-?:](?:[\s\0,\[\]{}]))"
_PLAIN = re.compile(_START + _WORDS)
_PLAIN_MORE = re.compile(_WORDS)
_FLOW_PLAIN = re.compile(_FLOW_START + _FLOW_WORDS)
_FLOW_PLAIN_MORE = re.compile(_FLOW_WORDS)
_COLON = re.compile(r"[ \t]*+:(?=[\s\0])")
_KEY = re.compile(rf"({_START}{_WORDS})[ \t]*+:(?=[\s\0])")
_KEY_WITHOUT_SPACE = re.compile(r"[^\s:\0]+:(?=[^\s\0])")
_DOUBLE = re.compile(r'"((?:[^"\\\0]++|\\[^\0])*+)"')
_SINGLE = re.compile(r"'((?:[^'\0]++|'')*+)'")
_NAME = re.compile(r"[^\s,\[\]{}\0]++")
_TAG = re.compile(r"![^\s,\[\]{}\0]*+")
_BLOCK_HEADER = re.compile(
    r"([|>])(?:([+-])([1-9])?|([1-9])([+-])?)?[ \t]*+(?:(?<=[ \t])#[^\n\0]*+)?(?=[\n\0])"
)
_TEXT_TAGS = ("!", "!!str", "!<tag:yaml.org,2002:str>")


class Reader:
    """Reads one text."""

    def __init__(self, source: SourceText, text: str) -> None:
        self._source = source
        self._text = text + _END
        self._starts = [0]  # where each line begins
        for line in source.lines[:-1]:
            self._starts.append(self._starts[-1] + len(line) + 1)
        self._line = 0  # the line of the last place, where the next one is looked for first
        self._pos = 0
        self._content = -1  # where the last line with content begins, …
        self._column = -1  # … and in which column
        self._closed = -1  # the column of the block collection that ended last
        self._depth = 0
        self._anchors: dict[str, Node] = {}
        self._faults: list[Diagnostic] = []

    def document(self) -> Mapping:
        """The root mapping. Raises AlexcError with every fault that was found."""
        self._directives()
        node: Node | None = None
        if self._at_marker("---"):
            node = self._after_marker()
        elif self._next_line() >= 0:
            node = self._block_at(self._column, -1)
        self._end_of_document()
        if self._faults:
            raise AlexcError(*self._faults)
        if isinstance(node, Mapping):
            return node
        place = node.place if node else Place(self._source, 1, 1)
        what = "empty" if node is None else "a list" if isinstance(node, Listing) else "one text"
        message = f"the file is {what}; a spec is a mapping of keys to values"
        help = "start with `alexc: 1`, `name:`, `input:` and `layers:`"
        return self._stop("yaml/not-a-mapping", message, place, help=help)

    # ---- the document ----------------------------------------------------------------------------

    def _directives(self) -> None:
        self._next_line(markers=False)
        found = False
        while self._text[self._pos] == "%" and self._column == 0:
            found = True
            end = self._text.find("\n", self._pos)
            line = self._text[self._pos : end if end >= 0 else len(self._text) - 1]
            place = self._place(self._pos, self._pos + len(line))
            words = line.split()
            if words[0] != "%YAML":
                message = f"{words[0][:_MOST_SHOWN]} has no meaning in a spec"
                help = "take the line away; or put the text in quotes"
                self._stop("yaml/directive", message, place, help=help)
            if words[1:2] != ["1.2"]:
                message = "a spec is YAML 1.2"
                help = "take the line away; yes, no, 0777 and 1_000 are then not what they were"
                self._stop("yaml/version", message, place, help=help)
            self._pos += len(line)
            self._next_line(markers=False)
        if found and not self._at_marker("---"):
            place = self._place(self._pos, self._word_end(self._pos))
            message = "after a directive a line of --- must follow"
            self._stop("yaml/directive", message, place, help="or take the line with % away")

    def _after_marker(self) -> Node | None:
        self._pos += 3
        self._pos = self._skip(_BLANKS)
        if self._text[self._pos] not in "\n\0#":
            return self._inline(-1)
        if self._next_line() < 0:
            return None
        return self._block_at(self._column, -1)

    def _end_of_document(self) -> None:
        if self._next_line() >= 0:
            self._stray_line(0)
        if self._at_marker("..."):
            self._pos += 3
            if self._next_line() < 0 and self._at_marker("..."):
                self._pos += 3
                self._next_line()
        if self._text[self._pos] != _END:
            message = "a spec file holds one YAML document, and here a second one starts"
            help = "one file for each net"
            self._stop("yaml/documents", message, self._place(self._pos, self._pos + 3), help=help)

    def _at_marker(self, marker: str) -> bool:
        """Whether the line here is `---` or `...`, which part documents."""
        if not self._text.startswith(marker, self._pos) or self._column != 0:
            return False
        return self._pos == self._content and self._text[self._pos + 3] in " \t\n\0"

    # ---- lines -----------------------------------------------------------------------------------

    def _next_line(self, *, markers: bool = True) -> int:
        """Go to the next line with content; its column, or -1 at the end of the document.

        What is left of the line here must be blank.
        """
        if self._pos == self._content:
            return self._column if not (markers and self._ends_document()) else -1
        end = self._skip(_TO_CONTENT)
        text = self._text
        start = text.rfind("\n", self._pos, end) + 1
        if not start and self._pos and text[self._pos - 1] != "\n" and text[end] != _END:
            self._trailing(end)
        start = start or self._pos
        self._pos = self._content = end
        self._column = end - start
        if text[end] == _END:
            self._column = 0
        elif text[end] == "\t":
            message = "a tab can't indent a line: editors disagree on its width"
            self._stop("yaml/tab", message, self._place(end), help="indent with spaces")
        return -1 if markers and self._ends_document() else self._column

    def _ends_document(self) -> bool:
        if self._text[self._pos] == _END:
            return True
        return self._column == 0 and (self._at_marker("---") or self._at_marker("..."))

    def _trailing(self, pos: int) -> NoReturn:
        """Something stands behind a complete value."""
        text = self._text
        place = self._place(pos, self._word_end(pos))
        if text[pos] == "#":
            self._no_space_before_comment(pos)
        if text[pos] == ":":
            before = text[self._pos - 1]
            if before in "]}":
                message = "a key must be a word, not a list or a mapping"
                self._stop("yaml/key", message, self._place(pos))
            message = "a value can't hold a colon with a space behind it"
            help = "put the whole value in quotes; or if these are keys, put them in { }"
            self._stop("yaml/colon", message, self._place(pos), help=help)
        if text[pos] in "]}":
            message = f"this {text[pos]} closes nothing"
            self._stop("yaml/bracket", message, self._place(pos), help="take it away")
        word = text[pos : min(self._word_end(pos), pos + _MOST_SHOWN)]
        message = f"the value before it is complete, and here follows {word}"
        self._stop("yaml/trailing", message, place, help="put the whole text in quotes")

    def _stray_line(self, column: int, above: str | None = None) -> NoReturn:
        """A line that stands in no column of the collections around it.

        `above` is the key above it, where that has a value already.
        """
        place = self._place(self._pos, self._word_end(self._pos))
        here = self._column
        if self._text[self._pos] in "]}":
            message = f"this {self._text[self._pos]} closes nothing"
            self._stop("yaml/bracket", message, self._place(self._pos), help="take it away")
        if above is not None:
            name = above if len(above) <= _MOST_SHOWN else above[: _MOST_SHOWN - 1] + "…"
            message = f"{name} has a value already, so nothing can stand indented under it"
            help = f"indent the line by {column}, like {name}; or take that value away"
            self._stop("yaml/indent", message, place, help=help)
        columns = f"{column} or {self._closed}" if self._closed > here else f"{column}"
        message = f"the line is indented by {here}, and those that it could belong to by {columns}"
        self._stop("yaml/indent", message, place, help="indent it as far as those")

    def _skip(self, pattern: re.Pattern[str]) -> int:
        match = pattern.match(self._text, self._pos)
        return match.end() if match else self._pos

    # ---- block collections -----------------------------------------------------------------------

    def _block_at(self, column: int, parent: int) -> Node:
        """The node that begins here, on its own line or behind a dash."""
        if self._at_dash():
            return self._sequence(column)
        if self._text[self._pos] == "?" and self._text[self._pos + 1] in " \t\n\0":
            self._explicit_key()
        key = self._key()
        return self._mapping(column, key) if key is not None else self._inline(parent)

    def _at_dash(self) -> bool:
        return self._text[self._pos] == "-" and self._text[self._pos + 1] in " \t\n\0"

    def _explicit_key(self) -> NoReturn:
        message = "a key is written before its colon, without a ?"
        self._stop("yaml/key", message, self._place(self._pos), help="key: value")

    def _key(self) -> tuple[str, Place] | None:
        """The key here and its place, and go behind its colon; None if it is no key."""
        text, start = self._text, self._pos
        if text[start] in "\"'":
            match = (_DOUBLE if text[start] == '"' else _SINGLE).match(text, start)
            colon = _COLON.match(text, match.end()) if match else None
            if match is None or colon is None or "\n" in match.group():
                return None
            name = self._unquoted(match)
            end = match.end()
        elif match := _KEY.match(text, start):
            name, end = match[1], match.end(1)
            colon = match
        elif text[start] == ":" and text[start + 1] in " \t\n\0":
            self._no_key()
        else:
            return None
        place = self._place(start, end)
        self._check_key(name, place)
        self._pos = colon.end()
        return name, place

    def _check_key(self, name: str, place: Place) -> None:
        if not name:
            self._stop("yaml/key", "a key is empty", place)
        if len(name) > MAX_KEY:
            self._stop("yaml/key", f"a key is longer than {MAX_KEY} characters", place)

    def _no_key(self) -> NoReturn:
        self._stop("yaml/key", "there is no key before the colon", self._place(self._pos))

    def _stop_before_key(self, mark: str) -> NoReturn:
        what = {"&": "an anchor", "*": "an alias", "!": "a tag"}[mark]
        message = f"{what} can't stand before a key"
        help = "anchors and aliases are for values: key: &name value"
        self._stop("yaml/anchor", message, self._place(self._pos), help=help)

    def _mapping(self, column: int, key: tuple[str, Place] | None) -> Mapping:
        assert key is not None
        self._enter(key[1])
        entries: dict[str, Entry] = {}
        first = key[1]
        size = 1
        while True:
            if key is None:
                self._no_mapping_line(column)
            name, place = key
            self._closed = -1
            value = self._block_value(column, place)
            self._put(entries, name, place, value)
            size += value.size
            self._limit(size, value)
            here = self._next_line()
            if here < column:
                break
            if here > column:
                self._stray_line(column, name if isinstance(value, Scalar) and value.raw else None)
            if self._at_dash():
                message = "a list item stands among keys"
                help = "indent it under the key that it belongs to"
                self._stop("yaml/indent", message, self._place(self._pos), help=help)
            if self._text[self._pos] == "?" and self._text[self._pos + 1] in " \t\n\0":
                self._explicit_key()
            key = self._key()
        self._leave(column)
        return Mapping(entries, first, size)

    def _no_mapping_line(self, column: int) -> NoReturn:
        """A line in the column of keys that holds none."""
        text, pos = self._text, self._pos
        end = text.find("\n", pos)
        line = text[pos : end if end >= 0 else len(text) - 1]
        place = self._place(pos, pos + len(line.rstrip()))
        if text[pos] in "]}":
            self._stray_line(column)
        if text[pos] in "&*!":
            self._stop_before_key(text[pos])
        if match := _KEY_WITHOUT_SPACE.match(text, pos):
            self._no_space(match.end() - 1)
        if text[pos] in "\"'" and not (_DOUBLE if text[pos] == '"' else _SINGLE).match(text, pos):
            self._unclosed(pos)
        if text[pos] in "[{":
            self._inline(column)  # its own faults come first
        word = line.rstrip()[:_MOST_SHOWN]
        message = "a key with a colon is expected here, as in the lines above"
        self._stop("yaml/key", message, place, help=f"{word}: and its value")

    def _no_space(self, colon: int) -> NoReturn:
        text = self._text
        start = max(text.rfind(mark, 0, colon) for mark in "\n {,") + 1
        value = _NAME.match(text, colon + 1)
        help = f"{text[start:colon][-_MOST_SHOWN:]}: {value.group()[:_MOST_SHOWN] if value else ''}"
        message = "a colon after a key needs a space behind it"
        self._stop("yaml/colon", message, self._place(colon), help=help.rstrip())

    def _no_space_before_comment(self, pos: int) -> NoReturn:
        message = "a comment needs a space before its #"
        help = "put one there; or put the text in quotes if it is meant to hold a #"
        self._stop("yaml/comment", message, self._place(pos), help=help)

    def _nameless_anchor(self, pos: int) -> NoReturn:
        help = "&name value, and *name to repeat it; or put a text that begins with & in quotes"
        self._stop("yaml/anchor", "an anchor needs a name", self._place(pos), help=help)

    def _sequence(self, column: int) -> Listing:
        dash = self._place(self._pos)
        self._enter(dash)
        items: list[Node] = []
        size = 1
        while True:
            self._pos += 1
            self._closed = -1
            value = self._block_value(column, None)
            items.append(value)
            size += value.size
            self._limit(size, value)
            here = self._next_line()
            if here > column:
                self._stray_line(column)
            if here < column or not self._at_dash():
                break
        self._leave(column)
        return Listing(tuple(items), dash, size)

    def _block_value(self, parent: int, key: Place | None) -> Node:
        """What follows the colon of a key in column `parent`, or without a key a dash there.

        A value that isn't there gets the place of its key or dash.
        """
        before = self._pos
        self._pos = self._skip(_BLANKS)
        start = self._pos
        anchor, is_text = self._properties()
        text = self._text
        node: Node
        if text[self._pos] in "\n\0" or (text[self._pos] == "#" and text[self._pos - 1] in " \t"):
            column = self._next_line()
            beside = key is not None and column == parent and self._at_dash()
            if column > parent or beside:
                node = self._block_at(column, parent)
            else:
                node = Scalar("" if is_text else None, "", key or self._place(before - 1))
        elif key is None and start == self._pos and self._begins_block():
            if "\t" in text[before:start]:
                message = "a tab between a dash and a key or dash: editors disagree on its width"
                self._stop("yaml/tab", message, self._place(before), help="use spaces")
            self._content, self._column = self._pos, parent + 1 + start - before
            node = self._block_at(self._column, parent)
        else:
            node = self._inline(parent)
        return self._named(node, anchor, is_text)

    def _begins_block(self) -> bool:
        if self._at_dash():
            return True
        start = self._pos
        key = self._key()
        self._pos = start
        return key is not None

    # ---- values ----------------------------------------------------------------------------------

    def _properties(self, *, flow: bool = False) -> tuple[str | None, bool]:
        """An anchor's name, and whether a tag says that what follows is text."""
        anchor, is_text = None, False
        text = self._text
        while text[self._pos] in "&!":
            start = self._pos
            if text[start] == "&":
                match = _NAME.match(text, start + 1)
                if match is None:
                    self._nameless_anchor(start)
                anchor = match.group()
            else:
                match = _TAG.match(text, start)
                assert match is not None
                if match.group() not in _TEXT_TAGS:
                    place = self._place(start, match.end())
                    message = "tags (a word after !) have no meaning in a spec"
                    self._stop("yaml/tag", message, place, help="take it away")
                is_text = True
            self._pos = match.end()
            self._pos = self._skip(_FLOW_GAP if flow else _BLANKS)
        return anchor, is_text

    def _named(self, node: Node, anchor: str | None, is_text: bool) -> Node:
        if is_text and isinstance(node, Scalar):
            node = Scalar(node.raw, node.raw, node.place)
        if anchor is not None:
            self._anchors[anchor] = node
        return node

    def _inline(self, parent: int) -> Node:
        """A value that begins here and is no block collection."""
        text, start = self._text, self._pos
        mark = text[start]
        if mark in "\"'":
            return self._quoted(parent)
        if mark == "{":
            return self._flow_mapping(parent)
        if mark == "[":
            return self._flow_sequence(parent)
        if mark == "*":
            return self._alias()
        if mark in "|>":
            return self._block_scalar(parent)
        match = _PLAIN.match(text, start)
        if match is None:
            self._no_value(mark)
        self._pos = match.end()
        raw = match.group()
        lines = [(0, raw)]
        while more := _INDENTED_BREAK.match(text, self._pos):
            if len(more[1]) <= parent or (len(more[1]) == 0 and self._marker_at(more.end())):
                break
            match = _PLAIN_MORE.match(text, more.end())
            if match is None or _COLON.match(text, match.end()):
                break
            lines.append((more.group().count("\n"), match.group()))
            self._pos = match.end()
        return self._scalar(fold_plain(lines) if len(lines) > 1 else raw, start, start + len(raw))

    def _marker_at(self, pos: int) -> bool:
        return self._text[pos : pos + 3] in ("---", "...") and self._text[pos + 3] in " \t\n\0"

    def _no_value(self, mark: str, *, flow: bool = False) -> NoReturn:
        place = self._place(self._pos)
        if mark in "]}":
            self._stop("yaml/bracket", f"this {mark} closes nothing", place, help="take it away")
        if mark == "-":
            message = "a list doesn't begin on the line of its key"
            help = "put each - on a line of its own, or the items in [ ], with commas"
            if flow:
                message, help = "there are no dashes in brackets", "part the items by commas"
            self._stop("yaml/dash", message, place, help=help)
        if mark == "?":
            self._explicit_key()
        if mark in "&*!":
            self._stop_before_key(mark)
        if mark == ":":
            self._no_key()
        if mark == ",":
            message = "there is nothing before this comma"
            self._stop("yaml/comma", message, place, help="take it away")
        message = f"a text can't begin with {mark}"
        self._stop("yaml/reserved", message, place, help="put it in quotes")

    def _scalar(self, raw: str, start: int, end: int) -> Scalar:
        place = self._place(start, end)
        try:
            return Scalar(resolve(raw), raw, place)
        except ValueError:
            shown = raw if len(raw) <= _MOST_SHOWN else raw[: _MOST_SHOWN - 1] + "…"
            message = f"{shown} is too large a number"
            help = f"whole numbers end at {2**63 - 1:,}"
            self._faults.append(Diagnostic("yaml/number", message, place, help=help))
            return Scalar(0, raw, place)

    def _quoted(self, parent: int) -> Scalar:
        text, start = self._text, self._pos
        match = (_DOUBLE if text[start] == '"' else _SINGLE).match(text, start)
        if match is None:
            self._unclosed(start)
        line = text.find("\n", start, match.end())
        while line >= 0:  # a line that isn't indented belongs to the next key: the quote is open
            indent = _INDENTED_BREAK.match(text, line)
            if indent and indent.end() < match.end() and len(indent[1]) <= parent:
                self._unclosed(start)
            if indent and len(indent[1]) == 0 and self._marker_at(indent.end()):
                self._unclosed(start)
            line = text.find("\n", indent.end() if indent else line + 1, match.end())
        self._pos = match.end()
        raw = self._unquoted(match)
        end = match.end() if "\n" not in match.group() else text.index("\n", start)
        return Scalar(raw, raw, self._place(start, end))

    def _unquoted(self, match: re.Match[str]) -> str:
        if match.group()[0] == "'":
            return unquote_single(match[1])
        try:
            return unquote_double(match[1])
        except BadEscape as bad:
            at = match.start(1) + bad.offset
            message = f"{bad.text} means nothing in a text in double quotes"
            help = "write \\\\ for a backslash, or use single quotes"
            self._stop("yaml/escape", message, self._place(at, at + len(bad.text)), help=help)

    def _alias(self) -> Node:
        match = _NAME.match(self._text, self._pos + 1)
        place = self._place(self._pos, match.end() if match else None)
        if match is None or match.group() not in self._anchors:
            name = match.group()[:_MOST_SHOWN] if match else ""
            message = f"there is no anchor &{name} before this"
            help = "an alias *name repeats the value that was written as &name value"
            self._stop("yaml/alias", message, place, help=help)
        self._pos = match.end()
        return self._anchors[match.group()]

    def _block_scalar(self, parent: int) -> Scalar:
        """`|` and `>`: a text of several lines."""
        text, start = self._text, self._pos
        header = _BLOCK_HEADER.match(text, start)
        if header is None:
            message = f"behind {text[start]} the text begins on the next line"
            help = f"put a text that begins with {text[start]} in quotes"
            self._stop("yaml/block-text", message, self._place(start), help=help)
        chomp = header[2] or header[5] or ""
        digit = header[3] or header[4]
        indent = max(parent, 0) + int(digit) if digit else -1
        lines: list[str] = []
        pos = header.end()
        while text[pos] == "\n" and text[pos + 1] != _END:
            begin = pos + 1
            end = text.find("\n", begin)
            end = end if end >= 0 else len(text) - 1
            line = text[begin:end]
            spaces = len(line) - len(line.lstrip(" "))
            if spaces == len(line):  # blank
                if indent >= 0:
                    line = line[indent:]
                else:
                    line = ""
            else:
                if indent < 0:
                    indent = max(spaces, parent + 1)
                if spaces < indent or (spaces == 0 and self._marker_at(begin)):
                    break
                line = line[indent:]
            lines.append(line)
            pos = end
        self._pos = pos + (text[pos] == "\n")
        broken = text[pos] == "\n" or pos == header.end()
        value = block_text(lines, folded=header[1] == ">", chomp=chomp, broken=broken)
        return Scalar(value, value, self._place(start, header.end()))

    # ---- flow collections ------------------------------------------------------------------------

    def _gap(self, parent: int, opening: int) -> str:
        """Go over blanks, lines and comments in brackets; the character behind them."""
        start = self._pos
        self._pos = self._skip(_FLOW_GAP)
        mark = self._text[self._pos]
        if mark == _END:
            self._unclosed(opening)
        if (line := self._text.rfind("\n", start, self._pos)) >= 0:
            # A closing bracket may stand under its key; anything else there is the next key.
            column = self._pos - line - 1
            if (column <= parent and mark not in "]}") or (
                column == 0 and self._marker_at(self._pos)
            ):
                self._unclosed(opening)
        return mark

    def _unclosed(self, opening: int) -> NoReturn:
        mark = self._text[opening]
        closer = {"[": "]", "{": "}"}.get(mark, mark)
        help = f"put a {closer} where it ends"
        if mark == "'":
            help += ", or write a text with an apostrophe in double quotes"
        self._stop("yaml/unclosed", f"this {mark} is never closed", self._place(opening), help=help)

    def _flow_value(self, parent: int, opening: int) -> Node:
        anchor, is_text = self._properties(flow=True)
        text, start = self._text, self._pos
        mark = self._gap(parent, opening)
        node: Node
        if mark in ",]}" and (anchor or is_text):
            node = Scalar("" if is_text else None, "", self._place(start))
        elif mark in "\"'":
            node = self._quoted(parent)
        elif mark == "{":
            node = self._flow_mapping(parent)
        elif mark == "[":
            node = self._flow_sequence(parent)
        elif mark == "*":
            node = self._alias()
        else:
            match = _FLOW_PLAIN.match(text, start)
            if match is None:
                self._no_value(mark, flow=True)
            node = self._scalar(self._flow_text(match, parent), start, match.end())
        return self._named(node, anchor, is_text)

    def _flow_text(self, match: re.Match[str], parent: int) -> str:
        """A plain scalar in brackets, which may go on over lines."""
        text = self._text
        self._pos = match.end()
        if text[self._pos] not in " \t\n":
            return match.group()
        lines = [(0, match.group())]
        while more := _INDENTED_BREAK.match(text, self._pos):
            if len(more[1]) <= parent or (len(more[1]) == 0 and self._marker_at(more.end())):
                break
            following = _FLOW_PLAIN_MORE.match(text, more.end())
            if following is None:
                break
            lines.append((more.group().count("\n"), following.group()))
            self._pos = following.end()
        return fold_plain(lines)

    def _flow_mapping(self, parent: int) -> Mapping:
        opening = self._pos
        self._enter(self._place(opening))
        entries: dict[str, Entry] = {}
        size = 1
        self._pos += 1
        while (mark := self._gap(parent, opening)) != "}":
            start = self._pos
            name, place, is_quoted = self._flow_key(mark, parent, opening)
            value: Node = Scalar(None, "", place)
            mark = self._gap(parent, opening)
            if mark == ":":
                self._pos += 1
                if self._gap(parent, opening) not in ",}":
                    value = self._flow_value(parent, opening)
            elif mark in ",}" and not is_quoted and ":" in name:
                self._no_space(self._text.index(":", start))
            self._put(entries, name, place, value)
            size += value.size
            self._limit(size, value)
            self._separator(parent, opening, "}")
        self._pos += 1
        self._leave()
        return Mapping(entries, self._span(opening), size)

    def _flow_key(self, mark: str, parent: int, opening: int) -> tuple[str, Place, bool]:
        text, start = self._text, self._pos
        if mark in "\"'":
            scalar = self._quoted(parent)
            self._check_key(scalar.raw, scalar.place)
            return scalar.raw, scalar.place, True
        match = _FLOW_PLAIN.match(text, start)
        if match is not None:
            name, place = self._flow_text(match, parent), self._place(start, match.end())
            self._check_key(name, place)
            return name, place, False
        place = self._place(start)
        if mark == "]":
            self._mismatched(opening)
        if mark == "?":
            self._explicit_key()
        if mark in "[{":
            self._stop("yaml/key", "a key must be a word, not a list or a mapping", place)
        if mark in "&*!":
            self._stop_before_key(mark)
        if mark == ":":
            self._no_key()
        return self._no_value(mark, flow=True)

    def _flow_sequence(self, parent: int) -> Listing:
        opening = self._pos
        self._enter(self._place(opening))
        items: list[Node] = []
        size = 1
        self._pos += 1
        while self._gap(parent, opening) != "]":
            start = self._pos
            if self._text[start] == "}":
                self._mismatched(opening)
            item = self._flow_value(parent, opening)
            if self._gap(parent, opening) == ":" and isinstance(item, Scalar):
                # `[a: b]` is a list of one mapping
                self._check_key(item.raw, item.place)
                self._pos += 1
                value: Node = Scalar(None, "", item.place)
                if self._gap(parent, opening) not in ",]":
                    value = self._flow_value(parent, opening)
                item = Mapping({item.raw: Entry(item.place, value)}, item.place, 1 + value.size)
            items.append(item)
            size += item.size
            self._limit(size, item)
            self._separator(parent, opening, "]")
        self._pos += 1
        self._leave()
        return Listing(tuple(items), self._span(opening), size)

    def _separator(self, parent: int, opening: int, closer: str) -> None:
        """A comma, or the closing bracket, at which this stays."""
        mark = self._gap(parent, opening)
        if mark == ",":
            self._pos += 1
        elif mark in "]}" and mark != closer:
            self._mismatched(opening)
        elif mark == "#":
            self._no_space_before_comment(self._pos)
        elif mark == ":":
            message = "a comma is missing before the key of this colon"
            help = "or put the value before it in quotes, if it is meant to hold the colon"
            self._stop("yaml/comma", message, self._place(self._pos), help=help)
        elif mark != closer:
            place = self._place(self._pos, self._word_end(self._pos))
            help = "or one pair of quotes around the whole text"
            self._stop("yaml/comma", f"a comma or {closer} is missing here", place, help=help)

    def _mismatched(self, opening: int) -> NoReturn:
        mark, closer = self._text[self._pos], "]" if self._text[opening] == "[" else "}"
        opened = self._place(opening)
        place = self._place(self._pos)
        at = f"line {opened.line}, column {opened.column}"
        message = f"{closer} is expected, and here is {mark}"
        note = f"the {self._text[opening]} to close is at {at}"
        self._stop("yaml/bracket", message, place, notes=(note,))

    # ---- what all share --------------------------------------------------------------------------

    def _put(self, entries: dict[str, Entry], name: str, place: Place, value: Node) -> None:
        if name in entries:
            first = entries[name].key
            shown = name if len(name) <= _MOST_SHOWN else name[: _MOST_SHOWN - 1] + "…"
            self._faults.append(
                Diagnostic(
                    "yaml/duplicate-key",
                    f"the key {shown} is given twice",
                    place,
                    notes=(f"it is first given at line {first.line}",),
                    help="one of them would be lost: remove it, or give it another name",
                )
            )
            return
        if name == "<<":
            message = "YAML 1.2 has no merge key <<"
            help = "a variant of a file is written with `extends`, layers that recur as a block"
            self._faults.append(Diagnostic("yaml/merge-key", message, place, help=help))
            return
        entries[name] = Entry(place, value)

    def _limit(self, size: int, last: Node) -> None:
        if size > MAX_VALUES:
            message = f"the file stands for more than {MAX_VALUES:,} values (aliases written out)"
            help = "a net of so many layers is beyond any machine; is an alias repeated too often?"
            self._stop("yaml/too-many-values", message, last.place, help=help)

    def _enter(self, place: Place) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            message = f"values are nested more than {MAX_DEPTH} deep"
            self._stop("yaml/depth", message, place, help="no spec needs more than ten")

    def _leave(self, column: int = -1) -> None:
        self._depth -= 1
        if column >= 0:
            self._closed = column

    def _word_end(self, pos: int) -> int:
        """The end of the word at `pos`, for a caret that underlines it."""
        match = _NAME.match(self._text, pos)
        return match.end() if match else pos + 1

    def _span(self, start: int) -> Place:
        """From a bracket to the one that closed it, if that is on its line."""
        end = self._text.find("\n", start, self._pos)
        return self._place(start, self._pos if end < 0 else end)

    def _place(self, start: int, end: int | None = None) -> Place:
        starts, line = self._starts, self._line
        if start < starts[line] or (line + 1 < len(starts) and start >= starts[line + 1]):
            line = self._line = bisect_right(starts, start) - 1
        length = max(1, (end or start + 1) - start)
        return Place(self._source, line + 1, start - starts[line] + 1, length)

    def _stop(
        self,
        code: str,
        message: str,
        place: Place | None,
        *,
        notes: tuple[str, ...] = (),
        help: str | None = None,
    ) -> NoReturn:
        """Raise with the faults so far and this one, after which no more can be read."""
        last = Diagnostic(code, message, place, notes=notes, help=help)
        raise AlexcError(*self._faults, last) from None
