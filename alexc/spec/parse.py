"""A merged tree → a validated Spec; every fault a Diagnostic at the value that caused it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from alexc.diagnostics import AlexcError, Diagnostic, Place
from alexc.ops import OPS
from alexc.ops.base import Op
from alexc.source import Entry, Listing, Mapping, Node, Scalar, locate, parse, plain
from alexc.spec.blocks import Expanded, expand
from alexc.spec.faults import MAX_FAULTS, ROOT, did_you_mean, translate
from alexc.spec.merge import load_tree
from alexc.spec.model import (
    LAYER_KEYS,
    RECIPES,
    STRUCTURE,
    Header,
    LayerInit,
    check_layer_name,
)
from alexc.spec.names import Names, clip, listing
from alexc.spec.write import to_yaml


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer as written: `inputs` is None where it follows the layer before it.

    `op` is None where its fields are at fault; the spec's faults then say why.
    """

    name: str
    op: Op | None
    inputs: tuple[str, ...] | None
    init: LayerInit | None


@dataclass(frozen=True, slots=True)
class Spec:
    """A spec whose every value is of the right kind. Whether shapes fit is the graph's question."""

    header: Header
    layers: dict[str, Layer]
    tree: Mapping
    files: tuple[Path, ...] = ()

    @property
    def name(self) -> str:
        return self.header.name

    def place(self, *path: str | int, key: bool = False) -> Place:
        """Where the value at `path` is written, or the nearest value above it that is."""
        return locate(self.tree, path, key=key)

    def to_json(self) -> dict[str, Any]:
        """The merged spec as plain data: what a bundle keeps, and what digests are made of."""
        data: dict[str, Any] = plain(self.tree)
        return data


def load_spec(path: Path) -> tuple[Spec | None, list[Diagnostic]]:
    """The spec at `path`, merged and parsed, with its faults; None where nothing can be read.

    Raises UsageError where there is no such file.
    """
    try:
        merged = load_tree(path)
    except AlexcError as error:
        if error.exit_code != AlexcError.exit_code:
            raise
        return None, list(error.diagnostics)
    return parse_tree(merged.tree, tuple(merged.files))


def spec_from_json(data: dict[str, Any], shown_as: str) -> tuple[Spec | None, list[Diagnostic]]:
    """The spec that a bundle's manifest keeps, by the same way as from a file."""
    return parse_tree(parse(to_yaml(data).encode(), shown_as), ())


def parse_tree(tree: Mapping, files: tuple[Path, ...]) -> tuple[Spec | None, list[Diagnostic]]:
    """Parse a merged tree. The Spec is there, without the layers at fault, if the root keys are."""
    faults: list[Diagnostic] = []
    expanded = expand(tree, faults)
    header = _header(expanded.tree, faults)
    if not expanded.complete:
        return None, faults
    layers = _layers(expanded, faults)
    if header is None or layers is None:
        return None, faults
    spec = Spec(header, layers, expanded.tree, files)
    _check_outputs(spec, expanded.unjudged, faults)
    return spec, faults


def _header(tree: Mapping, faults: list[Diagnostic]) -> Header | None:
    known = [*Header.model_fields, *STRUCTURE]
    fields = {}
    for key, entry in tree.entries.items():
        if key in Header.model_fields:
            fields[key] = plain(entry.value)
        elif key not in known and len(faults) < MAX_FAULTS:
            message = f"the spec has no key {clip(key)}"
            help = did_you_mean(key, known) or f"its keys are {listing(known)}"
            faults.append(Diagnostic("spec/unknown-field", message, entry.key, help=help))
    try:
        return Header.model_validate(fields)
    except ValidationError as error:
        faults += translate(error, Header, tree, ROOT)
        wrong = {detail["loc"][0] for detail in error.errors(include_url=False)}
    if "input" in wrong:
        return None
    # The rest is judged all the same, so that one run shows all that is wrong with the net.
    kept = {key: value for key, value in fields.items() if key not in wrong}
    return Header.model_validate({"alexc": 1, "name": "unnamed"} | kept)


def _layers(expanded: Expanded, faults: list[Diagnostic]) -> dict[str, Layer] | None:
    tree = expanded.tree
    node = tree.get("layers")
    if not isinstance(node, Mapping) or not node.entries:
        message = "the spec has no layers"
        if isinstance(node, Listing):
            message = "the layers are a list, and should be a mapping from their names"
        faults.append(
            Diagnostic(
                "spec/no-layers",
                message,
                node.place if node is not None else tree.place,
                help="write one a line: conv1: {op: conv, out_channels: 96, kernel_size: 11}",
            )
        )
        return None
    layers = {}
    for name, entry in node.entries.items():
        if len(faults) >= MAX_FAULTS:
            message = f"{MAX_FAULTS:,} faults so far; the layers from here on are not judged"
            faults.append(Diagnostic("spec/too-many-faults", message, entry.key))
            return None
        if (why := check_layer_name(name)) is not None:
            message = f"{clip(name)} can't name a layer: {why}"
            faults.append(Diagnostic("layer/name", message, entry.key, help=_fitting_name(name)))
        if name in expanded.unjudged:
            layers[name] = Layer(name, None, None, None)
        else:
            layers[name] = _layer(name, entry, faults)
    names = Names(["input", *layers])
    for name, layer in layers.items():
        for position, source in enumerate(layer.inputs or ()):
            if source != "input" and not _known(source, layers, expanded.unjudged):
                message = f"{clip(name)} reads {clip(source)}, but there is no such layer"
                place = locate(node, (name, "inputs", position))
                help = names.did_you_mean(source)
                faults.append(Diagnostic("layer/unknown-input", message, place, help=help))
    return layers


def _fitting_name(name: str) -> str | None:
    """A name like this one that a layer can have."""
    fitting = re.sub(r"[^\w/-]+", "_", name).strip("_-/")[:60]
    if check_layer_name(fitting) is None:
        return f"for example {fitting}"
    fitting = f"layer_{fitting}"
    return f"for example {fitting}" if check_layer_name(fitting) is None else None


def _known(name: str, layers: dict[str, Layer], unjudged: frozenset[str]) -> bool:
    """Whether there is such a layer, or may be one in a block that could not be written out."""
    return name in layers or name.partition("/")[0] in unjudged


def _layer(name: str, entry: Entry, faults: list[Diagnostic]) -> Layer:
    node = entry.value
    shown = clip(name)
    if isinstance(node, Scalar) and isinstance(node.value, str):
        return Layer(name, _op(shown, node, node, entry.key, faults), None, None)
    if not isinstance(node, Mapping):
        message = f"{shown} must be the name of an op, or a mapping with `op`"
        help = f"{shown}: relu, or {shown}: {{op: max_pool, kernel_size: 3, stride: 2}}"
        if isinstance(node, Scalar) and node.value is None:
            message = f"{shown} has no value"
            help += "\n(null removes a layer, in a spec that extends one that has it)"
        faults.append(Diagnostic("layer/form", message, node.place, help=help))
        return Layer(name, None, None, None)
    op = None
    word = node.get("op")
    if word is None:
        faults.append(_no_op(shown, node, entry.key))
    elif not isinstance(word, Scalar) or not isinstance(word.value, str):
        help = f"the ops are {listing(OPS)}"
        message = f"{shown}: `op` must be the name of an op"
        faults.append(Diagnostic("layer/form", message, word.place, help=help))
    else:
        op = _op(shown, word, node, entry.key, faults)
    init = _init(shown, node, faults)
    before = len(faults)
    inputs = _inputs(shown, node, faults)
    if len(faults) > before:  # what it reads is not known, so nothing more can be said of it
        op = None
    return Layer(name, op, inputs, init)


def _no_op(name: str, node: Mapping, key: Place) -> Diagnostic:
    """What to say of a layer without `op`: its other fields often tell what is meant."""
    fields = set(node.entries).difference(LAYER_KEYS)
    fits = [kind for kind, op in OPS.items() if fields and fields <= set(op.model_fields)]
    for field in fields:
        word = node.entries[field].value
        if isinstance(word, Scalar) and (word.value in OPS or field == "type"):
            help = f"write op: {clip(word.raw)} in place of {clip(field)}: {clip(word.raw)}"
            place = node.entries[field].key
            return Diagnostic("layer/no-op", f"{name} has no `op`", place, help=help)
    help = f"the ops are {listing(OPS)}"
    if len(fits) == 1:
        help = f"its fields are those of {fits[0]}: write op: {fits[0]}"
    return Diagnostic("layer/no-op", f"{name} has no `op`", key, help=help)


def _op(name: str, word: Scalar, node: Node, key: Place, faults: list[Diagnostic]) -> Op | None:
    cls = OPS.get(str(word.value))
    if cls is None:
        message = f"{name}: there is no op {clip(word.raw)}"
        help = did_you_mean(word.raw, OPS) or f"the ops are {listing(OPS)}"
        faults.append(Diagnostic("layer/unknown-op", message, word.place, help=help))
        return None
    fields = {}
    if isinstance(node, Mapping):
        fields = {k: plain(e.value) for k, e in node.entries.items() if k not in LAYER_KEYS}
    try:
        return cls.model_validate(fields)
    except ValidationError as error:
        owner = f"{name} ({cls.kind})"
        faults += translate(error, cls, node, owner, missing_at=key, also=LAYER_KEYS)
        return None


def _inputs(name: str, node: Mapping, faults: list[Diagnostic]) -> tuple[str, ...] | None:
    value = node.get("inputs")
    if value is None:
        return None
    items = value.items if isinstance(value, Listing) else (value,)
    names = [item.value for item in items if isinstance(item, Scalar)]
    if not items or len(names) < len(items) or not all(isinstance(n, str) for n in names):
        message = f"{name}: `inputs` must be the name of a layer, or a list of names"
        help = "inputs: [left, right]; without it a layer reads the one before it"
        faults.append(Diagnostic("layer/inputs", message, value.place, help=help))
        return None
    return tuple(map(str, names))


def _init(name: str, node: Mapping, faults: list[Diagnostic]) -> LayerInit | None:
    value = node.get("init")
    if value is None:
        return None
    if isinstance(value, Scalar) and value.value in RECIPES:
        message = f"{name}: {value.raw} is a recipe for the whole net"
        help = f"write init: {value.raw} beside `layers`, or here what weight and bias should be"
        faults.append(Diagnostic("init/recipe", message, value.place, help=help))
        return None
    try:
        return LayerInit.model_validate(plain(value))
    except ValidationError as error:
        faults += translate(error, LayerInit, node, f"{name} (init)", at=("init",))
        return None


def _check_outputs(spec: Spec, unjudged: frozenset[str], faults: list[Diagnostic]) -> None:
    outputs = spec.header.outputs or ()
    names = Names(spec.layers)
    seen = set()
    for position, name in enumerate(outputs):
        place = spec.place("outputs", position)
        if not _known(name, spec.layers, unjudged):
            help = names.did_you_mean(name)
            if help is None and name == "input":
                help = "an output is computed; the input is not"
            message = f"the output {clip(name)} is no layer"
            faults.append(Diagnostic("spec/unknown-output", message, place, help=help))
        elif name in seen:
            message = f"the output {clip(name)} is given twice"
            faults.append(Diagnostic("spec/output-twice", message, place, help="remove one"))
        seen.add(name)
