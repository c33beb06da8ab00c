"""A file's bytes → the values that they stand for."""

from __future__ import annotations

import re
from pathlib import Path

from alexc.diagnostics import AlexcError, Diagnostic, Place, SourceText, UsageError
from alexc.source.composer import compose
from alexc.source.tree import Mapping

MAX_BYTES = 500_000

# What YAML 1.2 does not allow in a file (its section 5.1), and the three characters that YAML 1.1
# took for line breaks: the parser still does.
FORBIDDEN = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")


def read(path: Path, *, shown_as: str | None = None) -> Mapping:
    """The root mapping of a YAML file; `shown_as` is the path that diagnostics print.

    Raises UsageError if there is no such file and AlexcError if it is not one YAML mapping.
    """
    return parse(read_bytes(path), shown_as or str(path))


def read_bytes(path: Path) -> bytes:
    """The bytes of a spec file, refused when they can't be one."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise UsageError(Diagnostic("file/missing", f"there is no file {path}")) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(Diagnostic("file/unreadable", f"{path}: {reason}")) from None
    if len(data) > MAX_BYTES:
        raise AlexcError(
            Diagnostic(
                "yaml/too-large",
                f"{path} is larger than {MAX_BYTES:,} bytes, which no spec needs",
                help="a spec describes layers; weights belong in a .safetensors file",
            )
        )
    return data


def parse(data: bytes, shown_as: str) -> Mapping:
    """The root mapping of YAML text in UTF-8; AlexcError with a place for every fault found."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = _unify_lines(data[: error.start].decode("utf-8-sig"))
        text = _unify_lines(data.decode("utf-8", errors="replace"))
        message = f"the byte 0x{data[error.start]:02X} here is not UTF-8"
        help = "save the file as UTF-8"
        if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
            help = "the file is UTF-16; save it as UTF-8"
        place = _place(SourceText(shown_as, tuple(text.split("\n"))), len(before), before)
        raise AlexcError(Diagnostic("yaml/encoding", message, place, help=help)) from None
    text = _unify_lines(text)
    source = SourceText(shown_as, tuple(text.split("\n")))
    if wrong := FORBIDDEN.search(text):
        code = ord(wrong.group())
        message = f"the character U+{code:04X} can't stand in YAML"
        help = f'take it away, or write it in a quoted text: "\\u{code:04x}"'
        place = _place(source, wrong.start(), text)
        raise AlexcError(Diagnostic("yaml/character", message, place, help=help))
    return compose(source, text)


def _unify_lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _place(source: SourceText, offset: int, text: str) -> Place:
    line_start = text.rfind("\n", 0, offset) + 1
    return Place(source, text.count("\n", 0, offset) + 1, offset - line_start + 1)
