"""What a spec says of its layers by name, held against the graph: `expect:` and `precision:`."""

from __future__ import annotations

from alexc.diagnostics import Diagnostic
from alexc.graph.graph import Graph, Node
from alexc.ops.base import format_shape
from alexc.ops.conv import Conv
from alexc.ops.pool import AvgPool, MaxPool
from alexc.ops.structure import Flatten
from alexc.spec.names import Names, clip
from alexc.spec.parse import Spec

_MOST_NAMED = 3


def check_facts(spec: Spec, graph: Graph) -> list[Diagnostic]:
    """A Diagnostic for every expected fact that is not so, at the line that states it."""
    expect = spec.header.expect
    faults: list[Diagnostic] = []
    names = Names(graph.by_name)
    explained = 0  # parameters too many in the layers that have faults of their own
    for name, count in expect.layer_parameters.items():
        if (node := graph.by_name.get(name)) is None:
            faults.append(_unknown(spec, graph, names, "layer_parameters", name))
        elif node.parameter_count != count:
            explained += node.parameter_count - count
            faults.append(
                Diagnostic(
                    "expect/layer-parameters",
                    f"{name}: {count:,} parameters are expected and there are "
                    f"{node.parameter_count:,}",
                    spec.place("expect", "layer_parameters", name),
                    notes=(_count(node),),
                )
            )
    for name, shape in expect.shapes.items():
        if (node := graph.by_name.get(name)) is None:
            faults.append(_unknown(spec, graph, names, "shapes", name))
        elif node.shape != shape:
            faults.append(
                Diagnostic(
                    "expect/shape",
                    f"{name}: {format_shape(shape)} is expected and it is "
                    f"{format_shape(node.shape)}",
                    spec.place("expect", "shapes", name),
                    notes=_arithmetic(node),
                )
            )
    difference = graph.parameter_count - (expect.parameters or 0)
    # A layer with a fault of its own is the cause; the total that follows from it is not told.
    if expect.parameters is not None and difference and difference != explained:
        largest = sorted(graph.nodes, key=lambda node: -node.parameter_count)[:_MOST_NAMED]
        most = ", ".join(f"{n.name} {n.parameter_count:,}" for n in largest if n.parameter_count)
        faults.append(
            Diagnostic(
                "expect/parameters",
                f"{expect.parameters:,} parameters are expected and there are "
                f"{graph.parameter_count:,} ({difference:+,})",
                spec.place("expect", "parameters"),
                notes=(f"most are in {most}",) if most else (),
            )
        )
    if expect.macs is not None and expect.macs != graph.macs:
        largest = sorted(graph.nodes, key=lambda node: -node.macs)[:_MOST_NAMED]
        most = ", ".join(f"{n.name} {n.macs:,}" for n in largest if n.macs)
        faults.append(
            Diagnostic(
                "expect/macs",
                f"{expect.macs:,} multiply–accumulates are expected and there are "
                f"{graph.macs:,} ({graph.macs - expect.macs:+,})",
                spec.place("expect", "macs"),
                notes=(f"most are in {most}",) if most else (),
            )
        )
    return faults


def check_precisions(spec: Spec, graph: Graph) -> list[Diagnostic]:
    """A Diagnostic for every name in `precision:` that is no layer's."""
    names = Names(graph.by_name)
    return [
        Diagnostic(
            "precision/unknown-layer",
            f"a precision is given of {clip(name)}, but there is no such layer",
            spec.place("precision", name, key=True),
            help=_layer_meant(graph, names, name),
        )
        for name in spec.header.precision
        if name not in graph.by_name
    ]


def _unknown(spec: Spec, graph: Graph, names: Names, table: str, name: str) -> Diagnostic:
    return Diagnostic(
        "expect/unknown-layer",
        f"a fact is stated of {clip(name)}, but there is no such layer",
        spec.place("expect", table, name, key=True),
        help=_layer_meant(graph, names, name),
    )


def _layer_meant(graph: Graph, names: Names, name: str) -> str | None:
    """What a name that is no layer's was meant to be."""
    inside = [layer for layer in graph.by_name if layer.startswith(f"{name}/")]
    if inside:
        return f"{name} is a use of a block; its last layer is {inside[-1]}"
    return names.did_you_mean(name)


def _count(node: Node) -> str:
    """`weight 96×3×11×11 = 34,848 and bias 96`."""
    parts = []
    for name, parameter in node.parameters.items():
        if parameter.trainable:
            product = f" = {parameter.count:,}" if len(parameter.shape) > 1 else ""
            parts.append(f"{name} {format_shape(parameter.shape)}{product}")
    reads = format_shape(node.input_shapes[0])
    if not parts:
        return f"{node.op.kind} has none that are trained"
    return f"on {reads} that is {' and '.join(parts)}"


def _arithmetic(node: Node) -> tuple[str, ...]:
    """How the shape comes about, with its numbers."""
    if isinstance(node.op, Conv | MaxPool | AvgPool):
        rows, columns = node.op.axes(node.input_shapes[0])
        if rows.arithmetic == columns.arithmetic:
            return (f"rows and columns: {rows.arithmetic}",)
        return tuple(f"{axis.name}: {axis.arithmetic}" for axis in (rows, columns))
    inputs = ", ".join(
        f"{format_shape(shape)} from {source}"
        for source, shape in zip(node.inputs[:_MOST_NAMED], node.input_shapes, strict=False)
    )
    product = ""
    if isinstance(node.op, Flatten):
        product = f", and {'·'.join(map(str, node.input_shapes[0]))} = {node.shape[0]}"
    return (f"{node.op.kind} reads {inputs}{product}",)
