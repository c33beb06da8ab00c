"""The cross-check itself: reference once, every backend against it, one report."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexc.diagnostics import usage_fault
from alexc.graph.graph import Graph
from alexc.ops.base import Array
from alexc.passes.inference import inference
from alexc.passes.read_pixels import read_pixels
from alexc.verify import inputs as provocations
from alexc.verify.against import Difference, Witness
from alexc.verify.answers import Whole, different_weights
from alexc.verify.backends import BACKENDS
from alexc.verify.backends.base import Backend, Subject
from alexc.verify.blas import one_thread
from alexc.verify.compare import first_divergence
from alexc.verify.findings import Findings, needed_layers
from alexc.verify.overflow import overflow_note
from alexc.verify.processes import Crew, ask
from alexc.verify.reference import evaluate
from alexc.verify.report import Accuracy, BackendResult, Inputs, Report, Row
from alexc.verify.shapes import READERS, Reader, Reading, stated
from alexc.verify.standard import Standard
from alexc_runtime.manifest import BatchRange, EngineRecord

# Seconds that a backend may take for one step. None of them needs a tenth of it for AlexNet.
PATIENCE = 120.0


@dataclass(frozen=True)
class Samples:
    """Images to take a model's accuracy on, and the graph's outputs for them, by name.

    The outputs are those of the float64 reference, in no narrow format.
    """

    images: NDArray[np.float32]
    exact: Mapping[str, Array]


def verify(
    graph: Graph,
    weights: Mapping[str, NDArray[np.float32]],
    model: Path | None,
    *,
    written: Graph | None = None,
    plans: Sequence[EngineRecord] = (),
    inputs: NDArray[np.float32] | None = None,
    samples: Samples | None = None,
    seed: int = 0,
    photographs: Sequence[str] = (),
    batches: BatchRange | None = None,
    precision: str = "fp32",
    backends: Sequence[str] | None = None,
    against: str | None = None,
    batch: int | None = None,
    progress: Callable[[str], None] | None = None,
    isolate: bool = True,
    patience: float = PATIENCE,
) -> Report:
    """Hold every backend against the float64 reference, layer by layer and end to end.

    `graph` is the graph as trained and `weights` its parameters by whole name; `model` is the
    model.onnx whose bytes are certified, if there is one. `written` is the graph in its inference
    form that the model was written from, if any of its layers is not in fp32: the model is then
    held to what that graph computes, and the report says how far that lies from `graph`, for
    `samples` or else the inputs. Where it takes pixels, `graph` is given what it makes of them.
    `plans` are those of the model, their paths as seen from its folder: where there is a GPU they
    are run, on batches of all sizes that their profiles name.
    `inputs` are images as the model takes them, `(batch, *input_shape)`, pixels as whole numbers of
    float32, and so are those of `samples`; `photographs` are digests of the files that they were
    read from, for the report. Without them `batch` synthetic ones are drawn from `seed`, by default
    one of each kind (see `inputs.kinds_for`). `batches` are the sizes that the model will serve:
    its outputs are computed for these, too. `precision` is what the engines that load the model are
    told of it.

    `backends` are names of BACKENDS; by default all that are installed and have something to run.
    With `against`, the name of another, they are held against that one and not against the
    reference, of which the tolerances are taken. `progress` is told what is being done.

    Each backend runs in a process of its own, which may take `patience` seconds for each of its
    steps; with `isolate` false they run in this one, where a crash is a crash of everything.

    Raises UsageError for backends that don't exist and inputs of another shape.
    """
    say = progress or (lambda _: None)
    own_plans = {plan.engine: plan for plan in reversed(plans) if plan.path is not None}
    subject = Subject(
        graph,
        weights,
        model,
        written or inference(graph),
        plans=own_plans,
        batches=batches,
        precision=precision,
    )
    images = provocations.images_for(subject.written, inputs, batch, seed)
    chosen = _chosen(backends, subject)
    witness_kind = None if against is None else _witness(against, chosen, subject)
    if witness_kind is not None:  # it is asked first
        chosen = [witness_kind, *(kind for kind in chosen if kind is not witness_kind)]
    results = {kind: BackendResult(kind.name, "", None) for kind in chosen}
    for kind in results:
        if (status := _cannot_run(kind, subject)) is not None:
            results[kind] = BackendResult(kind.name, status, None)
    running = [kind for kind, result in results.items() if not result.status]
    in_file = _model_faults(subject)
    findings: list[Findings] = []
    witness: Witness | None = None
    accuracies: list[Accuracy] = []
    rounded = bool(subject.written.precisions or subject.written.quantized)
    alike = not rounded and subject.written.pixels is None
    as_trained = provocations.as_trained(subject.written, images)
    asked = {}
    for kind in running:
        sampled = None
        if rounded and kind.reads_model and against is None:
            sampled = images if samples is None else samples.images
        sizes = kind.sizes(subject, len(images))
        asked[kind] = Whole(images if kind.reads_model else as_trained, sizes, sampled)
    with ExitStack() as stack:
        readers = _readers(subject.model, stack if isolate else None, patience)
        crew = None
        if isolate and running:
            file = None if in_file else _weights_file(subject)
            crew = stack.enter_context(Crew(asked, subject, file, patience))
        if crew is not None:
            stack.enter_context(one_thread())
        say("computing the reference")
        plain: Standard | None = None
        if alike or not all(kind.reads_model for kind in running):
            plain = Standard(graph, weights, as_trained, seed)
            exact: Mapping[str, Array] = plain.expected.values
        else:  # nobody is held to it, and no tolerances are wanted
            exact = evaluate(graph, weights, as_trained)
        narrow = plain
        if narrow is None or not alike:
            say("computing the reference of the model as it is written")
            narrow = Standard(subject.written, weights, images, seed)
        of_model: dict[str | None, Standard] = {None: narrow}
        for kind in running:
            say(f"running {kind.name}")
            standard = narrow if plain is None else plain
            if kind.reads_model:
                narrowed = kind.narrows(subject)
                if narrowed not in of_model:
                    of_model[narrowed] = Standard(
                        subject.written, weights, images, seed, narrowed=narrowed
                    )
                standard = of_model[narrowed]
            asked_for = kind.name in (backends or ())
            found: Findings
            if kind is witness_kind:
                found = witness = Witness(kind, subject, standard)
            elif witness is not None:
                found = Difference(kind, subject, standard, witness, asked_for=asked_for)
            else:
                found = Findings(kind, subject, standard, asked_for=asked_for)
            for answer in ask(kind, subject, asked[kind], found.layers(), crew):
                found.take(answer)
            if kind.reads_model and model is not None:
                shared = kind.model_file(model) == model
                found.take_weights(in_file if shared else _model_faults(subject, kind))
            findings.append(found)
            results[kind] = found.result()
            exact_outputs = exact if samples is None else samples.exact
            accuracies += [
                Accuracy.of(kind.name, name, got, exact_outputs[name])
                for name, got in found.samples.items()
            ]
        wanted = readers if backends is None and against is None else ()
        read, shape_rows = _read_shapes(subject.written, wanted)
    rows = [row for found in findings for row in found.rows if found.unsupported is None]
    rows = [*shape_rows, *rows]
    if witness_kind is not None:
        passed = _agree(results, witness_kind, asked=set(backends or ()))
    else:
        passed = _passed(results, model, asked=set(backends or ()))
    values = exact if subject.written.pixels is None else narrow.expected.values
    usual = values if inputs is not None else _first_two(values)
    note = overflow_note(subject.written, usual)
    return Report(
        passed and all(row.passed for row in shape_rows),
        against or "float64 numpy",
        _with_readers([*results.values()], read),
        rows,
        first_divergence(_beginning_alike(graph, subject.written), rows),
        accuracies,
        (note,) if note else (),
        Inputs(
            images=len(images),
            seed=seed,
            kinds=() if inputs is not None else provocations.kinds_for(subject.written, batch),
            photographs=tuple(photographs),
            digest="sha256:" + hashlib.sha256(images.tobytes()).hexdigest(),
            batches=sorted({len(images)}.union(*(whole.sizes for whole in asked.values()))),
        ),
    )


def _first_two(values: Mapping[str, Array]) -> dict[str, Array]:
    """Of synthetic images, those that are of the size of photographs: see `inputs.KINDS`."""
    return {name: array[:2] for name, array in values.items()}


def _readers(
    model: Path | None, stack: ExitStack | None, patience: float
) -> list[tuple[str, Callable[[], Reading]]]:
    """Those that read the model and are installed; in processes that the stack ends, if given."""
    readers: list[tuple[str, Callable[[], Reading]]] = []
    for name, (package, read) in READERS.items():
        if model is None or importlib.util.find_spec(package) is None:
            continue
        if stack is None:
            readers.append((name, partial(read, model)))
        else:
            reader = Reader(name, model)
            stack.callback(reader.end)
            readers.append((name, partial(reader.read, patience)))
    return readers


def _read_shapes(
    graph: Graph, readers: Sequence[tuple[str, Callable[[], Reading]]]
) -> tuple[list[BackendResult], list[Row]]:
    """Whether others read the same shapes and types out of the model as alexc wrote into it."""
    expected, needed = stated(graph), needed_layers(graph)
    results, rows = [], []
    for name, read in readers:
        reading = read()
        wrong = 0
        for layer, tensor in expected.items() if reading.fault is None else ():
            found = reading.tensors.get(layer)
            if found is None and layer not in needed:
                continue
            seen = found if found is not None else "no shape"
            message = None if found == tensor else f"{name} reads {seen} and not {tensor}"
            error = 0.0 if message is None else None
            rows.append(Row(layer, name, "shapes", error, error, 0.0, message is None, message))
            wrong += message is not None
        status = "shapes read; not run" if reading.fault is None else f"not read: {reading.fault}"
        results.append(BackendResult(name, status, False if wrong else None))
    return results, rows


def _with_readers(
    results: Sequence[BackendResult], read: Sequence[BackendResult]
) -> list[BackendResult]:
    """The backends, and the readers that are none of them; of one that is both, both in one."""
    readers = {result.backend: result for result in read}
    merged = []
    for result in results:
        reader = readers.pop(result.backend, None)
        if reader is not None and result.passed is None:
            read_well = reader.status.removesuffix("; not run")
            result = replace(result, status=f"{result.status}; {read_well}", passed=reader.passed)
        elif reader is not None and reader.passed is False:
            result = replace(result, passed=False)
        merged.append(result)
    return [*merged, *readers.values()]


def _passed(
    results: Mapping[type[Backend], BackendResult], model: Path | None, asked: set[str]
) -> bool:
    """Something ran, all that ran passed, what was asked for ran, and the model was run by one."""
    ran = {kind: result for kind, result in results.items() if result.passed is not None}
    return (
        bool(ran)
        and all(result.passed for result in ran.values())
        and all(r.passed is not None for r in results.values() if r.backend in asked)
        and (model is None or any(kind.reads_model for kind in ran))
    )


def _agree(
    results: Mapping[type[Backend], BackendResult], witness: type[Backend], asked: set[str]
) -> bool:
    """The witness ran, some other did, and none of those differs, nor is missing if asked for."""
    others = [result for kind, result in results.items() if kind is not witness]
    ran = [result for result in others if result.passed is not None]
    return (
        results[witness].passed is None
        and bool(ran)
        and all(result.passed for result in ran)
        and all(r.passed is not None for r in others if r.backend in asked)
    )


def _model_faults(subject: Subject, kind: type[Backend] = Backend) -> dict[str, str]:
    """What is wrong with the weights that the model of a backend refers to, by whole name."""
    if subject.model is None:
        return {}
    from alexc.verify.onnx_parts import parameters

    wanted = {name: subject.weights[name] for name in subject.written.parameters}
    model = kind.model_file(subject.model)
    return different_weights(wanted, parameters(model, subject.written))


def _weights_file(subject: Subject) -> Path | None:
    if subject.model is None:
        return None
    from alexc.verify.onnx_parts import weights_file

    # Of the graph as trained, of which the model's may have fewer.
    return weights_file(subject.model, subject.graph)


def _beginning_alike(graph: Graph, written: Graph) -> Graph:
    """The graph with the layer before all others that a model has which takes pixels."""
    return graph if written.pixels is None else read_pixels(graph, written.pixels)


def _witness(name: str, chosen: Sequence[type[Backend]], subject: Subject) -> type[Backend]:
    """The backend that the others are held against, which has to be there."""
    (kind,) = _chosen([name], subject)
    if (status := _cannot_run(kind, subject)) is not None:
        raise usage_fault("verify/against", f"{name} can't be held against: {status}")
    if all(other is kind for other in chosen):
        raise usage_fault("verify/against", f"there is no other backend to hold against {name}")
    return kind


def _chosen(names: Sequence[str] | None, subject: Subject) -> list[type[Backend]]:
    """The backends asked for; else all but those whose own model, plan or GPU is not there."""
    if unknown := [name for name in names or () if name not in BACKENDS]:
        raise usage_fault(
            "verify/unknown-backend",
            f"there is no backend {unknown[0]}",
            help=f"one of {', '.join(BACKENDS)}",
        )
    if names is not None:
        return [BACKENDS[name] for name in names]
    return [
        kind
        for kind in BACKENDS.values()
        if (subject.model is None or _has_its_model(kind, subject.model))
        and kind.concerned(subject)
    ]


def _has_its_model(kind: type[Backend], model: Path) -> bool:
    """Whether there is the file that the backend reads. model.onnx itself is taken to be there."""
    file = kind.model_file(model)
    return file == model or file.exists()


def _cannot_run(kind: type[Backend], subject: Subject) -> str | None:
    model = subject.model
    if kind.reads_model and model is None:
        return "not run: there is no model.onnx"
    if model is not None and not _has_its_model(kind, model):
        return f"not run: there is no {kind.model_file(model).name}"
    if (obstacle := kind.obstacle(subject)) is not None:
        return f"not run: {obstacle}"
    if (package := kind.missing()) is not None:
        return f"not run: {package} is not installed"
    return None
