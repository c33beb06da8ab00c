"""One unit of a cuda-convnet net, a layer or a pair of them, while it is translated."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alexc.importers.builder import Builder, Value
from alexc.importers.cuda_convnet.columns import Unit
from alexc.importers.cuda_convnet.sections import Section, floats, numbers
from alexc.importers.foreign import Origin, Row
from alexc.ops.base import Op
from alexc.ops.pointwise import Relu, Sigmoid, Tanh
from alexc.ops.structure import Concat
from alexc.spec.names import clip


@dataclass(frozen=True, slots=True)
class Step:
    """One unit while it is translated: what a row of `OPERATIONS` reads.

    `own` is its section in the file of parameters, if there is one. `values` are the results of
    the layers before it, by name, None where one could not be expressed.
    """

    builder: Builder
    unit: Unit
    own: Section | None
    values: Mapping[str, Value | None]

    @property
    def section(self) -> Section:
        return self.unit.first

    def gathered(self) -> Value | None:
        """What the unit reads, of both columns where it has both, as one tensor."""
        names = list(dict.fromkeys(sorted(n for m in self.unit.members for n in m.inputs)))
        values: list[Value | None] = []
        for name in names:
            value = self.values.get(name)
            if value is None:
                return None
            if value not in values:
                values.append(value)
        if len(values) == 1:
            return values[0]
        origin = Origin(", ".join(names), "columns", self.section.place)
        return self.builder.add(origin, Concat, {}, values, name="columns", listed=False)

    def add(
        self,
        kind: type[Op],
        fields: Mapping[str, Any],
        inputs: Sequence[Value | None],
        init: Mapping[str, Any] | None = None,
    ) -> Value:
        """Add the layer that the unit is, with a line for each of its members in the table."""
        value = self.builder.add(
            self.section.origin, kind, fields, inputs, name=self.unit.name, init=init, listed=False
        )
        note = f"both columns in {value.layer}" if self.unit.columns == 2 else ""
        self.builder.rows += [Row(member.origin, value.layer, note) for member in self.unit.members]
        return value

    def neuron(self, value: Value | None, neuron: str, name: str) -> Value | None:
        """Add the activation `neuron=` behind a value; None, with a fault, if it can't be said."""
        plain = re.sub(r"\s", "", neuron.lower())
        kinds: dict[str, type[Op]] = {"relu": Relu, "logistic": Sigmoid, "tanh[1,1]": Tanh}
        if plain in ("ident", "linear", ""):
            return value
        if plain not in kinds:
            message = f"{self.section.origin}: the neuron {clip(neuron)} can't be said in a spec"
            place = self.section.places.get("neuron")
            self.builder.fault("import/unsupported-field", message, place)
            return None
        return self.builder.add(
            Origin(f"{self.section.name}: neuron", neuron, self.section.place),
            kinds[plain],
            {},
            [value],
            name=name,
            listed=False,
        )

    def neuron_name(self) -> str:
        """relu2 behind conv2, relu1a behind pool1a; otherwise by the layer's whole name."""
        neuron = re.sub(r"\W.*", "", self.section.values["neuron"].lower()) or "neuron"
        number = re.fullmatch(r"[a-z]+(\d{1,2}[ab]?)", self.unit.name)
        wanted = f"{neuron}{number[1]}" if number else ""
        taken = {layer.name for layer in self.builder.layers}
        return wanted if wanted and wanted not in taken else f"{neuron}_{self.unit.name}"

    def one(self, key: str, default: int | None = None) -> int | None:
        """A whole number, which must be the same for all inputs where it is given for each."""
        if key not in self.section.values:
            if default is None:
                message = f"{self.section.origin} says no {key}"
                self.builder.fault("import/missing-parameter", message, self.section.place)
            return default
        given = numbers(self.section, key)
        if not given or len(set(given)) != 1:
            shown = clip(self.section.values[key])
            message = f"{self.section.origin}: {key}={shown} is not one whole number for all inputs"
            self.builder.fault("import/value", message, self.section.places[key])
            return None
        return given[0]

    def refuse_unless(self, key: str, allowed: tuple[str, ...] | None, what: str) -> None:
        """Keep the fault that the field asks for `what`, unless its values are allowed, or 1."""
        value = self.section.values.get(key)
        if value is None:
            return
        plain = {part.strip().lower() for part in value.split(",")}
        fine = plain <= set(allowed) if allowed else all(_is_one(part) for part in plain)
        if not fine:
            message = f"{self.section.origin}: {what} can't be said ({key}={clip(value)})"
            self.builder.fault("import/unsupported-field", message, self.section.places[key])

    def init(self) -> dict[str, Any]:
        """How the layer's weights are drawn, as the spec's `init`."""
        init: dict[str, Any] = {}
        deviations = floats(self.section, "initw")
        if deviations and len(set(deviations)) == 1:
            init["weight"] = {"normal": _plain(deviations[0])}
        if init or "initb" in self.section.values:
            init["bias"] = _plain((floats(self.section, "initb") or [0.0])[0])
        return init


def _is_one(text: str) -> bool:
    try:
        return float(text) == 1
    except ValueError:
        return False


def _plain(value: float) -> float:
    return int(value) if value.is_integer() and abs(value) < 1e6 else value
