"""The bars that alexc is held to, from what one run of `make bench` has measured.

Each row says what was compared, what came out, the bar, and whether it held: `yes`, `no`, `tie`
where the interval holds the bar and the median is below it, or `not measured`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from alexc.plan.report import table
from alexc.plan.result import comparison, rounded
from alexc.plan.timing import Comparison

Json = Mapping[str, Any]
Held = Literal["yes", "no", "tie", "not measured"]

# By batch, at least; the overhead and the search are at most.
AGAINST_PEER = {1: 1.0, 16: 1.0}
EXACT_AGAINST_EXPORT = {1: 1.4, 16: 1.8}
FAST_AGAINST_EXPORT = {1: 5.0, 16: 3.5}
SHARE_OF_LIMIT = 0.75
OVERHEAD = {1: 0.02, 16: 0.01}
SEARCH_SECONDS = 180.0
AGAINST_BEST_CANDIDATE = 0.97
AGREEMENT = 0.99

_EXPORT = "export-onnxruntime"


def bars(bench: Json, plan: Json | None) -> list[dict[str, Any]]:
    """The rows, of JSON's types. `plan` is what `plan_result` gives, None where none was made."""
    found: list[dict[str, Any]] = []
    for batch, bar in AGAINST_PEER.items():
        rows = [r for r in bench["rows"] if r["batch"] == batch and r["p50_ms"] is not None]
        exact = _best(r for r in rows if r["family"] == "ours" and r["class"] == "exact")
        fast = _best(r for r in rows if r["family"] == "ours" and r["class"] in ("exact", "fast"))
        peers = [r for r in rows if r["family"] == "peer"]
        exact_peer = _best(r for r in peers if r["precision"] == "fp32")
        fast_peer = _best(r for r in peers if r["precision"] != "fp32")
        export = _best(r for r in peers if r["engine"] == _EXPORT)
        found += [
            _compared("exact, against the best peer in fp32", batch, exact, exact_peer, bar),
            _compared(
                "exact, against torch.onnx.export → ONNX Runtime",
                batch,
                exact,
                export,
                EXACT_AGAINST_EXPORT[batch],
            ),
            _share(batch, [r for r in rows if r["family"] == "ours" and r["class"] == "exact"]),
            _compared(
                "fast, against torch.onnx.export → ONNX Runtime",
                batch,
                fast,
                export,
                FAST_AGAINST_EXPORT[batch],
            ),
            _compared("fast, against the best peer's fast setting", batch, fast, fast_peer, bar),
            _overhead(batch, [r for r in rows if r["family"] == "ours"]),
        ]
    return [*found, *_of_plan(plan)]


def plan_result(plan: Json, rows: Sequence[Json]) -> dict[str, Any]:
    """What the plan took to find, and how the planned session did against each single candidate.

    `rows` are those of one race, the planned session's with the engine `planned`.
    """
    compared = []
    for batch in dict.fromkeys(row["batch"] for row in rows):
        here = [row for row in rows if row["batch"] == batch and row["p50_ms"] is not None]
        session = _best(row for row in here if row["engine"] == "planned")
        best = _best(row for row in here if row["engine"] != "planned")
        if session is None or best is None:
            continue
        result = comparison(session, best)
        compared.append(
            {
                "batch": batch,
                "best": best["note"] or f"{best['engine']} {best['precision']}",
                **_interval(result),
            }
        )
    return {"plan": dict(plan), "rows": list(rows), "against_best": compared}


def bars_text(rows: Sequence[Json]) -> str:
    """The table in Markdown."""
    lines = [
        [
            row["what"],
            "" if row["batch"] is None else str(row["batch"]),
            row["measured"],
            row["bar"],
            row["held"],
        ]
        for row in rows
    ]
    return table(("what", "batch", "measured", "bar", "held"), lines, right=(1,))


def _best(rows: Iterable[Json]) -> Json | None:
    return min(rows, key=lambda row: row["p50_ms"], default=None)


def _interval(result: Comparison) -> dict[str, float | None]:
    return {
        "ratio": rounded(result.ratio),
        "low": rounded(result.low),
        "high": rounded(result.high),
    }


def _row(what: str, batch: int | None, measured: str, bar: str, held: Held) -> dict[str, Any]:
    return {"what": what, "batch": batch, "measured": measured, "bar": bar, "held": held}


def _compared(
    what: str, batch: int, own: Json | None, peer: Json | None, bar: float
) -> dict[str, Any]:
    said = f"≥ {bar:.1f} ×"
    if own is None or peer is None:
        return _row(what, batch, "", said, "not measured")
    result = comparison(own, peer)
    held: Held = "yes" if result.ratio >= bar else "tie" if result.high >= bar else "no"
    measured = (
        f"{result.ratio:.2f} × ({result.low:.2f}–{result.high:.2f}): {own['engine']} "
        f"{own['precision']}, against {peer['engine']} {peer['precision']}"
    )
    return _row(what, batch, measured, said, held)


def _share(batch: int, rows: Sequence[Json]) -> dict[str, Any]:
    what, said = "exact, share of the measured limit", f"≥ {SHARE_OF_LIMIT:.0%}"
    shares = [(row["of_limit"], row) for row in rows if row["of_limit"] is not None]
    if not shares:
        return _row(what, batch, "", said, "not measured")
    share, row = max(shares, key=lambda each: each[0])
    measured = f"{share:.0%}: {row['engine']} {row['precision']}"
    return _row(what, batch, measured, said, "yes" if share >= SHARE_OF_LIMIT else "no")


def _overhead(batch: int, rows: Sequence[Json]) -> dict[str, Any]:
    """The most that the runtime adds to any engine's own call."""
    what, said = "what alexc_runtime adds to the engine's own call", f"≤ {OVERHEAD[batch]:.0%}"
    known = [row for row in rows if row["runtime_overhead"] is not None]
    if not known:
        return _row(what, batch, "", said, "not measured")
    worst = max(known, key=lambda row: row["runtime_overhead"])
    low, high = worst["runtime_overhead_interval"]
    measured = (
        f"{worst['runtime_overhead']:.1%} ({low:.1%} to {high:.1%}): "
        f"{worst['engine']} {worst['precision']}"
    )
    within = worst["runtime_overhead"] <= OVERHEAD[batch]
    held: Held = "yes" if within else "tie" if low <= OVERHEAD[batch] else "no"
    return _row(what, batch, measured, said, held)


def _agreement(plan: Json) -> dict[str, Any]:
    """The least agreement of what was chosen with the reference's first class."""
    what, said = "fast, the reference's first class on photographs", f"≥ {AGREEMENT:.0%}"
    chosen = [way for way in plan["candidates"] if way["verdict"].startswith("chosen")]
    shares = [way["agreement"] for way in chosen if way["agreement"] is not None]
    if not shares:
        return _row(what, None, "", said, "not measured")
    measured = f"{min(shares):.1%} of {plan['images']}"
    return _row(what, None, measured, said, "yes" if min(shares) >= AGREEMENT else "no")


def _of_plan(plan: Json | None) -> list[dict[str, Any]]:
    search, session = "the plan's search", "the planned session, against the best single way"
    took, share = f"≤ {SEARCH_SECONDS:.0f} s", f"≥ {AGAINST_BEST_CANDIDATE} ×"
    if plan is None:
        return [_agreement({"candidates": []}), _row(search, None, "", took, "not measured")]
    seconds = plan["plan"]["seconds"]
    held: Held = "yes" if seconds <= SEARCH_SECONDS else "no"
    rows = [_agreement(plan["plan"]), _row(search, None, f"{seconds:.0f} s", took, held)]
    for each in plan["against_best"]:
        held = "yes" if each["ratio"] >= AGAINST_BEST_CANDIDATE else "no"
        if held == "no" and each["high"] >= AGAINST_BEST_CANDIDATE:
            held = "tie"
        measured = (
            f"{each['ratio']:.2f} × ({each['low']:.2f}–{each['high']:.2f}), against {each['best']}"
        )
        rows.append(_row(session, each["batch"], measured, share, held))
    return rows
