"""`alexc verify`: does a bundle, or what a spec is lowered to, compute what the spec describes?"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alexc.cli.terminal import JsonOption, console, interruptible, print_json, steps
from alexc.cli.verify_foreign import check_foreign, meant
from alexc.diagnostics import fault, usage_fault

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.table import Table

    from alexc.graph.graph import Graph
    from alexc.plan.proof import Shipped
    from alexc.verify.report import Report, Row
    from alexc_runtime.manifest import BatchRange, EngineRecord, Preprocess


@dataclass(frozen=True)
class _Target:
    """What the command line names: a net, its weights by whole name, and its model.onnx.

    `written` is the graph that the model was written from, `plans` those that were built of it, and
    `batches` the sizes of batch that it serves; `precision` is what its engines are told.
    `searched` are the models of a bundle that only a search for the fastest has made, and
    `left_out` says of which others the build alone speaks.
    """

    name: str
    graph: Graph
    weights: Mapping[str, NDArray[np.float32]]
    model: Path
    written: Graph
    preprocess: Preprocess | None
    batches: BatchRange
    plans: tuple[EngineRecord, ...] = ()
    precision: str = "fp32"
    searched: tuple[Shipped, ...] = ()
    left_out: tuple[str, ...] = ()


def verify(
    target: Annotated[
        Path, typer.Argument(metavar="BUNDLE|SPEC", help="A bundle's folder, or a spec.")
    ],
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights", metavar="FILE", help="Of a spec: its weights; default: drawn from --seed."
        ),
    ] = None,
    onnx: Annotated[
        Path | None,
        typer.Option(
            "--onnx",
            metavar="FILE",
            help="Verify this ONNX file of another exporter; with --weights or a bundle, its "
            "weights, too.",
        ),
    ] = None,
    images: Annotated[
        list[Path] | None,
        typer.Option("--image", metavar="FILE", help="A photograph to use; may be repeated."),
    ] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option("--backend", metavar="NAME", help="Only this backend; may be repeated."),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            "--against", metavar="NAME", help="Hold the others against this backend instead."
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            "--batch",
            metavar="N",
            min=1,
            max=1024,
            help="Images that are drawn; default: one of each kind, fewer of a large net.",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", min=0, help="What is drawn comes from this.")
    ] = 0,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html", metavar="FILE", help="Also write the report as a page to this file."
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Cross-check on this machine: every layer of every backend against the reference.

    Outputs are those of the very bytes in the bundle, in every size of batch that it serves; of all
    models, those too that only a search has made. Of a spec it is what a build in fp32 would make.
    Exit status 1 if a backend diverges, or none could run.
    """
    from alexc.assembly.inputs import digest_of
    from alexc.folders import scratch
    from alexc.verify.backends import BACKENDS
    from alexc.verify.crosscheck import verify as cross_check

    for name in (*(backend or ()), *([against] if against else ())):
        if name in BACKENDS and (package := BACKENDS[name].missing()) is not None:
            raise usage_fault(
                "verify/not-installed",
                f"{name} was asked for, and the package {package} is not installed",
                help=f"pip install {package}",
            )
    if html is not None:
        _check_page(html)
    report: Report
    tabled = None
    if onnx is not None:
        if against is not None:
            raise usage_fault("verify/against", "--against is of alexc's own models, not of --onnx")
        name, graph, own, preprocess = meant(target, weights)
        inputs = _photographs(images, preprocess) if images else None
        report = check_foreign(
            onnx,
            graph,
            own,
            inputs=inputs,
            photographs=[digest_of(file) for file in images or ()],
            seed=seed,
            backends=backend,
            batch=batch,
            quiet=json,
        )
    else:
        with scratch("verify") as folder:
            checked = _target(target, weights, seed, folder)
            inputs = _photographs(images, checked.preprocess) if images else None
            unfinished = "not all was compared, and there is no verdict"
            with interruptible(unfinished), steps(enabled=not json) as progress:
                check = partial(
                    cross_check,
                    inputs=inputs,
                    photographs=[digest_of(file) for file in images or ()],
                    batches=checked.batches,
                    seed=seed,
                    batch=batch,
                    progress=progress,
                )
                report = check(
                    checked.graph,
                    checked.weights,
                    checked.model,
                    written=checked.written,
                    plans=checked.plans,
                    precision=checked.precision,
                    backends=backend,
                    against=against,
                )
                tabled = {result.backend for result in report.backends}
                if checked.searched and against is None:
                    from alexc.plan.proof import with_shipped

                    report = with_shipped(report, checked.searched, check, backend)
        name = checked.name
        report = replace(report, notes=(*report.notes, *checked.left_out))
    if html is not None:
        _write_page(report, html, name)
    if json:
        print_json(report.to_json())
    else:
        _print(report, tabled)
    raise typer.Exit(0 if report.passed else 1)


def _target(path: Path, weights: Path | None, seed: int, scratch: Path) -> _Target:
    """The bundle in the folder, or the model of the spec in the file, written to `scratch`."""
    from alexc.assembly.options import MODEL_ENGINES, PLAN_ENGINES
    from alexc.bundle import read_bundle
    from alexc.engines.record import DEFAULT_BATCH
    from alexc.frontend import load_net
    from alexc.model import graph_of, preprocess_of, weights_for, write_model
    from alexc.passes.inference import inference
    from alexc.plan.proof import shipped
    from alexc.weights import store
    from alexc_runtime.manifest import MODEL, WEIGHTS
    from alexc_runtime.opening import ENGINES

    if path.is_file():
        net = load_net(path)
        drawn = weights_for(net, weights, seed)
        write_model(net.graph, drawn, scratch, MODEL_ENGINES)
        written = inference(net.graph)
        name, preprocess = net.spec.name, preprocess_of(net)
        model = scratch / MODEL
        return _Target(name, net.graph, drawn, model, written, preprocess, DEFAULT_BATCH)
    if weights is not None and path.exists():
        raise usage_fault("verify/weights", "a bundle has its own weights; --weights is of a spec")
    bundle, net = read_bundle(path)
    manifest, graph = bundle.manifest, net.graph
    own = store.read(bundle.path(WEIGHTS), graph)
    written = graph_of(bundle, graph, own)
    # What a search has found may be of a model in another form, or of a narrower one.
    found = manifest.plan.candidates if manifest.plan is not None else ()
    formed = {way.path for way in found if way.forms}
    precisions = {manifest.precision, *(["tf32"] if manifest.precision == "fp32" else [])}
    plans = tuple(
        record
        for record in manifest.engines
        if record.engine in PLAN_ENGINES
        and record.precision in precisions
        and record.path not in formed
    )
    done = {record.path for record in plans if record.path is not None}
    searched, left_out = shipped(bundle, net, own, done)
    told = (r.precision for r in manifest.engines if r.path == MODEL and ENGINES[r.engine].on_gpu)
    return _Target(
        manifest.name,
        graph,
        own,
        bundle.path(MODEL),
        written,
        manifest.preprocess,
        manifest.input.batch,
        plans,
        next(told, manifest.precision),
        tuple(searched),
        tuple(left_out),
    )


def _photographs(files: list[Path], preprocess: Preprocess | None) -> NDArray[np.float32]:
    """The photographs as the net takes them; pixels as the numbers that they are."""
    import numpy as np

    from alexc.bundle import runtime_faults
    from alexc_runtime import load_photos

    if preprocess is None:
        raise fault("verify/no-preprocess", "nothing says how to read photographs")
    with runtime_faults():
        return np.asarray(load_photos(files, preprocess), np.float32)


def _check_page(path: Path) -> None:
    """Refuse a place where no page can be written, before anything is computed."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise usage_fault("verify/html", f"{path} is no .html file", help="--html report.html")
    from alexc.files import check_writable

    check_writable(path)


def _write_page(report: Report, path: Path, name: str) -> None:
    """Write the page, whole or not at all."""
    from alexc.files import whole_file
    from alexc.verify.page import page

    with whole_file(path) as file:
        file.write(page(report, name).encode())


def _print(report: Report, tabled: Collection[str] | None) -> None:
    """Print it all; in the table only the backends `tabled`, if that is said, and what diverges."""
    from alexc.cli.tables import show

    failed = {result.backend for result in report.backends if result.passed is False}
    rows = report.rows
    if tabled is not None:
        rows = [row for row in rows if row.backend in tabled or row.backend in failed]
    out = console()
    show(out, _table(rows))
    out.print("each layer's error where it comes nearest to its tolerance, and the share of it;")
    out.print("where images have large values, errors are as large, and so is what is tolerated")
    widest = max(16, *(len(result.backend) for result in report.backends))
    for result in report.backends:
        verdict = {True: "verified", False: "DIVERGES", None: ""}[result.passed]
        status = "" if verdict and result.status == "ran" else result.status
        said = ": ".join(filter(None, (verdict, status)))
        out.print(f"{result.backend:<{widest}} {said}")
    if (first := report.first_divergence) is not None:
        out.print(f"first divergence: {first.layer} on {first.backend}, {first.kind}")
    if report.inputs is not None:
        out.print(f"given {report.inputs}")
    for note in report.notes:
        out.print(note)
    out.print("passed" if report.passed else "FAILED")


def _table(given: Sequence[Row]) -> Table:
    """A line a layer: for each backend its largest error, as a share of what is tolerated there.

    Readers of shapes have no errors to show, unless they disagree.
    """
    from rich.text import Text

    from alexc.cli.tables import table

    rows = [row for row in given if row.check != "shapes" or not row.passed]
    backends = list(dict.fromkeys(row.backend for row in rows))
    layers = table("layer", *backends, figures=backends)
    worst: dict[tuple[str, str], Row] = {}
    for row in rows:
        key = (row.layer, row.backend)
        if key not in worst or _share(row) > _share(worst[key]):
            worst[key] = row
    # The whole net's rows come in the order of the data; those of single layers may not.
    ordered = sorted(rows, key=lambda row: row.check != "end_to_end")
    for layer in dict.fromkeys(row.layer for row in ordered):
        cells: list[Text | str] = []
        for backend in backends:
            found = worst.get((layer, backend))
            if found is None:
                cells.append("")
            elif found.max_abs is None:
                cells.append(Text(found.message or "nothing to compare", "red"))
            else:
                style = "red" if not found.passed else "default"
                share = _share(found)
                shown = f"{share:.0%}" if share < 100 else f"{share:.1g} ×"
                cells.append(Text.assemble(f"{found.max_abs:.1e} ", (f"{shown:>4}", style)))
        layers.add_row(layer, *cells)
    return layers


def _share(row: Row) -> float:
    """The error as a share of the tolerance; above 1 is a divergence."""
    if row.max_abs is None:
        return float("inf")
    if row.tolerance == 0:
        return 0.0 if row.max_abs == 0 else float("inf")
    return row.max_abs / row.tolerance
