"""The files that a spec may name: relative to its own file, and within its project."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path

from alexc.diagnostics import AlexcError, Diagnostic
from alexc.files import resolved
from alexc.source import Node, Scalar
from alexc.spec.names import Names, clip

_ROOT_MARKS = (".git", "pyproject.toml")
_MOST_SIBLINGS = 1000  # files of a folder that a misspelt path is compared with


def project_root(path: Path) -> Path:
    """The folder that paths in a spec may not leave: the nearest above with .git or pyproject.toml.

    Where there is none, the spec's own folder.
    """
    folder = resolved(path).parent
    for candidate in (folder, *folder.parents):
        if any((candidate / mark).exists() for mark in _ROOT_MARKS):
            return candidate
    return folder


def resolve_path(text: Node, owner: Path, root: Path, code: str) -> Path:
    """The file that a spec names, relative to the file `owner` that names it, within `root`."""
    if not isinstance(text, Scalar) or not isinstance(text.value, str) or not text.value:
        key = code.partition("/")[0]
        message = f"`{key}` must be the path of one file"
        help = f"relative to this file, for example {key}: alexnet.yaml"
        raise AlexcError(Diagnostic(code, message, text.place, help=help))
    named = Path(text.value)
    shown = clip(text.value)
    try:
        target = (owner.parent / named).resolve()
        exists, is_folder = target.is_file(), target.is_dir()
    except (OSError, ValueError, RuntimeError):
        target, exists, is_folder = owner.parent / "?", False, False
    if named.is_absolute() or not target.is_relative_to(root):
        marks = " or ".join(_ROOT_MARKS)
        if any((root / mark).exists() for mark in _ROOT_MARKS):
            project = f"the folder with {marks}: {os.path.relpath(root, owner.parent)}"
        else:
            project = f"the spec's own folder, as none above it has {marks}"
        raise AlexcError(
            Diagnostic(
                code,
                f"the path {shown} leaves the project",
                text.place,
                notes=(f"the project is {project}",),
                help="name a file inside it, relative to this one",
            )
        )
    if is_folder:
        raise AlexcError(Diagnostic(code, f"{shown} is a folder, not a file", text.place))
    if not exists:
        near = Names(_files_in(target.parent)).did_you_mean(named.name)
        message = f"there is no file {shown}, seen from {owner.name}"
        raise AlexcError(Diagnostic(code, message, text.place, help=near))
    return target


def _files_in(folder: Path) -> list[str]:
    try:
        return [path.name for path in islice(folder.iterdir(), _MOST_SIBLINGS)]
    except OSError:
        return []
