"""Caffe's fillers, from which weights are drawn, as the spec's `init`.

`xavier` and `msra` go by fan-in alone, unless variance_norm says otherwise.
"""

from __future__ import annotations

import math
from typing import Any

from alexc.importers.caffe.step import Step
from alexc.importers.proto import Message
from alexc.ops.base import Shape
from alexc.spec.names import clip


def init_of(
    step: Step, fields: Message, bias: bool, shape: Shape | None, groups: int
) -> dict[str, Any]:
    """The layer's fillers as the spec's `init`; a filler that isn't given is Caffe's default, 0.

    A file without fillers, as those are that only describe a trained net, says nothing of them.
    """
    init: dict[str, Any] = {}
    for field, name in (("weight_filler", "weight"), ("bias_filler", "bias")):
        filler = fields.message(field)
        step.known_fields(filler)
        if fields.has(field) and (name == "weight" or bias):
            init[name] = _filled(step, filler, shape, groups)
    if init and bias:
        init.setdefault("bias", 0)
    return {name: value for name, value in init.items() if value is not None}


def _filled(step: Step, filler: Message, shape: Shape | None, groups: int) -> Any:
    """A filler as a distribution of the spec, or None, with a warning, if it has none."""
    kind = filler.text("type", "constant")
    numbers = [filler.number(name) for name in ("value", "min", "max", "mean", "std")]
    if not all(math.isfinite(number) and abs(number) < 1e37 for number in numbers):
        kind = f"{clip(kind)} of such numbers"
    if kind == "constant":
        return _short(filler.number("value"))
    if kind == "gaussian" and not filler.number("mean") and filler.integer("sparse", -1) < 0:
        return {"normal": _short(filler.number("std", 1.0))}
    if kind == "uniform" and filler.number("min") == -filler.number("max", 1.0):
        return {"uniform": _short(filler.number("max", 1.0))}
    if kind in ("xavier", "msra") and shape is not None and min(shape) > 0:
        return _by_fans(kind, filler.text("variance_norm", "FAN_IN"), shape, groups)
    if shape is not None or kind not in ("xavier", "msra"):
        step.builder.warn(
            "import/init",
            f"{step.layer.origin}: the filler {kind} can't be said in a spec, and is left out",
            filler.place,
        )
    return None


def _by_fans(kind: str, norm: str, shape: Shape, groups: int) -> Any:
    """`xavier` draws U(±√(3/n)) and `msra` N(0, 2/n), n being what variance_norm says."""
    fan_in = math.prod(shape[1:])
    fan_out = shape[0] * math.prod(shape[2:])  # Caffe counts all outputs, of every group
    if kind == "msra" and norm == "FAN_IN":
        return "kaiming_normal"
    if kind == "xavier" and norm == "AVERAGE" and groups == 1:
        return "xavier_uniform"
    n = {"FAN_IN": fan_in, "FAN_OUT": fan_out}.get(norm, (fan_in + fan_out) / 2)
    if kind == "msra":
        return {"normal": _short(math.sqrt(2 / n), 4)}
    return {"uniform": _short(math.sqrt(3 / n), 4)}


def _short(value: float, digits: int = 7) -> float:
    """A number as a person would write it: 1 and not 1.0, and no digits that mean nothing."""
    rounded = float(f"{value:.{digits}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e6 else rounded
