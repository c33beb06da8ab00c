"""Faults in the weights file, or in what PyTorch loaded of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tests.mutants.nets import Weights
from tests.mutants.planting import Mutant, PlantWeights


def _bit(name: str, bit: int) -> PlantWeights:
    """One bit of one weight flipped, counted from the lowest."""

    def plant(weights: Weights) -> None:
        flat = weights[name].reshape(-1)
        flat.view(np.uint32)[flat.size // 2] ^= np.uint32(1 << bit)

    return plant


def _changed(
    name: str, change: Callable[[NDArray[np.float32]], NDArray[np.float32]]
) -> PlantWeights:
    def plant(weights: Weights) -> None:
        weights[name] = np.ascontiguousarray(change(weights[name]), np.float32)

    return plant


def weight_mutants() -> list[Mutant]:
    """Faults in the weights file, or in what PyTorch loaded of it."""
    plants: list[tuple[str, str, PlantWeights]] = [
        ("lowest exponent bit flipped", "conv2", _bit("conv2.weight", 23)),
        ("highest exponent bit flipped", "fc4", _bit("fc4.weight", 30)),
        ("exponent bit flipped", "conv1", _bit("conv1.weight", 25)),
        ("sign flipped", "fc5", _bit("fc5.weight", 31)),
        ("lowest bit flipped", "fc6", _bit("fc6.weight", 0)),
        ("one bias a little off", "fc6", _changed("fc6.bias", lambda w: w * np.float32(1 + 1e-6))),
        ("rows swapped", "fc5", _changed("fc5.weight", lambda w: np.roll(w, 1, 0))),
        ("kernels rotated", "conv3", _changed("conv3.weight", lambda w: np.roll(w, 1, 0))),
        ("rounded to fp16", "conv1", _changed("conv1.weight", lambda w: w.astype(np.float16))),
        ("variance off", "norm3", _changed("norm3.running_var", lambda w: w * np.float32(1.001))),
        ("mean of another sign", "norm", _changed("norm.running_mean", lambda w: -w)),
    ]
    mutants = []
    for name, layer, plant in plants:
        mutants.append(Mutant(name, layer, torch=lambda _net: None, weights=plant))
        mutants.append(Mutant(name, layer, onnx=lambda _model: None, weights=plant))
    return mutants
