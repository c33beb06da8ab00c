"""How two nets differ: layers, what they do, their shapes, parameters and MACs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from alexc.graph.graph import Graph, Node
from alexc.ops.base import format_shape


@dataclass(frozen=True, slots=True)
class LayerChange:
    """One layer that is not the same in both nets; `before` and `after` are what differs in it."""

    layer: str
    change: Literal["added", "removed", "changed"]
    before: dict[str, Any]
    after: dict[str, Any]


def diff(old: Graph, new: Graph) -> list[LayerChange]:
    """Every layer that differs, in the order of the new net, removed ones where they stood."""
    changes = []
    for name in _merged_order(old, new):
        before, after = old.by_name.get(name), new.by_name.get(name)
        if before is None and after is not None:
            changes.append(LayerChange(name, "added", {}, _facts(after)))
        elif after is None and before is not None:
            changes.append(LayerChange(name, "removed", _facts(before), {}))
        elif before is not None and after is not None:
            # Of one op all fields are compared, so that a default is shown where the other differs.
            same = before.op.kind == after.op.kind
            was, now = _facts(before, all_fields=same), _facts(after, all_fields=same)
            keys = [key for key in {**was, **now} if was.get(key) != now.get(key)]
            if keys:
                pick = {key: was[key] for key in keys if key in was}
                changes.append(
                    LayerChange(
                        name, "changed", pick, {key: now[key] for key in keys if key in now}
                    )
                )
    return changes


def _facts(node: Node, *, all_fields: bool = False) -> dict[str, Any]:
    """What a reader compares: the op, its fields (or those that aren't defaults), inputs, sizes."""
    fields = node.op.model_dump(mode="json", exclude_defaults=not all_fields)
    facts = {"op": node.op.kind, **fields, "inputs": ", ".join(node.inputs)}
    facts["output"] = format_shape(node.shape)
    if node.parameter_count:
        facts["parameters"] = node.parameter_count
    if node.macs:
        facts["macs"] = node.macs
    return facts


def _merged_order(old: Graph, new: Graph) -> list[str]:
    """The new net's layers in order, each removed one after the layer that it followed."""
    order = [node.name for node in new.nodes]
    known = set(order)
    before = ""
    for node in old.nodes:
        if node.name not in known:
            order.insert(order.index(before) + 1 if before else 0, node.name)
        before = node.name
    return order
