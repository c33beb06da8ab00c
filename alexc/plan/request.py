"""What a search is asked for, and the images that it has for that."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexc.calibrate.calibration import Calibration
from alexc.diagnostics import usage_fault
from alexc.engines.options import PlanOptions
from alexc.frontend import Net
from alexc.plan.budget import FEWEST_PHOTOGRAPHS, Budget
from alexc.plan.photographs import MOST_IMAGES, Labelled
from alexc_runtime.manifest import Preprocess

# As the model takes them: float32, normalised; or pixels, uint8.
Images = NDArray[Any]

# Of photographs without labels errors are measured on one in so many, and ranges on the others.
_HELD_OUT_EVERY = 3


@dataclass(frozen=True)
class Material:
    """What ranges are taken from: photographs as the model takes them, or a calibration."""

    photographs: Images | None = None
    calibration: Calibration | None = None


@dataclass(frozen=True)
class Request:
    """What is searched for.

    `plans` is what builders of plans are told, the batch sizes with it. `threads` fixes the number
    of threads of every engine; None tries some. `pixels` says how the model normalises the pixels
    that it takes; None if it takes images as the net was trained on them. All images are given as
    the model takes them.
    """

    budget: Budget
    plans: PlanOptions = field(default_factory=PlanOptions)
    material: Material = field(default_factory=Material)
    labelled: Labelled | None = None
    threads: int | None = None
    plan_cache: Path | None = None
    pixels: Preprocess | None = None

    def seen(self) -> Images | None:
        """The photographs that errors are measured on: none of those that ranges come from."""
        if self.labelled is not None:
            return self.labelled.some(MOST_IMAGES)
        if (given := self.material.photographs) is not None:
            return given[_HELD_OUT_EVERY - 1 :: _HELD_OUT_EVERY][:MOST_IMAGES]
        return None

    def ranging(self) -> Material:
        """What ranges are taken from."""
        given = self.material.photographs
        if given is None or self.labelled is not None:
            return self.material
        held_out = np.arange(len(given)) % _HELD_OUT_EVERY == _HELD_OUT_EVERY - 1
        return replace(self.material, photographs=given[~held_out])


def check(net: Net, request: Request) -> None:
    """Raise UsageError if the budget asks for an agreement that can't be measured."""
    if request.budget.agreement is None:
        return
    help = "--calibrate DIR, with photographs like those that the net will see, or --data URI"
    given = request.seen()  # damaged ones don't count, so all are looked at
    if given is None:
        raise usage_fault(
            "plan/photographs",
            f"the budget {request.budget.text} is about photographs, and there are none",
            help=help,
        )
    if len(given) < FEWEST_PHOTOGRAPHS:
        count, fewest = len(given), FEWEST_PHOTOGRAPHS
        if request.labelled is None and request.material.photographs is not None:
            count, fewest = len(request.material.photographs), fewest * _HELD_OUT_EVERY
            help = f"one in {_HELD_OUT_EVERY} is held out of the ranges, and counts; {help}"
        raise usage_fault(
            "plan/photographs",
            f"{count} photographs are too few to measure an agreement on: {fewest} or more",
            help=help,
        )
    first = net.graph.outputs[0]
    if len(net.graph.shapes[first]) != 1:
        raise usage_fault(
            "plan/budget",
            f"{first} is an image, and has no first class to agree on",
            help="give a budget as a relative error: --budget 1e-3",
        )
