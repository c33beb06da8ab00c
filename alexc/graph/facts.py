"""`expect:` — the facts that a spec's source states, held against the graph."""

from __future__ import annotations

from difflib import get_close_matches

from alexc.diagnostics import Diagnostic
from alexc.graph.graph import Graph
from alexc.ops.base import format_shape
from alexc.spec.parse import Spec


def check_facts(spec: Spec, graph: Graph) -> list[Diagnostic]:
    """A Diagnostic for every expected fact that is not so, at the line that states it."""
    expect = spec.header.expect
    faults: list[Diagnostic] = []

    def wrong(code: str, message: str, *path: str) -> None:
        faults.append(Diagnostic(code, message, spec.place("expect", *path)))

    if expect.parameters is not None and expect.parameters != graph.parameter_count:
        difference = graph.parameter_count - expect.parameters
        wrong(
            "expect/parameters",
            f"{expect.parameters:,} parameters are expected and there are "
            f"{graph.parameter_count:,} ({difference:+,})",
            "parameters",
        )
    if expect.macs is not None and expect.macs != graph.macs:
        wrong(
            "expect/macs",
            f"{expect.macs:,} multiply–accumulates are expected and there are {graph.macs:,}",
            "macs",
        )
    for name, count in expect.layer_parameters.items():
        if (node := graph.by_name.get(name)) is None:
            faults.append(_unknown(spec, graph, "layer_parameters", name))
        elif node.parameter_count != count:
            wrong(
                "expect/layer-parameters",
                f"{name}: {count:,} parameters are expected and there are {node.parameter_count:,}",
                "layer_parameters",
                name,
            )
    for name, shape in expect.shapes.items():
        if (node := graph.by_name.get(name)) is None:
            faults.append(_unknown(spec, graph, "shapes", name))
        elif node.shape != shape:
            wrong(
                "expect/shape",
                f"{name}: {format_shape(shape)} is expected and it is {format_shape(node.shape)}",
                "shapes",
                name,
            )
    return faults


def _unknown(spec: Spec, graph: Graph, table: str, name: str) -> Diagnostic:
    close = get_close_matches(name, graph.by_name, 1)
    return Diagnostic(
        "expect/unknown-layer",
        f"a fact is stated of {name}, but there is no such layer",
        spec.place("expect", table, name, key=True),
        help=f"did you mean {close[0]}?" if close else None,
    )
