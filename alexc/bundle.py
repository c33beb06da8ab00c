"""Writes what the runtime opens: a bundle is whole or absent, and what it replaces is never lost.

    with staged(Path("build/alexnet")) as stage:
        write(stage.folder / WEIGHTS, ...)          # any files, in any order
        stage.commit(manifest)                      # hashes them, writes manifest.json, renames

How, `folders` says. A bundle that lost bytes is noticed when it is opened.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexc import folders
from alexc.diagnostics import AlexcError, Diagnostic, UsageError, fault, usage_fault
from alexc.engines.forms import FILES
from alexc_runtime.digests import FileRecord, differences, sha256_of_all
from alexc_runtime.errors import (
    BundleError,
    BundleMissingError,
    EngineError,
    EngineUnavailableError,
    PhotoMissingError,
    RuntimeFaultError,
)
from alexc_runtime.manifest import (
    ENGINES,
    FORMAT,
    MANIFEST,
    MODEL,
    REPORT,
    WEIGHTS,
    Bundle,
    Manifest,
    open_bundle,
)
from alexc_runtime.manifest import read as read_manifest
from alexc_runtime.manifest import render as render_manifest

if TYPE_CHECKING:
    from alexc.frontend import Net

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

    def __init__(self, place: folders.Stage) -> None:
        self.folder = place.folder
        self._place = place
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
        self._place.commit()
        return whole


@contextmanager
def staged(out: Path) -> Iterator[Stage]:
    """A folder to be filled with the bundle that will stand at `out`.

    Raises UsageError if something stands at `out` that is not a bundle, or a bundle to which
    someone has added files, or if nothing can be written there; AlexcError if the disk is full or
    fails, then and at any time in the block. Folders above `out` are made, and removed again if
    nothing comes of it.
    """
    with folders.staged(out, "bundle", partial(_refuse_unless_replaceable, out=out)) as place:
        yield Stage(place)


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


def read_bundle(folder: Path) -> tuple[Bundle, Net]:
    """The bundle in `folder`, every byte of it checked, and the net that it keeps.

    Raises UsageError if there is none, AlexcError if it is damaged or of another net.
    """
    with runtime_faults():
        bundle = open_bundle(folder)
    return bundle, net_in(bundle.manifest, str(folder))


@contextmanager
def runtime_faults() -> Iterator[None]:
    """Turns what `alexc_runtime` raises in the block into diagnostics, in the command line's words.

    A bundle, photo or engine that is missing or can't be read is wrong usage (exit status 2); the
    rest are faults.
    """
    try:
        yield
    except RuntimeFaultError as error:
        missing = (BundleMissingError, EngineUnavailableError, PhotoMissingError)
        unusable = isinstance(error, missing) or error.code.endswith("/unreadable")
        kind = UsageError if unusable else AlexcError
        help = error.help_by("--engine {}") if isinstance(error, EngineError) else error.help
        diagnostic = Diagnostic(error.code, error.message, notes=error.notes, help=help)
        raise kind(diagnostic) from error


# ---- what may be replaced ------------------------------------------------------------------------


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
    if not is_bundle(target):
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


def is_bundle(folder: Path) -> bool:
    """Whether the folder is a bundle of any version, damaged or not."""
    try:
        with (folder / MANIFEST).open("rb") as file:
            return file.read(len(_MANIFEST_START)) == _MANIFEST_START
    except OSError:
        return False
