"""What a Pad adds, in whichever generation of the op says it."""

from __future__ import annotations

from alexc.importers.onnx_model.evaluation import NotConstantError
from alexc.importers.onnx_model.model import Model
from alexc.importers.onnx_model.node import Node


def pad_amounts(model: Model, pad: Node) -> list[int]:
    """What a Pad adds, first before and then after every axis. Raises NotConstantError."""
    listed = pad.integers("pads")
    if listed is not None:
        return listed
    amounts = [int(n) for n in model.constant(pad.input(1)).reshape(-1)]
    if not pad.input(3):
        return amounts
    axes = [int(n) for n in model.constant(pad.input(3)).reshape(-1)]
    if any(not -4 <= axis < 4 for axis in axes) or len(amounts) != 2 * len(axes):
        raise NotConstantError
    full = [0] * 8
    for position, axis in enumerate(axes):
        full[axis % 4] = amounts[position]
        full[4 + axis % 4] = amounts[position + len(axes)]
    return full


def pad_value(model: Model, pad: Node) -> float:
    """What a Pad adds it with. Raises NotConstantError if it is no constant."""
    if pad.text("mode", "constant") != "constant":
        raise NotConstantError
    if "value" in pad.attributes:
        return pad.number("value", 0.0)
    return model.scalar(pad.input(2)) if pad.input(2) else 0.0
