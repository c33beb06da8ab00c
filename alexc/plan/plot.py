"""A benchmark's result as a picture: who is how fast, beside the limit of the machine.

Drawn with matplotlib, which the extra `train` brings.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexc.diagnostics import usage_fault
from alexc.files import whole_file
from alexc.plan.report import batches, figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Json = Mapping[str, Any]

SUFFIXES = (".svg", ".png")
_OURS, _PEER, _LIMIT, _TEXT = "#1f5fbf", "#b9bec7", "#c2410c", "#1f2430"
_LINES = ("#1f5fbf", "#0f9d76", "#7c3aed", "#d97706", "#be123c", "#64748b", "#0891b2", "#a16207")
_SMALL = 8.5


def check(path: Path) -> None:
    """Raise UsageError if no picture can be drawn to `path`: asked before hours of measuring."""
    if path.suffix.lower() not in SUFFIXES:
        raise usage_fault(
            "bench/plot",
            f"a plot is written as {' or '.join(SUFFIXES)}, not as {path.name}",
            help=f"--plot {path.with_suffix('.svg')}",
        )
    if find_spec("matplotlib") is None:
        raise usage_fault(
            "bench/plot",
            "plots are drawn by matplotlib, which is not installed",
            help='pip install "alexc[train]"',
        )


def plot(result: Json, path: Path) -> None:
    """Write the picture. Raises UsageError where it can't be drawn or written."""
    check(path)
    import matplotlib
    from matplotlib.figure import Figure

    sizes = batches(result)
    shown = list(dict.fromkeys((sizes[0], sizes[-1])))
    most = max(len(_measured(result, size)) for size in shown)
    wide = len(shown) + (len(sizes) > 1)
    settings: Any = {"svg.hashsalt": "alexc", "svg.fonttype": "none", "font.family": "sans-serif"}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(4.6 * wide, 1.5 + 0.32 * max(most, 8)), layout="constrained")
        axes = figure.subplots(1, wide, squeeze=False)[0]
        for axis, size in zip(axes, shown, strict=False):
            _latency(axis, result, size)
        if len(sizes) > 1:
            _throughput(axes[-1], result, sizes)
        figure.suptitle(_title(result), fontsize=10.5, color=_TEXT, x=0.01, ha="left")
        _legend(figure)
        data = io.BytesIO()
        kind = path.suffix.lower().removeprefix(".")
        fixed = {"Date": None} if kind == "svg" else None
        figure.savefig(data, format=kind, metadata=fixed, dpi=144)
    with whole_file(path) as file:
        file.write(data.getvalue())


def _title(result: Json) -> str:
    machine = result["machine"]
    return f"{result['name']} on {machine['cpu']}, {machine['cores']} cores"


def _measured(result: Json, batch: int) -> list[Json]:
    rows = [r for r in result["rows"] if r["batch"] == batch and r["p50_ms"] is not None]
    return sorted(rows, key=lambda row: row["p50_ms"])


def _latency(axis: Axes, result: Json, batch: int) -> None:
    """A bar for each engine, the fastest on top: its median, its middle half, and the limit."""
    rows = _measured(result, batch)
    places = range(len(rows))
    for place, row in zip(places, rows, strict=True):
        color = _OURS if row["family"] == "ours" else _PEER
        axis.barh(place, row["p50_ms"], color=color, height=0.7, zorder=2)
        low, high = row["quartiles_ms"]
        axis.plot([low, high], [place, place], color=_TEXT, linewidth=1.2, zorder=4)
        if row["limit_ms"]:
            limit = row["limit_ms"]
            axis.plot([limit, limit], [place - 0.35, place + 0.35], color=_LIMIT, zorder=5)
        label = figures(row["p50_ms"]) + ("" if row["class"] == "exact" else f"  ({row['class']})")
        axis.annotate(
            label,
            (max(high, row["p50_ms"]), place),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=_SMALL,
            color=_TEXT,
        )
    axis.set_yticks(list(places), [f"{r['engine']} {r['precision']}" for r in rows])
    axis.invert_yaxis()
    widest = max((row["quartiles_ms"][1] for row in rows), default=1.0)
    axis.set_xlim(0, widest * 1.3)  # room for the numbers
    what = "one image" if batch == 1 else f"a batch of {batch}"
    _style(axis, f"milliseconds for {what}")


def _throughput(axis: Axes, result: Json, sizes: Sequence[int]) -> None:
    """Images a second against the size of a batch, a line for each engine that was measured."""
    largest = _measured(result, sizes[-1])
    for index, row in enumerate(largest):
        key = (row["engine"], row["precision"])
        points = [
            (size, found["images_per_s"])
            for size in sizes
            for found in _measured(result, size)
            if (found["engine"], found["precision"]) == key
        ]
        ours = row["family"] == "ours"
        axis.plot(
            [x for x, _ in points],
            [y for _, y in points],
            color=_LINES[index % len(_LINES)],
            linestyle="-" if ours else "--",
            linewidth=2 if ours else 1.2,
            marker="o",
            markersize=4,
        )
    heights = {index: row["images_per_s"] for index, row in enumerate(largest)}
    top = max(heights.values(), default=1.0)
    for index, height in _apart(heights, top / 22).items():
        row = largest[index]
        axis.annotate(
            f"{row['engine']} {row['precision']}",
            (sizes[-1], height),
            (8, 0),
            textcoords="offset points",
            va="center",
            fontsize=_SMALL,
            color=_LINES[index % len(_LINES)],
        )
    axis.set_xscale("log", base=2)
    axis.set_xticks(list(sizes), [str(size) for size in sizes])
    axis.minorticks_off()
    axis.set_xlim(right=sizes[-1] * (sizes[-1] / sizes[0]) ** 0.6)  # room for the names
    axis.set_ylim(0, top * 1.1)
    _style(axis, "images a second, by batch size")


def _apart(heights: Mapping[int, float], least: float) -> dict[int, float]:
    """The heights, pushed up where two would be closer than `least`."""
    moved: dict[int, float] = {}
    last = float("-inf")
    for index in sorted(heights, key=lambda each: heights[each]):
        last = moved[index] = max(heights[index], last + least)
    return moved


def _legend(figure: Figure) -> None:
    """What the colours mean, once for all bars."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [
        Patch(color=_OURS, label="alexc"),
        Patch(color=_PEER, label="peers"),
        Line2D([], [], color=_TEXT, linewidth=1.2, label="middle half of the runs"),
        Line2D([], [], color=_LIMIT, label="limit of the machine"),
    ]
    figure.legend(
        handles=handles, loc="outside lower left", ncols=4, frameon=False, fontsize=_SMALL
    )


def _style(axis: Axes, title: str) -> None:
    axis.set_title(title, fontsize=9.5, color=_TEXT, loc="left")
    axis.tick_params(labelsize=_SMALL, colors=_TEXT, length=0)
    axis.grid(axis="x", color="#e5e7eb", zorder=0)
    for side in ("top", "right", "left", "bottom"):
        axis.spines[side].set_visible(False)
