"""`alexc new`: start a variant of a spec."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from alexc.cli.terminal import JsonOption, print_json
from alexc.diagnostics import AlexcError, usage_fault
from alexc.files import resolved, whole_file
from alexc.frontend import Net, load_net
from alexc.ops.base import format_shape
from alexc.ops.conv import Conv
from alexc.ops.norm import Lrn
from alexc.ops.pointwise import Dropout
from alexc.spec.paths import project_root
from alexc.spec.write import to_flow

# The language's schema, which editors complete from, where a project keeps it.
_SCHEMA = Path("docs") / "alexc.schema.json"

_TEMPLATE = """\
{modeline}alexc: 1
name: {name}
extends: {base}
source: a variant of {parent}
description: what it is for

# Write only what differs from {parent}. For example:
#
#   layers:
#     {layer}: {change}
#     {spare}: null
#     extra: {{op: relu, after: {layer}}}
#
# changes a field, removes a layer, and puts a new one in.
# `alexc diff {typed_base} {typed}` shows what came of it.

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
    _refuse_bad_name(name)
    net = load_net(base)
    path = out if out is not None else base.parent / f"{name}.yaml"
    _write(path, _text(name, base, path, net))
    try:
        load_net(path)
    except AlexcError:  # a file in another project, say, that may not extend this one
        path.unlink()
        raise
    if json:
        print_json({"file": str(path), "extends": str(base)})
    else:
        shape = format_shape(net.graph.input_shape)
        print(f"{path}: a variant of {net.graph.name} ({shape}); say in it what differs")


def _text(name: str, base: Path, path: Path, net: Net) -> str:
    nodes = net.graph.nodes
    layer = next((node for node in nodes if isinstance(node.op, Conv)), nodes[0])
    op = layer.op
    change = {"out_channels": 2 * op.out_channels} if isinstance(op, Conv) else {"op": "tanh"}
    # What a net works without, if there is such a layer: its last one rarely is.
    spare = next((node for node in nodes if isinstance(node.op, Lrn | Dropout)), nodes[-1])
    folder = resolved(path).parent
    schema = project_root(path) / _SCHEMA
    modeline = ""
    if schema.is_file():
        modeline = f"# yaml-language-server: $schema={_relative(schema, folder)}\n"
    return _TEMPLATE.format(
        modeline=modeline,
        name=to_flow(name),
        base=to_flow(_relative(resolved(base), folder)),
        parent=net.graph.name,
        layer=layer.name,
        change=to_flow(change),
        spare=spare.name,
        typed_base=base,
        typed=path,
        parameters=net.graph.parameter_count,
    )


def _relative(file: Path, folder: Path) -> str:
    return Path(os.path.relpath(file, folder)).as_posix()


def _write(path: Path, text: str) -> None:
    if path.exists():
        raise usage_fault(
            "new/exists", f"{path} exists already", help="choose another name, or remove it"
        )
    with whole_file(path) as file:
        file.write(text.encode())


def _refuse_bad_name(name: str) -> None:
    if not name or not all(c.isalnum() or c in "_.-" for c in name) or name[0] in ".-":
        raise usage_fault(
            "new/name",
            f"{name!r} can't name a net",
            help="letters, digits, _, . and -, a letter, digit or _ first",
        )
