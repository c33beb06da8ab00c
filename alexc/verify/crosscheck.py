"""The cross-check itself: reference once, every backend against it, one report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexc.diagnostics import usage_fault
from alexc.graph.graph import Graph
from alexc.ops.base import Array
from alexc.verify import inputs as provocations
from alexc.verify.backends import BACKENDS, Backend, BackendFault, Subject, Trial
from alexc.verify.compare import compare, first_divergence
from alexc.verify.precision import FP32
from alexc.verify.reference import Expectation, expect, layer_alone, local_weights
from alexc.verify.report import BackendResult, Check, Report, Row

# Images of the batch on which layers are run alone: that is tight already with two.
_IMAGES_ALONE = 2


def verify(
    graph: Graph,
    weights: Mapping[str, NDArray[np.float32]],
    model: Path | None,
    *,
    inputs: NDArray[np.float32] | None = None,
    seed: int = 0,
    backends: Sequence[str] | None = None,
    batch: int = 2,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Hold every backend against the float64 reference, layer by layer and end to end.

    `graph` is the graph as trained and `weights` its parameters by whole name; `model` is the
    model.onnx whose bytes are certified, if there is one. `inputs` are images as the net takes
    them, `(batch, *input_shape)`; without them `batch` synthetic ones are drawn from `seed`.
    `backends` are names of BACKENDS; by default all that are installed and have something to run.
    `progress` is told what is being done.

    Raises UsageError for backends that don't exist and inputs of another shape.
    """
    say = progress or (lambda _: None)
    images = _images(graph, inputs, batch, seed)
    say("computing the reference")
    expected = expect(graph, weights, images, seed=seed)
    trials = _trials(graph, weights, expected, seed)
    subject = Subject(graph, weights, model)
    results: list[BackendResult] = []
    rows: list[Row] = []
    for kind in _chosen(backends):
        status = _cannot_run(kind, model)
        if status is not None:
            results.append(BackendResult(kind.name, status, None))
            continue
        say(f"running {kind.name}")
        result, found = _run(kind(subject), images, expected, trials)
        results.append(result)
        rows += found
    asked = set(backends or ())
    ran = [result for result in results if result.passed is not None]
    passed = bool(ran) and all(result.passed for result in ran)
    passed = passed and all(row.passed for row in rows)
    passed = passed and all(r.passed is not None for r in results if r.backend in asked)
    if model is not None:
        passed = passed and any(BACKENDS[result.backend].reads_model for result in ran)
    divergence = first_divergence(graph, rows)
    return Report(passed, "float64 numpy", results, rows, divergence)


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

    def __init__(self, check: Check) -> None:
        self.check: Check = check
        self.trials: dict[str, Trial] = {}
        self.values: dict[str, tuple[Array, Array, Array]] = {}

    def add(self, trial: Trial) -> None:
        self.trials[trial.node.name] = trial
        self.values[trial.node.name] = layer_alone(trial.node, trial.inputs, trial.weights, FP32)


def _trials(
    graph: Graph, weights: Mapping[str, NDArray[np.float32]], expected: Expectation, seed: int
) -> list[_Trials]:
    """Every layer on the reference's inputs, and on inputs and weights that provoke."""
    given, provoked = _Trials("alone"), _Trials("provoked")
    generator = np.random.default_rng((seed, 1))
    for node in graph.nodes:
        own = {name: np.asarray(array) for name, array in local_weights(node, weights).items()}
        inputs = [
            expected.values[source][:_IMAGES_ALONE].astype(np.float32) for source in node.inputs
        ]
        given.add(Trial(node, inputs, own))
        inputs = provocations.provoking_inputs(node, _IMAGES_ALONE, generator)
        own = provocations.provoking_weights(node, own, generator)
        provoked.add(Trial(node, inputs, own))
    return [given, provoked]


def _run(
    backend: Backend,
    images: NDArray[np.float32],
    expected: Expectation,
    trials: Sequence[_Trials],
) -> tuple[BackendResult, list[Row]]:
    """Everything that one backend is asked for, compared."""
    rows: list[Row] = []
    status = "ran"
    try:
        backend.open()
        rows += _parameters(backend)
        for group in trials:
            rows += _alone(backend, group)
        rows += _end_to_end(backend, images, expected)
        rows += _shipped(backend, images, expected)
    except BackendFault as fault:
        status = f"failed: {fault.message}"
    passed = status == "ran" and all(row.passed for row in rows)
    return BackendResult(backend.name, status, passed), rows


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
                    name, backend.name, group.check, result, value, tolerance, peaks, FP32.largest
                )
            )
    return rows


def _end_to_end(
    backend: Backend, images: NDArray[np.float32], expected: Expectation
) -> list[Row]:
    found = backend.tensors(images)
    rows = []
    for node in backend.graph.nodes:
        if node.name in found:
            rows.append(_against(expected, node.name, backend.name, "end_to_end", found[node.name]))
        else:
            message = f"{backend.name} has no tensor {node.name}"
            rows.append(
                Row(node.name, backend.name, "end_to_end", None, None, 0.0, False, message)
            )
    return rows


def _shipped(backend: Backend, images: NDArray[np.float32], expected: Expectation) -> list[Row]:
    found = backend.shipped(images)
    rows = []
    for name in backend.graph.outputs:
        if name in found:
            rows.append(_against(expected, name, backend.name, "shipped", found[name]))
        else:
            message = f"{backend.name} has no output {name}"
            rows.append(Row(name, backend.name, "shipped", None, None, 0.0, False, message))
    return rows


def _against(
    expected: Expectation, name: str, backend: str, check: Check, got: NDArray[np.float32]
) -> Row:
    value = expected.values[name]
    tolerance = expected.tolerances[name].reshape(-1, *[1] * (value.ndim - 1))
    return compare(
        name, backend, check, got, value, tolerance, expected.peaks[name], FP32.largest
    )
