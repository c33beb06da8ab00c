"""A file's bytes → the values that they stand for."""

from __future__ import annotations

import re
from pathlib import Path

from alexc.diagnostics import AlexcError, Diagnostic, Place, SourceText, UsageError
from alexc.source.reader import Reader
from alexc.source.tree import Mapping

MAX_BYTES = 1_000_000

# What YAML 1.2 allows in a file (its section 5.1).
_UNPRINTABLE = re.compile("[^\t\n -~\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


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
        line = data.count(b"\n", 0, error.start) + 1
        raise AlexcError(
            Diagnostic(
                "yaml/encoding",
                f"{shown_as}: byte {error.start} (line {line}) is not UTF-8",
                help="save the file as UTF-8",
            )
        ) from None
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    lines = text.split("\n")
    source = SourceText(shown_as, tuple(lines))
    if wrong := _UNPRINTABLE.search(text):
        line = text.count("\n", 0, wrong.start())
        column = wrong.start() - sum(len(before) + 1 for before in lines[:line])
        message = f"the control character U+{ord(wrong.group()):04X} can't stand in YAML"
        place = Place(source, line + 1, column + 1)
        help = f'take it away, or write it in a quoted text: "\\u{ord(wrong.group()):04x}"'
        raise AlexcError(Diagnostic("yaml/character", message, place, help=help))
    return Reader(source, text).document()
