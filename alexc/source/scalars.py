r"""What the text of a scalar stands for: numbers and words, folded lines, `\n` and its like."""

from __future__ import annotations

import re

_INT = re.compile(r"[-+]?[0-9]+\Z|0o[0-7]+\Z|0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_WORDS: dict[str, bool | float | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
_NUMBER_STARTS = frozenset("+-.0123456789")

# Blanks and line breaks in a quoted text; or an escape.
_BLANKS = re.compile(r"[ \t\n]++")
_BLANKS_OR_ESCAPE = re.compile(
    r"""[ \t\n]++
    |   \\\n[ \t\n]*+  # an escaped line break: the lines are joined
    |   \\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)""",
    re.VERBOSE,
)
_ESCAPES = {
    "0": "\0", "a": "\a", "b": "\b", "t": "\t", "\t": "\t", "n": "\n", "v": "\v", "f": "\f",
    "r": "\r", "e": "\x1b", " ": " ", '"': '"', "/": "/", "\\": "\\", "N": "\x85", "_": "\xa0",
    "L": "\u2028", "P": "\u2029",
}  # fmt: skip
_SURROGATES = re.compile("([\ud800-\udbff])([\udc00-\udfff])")
_LONE = re.compile("[\ud800-\udfff]")


def resolve(raw: str) -> str | int | float | bool | None:
    """The value of a plain scalar by YAML 1.2's core schema (chapter 10.3.2 of its specification).

    Raises ValueError for an integer of more than 64 bits.
    """
    if raw[:1] in _NUMBER_STARTS:
        if _INT.match(raw):
            if len(raw) > 25:
                raise ValueError(raw)
            number = int(raw, {"0o": 8, "0x": 16}.get(raw[:2], 10))
            if abs(number) >= 2**63:
                raise ValueError(raw)
            return number
        if _FLOAT.match(raw):
            return float(raw)
    return _WORDS.get(raw, raw)


def unquote_single(body: str) -> str:
    """The text between single quotes: a quote is written twice, lines are folded."""
    body = body.replace("''", "'")
    return _BLANKS.sub(lambda match: _fold(match.group()), body) if "\n" in body else body


def unquote_double(body: str) -> str:
    """The text between double quotes: escapes, folded lines.

    Raises BadEscape at the first that means nothing.
    """
    if "\\" not in body and "\n" not in body:
        return body

    def replace(match: re.Match[str]) -> str:
        text = match.group()
        if text[0] != "\\":
            return _fold(text)
        if text[1] == "\n":
            return "\n" * (text.count("\n") - 1)
        if len(text) > 2:
            code = int(f"0x{text[2:]}", base=0)
            if code <= 0x10FFFF:
                return chr(code)
        elif text[1] in _ESCAPES:
            return _ESCAPES[text[1]]
        raise BadEscape(match.start(), text)

    text = _BLANKS_OR_ESCAPE.sub(replace, body)
    # JSON writes characters beyond U+FFFF in two halves.
    text = _SURROGATES.sub(
        lambda match: (match[1] + match[2]).encode("utf-16", "surrogatepass").decode("utf-16"), text
    )
    if _LONE.search(text):
        raise BadEscape(body.find("\\u"), "\\u")
    return text


class BadEscape(ValueError):  # noqa: N818  (it becomes a Diagnostic)
    """An escape in double quotes that means nothing."""

    def __init__(self, offset: int, text: str) -> None:
        super().__init__(text)
        self.offset = offset
        self.text = text


def _fold(blanks: str) -> str:
    """Blanks within a text: a line break is a space, and of several the first is dropped."""
    breaks = blanks.count("\n")
    if not breaks:
        return blanks
    return "\n" * (breaks - 1) if breaks > 1 else " "


def fold_plain(lines: list[tuple[int, str]]) -> str:
    """A plain scalar of several lines, each with the number of line breaks before it."""
    return "".join(_fold("\n" * breaks) + line for breaks, line in lines)


def block_text(lines: list[str], *, folded: bool, chomp: str, broken: bool) -> str:
    """A block scalar: lines without their common indentation; `chomp` is `-`, `+` or nothing.

    `broken` says that the last line ends in a line break, and not with the file.
    """
    kept = len(lines)
    while kept and not lines[kept - 1]:
        kept -= 1
    body, tail = lines[:kept], len(lines) - kept
    text = _fold_block(body) if folded else "\n".join(body)
    if chomp == "+":
        return text + "\n" * (tail + bool(body) - (not broken))
    return text + "\n" if body and not chomp and (tail or broken) else text


def _fold_block(lines: list[str]) -> str:
    """`>`: lines that follow one another are joined; indented ones and blank ones stay."""
    out: list[str] = []
    blank = 0  # blank lines since the last one with text
    before: str | None = None
    for line in lines:
        if not line:
            blank += 1
            continue
        if before is None:
            out.append("\n" * blank)
        elif before[0] in " \t" or line[0] in " \t":
            out.append("\n" * (blank + 1))
        else:
            out.append("\n" * blank if blank else " ")
        out.append(line)
        before, blank = line, 0
    return "".join(out)
