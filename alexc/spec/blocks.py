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

from difflib import get_close_matches

from alexc.diagnostics import Diagnostic
from alexc.source import MAX_VALUES, Entry, Listing, Mapping, Node, Scalar


def expand(tree: Mapping, faults: list[Diagnostic]) -> Mapping:
    """The tree with every use of a block written out and `blocks` gone."""
    blocks, layers = tree.get("blocks"), tree.get("layers")
    if not isinstance(layers, Mapping):
        return tree
    known: dict[str, Mapping] = {}
    if isinstance(blocks, Mapping):
        known = {
            name: entry.value
            for name, entry in blocks.entries.items()
            if isinstance(entry.value, Mapping) and _check(name, entry.value, faults)
        }
        for name, entry in blocks.entries.items():
            if not isinstance(entry.value, Mapping):
                message = f"the block {name} must be a mapping with `layers` and `parameters`"
                faults.append(Diagnostic("block/definition", message, entry.value.place))
    elif blocks is not None:
        message = "`blocks` must be a mapping of names to blocks"
        faults.append(Diagnostic("block/definition", message, blocks.place))
    if not any(_is_use(entry.value) for entry in layers.entries.values()):
        return _without_blocks(tree, layers)

    entries: dict[str, Entry] = {}
    last: dict[str, str] = {}  # a use → its last layer
    size = 1
    for name, entry in layers.entries.items():
        written: dict[str, Entry]
        if _is_use(entry.value):
            assert isinstance(entry.value, Mapping)
            before = next(reversed(entries), "input")
            written = _use(name, entry, entry.value, known, before, faults)
            if written:
                last[name] = next(reversed(written))
        else:
            written = {name: entry}
        for key, layer in written.items():
            size += layer.value.size
            if size > MAX_VALUES:
                message = f"the blocks stand for more than {MAX_VALUES:,} values"
                faults.append(Diagnostic("block/too-large", message, entry.key))
                return _without_blocks(tree, Mapping({}, layers.place, 1))
            if key in entries:
                message = f"the block's layer {key} has the name of another layer"
                faults.append(Diagnostic("block/name-clash", message, entry.key))
            entries[key] = layer
    renamed = {
        name: Entry(entry.key, _rename_inputs(entry.value, last)) for name, entry in entries.items()
    }
    expanded = _without_blocks(tree, Mapping(renamed, layers.place, size))
    outputs = expanded.entries.get("outputs")
    if outputs is not None:
        named = Entry(outputs.key, _rename(outputs.value, last))
        expanded = Mapping(expanded.entries | {"outputs": named}, expanded.place, expanded.size)
    return expanded


def _without_blocks(tree: Mapping, layers: Mapping) -> Mapping:
    entries = {key: entry for key, entry in tree.entries.items() if key != "blocks"}
    entries["layers"] = Entry(entries["layers"].key, layers)
    return Mapping(entries, tree.place, tree.size)


def _is_use(node: Node) -> bool:
    return isinstance(node, Mapping) and "block" in node.entries


def _names(node: Node | None) -> list[str]:
    if not isinstance(node, Listing):
        return []
    return [str(i.value) for i in node.items if isinstance(i, Scalar)]


def _check(name: str, block: Mapping, faults: list[Diagnostic]) -> bool:
    before = len(faults)
    for key, entry in block.entries.items():
        if key not in ("parameters", "layers"):
            message = f"the block {name} has an unknown key {key}"
            help = "a block has `parameters` and `layers`"
            faults.append(Diagnostic("block/definition", message, entry.key, help=help))
    layers = block.get("layers")
    if not isinstance(layers, Mapping) or not layers.entries:
        message = f"the block {name} needs `layers`"
        faults.append(Diagnostic("block/definition", message, (layers or block).place))
        return False
    parameters = block.get("parameters")
    if parameters is not None and (
        not isinstance(parameters, Listing) or len(_names(parameters)) != len(parameters.items)
    ):
        message = f"`parameters` of the block {name} must be a list of names"
        faults.append(Diagnostic("block/definition", message, parameters.place))
    for layer, entry in layers.entries.items():
        if _is_use(entry.value):
            message = f"the block {name} uses another block in {layer}; blocks don't nest"
            faults.append(Diagnostic("block/nested", message, entry.key))
    return len(faults) == before


def _use(
    name: str,
    entry: Entry,
    use: Mapping,
    known: dict[str, Mapping],
    before: str,
    faults: list[Diagnostic],
) -> dict[str, Entry]:
    """The layers that one use stands for; nothing where the use itself is at fault.

    `before` is the layer that the use reads when it names none.
    """
    word = use.entries["block"].value
    block = known.get(str(word.value)) if isinstance(word, Scalar) else None
    if block is None:
        text = word.raw if isinstance(word, Scalar) else "that"
        close = get_close_matches(text, known, 1)
        faults.append(
            Diagnostic(
                "block/unknown",
                f"{name}: there is no block {text}",
                word.place,
                help=f"did you mean {close[0]}?"
                if close
                else f"the blocks are: {', '.join(known) or 'none'}",
            )
        )
        return {}
    wanted = _names(block.get("parameters"))
    given = {k: e.value for k, e in use.entries.items() if k not in ("block", "inputs")}
    for key in given:
        if key not in wanted:
            message = f"{name}: the block {word.raw} has no parameter {key}"  # type: ignore[union-attr]
            close = get_close_matches(key, wanted, 1)
            help = (
                f"did you mean {close[0]}?" if close else f"it has: {', '.join(wanted) or 'none'}"
            )
            faults.append(Diagnostic("block/parameter", message, use.entries[key].key, help=help))
    if missing := [key for key in wanted if key not in given]:
        message = f"{name}: the block {word.raw} needs {', '.join(missing)}"  # type: ignore[union-attr]
        faults.append(Diagnostic("block/parameter", message, word.place))
        return {}

    layers = block.entries["layers"].value
    assert isinstance(layers, Mapping)
    # Names inside the block are local; `input` is whatever the use reads.
    local = {inner: f"{name}/{inner}" for inner in layers.entries}
    source = use.entries.get("inputs")
    if source is not None and not isinstance(source.value, Scalar):
        message = f"{name}: a block reads one layer"
        faults.append(Diagnostic("block/inputs", message, source.value.place))
        return {}
    flows_in = source.value if source is not None else Scalar(before, before, entry.key)
    written: dict[str, Entry] = {}
    for position, (inner, layer) in enumerate(layers.entries.items()):
        value = _substitute(layer.value, given, name, faults)
        value = _inner_inputs(value, local, name, flows_in, faults)
        if position == 0 and source is not None and "inputs" not in _entries(value):
            value = _with_inputs(value, source)
        written[local[inner]] = Entry(entry.key, value)
    return written


def _entries(node: Node) -> dict[str, Entry]:
    return node.entries if isinstance(node, Mapping) else {}


def _with_inputs(layer: Node, source: Entry) -> Node:
    if isinstance(layer, Mapping):
        return Mapping(layer.entries | {"inputs": source}, layer.place, layer.size + 1)
    op = Entry(layer.place, layer)
    return Mapping({"op": op, "inputs": source}, layer.place, 3)


def _substitute(node: Node, given: dict[str, Node], use: str, faults: list[Diagnostic]) -> Node:
    """The node with every `$name` replaced by what the use gives."""
    if isinstance(node, Scalar):
        if not isinstance(node.value, str) or not node.value.startswith("$"):
            return node
        if node.value[1:] in given:
            return given[node.value[1:]]
        close = get_close_matches(node.value[1:], given, 1)
        faults.append(
            Diagnostic(
                "block/parameter",
                f"{use}: the block has no parameter {node.value[1:]}",
                node.place,
                help=f"did you mean ${close[0]}?" if close else None,
            )
        )
        return Scalar(1, "1", node.place)
    if isinstance(node, Listing):
        items = tuple(_substitute(item, given, use, faults) for item in node.items)
        return Listing(items, node.place, node.size)
    entries = {
        key: Entry(entry.key, _substitute(entry.value, given, use, faults))
        for key, entry in node.entries.items()
    }
    return Mapping(entries, node.place, node.size)


def _inner_inputs(
    layer: Node, local: dict[str, str], use: str, flows_in: Node, faults: list[Diagnostic]
) -> Node:
    """The layer with the names in its `inputs` made global."""
    if not isinstance(layer, Mapping) or "inputs" not in layer.entries:
        return layer
    entry = layer.entries["inputs"]

    def rename(node: Node) -> Node:
        if isinstance(node, Listing):
            return Listing(tuple(map(rename, node.items)), node.place, node.size)
        if not isinstance(node, Scalar) or not isinstance(node.value, str):
            return node
        if node.value == "input":
            return flows_in
        if node.value in local:
            return Scalar(local[node.value], node.value, node.place)
        close = get_close_matches(node.value, local, 1)
        faults.append(
            Diagnostic(
                "block/inputs",
                f"{use}: the block has no layer {node.value}",
                node.place,
                help=f"did you mean {close[0]}?"
                if close
                else "inside a block, `input` is what flows in",
            )
        )
        return Scalar(next(iter(local.values())), node.value, node.place)

    renamed = Entry(entry.key, rename(entry.value))
    return Mapping(layer.entries | {"inputs": renamed}, layer.place, layer.size)


def _rename_inputs(layer: Node, last: dict[str, str]) -> Node:
    """The layer with the uses that its `inputs` name replaced by their last layers."""
    if not isinstance(layer, Mapping) or "inputs" not in layer.entries:
        return layer
    entry = layer.entries["inputs"]
    renamed = Entry(entry.key, _rename(entry.value, last))
    return Mapping(layer.entries | {"inputs": renamed}, layer.place, layer.size)


def _rename(node: Node, names: dict[str, str]) -> Node:
    if isinstance(node, Listing):
        return Listing(tuple(_rename(i, names) for i in node.items), node.place, node.size)
    if isinstance(node, Scalar) and isinstance(node.value, str) and node.value in names:
        return Scalar(names[node.value], node.raw, node.place)
    return node
