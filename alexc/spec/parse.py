"""A merged tree → a validated Spec; every fault a Diagnostic at the value that caused it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from alexc.diagnostics import AlexcError, Diagnostic, Place
from alexc.ops import OPS
from alexc.ops.base import Op
from alexc.source import Entry, Mapping, Node, Scalar, locate, parse, plain
from alexc.spec.blocks import expand
from alexc.spec.merge import load_tree
from alexc.spec.model import Header, LayerInit, check_layer_name

# Keys of a layer that are not its op's fields.
LAYER_KEYS = ("op", "inputs", "init")


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
    """The spec that a bundle's manifest keeps. JSON is YAML, so it takes the same way."""
    return parse_tree(parse(json.dumps(data, indent=1).encode(), shown_as), ())


def parse_tree(tree: Mapping, files: tuple[Path, ...]) -> tuple[Spec | None, list[Diagnostic]]:
    """Parse a merged tree. The Spec is there, without the layers at fault, if the root keys are."""
    faults: list[Diagnostic] = []
    tree = expand(tree, faults)
    header = _header(tree, faults)
    layers = _layers(tree, faults)
    if header is None or layers is None:
        return None, faults
    spec = Spec(header, layers, tree, files)
    _check_outputs(spec, faults)
    return spec, faults


def _header(tree: Mapping, faults: list[Diagnostic]) -> Header | None:
    known = [*Header.model_fields, "layers", "blocks", "extends"]
    fields = {}
    for key, entry in tree.entries.items():
        if key in Header.model_fields:
            fields[key] = plain(entry.value)
        elif key not in known:
            message = f"unknown key {key}"
            help = _did_you_mean(key, known)
            faults.append(Diagnostic("spec/unknown-field", message, entry.key, help=help))
    try:
        return Header.model_validate(fields)
    except ValidationError as error:
        faults += _translate(error, tree, (), "the spec")
    return None


def _layers(tree: Mapping, faults: list[Diagnostic]) -> dict[str, Layer] | None:
    node = tree.get("layers")
    if not isinstance(node, Mapping) or not node.entries:
        place = node.place if node is not None else tree.place
        what = "has no layers" if node is None or isinstance(node, Mapping) else "has no mapping"
        faults.append(
            Diagnostic(
                "spec/no-layers",
                f"the spec {what} under `layers`",
                place,
                help="layers are written name: {op: …}, one a line",
            )
        )
        return None
    layers = {}
    for name, entry in node.entries.items():
        if (why := check_layer_name(name)) is not None:
            faults.append(
                Diagnostic("layer/name", f"{name!r} can't name a layer: {why}", entry.key)
            )
        layers[name] = _layer(name, entry, faults)
    for name, layer in layers.items():
        for position, source in enumerate(layer.inputs or ()):
            if source != "input" and source not in layers:
                place = locate(node, (name, "inputs", position))
                faults.append(
                    Diagnostic(
                        "layer/unknown-input",
                        f"{name} reads {source}, but there is no such layer",
                        place,
                        help=_did_you_mean(source, ["input", *layers]),
                    )
                )
    return layers


def _layer(name: str, entry: Entry, faults: list[Diagnostic]) -> Layer:
    node = entry.value
    if isinstance(node, Scalar) and isinstance(node.value, str):
        return Layer(name, _op(name, node, {}, node, entry.key, faults), None, None)
    if not isinstance(node, Mapping):
        message = f"{name}: a layer is the name of an op, or a mapping with `op`"
        if isinstance(node, Scalar) and node.value is None:
            message = f"{name} is null; that removes a layer only where `extends` gives one"
        faults.append(Diagnostic("layer/form", message, node.place))
        return Layer(name, None, None, None)
    word = node.get("op")
    fields = {k: plain(e.value) for k, e in node.entries.items() if k not in LAYER_KEYS}
    op = None
    if word is None:
        help = "write op: conv, op: linear, …"
        guess = _op_with_fields(list(fields))
        if guess:
            help = f"the fields are those of {guess}: write op: {guess}"
        faults.append(Diagnostic("layer/no-op", f"{name} has no `op`", entry.key, help=help))
    elif not isinstance(word, Scalar) or not isinstance(word.value, str):
        faults.append(Diagnostic("layer/form", f"{name}: `op` is the name of an op", word.place))
    else:
        op = _op(name, word, fields, node, entry.key, faults)
    return Layer(name, op, _inputs(name, node, faults), _init(name, node, faults))


def _op_with_fields(fields: list[str]) -> str | None:
    """The one op that has all these fields, if it is one."""
    fits = [kind for kind, op in OPS.items() if fields and set(fields) <= set(op.model_fields)]
    return fits[0] if len(fits) == 1 else None


def _op(
    name: str,
    word: Scalar,
    fields: dict[str, Any],
    node: Node,
    key: Place,
    faults: list[Diagnostic],
) -> Op | None:
    cls = OPS.get(str(word.value))
    if cls is None:
        faults.append(
            Diagnostic(
                "layer/unknown-op",
                f"{name}: there is no op {word.raw}",
                word.place,
                help=_did_you_mean(word.raw, OPS) or f"the ops are: {', '.join(OPS)}",
            )
        )
        return None
    try:
        return cls.model_validate(fields)
    except ValidationError as error:
        known = [*cls.model_fields, *LAYER_KEYS]
        faults += _translate(error, node, (), f"{name} ({cls.kind})", known, missing_at=key)
        return None


def _inputs(name: str, node: Mapping, faults: list[Diagnostic]) -> tuple[str, ...] | None:
    value = node.get("inputs")
    if value is None:
        return None
    listed = plain(value)
    names = [listed] if isinstance(listed, str) else listed
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        message = f"{name}: `inputs` is the name of a layer, or a list of them"
        faults.append(Diagnostic("layer/inputs", message, value.place))
        return None
    return tuple(names)


def _init(name: str, node: Mapping, faults: list[Diagnostic]) -> LayerInit | None:
    value = node.get("init")
    if value is None:
        return None
    try:
        return LayerInit.model_validate(plain(value))
    except ValidationError as error:
        known = list(LayerInit.model_fields)
        faults += _translate(error, node, ("init",), f"{name}: init", known)
        return None


def _check_outputs(spec: Spec, faults: list[Diagnostic]) -> None:
    outputs = spec.header.outputs or ()
    for position, name in enumerate(outputs):
        place = spec.place("outputs", position)
        if name not in spec.layers:
            help = _did_you_mean(name, spec.layers)
            message = f"the output {name} is no layer"
            faults.append(Diagnostic("spec/unknown-output", message, place, help=help))
        elif name in outputs[:position]:
            faults.append(
                Diagnostic("spec/output-twice", f"the output {name} is given twice", place)
            )


# ---- pydantic's errors as ours -------------------------------------------------------------------

_CODES = {
    "missing": "spec/missing-field",
    "extra_forbidden": "spec/unknown-field",
    "literal_error": "spec/choice",
    "distribution": "init/distribution",
    "finite_number": "spec/range",
    "greater_than": "spec/range",
    "greater_than_equal": "spec/range",
    "less_than": "spec/range",
    "less_than_equal": "spec/range",
    "string_pattern_mismatch": "spec/pattern",
    "string_too_long": "spec/length",
    "string_too_short": "spec/length",
    "too_long": "spec/length",
    "too_short": "spec/length",
}


def _translate(
    error: ValidationError,
    node: Node,
    prefix: tuple[str, ...],
    owner: str,
    known: Sequence[str] = (),
    missing_at: Place | None = None,
) -> list[Diagnostic]:
    """Pydantic's errors as Diagnostics placed in `node`, one for each value at fault.

    `known` are the fields that an unknown one is compared with; `missing_at` is where a missing
    one is reported, by default at the mapping that lacks it.
    """
    details = error.errors(include_url=False)
    # A misspelt field is unknown, and the one that was meant is missing: one fault, not two.
    misspelt = {
        close[0]
        for detail in details
        if detail["type"] == "extra_forbidden"
        and (close := get_close_matches(str(detail["loc"][-1]), known, 1))
    }
    found: dict[tuple[str, Place], Diagnostic] = {}
    for detail in details:
        if detail["type"] == "missing" and detail["loc"][-1] in misspelt:
            continue
        diagnostic = _translate_one(detail, node, prefix, owner, known, missing_at)
        assert diagnostic.place is not None
        key = (detail["type"], diagnostic.place)
        if detail["type"] == "missing":
            key = (str(detail["loc"]), diagnostic.place)
        found.setdefault(key, diagnostic)
    return list(found.values())


def _translate_one(
    detail: ErrorDetails,
    node: Node,
    prefix: tuple[str, ...],
    owner: str,
    known: Sequence[str],
    missing_at: Place | None,
) -> Diagnostic:
    kind = detail["type"]
    path = (*prefix, *detail["loc"])
    steps = [str(step) for step in detail["loc"] if isinstance(step, str) and not _is_branch(step)]
    field = ".".join(steps) or owner
    code = _CODES.get(kind, "spec/type" if kind.endswith(("_type", "_parsing")) else f"spec/{kind}")
    context = detail.get("ctx") or {}
    if "/" in kind:  # an op's own check, which brings its code along
        code = kind
    place = locate(node, path, key=kind == "extra_forbidden")
    help = None
    if kind == "missing":
        place = missing_at or locate(node, path[:-1])
        message = f"{owner} needs `{field}`"
    elif kind == "extra_forbidden":
        names = known or _fields_beside(detail["loc"])
        message = f"{owner} has no field `{field}`"
        help = _did_you_mean(steps[-1], names)
        if help is None and names:
            help = f"its fields are: {', '.join(names)}"
    elif kind == "literal_error":
        message = f"{owner}: `{field}` is {_shown(detail['input'])}"
        expected = str(context.get("expected"))
        help = f"it must be {expected}"
        if isinstance(detail["input"], str):
            choices = [c.strip(" '") for c in expected.replace(" or ", ",").split(",")]
            help = _did_you_mean(detail["input"], choices) or help
    elif (wish := detail["msg"].removeprefix("Input should be ")) != detail["msg"]:
        message = f"{owner}: `{field}` must be {wish}, and is {_shown(detail['input'])}"
    else:
        wish = wish.removeprefix("Value error, ")
        message = f"{owner}: `{field}` is {_shown(detail['input'])}, but {wish}"
    return Diagnostic(code, message, place, help=help)


def _is_branch(step: str | int) -> bool:
    """Whether a step of pydantic's path is one of a union's branches and not a key of the file."""
    return isinstance(step, str) and ("[" in step or step in ("str", "int", "float"))


def _fields_beside(location: tuple[int | str, ...]) -> list[str]:
    """The legal fields beside an unknown one in the header."""
    if len(location) == 1:
        return list(Header.model_fields)
    annotation = Header.model_fields[str(location[0])].annotation
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if hasattr(candidate, "model_fields"):
            return list(candidate.model_fields)
    return []


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 40 else text[:39] + "…"


def _did_you_mean(name: str, names: Any) -> str | None:
    close = get_close_matches(name, list(names), 1)
    return f"did you mean {close[0]}?" if close else None
