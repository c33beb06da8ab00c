"""The cross-check itself: reference once, every backend against it, one report."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexc.diagnostics import usage_fault
from alexc.graph.graph import Graph, Node
from alexc.graph.quantization import LARGEST
from alexc.ops.base import Array
from alexc.passes.inference import inference
from alexc.verify import inputs as provocations
from alexc.verify.answers import Answer, Request, answers, different_weights
from alexc.verify.backends import BACKENDS
from alexc.verify.backends.base import Backend, Subject, Trial
from alexc.verify.blas import one_thread
from alexc.verify.compare import compare, first_divergence
from alexc.verify.grid import off_ties, weight_steps
from alexc.verify.overflow import overflow_note
from alexc.verify.precision import as_kept, of_layers
from alexc.verify.processes import Crew, Ended
from alexc.verify.reference import Expectation, expect, layer_alone, local_weights
from alexc.verify.report import Accuracy, BackendResult, Check, Report, Row
from alexc.verify.shapes import READERS, Reader, Reading, stated

# Images of the batch on which layers are run alone: that is tight already with two.
_IMAGES_ALONE = 2

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
    inputs: NDArray[np.float32] | None = None,
    samples: Samples | None = None,
    seed: int = 0,
    backends: Sequence[str] | None = None,
    batch: int = 2,
    progress: Callable[[str], None] | None = None,
    isolate: bool = True,
    patience: float = PATIENCE,
) -> Report:
    """Hold every backend against the float64 reference, layer by layer and end to end.

    `graph` is the graph as trained and `weights` its parameters by whole name; `model` is the
    model.onnx whose bytes are certified, if there is one. `written` is the graph in its inference
    form that the model was written from, if any of its layers is not in fp32: the model is then
    held to what that graph computes, and the report says how far that lies from `graph`, for
    `samples` or else the inputs. `inputs` are images as the net takes them,
    `(batch, *input_shape)`; without them `batch` synthetic ones are drawn from `seed`. `backends`
    are names of BACKENDS; by default all that are installed and have something to run. `progress`
    is told what is being done.

    Each backend runs in a process of its own, which may take `patience` seconds for each of its
    steps; with `isolate` false they run in this one, where a crash is a crash of everything.

    Raises UsageError for backends that don't exist and inputs of another shape.
    """
    say = progress or (lambda _: None)
    images = _images(graph, inputs, batch, seed)
    subject = Subject(graph, weights, model, written or inference(graph))
    results = {kind: BackendResult(kind.name, "", None) for kind in _chosen(backends, model)}
    for kind in results:
        if (status := _cannot_run(kind, model)) is not None:
            results[kind] = BackendResult(kind.name, status, None)
    running = [kind for kind, result in results.items() if not result.status]
    in_file = _model_faults(subject)
    findings: list[_Findings] = []
    accuracies: list[Accuracy] = []
    with ExitStack() as stack:
        readers = _readers(subject.model, stack if isolate else None, patience)
        crew = None
        if isolate and running:
            file = None if in_file else _weights_file(subject)
            crew = stack.enter_context(Crew(running, subject, file, patience))
        if crew is not None:
            stack.enter_context(one_thread())
        say("computing the reference")
        plain = narrow = _Standard(graph, weights, images, seed)
        if subject.written.precisions or subject.written.quantized:
            say("computing the reference in the model's precision")
            narrow = _Standard(subject.written, weights, images, seed)
        for kind in running:
            say(f"running {kind.name}")
            standard = narrow if kind.reads_model else plain
            found = _Findings(kind, subject, standard, asked_for=kind.name in (backends or ()))
            exact = None
            if narrow is not plain and kind.reads_model:
                exact = samples or Samples(images, plain.expected.values)
            request = found.request(_sizes(len(images)), exact.images if exact else None)
            for answer in _ask(kind, subject, request, crew):
                found.take(answer)
            if kind.reads_model and model is not None:
                shared = kind.model_file(model) == model
                found.take_weights(in_file if shared else _model_faults(subject, kind))
            findings.append(found)
            results[kind] = found.result()
            if exact is not None:
                accuracies += [
                    Accuracy.of(kind.name, name, got, exact.exact[name])
                    for name, got in found.samples.items()
                ]
        read, shape_rows = _read_shapes(subject.written, readers if backends is None else ())
    rows = [row for found in findings for row in found.rows if found.unsupported is None]
    rows = [*shape_rows, *rows]
    passed = _passed(results, model, asked=set(backends or ()))
    usual = plain.expected.values if inputs is not None else _first_two(plain.expected.values)
    note = overflow_note(subject.written, usual)
    return Report(
        passed and all(row.passed for row in shape_rows),
        "float64 numpy",
        [*results.values(), *read],
        rows,
        first_divergence(graph, rows),
        accuracies,
        (note,) if note else (),
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


def _sizes(images: int) -> tuple[int, ...]:
    """Smaller batches that the shipped outputs are computed for as well: one image, and three."""
    return tuple(size for size in (1, 3) if size < images)


def _read_shapes(
    graph: Graph, readers: Sequence[tuple[str, Callable[[], Reading]]]
) -> tuple[list[BackendResult], list[Row]]:
    """Whether others read the same shapes and types out of the model as alexc wrote into it."""
    expected, needed = stated(graph), _needed(graph)
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


def _ask(
    kind: type[Backend], subject: Subject, request: Request, crew: Crew | None
) -> Iterator[Answer | Ended]:
    if crew is not None:
        return crew.ask(kind, request)
    return answers(kind(subject), lambda: request)


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


def _images(
    graph: Graph, inputs: NDArray[np.float32] | None, batch: int, seed: int
) -> NDArray[np.float32]:
    if inputs is None:
        return provocations.batch(graph.input_shape, batch, seed)
    if inputs.shape[1:] != graph.input_shape or len(inputs) == 0:
        raise usage_fault(
            "verify/input-shape",
            f"{graph.name} takes images of the shape {graph.input_shape}, not {inputs.shape[1:]}",
        )
    return np.ascontiguousarray(inputs, np.float32)


def _chosen(names: Sequence[str] | None, model: Path | None) -> list[type[Backend]]:
    """The backends asked for; else all but those whose own form of the model is not there."""
    if unknown := [name for name in names or () if name not in BACKENDS]:
        raise usage_fault(
            "verify/unknown-backend",
            f"there is no backend {unknown[0]}",
            help=f"one of {', '.join(BACKENDS)}",
        )
    if names is not None:
        return [BACKENDS[name] for name in names]
    return [kind for kind in BACKENDS.values() if model is None or _has_its_model(kind, model)]


def _has_its_model(kind: type[Backend], model: Path) -> bool:
    """Whether there is the file that the backend reads. model.onnx itself is taken to be there."""
    file = kind.model_file(model)
    return file == model or file.exists()


def _cannot_run(kind: type[Backend], model: Path | None) -> str | None:
    if kind.reads_model and model is None:
        return "not run: there is no model.onnx"
    if model is not None and not _has_its_model(kind, model):
        return f"not run: there is no {kind.model_file(model).name}"
    if (package := kind.missing()) is not None:
        return f"not run: {package} is not installed"
    return None


class _Trials:
    """One layer after the other: what it is given, and what must come out."""

    def __init__(self, check: Check, graph: Graph) -> None:
        self.check: Check = check
        self.graph = graph
        self.trials: dict[str, Trial] = {}
        self.values: dict[str, tuple[Array, Array, Array]] = {}

    def add(self, trial: Trial) -> None:
        """Take what the layer is given as its tensors hold it, quantized ones away from ties."""
        name = trial.node.name
        inputs = [
            as_kept(array, self.graph, source)
            for source, array in zip(trial.node.inputs, trial.inputs, strict=True)
        ]
        weights = dict(trial.weights)
        grid = self.graph.quantized.get(name)
        if grid is not None:
            inputs[0] = off_ties(inputs[0], grid.input_step, grid)
            steps = weight_steps(grid, weights["weight"])
            weights["weight"] = off_ties(weights["weight"], steps, grid)
        self.trials[name] = Trial(trial.node, inputs, weights)
        precision = of_layers(self.graph)[name]
        self.values[name] = layer_alone(trial.node, inputs, weights, precision, grid)


class _Standard:
    """What backends of one graph are held to: the whole net, and every layer alone."""

    def __init__(
        self,
        graph: Graph,
        weights: Mapping[str, NDArray[np.float32]],
        images: NDArray[np.float32],
        seed: int,
    ) -> None:
        self.graph = graph
        self.images = images
        self.precisions = of_layers(graph)
        self.expected: Expectation = expect(graph, weights, images, self.precisions, seed)
        self.trials = _trials(graph, weights, self.expected, seed)


def _trials(
    graph: Graph, weights: Mapping[str, NDArray[np.float32]], expected: Expectation, seed: int
) -> list[_Trials]:
    """Every layer on the reference's inputs, and on inputs and weights that provoke."""
    given, provoked = _Trials("alone", graph), _Trials("provoked", graph)
    generator = np.random.default_rng((seed, 1))
    # Tensors with only dropout between them are one tensor in the model.
    merged = inference(graph).by_name
    for node in graph.nodes:
        own = {name: np.asarray(array) for name, array in local_weights(node, weights).items()}
        inputs = [
            expected.values[source][:_IMAGES_ALONE].astype(np.float32) for source in node.inputs
        ]
        given.add(Trial(node, inputs, own))
        sources = merged.get(node.name, node).inputs
        inputs = provocations.provoking_inputs(node, sources, _IMAGES_ALONE, generator)
        own = provocations.provoking_weights(node, own, generator)
        provoked.add(Trial(node, _over_the_grid(graph, node, inputs), own))
    return [given, provoked]


def _over_the_grid(
    graph: Graph, node: Node, inputs: list[NDArray[np.float32]]
) -> list[NDArray[np.float32]]:
    """Standard normal inputs of a quantized layer, scaled so that they use the whole grid."""
    grid = graph.quantized.get(node.name)
    if grid is None:
        return inputs
    scale = np.float32(LARGEST[grid.format] * grid.input_step / 3)
    return [inputs[0] * scale, *inputs[1:]]


def _needed(graph: Graph) -> set[str]:
    """The layers that an output depends on. Backends may leave out the others."""
    needed = set(graph.outputs)
    for node in reversed(graph.nodes):
        if node.name in needed:
            needed.update(node.inputs)
    return needed


class _Findings:
    """What the answers of one backend come to: rows, and how it fared."""

    def __init__(
        self, kind: type[Backend], subject: Subject, standard: _Standard, *, asked_for: bool
    ) -> None:
        self.backend = kind.name
        self.reads_model = kind.reads_model
        self.may_lack = kind.optional and not asked_for
        self.graph = subject.written if kind.reads_model else subject.graph
        self.standard = standard
        self.needed = _needed(self.graph)
        self.rows: list[Row] = []
        self.failures: list[str] = []
        self.shipped = False
        self.unsupported: str | None = None
        self.samples: dict[str, NDArray[Any]] = {}

    def request(self, sizes: Sequence[int], samples: NDArray[np.float32] | None) -> Request:
        """What the backend is asked: every layer of its graph, which may have no dropout."""
        alone, provoked = (
            [
                Trial(node, group.trials[node.name].inputs, group.trials[node.name].weights)
                for node in self.graph.nodes
            ]
            for group in self.standard.trials
        )
        return Request(self.standard.images, alone, provoked, sizes, samples)

    def take(self, answer: Answer | Ended) -> None:
        """Compare what one step gave."""
        if isinstance(answer, Ended):
            self.failures.append(answer.status)
            return
        if answer.unsupported:
            self.unsupported = answer.failure
        elif answer.step == "open" and answer.failure is not None and self.may_lack:
            self.unsupported = f"it can't load the model ({answer.failure})"
        elif answer.failure is not None:
            self.failures.append(f"failed: {answer.failure}")
        match answer.step:
            case "parameters":
                if not self.reads_model:  # those of a model are looked at once, in its file
                    self.take_weights(answer.faults)
            case "alone" | "provoked":
                self._alone(answer)
            case "end_to_end":
                self._whole("end_to_end", answer, [node.name for node in self.graph.nodes])
            case "shipped":
                self.shipped = self.shipped or answer.failure is None
                self._whole("shipped", answer, self.graph.outputs)
            case "samples":
                self.samples = answer.tensors
            case "open":
                self._blame(answer.failure)

    def take_weights(self, faults: Mapping[str, str]) -> None:
        """A row for every weight: as it should be, or what is wrong with it."""
        for node in self.graph.nodes:
            for whole in node.parameter_names().values():
                message = faults.get(whole)
                error = 0.0 if message is None else None
                self._add(node.name, "parameters", error, message)

    def result(self) -> BackendResult:
        """How the backend fared in all."""
        if self.unsupported is not None:
            return BackendResult(self.backend, f"not run: {self.unsupported}", None)
        status = self.failures[0] if self.failures else "ran"
        # What is certified is the shipped artifact: without its outputs nothing has passed.
        passed = self.shipped and not self.failures and all(row.passed for row in self.rows)
        return BackendResult(self.backend, status, passed)

    def _alone(self, answer: Answer) -> None:
        group = next(g for g in self.standard.trials if g.check == answer.step)
        for node in self.graph.nodes:
            if node.name in answer.tensors:
                value, tolerance, peaks = group.values[node.name]
                got = answer.tensors[node.name]
                self._compare(node.name, group.check, got, value, tolerance, peaks)
            elif node.name in answer.faults or answer.failure is None:
                self._add(node.name, group.check, None, answer.faults.get(node.name, "no result"))

    def _whole(self, check: Check, answer: Answer, names: Sequence[str]) -> None:
        expected = self.standard.expected
        for name in names:
            if name in answer.tensors:
                first = slice(answer.images)
                value, tolerance = expected.values[name][first], expected.tolerances[name][first]
                got, peaks = answer.tensors[name], expected.peaks[name][first]
                self._compare(name, check, got, value, tolerance, peaks, answer.images)
            elif name in answer.faults:
                self._add(name, check, None, answer.faults[name])
            elif answer.failure is None and name in self.needed:
                self._add(name, check, None, f"{self.backend} has no tensor {name}")
        if not answer.faults:
            self._blame(answer.failure)

    def _blame(self, failure: str | None) -> None:
        """A row for the layer that a failure names, if it names one."""
        if failure is None or self.unsupported is not None:
            return
        for node in self.graph.nodes:
            if re.search(rf"(?<![\w/.-]){re.escape(node.name)}(?![\w/-])", failure):
                self._add(node.name, "end_to_end", None, failure)
                return

    def _compare(
        self,
        name: str,
        check: Check,
        got: NDArray[Any],
        value: Array,
        tolerance: Array,
        peaks: Array,
        images: int | None = None,
    ) -> None:
        largest = self.standard.precisions[name].largest
        row = compare(name, self.backend, check, got, value, tolerance, peaks, largest)
        self.rows.append(replace(row, images=images))

    def _add(self, layer: str, check: Check, error: float | None, message: str | None) -> None:
        passed = message is None
        self.rows.append(Row(layer, self.backend, check, error, error, 0.0, passed, message))
