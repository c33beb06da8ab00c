"""One layer of a Caffe net, of either syntax, and what phase and stage rules say of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from alexc.diagnostics import Place
from alexc.importers.caffe.schema import OLD_TYPES
from alexc.importers.foreign import Origin
from alexc.importers.proto import Message

Phase = Literal["TRAIN", "TEST"]

DATA_TYPES = frozenset(
    ("Data", "DummyData", "HDF5Data", "ImageData", "Input", "MemoryData", "WindowData")
)
_IMAGE_TYPES = frozenset(("Data", "HDF5Data", "ImageData", "WindowData"))
_WEIGHTED_TYPES = frozenset(("BatchNorm", "Convolution", "InnerProduct", "Scale"))
_TRAINING_TYPES = frozenset(("Accuracy", "HDF5Output", "Silence"))


@dataclass(frozen=True, slots=True)
class CaffeLayer:
    """A layer as it is written; `type` is always that of the new syntax."""

    name: str
    type: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    message: Message

    @property
    def origin(self) -> Origin:
        return Origin(self.name, self.type, self.message.place)

    @property
    def place(self) -> Place | None:
        return self.message.place

    @property
    def is_data(self) -> bool:
        return self.type in DATA_TYPES

    @property
    def reads_images(self) -> bool:
        """Whether the layer gets its images from a file or a database, and may prepare them."""
        return self.type in _IMAGE_TYPES

    @property
    def may_have_weights(self) -> bool:
        return self.type in _WEIGHTED_TYPES

    @property
    def is_for_training(self) -> bool:
        """Whether the layer only measures: losses, accuracies and what swallows a result."""
        return self.type in _TRAINING_TYPES or self.type.endswith("Loss")

    @property
    def is_old(self) -> bool:
        return self.message.schema.name == "OldLayer"

    def in_phase(self, phase: Phase) -> bool:
        """Whether the layer is part of the net in this phase, at level 0 and in no stage."""
        if include := self.message.messages("include"):
            return any(_meets(rule, phase) for rule in include)
        return not any(_meets(rule, phase) for rule in self.message.messages("exclude"))


def layers_of(net: Message) -> list[CaffeLayer]:
    """Every layer of the net in its order, whichever syntax it is written in."""
    return [_layer(message) for message in [*net.messages("layers"), *net.messages("layer")]]


def _layer(message: Message) -> CaffeLayer:
    word = message.text("type")
    if message.schema.name == "OldLayer":
        word = OLD_TYPES[word][0] if word in OLD_TYPES else word
    return CaffeLayer(
        message.text("name"),
        word,
        tuple(message.texts("bottom")),
        tuple(message.texts("top")),
        message,
    )


def _meets(rule: Message, phase: Phase) -> bool:
    """Whether the state (phase, level 0, no stages) meets a rule."""
    if rule.has("phase") and rule.text("phase") != phase:
        return False
    if rule.integer("min_level", 0) > 0 or rule.integer("max_level", 0) < 0:
        return False
    return not rule.texts("stage")


@dataclass(frozen=True, slots=True)
class Multipliers:
    """What a layer's weights and biases multiply the solver's rate and decay with."""

    rates: tuple[float, ...]
    decays: tuple[float, ...]


def multipliers(layer: CaffeLayer) -> Multipliers | None:
    """The layer's own multipliers, or None if it says nothing of them."""
    message = layer.message
    if layer.is_old:
        rates: Sequence[float] = message.numbers("blobs_lr")
        decays: Sequence[float] = message.numbers("weight_decay")
    else:
        specs = message.messages("param")
        rates = [spec.number("lr_mult", 1.0) for spec in specs]
        decays = [spec.number("decay_mult", 1.0) for spec in specs]
    return Multipliers(tuple(rates), tuple(decays)) if rates or decays else None
