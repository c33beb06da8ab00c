"""Who reads what in a Caffe net, and which of its layers lead to what it gives.

Layers may write a blob that was there before (`relu1` from conv1 to conv1), so a blob has versions,
and whoever reads it reads the latest. What no layer reads is what the net gives; losses,
accuracies, labels and what is made of them don't count.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from alexc.importers.builder import Builder
from alexc.importers.caffe.layer import CaffeLayer
from alexc.importers.caffe.operations import takes_along
from alexc.importers.naming import guess
from alexc.spec.names import clip

# Beyond so many faults of names, none is worth the time to guess what was meant.
MOST_GUESSES = 20


@dataclass(frozen=True, slots=True)
class Ref:
    """One version of a blob: the `top`-th result of the layer at `layer` in the order of the net.

    The net's own inputs, which old files declare without a layer, come from layer −1.
    """

    layer: int
    top: int


@dataclass(frozen=True, slots=True)
class Wired:
    """A layer with what it reads."""

    layer: CaffeLayer
    reads: tuple[Ref, ...]


def wire(builder: Builder, inputs: Sequence[str], layers: Sequence[CaffeLayer]) -> list[Wired]:
    """Who reads which version of which blob."""
    versions = {name: Ref(-1, i) for i, name in enumerate(inputs)}
    wired = []
    for index, layer in enumerate(layers):
        reads = []
        for bottom in layer.bottoms:
            if bottom in versions:
                reads.append(versions[bottom])
                continue
            few = len(builder.faults) < MOST_GUESSES
            builder.fault(
                "import/unknown-blob",
                f"{layer.origin} reads {clip(bottom)}, which no layer before it makes",
                layer.place,
                help=guess(bottom, versions) if few else None,
            )
        wired.append(Wired(layer, tuple(reads)))
        for position, top in enumerate(layer.tops):
            versions[top] = Ref(index, position)
    builder.check()
    return wired


def wanted(
    builder: Builder, wired: Sequence[Wired], partial: str | None
) -> tuple[set[int], list[Ref]]:
    """The layers to translate, by their index, and what the net gives."""
    if partial is not None:
        return _up_to(builder, wired, partial)
    ignored = _training_only(wired)
    readers = readers_of(wired, range(len(wired)))
    ends: list[tuple[float, Ref]] = []
    for index, one in enumerate(wired):
        if index in ignored or one.layer.is_data:
            continue
        for position in range(len(one.layer.tops)):
            ref = Ref(index, position)
            after = readers.get(ref, [])
            if any(reader not in ignored for reader in after):
                continue
            losses = [wired[i].layer for i in after if wired[i].layer.type.endswith("Loss")]
            weights = [(loss.message.numbers("loss_weight") or [1.0])[0] for loss in losses]
            if losses and one.layer.type == "Softmax" and len(one.reads) == 1:
                # It is a part of the loss: training nets end in logits.
                ignored.add(index)
                ref = one.reads[0]
            ends.append((max(weights, default=1.0), ref))
    # The outputs of the heavier losses first: auxiliary classifiers come after.
    ends.sort(key=lambda end: -end[0])
    return set(range(len(wired))) - ignored, [ref for _, ref in ends]


def _up_to(builder: Builder, wired: Sequence[Wired], name: str) -> tuple[set[int], list[Ref]]:
    found = [i for i, one in enumerate(wired) if one.layer.name == name]
    if not found or not wired[found[-1]].layer.tops:
        help = guess(name, (one.layer.name for one in wired))
        builder.stop("import/partial", f"there is no layer {clip(name)}", help=help)
    waiting, needed = [found[-1]], {found[-1]}
    while waiting:
        for ref in wired[waiting.pop()].reads:
            if ref.layer >= 0 and ref.layer not in needed:
                needed.add(ref.layer)
                waiting.append(ref.layer)
    return needed, [Ref(found[-1], 0)]


def _training_only(wired: Sequence[Wired]) -> set[int]:
    """Losses, accuracies, and whatever is made of labels or of losses alone."""
    ignored: set[int] = set()
    foreign: set[Ref] = set()  # labels, and what comes of them
    for index, one in enumerate(wired):
        if one.layer.is_data:
            labels = range(1, len(one.layer.tops))
            if one.layer.type not in ("Input", "DummyData"):
                foreign.update(Ref(index, position) for position in labels)
            continue
        only_labels = bool(one.reads) and all(ref in foreign for ref in one.reads)
        if one.layer.is_for_training or only_labels:
            ignored.add(index)
            foreign.update(Ref(index, position) for position in range(len(one.layer.tops)))
    return ignored


def readers_of(wired: Sequence[Wired], indices: Iterable[int]) -> dict[Ref, list[int]]:
    """Which of these layers read each version of a blob."""
    readers: dict[Ref, list[int]] = {}
    for index in indices:
        for ref in wired[index].reads:
            readers.setdefault(ref, []).append(index)
    return readers


def scales_of(wired: Sequence[Wired], wanted: set[int]) -> dict[int, int]:
    """For each BatchNorm the Scale that is its other half: its only reader."""
    readers = readers_of(wired, sorted(wanted))
    pairs = {}
    for index in wanted:
        after = readers.get(Ref(index, 0), [])
        if len(after) == 1 and takes_along(wired[index].layer, wired[after[0]].layer):
            pairs[index] = after[0]
    return pairs
