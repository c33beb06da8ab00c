"""Writes what the runtime opens: a bundle is whole or absent, and what it replaces is never lost.

A build fills a folder beside the place where the bundle will be, and `commit` renames it there:

    with staged(Path("build/alexnet")) as stage:
        write(stage.folder / WEIGHTS, ...)          # any files, in any order
        stage.commit(manifest)                      # hashes them, writes manifest.json, renames

Whatever ends the block before `commit` does (a fault, a full disk, Ctrl-C) leaves the place as it
was. A build that is killed leaves its folder behind, `.alexnet.staging-…`; the next build into the
same place removes it, unless the build that owns it is still at work. The bundle being replaced
stands aside as `.alexnet.replaced-…` for the moment between two renames; if a kill comes in that
moment, the next build puts it back first.

Against a loss of power no file is flushed to disk: that would take longer than the rest of a
build, and a bundle that lost bytes is noticed when it is opened.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.metadata
import json
import os
import platform
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexc.diagnostics import AlexcError, Diagnostic, UsageError, fault, usage_fault
from alexc.engines.forms import FILES
from alexc_runtime.digests import FileRecord, differences, sha256_of_all
from alexc_runtime.errors import (
    BundleError,
    BundleMissingError,
    EngineUnavailableError,
    PhotoMissingError,
    RuntimeFaultError,
)
from alexc_runtime.manifest import ENGINES, FORMAT, MANIFEST, MODEL, REPORT, WEIGHTS, Manifest
from alexc_runtime.manifest import read as read_manifest
from alexc_runtime.manifest import render as render_manifest

if TYPE_CHECKING:
    from alexc.frontend import Net

_STAGING, _REPLACED = ".staging-", ".replaced-"

# Every manifest of any version begins with these bytes, so that a folder can be told to be a
# bundle even when its manifest was cut short.
_MANIFEST_START = f'{{\n  "format": "{FORMAT}"'.encode()

# The packages whose version can change what a build makes. The two ONNX Runtimes are one module.
_TOOLS = (
    "ml_dtypes",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "Pillow",
    "protobuf",
    "tensorrt",
    "tensorrt-rtx",
    "torch",
)


class Stage:
    """A bundle in the making: `folder` is to be filled, then `commit` puts it into its place."""

    def __init__(self, folder: Path, target: Path) -> None:
        self.folder = folder
        self.committed = False
        self._target = target
        self._hashed: dict[str, tuple[tuple[int, ...], FileRecord]] = {}

    def records(self) -> dict[str, FileRecord]:
        """Size and SHA-256 of every file written so far, by its path in the bundle.

        A file is hashed once (0.6 s per GB, two at a time) and again only if it has changed since.
        A certificate takes its digests from here before the files are verified.
        """
        files: dict[str, os.stat_result] = {}
        for file in sorted(self.folder.rglob("*")):
            status = file.lstat()
            if stat.S_ISREG(status.st_mode):
                files[file.relative_to(self.folder).as_posix()] = status
            elif not stat.S_ISDIR(status.st_mode):
                raise ValueError(f"{file} is neither a file nor a folder")
        files.pop(MANIFEST, None)
        signatures = {
            name: (each.st_size, each.st_mtime_ns, each.st_ino) for name, each in files.items()
        }
        changed = [
            name
            for name, signature in signatures.items()
            if name not in self._hashed or self._hashed[name][0] != signature
        ]
        digests = sha256_of_all(self.folder / name for name in changed)
        for name in changed:
            digest = digests[self.folder / name]
            if isinstance(digest, OSError):
                raise digest
            self._hashed[name] = (signatures[name], FileRecord(signatures[name][0], digest))
        return {name: self._hashed[name][1] for name in files}

    def commit(self, manifest: Manifest) -> Manifest:
        """Write the manifest, completed with the files' digests, and put the bundle in its place.

        Raises ValueError, a bug of the caller, if the manifest names a file that is not there, or
        its certificate speaks of other bytes than those in the folder.
        """
        whole = replace(manifest, files=self.records())
        for record in whole.engines:
            if record.path is not None and record.path not in whole.files:
                raise ValueError(f"the manifest names {record.path}, which was not written")
        for path, digest in whole.verification.digests.items():
            if path not in whole.files or whole.files[path].sha256 != digest:
                raise ValueError(f"{path} was verified with other content than it has now")
        (self.folder / MANIFEST).write_bytes(render_manifest(whole))
        _put_in_place(self.folder, self._target)
        self.committed = True
        return whole


@contextmanager
def staged(out: Path) -> Iterator[Stage]:
    """A folder to be filled with the bundle that will stand at `out`.

    Raises UsageError if something stands at `out` that is not a bundle, or a bundle to which
    someone has added files; AlexcError if the disk is full or can't be written to, then and at any
    time in the block. Folders above `out` are made, and removed again if nothing comes of it.
    """
    with _disk_faults(out):
        target = Path(os.path.realpath(out))  # a link to a bundle stays a link
        made = _make_parents(target)
    try:
        with _disk_faults(out):
            with _locked(target.parent):
                _recover(target)
            _refuse_unless_replaceable(target, out)
            folder, lock = _make_folder(target, _STAGING)
        try:
            with _disk_faults(out):
                yield Stage(folder, target)
        finally:
            # After a commit the folder has another name, and there is nothing here to remove.
            shutil.rmtree(folder, ignore_errors=True)
            if lock is not None:
                os.close(lock)
    finally:
        for parent in made:
            with suppress(OSError):  # not empty: it holds the bundle, or someone else's files
                parent.rmdir()


def up_to_date(out: Path, inputs_digest: str) -> Manifest | None:
    """The manifest of the bundle at `out` if it was made of these inputs and is whole, else None.

    Reads every byte of the bundle: a second build must not bless one that was altered.
    """
    try:
        manifest = read_manifest(out)
    except BundleError:
        return None
    if manifest.inputs_digest != inputs_digest or differences(out, manifest.files):
        return None
    return manifest


def inputs_digest(inputs: Mapping[str, Any]) -> str:
    """The key of a build: SHA-256 of everything that it is made of, given as values of JSON.

    The order of the keys does not matter. Two builds with the same key make the same bundle, so
    the caller must leave nothing out: spec, weights or seed, precision, target, batch, versions.
    """
    text = json.dumps(inputs, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def tool_versions() -> dict[str, str]:
    """Python's version, and that of every installed package that can change what a build makes.

    Reads the packages' metadata and imports none of them.
    """
    versions = {"python": platform.python_version()}
    for package in _TOOLS:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def net_in(manifest: Manifest, shown_as: str) -> Net:
    """The net that a bundle keeps, found to be the one that was built. Raises AlexcError if not."""
    # Imported here: most of what asks for a bundle does not ask what net it is of.
    from alexc.frontend import net_of

    net = net_of(dict(manifest.spec), manifest.labels, shown_as)
    if net.graph.digest() != manifest.graph_digest:
        raise fault(
            "bundle/other-graph",
            f"the spec in {shown_as} gives another graph than the one that was built",
            help="the bundle is from another version of alexc: build it again",
        )
    return net


@contextmanager
def runtime_faults() -> Iterator[None]:
    """Turns what `alexc_runtime` raises in the block into diagnostics.

    A missing bundle, photo or engine is wrong usage (exit status 2); the rest are faults.
    """
    try:
        yield
    except RuntimeFaultError as error:
        missing = (BundleMissingError, EngineUnavailableError, PhotoMissingError)
        kind = UsageError if isinstance(error, missing) else AlexcError
        diagnostic = Diagnostic(error.code, error.message, notes=error.notes, help=error.help)
        raise kind(diagnostic) from error


# ---- places --------------------------------------------------------------------------------------


def _make_parents(target: Path) -> list[Path]:
    """Make the folders above `target`; those that were not there before, innermost first."""
    missing = [parent for parent in target.parents if not parent.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    return missing


def _refuse_unless_replaceable(target: Path, out: Path) -> None:
    """Raise UsageError if something at `target` would be lost by putting a bundle there."""
    elsewhere = "give another place with --out, or move it away"
    try:
        entries = {entry.name for entry in target.iterdir()}
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise usage_fault("bundle/not-a-bundle", f"{out} is a file", help=elsewhere) from None
    if not entries:
        return
    if not _has_manifest(target):
        raise usage_fault(
            "bundle/not-a-bundle", f"{out} exists and is not a bundle", help=elsewhere
        )
    own = {MANIFEST, MODEL, *FILES.values(), WEIGHTS, REPORT, ENGINES}
    with suppress(BundleError):  # a manifest that can't be read names no more files
        own |= {path.split("/")[0] for path in read_manifest(target).files}
    if added := sorted(entries - own):
        shown = ", ".join(added[:3]) + (f" and {len(added) - 3} more" if len(added) > 3 else "")
        raise usage_fault(
            "bundle/added-files",
            f"{out} is a bundle to which something was added: {shown}",
            help="move it out of the bundle, or give another place with --out",
        )


def _has_manifest(folder: Path) -> bool:
    try:
        with (folder / MANIFEST).open("rb") as file:
            return file.read(len(_MANIFEST_START)) == _MANIFEST_START
    except OSError:
        return False


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
    start = f".{target.name}{kind}"
    return [entry for entry in target.parent.iterdir() if entry.name.startswith(start)]


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
    errno.ENOSPC: ("bundle/disk-full", "the disk is full"),
    errno.EDQUOT: ("bundle/disk-full", "the disk quota is used up"),
    errno.EFBIG: ("bundle/disk-full", "the file would be larger than is allowed there"),
    errno.EROFS: ("bundle/read-only", "the file system is read-only"),
    errno.EACCES: ("bundle/not-permitted", "it is not permitted to write there"),
    errno.EPERM: ("bundle/not-permitted", "it is not permitted to write there"),
    errno.EBUSY: ("bundle/in-use", "something is mounted there, and can't be replaced"),
}


@contextmanager
def _disk_faults(out: Path) -> Iterator[None]:
    """Turns an OSError in the block into a diagnostic that says what became of `out`."""
    try:
        yield
    except BrokenPipeError:  # the reader of our output is gone, which has nothing to do with `out`
        raise
    except OSError as error:
        code, reason = _REASONS.get(
            error.errno or 0, ("bundle/not-written", error.strerror or str(error))
        )
        where = f" ({error.filename})" if error.filename is not None else ""
        help = "free some space, or give another place with --out"
        raise fault(
            code,
            f"{out} was not written: {reason}{where}; what was there before is unchanged",
            help=help if code == "bundle/disk-full" else "give another place with --out",
        ) from error
