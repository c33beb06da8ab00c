"""The shortest time that a net can take on this machine, from its numbers and measured rates.

A layer with parameters reads each of its weights once a batch, and multiplies: it takes at least

    max(weight bytes / read rate, multiply–accumulates · batch / matrix rate)

and a net, layer after layer, at least the sum. Everything else is taken to cost nothing: the images
and what flows between layers (it stays in the caches), pooling, normalisation, and the rounding
between formats. Where all weights fit into the last cache, reading them is free, too. An algorithm
that needs fewer products than the definition (Winograd's for 3×3 kernels) can be faster.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from alexc.graph.graph import Graph, Node

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}

# Precisions whose operands are as large as those of another, and are multiplied as fast.
_LIKE = {"u8s8": "int8"}


@dataclass(frozen=True)
class Limit:
    """The bound of one layer or net, in milliseconds a batch."""

    memory_ms: float
    compute_ms: float
    total_ms: float


def numbers(precision: str) -> str:
    """The precision by whose numbers this one is bound."""
    return _LIKE.get(precision, precision)


def layer_limits(
    graph: Graph, rates: Mapping[str, float], precision: str, batch: int, cache_bytes: int | None
) -> dict[str, Limit] | None:
    """The bound of each layer with parameters, by name. None for a precision without a rate."""
    precision = numbers(precision)
    if precision not in rates or precision not in BYTES:
        return None
    weighing = [node for node in graph.nodes if node.macs]
    cached = sum(map(_weights, weighing)) * BYTES[precision] <= (cache_bytes or 0)
    limits = {}
    for node in weighing:
        read = 0.0 if cached else _weights(node) * BYTES[precision] / rates["read"]
        multiplied = node.macs * batch / rates[precision]
        limits[node.name] = Limit(read * 1e3, multiplied * 1e3, max(read, multiplied) * 1e3)
    return limits


def net_limit(limits: Mapping[str, Limit]) -> Limit:
    """The bound of the net: its layers one after the other."""
    return Limit(
        sum(limit.memory_ms for limit in limits.values()),
        sum(limit.compute_ms for limit in limits.values()),
        sum(limit.total_ms for limit in limits.values()),
    )


def _weights(node: Node) -> int:
    return sum(prod(parameter.shape) for parameter in node.parameters.values())
