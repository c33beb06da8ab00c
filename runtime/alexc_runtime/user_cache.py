"""The folder in which a user's caches lie: ~/.cache/alexc, or what the environment says.

ALEXC_CACHE names it; set to nothing, there is none. Otherwise it is `alexc` in XDG_CACHE_HOME.
What lies there can be made again, so that a cache that can't be read or written is no fault: it is
told in the log, and done without.
"""

from __future__ import annotations

import logging
import os
import secrets
from contextlib import suppress
from pathlib import Path

_log = logging.getLogger("alexc_runtime")


def user_cache() -> Path | None:
    """The folder, which need not exist; None if there is to be no cache."""
    said = os.environ.get("ALEXC_CACHE")
    if said is not None:
        return Path(said) if said else None
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        root = Path(base) if base else Path.home() / ".cache"
    except RuntimeError:  # there is no home
        return None
    return root / "alexc"


def make(folder: Path) -> bool:
    """Make the folder and those above it. Returns whether it is there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _log.warning("%s is not used: %s", folder, error.strerror or error)
        return False
    return True


def fetch(file: Path) -> bytes | None:
    """What was kept in the file, or None."""
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        _log.warning("%s is not used: %s", file, error.strerror or error)
        return None


def keep(file: Path, content: bytes | memoryview) -> None:
    """Write the file whole or not at all."""
    part = file.with_name(f".{file.name}-{secrets.token_hex(8)}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content)
        part.replace(file)
    except OSError as error:
        _log.warning("%s is not kept: %s", file, error.strerror or error)
        with suppress(OSError):
            part.unlink()
