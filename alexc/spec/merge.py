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
from dataclasses import dataclass, field
from pathlib import Path

from alexc.diagnostics import AlexcError, Diagnostic, UsageError
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
from alexc.spec.paths import project_root, resolve_path
from alexc.spec.positions import Anchor, rearranged, refuse_positions, split_position

NOT_INHERITED = ("name", "source", "description", "expect")
PATCHED = ("input", "preprocess", "init", "precision", "blocks")
MAX_CHAIN = 16


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
    refuse_positions(tree)
    for here, patch in reversed(chain):
        faults: list[Diagnostic] = []
        merged.tree = _merge_root(merged.tree, patch, faults)
        merged.files.append(here)
        if faults:
            raise AlexcError(*faults)
    return merged


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
    moves: dict[str, Anchor] = {}
    for name, entry in patch.entries.items():
        if _is_null(entry.value):
            if name in base.entries:
                entries.pop(name, None)
            else:
                faults.append(_nothing_to_remove("the base", name, entry, names))
            continue
        layer, anchor = split_position(name, entry, faults)
        old = base.entries.get(name)
        if old is not None:
            layer = _patch_layer(name, old.value, layer, faults)
        entries[name] = Entry(entry.key, layer)
        if anchor is not None:
            moves[name] = anchor
    order = rearranged(entries, moves, base.entries, faults)
    return mapping({name: entries[name] for name in order}, patch.place)


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


def _nothing_to_remove(owner: str, key: str, entry: Entry, known: Names) -> Diagnostic:
    return Diagnostic(
        "extends/nothing-to-remove",
        f"null removes {clip(key)}, but {owner} has no {clip(key)}",
        entry.key,
        help=known.did_you_mean(key),
    )


def _is_null(node: Node) -> bool:
    return isinstance(node, Scalar) and node.value is None
