"""Files that appear whole or not at all, and whose fault it is where they can't be written."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from alexc.diagnostics import AlexcError, Diagnostic, UsageError

# Of these the place that was given is the cause. Others say what became of the disk meanwhile.
_OF_PLACE = {
    *(errno.EROFS, errno.EACCES, errno.EPERM, errno.EBUSY, errno.ENOENT, errno.ENOTDIR),
    *(errno.EISDIR, errno.EINVAL, errno.ELOOP, errno.ENAMETOOLONG),
}


def unwritable(error: OSError) -> type[AlexcError]:
    """What it is that nothing could be written: wrong usage if nothing can be at that place, and a
    fault like any other if the disk has filled up, or fails."""
    return UsageError if error.errno in _OF_PLACE else AlexcError


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file that appears at `path` when the block ends well, and not at all if it does not.

    Until then its bytes are in a file beside it, so that no reader ever sees half of it; an
    interrupt too leaves nothing behind. Raises UsageError if the file can't be written there,
    AlexcError if the disk is full or fails.
    """
    with _beside(path) as partial:
        try:
            with partial.open("xb") as file:
                yield file
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def resolved(path: Path) -> Path:
    """The path from the root and without links; a link that leads to itself stays as it is.

    pathlib's own `resolve` raises a RuntimeError of those before Python 3.13.
    """
    return Path(os.path.realpath(path))


def check_writable(path: Path) -> None:
    """Raise UsageError if `whole_file` could write nothing at `path`, before there is anything."""
    with _beside(path) as partial:
        partial.open("xb").close()
        partial.unlink()


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """The name of a new file beside `path`; turns an OSError in the block into a diagnostic."""
    try:
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "it is not an ordinary file")  # such as /dev/null
        yield path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    except OSError as error:
        reason = f"{path}: {error.strerror or error}"
        raise unwritable(error)(Diagnostic("file/unwritable", reason)) from None
