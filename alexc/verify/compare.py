"""Holding what a backend computed against the reference, and saying where it first goes wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexc.graph.graph import Graph
from alexc.ops.base import Array, format_shape
from alexc.verify.report import Check, Divergence, Row


def compare(
    layer: str,
    backend: str,
    check: Check,
    got: NDArray[Any],
    expected: Array,
    tolerance: Array,
    peaks: Array | None = None,
    largest: float = math.inf,
) -> Row:
    """One tensor against the reference. `tolerance` broadcasts against `expected`.

    The row's tolerance is carried over to `max_abs`: the largest error passes exactly if every
    element is within its own tolerance. So tolerance / max_abs is the margin of the worst element.
    """

    def row(message: str | None, max_abs: float | None, rel_l2: float | None, bound: float) -> Row:
        passed = message is None and max_abs is not None and max_abs <= bound
        return Row(layer, backend, check, max_abs, rel_l2, bound, passed, message)

    allowed = np.broadcast_to(tolerance, expected.shape)
    widest = float(allowed.max(initial=0.0))
    widest = widest if math.isfinite(widest) else 0.0
    if got.shape != expected.shape:
        shapes = f"{format_shape(got.shape)} and not {format_shape(expected.shape)}"
        return row(f"the result has the shape {shapes}", None, None, widest)
    if not (np.isfinite(expected).all() and np.isfinite(allowed).all()):
        return row("the reference or its tolerance is not finite", None, None, 0.0)
    finite = np.isfinite(got)
    if not finite.all():
        message = _not_finite(got, finite, peaks, largest)
        magnitude = np.abs(expected)
        if ((allowed >= magnitude) & (magnitude > 0))[~finite].all():
            message += "; rounding alone may change every digit there"
        return row(message, None, None, widest)
    error = np.abs(got.astype(np.float64) - expected)
    max_abs = float(error.max(initial=0.0))
    norm = float(np.linalg.norm(expected))
    rel_l2 = float(np.linalg.norm(error)) / norm if norm > 0 else max_abs
    if max_abs == 0.0:
        return row(None, 0.0, 0.0, widest)
    with np.errstate(divide="ignore", invalid="ignore"):
        worst = float(np.nanmax(error / allowed))
    bound = max_abs / worst if math.isfinite(worst) else 0.0
    # Dividing twice must not turn the one into the other.
    bound = max(bound, max_abs) if worst <= 1 else min(bound, math.nextafter(max_abs, 0.0))
    return row(None, max_abs, rel_l2, bound)


def _not_finite(
    got: NDArray[Any], finite: NDArray[np.bool_], peaks: Array | None, largest: float
) -> str:
    image = int(np.argmin(finite.reshape(len(got), -1).all(axis=1)))
    what = "NaN" if np.isnan(got).any() else "infinity"
    message = f"{int((~finite).sum())} of {got.size} numbers are not finite ({what})"
    if peaks is not None and peaks[image] > largest:
        message += (
            f"; the reference passes through {peaks[image]:.3g}, and {largest:.3g} is the largest"
        )
    return message


# What is checked of a layer by itself, whatever the layers before it do.
_OF_A_LAYER: tuple[Check, ...] = ("shapes", "parameters", "alone", "provoked")


def first_divergence(graph: Graph, rows: Sequence[Row]) -> Divergence | None:
    """The first layer, in the order of the graph, at which any backend goes wrong.

    A layer that fails on its own, with inputs of the reference, is at fault itself. One that fails
    only in the whole net has inherited the fault if one of its inputs fails too; if none does, its
    inputs are not the ones that the graph says, or the backend treats it otherwise in company.
    """
    failed: dict[str, list[Row]] = {}
    for row in rows:
        if not row.passed:
            failed.setdefault(row.layer, []).append(row)
    order = [node.name for node in graph.nodes]
    for layer in [*order, *(name for name in failed if name not in order)]:
        if layer not in failed:
            continue
        own = [row for row in failed[layer] if row.check in _OF_A_LAYER]
        first = (own or failed[layer])[0]
        return Divergence(layer, first.backend, first.check, _kind(graph, layer, failed, bool(own)))
    return None


def _kind(graph: Graph, layer: str, failed: Mapping[str, list[Row]], own: bool) -> str:
    if own:
        return "local"
    node = graph.by_name.get(layer)
    backends = {row.backend for row in failed[layer]}
    sources = node.inputs if node else ()
    inherited = any(
        row.backend in backends and row.check == "end_to_end"
        for source in sources
        for row in failed.get(source, ())
    )
    return "inherited" if inherited else "wiring"
