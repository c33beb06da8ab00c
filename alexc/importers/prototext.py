"""The text form of protocol buffers → a Message whose every field keeps its place.

This is the form of Caffe's prototxt files. All faults of type are reported in one go; a fault of
syntax is the last, since nothing after it can be read. What the schema does not know must still be
well formed, and is kept by name for whoever reads the message to judge.

Refused: extensions and Any (`[name]: …`), which no net needs.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NoReturn

from alexc.diagnostics import AlexcError, Diagnostic, UsageError
from alexc.importers.proto import Document, Field, Message, Schema, Schemas

MAX_BYTES = 4_000_000
MAX_VALUES = 100_000
MAX_DEPTH = 32

_SPACE = re.compile(r"(?:\s+|#[^\n]*)*+")
_TOKEN = re.compile(
    r"""
    (?P<name>[A-Za-z_]\w*)
  | (?P<number>(?:0[xX][0-9a-fA-F]+|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)[fF]?)
  | (?P<string>"(?:[^"\\\n]++|\\[^\n])*+"|'(?:[^'\\\n]++|\\[^\n])*+')
  | (?P<mark>[{}<>:\[\],;+-])
    """,
    re.VERBOSE | re.ASCII,
)
_WHOLE = re.compile(r"-?(?:0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20})\Z")
_WORD = re.compile(r"[\w.]")
_ESCAPE = re.compile(r"\\(?:([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})|(.))")
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
_CLOSING = {"{": "}", "<": ">"}
_TRUTH = {"true": True, "t": True, "True": True, "1": True}
_FALSEHOOD = {"false": False, "f": False, "False": False, "0": False}
_WISHES = {
    "int": "a whole number",
    "bool": "true or false",
    "float": "a number",
    "double": "a number",
    "string": "a text in quotes",
    "bytes": "a text in quotes",
    "enum": "a word",
}


def read(path: Path, schema: Schema, schemas: Schemas) -> Message:
    """The message that a file holds as text.

    Raises UsageError if it can't be read, AlexcError with every fault that was found if it is not
    what the schema says.
    """
    return parse(read_text(path), str(path), schema, schemas)


def read_text(path: Path, most: int = MAX_BYTES) -> str:
    """The text of a file of so many bytes at most.

    Comments may be in any encoding: what is not UTF-8 is read byte by byte.
    """
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except FileNotFoundError:
        raise UsageError(Diagnostic("file/missing", f"there is no file {path}")) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(Diagnostic("file/unreadable", f"{path}: {reason}")) from None
    if len(data) > most:
        raise AlexcError(
            Diagnostic(
                "import/too-large",
                f"{path} is larger than {most:,} bytes, which no description of a net needs",
                help="trained weights are given with --weights",
            )
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def parse(text: str, shown_as: str, schema: Schema, schemas: Schemas) -> Message:
    """The message that the text stands for; AlexcError with the places of what is wrong in it."""
    return _Parser(text, Document(shown_as, text), schemas).parse(schema)


class _Parser:
    """A descent through the text, one level of the message a call."""

    def __init__(self, text: str, document: Document, schemas: Schemas) -> None:
        self.text = text
        self.document = document
        self.schemas = schemas
        self.faults: list[Diagnostic] = []
        self.values = 0
        self.offset = 0  # of the token at hand
        self.token = ""
        self.kind = ""  # name, number, string, mark, or nothing at the end
        self.end = 0

    def parse(self, schema: Schema) -> Message:
        message = Message(schema, self.document, 0, 1)
        self._next()
        self._fields(message, "", 0)
        if self.faults:
            raise AlexcError(*self.faults)
        return message

    def _next(self) -> None:
        """Go on to the next token."""
        space = _SPACE.match(self.text, self.end)
        self.offset = space.end() if space else self.end
        match = _TOKEN.match(self.text, self.offset)
        if match is None:
            if self.offset < len(self.text):
                self._stop(self._unreadable(), 1)
            self.token = self.kind = ""
            self.end = self.offset
            return
        self.token, self.kind, self.end = match.group(), str(match.lastgroup), match.end()
        if self.kind == "number" and _WORD.match(self.text, self.end):
            self._stop(f"{self.token}{self.text[self.end]}… is no number")

    def _unreadable(self) -> str:
        character = self.text[self.offset]
        if character in "\"'":
            return "this text is not closed on its line"
        shown = character if character.isprintable() else f"U+{ord(character):04X}"
        return f"{shown} has no meaning here"

    def _fields(self, message: Message | None, closing: str, depth: int) -> None:
        """Read fields into the message (None: only check their form) up to its closing mark."""
        opened = self.offset
        while True:
            while self.token in (",", ";"):
                self._next()
            if not self.kind:
                if closing:
                    place = self.document.place(opened)
                    where = f" opened at line {place.line}" if place else ""
                    self._stop(f"the file ends inside the message{where}, before its {closing}")
                return
            if closing and self.token == closing:
                return
            if self.kind != "name":
                what = "an extension" if self.token == "[" else f"{self._shown()}"
                self._stop(f"a field's name is expected, and here is {what}")
            self._field(message, depth)

    def _field(self, message: Message | None, depth: int) -> None:
        name, offset = self.token, self.offset
        known = message.schema.by_name.get(name) if message is not None else None
        if message is not None and known is None:
            message.unknown.append((name, offset))
        self._next()
        colon = self.token == ":"
        if colon:
            self._next()
        if self.token != "[":
            self._value(message, known, name, offset, colon, depth)
            return
        self._next()
        while self.token != "]":
            self._value(message, known, name, offset, colon, depth)
            if self.token == ",":
                self._next()
            elif self.token != "]":
                self._stop(
                    f"the list of {name} goes on with , or ends with ]: here is {self.token}"
                )
        self._next()

    def _value(
        self,
        message: Message | None,
        known: Field | None,
        name: str,
        offset: int,
        colon: bool,
        depth: int,
    ) -> None:
        self.values += 1
        if self.values > MAX_VALUES:
            self._stop(f"the file holds more than {MAX_VALUES:,} values")
        if closing := _CLOSING.get(self.token):
            self._message(message, known, name, offset, closing, depth)
            return
        if not colon:
            self._stop(f"{name} is followed by {self._shown()}, and a value follows a colon")
        start, last = self.offset, self.end
        token, kind = self._scalar()
        if message is None or known is None:
            return
        if known.kind == "message":
            shown = self.text[start : max(last, start + 1)]
            self._wrong_type(f"{name} is a message in braces, and is {_cut(shown)}", start)
            return
        value = self._converted(known, token, kind)
        if value is None:
            wish = _WISHES[known.kind]
            self._wrong_type(f"{name} is {wish}, and is {_cut(token)}", start)
            return
        message.add(name, value, offset)

    def _message(
        self,
        message: Message | None,
        known: Field | None,
        name: str,
        offset: int,
        closing: str,
        depth: int,
    ) -> None:
        if depth + 1 >= MAX_DEPTH:
            self._stop(f"messages are nested more than {MAX_DEPTH} deep")
        inner = None
        if message is not None and known is not None:
            if known.kind == "message":
                inner = self._inner(message, known, offset)
            else:
                self._wrong_type(f"{name} is {_WISHES[known.kind]}, and is a message", self.offset)
        self._next()
        self._fields(inner, closing, depth + 1)
        self._next()

    def _inner(self, message: Message, known: Field, offset: int) -> Message:
        """The message to fill: one that is given twice and not repeated is filled on."""
        old = message.values.get(known.name)
        if old and not known.repeated and isinstance(old[-1], Message):
            return old[-1]
        inner = Message(self.schemas[known.type], self.document, offset, len(known.name))
        message.add(known.name, inner, offset)
        return inner

    def _scalar(self) -> tuple[str, str]:
        """One value as its text and kind; texts that stand side by side are one."""
        if self.kind == "string":
            parts = []
            while self.kind == "string":
                parts.append(_unescaped(self.token[1:-1]))
                self._next()
            return "".join(parts), "string"
        sign = ""
        if self.token in ("-", "+"):
            sign = self.token.replace("+", "")
            self._next()
        if self.kind not in ("name", "number"):
            self._stop(f"a value is expected, and here is {self._shown()}")
        token, kind = sign + self.token, self.kind
        self._next()
        return token, kind

    def _converted(self, known: Field, token: str, kind: str) -> Any:
        """The value in its field's type, or None if it is none."""
        match known.kind:
            case "string" | "bytes":
                return token if kind == "string" else None
            case "enum":
                if kind == "number" and token.isdecimal() and len(token) < 10:
                    return self.schemas.enum_name(known.type, int(token))
                # Old files put the word in quotes.
                return token if kind in ("name", "string") else None
            case "bool":
                return _TRUTH.get(token, _FALSEHOOD.get(token)) if kind != "string" else None
            case "int":
                return _whole_number(token) if kind == "number" else None
            case _:
                return _number(token) if kind != "string" else None

    def _shown(self) -> str:
        return _cut(self.token) if self.token else "the end of the file"

    def _wrong_type(self, message: str, offset: int) -> None:
        place = self.document.place(offset)
        self.faults.append(Diagnostic("import/field-type", message, place))

    def _stop(self, message: str, length: int | None = None) -> NoReturn:
        place = self.document.place(self.offset, length or max(1, len(self.token)))
        raise AlexcError(*self.faults, Diagnostic("import/syntax", message, place))


def _whole_number(token: str) -> int | None:
    if not _WHOLE.match(token):
        return None
    digits = token.lstrip("-")
    base = 16 if digits[:2] in ("0x", "0X") else 8 if digits[0] == "0" else 10
    try:
        number = int(digits, base)
    except ValueError:  # 08 is no octal number
        return None
    number = -number if token.startswith("-") else number
    return number if -(2**63) <= number < 2**64 else None


def _number(token: str) -> float | None:
    digits = token.lstrip("-").lower()
    sign = -1.0 if token.startswith("-") else 1.0
    if digits in ("inf", "infinity", "nan"):
        return sign * float(digits)
    try:
        if digits.startswith("0x"):
            return sign * float(int(digits, 16))
        return sign * float(digits.rstrip("f"))
    except (ValueError, OverflowError):
        return None


def _unescaped(text: str) -> str:
    def character(match: re.Match[str]) -> str:
        octal, hexadecimal, other = match.groups()
        if octal:
            return chr(int(octal, 8) & 0xFF)
        if hexadecimal:
            return chr(int(hexadecimal, 16))
        return _ESCAPED.get(other, other)

    return _ESCAPE.sub(character, text) if "\\" in text else text


def _cut(text: str) -> str:
    shown = text if len(text) <= 40 else text[:39] + "…"
    return shown if shown.isprintable() else ascii(shown)
