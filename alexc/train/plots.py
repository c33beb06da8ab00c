"""What a run looks like: curves, the first layer's kernels, the confusion matrix, and one page.

    curves.png      loss and error by epoch, and the learning rate
    filters.png     the kernels of the first convolution, as in figure 3 of the 2012 paper
    confusion.png   which class is taken for which
    index.html      all of it, in one file that needs no other

Drawn with matplotlib, which is part of the extra `train`; without it a run has no pictures, and
index.html says so.
"""

from __future__ import annotations

import base64
import html
import io
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from alexc.diagnostics import usage_fault
from alexc.graph.graph import Graph
from alexc.ops.conv import Conv
from alexc.train import checkpoint, metrics
from alexc.train.evaluate import Scores
from alexc.train.report import seconds_in_words
from alexc.train.run import Run, open_run
from alexc.weights import store

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVES, FILTERS, CONFUSION, PAGE = "curves.png", "filters.png", "confusion.png", "index.html"
_FEW_EPOCHS = 20  # each is shown as a dot, or else one alone would not be seen
_MOST_CLASSES = 40  # a confusion matrix of more says nothing to the eye


def draw_run(folder: Path, scores: Scores | None, labels: Sequence[str] | None) -> list[Path]:
    """Draw everything that can be drawn of the run, and say which files there are now.

    Without matplotlib only the page is written. Raises UsageError if the folder can't be written.
    """
    run = open_run(folder)
    lines = metrics.read(folder)
    makers: dict[str, Callable[[], Figure | None]] = {
        CURVES: lambda: curves(lines),
        FILTERS: lambda: _run_filters(run),
        CONFUSION: lambda: confusion(scores, labels) if scores is not None else None,
    }
    pictures: dict[str, bytes] = {}
    if _matplotlib_is_there():
        for name, make in makers.items():
            if (figure := make()) is not None:
                pictures[name] = _png(figure)
    written = []
    try:
        for name, data in pictures.items():
            (folder / name).write_bytes(data)
            written.append(folder / name)
        (folder / PAGE).write_text(_page(run, lines, pictures), encoding="utf-8")
    except OSError as error:
        raise usage_fault("file/unwritable", f"{folder}: {error.strerror}") from None
    return [*written, folder / PAGE]


def _matplotlib_is_there() -> bool:
    from importlib.util import find_spec

    return find_spec("matplotlib") is not None


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None})
    return buffer.getvalue()


def curves(lines: Sequence[dict[str, Any]]) -> Figure | None:
    """Loss and error of training and test by epoch; None before the first epoch has ended."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    epochs = [line for line in lines if line.get("kind") == "epoch"]
    if not epochs:
        return None
    figure = Figure(figsize=(10, 3.4))
    left, right = figure.subplots(1, 2)
    x = [line["epoch"] for line in epochs]
    marker = "o" if len(x) <= _FEW_EPOCHS else None
    for axes, learnt, tested, name in (
        (left, "train_loss", "loss", "loss"),
        (right, "train_top1", "top1", "error, %"),
    ):
        for key, label in ((learnt, "training"), (tested, "test")):
            y = [100 * (1 - line[key]) if axes is right else line[key] for line in epochs]
            axes.plot(x, y, label=label, marker=marker)
        axes.set(xlabel="epoch", ylabel=name)
        axes.set_xlim(x[0] - 0.3, x[-1] + 0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def filters(weight: NDArray[np.float32]) -> Figure:
    """The kernels (out, in, h, w) as pictures, each stretched to its own range.

    Three inputs are shown in colour; of any other number, the mean over them in grey.
    """
    from matplotlib.figure import Figure

    count, channels, height, width = weight.shape
    columns = math.ceil(math.sqrt(2 * count))
    rows = math.ceil(count / columns)
    # What lies between them is transparent, to be seen on any page.
    sheet = np.zeros((rows * (height + 1) + 1, columns * (width + 1) + 1, 4), np.float32)
    for number, kernel in enumerate(weight):
        image = kernel.transpose(1, 2, 0)
        if channels != 3:
            image = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2)
        low, high = image.min(), image.max()
        top = 1 + number // columns * (height + 1)
        left = 1 + number % columns * (width + 1)
        kernel_at = sheet[top : top + height, left : left + width]
        kernel_at[..., :3] = (image - low) / max(high - low, 1e-12)
        kernel_at[..., 3] = 1
    figure = Figure(figsize=(columns / 2, rows / 2))
    figure.patch.set_alpha(0)
    axes = figure.subplots()
    axes.imshow(sheet, interpolation="nearest")
    axes.set_axis_off()
    return figure


def confusion(scores: Scores, labels: Sequence[str] | None) -> Figure | None:
    """Labels down, predictions across, each row in per cent; None of very many classes."""
    from matplotlib.figure import Figure

    matrix = scores.confusion
    count = len(matrix)
    if count > _MOST_CLASSES:
        return None
    names = list(labels) if labels else [str(number) for number in range(count)]
    shares = 100 * matrix / np.maximum(1, matrix.sum(axis=1, keepdims=True))
    side = 2.5 + 0.42 * count
    figure = Figure(figsize=(side, side))
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for row, column in np.ndindex(*matrix.shape):
        if shares[row, column] >= 0.5:
            shade = "white" if shares[row, column] > 50 else "black"
            text = f"{shares[row, column]:.0f}"
            axes.text(column, row, text, ha="center", va="center", color=shade, fontsize=8)
    axes.set_xticks(range(count), names, rotation=60, ha="right")
    axes.set_yticks(range(count), names)
    axes.set(xlabel="predicted", ylabel="label")
    return figure


def _run_filters(run: Run) -> Figure | None:
    found = checkpoint.latest(run.folder)
    name = first_convolution(run.net.graph)
    if found is None or name is None:
        return None
    return filters(store.read(found.weights, run.net.graph)[f"{name}.weight"])


def first_convolution(graph: Graph) -> str | None:
    """The name of the first convolution, if there is one."""
    return next((node.name for node in graph.nodes if isinstance(node.op, Conv)), None)


# ---- the page ------------------------------------------------------------------------------------

_STYLE = """
:root { color-scheme: light dark; --faint: #6b7280; --rule: #d8dbe0; --shade: #f4f4f4 }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h2 { margin-top: 2rem } img { max-width: 100% } .scroll { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
td, th { padding: .15rem .8rem; text-align: right; border-bottom: 1px solid var(--rule);
         white-space: nowrap }
th { color: var(--faint); font-weight: 500 }
pre { background: var(--shade); padding: 1rem; overflow: auto }
@media (prefers-color-scheme: dark) {
  :root { --faint: #9aa3ad; --rule: #3a4048; --shade: #262626 }
  body { background: #1b1b1b; color: #ddd }
  .drawn { filter: invert(.89) hue-rotate(180deg) }
}
"""
_PICTURES = {
    CURVES: "Curves",
    FILTERS: "Kernels of the first layer",
    CONFUSION: "What is taken for what, in % of the label's images",
}


def _page(run: Run, lines: Sequence[dict[str, Any]], pictures: dict[str, bytes]) -> str:
    """The run as one HTML file; pictures are within it."""
    name = html.escape(run.net.spec.name)
    end = next((line for line in reversed(lines) if line.get("kind") == "end"), None)
    record = run.record
    images = f"{record.images[0]:,} images to learn from, {record.images[1]:,} to test with"
    threads = "one thread" if record.threads == 1 else f"{record.threads} threads"
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{name}</title>",
        '<meta name=viewport content="width=device-width, initial-scale=1">',
        f"<style>{_STYLE}</style><h1>{name}</h1>",
        f"<p>{html.escape(record.data)}: {images}; {record.precision}, {threads}.</p>",
    ]
    if end is not None:
        views = "one view" if end["views"] == 1 else f"{end['views']} views"
        parts.append(
            f"<p><b>top-1 {end['top1']:.2%}, top-5 {end['top5']:.2%}</b> of {end['images']:,} "
            f"images, {views} of each, after {seconds_in_words(end['seconds'])}.</p>"
        )
    for file, title in _PICTURES.items():
        if file in pictures:
            source = f"data:image/png;base64,{base64.b64encode(pictures[file]).decode()}"
            # On a dark page drawings turn dark, too; kernels keep their colours.
            kind = "" if file == FILTERS else " class=drawn"
            parts.append(f'<h2>{title}</h2><img{kind} alt="{title}" src="{source}">')
    if not pictures:
        why = "matplotlib is not installed, or no epoch has ended"
        parts.append(f"<p>There are no pictures: {why}.</p>")
    parts += [
        _table(lines),
        "<h2>Recipe</h2><pre>",
        html.escape(json.dumps(record.recipe, indent=2)),
        "</pre></html>\n",
    ]
    return "\n".join(parts)


def _table(lines: Sequence[dict[str, Any]]) -> str:
    rows = [
        f"<tr><td>{line['epoch']}<td>{line['train_loss']:.4f}<td>{line['train_top1']:.2%}"
        f"<td>{line['loss']:.4f}<td>{line['top1']:.2%}<td>{line['top5']:.2%}"
        f"<td>{line['learning_rate']:.3g}<td>{seconds_in_words(line['seconds'])}"
        for line in lines
        if line.get("kind") == "epoch"
    ]
    head = "epoch,training loss,training top-1,test loss,top-1,top-5,learning rate,time"
    cells = "".join(f"<th>{word}" for word in head.split(","))
    return f"<h2>Epochs</h2><div class=scroll><table><tr>{cells}{''.join(rows)}</table></div>"
