"""A ForeignNet → the spec that a person would write, and its weights beside it.

The spec is checked in the same way as any other before it takes its place, and must give the very
graph that was imported; the weights are read back and held against it. Both files appear whole or
not at all, and nothing that exists is replaced unless that was asked for.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from alexc.diagnostics import AlexcError, fault, usage_fault
from alexc.files import resolved
from alexc.frontend import Net, load_net
from alexc.graph.graph import INPUT, Graph
from alexc.importers.foreign import ForeignNet
from alexc.ops.base import Op, Padding
from alexc.ops.norm import Lrn
from alexc.ops.pointwise import Softmax
from alexc.spec.model import InitSpec, LayerInit
from alexc.spec.names import listing
from alexc.spec.paths import project_root
from alexc.spec.write import to_yaml
from alexc.weights import store
from alexc.weights.init import resolve

_COMMENT_WIDTH = 98
_HEAD = ("alexc", "name", "extends", "source")
_RECIPES = ("caffe", "paper", "kaiming", "xavier", "torch")


@dataclass(frozen=True, slots=True)
class Imported:
    """What came of an import: the files, the checked net, and its foreign origin."""

    spec: Path
    weights: Path | None
    net: Net
    foreign: ForeignNet


def write(foreign: ForeignNet, spec: Path, *, replace: bool = False) -> Imported:
    """Write the spec, and its weights as NAME.safetensors beside it where there are any.

    Raises UsageError `import/exists` if one of the files exists and `replace` is not given, or if
    they can't be written, and AlexcError if the weights don't fit or are not finite.
    """
    if spec.suffix not in (".yaml", ".yml"):  # also, it would be replaced by its own weights
        help = f"--out {spec.with_suffix('.yaml')}"
        raise usage_fault("import/out", f"{spec} is no .yaml file", help=help)
    weights = spec.with_suffix(".safetensors") if foreign.has_weights else None
    for path in (spec, weights):
        if path is not None and path.exists() and not replace:
            raise usage_fault(
                "import/exists", f"{path} exists already", help="choose another --out, or --force"
            )
    text = render(foreign, spec)
    partial = spec.with_name(f".{spec.stem}.{secrets.token_hex(4)}.yaml")
    staged = partial.with_suffix(".safetensors")
    try:
        spec.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        net = _checked(partial)
        _must_be_the_same(foreign.graph, net.graph)
        if weights is not None:
            store.write(staged, foreign.weights())
            foreign.release()
            store.read(staged, net.graph)
            _put(staged, weights, replace)
        _put(partial, spec, replace)
    except OSError as error:
        reason = error.strerror or str(error)
        raise usage_fault("file/unwritable", f"{spec}: {reason}") from None
    finally:
        for leftover in (partial, staged):
            with suppress(OSError):
                leftover.unlink(missing_ok=True)
    return Imported(spec, weights, load_net(spec), foreign)


def _put(staged: Path, place: Path, replace: bool) -> None:
    """Move a finished file to its place, in one step."""
    if replace:
        staged.replace(place)
        return
    try:
        os.link(staged, place)  # unlike a rename, it fails where a file has come in the meantime
    except FileExistsError:
        raise usage_fault("import/exists", f"{place} exists already") from None
    except OSError:  # a file system without hard links
        staged.replace(place)


def _checked(partial: Path) -> Net:
    """The net of the spec that was written. What is wrong with it, the foreign file said."""
    try:
        return load_net(partial)
    except AlexcError as error:
        first = error.diagnostics[0]
        raise fault(
            "import/refused", f"what the file says makes no spec: {first.message}", help=first.help
        ) from None


def _must_be_the_same(imported: Graph, written: Graph) -> None:
    if imported.to_json() != written.to_json():
        raise fault("import/bug", "the spec that was written gives another net: this is a bug")


# ---- the spec ------------------------------------------------------------------------------------


def render(foreign: ForeignNet, spec: Path) -> str:
    """The text of the spec: what it comes from, then the root keys in their order."""
    data = describe(foreign, spec)
    head = {key: data.pop(key) for key in list(data) if key in _HEAD}
    parts = [_comment(foreign), to_yaml(head)]
    parts += [to_yaml({key: value}) for key, value in data.items()]
    return "\n".join(parts)


def describe(foreign: ForeignNet, spec: Path) -> dict[str, Any]:
    """The spec as plain data, its keys in the order in which people write them."""
    graph = foreign.graph
    files = "files" if len(foreign.files) > 1 else "file"
    source = f"{foreign.tool} {files} {listing(path.name for path in foreign.files)}"
    data: dict[str, Any] = {"alexc": 1, "name": _net_name(foreign.name, spec)}
    if foreign.extends is not None:
        if not resolved(foreign.extends).is_relative_to(project_root(spec)):
            return _without_base(foreign.extends) | data | {"source": source}
        base = Path(os.path.relpath(resolved(foreign.extends), resolved(spec).parent))
        data |= {"extends": base.as_posix(), "source": source}
        return data
    channels, height, width = graph.input_shape
    data["source"] = source
    data["input"] = {"channels": channels, "height": height, "width": width}
    default, own = _init(foreign)
    data["layers"] = dict(_layers(graph, own))
    if graph.outputs != (graph.nodes[-1].name,):
        data["outputs"] = list(graph.outputs)
    if default is not None:
        data["init"] = default
    if foreign.preprocess is not None:
        data["preprocess"] = foreign.preprocess
    if foreign.train is not None:
        data["train"] = foreign.train
    data["expect"] = {"parameters": graph.parameter_count}
    allowed = [
        {"lint": "lint/softmax-output", "layer": name, "reason": f"so it is in {foreign.tool}"}
        for name in graph.outputs
        if isinstance(graph.by_name[name].op, Softmax)
    ]
    if allowed:
        data["allow"] = allowed
    return data


def _without_base(base: Path) -> dict[str, Any]:
    """A spec that another may not extend from where it is, written out with all that it says."""
    net = load_net(base)
    data = {"alexc": 1, "name": "", "source": "", **net.spec.to_json()}
    if net.labels is not None:
        data["labels"] = list(net.labels)  # a file would be looked for beside the new spec
    return {key: value for key, value in data.items() if key not in ("extends", "blocks")}


def _net_name(name: str | None, spec: Path) -> str:
    """The net's own name as far as the language allows it, otherwise the file's."""
    for wanted in (name, spec.stem):
        kept = "".join(c if c.isalnum() or c in "_.-" else "-" for c in wanted or "")[:100]
        kept = kept.strip("-_.")
        if kept:
            return kept
    return "net"


def _comment(foreign: ForeignNet) -> str:
    """Where the net comes from, as the first lines of the spec."""
    sources = [f"{path.name} (sha256 {_digest(path)})" for path in foreign.files]
    paragraphs = [f"Imported from {foreign.tool}: {', '.join(sources)}.", *foreign.notes]
    renamed = [
        f"{row.layer} is {row.origin}"
        for row in foreign.rows
        if row.layer is not None and row.origin.name not in ("", row.layer) and not row.note
        # An exporter's paths are no names that anybody would look for.
        if not row.origin.name.startswith(("/", "node_"))
    ]
    if renamed:
        listed = "; ".join(renamed[:20]) + ("; …" if len(renamed) > 20 else "")
        paragraphs.append(f"Renamed: {listed}.")
    lines = []
    for paragraph in paragraphs:
        clean = "".join(c if c.isprintable() else " " for c in paragraph)
        lines += textwrap.wrap(clean, _COMMENT_WIDTH, break_long_words=False)
    return "".join(f"# {line}\n" for line in lines)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def _layers(graph: Graph, own_init: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every layer as it is written: with its inputs only where they are not the layer before."""
    before = INPUT
    for node in graph.nodes:
        written: dict[str, Any] = {"op": node.op.kind, **written_fields(node.op)}
        if node.inputs != (before,):
            written["inputs"] = node.inputs[0] if len(node.inputs) == 1 else list(node.inputs)
        if node.name in own_init:
            written["init"] = own_init[node.name]
        yield node.name, written if len(written) > 1 else node.op.kind
        before = node.name


def written_fields(op: Op) -> dict[str, Any]:
    """The op's fields as a person writes them: no defaults, and one number for a square."""
    fields: dict[str, Any] = {}
    for name in type(op).model_fields:
        value = getattr(op, name)
        default = type(op).model_fields[name].get_default()
        # LRN's convention and a dropout's probability are said even where they are usual.
        if value == default and not (name == "p" and op.kind == "dropout"):
            continue
        fields[name] = _plain(value)
    if isinstance(op, Lrn) and fields.get("k") == int(op.k):
        fields["k"] = int(op.k)
    return fields


def _plain(value: Any) -> Any:
    if isinstance(value, Padding):
        if value.symmetric:
            return _plain((value.top, value.left))
        return {
            side: n for side in ("top", "left", "bottom", "right") if (n := getattr(value, side))
        }
    if isinstance(value, tuple):
        return value[0] if len(set(value)) == 1 else list(value)
    return value


# ---- initial weights -----------------------------------------------------------------------------


def _init(foreign: ForeignNet) -> tuple[Any, dict[str, Any]]:
    """The net's `init`, and that of the layers which differ from it.

    A named recipe if one says exactly the same; otherwise what most layers have, and the rest by
    layer.
    """
    stated = {layer.name: dict(layer.init) for layer in foreign.layers if layer.init}
    if not stated:
        return None, {}
    default: dict[str, Any] = {}
    for local in ("weight", "bias"):
        counts = Counter(repr(init[local]) for init in stated.values() if local in init)
        for init in stated.values():
            if local in init and repr(init[local]) == counts.most_common(1)[0][0]:
                default.setdefault(local, init[local])
    own = {
        name: {local: value for local, value in init.items() if default.get(local) != value}
        for name, init in stated.items()
    }
    own = {name: init for name, init in own.items() if init}
    if (recipe := _same_recipe(foreign.graph, default, own)) is not None:
        return recipe, {}
    if own and foreign.has_weights:
        return None, {}  # the trained weights say more than a page of deviations
    return default, own


def _same_recipe(graph: Graph, default: Any, own: Mapping[str, Any]) -> str | None:
    """The recipe by whose name all of this can be said, if there is one."""
    try:
        layers = {name: LayerInit.model_validate(init) for name, init in own.items()}
        wanted = resolve(graph, InitSpec.model_validate(default), layers)
    except ValidationError:
        return None
    for recipe in _RECIPES:
        if resolve(graph, InitSpec.model_validate({"recipe": recipe}), {}) == wanted:
            return recipe
    return None
