"""The cross-check of a model that another tool exported, against a spec.

The reference is the spec's, the file runs as it is, and the tolerances are those of any model. What
differs is how tensors are found: by their counterparts (see `match`) and not by name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from alexc.diagnostics import fault, usage_fault
from alexc.graph.graph import INPUT, Graph
from alexc.passes.inference import inference
from alexc.verify import inputs as provocations
from alexc.verify.answers import Whole
from alexc.verify.backends.base import Backend, Counterparts, Subject
from alexc.verify.backends.foreign import FOREIGN_BACKENDS, ForeignBackend
from alexc.verify.blas import one_thread
from alexc.verify.compare import first_divergence
from alexc.verify.crosscheck import PATIENCE
from alexc.verify.findings import Findings
from alexc.verify.foreign.match import Matching, match
from alexc.verify.foreign.model import ForeignModel
from alexc.verify.foreign.parts import Parts
from alexc.verify.foreign.report import ForeignReport
from alexc.verify.foreign.weights import surplus, weight_faults, weights_in_file, with_folded
from alexc.verify.processes import Crew, ask
from alexc.verify.report import BackendResult, Divergence, Inputs, Row
from alexc.verify.standard import Standard


def verify_foreign(
    graph: Graph,
    model: ForeignModel,
    *,
    weights: Mapping[str, NDArray[np.float32]] | None = None,
    inputs: NDArray[np.float32] | None = None,
    seed: int = 0,
    backends: Sequence[str] | None = None,
    photographs: Sequence[str] = (),
    batch: int | None = None,
    progress: Callable[[str], None] | None = None,
    isolate: bool = True,
    patience: float = PATIENCE,
) -> ForeignReport:
    """Hold a foreign file against the graph of a spec, layer by layer and end to end.

    Without `weights` the reference takes those of the file: what is verified then is that the file
    computes the spec's function of its own weights. With them, what differs is a fault. The other
    parameters are those of `crosscheck.verify`; `backends` are names of FOREIGN_BACKENDS.

    Raises AlexcError if the file is not of the spec's input and outputs, or if it has no weights
    for a layer and none are given.
    """
    say = progress or (lambda _: None)
    model.check(graph)
    kinds = _chosen(backends)
    found = _prepared(graph, model, weights)
    images = inputs
    if images is None:
        drawn = provocations.kinds_for(graph, batch)
        images = provocations.batch(graph.input_shape, len(drawn), seed, drawn)
    results = {
        kind: BackendResult(kind.name, f"not run: {package} is not installed", None)
        for kind in kinds
        if (package := kind.missing()) is not None
    }
    running = [kind for kind in kinds if kind not in results]
    findings: list[Findings] = []
    sizes = tuple(size for size in (1, 3) if size < len(images))
    whole = Whole(images, sizes if model.batch is None else ())
    with ExitStack() as stack:
        crew = None
        if isolate and running:
            asked: dict[type[Backend], Whole] = dict.fromkeys(running, whole)
            crew = stack.enter_context(Crew(asked, found.subject, None, patience))
            stack.enter_context(one_thread())
        say("computing the reference")
        graph = found.subject.written
        standard = Standard(graph, found.subject.weights, images, seed, own_weights=True)
        for kind in running:
            say(f"running {kind.name}")
            of_kind = Findings(
                kind,
                found.subject,
                standard,
                asked_for=kind.name in (backends or ()),
                named=found.matching.pairs,
                tried=found.tried,
            )
            for answer in ask(kind, found.subject, whole, of_kind.layers(), crew):
                of_kind.take(answer)
            findings.append(of_kind)
    report = _report(found, model, kinds, results, findings, set(backends or ()))
    given = Inputs(
        images=len(images),
        seed=seed,
        kinds=() if inputs is not None else provocations.kinds_for(graph, batch),
        photographs=tuple(photographs),
        digest="sha256:" + hashlib.sha256(images.tobytes()).hexdigest(),
        batches=sorted({len(images), *whole.sizes} if model.batch is None else {model.batch}),
    )
    return replace(report, inputs=given)


@dataclass(frozen=True)
class _Prepared:
    """What is verified, with its counterparts; `tried` are the layers to be run alone.

    `faults` are those of the file's weights, by their whole names, None if none were given to hold
    them against; `surplus` those by layer that no weight of the spec's stands for.
    """

    subject: Subject
    matching: Matching
    tried: set[str]
    faults: Mapping[str, str] | None
    surplus: Mapping[str, str]


def _prepared(
    graph: Graph, model: ForeignModel, weights: Mapping[str, NDArray[np.float32]] | None
) -> _Prepared:
    parts = Parts(model.path)
    layers = [
        layer if layer.shape is not None else replace(layer, shape=parts.shape(layer.tensor))
        for layer in model.layers
    ]
    matching = match(graph, replace(model, layers=tuple(layers)))
    _check_types(model, matching, parts)
    faults = None
    if weights is None:
        graph = with_folded(graph, matching)
        weights = weights_in_file(inference(graph), matching, model.path)
    else:
        faults = weight_faults(graph, matching, weights)
    written = inference(graph)
    tensors = {name: layer.tensor for name, layer in matching.pairs.items()}
    counterparts = Counterparts(model.input, tensors, model.outputs_of(graph), model.batch)
    subject = Subject(written, weights, model.path, written, counterparts)
    tried = _can_be_tried(written, counterparts, matching, parts)
    return _Prepared(subject, matching, tried, faults, surplus(written, matching))


def _check_types(model: ForeignModel, matching: Matching, parts: Parts) -> None:
    """Raise AlexcError if a layer's counterpart is not in float32.

    How a narrower file rounds within a layer of many nodes is the exporter's choice, of which no
    tolerance is known; a wider one is not held to what it could be.
    """
    from onnx import TensorProto

    for name, layer in matching.pairs.items():
        if (type_ := parts.element_type(layer.tensor)) != TensorProto.FLOAT:
            raise fault(
                "verify/foreign-type",
                f"{model.path} computes {name}, its {layer.label}, in "
                f"{TensorProto.DataType.Name(type_).lower()}, and only float32 is held to a spec",
                help="export it in float32; alexc build --precision makes narrow models",
            )


def _can_be_tried(
    graph: Graph, counterparts: Counterparts, matching: Matching, parts: Parts
) -> set[str]:
    """The layers whose counterparts read the counterparts of what they read, and nothing else.

    Between them must be no layer of which the spec does not know: it would be tried as well. Of a
    layer that is written out in an unknown way, all that lies between is taken to be part.
    """
    theirs = {INPUT: counterparts.input, **counterparts.tensors}
    named = set(theirs.values())
    extra = {layer.tensor for layer in matching.extra}
    tried = set()
    for node in graph.nodes:
        if node.name in theirs and all(source in theirs for source in node.inputs):
            read, made = parts.between(theirs[node.name], named)
            whole = matching.pairs[node.name].kind is None
            if read == {theirs[source] for source in node.inputs} and (whole or not made & extra):
                tried.add(node.name)
    return tried


def _chosen(names: Sequence[str] | None) -> list[type[ForeignBackend]]:
    if unknown := [name for name in names or () if name not in FOREIGN_BACKENDS]:
        raise usage_fault(
            "verify/unknown-backend",
            f"{unknown[0]} runs no foreign ONNX files",
            help=f"one of {', '.join(FOREIGN_BACKENDS)}",
        )
    return [kind for name, kind in FOREIGN_BACKENDS.items() if names is None or name in names]


def _report(
    found: _Prepared,
    model: ForeignModel,
    kinds: Sequence[type[ForeignBackend]],
    results: dict[type[ForeignBackend], BackendResult],
    findings: Sequence[Findings],
    asked: set[str],
) -> ForeignReport:
    graph, matching = found.subject.written, found.matching
    absent = dict(matching.absent)
    mistaken = _mistaken(found, findings)
    for layer in mistaken:
        absent[layer] = (
            f"{matching.pairs[layer].label} was taken for it and differs, "
            "and all that follows agrees"
        )
    rows: list[Row] = []
    ran = {kind.name: kind for kind in kinds if kind not in results}
    for of_kind in findings:
        of_kind.rows = [row for row in of_kind.rows if row.layer not in mistaken]
        if of_kind.unsupported is None:
            rows += [*_weight_rows(found, of_kind.backend), *of_kind.rows]
        result = of_kind.result()
        if result.passed and (found.faults or found.surplus):
            result = replace(result, passed=False)
        results[ran[of_kind.backend]] = result
    in_order = [results[kind] for kind in kinds]
    judged = [result for result in in_order if result.passed is not None]
    divergence = first_divergence(graph, rows)
    missing = _missing(found, divergence)
    notes = _notes(found, model, absent, divergence, missing)
    if divergence is not None and missing:
        rows = _with_missing(rows, missing, divergence.layer)
        divergence = first_divergence(graph, rows)
    matched = {n: layer.tensor for n, layer in matching.pairs.items() if n not in mistaken}
    return ForeignReport(
        bool(judged)
        and all(result.passed for result in judged)
        and all(r.passed is not None for r in in_order if r.backend in asked),
        "float64 numpy, with weights "
        + ("from the file" if found.faults is None else "as they are meant to be"),
        in_order,
        rows,
        divergence,
        notes=notes,
        file=str(model.path),
        producer=model.producer,
        matched=matched,
        no_counterpart=absent,
    )


def _mistaken(found: _Prepared, findings: Sequence[Findings]) -> set[str]:
    """Layers that were paired with a tensor that is something else, as the results show.

    Such a pair differs on every backend, reads other tensors than the spec's layer does, is no
    output, and nothing that comes of it differs: then the file computes the same in other steps,
    such as a pool before the ReLU.
    """
    graph = found.subject.written
    ran = [each for each in findings if each.unsupported is None]
    wrong = [{row.layer for row in each.rows if not row.passed} for each in ran]
    if not ran or any(each.failures for each in ran):
        return set()
    followers: dict[str, set[str]] = {node.name: set() for node in graph.nodes}
    for node in reversed(graph.nodes):
        for source in node.inputs:
            if source != INPUT:
                followers[source] |= {node.name} | followers[node.name]
    named = found.matching.pairs
    mistaken: set[str] = set()
    for node in reversed(graph.nodes):
        layer, after = node.name, followers[node.name] & named.keys() - mistaken
        if (
            layer in named
            and layer not in found.tried
            and layer not in graph.outputs
            and after
            and all(layer in failed and not after & failed for failed in wrong)
        ):
            mistaken.add(layer)
    return mistaken


def _missing(found: _Prepared, divergence: Divergence | None) -> list[str]:
    """The layers that the file leaves out right before the one that diverges.

    That one is right by itself, and its inputs are: what is wrong is that nothing stands between.
    Without a divergence nothing is missing: a file may compute the same in fewer steps.
    """
    if divergence is None or divergence.kind != "wiring":
        return []
    bypassed = found.matching.bypassed
    return [layer for layer, following in bypassed.items() if divergence.layer in following]


def _with_missing(rows: Sequence[Row], missing: Sequence[str], behind: str) -> list[Row]:
    """The rows with one for each missing layer on each backend, before that of the layer behind."""
    told: list[Row] = []
    for row in rows:
        if row.layer == behind and row.check == "end_to_end" and not row.passed:
            none = Row("", row.backend, "end_to_end", None, None, 0.0, False, "not there")
            told += [replace(none, layer=layer) for layer in missing]
        told.append(row)
    return told


def _weight_rows(found: _Prepared, backend: str) -> list[Row]:
    """A row for every weight that was held against one that is meant, and for what is too much."""

    def row(layer: str, message: str | None) -> Row:
        error = 0.0 if message is None else None
        return Row(layer, backend, "parameters", error, error, 0.0, message is None, message)

    rows = [row(layer, message) for layer, message in found.surplus.items()]
    if found.faults is not None:
        rows += [
            row(node.name, found.faults.get(whole))
            for node in found.subject.written.nodes
            if node.name in found.matching.pairs and node.name not in found.matching.folded
            for whole in node.parameter_names().values()
        ]
    return rows


def _notes(
    found: _Prepared,
    model: ForeignModel,
    absent: Mapping[str, str],
    divergence: Divergence | None,
    missing: Sequence[str],
) -> list[str]:
    notes = []
    pairs = found.matching.pairs
    if divergence is not None and divergence.layer in pairs:
        notes.append(f"{divergence.layer} is {pairs[divergence.layer].label} in {model.path}")
        node = found.subject.written.by_name[divergence.layer]
        if missing:
            notes.append(
                f"{divergence.layer} reads there what {missing[0]} should read: "
                f"{', '.join(missing)} is missing"
            )
        elif unknown := [s for s in node.inputs if s != INPUT and s not in pairs]:
            notes.append(
                f"{', '.join(unknown)} before {divergence.layer} has no counterpart: "
                "the fault may lie there"
            )
    if absent:
        each = "\n".join(f"  {layer}: {why}" for layer, why in absent.items())
        notes.append(
            f"no counterpart in {model.path}, and so only verified in what follows:\n{each}"
        )
    if found.matching.extra:
        shown = ", ".join(layer.label for layer in found.matching.extra[:8])
        more = len(found.matching.extra) - 8
        notes.append(f"in the file alone: {shown}" + (f" and {more} more" if more > 0 else ""))
    if model.batch is not None:
        notes.append(f"the file takes {model.batch} at a time, and was run so")
    return notes
