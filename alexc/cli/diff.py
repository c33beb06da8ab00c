"""`alexc diff`: how two nets differ."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from alexc.cli.terminal import JsonOption, console, print_json
from alexc.frontend import load_net
from alexc.graph.diff import LayerChange
from alexc.graph.diff import diff as compare
from alexc.ops.base import format_shape
from alexc.spec.write import to_flow


def diff(
    before: Annotated[Path, typer.Argument(metavar="A", help="The spec to compare with.")],
    after: Annotated[Path, typer.Argument(metavar="B", help="The spec that differs.")],
    json: JsonOption = False,
) -> None:
    """Say how net B differs from net A: layers, fields, shapes, parameters, MACs.

    Exit status 0 whether they differ or not; 1 if one of the specs is at fault.
    """
    old, new = load_net(before).graph, load_net(after).graph
    changes = compare(old, new)
    same = old.digest() == new.digest()
    totals = {
        "parameters": [old.parameter_count, new.parameter_count],
        "macs": [old.macs, new.macs],
    }
    ends = {
        "input": [format_shape(old.input_shape), format_shape(new.input_shape)],
        "outputs": [", ".join(old.outputs), ", ".join(new.outputs)],
    }
    if json:
        layers = [asdict(change) for change in changes]
        print_json({"a": old.name, "b": new.name, "same": same, **ends, **totals, "layers": layers})
        return
    out = console()
    if same:
        out.print(f"{old.name} and {new.name} are the same net")
        return
    if changes:
        _print_changes(changes)
    for name, (earlier, later) in ends.items():
        if earlier != later:
            out.print(f"{name:<10} {earlier} → {later}")
    for name, (was, now) in totals.items():
        change = f"{was:,} → {now:,} ({now - was:+,})" if was != now else f"{now:,} in both"
        out.print(f"{name:<10} {change}")


def _print_changes(changes: list[LayerChange]) -> None:
    from rich.text import Text

    from alexc.cli.tables import show, table

    layers = table("", "layer", "before", "after")
    signs = {
        "added": Text("+", "green"),
        "removed": Text("-", "red"),
        "changed": Text("~", "yellow"),
    }
    for change in changes:
        keys = list(dict.fromkeys([*change.before, *change.after]))
        layers.add_row(
            signs[change.change],
            change.layer,
            _lines(change.before, keys),
            _lines(change.after, keys),
        )
    show(console(), layers)


def _lines(facts: dict[str, Any], keys: list[str]) -> str:
    """One fact a line, in the same order on both sides."""
    return "\n".join(f"{key}: {_shown(facts[key])}" if key in facts else "" for key in keys)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        top, left, bottom, right = (value.get(side) for side in ("top", "left", "bottom", "right"))
        if None not in (top, left) and (top, left) == (bottom, right):
            return f"{top}×{left}"
        return ", ".join(f"{key} {item}" for key, item in value.items())
    if isinstance(value, list):
        return "×".join(map(str, value))
    if value is None or isinstance(value, bool):
        return to_flow(value)
    return f"{value:,}" if isinstance(value, int) else str(value)
