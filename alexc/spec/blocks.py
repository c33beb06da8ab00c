"""`blocks`: a group of layers given once and used with parameters, expanded before validation.

    blocks:
      fire:
        parameters: [squeeze, expand]
        layers:
          squeeze: {op: conv, out_channels: $squeeze, kernel_size: 1}
          relu: relu
          left: {op: conv, out_channels: $expand, kernel_size: 1}
          right: {op: conv, out_channels: $expand, kernel_size: 3, padding: 1, inputs: relu}
          join: {op: concat, inputs: [left, right]}
    layers:
      fire2: {block: fire, squeeze: 16, expand: 64}

The use becomes the layers `fire2/squeeze`, `fire2/relu`, …; inside a block `input` is what flows
into the use; outside, `fire2` is the block's last layer. A parameter stands alone as a value
(`$squeeze`), so a fault in it points at the use that gave it. Blocks don't nest: a net that needs
that is written more plainly without.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from alexc.diagnostics import Diagnostic
from alexc.source import MAX_VALUES, Entry, Listing, Mapping, Node, Scalar, mapping, sequence
from alexc.spec.names import Names, clip, listing

MAX_PARAMETERS = 100

_KEYS = ("parameters", "layers")  # of a block
_KEYS_OF_USE = ("block", "inputs")  # beside the parameters


@dataclass(frozen=True, slots=True)
class Expanded:
    """A tree with every use of a block written out and `blocks` gone.

    `unjudged` names the uses that could not be: they stand in the tree as they are, and what reads
    them is not to blame. Where uses stand for too many values, the tree is not `complete`.
    """

    tree: Mapping
    unjudged: frozenset[str]
    complete: bool = True


@dataclass(frozen=True, slots=True)
class _Block:
    name: str
    parameters: dict[str, None]  # a set in order
    names: Names  # the same, to look misspelt ones up
    layers: Mapping


def expand(tree: Mapping, faults: list[Diagnostic]) -> Expanded:
    """Write out every use of a block; its faults, and those of the blocks, go to `faults`."""
    layers = tree.get("layers")
    blocks, broken = _blocks(tree.get("blocks"), faults)
    if not isinstance(layers, Mapping):
        return Expanded(tree, frozenset())
    entries: dict[str, Entry] = {}
    unjudged: set[str] = set()
    last: dict[str, str] = {}  # a use → its last layer
    known = Names(blocks)
    size = 1
    for name, entry in layers.entries.items():
        written = {name: entry}
        if isinstance(entry.value, Mapping) and "block" in entry.value.entries:
            word = entry.value.entries["block"].value
            wanted = str(word.value) if isinstance(word, Scalar) else None
            inside: dict[str, Entry] | None = None
            if wanted in blocks:
                before = next(reversed(entries), "input")
                inside = _use(name, entry, entry.value, blocks[wanted], before, faults)
            elif wanted not in broken:
                faults.append(_unknown_block(name, word, blocks, known))
            if inside is None:
                unjudged.add(name)
            else:
                written = inside
                last[name] = next(reversed(inside))
        for key, layer in written.items():
            size += layer.value.size
            if size > MAX_VALUES:
                message = f"the blocks stand for more than {MAX_VALUES:,} values"
                faults.append(Diagnostic("block/too-large", message, entry.key))
                return Expanded(tree, frozenset(), complete=False)
            if key in entries:
                message = f"the layer {clip(key)} is there already"
                other = entries[key].key.seen_from(entry.key)
                note = f"the block makes one of that name, and there is one at {other}"
                faults.append(Diagnostic("block/name-clash", message, entry.key, notes=(note,)))
            entries[key] = layer
    renamed = {
        name: Entry(entry.key, _rename_inputs(entry.value, last)) for name, entry in entries.items()
    }
    expanded = _with_layers(tree, mapping(renamed, layers.place))
    if (outputs := expanded.entries.get("outputs")) is not None and last:
        named = Entry(outputs.key, _rename(outputs.value, last))
        expanded = mapping(expanded.entries | {"outputs": named}, expanded.place)
    return Expanded(expanded, frozenset(unjudged))


def _with_layers(tree: Mapping, layers: Mapping) -> Mapping:
    entries = {key: entry for key, entry in tree.entries.items() if key != "blocks"}
    entries["layers"] = Entry(entries["layers"].key, layers)
    return mapping(entries, tree.place)


# ---- definitions ---------------------------------------------------------------------------------


def _blocks(node: Node | None, faults: list[Diagnostic]) -> tuple[dict[str, _Block], set[str]]:
    """The blocks that are sound, and the names of those that aren't."""
    sound: dict[str, _Block] = {}
    if node is None or (isinstance(node, Scalar) and node.value is None):
        return {}, set()
    if not isinstance(node, Mapping):
        message = "`blocks` must be a mapping of names to blocks"
        faults.append(Diagnostic("block/definition", message, node.place))
        return {}, set()
    for name, entry in node.entries.items():
        before = len(faults)
        block = _definition(name, entry, faults)
        if block is not None and len(faults) == before:
            sound[name] = block
    return sound, set(node.entries) - set(sound)


def _definition(name: str, entry: Entry, faults: list[Diagnostic]) -> _Block | None:
    """The block, unless it can't be one; what is wrong with it goes to `faults`."""
    shown = f"the block {clip(name)}"
    node = entry.value
    if not isinstance(node, Mapping):
        message = f"{shown} must be a mapping of parameters and layers"
        faults.append(Diagnostic("block/definition", message, node.place))
        return None
    for key, part in node.entries.items():
        if key not in _KEYS:
            message = f"{shown} has no key {clip(key)}"
            near = Names(_KEYS).did_you_mean(key)
            help = near or "a block has parameters and layers"
            faults.append(Diagnostic("block/definition", message, part.key, help=help))
    parameters: dict[str, None] = {}
    given = node.get("parameters")
    if given is not None:
        items = given.items if isinstance(given, Listing) else (given,)
        names = [i.value for i in items if isinstance(i, Scalar) and isinstance(i.value, str)]
        if not isinstance(given, Listing) or len(names) < len(items):
            message = f"{shown}: the parameters must be a list of names"
            help = "parameters: [squeeze, expand]"
            faults.append(Diagnostic("block/definition", message, given.place, help=help))
            return None
        parameters = dict.fromkeys(names)
        for name_, item in zip(names, items, strict=True):
            if name_ in _KEYS_OF_USE or names.count(name_) > 1:
                why = "is given twice" if names.count(name_) > 1 else "is a key of every use"
                message = f"{shown}: the parameter {clip(name_)} {why}"
                faults.append(Diagnostic("block/definition", message, item.place))
                return None
        if len(names) > MAX_PARAMETERS:
            message = f"{shown} has {len(names)} parameters; at most {MAX_PARAMETERS} are allowed"
            faults.append(Diagnostic("block/definition", message, given.place))
            return None
    layers = node.get("layers")
    if not isinstance(layers, Mapping) or not layers.entries:
        message = f"{shown} has no layers"
        place = layers.place if layers is not None else entry.key
        help = "write them as under `layers` of the spec, one a line"
        faults.append(Diagnostic("block/definition", message, place, help=help))
        return None
    block = _Block(name, parameters, Names(parameters), layers)
    _check_layers(shown, block, faults)
    return block


def _check_layers(shown: str, block: _Block, faults: list[Diagnostic]) -> None:
    """Whether the names in a block's layers are names that it has."""
    layers = block.layers
    local = Names(["input", *layers.entries])
    for layer, entry in layers.entries.items():
        if isinstance(entry.value, Mapping) and "block" in entry.value.entries:
            message = f"{shown} uses another block in {clip(layer)}"
            place = entry.value.entries["block"].key
            help = "blocks don't nest: write its layers out here, or use the two one after another"
            faults.append(Diagnostic("block/nested", message, place, help=help))
        for scalar in _scalars(entry.value):
            word = str(scalar.value)
            if word.startswith("$") and word[1:] not in block.parameters:
                message = f"{shown} has no parameter {clip(word[1:])}"
                help = (
                    block.names.did_you_mean(word[1:])
                    or f"name it in `parameters`, or take the $ away: {clip(word[1:])}"
                )
                faults.append(Diagnostic("block/parameter", message, scalar.place, help=help))
        source = entry.value.get("inputs") if isinstance(entry.value, Mapping) else None
        for scalar in _scalars(source) if source is not None else ():
            word = str(scalar.value)
            if word not in layers.entries and word != "input" and not word.startswith("$"):
                message = f"{shown} has no layer {clip(word)}"
                help = (
                    local.did_you_mean(word)
                    or "a block sees its own layers, and as `input` what flows into it"
                )
                faults.append(Diagnostic("block/inputs", message, scalar.place, help=help))


def _scalars(node: Node) -> Iterator[Scalar]:
    """Every value of the node that is no collection."""
    if isinstance(node, Scalar):
        yield node
    elif isinstance(node, Listing):
        for item in node.items:
            yield from _scalars(item)
    else:
        for entry in node.entries.values():
            yield from _scalars(entry.value)


# ---- uses ----------------------------------------------------------------------------------------


def _unknown_block(name: str, word: Node, blocks: dict[str, _Block], known: Names) -> Diagnostic:
    text = clip(word.raw) if isinstance(word, Scalar) else "of that kind"
    help = known.did_you_mean(text) or (
        f"the blocks are {listing(map(clip, blocks))}" if blocks else "blocks stand under `blocks`"
    )
    message = f"{clip(name)}: there is no block {text}"
    return Diagnostic("block/unknown", message, word.place, help=help)


def _use(
    name: str,
    entry: Entry,
    use: Mapping,
    block: _Block,
    before: str,
    faults: list[Diagnostic],
) -> dict[str, Entry] | None:
    """The layers that one use stands for; None where the use itself is at fault.

    `before` is the layer that the use reads when it names none.
    """
    shown = clip(name)
    good = True
    given = {key: e for key, e in use.entries.items() if key not in _KEYS_OF_USE}
    missing = [parameter for parameter in block.parameters if parameter not in given]
    for key in given:
        if key in block.parameters:
            continue
        good = False
        message = f"{shown}: the block {clip(block.name)} has no parameter {clip(key)}"
        meant = block.names.nearest(key)
        if meant in missing:
            missing.remove(meant)
        help = f"its parameters are {listing(map(clip, block.parameters)) or 'none'}"
        if meant is not None:
            help = f"did you mean {clip(meant)}?"
        faults.append(Diagnostic("block/parameter", message, use.entries[key].key, help=help))
    if missing:
        good = False
        message = f"{shown}: the block {clip(block.name)} needs {listing(map(clip, missing))}"
        help = "for example " + ", ".join(f"{clip(parameter)}: 64" for parameter in missing[:5])
        faults.append(Diagnostic("block/parameter", message, entry.key, help=help))
    source = use.entries.get("inputs")
    if source is not None and not isinstance(source.value, Scalar):
        good = False
        message = f"{shown}: a block reads one layer"
        help = "put the layer that joins several, an add or a concat, before it"
        faults.append(Diagnostic("block/inputs", message, source.value.place, help=help))
    if not good:
        return None

    # Names inside the block are local; `input` is whatever the use reads.
    flows_in = source.value if source is not None else Scalar(before, before, entry.key)
    values = {key: e.value for key, e in given.items()}
    written: dict[str, Entry] = {}
    for position, (inner, layer) in enumerate(block.layers.entries.items()):
        value = _substitute(layer.value, values)
        if isinstance(layer.value, Mapping) and "inputs" in layer.value.entries:
            assert isinstance(value, Mapping)
            old = layer.value.entries["inputs"]
            inputs = Entry(old.key, _localize(old.value, name, values, flows_in))
            value = mapping(value.entries | {"inputs": inputs}, value.place)
        elif position == 0 and source is not None:
            value = _with_inputs(value, source)
        written[f"{name}/{inner}"] = Entry(entry.key, value)
    return written


def _with_inputs(layer: Node, source: Entry) -> Node:
    entries = layer.entries if isinstance(layer, Mapping) else {"op": Entry(layer.place, layer)}
    return mapping(entries | {"inputs": source}, layer.place)


def _substitute(node: Node, given: dict[str, Node]) -> Node:
    """The node with every `$name` replaced by what the use gives."""
    if isinstance(node, Scalar):
        if isinstance(node.value, str) and node.value.startswith("$"):
            return given[node.value[1:]]
        return node
    if isinstance(node, Listing):
        return sequence([_substitute(item, given) for item in node.items], node.place)
    entries = {
        key: Entry(entry.key, _substitute(entry.value, given))
        for key, entry in node.entries.items()
    }
    return mapping(entries, node.place)


def _localize(node: Node, use: str, given: dict[str, Node], flows_in: Node) -> Node:
    """`inputs` of a layer of a block, with the names that the layers have in the net."""
    if isinstance(node, Listing):
        items = [_localize(item, use, given, flows_in) for item in node.items]
        return sequence(items, node.place)
    if not isinstance(node, Scalar) or not isinstance(node.value, str):
        return node
    if node.value == "input":
        return flows_in
    if node.value.startswith("$"):  # a name of the net already
        return given[node.value[1:]]
    return Scalar(f"{use}/{node.value}", node.raw, node.place)


def _rename_inputs(layer: Node, last: dict[str, str]) -> Node:
    """The layer with the uses that its `inputs` name replaced by their last layers."""
    if not last or not isinstance(layer, Mapping) or "inputs" not in layer.entries:
        return layer
    entry = layer.entries["inputs"]
    renamed = Entry(entry.key, _rename(entry.value, last))
    return mapping(layer.entries | {"inputs": renamed}, layer.place)


def _rename(node: Node, names: dict[str, str]) -> Node:
    if isinstance(node, Listing):
        return sequence([_rename(item, names) for item in node.items], node.place)
    if isinstance(node, Scalar) and isinstance(node.value, str) and node.value in names:
        return Scalar(names[node.value], node.raw, node.place)
    return node
