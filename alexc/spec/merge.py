"""`extends`: a variant is a patch on a base, merged before anything is validated.

The rules, which `docs/spec.md` tells with examples:

- `name`, `source`, `description` and `expect` belong to the file that states them and are not
  inherited: a variant's facts are its own. What `allow` lists is added to the base's.
- Other root keys replace the base's; mappings (`input`, `preprocess`, `init`, `precision`) are
  patched key by key. `null` removes a key. `init: paper` is {recipe: paper}, to which a patch adds.
- `layers` and `blocks` are patched by name. A layer or block given as `null` is removed. A layer
  without `op`, or with the base's, changes just the fields it names; another `op` starts afresh,
  but reads the same inputs.
- `after: NAME` or `before: NAME` puts a new layer there or moves an existing one; without either a
  new layer goes to the end. Where the layer beside it is moved too, that is moved first.

Every value keeps the place of the file and line that wrote it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path

from alexc.diagnostics import AlexcError, Diagnostic, Place, UsageError
from alexc.source import (
    MAX_BYTES,
    Entry,
    Listing,
    Mapping,
    Node,
    Scalar,
    mapping,
    parse,
    read_bytes,
    sequence,
)
from alexc.spec.names import Names, clip

NOT_INHERITED = ("name", "source", "description", "expect")
PATCHED = ("input", "preprocess", "init", "precision", "blocks")
MAX_CHAIN = 16
_ROOT_MARKS = (".git", "pyproject.toml")
_MOST_SIBLINGS = 1000  # files of a folder that a misspelt path is compared with


@dataclass(slots=True)
class Merged:
    """A spec's tree with every `extends` applied, and the files it came from, base first."""

    tree: Mapping
    files: list[Path] = field(default_factory=list)


def load_tree(path: Path) -> Merged:
    """Read the spec at `path` with everything that it extends.

    Raises AlexcError for faults in any of the files and UsageError if `path` itself is missing.
    """
    chain = _read_chain(path)
    here, tree = chain.pop()
    merged = Merged(tree, [here])
    _refuse_positions(tree)
    for here, patch in reversed(chain):
        faults: list[Diagnostic] = []
        merged.tree = _merge_root(merged.tree, patch, faults)
        merged.files.append(here)
        if faults:
            raise AlexcError(*faults)
    return merged


def project_root(path: Path) -> Path:
    """The folder that paths in a spec may not leave: the nearest above with .git or pyproject.toml.

    Where there is none, the spec's own folder.
    """
    folder = path.resolve().parent
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
        top = os.path.relpath(root, owner.parent)
        raise AlexcError(
            Diagnostic(
                code,
                f"the path {shown} leaves the project",
                text.place,
                notes=(f"the project is the folder with {' or '.join(_ROOT_MARKS)}: {top}",),
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


def _shown(base: Path, extends: Scalar) -> str:
    """How diagnostics print the path of a base: as the user would type it from where he stands."""
    beside = Path(extends.place.source.path).parent / extends.raw
    typed = os.path.normpath(beside)
    # A symbolic link on the way may make `..` lead elsewhere.
    return typed if Path(typed).resolve() == base else str(base)


def _read_chain(path: Path) -> list[tuple[Path, Mapping]]:
    """The spec at `path`, what it extends, what that extends, … each with its tree."""
    data = read_bytes(path)
    root = project_root(path)
    chain: list[tuple[Path, Mapping]] = []
    size = 0
    shown = str(path)
    while True:
        tree = parse(data, shown)
        here = path.resolve()
        chain.append((here, tree))
        extends = tree.get("extends")
        if extends is None:
            return chain
        path = resolve_path(extends, here, root, "extends/path")
        assert isinstance(extends, Scalar)
        shown = _shown(path, extends)
        seen = [file for file, _ in chain]
        if path in seen:
            loop = " → ".join(file.name for file in [*seen[seen.index(path) :], path])
            message = f"the spec extends itself: {loop}"
            help = "one of them must stand on its own, without `extends`"
            raise AlexcError(Diagnostic("extends/cycle", message, extends.place, help=help))
        if len(chain) >= MAX_CHAIN:
            message = f"more than {MAX_CHAIN} specs extend one another"
            raise AlexcError(Diagnostic("extends/too-long", message, extends.place))
        size += len(data)
        try:
            data = read_bytes(path)
        except UsageError as error:  # the file exists but can't be read
            raise AlexcError(*error.diagnostics) from None
        if size + len(data) > MAX_BYTES:
            message = f"this spec and those that it extends are larger than {MAX_BYTES:,} bytes"
            raise AlexcError(Diagnostic("extends/too-large", message, extends.place))


def _refuse_positions(tree: Mapping) -> None:
    """`after` and `before` mean something only to a patch."""
    layers = tree.get("layers")
    if not isinstance(layers, Mapping):
        return
    faults = [
        Diagnostic(
            "extends/position",
            f"{clip(name)}: `{word}` is for a spec that extends another",
            entry.value.entries[word].key,
            help="here a layer stands where it is written",
        )
        for name, entry in layers.entries.items()
        if isinstance(entry.value, Mapping)
        for word in ("after", "before")
        if word in entry.value.entries
    ]
    if faults:
        raise AlexcError(*faults)


def _merge_root(base: Mapping, patch: Mapping, faults: list[Diagnostic]) -> Mapping:
    entries = {key: entry for key, entry in base.entries.items() if key not in NOT_INHERITED}
    names = Names(entries)
    for key, entry in patch.entries.items():
        old = entries.get(key)
        if key == "extends":
            continue
        if key in NOT_INHERITED:
            if not _is_null(entry.value):
                entries[key] = entry
        elif old is None and _is_null(entry.value):
            faults.append(_nothing_to_remove("the base", key, entry, names))
        elif _is_null(entry.value):
            del entries[key]
        elif key == "layers" and old is not None:
            # A base that is no mapping stays, for its fault is the one to show.
            if isinstance(old.value, Mapping) and isinstance(entry.value, Mapping):
                entries[key] = Entry(entry.key, _merge_layers(old.value, entry.value, faults))
        elif key == "allow" and old and isinstance(old.value, Listing):
            mine = entry.value.items if isinstance(entry.value, Listing) else (entry.value,)
            entries[key] = Entry(entry.key, sequence((*old.value.items, *mine), entry.value.place))
        elif key in PATCHED and old and isinstance(before := _init_written_out(key, old), Mapping):
            if isinstance(entry.value, Mapping):
                merged = _patch(f"the base's {key}", before, entry.value, faults)
                entries[key] = Entry(entry.key, merged)
            else:
                entries[key] = entry
        else:
            entries[key] = entry
    # The keys of the file itself first, in its order: what a reader of the variant expects.
    ordered = [key for key in ("alexc", *patch.entries) if key in entries]
    return mapping({key: entries[key] for key in dict.fromkeys([*ordered, *entries])}, patch.place)


def _patch(owner: str, base: Mapping, patch: Mapping, faults: list[Diagnostic]) -> Mapping:
    """`base` with the keys of `patch` set, and those that it gives as null removed."""
    entries = dict(base.entries)
    names = Names(base.entries)
    for key, entry in patch.entries.items():
        if not _is_null(entry.value):
            entries[key] = entry
        elif key in entries:
            del entries[key]
        else:
            faults.append(_nothing_to_remove(owner, key, entry, names))
    return mapping(entries, patch.place)


def _merge_layers(base: Mapping, patch: Mapping, faults: list[Diagnostic]) -> Mapping:
    entries = dict(base.entries)
    names = Names(base.entries)
    moves: dict[str, _Anchor] = {}
    for name, entry in patch.entries.items():
        if _is_null(entry.value):
            if name in base.entries:
                entries.pop(name, None)
            else:
                faults.append(_nothing_to_remove("the base", name, entry, names))
            continue
        layer, anchor = _split_position(name, entry, faults)
        old = base.entries.get(name)
        if old is not None:
            layer = _patch_layer(name, old.value, layer, faults)
        entries[name] = Entry(entry.key, layer)
        if anchor is not None:
            moves[name] = anchor
    order = _Order(entries)
    for name, anchor in _anchors_first(moves):
        if anchor.name == name:
            message = f"{clip(name)} can't stand {anchor.word} itself"
            faults.append(Diagnostic("extends/position", message, anchor.place))
        elif anchor.name not in entries:
            gone = "has been removed" if anchor.name in base.entries else "is not there"
            message = f"{clip(name)} can't stand {anchor.word} {clip(anchor.name)}, which {gone}"
            help = names.did_you_mean(anchor.name)
            faults.append(Diagnostic("extends/position", message, anchor.place, help=help))
        else:
            order.move(name, anchor.word, anchor.name)
    return mapping({name: entries[name] for name in order.names()}, patch.place)


def _anchors_first(moves: dict[str, _Anchor]) -> Iterator[tuple[str, _Anchor]]:
    """The moves, each after that of the layer it is put beside, which may be moved too.

    So a move means the same wherever it is written. Layers that are put beside each other (`x`
    after `y`, `y` before `x`) are moved in the order of the file.
    """
    done: set[str] = set()
    for start in moves:
        chain: list[str] = []
        name = start
        while name in moves and name not in done and name not in chain:
            chain.append(name)
            name = moves[name].name
        circle = chain[chain.index(name) :] if name in chain else []
        waiting = chain[: len(chain) - len(circle)]
        yield from ((moved, moves[moved]) for moved in moves if moved in circle)
        yield from ((moved, moves[moved]) for moved in reversed(waiting))
        done.update(chain)


def _patch_layer(name: str, old: Node, new: Node, faults: list[Diagnostic]) -> Node:
    """What the layer is after the patch; `new` is without its position."""
    before, after = _written_out(old), _written_out(new)
    if not isinstance(before, Mapping) or not isinstance(after, Mapping):
        return new
    if _changes_kind(before, after):
        # Who a layer reads is no matter of its op.
        if "inputs" not in before.entries or "inputs" in after.entries:
            return new
        return mapping(after.entries | {"inputs": before.entries["inputs"]}, after.place)
    if isinstance(new, Scalar) or not after.entries:
        return old
    return _patch(clip(name), before, after, faults)


def _init_written_out(key: str, entry: Entry) -> Node:
    """`init: paper` as {recipe: paper}, so that what a variant says is added to it."""
    if key == "init" and isinstance(entry.value, Scalar) and isinstance(entry.value.value, str):
        return mapping({"recipe": Entry(entry.value.place, entry.value)}, entry.value.place)
    return entry.value


def _written_out(layer: Node) -> Node:
    """`relu` as {op: relu}."""
    if isinstance(layer, Scalar) and isinstance(layer.value, str):
        return mapping({"op": Entry(layer.place, layer)}, layer.place)
    return layer


def _changes_kind(old: Mapping, new: Mapping) -> bool:
    """Whether the patch says that the layer is of another op or block than it was."""
    for word in ("op", "block"):
        if word in new.entries:
            before, now = old.get(word), new.get(word)
            if not isinstance(before, Scalar) or not isinstance(now, Scalar):
                return True
            return before.value != now.value
    return False


@dataclass(frozen=True, slots=True)
class _Anchor:
    word: str  # after or before
    name: str
    place: Place


def _split_position(
    name: str, entry: Entry, faults: list[Diagnostic]
) -> tuple[Node, _Anchor | None]:
    """The layer without `after` and `before`, and where it wants to stand."""
    if not isinstance(entry.value, Mapping):
        return entry.value, None
    words = [word for word in ("after", "before") if word in entry.value.entries]
    if not words:
        return entry.value, None
    rest = {k: e for k, e in entry.value.entries.items() if k not in words}
    layer = mapping(rest, entry.value.place)
    target = entry.value.entries[words[0]].value
    if len(words) == 2:
        message = f"{clip(name)}: give `after` or `before`, not both"
        faults.append(Diagnostic("extends/position", message, entry.value.entries["before"].key))
        return layer, None
    if not isinstance(target, Scalar) or not isinstance(target.value, str):
        message = f"{clip(name)}: `{words[0]}` must be the name of a layer"
        faults.append(Diagnostic("extends/position", message, target.place))
        return layer, None
    return layer, _Anchor(words[0], target.value, target.place)


class _Order:
    """Names in a row, from which one is taken out and put beside another in constant time."""

    _START = ""  # stands before the first; no key of a file is empty

    def __init__(self, names: dict[str, Entry]) -> None:
        row = [self._START, *names, self._START]
        self._next = dict(pairwise(row))
        self._before = dict(pairwise(reversed(row)))

    def move(self, name: str, word: str, anchor: str) -> None:
        self._link(self._before[name], self._next[name])
        left = anchor if word == "after" else self._before[anchor]
        right = self._next[left]
        self._link(left, name)
        self._link(name, right)

    def _link(self, left: str, right: str) -> None:
        self._next[left] = right
        self._before[right] = left

    def names(self) -> list[str]:
        row = []
        name = self._next[self._START]
        while name != self._START:
            row.append(name)
            name = self._next[name]
        return row


def _nothing_to_remove(owner: str, key: str, entry: Entry, known: Names) -> Diagnostic:
    return Diagnostic(
        "extends/nothing-to-remove",
        f"null removes {clip(key)}, but {owner} has no {clip(key)}",
        entry.key,
        help=known.did_you_mean(key),
    )


def _is_null(node: Node) -> bool:
    return isinstance(node, Scalar) and node.value is None
