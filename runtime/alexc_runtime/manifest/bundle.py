"""The folder that a manifest lies in: the names in it, and whether its files are as it says."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from alexc_runtime.digests import differences
from alexc_runtime.errors import BundleError, BundleMissingError
from alexc_runtime.manifest.format import REBUILD, parse
from alexc_runtime.manifest.records import Manifest

MANIFEST = "manifest.json"
MODEL = "model.onnx"
WEIGHTS = "weights.safetensors"
REPORT = "verify.json"
ENGINES = "engines"

# A manifest with the labels of ImageNet takes 60 kB.
MAX_BYTES = 16_000_000


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its folder, and the manifest that its files were found to agree with."""

    folder: Path
    manifest: Manifest

    def path(self, name: str) -> Path:
        """The place of a file that the manifest lists, and so was checked."""
        if name not in self.manifest.files:
            raise BundleError(
                "bundle/unlisted", f"the manifest of {self.folder} lists no {name}", help=REBUILD
            )
        return self.folder / name


def open_bundle(path: str | os.PathLike[str]) -> Bundle:
    """The bundle in the folder `path`, with every listed file found present and unaltered.

    Reads every byte of the bundle once; `alexc_runtime.digests` says what that costs. Raises
    BundleMissingError if there is none, and BundleError with one note per file that differs.
    """
    folder = Path(path)
    manifest = read(folder)
    if found := differences(folder, manifest.files):
        count = f"{len(found)} of {len(manifest.files)} files" if len(found) > 1 else "a file"
        raise BundleError(
            "bundle/altered",
            f"the bundle {folder} is damaged: {count} differ{'s' * (len(found) == 1)} "
            "from what the build wrote",
            notes=tuple(found),
            help=f"{REBUILD}, or copy it again from where it came",
        )
    return Bundle(folder, manifest)


def read(folder: Path) -> Manifest:
    """The manifest of the bundle in `folder`. The other files are not looked at.

    Raises BundleMissingError if there is none, and BundleError if it can't be relied on.
    """
    return parse(_read_bytes(folder), str(folder / MANIFEST))


def _read_bytes(folder: Path) -> bytes:
    path = folder / MANIFEST
    try:
        if not stat.S_ISDIR(folder.stat().st_mode):
            raise BundleMissingError(
                "bundle/missing", f"{folder} is a file, and a bundle is a folder"
            )
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise BundleError("bundle/manifest", f"{path} is not an ordinary file", help=REBUILD)
        if status.st_size > MAX_BYTES:
            raise BundleError(
                "bundle/manifest", f"{path} has {status.st_size:,} bytes, too many for a manifest"
            )
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        what = f"{folder} holds no {MANIFEST}" if folder.is_dir() else f"there is no {folder}"
        raise BundleMissingError(
            "bundle/missing", what, help="make a bundle with `alexc build SPEC --out DIR`"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise BundleError("bundle/unreadable", f"{path} can't be read: {reason}") from None
