"""A report as one HTML page that needs nothing beside it: verdict, one plot, the whole table."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape

from alexc.verify.report import CHECKS, Report, Row

# One colour a backend, in the order of the report; they tell apart in grey and for the colour-blind
# (after Okabe and Ito, 2008).
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")

# The plot, in pixels.
_STEP = 34.0  # from layer to layer, at least
_LEFT, _RIGHT, _TOP, _HEIGHT = 64.0, 16.0, 14.0, 340.0
_EXACT = 26.0  # below the axis: where results without any error are shown
_NARROWEST = 1060.0

_STYLE = """
:root { --ink: #1c1e21; --faint: #6b7280; --rule: #d8dbe0; --paper: #ffffff; --wrong: #c00020; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --faint: #9aa3ad; --rule: #3a4048; --paper: #16181b; --wrong: #ff6b7f; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
       margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.faint { color: var(--faint); } .wrong { color: var(--wrong); font-weight: 600; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .15rem .8rem; border-bottom: 1px solid var(--rule);
         white-space: nowrap; }
th { color: var(--faint); font-weight: 500; } .text { text-align: left; }
svg text { font: 11px system-ui, sans-serif; fill: var(--faint); }
svg .grid { stroke: var(--rule); } svg .axis { stroke: var(--faint); }
svg .wrong { stroke: var(--wrong); stroke-width: 2; fill: none; }
"""


def page(report: Report, title: str) -> str:
    """The report as an HTML document. `title` says what was verified."""
    verdict = "passed" if report.passed else '<span class="wrong">FAILED</span>'
    return "".join(
        (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
            f"<title>{escape(title)}: verification</title>\n<style>{_STYLE}</style>\n</head>\n",
            f"<body>\n<h1>{escape(title)}: {verdict}</h1>\n",
            f'<p class="faint">Held against the reference: {escape(report.reference)}.</p>\n',
            _inputs(report),
            _first_divergence(report),
            _backends(report),
            _accuracy(report),
            _plot(report),
            _table(report),
            "".join(f'<p class="faint">{escape(note)}</p>\n' for note in report.notes),
            "</body>\n</html>\n",
        )
    )


def _inputs(report: Report) -> str:
    if report.inputs is None:
        return ""
    return f'<p class="faint">Given: {escape(str(report.inputs))}.</p>\n'


def _first_divergence(report: Report) -> str:
    first = report.first_divergence
    if first is None:
        return ""
    return (
        f'<p class="wrong">First divergence: {escape(first.layer)} on {escape(first.backend)} '
        f"({escape(first.kind)}).</p>\n"
    )


def _backends(report: Report) -> str:
    rows = []
    for result in report.backends:
        verdict = {True: "verified", False: "diverges", None: "not run"}[result.passed]
        style = ' class="text wrong"' if result.passed is False else ' class="text"'
        rows.append(
            f'<tr><td class="text">{escape(result.backend)}</td><td{style}>{verdict}</td>'
            f'<td class="text faint">{escape(result.status)}</td></tr>\n'
        )
    return f"<table>\n{''.join(rows)}</table>\n"


def _accuracy(report: Report) -> str:
    if not report.accuracy:
        return ""
    rows = [
        f'<tr><td class="text">{escape(found.backend)}</td>'
        f'<td class="text">{escape(found.output)}</td><td>{found.images}</td>'
        f"<td>{'' if found.top1_agreement is None else f'{found.top1_agreement:.1%}'}</td>"
        f"<td>{found.max_abs:.3g}</td><td>{found.rel_l2:.3g}</td></tr>\n"
        for found in report.accuracy
    ]
    heading = "<h2>What the number format costs</h2>\n"
    names = "<tr><th class='text'>backend</th><th class='text'>output</th><th>images</th>"
    names += "<th>same top-1</th><th>largest error</th><th>relative error</th></tr>\n"
    return f"{heading}<table>\n{names}{''.join(rows)}</table>\n"


# ---- the plot ------------------------------------------------------------------------------------


def _plot(report: Report) -> str:
    """The largest error of every layer in the whole net, below the tolerance, on a log scale."""
    rows = [row for row in report.rows if row.check == "end_to_end"]
    layers = list(dict.fromkeys(row.layer for row in rows))
    backends = list(dict.fromkeys(row.backend for row in rows))
    if not layers:
        return ""
    # A tolerance that only underflow sets would stretch the scale by thirty decades.
    values = [v for row in rows for v in (row.max_abs, row.tolerance) if v and v > 1e-30]
    if not values:
        values = [1.0]
    low = math.floor(math.log10(min(values)))
    high = max(math.ceil(math.log10(max(values))), low + 1)
    width = max(_NARROWEST, _LEFT + _RIGHT + _STEP * len(layers))
    step = (width - _LEFT - _RIGHT) / len(layers)
    bottom = _TOP + _HEIGHT

    def across(layer: str, backend: str) -> float:
        share = (backends.index(backend) + 1) / (len(backends) + 1)
        return _LEFT + step * (layers.index(layer) + share)

    def down(value: float) -> float:
        return bottom - _HEIGHT * (math.log10(value) - low) / (high - low)

    longest = max(map(len, layers))
    marks = [*_decades(low, high, width, down), *_layer_names(layers, step, bottom)]
    for row in rows:
        colour = _COLOURS[backends.index(row.backend) % len(_COLOURS)]
        x = across(row.layer, row.backend)
        tolerance = down(row.tolerance) if row.tolerance > 1e-30 else None
        marks.append(_mark(row, x, tolerance, bottom, down, colour))
    height = bottom + _EXACT + 14 + 6.2 * longest
    legend = " · ".join(
        f'<span style="color:{_COLOURS[i % len(_COLOURS)]}">●</span> {escape(backend)}'
        for i, backend in enumerate(backends)
    )
    return (
        "<h2>Error against layer</h2>\n"
        f"<p>{legend} <span class='faint'>— a dot is the largest error of a layer's result in the "
        "whole net, the bar above it what is tolerated there; dots on the lowest line are exact"
        "</span></p>\n"
        f'<div class="scroll"><svg width="{width:.0f}" height="{height:.0f}" role="img" '
        f'aria-label="largest error and tolerance of each layer">\n{"".join(marks)}</svg></div>\n'
    )


def _decades(low: int, high: int, width: float, down: Callable[[float], float]) -> Iterable[str]:
    every = max(1, (high - low) // 10)
    for exponent in range(low, high + 1, every):
        y = down(10.0**exponent)
        yield (
            f'<line class="grid" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">1e{exponent}</text>\n'
        )
    y = _TOP + _HEIGHT + _EXACT
    yield f'<line class="axis" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{y}" y2="{y}"/>'
    yield f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">exact</text>\n'


def _layer_names(layers: Sequence[str], step: float, bottom: float) -> Iterable[str]:
    y = bottom + _EXACT + 12
    for index, layer in enumerate(layers):
        x = _LEFT + step * (index + 0.5)
        yield (
            f'<text transform="translate({x + 4:.1f} {y:.1f}) rotate(-70)" text-anchor="end">'
            f"{escape(layer)}</text>\n"
        )


def _mark(
    row: Row,
    x: float,
    tolerance: float | None,
    bottom: float,
    down: Callable[[float], float],
    colour: str,
) -> str:
    exact = bottom + _EXACT
    title = f"<title>{escape(f'{row.layer} on {row.backend}: {_in_words(row)}')}</title>"
    if row.max_abs is None:  # nothing to plot: a cross at the top
        y = _TOP
        arms = f"M{x - 5:.1f} {y - 5:.1f}l10 10m-10 0l10 -10"
        return f'<g>{title}<path class="wrong" d="{arms}"/></g>\n'
    y = down(row.max_abs) if row.max_abs > 1e-30 else exact
    parts = [title]
    if tolerance is not None:
        parts.append(
            f'<path d="M{x - 5:.1f} {tolerance:.1f}h10M{x:.1f} {tolerance:.1f}V{y:.1f}" '
            f'stroke="{colour}" fill="none" opacity="0.55"/>'
        )
    parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.2" fill="{colour}"/>')
    if not row.passed:
        parts.append(f'<circle class="wrong" cx="{x:.1f}" cy="{y:.1f}" r="7"/>')
    return f"<g>{''.join(parts)}</g>\n"


def _in_words(row: Row) -> str:
    if row.max_abs is None:
        return row.message or "nothing to compare"
    return f"largest error {row.max_abs:.3g}, tolerance {row.tolerance:.3g}"


# ---- the table -----------------------------------------------------------------------------------


def _table(report: Report) -> str:
    checks = "".join(
        f"<li><b>{check.replace('_', ' ')}</b>: {escape(what)}</li>\n"
        for check, what in CHECKS.items()
        if any(row.check == check for row in report.rows)
    )
    names = (
        '<tr><th class="text">layer</th><th class="text">backend</th><th class="text">check</th>'
        "<th>largest error</th><th>relative error</th><th>tolerance</th><th>of it</th>"
        '<th class="text"></th></tr>\n'
    )
    lines = "".join(map(_line, report.rows))
    return (
        f'<h2>Every comparison</h2>\n<ul class="faint">\n{checks}</ul>\n'
        f'<div class="scroll"><table>\n{names}{lines}</table></div>\n'
    )


def _line(row: Row) -> str:
    style = "" if row.passed else ' class="wrong"'
    share = ""
    if row.max_abs is not None and row.tolerance > 0:
        share = f"{row.max_abs / row.tolerance:.2g}"
    numbers = "".join(
        f"<td>{'' if number is None else f'{number:.3g}'}</td>"
        for number in (row.max_abs, row.rel_l2, row.tolerance)
    )
    return (
        f'<tr{style}><td class="text">{escape(row.layer)}</td>'
        f'<td class="text">{escape(row.backend)}</td>'
        f'<td class="text">{row.check.replace("_", " ")}</td>{numbers}<td>{share}</td>'
        f'<td class="text">{escape(row.message or "")}</td></tr>\n'
    )
