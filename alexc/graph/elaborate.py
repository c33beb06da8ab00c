"""Spec → Graph: who reads whom, in which order, with which shapes.

Every fault is found in one go; a layer whose inputs are at fault is left unjudged, so that one
mistake gives one message.
"""

from __future__ import annotations

import heapq

from alexc.diagnostics import Diagnostic
from alexc.graph.graph import INPUT, Graph, Node, make_node
from alexc.ops.base import Op, Shape, ShapeFault, format_shape
from alexc.spec.parse import Layer, Spec

_MOST_NAMED = 8  # layers in one diagnostic


def elaborate(spec: Spec) -> tuple[Graph | None, list[Diagnostic]]:
    """The graph that the spec describes, or None and the faults that stand in the way."""
    faults: list[Diagnostic] = []
    if INPUT in spec.layers:  # a name that can't be given, which has been said
        return None, faults
    inputs = _wiring(spec.layers)
    order = _order(spec, inputs, faults)
    header = spec.header
    input_shape = (header.input.channels, header.input.height, header.input.width)
    shapes: dict[str, Shape | None] = {INPUT: input_shape}
    nodes: list[Node] = []
    for name in order:
        layer = spec.layers[name]
        sources = inputs[name]
        known = [shapes.get(source) for source in sources]
        shapes[name] = None
        if layer.op is None or not _arity_fits(spec, name, layer.op, sources, faults):
            continue
        fitting = [shape for shape in known if shape is not None]
        if len(fitting) < len(known):
            continue
        try:
            node = make_node(name, layer.op, sources, tuple(fitting))
        except ShapeFault as fault:
            faults.append(_shape_diagnostic(spec, name, sources, fitting, fault))
            continue
        shapes[name] = node.shape
        nodes.append(node)
    if faults or len(nodes) < len(spec.layers):
        return None, faults
    # An output that is no layer has been said to be none.
    outputs = tuple(dict.fromkeys(o for o in header.outputs or () if o in spec.layers))
    outputs = outputs or (next(reversed(spec.layers)),)
    graph = Graph(header.name, input_shape, tuple(nodes), outputs)
    return graph, faults


def _wiring(layers: dict[str, Layer]) -> dict[str, tuple[str, ...]]:
    """Every layer's inputs; a layer that names none reads the one before it in the file."""
    wiring = {}
    before = INPUT
    for name, layer in layers.items():
        wiring[name] = layer.inputs if layer.inputs is not None else (before,)
        before = name
    return wiring


def _order(spec: Spec, inputs: dict[str, tuple[str, ...]], faults: list[Diagnostic]) -> list[str]:
    """A topological order that keeps the file's where it can (Kahn's algorithm, stable)."""
    waiting = {name: sum(s in inputs for s in set(sources)) for name, sources in inputs.items()}
    readers: dict[str, list[str]] = {name: [] for name in inputs}
    for name, sources in inputs.items():
        for source in dict.fromkeys(sources):
            if source in readers:
                readers[source].append(name)
    position = {name: index for index, name in enumerate(inputs)}
    ready = [name for name in inputs if waiting[name] == 0]
    order: list[str] = []
    heap = [position[name] for name in ready]
    heapq.heapify(heap)
    names = list(inputs)
    while heap:
        name = names[heapq.heappop(heap)]
        order.append(name)
        for reader in readers[name]:
            waiting[reader] -= 1
            if waiting[reader] == 0:
                heapq.heappush(heap, position[reader])
    if len(order) < len(inputs):
        loop = _loop(inputs, {name for name in inputs if waiting[name] > 0})
        # A circle is closed by a layer that reads a later one, which only `inputs` can say.
        closing = next(i for i, name in enumerate(loop) if position[loop[i - 1]] >= position[name])
        loop = loop[closing:] + loop[:closing]
        place = spec.place("layers", loop[0], "inputs", inputs[loop[0]].index(loop[-1]))
        shown = loop if len(loop) <= _MOST_NAMED else [*loop[: _MOST_NAMED - 1], "…", loop[-1]]
        message = f"the layers read each other in a circle: {' → '.join([*shown, loop[0]])}"
        help = "a net runs from the input to its outputs; name an earlier layer in `inputs`"
        faults.append(Diagnostic("graph/cycle", message, place, help=help))
    return order


def _loop(inputs: dict[str, tuple[str, ...]], stuck: set[str]) -> list[str]:
    """One circle among the layers that could not be ordered, in the order of the data."""
    name = next(name for name in inputs if name in stuck)
    path: dict[str, None] = {}
    while name not in path:
        path[name] = None
        name = next(source for source in inputs[name] if source in stuck)
    walked = list(path)
    return walked[walked.index(name) :][::-1]


def _arity_fits(
    spec: Spec, name: str, op: Op, sources: tuple[str, ...], faults: list[Diagnostic]
) -> bool:
    count = len(sources)
    if count >= op.min_inputs and (op.max_inputs is None or count <= op.max_inputs):
        return True
    wanted = f"{op.min_inputs} or more" if op.max_inputs is None else f"{op.min_inputs}"
    message = f"{name}: {op.kind} takes {wanted} input{'s' * (wanted != '1')} and gets {count}"
    help = "name the layers that it reads: inputs: [left, right]"
    if count > op.min_inputs:
        help = "put an add or a concat before it, and read that"
    place = spec.place("layers", name, "inputs")
    if place is spec.place("layers", name):  # the wiring is the default's
        place = spec.place("layers", name, key=True)
    faults.append(Diagnostic("graph/inputs", message, place, help=help))
    return False


def _shape_diagnostic(
    spec: Spec, name: str, sources: tuple[str, ...], shapes: list[Shape], fault: ShapeFault
) -> Diagnostic:
    """The op's complaint, at the field to blame, with where each input comes from."""
    path = ("layers", name)
    place = spec.place(*path, fault.field) if fault.field else spec.place(*path, key=True)
    if fault.field and place == spec.place(*path):  # a default is to blame: show the layer
        place = spec.place(*path, key=True)
    notes = []
    # An input that is read twice comes from one place.
    for source, shape in list(dict(zip(sources, shapes, strict=True)).items())[:_MOST_NAMED]:
        if source == INPUT:
            origin = spec.place("input", key=True)
        else:
            origin = spec.place("layers", source, key=True)
        notes.append(f"{format_shape(shape)} comes from {source} ({origin.seen_from(place)})")
    return Diagnostic(
        fault.code, f"{name}: {fault.message}", place, notes=tuple(notes), help=fault.help
    )
