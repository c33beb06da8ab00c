"""A net's recipe with what the command line overrides, held against the net and the data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from alexc.diagnostics import AlexcError, Diagnostic, UsageError, usage_fault
from alexc.frontend import Net
from alexc.graph.graph import Graph
from alexc.ops.pointwise import Softmax
from alexc.passes.prefix import up_to
from alexc.source import parse, plain
from alexc.spec.faults import translate
from alexc.spec.recipe import TrainSpec


def recipe_of(net: Net, overrides: Sequence[str]) -> TrainSpec:
    """The recipe of the net with `train.epochs=2` and the like put in its place.

    Raises AlexcError if the spec has none, and UsageError for an override that is not one.
    """
    said = net.spec.header.train
    if said is None and not overrides:
        raise AlexcError(
            Diagnostic(
                "recipe/missing",
                f"{net.spec.name} does not say how it is trained",
                net.spec.tree.place,
                help="add `train: {epochs: 10}`; `alexc schema` has every field",
            )
        )
    data: dict[str, Any] = said.model_dump(mode="json") if said is not None else {}
    for text in overrides:
        _override(data, text)
    try:
        return TrainSpec.model_validate(data)
    except ValidationError as error:
        raise _as_usage(error, data) from None


def _override(data: dict[str, Any], text: str) -> None:
    path, equals, value = text.partition("=")
    steps = path.strip().split(".")
    if not equals or steps[0] != "train" or len(steps) < 2:
        raise usage_fault("recipe/set", f"--set {text} is no override", help="--set train.epochs=2")
    for step in steps[1:-1]:
        inner = data.setdefault(step, {})
        if not isinstance(inner, dict):
            inner = data[step] = {}
        data = inner
    data[steps[-1]] = _value(value.strip(), f"--set {text}")


def _value(text: str, shown: str) -> Any:
    """The value as a spec would have it."""
    try:
        return plain(parse(f"value: {text}".encode(), shown))["value"]
    except AlexcError as error:
        raise UsageError(*error.diagnostics) from None


def _as_usage(error: ValidationError, data: dict[str, Any]) -> UsageError:
    """What is wrong with overrides, in the words of a spec's faults; they stand in no file."""
    node = parse(json.dumps(data).encode(), "--set")
    return UsageError(
        *(
            replace(found, code="recipe/set", place=None)
            for found in translate(error, TrainSpec, node, "train")
        )
    )


def graph_for_training(graph: Graph) -> Graph:
    """The graph up to its first output's logits: a softmax at the end belongs to the loss."""
    output = graph.outputs[0]
    node = graph.by_name[output]
    if isinstance(node.op, Softmax) and node.inputs[0] in graph.by_name:
        (output,) = node.inputs
    return graph if graph.outputs == (output,) else up_to(graph, output)
