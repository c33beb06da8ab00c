"""Changes that leave the function what it is, each with the proof: they must be accepted."""

from __future__ import annotations

import torch

from tests.mutants.onnx_tools import (
    attributes,
    node_behind,
    reads,
)
from tests.mutants.planting import Equivalent, Mutant, PlantOnnx, PlantTorch
from tests.mutants.torch_tools import (
    average_rounded_up,
    computed_of,
    of_input,
    set_attributes,
)


def equivalents() -> list[Equivalent]:
    """Mutations that leave the function what it is: no verification may call them faults."""

    def t(name: str, layer: str, plant: PlantTorch) -> Mutant:
        return Mutant(name, layer, torch=plant)

    def o(name: str, layer: str, plant: PlantOnnx) -> Mutant:
        return Mutant(name, layer, onnx=plant)

    return [
        Equivalent(
            t("momentum changed", "norm3", set_attributes("norm3", momentum=0.5)),
            "momentum weighs a new batch in the running statistics; inference makes none",
        ),
        Equivalent(
            t("another probability", "drop4", set_attributes("drop4", p=0.1)),
            "dropout passes its input on in inference, whatever its probability",
        ),
        Equivalent(
            t("applied twice", "relu1", of_input("relu1", lambda x: torch.relu(torch.relu(x)))),
            "max(max(x, 0), 0) = max(x, 0)",
        ),
        Equivalent(
            t("dilation of a 1×1 kernel", "left", set_attributes("left", dilation=(2, 2))),
            "a kernel of one tap has no neighbours to lie apart",
        ),
        Equivalent(
            t("a constant added before", "prob", computed_of("prob", lambda x: x + 1)),
            "e^(a + c) / Σ e^(a + c) = e^a / Σ e^a",
        ),
        Equivalent(
            t("ceil mode where windows fit", "pool3", average_rounded_up),
            "(5 + 2 − 3) / 2 = 2 and (9 + 2 − 3) / 2 = 4: nothing is rounded",
        ),
        Equivalent(
            t(
                "a column of padding that none reads",
                "conv1",
                set_attributes("conv1", sides=(2, 1, 1, 1)),
            ),
            "⌊(41 + 2 − 3) / 2⌋ = ⌊(41 + 3 − 3) / 2⌋ = 20: the last window ends before it",
        ),
        Equivalent(
            t("inputs in another order", "sum", of_input("sum", lambda a, b, c: c + b + a)),
            "addition commutes, and its rounding is within the tolerance of any order",
        ),
        Equivalent(
            o("applied twice", "relu1", node_behind("relu1", "Relu")),
            "max(max(x, 0), 0) = max(x, 0)",
        ),
        Equivalent(
            o("written twice", "flat", node_behind("flat", "Flatten", axis=1)),
            "what is flat already stays as it is",
        ),
        Equivalent(
            o("sums in another order", "sum", reads("sum", lambda n: n[::-1])),
            "addition commutes, and its rounding is within the tolerance of any order",
        ),
        Equivalent(
            o("negative axis", "prob", attributes("prob", axis=-1)),
            "of two axes the last is axis 1",
        ),
    ]
