"""The cross-check itself: reference once, every backend against it, one report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexc.diagnostics import usage_fault
from alexc.graph.graph import Graph, Node
from alexc.graph.quantization import LARGEST
from alexc.ops.base import Array
from alexc.passes.inference import inference
from alexc.verify import inputs as provocations
from alexc.verify.backends import BACKENDS, Backend, BackendFault, Subject, Trial, Unsupported
from alexc.verify.compare import compare, first_divergence
from alexc.verify.grid import off_ties, weight_steps
from alexc.verify.precision import as_kept, of_layers
from alexc.verify.reference import Expectation, expect, layer_alone, local_weights
from alexc.verify.report import Accuracy, BackendResult, Check, Report, Row

# Images of the batch on which layers are run alone: that is tight already with two.
_IMAGES_ALONE = 2


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

    Raises UsageError for backends that don't exist and inputs of another shape.
    """
    say = progress or (lambda _: None)
    images = _images(graph, inputs, batch, seed)
    say("computing the reference")
    plain = _Standard(graph, weights, images, seed)
    narrow = plain
    if written is not None and (written.precisions or written.quantized):
        say("computing the reference in the model's precision")
        narrow = _Standard(written, weights, images, seed)
    subject = Subject(graph, weights, model, written or inference(graph))
    results: list[BackendResult] = []
    rows: list[Row] = []
    accuracies: list[Accuracy] = []
    for kind in _chosen(backends):
        status = _cannot_run(kind, model)
        if status is not None:
            results.append(BackendResult(kind.name, status, None))
            continue
        say(f"running {kind.name}")
        backend = kind(subject)
        result, found = _run(backend, narrow if kind.reads_model else plain)
        results.append(result)
        rows += found
        if narrow is not plain and kind.reads_model and result.passed is not None:
            exact = samples or Samples(images, plain.expected.values)
            accuracies += _accuracy(backend, exact)
    asked = set(backends or ())
    ran = [result for result in results if result.passed is not None]
    passed = bool(ran) and all(result.passed for result in ran)
    passed = passed and all(row.passed for row in rows)
    passed = passed and all(r.passed is not None for r in results if r.backend in asked)
    if model is not None:
        passed = passed and any(BACKENDS[result.backend].reads_model for result in ran)
    divergence = first_divergence(graph, rows)
    return Report(passed, "float64 numpy", results, rows, divergence, accuracies)


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


def _chosen(names: Sequence[str] | None) -> list[type[Backend]]:
    if unknown := [name for name in names or () if name not in BACKENDS]:
        raise usage_fault(
            "verify/unknown-backend",
            f"there is no backend {unknown[0]}",
            help=f"one of {', '.join(BACKENDS)}",
        )
    return [BACKENDS[name] for name in names] if names is not None else list(BACKENDS.values())


def _cannot_run(kind: type[Backend], model: Path | None) -> str | None:
    if kind.reads_model and model is None:
        return "not run: there is no model.onnx"
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


def _run(backend: Backend, standard: _Standard) -> tuple[BackendResult, list[Row]]:
    """Everything that one backend is asked for, compared."""
    rows: list[Row] = []
    status = "ran"
    try:
        backend.open()
        rows += _parameters(backend)
        for group in standard.trials:
            rows += _alone(backend, group)
        rows += _end_to_end(backend, standard)
        rows += _shipped(backend, standard)
    except Unsupported as limit:
        return BackendResult(backend.name, f"not run: {limit.message}", None), []
    except BackendFault as fault:
        status = f"failed: {fault.message}"
    passed = status == "ran" and all(row.passed for row in rows)
    return BackendResult(backend.name, status, passed), rows


def _accuracy(backend: Backend, samples: Samples) -> list[Accuracy]:
    """How far each output of the shipped model lies from that of the graph in fp32."""
    try:
        found = backend.shipped(samples.images)
    except BackendFault:  # it ran before, and there is a row that says how
        return []
    return [
        Accuracy.of(backend.name, name, found[name], samples.exact[name])
        for name in backend.graph.outputs
        if name in found
    ]


def _parameters(backend: Backend) -> list[Row]:
    found = backend.parameters()
    if found is None:
        return []
    rows = []
    for node in backend.graph.nodes:
        for whole in node.parameter_names().values():
            weight = backend.subject.weights[whole]
            message = None
            if whole not in found:
                message = f"{whole} is missing"
            elif not np.array_equal(found[whole], weight):
                message = f"{whole} differs from the weights"
            passed = message is None
            largest = 0.0 if passed else None
            rows.append(
                Row(node.name, backend.name, "parameters", largest, largest, 0.0, passed, message)
            )
    return rows


def _alone(backend: Backend, group: _Trials) -> list[Row]:
    names = [node.name for node in backend.graph.nodes]
    # The backend's nodes: where dropout is removed, they read other tensors of the same values.
    trials = [
        Trial(node, group.trials[node.name].inputs, group.trials[node.name].weights)
        for node in backend.graph.nodes
    ]
    rows = []
    for name, result in zip(names, backend.alone(trials), strict=True):
        value, tolerance, peaks = group.values[name]
        if isinstance(result, BackendFault):
            rows.append(
                Row(name, backend.name, group.check, None, None, 0.0, False, result.message)
            )
        else:
            rows.append(
                compare(
                    name,
                    backend.name,
                    group.check,
                    result,
                    value,
                    tolerance,
                    peaks,
                    of_layers(group.graph)[name].largest,
                )
            )
    return rows


def _end_to_end(backend: Backend, standard: _Standard) -> list[Row]:
    found = backend.tensors(standard.images)
    rows = []
    for node in backend.graph.nodes:
        if node.name in found:
            got = found[node.name]
            rows.append(_against(standard, node.name, backend.name, "end_to_end", got))
        else:
            message = f"{backend.name} has no tensor {node.name}"
            rows.append(Row(node.name, backend.name, "end_to_end", None, None, 0.0, False, message))
    return rows


def _shipped(backend: Backend, standard: _Standard) -> list[Row]:
    found = backend.shipped(standard.images)
    rows = []
    for name in backend.graph.outputs:
        if name in found:
            rows.append(_against(standard, name, backend.name, "shipped", found[name]))
        else:
            message = f"{backend.name} has no output {name}"
            rows.append(Row(name, backend.name, "shipped", None, None, 0.0, False, message))
    return rows


def _against(
    standard: _Standard, name: str, backend: str, check: Check, got: NDArray[np.float32]
) -> Row:
    expected = standard.expected
    value = expected.values[name]
    tolerance = expected.tolerances[name]
    largest = standard.precisions[name].largest
    return compare(name, backend, check, got, value, tolerance, expected.peaks[name], largest)
