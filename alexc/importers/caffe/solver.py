"""What a solver and the layers' multipliers say of training: the spec's `train`, and sentences.

Caffe counts iterations where a spec counts epochs, so a recipe can be made only for data whose
number of images is known. What a recipe can't say (a rate for each layer, a policy that it doesn't
have) is told in words for the spec's reader.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from alexc.importers.caffe.data import DataSource
from alexc.importers.caffe.layer import CaffeLayer, Multipliers, multipliers
from alexc.importers.proto import Message
from alexc.spec.names import clip, listing
from alexc.spec.recipe import TrainSpec

_MOST_SENTENCES = 20
# Training images of data that are known by the name of their file or folder.
_IMAGES = {"ilsvrc12": 1_281_167, "mnist": 60_000, "cifar10": 50_000}
_SOLVER_FIELDS = ("net", "net_param", "train_net", "train_net_param", "base_lr", "lr_policy")


def is_solver(file: Message) -> bool:
    """Whether a prototxt holds a solver rather than a net."""
    return any(file.has(name) for name in _SOLVER_FIELDS) and not (
        file.has("layer") or file.has("layers")
    )


def training_notes(
    solver: Message | None, layers: Sequence[CaffeLayer], source: DataSource | None
) -> list[str]:
    """Paragraphs on how the net was trained, as far as its files say."""
    notes = []
    if solver is not None:
        notes.append(f"Trained with {_solver(solver)}.")
    if source is not None and (sentence := _augmentation(source)):
        notes.append(sentence)
    notes += _multiplied(layers)
    return notes


def recipe(
    solver: Message, layers: Sequence[CaffeLayer], source: DataSource | None
) -> dict[str, Any] | str:
    """The spec's `train` that says what the solver says, or why there is none."""
    kind = (solver.text("type") or solver.text("solver_type") or "SGD").lower()
    if kind not in ("sgd", "nesterov"):
        return f"a recipe has no {clip(kind)} as Caffe means it"
    images = _images(source)
    iterations = solver.integer("max_iter")
    if source is None or images is None or source.batch < 1 or iterations < 1:
        return "it counts epochs, and the number of images is not known"
    batch = source.batch * max(1, solver.integer("iter_size", 1))
    epochs = batch / images  # in one iteration
    schedule = _schedule(solver, epochs)
    if schedule is None:
        return f"a recipe has no policy {clip(solver.text('lr_policy') or 'of that kind')}"
    optimizer: dict[str, Any] = {} if kind == "sgd" else {"nesterov": True}
    for field, name, default in (
        ("base_lr", "learning_rate", 0.01),
        ("momentum", "momentum", 0.9),
        ("weight_decay", "weight_decay", 0.0005),
    ):
        # What Caffe's solver leaves out is 0, and a recipe's default is another.
        if (value := solver.number(field)) != default:
            optimizer[name] = value
    decays = [found.decays for layer in layers if (found := multipliers(layer)) is not None]
    if decays and all(len(own) > 1 and own[1] == 0 for own in decays):
        optimizer["decay_biases"] = False
    described: dict[str, Any] = {"epochs": max(1, round(iterations * epochs)), "batch": batch}
    if optimizer:
        described["optimizer"] = optimizer
    described["schedule"] = schedule
    if source.mirror:
        described["augment"] = {"flip": True}
    if (clipped := solver.number("clip_gradients", -1.0)) > 0:
        described["clip"] = clipped
    try:
        TrainSpec.model_validate(described)
    except ValidationError:
        return "the solver's numbers are none that a recipe may have"
    return described


def _images(source: DataSource | None) -> int | None:
    words = re.split(r"[^a-z0-9]+", source.path.lower()) if source is not None else []
    return next((count for name, count in _IMAGES.items() if name in words), None)


def _schedule(solver: Message, epochs: float) -> dict[str, Any] | None:
    """The recipe's schedule for the solver's policy, `epochs` being those of one iteration."""
    gamma = solver.number("gamma")
    match solver.text("lr_policy"):
        case "fixed":
            return {"name": "constant"}
        case "step" if 0 < gamma < 1 and solver.integer("stepsize") > 0:
            every = max(1, round(solver.integer("stepsize") * epochs))
            factor = {} if gamma == 0.1 else {"factor": gamma}
            return {"name": "step", "every": every, **factor}
        case "poly" if solver.number("power") == 1:
            return {"name": "linear"}
        case _:
            return None


def _solver(solver: Message) -> str:
    kind = solver.text("type") or solver.text("solver_type") or "SGD"
    parts = [clip(kind)]
    for field, words in (
        ("base_lr", "learning rate"),
        ("momentum", "momentum"),
        ("weight_decay", "weight decay"),
    ):
        if solver.has(field):
            parts.append(f"{words} {solver.number(field):g}")
        if field == "base_lr" and solver.has("lr_policy"):
            parts[-1] += f" {_policy(solver)}"
    if solver.has("max_iter"):
        parts.append(f"{solver.integer('max_iter'):,} iterations")
    if solver.integer("iter_size", 1) > 1:
        parts.append(f"gradients of {solver.integer('iter_size')} batches summed")
    if solver.number("clip_gradients", -1.0) > 0:
        parts.append(f"gradients clipped at {solver.number('clip_gradients'):g}")
    return ", ".join(parts)


def _policy(solver: Message) -> str:
    """How the learning rate falls, in words."""
    name = solver.text("lr_policy")
    gamma, power = solver.number("gamma"), solver.number("power")
    match name:
        case "fixed":
            return "kept all the time"
        case "step":
            return f"multiplied by {gamma:g} every {solver.integer('stepsize'):,} iterations"
        case "multistep":
            steps = listing(f"{step:,}" for step in solver.integers("stepvalue"))
            return f"multiplied by {gamma:g} after {steps} iterations"
        case "exp":
            return f"multiplied by {gamma:g} at every iteration"
        case "inv":
            return f"falling as (1+{gamma:g}·iteration)^−{power:g}"
        case "poly":
            return f"falling as (1−iteration/{solver.integer('max_iter')})^{power:g}"
        case _:
            return f"falling by the policy {clip(name)}"


def _augmentation(source: DataSource) -> str:
    parts = []
    if source.crop:
        parts.append(f"crops of {source.crop}×{source.crop} at random places")
    if source.mirror:
        parts.append("mirrored at random")
    if source.batch:
        parts.append(f"batches of {source.batch}")
    return f"In training: {', '.join(parts)}." if parts else ""


def _multiplied(layers: Sequence[CaffeLayer]) -> list[str]:
    """The layers' own multipliers, those that are the same in one sentence."""
    groups: dict[Multipliers, list[str]] = {}
    for layer in layers:
        if (found := multipliers(layer)) is not None:
            groups.setdefault(found, []).append(clip(layer.name))
    everywhere = len(groups) == 1
    return [
        f"{'All layers' if everywhere else listing(names)}: {_said(found)}."
        for found, names in groups.items()
        if _said(found)
    ][:_MOST_SENTENCES]


def _said(found: Multipliers) -> str:
    parts = []
    for words, values in (("learning rate", found.rates), ("weight decay", found.decays)):
        pairs = zip(values, ("weights", "biases"), strict=False)
        factors = [f"×{value:g} on {name}" for value, name in pairs]
        if any(value != 1 for value in values):
            parts.append(f"{words} {' and '.join(factors)}")
    return ", ".join(parts)
