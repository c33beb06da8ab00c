"""`alexc inspect`: the net as a table, and as a drawing; and what is in a bundle."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from alexc.cli.terminal import (
    JsonOption,
    bytes_in_words,
    console,
    print_diagnostics,
    print_json,
)
from alexc.diagnostics import usage_fault
from alexc.frontend import Net, load_net
from alexc.graph.graph import Graph
from alexc.graph.receptive import receptive_fields
from alexc.ops.base import format_shape
from alexc.spec.write import to_yaml

_FLOAT_BYTES = 4  # of fp32, in which weights are stored and activations computed


def inspect(
    spec: Annotated[
        Path, typer.Argument(metavar="SPEC|BUNDLE", help="The spec file, or a bundle's folder.")
    ],
    resolved: Annotated[
        bool,
        typer.Option("--resolved", help="Print the spec with `extends` and blocks written out."),
    ] = False,
    diagram: Annotated[
        Path | None,
        typer.Option("--diagram", metavar="FILE.svg", help="Draw the net, too, as SVG."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show every layer: op, output shape, parameters, MACs, activation memory, receptive field.

    Of a bundle: what it is, its engines and their layers, what was verified, and its files.
    """
    if spec.is_dir():
        if resolved or diagram is not None:
            raise usage_fault("inspect/bundle", "--resolved and --diagram are of a spec")
        from alexc.cli.inspect_bundle import inspect_bundle

        inspect_bundle(spec, json)
        return
    net = load_net(spec)
    if diagram is not None:
        _write_diagram(net.graph, diagram)
    if resolved:
        data = net.spec.to_json()
        print_json(data) if json else print(to_yaml(data), end="")
        return
    if json:
        print_json(_as_json(net))
        return
    print_diagnostics(net.warnings)
    _print_table(net)


def _write_diagram(graph: Graph, path: Path) -> None:
    """Write the drawing, whole or not at all, and say so on stderr."""
    # Imported here: drawing is what most calls don't do.
    from alexc.files import whole_file
    from alexc.graph.diagram import svg

    if path.is_dir():
        raise usage_fault(
            "inspect/diagram",
            f"{path} is a directory, and --diagram names the file to write",
            help=f"--diagram {path / graph.name}.svg",
        )
    if path.exists() and not _is_drawing(path):
        raise usage_fault(
            "inspect/diagram",
            f"{path} exists and is no SVG file",
            help="--diagram replaces drawings only; name another file",
        )
    with whole_file(path) as file:
        file.write(svg(graph).encode())
    print(f"{path}: a drawing of {graph.name}", file=sys.stderr)


def _is_drawing(path: Path) -> bool:
    """Whether the file may be replaced by a drawing: it is one, or empty."""
    try:
        with path.open("rb") as file:
            start = file.read(1024)
    except OSError:
        return False
    return not start or b"<svg" in start


def _as_json(net: Net) -> dict[str, Any]:
    graph = net.graph
    fields = receptive_fields(graph)
    return {
        "name": graph.name,
        "digest": graph.digest(),
        "input_shape": list(graph.input_shape),
        "outputs": list(graph.outputs),
        "parameters": graph.parameter_count,
        "macs": graph.macs,
        "weight_bytes": _FLOAT_BYTES * sum(p.count for p in graph.parameters.values()),
        "activation_bytes": _FLOAT_BYTES * sum(math.prod(node.shape) for node in graph.nodes),
        "layers": [
            {
                "name": node.name,
                "op": node.op.kind,
                "inputs": list(node.inputs),
                "shape": list(node.shape),
                "parameters": node.parameter_count,
                "macs": node.macs,
                "activation_bytes": _FLOAT_BYTES * math.prod(node.shape),
                "receptive_field": list(fields[node.name]),
            }
            for node in graph.nodes
        ],
    }


def _print_table(net: Net) -> None:
    from rich.text import Text

    from alexc.cli.tables import show, table

    graph = net.graph
    fields = receptive_fields(graph)
    weights = _FLOAT_BYTES * sum(p.count for p in graph.parameters.values())
    activations = _FLOAT_BYTES * sum(math.prod(node.shape) for node in graph.nodes)
    branches = ["inputs"] if any(len(node.inputs) > 1 for node in graph.nodes) else []
    figures = ("output", "parameters", "MACs", "activations", "sees")
    footers = {
        "layer": "total",
        "parameters": f"{graph.parameter_count:,}",
        "MACs": f"{graph.macs:,}",
        "activations": bytes_in_words(activations),
    }
    layers = table("layer", "op", *branches, *figures, figures=figures, footers=footers)
    given = bytes_in_words(_FLOAT_BYTES * math.prod(graph.input_shape))
    blank = [""] * len(branches)
    layers.add_row(
        "input", "", *blank, format_shape(graph.input_shape), "", "", given, "", style="dim"
    )
    for node in graph.nodes:
        layers.add_row(
            node.name,
            node.op.kind,
            *[", ".join(node.inputs) for _ in branches],
            format_shape(node.shape),
            f"{node.parameter_count:,}" if node.parameter_count else "",
            f"{node.macs:,}" if node.macs else "",
            bytes_in_words(_FLOAT_BYTES * math.prod(node.shape)),
            format_shape(fields[node.name]),
        )
    out = console()
    out.print(Text.assemble((graph.name, "bold"), f"  {net.spec.header.source or ''}".rstrip()))
    left_out = show(out, layers, spare=("sees", "activations", "inputs"))
    said = [f"weights {bytes_in_words(weights)} in fp32", "MACs and activations are of one image"]
    if "sees" not in left_out:
        said.append("“sees” is the receptive field in pixels")
    out.print("; ".join(said))
