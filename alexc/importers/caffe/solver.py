"""What a solver and the layers' multipliers say of training, as sentences for the spec's reader."""

from __future__ import annotations

from collections.abc import Sequence

from alexc.importers.caffe.data import DataSource
from alexc.importers.caffe.layer import CaffeLayer, Multipliers, multipliers
from alexc.importers.proto import Message
from alexc.spec.names import clip, listing

_MOST_SENTENCES = 20
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
