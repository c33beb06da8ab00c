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
from alexc.train.run import Run, open_run
from alexc.weights import store

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVES, FILTERS, CONFUSION, PAGE = "curves.png", "filters.png", "confusion.png", "index.html"
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

    epochs = [line for line in lines if line.get("kind") == "epoch"]
    if not epochs:
        return None
    figure = Figure(figsize=(10, 3.4))
    left, right = figure.subplots(1, 2)
    x = [line["epoch"] for line in epochs]
    left.plot(x, [line["train_loss"] for line in epochs], label="training")
    left.plot(x, [line["loss"] for line in epochs], label="test")
    left.set(xlabel="epoch", ylabel="loss")
    right.plot(x, [100 * (1 - line["train_top1"]) for line in epochs], label="training")
    right.plot(x, [100 * (1 - line["top1"]) for line in epochs], label="test")
    right.set(xlabel="epoch", ylabel="error, %")
    for axes in (left, right):
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
    sheet = np.ones((rows * (height + 1) + 1, columns * (width + 1) + 1, 3), np.float32)
    for number, kernel in enumerate(weight):
        image = kernel.transpose(1, 2, 0)
        if channels != 3:
            image = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2)
        low, high = image.min(), image.max()
        top = 1 + number // columns * (height + 1)
        left = 1 + number % columns * (width + 1)
        sheet[top : top + height, left : left + width] = (image - low) / max(high - low, 1e-12)
    figure = Figure(figsize=(columns / 2, rows / 2))
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
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
img { max-width: 100% } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
td, th { padding: .15rem .8rem; text-align: right; border-bottom: 1px solid #ddd }
pre { background: #f4f4f4; padding: 1rem; overflow: auto }
@media (prefers-color-scheme: dark) { body { background: #1b1b1b; color: #ddd }
pre { background: #262626 } img { background: white } td, th { border-color: #444 } }
"""


def _page(run: Run, lines: Sequence[dict[str, Any]], pictures: dict[str, bytes]) -> str:
    """The run as one HTML file; pictures are within it."""
    name = html.escape(run.net.spec.name)
    end = next((line for line in reversed(lines) if line.get("kind") == "end"), None)
    record = run.record
    images = f"{record.images[0]:,} images to learn from, {record.images[1]:,} to test with"
    machine = f"{record.precision}, {record.threads} threads"
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{name}</title>",
        f"<style>{_STYLE}</style><h1>{name}</h1>",
        f"<p>{html.escape(record.data)}: {images}; {html.escape(machine)}.</p>",
    ]
    if end is not None:
        parts.append(
            f"<p><b>top-1 {end['top1']:.2%}, top-5 {end['top5']:.2%}</b> of {end['images']:,} "
            f"images, {end['views']} view(s), after {end['seconds']:,.0f} s.</p>"
        )
    for file, title in (
        (CURVES, "Curves"),
        (FILTERS, "Kernels of the first layer"),
        (CONFUSION, "What is taken for what, in % of the label's images"),
    ):
        if file in pictures:
            data = base64.b64encode(pictures[file]).decode()
            parts.append(f'<h2>{title}</h2><img alt="{title}" src="data:image/png;base64,{data}">')
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
        f"<td>{line['learning_rate']:.3g}<td>{line['seconds']:,.0f}"
        for line in lines
        if line.get("kind") == "epoch"
    ]
    head = "epoch,training loss,training top-1,test loss,top-1,top-5,learning rate,seconds"
    cells = "".join(f"<th>{word}" for word in head.split(","))
    return f"<h2>Epochs</h2><table><tr>{cells}{''.join(rows)}</table>"
