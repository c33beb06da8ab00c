"""What came of a race, as values of JSON: rows, limits, comparisons and layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from alexc.graph.graph import Graph
from alexc.ops.norm import BatchNorm
from alexc.ops.pointwise import Dropout, Relu, Sigmoid, Tanh
from alexc.plan.limit import layer_limits, net_limit, numbers
from alexc.plan.machine import Machine
from alexc.plan.measure import Result
from alexc.plan.timing import Comparison, compare

# A row's class: `exact` within what rounding in fp32 explains, `fast` within this of the reference
# in the Euclidean norm, else `coarse`.
FAST = 1e-2

_FIGURES = 4  # of what is measured

# What engines compute with the layer before it, and count as one or the other.
_FUSED = (Relu, Tanh, Sigmoid, BatchNorm, Dropout)


def result(
    graph: Graph,
    batches: Sequence[int],
    results: Sequence[Result],
    rates: Mapping[int, Mapping[str, float]],
    machine: Machine,
) -> dict[str, Any]:
    """The result of a benchmark, but for what only its course shows."""
    cache = machine.last_level_cache_bytes
    limits: list[dict[str, Any]] = []
    for batch in batches:
        for precision in ("fp32", "bf16", "int8"):
            by_layer = layer_limits(graph, rates.get(batch, {}), precision, batch, cache)
            if by_layer is not None:
                total = net_limit(by_layer)
                limits.append(
                    {
                        "precision": precision,
                        "batch": batch,
                        "ms": rounded(total.total_ms),
                        "memory_ms": rounded(total.memory_ms),
                        "compute_ms": rounded(total.compute_ms),
                    }
                )
    shortest = {(each["precision"], each["batch"]): each["ms"] for each in limits}
    rows = [
        row(each, batch, shortest.get((numbers(each.contestant.precision), batch)))
        for batch in batches
        for each in results
    ]
    return {
        "name": graph.name,
        "macs": graph.macs,
        "weight_bytes": 4 * sum(p.count for p in graph.parameters.values()),
        "machine": {
            **machine.to_json(),
            "rates": [
                {
                    "batch": batch,
                    "read_gb_per_s": rounded(found["read"] / 1e9),
                    "gmacs_per_s": {
                        name: rounded(rate / 1e9) for name, rate in found.items() if name != "read"
                    },
                }
                for batch, found in rates.items()
            ],
        },
        "rows": rows,
        "limits": limits,
        "comparisons": _comparisons(rows, batches),
        "layers": _layers(graph, results, rates, cache),
    }


def row(result: Result, batch: int, limit: float | None) -> dict[str, Any]:
    """The row of one contestant for one batch size; `limit` in milliseconds, if there is one."""
    contestant, times, error = result.contestant, result.times.get(batch), result.errors.get(batch)
    found: dict[str, Any] = {
        "engine": contestant.engine,
        "family": contestant.family,
        "precision": contestant.precision,
        "batch": batch,
        "note": contestant.note,
        "status": "measured",
        "class": None,
        "rel_l2": rounded(error.rel_l2) if error else None,
        "p50_ms": None,
        "p99_ms": None,
        "quartiles_ms": None,
        "runs": 0,
        "round_ms": [],
        "images_per_s": None,
        "limit_ms": limit if not contestant.gpu else None,
        "of_limit": None,
        "load_ms": rounded(result.load_ms),
        "cold_start_ms": rounded(result.cold_start_ms),
        "prepare_ms": rounded(result.prepare_ms),
        "peak_bytes": result.peak_bytes,
        "runtime_overhead": None,
        "runtime_overhead_interval": None,
    }
    if times is None:
        found["status"] = ("not run: " if result.missing else "failed: ") + (result.fault or "")
        return found
    if error is not None:
        found["class"] = "exact" if error.exact else "fast" if error.rel_l2 <= FAST else "coarse"
    found |= {
        "p50_ms": rounded(times.p50),
        "p99_ms": rounded(times.p99),
        "quartiles_ms": [rounded(each) for each in times.quartiles],
        "runs": len(times.runs),
        "round_ms": [rounded(each) for each in times.medians],
        "images_per_s": rounded(batch * 1e3 / times.p50),
    }
    if (overhead := result.overheads.get(batch)) is not None:
        found["runtime_overhead"] = rounded(overhead.ratio - 1)
        found["runtime_overhead_interval"] = [rounded(overhead.low - 1), rounded(overhead.high - 1)]
    if found["limit_ms"] is not None:
        found["of_limit"] = rounded(found["limit_ms"] / times.p50)
    return found


def _comparisons(rows: Sequence[Mapping[str, Any]], batches: Sequence[int]) -> list[dict[str, Any]]:
    """In each class and at each batch, our fastest against every peer.

    The class `exact` compares exact rows with exact ones, `fast` our fastest that is exact or fast
    with all peers that are.
    """
    found = []
    for batch in batches:
        for kind, classes in (("exact", ("exact",)), ("fast", ("exact", "fast"))):
            here = [row for row in rows if row["batch"] == batch and row["class"] in classes]
            own = [row for row in here if row["family"] == "ours"]
            if not own:
                continue
            best = min(own, key=lambda row: row["p50_ms"])
            for peer in (row for row in here if row["family"] == "peer"):
                if kind == "fast" and best["class"] == peer["class"] == "exact":
                    continue  # compared already
                result = comparison(best, peer)
                found.append(
                    {
                        "class": kind,
                        "batch": batch,
                        "ours": f"{best['engine']} {best['precision']}",
                        "peer": f"{peer['engine']} {peer['precision']}",
                        "times_as_fast": rounded(result.ratio),
                        "interval": [rounded(result.low), rounded(result.high)],
                        "verdict": result.verdict,
                    }
                )
    return found


def comparison(one: Mapping[str, Any], other: Mapping[str, Any]) -> Comparison:
    """How many times as fast one row is as another that was measured in the same rounds."""
    return compare(one["round_ms"], other["round_ms"])


def _layers(
    graph: Graph,
    results: Sequence[Result],
    rates: Mapping[int, Mapping[str, float]],
    cache_bytes: int | None,
) -> list[dict[str, Any]]:
    """What each layer takes where the engine says so, beside the limit, the most to gain first."""
    found = []
    for result in results:
        for batch, nodes in result.nodes.items():
            precision, rated = result.contestant.precision, rates.get(batch, {})
            limits = layer_limits(graph, rated, precision, batch, cache_bytes)
            taken: dict[str, float] = {}
            for node, spent in nodes.items():
                layer = layer_of(node, graph)
                taken[layer] = taken.get(layer, 0.0) + spent
            # What the engine counts adds up to more or less than a run takes, since counting costs
            # time, and what lies between nodes is not counted.
            layers = []
            for layer, spent in taken.items():
                limit = (limits or {}).get(layer)
                least = limit.total_ms if limit else 0.0
                layers.append(
                    {
                        "layer": layer,
                        "ms": rounded(spent),
                        "limit_ms": rounded(least),
                        "to_gain_ms": rounded(spent - least),
                    }
                )
            layers.sort(key=lambda each: -each["to_gain_ms"])  # type: ignore[operator]
            found.append(
                {
                    "engine": result.contestant.engine,
                    "precision": result.contestant.precision,
                    "batch": batch,
                    "layers": layers,
                }
            )
    return found


def layer_of(node: str, graph: Graph) -> str:
    """The layer that an engine's node belongs to, whatever the engine has made of its name.

    What engines compute together with the layer before it counts as that layer.
    """
    parts = (node, node.partition(".")[0], node.partition("/")[0])
    found = next((part for part in parts if part in graph.by_name), None)
    if found is None:
        found = max((layer for layer in graph.by_name if layer in node), key=len, default=None)
    if found is None:
        return "other"
    while isinstance(graph.by_name[found].op, _FUSED):
        (source,) = graph.by_name[found].inputs
        if source not in graph.by_name:
            break
        found = source
    return found


def rounded(value: float | None) -> float | None:
    """To as many figures as a measurement is good for."""
    if value is None:
        return None
    return float(f"{value:.{_FIGURES}g}")
