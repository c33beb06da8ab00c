"""What clients of a session get as a picture: a panel for each engine, throughput above latency."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexc.files import whole_file
from alexc.plan.plot import check
from alexc.plan.report import figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Json = Mapping[str, Any]

_BATCHED, _ALONE, _TEXT, _GRID = "#1f5fbf", "#9aa1ad", "#1f2430", "#e5e7eb"
_SMALL = 8.5
_SHOWN = ("images_per_s", "p99_ms")


def plot(result: Json, path: Path) -> None:
    """Write the picture. Raises UsageError where it can't be drawn or written."""
    check(path)
    import matplotlib
    from matplotlib.figure import Figure

    rows = [
        row
        for row in result["serving"]
        if row["arrivals"] == "closed" and row["images_per_s"] is not None
    ]
    engines = list(dict.fromkeys((row["engine"], row["precision"]) for row in rows))
    most = {what: max((row[what] for row in rows), default=1.0) for what in _SHOWN}
    settings: Any = {"svg.hashsalt": "alexc", "svg.fonttype": "none", "font.family": "sans-serif"}
    with matplotlib.rc_context(settings):
        wide = max(1, len(engines))
        figure = Figure(figsize=(0.8 + 3.1 * wide, 5.0), layout="constrained")
        axes = figure.subplots(2, wide, squeeze=False, sharex=True, sharey="row")
        for (engine, precision), above, below in zip(engines, *axes, strict=False):
            own = [row for row in rows if (row["engine"], row["precision"]) == (engine, precision)]
            _curves(above, own, "images_per_s", most["images_per_s"])
            _curves(below, own, "p99_ms", most["p99_ms"])
            above.set_title(f"{engine} {precision}", fontsize=9.5, color=_TEXT, loc="left")
            below.set_xlabel("clients", fontsize=_SMALL, color=_TEXT)
        axes[0][0].set_ylabel("images a second", fontsize=_SMALL, color=_TEXT)
        axes[1][0].set_ylabel("p99 latency, ms", fontsize=_SMALL, color=_TEXT)
        machine = result["machine"]
        title = f"{result['name']} served on {machine['cpu']}, {machine['cores']} cores"
        figure.suptitle(title, fontsize=10.5, color=_TEXT, x=0.01, ha="left")
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(
            handles,
            labels,
            loc="outside lower left",
            ncols=2,
            frameon=False,
            fontsize=_SMALL,
        )
        data = io.BytesIO()
        kind = path.suffix.lower().removeprefix(".")
        fixed = {"Date": None} if kind == "svg" else None
        figure.savefig(data, format=kind, metadata=fixed, dpi=144)
    with whole_file(path) as file:
        file.write(data.getvalue())


def _curves(axis: Axes, rows: Sequence[Json], what: str, most: float) -> None:
    """Both ways against the number of clients, with the figures at their ends."""
    ends: dict[str, tuple[float, float]] = {}
    for batching, color, label in (
        (False, _ALONE, "one request, one run"),
        (True, _BATCHED, "with dynamic batching"),
    ):
        points = sorted((r["clients"], r[what]) for r in rows if r["batching"] is batching)
        if not points:
            continue
        xs, ys = zip(*points, strict=True)
        axis.plot(xs, ys, color=color, linewidth=2, marker="o", markersize=4, label=label, zorder=3)
        ends[color] = (xs[-1], ys[-1])
    # Figures that would lie on each other are moved apart.
    close = len(ends) == 2 and abs(ends[_ALONE][1] - ends[_BATCHED][1]) < most / 12
    upper = max(ends, key=lambda color: ends[color][1], default="")
    for color, end in ends.items():
        axis.annotate(
            figures(end[1]),
            end,
            (6, (5 if color == upper else -5) if close else 0),
            textcoords="offset points",
            va="center",
            fontsize=_SMALL,
            color=color,
        )
    ticks = sorted({row["clients"] for row in rows})
    axis.set_xscale("log", base=2)
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.minorticks_off()
    axis.margins(x=0.18)  # room for the figures
    axis.set_ylim(0, most * 1.08)
    axis.tick_params(labelsize=_SMALL, colors=_TEXT, length=0)
    axis.grid(axis="y", color=_GRID, zorder=0)
    for side in ("top", "right", "left", "bottom"):
        axis.spines[side].set_visible(False)
