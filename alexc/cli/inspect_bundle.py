"""What `alexc inspect BUNDLE` tells: one function a section, in the order of `SECTIONS`.

A section has a key and a value for `--json`, and what a terminal shows. One that a bundle has
nothing to say of is None.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from alexc.bundle import read_bundle, runtime_faults
from alexc.cli.terminal import bytes_in_words, console, print_json
from alexc.diagnostics import fault
from alexc.engines.record import BatchRange
from alexc.ops.base import format_shape
from alexc_runtime.manifest import REPORT, EngineRecord

if TYPE_CHECKING:
    from rich.console import RenderableType

    from alexc.frontend import Net
    from alexc_runtime.manifest import Bundle, Manifest, Origin


@dataclass(frozen=True)
class Opened:
    """A bundle whose every file was found unaltered, and the net that its spec describes."""

    bundle: Bundle
    net: Net

    @property
    def manifest(self) -> Manifest:
        return self.bundle.manifest

    def read(self, name: str) -> dict[str, Any]:
        """A file of the bundle that holds a JSON object."""
        content: dict[str, Any] = json.loads(self.bundle.path(name).read_bytes())
        return content

    def size(self, record: EngineRecord) -> int | None:
        """The bytes of what the engine loads. Raises BundleError if the bundle has no such file."""
        if record.path is None:
            return None
        self.bundle.path(record.path)
        return self.manifest.files[record.path].bytes


@dataclass(frozen=True)
class Section:
    """A part of the answer: what `--json` holds under `key`, and what is shown under `title`."""

    key: str
    content: Any
    title: str
    shown: Sequence[RenderableType]


def inspect_bundle(folder: Path, as_json: bool) -> None:
    """Print what the bundle is.

    Raises UsageError if there is none in the folder, AlexcError if it is damaged.
    """
    whole = Opened(*read_bundle(folder))
    sections = [section for make in SECTIONS if (section := _told(make, whole)) is not None]
    if as_json:
        print_json({"bundle": str(folder), **{each.key: each.content for each in sections}})
        return
    out = console()
    for number, section in enumerate(sections):
        if number:
            out.print()
        out.print(f"[bold]{section.title}[/bold]")
        for part in section.shown:
            out.print(part)


def _told(make: Callable[[Opened], Section | None], opened: Opened) -> Section | None:
    """A section. What it reads is bound by digests, and yet may not be what a build writes."""
    try:
        with runtime_faults():
            return make(opened)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise fault(
            "bundle/content",
            f"a file of the bundle {opened.bundle.folder} is not as a build writes it: "
            f"{type(error).__name__}: {error}",
            help="build it again with `alexc build`",
        ) from error


# ---- the sections --------------------------------------------------------------------------------


def _about(opened: Opened) -> Section:
    manifest, graph = opened.manifest, opened.net.graph
    outputs = [f"{output.name} {format_shape(output.shape)}" for output in manifest.outputs]
    content = {
        "name": manifest.name,
        "alexc": manifest.alexc,
        "precision": manifest.precision,
        "source": opened.net.spec.header.source,
        "digests": {"spec": manifest.spec_digest, "graph": manifest.graph_digest},
        "input": {
            "name": manifest.input.name,
            "shape": list(manifest.input.shape),
            "dtype": manifest.input.dtype,
            "batch": _batch_json(manifest.input.batch),
        },
        "outputs": [
            {"name": output.name, "shape": list(output.shape)} for output in manifest.outputs
        ],
        "weights": None if manifest.weights is None else {"seed": manifest.weights.seed},
        "labels": None if manifest.labels is None else len(manifest.labels),
        "layers": len(graph.nodes),
        "parameters": graph.parameter_count,
        "macs": graph.macs,
        "versions": dict(manifest.versions),
    }
    rows = {
        "spec": f"{len(graph.nodes)} layers, {graph.parameter_count:,} parameters, "
        f"{graph.macs:,} MACs an image",
        "source": opened.net.spec.header.source or "",
        "weights": _origin_in_words(manifest.weights),
        "precision": manifest.precision,
        "input": f"{manifest.input.name} {format_shape(manifest.input.shape)}, "
        f"{manifest.input.dtype}",
        "outputs": ", ".join(outputs),
        "labels": f"{len(manifest.labels):,} classes" if manifest.labels else "",
        "built by": f"alexc {manifest.alexc}",
    }
    title = f"{opened.bundle.folder}: a bundle of {manifest.name}"
    return Section("about", content, title, [_pairs(rows)])


def _origin_in_words(origin: Origin | None) -> str:
    if origin is None:
        return ""
    return "given" if origin.seed is None else f"drawn from seed {origin.seed}, not trained"


def _engines(opened: Opened) -> Section:
    records = opened.manifest.engines
    table = _table("engine", "precision", "file", "status")
    table.columns[2].justify = "right"
    for record in records:
        size = opened.size(record)
        built = record.built
        notes = [record.status]
        if built is not None:
            notes += _plan_notes(record)
        table.add_row(
            record.engine,
            record.precision,
            "" if size is None else bytes_in_words(size),
            "\n".join(notes),
        )
    return Section(
        "engines", [_engine_json(opened, record) for record in records], "engines", [table]
    )


def _plan_notes(record: EngineRecord) -> list[str]:
    built = record.built
    assert built is not None
    where = f"on {', '.join(built.targets)}" if built.targets else "on the library's usual GPUs"
    if built.any_gpu:
        where = "on GPUs of 8.0 and later"
    version = f"{built.library} and later" if built.any_version else built.library
    notes = [f"of version {version}, {where}"]
    ranges = "; ".join(_range(batch) for batch in built.profiles)
    notes.append(f"batches of {ranges}")
    if built.stripped:
        notes.append("without its weights, which are put in when it is loaded")
    return notes


def _engine_json(opened: Opened, record: EngineRecord) -> dict[str, Any]:
    return {**record.to_json(), "bytes": opened.size(record)}


def _plan(opened: Opened) -> Section | None:
    """What a search has chosen, and every way that it tried."""
    plan = opened.manifest.plan
    if plan is None:
        return None
    images = f"{plan.images} photographs" if plan.photographs else f"{plan.images} drawn images"
    rows = {
        "choice": plan.said,
        "measured on": f"{plan.machine.cpu}, {plan.machine.cores} cores, "
        + ", ".join(f"{name} {version}" for name, version in plan.machine.versions.items()),
        "errors on": images,
        "search": f"{plan.seconds:.0f} s",
    }
    batches = sorted({each.batch for way in plan.candidates for each in way.times})
    columns = [f"ms of {batch}" for batch in batches]
    scored = any(way.agreement is not None or way.top1 is not None for way in plan.candidates)
    head = ["engine", "precision", "forms", "threads", *columns, "error"]
    table = _table(*head, *(["same class, top-1, top-5"] if scored else []))
    for way in plan.candidates:
        if not way.times and way.rel_l2 is None:
            continue  # it did not run, and below is why
        times = {each.batch: f"{each.ms:.3g}\n{each.low:.3g}–{each.high:.3g}" for each in way.times}
        shares = [f"{s:.1%}" for s in (way.agreement, way.top1, way.top5) if s is not None]
        table.add_row(
            way.engine,
            way.precision,
            ", ".join(way.forms),
            "" if way.threads is None else str(way.threads),
            *(times.get(batch, "") for batch in batches),
            "exact" if way.exact else "" if way.rel_l2 is None else f"{way.rel_l2:.1e}",
            *([", ".join(shares)] if scored else []),
        )
    title = f"plan: the fastest within {plan.budget} of {len(plan.candidates)} ways"
    reasons = [f"{each.label}: {each.verdict}" for each in plan.candidates]
    return Section("plan", plan.to_json(), title, [_pairs(rows), table, "\n".join(reasons)])


def _verification(opened: Opened) -> Section:
    said = opened.manifest.verification
    report = opened.read(REPORT) if REPORT in opened.manifest.files else {}
    inputs = report.get("inputs")
    content = {
        "passed": said.passed,
        "reference": said.reference,
        "inputs": inputs,
        "backends": [
            {"backend": each.backend, "status": each.status, "passed": each.passed}
            for each in said.backends
        ],
        "digests": dict(said.digests),
        "accuracy": report.get("accuracy", []),
    }
    verdict = {True: "verified", False: "not verified: it diverges", None: "nothing was verified"}
    table = _table("backend", "verdict", "status")
    for each in said.backends:
        passed = {True: "passed", False: "diverges", None: "not run"}[each.passed]
        table.add_row(each.backend, passed, each.status)
    lines: list[RenderableType] = [table]
    if inputs is not None:
        lines.insert(0, _inputs(inputs))
    if content["accuracy"]:
        lines.append(_accuracy(content["accuracy"]))
    lines.append("of " + ", ".join(said.digests) + ", by their SHA-256" if said.digests else "")
    title = f"{verdict[said.passed]} against {said.reference}"
    return Section("verification", content, title, [line for line in lines if line])


def _inputs(inputs: dict[str, Any]) -> str:
    count = inputs["images"]
    images = "one image" if count == 1 else f"{count} images"
    drawn = f" drawn from seed {inputs['seed']} ({', '.join(inputs['kinds'])})"
    what = images + (drawn if inputs["kinds"] else " of photographs")
    return f"{what}; outputs in batches of {', '.join(map(str, inputs['batches']))}"


def _accuracy(accuracies: list[dict[str, Any]]) -> Table:
    table = _table("backend", "output", "off by", "at most", "same class", "images")
    for each in accuracies:
        same = each["top1_agreement"]
        table.add_row(
            each["backend"],
            each["output"],
            f"{each['rel_l2']:.2%}",
            f"{each['max_abs']:.2g}",
            "" if same is None else f"{same:.1%}",
            str(each["images"]),
        )
    return table


def _calibration(opened: Opened) -> Section | None:
    from alexc.calibrate.calibration import FILE

    if FILE not in opened.manifest.files:
        return None
    from alexc.calibrate.calibration import read

    found = read(opened.bundle.path(FILE))
    content = {
        "method": found.method,
        "images": found.images,
        "held_out": found.held_out,
        "layers": list(found.layers),
        "tried": {
            name: {"rel_l2": tried.rel_l2, "top1_agreement": tried.top1_agreement}
            for name, tried in found.tried.items()
        },
    }
    table = _table("method", "off by", "same class", "")
    for name, tried in found.tried.items():
        same = "" if tried.top1_agreement is None else f"{tried.top1_agreement:.1%}"
        table.add_row(name, f"{tried.rel_l2:.2%}", same, "kept" if name == found.method else "")
    title = (
        f"{len(found.layers)} layers calibrated on {found.images} images, "
        f"compared on {found.held_out} others"
    )
    return Section("calibration", content, title, [table])


def _plan_layers(opened: Opened) -> Section | None:
    from alexc.engines.tensorrt.layers import layers_file

    found = {}
    for record in opened.manifest.engines:
        if record.path is None or record.built is None:
            continue
        if (name := layers_file(record.path)) in opened.manifest.files:
            found[record.path] = opened.read(name)
    if not found:
        return None
    shown: list[RenderableType] = []
    for path, content in found.items():
        shown.append(f"{path}, {len(content['layers'])} layers: {content['said']}")
        shown.append(_layers_table(content))
    return Section("plan_layers", found, "layers of the plans", shown)


def _layers_table(content: dict[str, Any]) -> Table:
    """A built engine's layers one by one; of those that were only parsed, the kinds for each."""
    if content["source"] == "engine":
        table = _table("layer of the engine", "type", "layers of the spec")
        for layer in content["layers"]:
            table.add_row(layer["name"], layer["type"], layer["spec"] or "")
        return table
    table = _table("layer of the spec", "parsed as")
    kinds: dict[str, dict[str, None]] = {}
    for layer in content["layers"]:
        kinds.setdefault(layer["spec"] or "", {})[layer["type"]] = None
    for spec, types in kinds.items():
        table.add_row(spec or "(none)", ", ".join(types))
    return table


def _files(opened: Opened) -> Section:
    files = opened.manifest.files
    table = _table("file", "size", "SHA-256")
    table.columns[1].justify = "right"
    for path, record in sorted(files.items()):
        table.add_row(path, bytes_in_words(record.bytes), record.sha256[:16] + "…")
    total = sum(record.bytes for record in files.values())
    content = {path: {"bytes": r.bytes, "sha256": r.sha256} for path, r in sorted(files.items())}
    return Section("files", content, f"{len(files)} files, {bytes_in_words(total)}", [table])


SECTIONS: tuple[Callable[[Opened], Section | None], ...] = (
    _about,
    _engines,
    _plan,
    _verification,
    _calibration,
    _plan_layers,
    _files,
)


# ---- words ---------------------------------------------------------------------------------------


def _pairs(rows: dict[str, str]) -> Table:
    """Names and values, the names dim; what has no value is left out."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    for name, value in rows.items():
        if value:
            table.add_row(name, value)
    return table


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _range(batch: BatchRange) -> str:
    if batch.min == batch.max:
        return str(batch.min)
    return f"{batch.min} to {batch.max}, best {batch.opt}"


def _batch_json(batch: BatchRange) -> dict[str, int]:
    return {"min": batch.min, "opt": batch.opt, "max": batch.max}
