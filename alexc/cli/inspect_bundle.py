"""What `alexc inspect BUNDLE` tells: one function a section, in the order of `SECTIONS`.

A section has a key and a value for `--json`, and what a terminal shows. One that a bundle has
nothing to say of is None.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from alexc.bundle import read_bundle, runtime_faults
from alexc.cli.tables import pairs, show, table
from alexc.cli.terminal import bytes_in_words, console, print_json
from alexc.diagnostics import fault
from alexc.engines.record import BatchRange
from alexc.ops.base import format_shape
from alexc_runtime.manifest import REPORT, EngineRecord

if TYPE_CHECKING:
    from alexc.frontend import Net
    from alexc_runtime.manifest import Bundle, Manifest, Origin
    from alexc_runtime.planned import Candidate


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
    shown: Sequence[Table | str]


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
    spaced = True  # at the top, and behind a table with a frame, whose last line is empty
    for section in sections:
        if not spaced:
            out.print()
        out.print(Text(section.title, "bold"))
        for part in section.shown:
            show(out, part) if isinstance(part, Table) else out.print(part)
            spaced = isinstance(part, Table) and part.box is not None


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
    return Section("about", content, title, [pairs(rows.items())])


def _origin_in_words(origin: Origin | None) -> str:
    if origin is None:
        return ""
    return "given" if origin.seed is None else f"drawn from seed {origin.seed}, not trained"


def _engines(opened: Opened) -> Section:
    records = opened.manifest.engines
    engines = table("engine", "precision", "size", "status", figures=["size"])
    for record in records:
        size = opened.size(record)
        built = record.built
        notes = [record.status]
        if record.path is not None:
            notes.append(record.path)  # of one engine there may be several
        if built is not None:
            notes += _plan_notes(record)
        engines.add_row(
            record.engine,
            record.precision,
            "" if size is None else bytes_in_words(size),
            "\n".join(notes),
        )
    content = [_engine_json(opened, record) for record in records]
    return Section("engines", content, "engines", [engines])


def _plan_notes(record: EngineRecord) -> list[str]:
    built = record.built
    assert built is not None
    where = f"for {', '.join(built.targets)}" if built.targets else "for the library's usual GPUs"
    if built.any_gpu:
        where = "for GPUs of 8.0 and later"
    version = f"{built.library} and later" if built.any_version else built.library
    notes = [f"by version {version}, {where}"]
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
    ways = table("way", *columns, "error", figures=[*columns, "error"])
    for way in plan.candidates:
        if not way.times and way.rel_l2 is None:
            continue  # it did not run, and below is why
        times = {each.batch: f"{each.ms:.3g}\n{each.low:.3g}–{each.high:.3g}" for each in way.times}
        cells = [times.get(batch, "") for batch in batches]
        ways.add_row(way.label, *cells, "\n".join(_errors(way)))
    # Of each batch size on a line of its own.
    verdicts = [(each.label, each.verdict.replace("; ", ";\n")) for each in plan.candidates]
    title = f"plan: the fastest within {plan.budget} of {len(plan.candidates)} ways"
    return Section("plan", plan.to_json(), title, [pairs(rows.items()), ways, pairs(verdicts)])


def _errors(way: Candidate) -> list[str]:
    """How far off its outputs are, how often the class is the same, and how often it is right."""
    found = []
    if way.exact:
        found.append("exact")
    elif way.rel_l2 is not None:
        found.append(f"{way.rel_l2:.1e}")
    shares = {"same": way.agreement, "top-1": way.top1, "top-5": way.top5}
    found += [f"{share:.1%} {name}" for name, share in shares.items() if share is not None]
    return found


def _verification(opened: Opened) -> Section:
    said = opened.manifest.verification
    report = opened.read(REPORT) if REPORT in opened.manifest.files else {}
    content = {
        "passed": said.passed,
        "reference": said.reference,
        "inputs": dict(said.inputs) or None,
        "backends": [
            {"backend": each.backend, "status": each.status, "passed": each.passed}
            for each in said.backends
        ],
        "digests": dict(said.digests),
        "accuracy": report.get("accuracy", []),
    }
    verdict = {True: "verified", False: "not verified: it diverges", None: "nothing was verified"}
    backends = table("backend", "verdict", "status")
    for each in said.backends:
        passed = {True: "verified", False: "diverges", None: "not run"}[each.passed]
        backends.add_row(each.backend, passed, each.status.removeprefix("not run: "))
    lines: list[Table | str] = [backends]
    if said.inputs:
        lines.insert(0, _inputs(said.inputs))
    if content["accuracy"]:
        lines.append(accuracy_table(content["accuracy"]))
    lines.append("of " + ", ".join(said.digests) + ", by their SHA-256" if said.digests else "")
    title = f"{verdict[said.passed]} against {said.reference}"
    return Section("verification", content, title, [line for line in lines if line])


def _inputs(inputs: Mapping[str, Any]) -> str:
    what = "image" if inputs["kinds"] else "photograph"
    count = inputs["images"]
    what = f"one {what}" if count == 1 else f"{count} {what}s"
    if inputs["kinds"]:
        what += f" drawn from seed {inputs['seed']} ({', '.join(inputs['kinds'])})"
    return f"{what}; outputs in batches of {', '.join(map(str, inputs['batches']))}"


def accuracy_table(accuracies: list[dict[str, Any]]) -> Table:
    """How far off each backend is on photographs, of what a report's `accuracy` holds."""
    figures = ("off by", "at most", "same class", "images")
    accuracy = table("backend", "output", *figures, figures=figures)
    for each in accuracies:
        same = each["top1_agreement"]
        accuracy.add_row(
            each["backend"],
            each["output"],
            f"{each['rel_l2']:.2%}",
            f"{each['max_abs']:.2g}",
            "" if same is None else f"{same:.1%}",
            str(each["images"]),
        )
    return accuracy


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
    methods = table("method", "off by", "same class", "", figures=["off by", "same class"])
    for name, tried in found.tried.items():
        same = "" if tried.top1_agreement is None else f"{tried.top1_agreement:.1%}"
        methods.add_row(name, f"{tried.rel_l2:.2%}", same, "kept" if name == found.method else "")
    title = (
        f"{len(found.layers)} layers calibrated on {found.images} images, "
        f"compared on {found.held_out} others"
    )
    return Section("calibration", content, title, [methods])


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
    shown: list[Table | str] = []
    for path, content in found.items():
        shown.append(f"{path}, {len(content['layers'])} layers: {content['said']}")
        shown.append(_layers_table(content))
    return Section("plan_layers", found, "layers of the plans", shown)


def _layers_table(content: dict[str, Any]) -> Table:
    """A built engine's layers one by one; of those that were only parsed, the kinds for each."""
    if content["source"] == "engine":
        layers = table("layer of the engine", "type", "layers of the spec")
        for layer in content["layers"]:
            layers.add_row(layer["name"], layer["type"], layer["spec"] or "")
        return layers
    layers = table("layer of the spec", "parsed as")
    kinds: dict[str, dict[str, None]] = {}
    for layer in content["layers"]:
        kinds.setdefault(layer["spec"] or "", {})[layer["type"]] = None
    for spec, types in kinds.items():
        layers.add_row(spec or "(none)", ", ".join(types))
    return layers


def _files(opened: Opened) -> Section:
    files = opened.manifest.files
    listed = table("file", "size", "SHA-256", figures=["size"])
    for path, record in sorted(files.items()):
        listed.add_row(path, bytes_in_words(record.bytes), record.sha256[:16] + "…")
    total = sum(record.bytes for record in files.values())
    content = {path: {"bytes": r.bytes, "sha256": r.sha256} for path, r in sorted(files.items())}
    return Section("files", content, f"{len(files)} files, {bytes_in_words(total)}", [listed])


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


def _range(batch: BatchRange) -> str:
    if batch.min == batch.max:
        return str(batch.min)
    return f"{batch.min} to {batch.max}, best {batch.opt}"


def _batch_json(batch: BatchRange) -> dict[str, int]:
    return {"min": batch.min, "opt": batch.opt, "max": batch.max}
