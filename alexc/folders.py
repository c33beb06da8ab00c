"""Folders that appear whole or not at all; what one replaces is never lost.

What makes a folder fills another beside the place where it will be, and `commit` renames it there:

    with staged(Path("build/alexnet"), "bundle", refuse) as stage:
        write(stage.folder / "file", ...)           # any files, in any order
        stage.commit()

Whatever ends the block before `commit` does (a fault, a full disk, Ctrl-C) leaves the place as it
was. A process that is killed leaves its folder behind, `.alexnet.staging-…`; the next one with the
same place removes it, unless the process that owns it is still at work. The folder being replaced
stands aside as `.alexnet.replaced-…` for the moment between two renames; if a kill comes in that
moment, the next one puts it back first.

What is only needed for a while lies in a `scratch` folder, of which the same holds: what a killed
process leaves, the next one removes.

Against a loss of power no file is flushed to disk: that would take longer than most of what is
written here takes to make.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from alexc.diagnostics import Diagnostic
from alexc.files import unwritable

_STAGING, _REPLACED = ".staging-", ".replaced-"


class Stage:
    """A folder in the making: `folder` is to be filled, then `commit` puts it into its place."""

    def __init__(self, folder: Path, target: Path) -> None:
        self.folder = folder
        self._target = target

    def commit(self) -> None:
        """Put the folder in its place. What stood there is removed once the new one stands."""
        _put_in_place(self.folder, self._target)


@contextmanager
def staged(out: Path, what: str, refuse: Callable[[Path], None]) -> Iterator[Stage]:
    """A folder to be filled with what will stand at `out`.

    `refuse` is given the place, links followed, and raises if what stands there may not be
    replaced. Raises UsageError `<what>/…` if nothing can be written there, AlexcError if the disk
    is full or fails, then and at any time in the block. Folders above `out` are made, and removed
    again if nothing comes of it.
    """
    with _disk_faults(out, what):
        target = Path(os.path.realpath(out))  # a link to a folder stays a link
        made = _make_parents(target)
    try:
        with _disk_faults(out, what):
            with _locked(target.parent):
                _recover(target)
            refuse(target)
            folder, lock = _make_folder(target, _STAGING)
        try:
            with _disk_faults(out, what):
                yield Stage(folder, target)
        finally:
            # After a commit the folder has another name, and there is nothing here to remove.
            shutil.rmtree(folder, ignore_errors=True)
            if lock is not None:
                os.close(lock)
    finally:
        for parent in made:
            with suppress(OSError):  # not empty: it holds what was made, or someone else's files
                parent.rmdir()


def _make_parents(target: Path) -> list[Path]:
    """Make the folders above `target`; those that were not there before, innermost first."""
    missing = [parent for parent in target.parents if not parent.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    return missing


def _put_in_place(folder: Path, target: Path) -> None:
    """Rename `folder` to `target`. What stood there is removed once the new one stands."""
    with _locked(target.parent):
        if not target.exists():
            folder.rename(target)
            return
        # A folder can't be renamed onto one that holds files, so the old one steps aside.
        aside = _sibling(target, _REPLACED)
        try:
            target.rename(aside)
            folder.rename(target)
        except BaseException:
            if aside.exists() and not target.exists():
                aside.rename(target)
            raise
        shutil.rmtree(aside, ignore_errors=True)


def _recover(target: Path) -> None:
    """Undo what killed builds left half-done beside `target`. Needs the lock on its folder."""
    asides = _siblings(target, _REPLACED)
    for aside in sorted(asides, key=lambda folder: folder.lstat().st_ctime_ns, reverse=True):
        if target.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.rename(target)
    for folder in _siblings(target, _STAGING):
        lock = _lock(folder, wait=False)
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def _sibling(target: Path, kind: str) -> Path:
    """A new name beside `target`: on the same file system, so that renaming is one step."""
    return target.with_name(f".{target.name}{kind}{secrets.token_hex(4)}")


def _siblings(target: Path, kind: str) -> list[Path]:
    ours = re.compile(re.escape(f".{target.name}{kind}") + "[0-9a-f]{8}")
    return [entry for entry in target.parent.iterdir() if ours.fullmatch(entry.name)]


# ---- for a while ---------------------------------------------------------------------------------


@contextmanager
def scratch(purpose: str) -> Iterator[Path]:
    """A new folder `alexc-<purpose>.…` in the system's temporary folder, removed in the end.

    Those of the same purpose whose processes are gone are removed before. Raises OSError if the
    temporary folder can't be written.
    """
    _sweep(Path(tempfile.gettempdir()), start := f"alexc-{purpose}.")
    while True:
        temporary = tempfile.TemporaryDirectory(prefix=start, ignore_cleanup_errors=True)
        with temporary as name:
            lock = _lock(Path(name), wait=True)
            try:
                # Before it was locked, another process may have taken it for one left behind.
                if Path(name).exists():
                    yield Path(name)
                    return
            finally:
                if lock is not None:
                    os.close(lock)


def _sweep(root: Path, start: str) -> None:
    """Remove this user's folders in `root` that are named as `scratch` names them, with eight
    characters drawn by tempfile, and that nobody has locked."""
    if sys.platform == "win32":  # which has no such locks
        return
    ours = re.compile(re.escape(start) + "[a-z0-9_]{8}")
    for folder in [entry for entry in root.iterdir() if ours.fullmatch(entry.name)]:
        with suppress(FileNotFoundError):
            lock = _lock(folder, wait=False) if folder.lstat().st_uid == os.getuid() else None
            if lock is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)


# ---- locks ---------------------------------------------------------------------------------------
#
# The kernel holds a lock for as long as the process that took it lives, so a lock that can be had
# says that its owner is gone. It is taken on a folder itself and needs no file. Where locks are
# not to be had, builds work without; only the folders of killed ones stay.

_LOCK_SECONDS = 5.0


def _lock(folder: Path, *, wait: bool) -> int | None:
    """A descriptor that holds the lock on `folder`; None if another has it, or there are none."""
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    # Someone may hold the folder for long and for reasons of their own (`flock build alexc …`), so
    # waiting has an end.
    deadline = time.monotonic() + (_LOCK_SECONDS if wait else 0)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return descriptor
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.02)
    except BaseException as error:
        os.close(descriptor)
        if isinstance(error, OSError):
            return None
        raise


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keeps other builds from renaming in `folder`. Held for the moment of a rename."""
    lock = _lock(folder, wait=True)
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


def _make_folder(target: Path, kind: str) -> tuple[Path, int | None]:
    """A new folder beside `target`, and the descriptor that holds the lock on it."""
    while True:
        folder = _sibling(target, kind)
        folder.mkdir()
        lock = _lock(folder, wait=True)
        # Another build may have taken a folder that was not locked yet for one left behind.
        if folder.exists():
            return folder, lock
        if lock is not None:
            os.close(lock)


# ---- faults --------------------------------------------------------------------------------------

_REASONS = {
    errno.ENOSPC: ("disk-full", "the disk is full"),
    errno.EDQUOT: ("disk-full", "the disk quota is used up"),
    errno.EFBIG: ("disk-full", "the file would be larger than is allowed there"),
    errno.EROFS: ("read-only", "the file system is read-only"),
    errno.EACCES: ("not-permitted", "it is not permitted to write there"),
    errno.EPERM: ("not-permitted", "it is not permitted to write there"),
    errno.EBUSY: ("in-use", "something is mounted there, and can't be replaced"),
}


@contextmanager
def _disk_faults(out: Path, what: str) -> Iterator[None]:
    """Turns an OSError in the block into a diagnostic that says what became of `out`."""
    try:
        yield
    except BrokenPipeError:  # the reader of our output is gone, which has nothing to do with `out`
        raise
    except OSError as error:
        word, reason = _REASONS.get(error.errno or 0, ("not-written", error.strerror or str(error)))
        named = error.filename is not None and _STAGING not in str(error.filename)
        where = f" ({error.filename})" if named else ""
        elsewhere = f"give another place with {'--triton' if what == 'triton' else '--out'}"
        diagnostic = Diagnostic(
            f"{what}/{word}",
            f"{out} was not written: {reason}{where}; what was there before is unchanged",
            help=f"free some space, or {elsewhere}" if word == "disk-full" else elsewhere,
        )
        raise unwritable(error)(diagnostic) from error
