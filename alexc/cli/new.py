"""`alexc new`: start a variant of a spec."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from alexc.cli.terminal import JsonOption, print_json
from alexc.diagnostics import usage_fault
from alexc.frontend import load_net
from alexc.ops.base import format_shape
from alexc.ops.conv import Conv

_TEMPLATE = """\
alexc: 1
name: {name}
extends: {base}
source: a variant of {parent}
description: what it is for

# Write only what differs from {base_name}. For example:
#
#   layers:
#     {layer}: {{{field}}}          # change a field
#     {other}: null                 # remove a layer
#     my_relu: {{op: relu, after: {layer}}}   # put one in
#
# `alexc diff {base} {file}` shows what came of it.

expect:
  parameters: {parameters}
"""


def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The variant's name.")],
    base: Annotated[Path, typer.Option("--from", metavar="SPEC", help="The spec to vary.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Where to write it; default: beside SPEC."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Write a new spec that extends another, ready to be changed. It passes `alexc check`."""
    net = load_net(base)
    path = out if out is not None else base.parent / f"{name}.yaml"
    _refuse_bad_name(name)
    nodes = net.graph.nodes
    layer = next((node for node in nodes if isinstance(node.op, Conv)), nodes[0])
    op = layer.op
    field = f"out_channels: {2 * op.out_channels}" if isinstance(op, Conv) else f"op: {op.kind}"
    text = _TEMPLATE.format(
        name=name,
        base=Path(os.path.relpath(base.resolve(), path.resolve().parent)).as_posix(),
        base_name=base.name,
        parent=net.graph.name,
        layer=layer.name,
        field=field,
        other=nodes[-1].name,
        file=path.name,
        parameters=net.graph.parameter_count,
    )
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise usage_fault(
            "new/exists", f"{path} exists already", help="choose another name, or remove it"
        ) from None
    except OSError as error:
        raise usage_fault("new/unwritable", f"{path}: {error.strerror}") from None
    shape = format_shape(net.graph.input_shape)
    if json:
        print_json({"file": str(path), "extends": str(base)})
    else:
        print(f"{path}: a variant of {net.graph.name} ({shape}); say what differs in it")


def _refuse_bad_name(name: str) -> None:
    if not name or not all(c.isalnum() or c in "_.-" for c in name) or name[0] in ".-":
        raise usage_fault(
            "new/name",
            f"{name!r} can't name a net",
            help="letters, digits, _, . and -, a letter or digit first",
        )
