"""Which nodes of a model are layers, and what each of them reads: worked out back from the outputs.

A layer of the spec language is often several nodes: a padding of its own before a convolution, a
product and a sum for a fully connected layer, thirty nodes for a response normalisation. `plan`
recognises these and says, for the node at the end of each, which tensors flow into it. Whatever is
never reached this way (the little programs that compute shapes) is no layer.
"""

from __future__ import annotations

from dataclasses import dataclass

from alexc.importers.onnx_model.model import Model, only
from alexc.importers.onnx_model.node import Node
from alexc.importers.onnx_model.response import Response, response


@dataclass(frozen=True, slots=True)
class Planned:
    """One layer to be: the node at its end, the tensors that flow into it, and its other nodes.

    `pad` is a padding before it, `product` the MatMul or Conv whose bias `node` adds, `rows` the
    first of two products with constants, of which `node` is the second.
    """

    node: Node
    sources: tuple[str, ...]
    pad: Node | None = None
    product: Node | None = None
    rows: Node | None = None
    response: Response | None = None

    @property
    def main(self) -> Node:
        """The node that says what the layer is."""
        return self.product or self.node


def plan(model: Model, outputs: list[str]) -> dict[int, Planned]:
    """The layers that lead to these tensors, by the index of the node at their end."""
    planned: dict[int, Planned] = {}
    waiting = list(outputs)
    while waiting:
        node = model.producers.get(waiting.pop())
        if node is None or node.index in planned:
            continue
        planned[node.index] = _planned(model, node)
        waiting += planned[node.index].sources
    return planned


def _planned(model: Model, node: Node) -> Planned:
    match node.op:
        case "Div" | "Mul":
            if (found_response := response(model, node)) is not None:
                return Planned(node, (found_response.source,), response=found_response)
        case "Add":
            if (found := _biased(model, node)) is not None:
                return found
        case "Conv" | "MaxPool" | "AveragePool":
            return _padded(model, node, node)
        case "MatMul":
            rows = model.producers.get(node.input(0))
            if rows is not None and rows.op == "MatMul" and model.is_constant(rows.input(0)):
                return Planned(node, (rows.input(1),), rows=rows)
        case _:
            pass
    sources = tuple(name for name in node.inputs if name and not model.is_constant(name))
    # Of these only the first input is data; the others, if they are computed, tell sizes.
    if node.op in ("Reshape", "Dropout", "Pad", "Squeeze", "ReduceMean", "BatchNormalization"):
        sources = sources[:1]
    return Planned(node, sources)


def _padded(model: Model, node: Node, end: Node) -> Planned:
    """A convolution or pooling, with the padding before it if nothing else reads that."""
    product = node if node is not end else None
    pad = model.producers.get(node.input(0))
    if pad is None or pad.op != "Pad" or only(model.readers.get(pad.output, [])) is not node:
        return Planned(end, (node.input(0),), product=product)
    if pad.output in model.outputs:
        return Planned(end, (node.input(0),), product=product)
    return Planned(end, (pad.input(0),), pad=pad, product=product)


def _biased(model: Model, node: Node) -> Planned | None:
    """A MatMul or Conv without a bias of its own, and the sum with a constant that is its bias."""
    if len(node.inputs) != 2:
        return None
    for position in (0, 1):
        product = model.producers.get(node.input(position))
        other = node.input(1 - position)
        if product is None or product.op not in ("MatMul", "Conv", "Gemm"):
            continue
        if product.op != "MatMul" and product.input(2):
            continue
        alone = only(model.readers.get(product.output, [])) is node
        if alone and product.output not in model.outputs and model.is_constant(other):
            if product.op == "Conv":
                return _padded(model, product, node)
            return Planned(node, (product.input(0),), product=product)
    return None
