"""`alexc import`: a net that another tool wrote, as a spec with its weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alexc.cli.terminal import JsonOption, console, print_diagnostics, print_json
from alexc.diagnostics import to_json, usage_fault
from alexc.ops.base import format_shape

if TYPE_CHECKING:
    from alexc.importers.writer import Imported
    from alexc.ops.base import Shape


def import_(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="Caffe: .prototxt (a net's or a solver's) or .caffemodel; ONNX: .onnx; PyTorch: "
            ".pth, .pt or .safetensors; the 2012 release: a layer file, .cfg.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", metavar="SPEC", help="Where the spec goes; its weights go beside."),
    ],
    weights: Annotated[
        Path | None,
        typer.Option("--weights", metavar="FILE", help="Trained weights in a file of their own."),
    ] = None,
    partial: Annotated[
        str | None,
        typer.Option("--partial", metavar="LAYER", help="Import the net up to this layer only."),
    ] = None,
    input_shape: Annotated[
        str | None,
        typer.Option(
            "--input", metavar="C,H,W", help="The input's size, where the file doesn't say it."
        ),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(
            "--mean", metavar="FILE|B,G,R", help="Caffe: the mean image, or the mean of channels."
        ),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option("--like", metavar="SPEC", help="PyTorch: the net that the weights are of."),
    ] = None,
    params: Annotated[
        Path | None,
        typer.Option(
            "--params",
            metavar="FILE",
            help="2012 release: the layers' parameters; default: layer-params… beside the layers.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the spec and the weights if they exist.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Turn a net of another tool into a spec, with its weights if they are at hand.

    What a spec can't say is refused, all of it at once, with its line. The weights go to
    NAME.safetensors beside the spec: `alexc build SPEC --weights NAME.safetensors` takes them.
    """
    from alexc.importers.foreign import Request
    from alexc.importers.formats import read_foreign
    from alexc.importers.writer import write

    request = Request(weights, _shape(input_shape), mean, partial, like, params)
    imported = write(read_foreign(file, request), out, replace=force)
    print_diagnostics(imported.foreign.warnings)
    if json:
        print_json(_as_json(imported))
    else:
        _print_table(imported)


def _shape(text: str | None) -> Shape | None:
    """`3,227,227` (or `3x227x227`) as a shape."""
    if text is None:
        return None
    parts = text.replace("×", ",").replace("x", ",").split(",")
    if len(parts) != 3 or not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise usage_fault(
            "import/input", f"--input {text!r} is no size", help="for example --input 3,227,227"
        )
    return tuple(int(part) for part in parts)


def _as_json(imported: Imported) -> dict[str, Any]:
    graph = imported.net.graph
    return {
        "spec": str(imported.spec),
        "weights": str(imported.weights) if imported.weights else None,
        "format": imported.foreign.tool,
        "name": imported.net.spec.name,
        "input_shape": list(graph.input_shape),
        "outputs": list(graph.outputs),
        "parameters": graph.parameter_count,
        "macs": graph.macs,
        "digest": graph.digest(),
        "layers": [
            {
                "source": row.origin.name,
                "type": row.origin.type,
                "line": row.origin.place.line if row.origin.place else None,
                "layer": row.layer,
                "op": graph.by_name[row.layer].op.kind if row.layer else None,
                "shape": list(graph.shapes[row.layer]) if row.layer else None,
                "weights": {
                    whole: list(graph.parameters[whole].shape)
                    for whole in graph.by_name[row.layer].parameter_names().values()
                }
                if row.layer
                else {},
                "note": row.note,
            }
            for row in imported.foreign.rows
        ],
        "diagnostics": [to_json(d) for d in (*imported.foreign.warnings, *imported.net.warnings)],
    }


def _print_table(imported: Imported) -> None:
    """Every layer of the foreign file with what became of it."""
    from rich.text import Text

    from alexc.cli.tables import show, table

    graph, tool = imported.net.graph, imported.foreign.tool
    layers = table(
        *(tool, "type", "layer", "op", "output", "parameters", "weights"),
        figures=("output", "parameters"),
        footers={tool: "total", "parameters": f"{graph.parameter_count:,}"},
    )
    for row in imported.foreign.rows:
        node = graph.by_name.get(row.layer) if row.layer else None
        cells = ["", "", "", "", row.note]
        if node is not None:
            shapes = ", ".join(format_shape(p.shape) for p in node.parameters.values())
            count = f"{node.parameter_count:,}" if node.parameter_count else ""
            shown = "  ".join(filter(None, [shapes, row.note]))
            cells = [node.name, node.op.kind, format_shape(node.shape), count, shown]
        layers.add_row(row.origin.name, row.origin.type, *cells)
    out = console()
    out.print(Text.assemble((graph.name, "bold"), f"  input {format_shape(graph.input_shape)}"))
    show(out, layers)
    print(f"{imported.spec}: {len(graph.nodes)} layers")
    if warnings := len(imported.net.warnings):
        plural = "s" * (warnings > 1)
        print(f"  {warnings} warning{plural} of its own: alexc check {imported.spec}")
    if imported.weights is not None:
        size = sum(math.prod(p.shape) for p in graph.parameters.values())
        print(f"{imported.weights}: {size:,} numbers, all finite, in the shapes of the spec")
        print(f"next: alexc build {imported.spec} --weights {imported.weights}")
