"""`extends`: a variant is a patch on a base, merged before anything is validated.

The rules, which `docs/spec.md` tells with examples:

- `name`, `source`, `description`, `expect` and `allow` belong to the file that states them and are
  not inherited: a variant's facts are its own.
- Other root keys replace the base's; mappings (`input`, `preprocess`, `init`) are patched key by
  key. `null` removes a key.
- `layers` and `blocks` are patched by name. A layer given as `null` is removed. A mapping without
  `op`, or with the base's, changes just the fields it names; another `op` starts afresh.
- `after: NAME` or `before: NAME` puts a new layer there or moves an existing one; without either a
  new layer goes to the end.

Every value keeps the place of the file and line that wrote it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from alexc.diagnostics import AlexcError, Diagnostic, Place, UsageError
from alexc.source import Entry, Mapping, Node, Scalar, read

NOT_INHERITED = ("name", "source", "description", "expect", "allow")
PATCHED = ("input", "preprocess", "init")
MAX_CHAIN = 16
_ROOT_MARKS = (".git", "pyproject.toml")


@dataclass(slots=True)
class Merged:
    """A spec's tree with every `extends` applied, and the files it came from, base first."""

    tree: Mapping
    files: list[Path] = field(default_factory=list)


def load_tree(path: Path) -> Merged:
    """Read the spec at `path` with everything that it extends.

    Raises AlexcError for faults in any of the files and UsageError if `path` itself is missing.
    """
    return _load(path, _shown(path), project_root(path), [])


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
        raise AlexcError(Diagnostic(code, "the value must be a path", text.place))
    named = Path(text.value)
    try:
        target = (owner.parent / named).resolve()
        exists = target.is_file()
    except (OSError, ValueError, RuntimeError):
        target, exists = owner, False
    if named.is_absolute() or not target.is_relative_to(root):
        raise AlexcError(
            Diagnostic(
                code,
                f"the path {text.value} leaves the project",
                text.place,
                notes=(
                    f"the project's folder is the one with {' or '.join(_ROOT_MARKS)}: {root.name}",
                ),
                help="name a file inside it, relative to this one",
            )
        )
    if not exists:
        siblings = sorted(p.name for p in owner.parent.glob("*") if p.is_file())
        close = get_close_matches(named.name, siblings, 1, 0.5)
        raise AlexcError(
            Diagnostic(
                code,
                f"there is no file {text.value} beside {owner.name}",
                text.place,
                help=f"did you mean {close[0]}?" if close else None,
            )
        )
    return target


def _shown(path: Path) -> str:
    """The path as diagnostics print it: relative to where the user stands, if it lies below."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


def _load(path: Path, shown_as: str, root: Path, chain: list[Path]) -> Merged:
    tree = read(path, shown_as=shown_as)
    here = path.resolve()
    extends = tree.get("extends")
    if extends is None:
        _refuse_positions(tree)
        return Merged(tree, [here])
    base_path = resolve_path(extends, here, root, "extends/path")
    chain = [*chain, here]
    if base_path in chain:
        loop = " → ".join(p.name for p in [*chain[chain.index(base_path) :], base_path])
        raise AlexcError(
            Diagnostic("extends/cycle", f"the spec extends itself: {loop}", extends.place)
        )
    if len(chain) >= MAX_CHAIN:
        message = f"more than {MAX_CHAIN} specs extend one another"
        raise AlexcError(Diagnostic("extends/too-long", message, extends.place))
    try:
        base = _load(base_path, _shown(base_path), root, chain)
    except UsageError as error:  # the file exists but can't be read
        raise AlexcError(*error.diagnostics) from None
    faults: list[Diagnostic] = []
    merged = _merge_root(base.tree, tree, faults)
    if faults:
        raise AlexcError(*faults)
    return Merged(merged, [*base.files, here])


def _refuse_positions(tree: Mapping) -> None:
    """`after` and `before` mean something only to a patch."""
    layers = tree.get("layers")
    if not isinstance(layers, Mapping):
        return
    faults = [
        Diagnostic(
            "extends/position",
            f"{name}: `{word}` is for a spec that extends another",
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
    for key, entry in patch.entries.items():
        old = entries.get(key)
        both = (
            old is not None and isinstance(old.value, Mapping) and isinstance(entry.value, Mapping)
        )
        if key == "extends":
            continue
        if key == "layers" and both:
            assert old is not None
            assert isinstance(old.value, Mapping) and isinstance(entry.value, Mapping)
            entries[key] = Entry(entry.key, _merge_layers(old.value, entry.value, faults))
        elif key in (*PATCHED, "blocks") and both:
            assert old is not None
            assert isinstance(old.value, Mapping) and isinstance(entry.value, Mapping)
            entries[key] = Entry(entry.key, _patch(old.value, entry.value))
        elif _is_null(entry.value):
            if old is None:
                faults.append(_nothing_to_remove(key, entry, list(entries)))
            entries.pop(key, None)
        else:
            entries[key] = entry
    # The keys of the file itself first, in its order: what a reader of the variant expects.
    ordered = [key for key in ("alexc", *patch.entries) if key in entries]
    return _mapping({key: entries[key] for key in dict.fromkeys([*ordered, *entries])}, patch.place)


def _patch(base: Mapping, patch: Mapping) -> Mapping:
    """`base` with the keys of `patch` set, and those that it gives as null removed."""
    entries = dict(base.entries)
    for key, entry in patch.entries.items():
        if _is_null(entry.value):
            entries.pop(key, None)
        else:
            entries[key] = entry
    return _mapping(entries, patch.place)


def _merge_layers(base: Mapping, patch: Mapping, faults: list[Diagnostic]) -> Mapping:
    entries = dict(base.entries)
    order = list(entries)
    for name, entry in patch.entries.items():
        if _is_null(entry.value):
            if name in entries:
                del entries[name]
                order.remove(name)
            else:
                faults.append(_nothing_to_remove(name, entry, order))
            continue
        layer, anchor = _split_position(name, entry, faults)
        old = entries.get(name)
        if old is None:
            order.append(name)
            entries[name] = Entry(entry.key, layer)
        else:
            # The key of the base stays the layer's place unless the patch is the whole layer.
            whole = not _is_patch(old.value, layer)
            value = layer if whole else _patch(old.value, layer)  # type: ignore[arg-type]
            entries[name] = Entry(entry.key, value)
        if anchor is not None:
            _move(order, name, anchor, faults)
    return _mapping({name: entries[name] for name in order}, patch.place)


def _is_patch(old: Node, new: Node) -> bool:
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return False
    for word in ("op", "block"):
        if word in new.entries:
            before, now = old.get(word), new.get(word)
            return (
                isinstance(before, Scalar) and isinstance(now, Scalar) and before.value == now.value
            )
    return True


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
    layer = _mapping(rest, entry.value.place)
    target = entry.value.entries[words[0]].value
    if len(words) == 2:
        message = f"{name}: give `after` or `before`, not both"
        faults.append(Diagnostic("extends/position", message, entry.value.entries["before"].key))
        return layer, None
    if not isinstance(target, Scalar) or not isinstance(target.value, str):
        message = f"{name}: `{words[0]}` takes the name of a layer"
        faults.append(Diagnostic("extends/position", message, target.place))
        return layer, None
    return layer, _Anchor(words[0], target.value, target.place)


def _move(order: list[str], name: str, anchor: _Anchor, faults: list[Diagnostic]) -> None:
    if anchor.name == name or anchor.name not in order:
        close = get_close_matches(anchor.name, [n for n in order if n != name], 1)
        faults.append(
            Diagnostic(
                "extends/position",
                f"{name}: there is no layer {anchor.name} to stand {anchor.word}"
                if anchor.name != name
                else f"{name} can't stand {anchor.word} itself",
                anchor.place,
                help=f"did you mean {close[0]}?" if close else None,
            )
        )
        return
    order.remove(name)
    order.insert(order.index(anchor.name) + (anchor.word == "after"), name)


def _nothing_to_remove(name: str, entry: Entry, known: list[str]) -> Diagnostic:
    close = get_close_matches(name, known, 1)
    return Diagnostic(
        "extends/nothing-to-remove",
        f"null removes {name}, but the base has no {name}",
        entry.key,
        help=f"did you mean {close[0]}?" if close else None,
    )


def _is_null(node: Node) -> bool:
    return isinstance(node, Scalar) and node.value is None


def _mapping(entries: dict[str, Entry], place: Place) -> Mapping:
    return Mapping(entries, place, 1 + sum(entry.value.size for entry in entries.values()))
