"""`alexc bench`: every engine and its peers side by side, and how far each is from the limit."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alexc.cli.terminal import JsonOption, console, interruptible, print_json, steps
from alexc.diagnostics import usage_fault

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.table import Table

_LARGEST_BATCH, _MOST_CLIENTS = 4096, 256
_NONE = "none"

# A terminal of so many columns shows all of a row; a narrower one these.
_WIDE = 135
_NARROW = ("engine", "precision", "class", "median ms", "middle half", "images/s")


def bench(
    target: Annotated[
        Path, typer.Argument(metavar="BUNDLE|SPEC", help="A bundle's folder, or a spec file.")
    ],
    batch: Annotated[
        str, typer.Option("--batch", metavar="N,…", help="The batch sizes to measure.")
    ] = "1,16",
    beside: Annotated[
        list[Path] | None,
        typer.Option(
            "--beside",
            metavar="BUNDLE",
            help="Another bundle of the same net and weights, say in int8; may be repeated.",
        ),
    ] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option("--engine", metavar="NAME", help="Only this engine; may be repeated."),
    ] = None,
    peer: Annotated[
        list[str] | None,
        typer.Option(
            "--peer",
            metavar="NAME",
            help="Only this peer, or `none`; may be repeated. Peers: torch, torch-compile, "
            "export-onnxruntime, export-openvino, torch-tensorrt.",
        ),
    ] = None,
    calibrate: Annotated[
        list[Path] | None,
        typer.Option(
            "--calibrate",
            metavar="PATH",
            help="Photographs, or folders of them, that peers in int8 take their ranges from; "
            "without them, from the images that all are measured on. May be repeated.",
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads", metavar="N", min=1, max=1024, help="Threads; default: each engine's own."
        ),
    ] = None,
    clients: Annotated[
        str | None,
        typer.Option(
            "--clients",
            metavar="N,…",
            help="Measure serving, too: so many clients at once of each of alexc's engines, with "
            "and without dynamic batching. For example 1,4,16.",
        ),
    ] = None,
    rounds: Annotated[
        int, typer.Option("--rounds", metavar="N", min=1, help="Turns of each, for each batch.")
    ] = 9,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", min=0, help="What images are drawn from.")
    ] = 0,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", metavar="FILE", help="Write a report, too.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot", metavar="FILE.svg|png", help="Draw it, too; serving as FILE-serving."
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Measure latency and throughput of every engine and its peers, in turns, in one run.

    Outputs are held against the float64 reference: what is wrong is not timed. An engine that is
    missing or fails says so in its row, and the others go on.
    """
    from alexc.plan.bench import Options, check
    from alexc.plan.bench import bench as run
    from alexc.plan.measure import Pace

    options = Options(
        batches=_numbers("batch", "a batch size", batch, "1,16", _LARGEST_BATCH),
        beside=tuple(beside or ()),
        engines=tuple(engine) if engine else None,
        peers=() if peer == [_NONE] else tuple(peer) if peer else None,
        threads=threads,
        seed=seed,
        clients=()
        if clients is None
        else _numbers("clients", "a number of clients", clients, "1,4,16", _MOST_CLIENTS),
        pace=Pace(rounds=rounds),
    )
    check(options)
    if calibrate:
        options = replace(options, photographs=_photographs(target, calibrate))
    if plot is not None:
        from alexc.plan.plot import check as check_plot

        check_plot(plot)
    for path in (markdown, plot):
        if path is not None:  # before the minutes that it takes to have something to write
            from alexc.files import check_writable

            check_writable(path)
    unmeasured = "not all was measured, and nothing is kept; the same command starts again"
    with interruptible(unmeasured), steps(enabled=not json) as progress:
        result = run(target, options, progress)
    if markdown is not None:
        from alexc.files import whole_file
        from alexc.plan.report import markdown as rendered

        title = f"# {result['name']}, measured\n\n"
        text = title + rendered(result)
        if "serving" in result:
            from alexc.plan.serving_report import serving_text

            text += "\n## Serving\n\n" + serving_text(result["serving"])
        with whole_file(markdown) as file:
            file.write(text.encode())
    if plot is not None:
        from alexc.plan.plot import plot as draw

        draw(result, plot)
        if "serving" in result:
            from alexc.plan.serving_plot import plot as draw_serving

            draw_serving(result, plot.with_stem(f"{plot.stem}-serving"))
    if json:
        print_json(result)
    else:
        _print(result)
    if all(row["p50_ms"] is None for row in result["rows"]):
        raise typer.Exit(1)


def _photographs(target: Path, paths: Sequence[Path]) -> NDArray[np.float32]:
    """The photographs as the net takes them. Raises AlexcError or UsageError."""
    from alexc.bundle import read_bundle
    from alexc.calibrate.images import load_images
    from alexc.calibrate.narrow import how_to_read
    from alexc.frontend import load_net
    from alexc.model import preprocess_of

    net = read_bundle(target)[1] if target.is_dir() else load_net(target)
    return load_images(paths, how_to_read(preprocess_of(net)))


def _numbers(option: str, what: str, text: str, example: str, largest: int) -> tuple[int, ...]:
    """The numbers of `--batch 1,16`, each once. Raises UsageError."""
    parts = [part.strip() for part in text.split(",")]
    for part in parts:
        if not re.fullmatch(r"[0-9]{1,9}", part) or not 1 <= int(part) <= largest:
            raise usage_fault(
                f"bench/{option}",
                f"{what} is a whole number from 1 to {largest}, not {part[:40]!a}",
                help=f"for example --{option} {example}",
            )
    return tuple(dict.fromkeys(map(int, parts)))


def _print(result: Mapping[str, Any]) -> None:
    from alexc.cli.tables import show
    from alexc.plan.report import (
        ROWS_HEAD,
        batches,
        comparison_lines,
        machine_text,
        overhead_lines,
    )

    out = console()
    out.print(machine_text(result["machine"]).replace("**", ""))
    for batch in batches(result):
        show(out, _table(result, batch, ROWS_HEAD if out.width >= _WIDE else _NARROW))
    if out.width < _WIDE:
        out.print("more columns on a wider terminal, and with --markdown or --json")
    unmeasured = (row for row in result["rows"] if row["p50_ms"] is None)
    for line in dict.fromkeys(f"{r['engine']} {r['precision']}: {r['status']}" for r in unmeasured):
        out.print(line)
    for line in (*comparison_lines(result), *overhead_lines(result["rows"])):
        out.print(line)
    if "serving" in result:
        _print_serving(result["serving"])


def _print_serving(rows: Sequence[Mapping[str, Any]]) -> None:
    """Tables of each engine: one line for a load and a way, so that 80 columns are enough."""
    from alexc.cli.tables import show, table
    from alexc.plan import serving_report as report

    out = console()
    for title, head, by_engine in (
        ("clients at once", report.CLOSED_LINES_HEAD, report.closed_lines(rows)),
        ("requests that come by themselves", report.OPEN_LINES_HEAD, report.open_lines(rows)),
    ):
        for engine, lines in by_engine.items():
            made = table(*head, figures={*head} - {"way"}, title=f"{engine}, {title}")
            for line in lines:
                made.add_row(*line)
            show(out, made)
    for reason in report.unserved(rows):
        out.print(reason)


def _table(result: Mapping[str, Any], batch: int, columns: Sequence[str]) -> Table:
    """What was measured of a batch size, the fastest first; these of ROWS_HEAD."""
    from rich.text import Text

    from alexc.cli.tables import table
    from alexc.plan.report import ROWS_HEAD, row_cells

    words = {"engine", "precision", "class"}
    title = "one image" if batch == 1 else f"batches of {batch}"
    made = table(*columns, figures={*columns} - words, title=title)
    measured = [r for r in result["rows"] if r["batch"] == batch and r["p50_ms"] is not None]
    for row in sorted(measured, key=lambda row: row["p50_ms"]):
        cells = dict(zip(ROWS_HEAD, row_cells(row), strict=True))
        name = Text(cells.pop("engine").strip("*"), "bold" if row["family"] == "ours" else "")
        made.add_row(*(cells.get(column, name) for column in columns))
    return made
