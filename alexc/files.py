"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from alexc.diagnostics import Diagnostic, UsageError


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file that appears at `path` when the block ends well, and not at all if it does not.

    Until then its bytes are in a file beside it, so that no reader ever sees half of it; an
    interrupt too leaves nothing behind. Raises UsageError if the file can't be written.
    """
    with _beside(path) as partial:
        try:
            with partial.open("xb") as file:
                yield file
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def check_writable(path: Path) -> None:
    """Raise UsageError if `whole_file` could write nothing at `path`, before there is anything."""
    with _beside(path) as partial:
        partial.open("xb").close()
        partial.unlink()


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """The name of a new file beside `path`; what can't be written in the block is a UsageError."""
    try:
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "it is not an ordinary file")  # such as /dev/null
        yield path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    except OSError as error:
        reason = f"{path}: {error.strerror or error}"
        raise UsageError(Diagnostic("file/unwritable", reason)) from None
