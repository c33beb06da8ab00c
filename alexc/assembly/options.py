"""What a build is told beside the spec."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from alexc.diagnostics import usage_fault
from alexc.engines.options import DEFAULT_OPTIONS, PlanOptions
from alexc_runtime.manifest import InputType

if TYPE_CHECKING:
    from alexc.plan.budget import Budget
    from alexc.plan.photographs import Labelled

# The engines that a build can make or prepare, in the order of the manifest. Plans are built; the
# others load model.onnx as it is.
PLAN_ENGINES = ("tensorrt_rtx", "tensorrt")
MODEL_ENGINES = ("onnxruntime_cuda", "onnxruntime_tensorrt", "onnxruntime", "openvino")


@dataclass(frozen=True, slots=True)
class Target:
    """An engine to build for. `capabilities` are GPUs (`8.9`) that a plan is limited to."""

    engine: str
    capabilities: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Auto:
    """A search for the fastest engines: within what budget, with how many threads (None: tried).

    `data` names labelled images to take accuracies on, and `labelled` gives them.
    """

    budget: Budget
    threads: int | None = None
    data: str | None = None
    labelled: Labelled | None = None


@dataclass(frozen=True, slots=True)
class Options:
    """What a build is told beside the spec.

    `seed` counts only where `weights` are not given; left out it is 0, and weights that were given
    to a bundle at the same place are not replaced. `calibrate` are photographs, folders of them,
    or one calibration.json, from which int8 and fp8 take their ranges; with the others they are
    what the accuracy is taken on. Without `targets` everything that is installed is built for, and
    what is not is left out; a target that is named must succeed. `plans` is what their builders are
    told, whose `targets` are those of each target. Plans are kept in `plan_cache` and taken from
    there, if it is given. With the `input` uint8 the model takes pixels and normalises them as the
    spec's `preprocess` says. With `auto` the fastest engines within a budget are searched for, too.
    """

    out: Path
    weights: Path | None = None
    seed: int | None = None
    precision: str = "fp32"
    targets: tuple[Target, ...] = ()
    plans: PlanOptions = DEFAULT_OPTIONS
    calibrate: tuple[Path, ...] = ()
    plan_cache: Path | None = None
    input: InputType = "float32"
    auto: Auto | None = None

    @property
    def model_precision(self) -> str:
        """That of the model: TF32 is how TensorRT multiplies, and that is fp32."""
        return "fp32" if self.precision == "tf32" else self.precision

    @property
    def drawn_from(self) -> int | None:
        """The seed that weights are drawn from; None if they are given."""
        return None if self.weights is not None else self.seed or 0

    def asked(self, engines: tuple[str, ...]) -> list[Target]:
        """The targets that were named, of these engines."""
        return [target for target in self.targets if target.engine in engines]


def parse_targets(texts: Iterable[str]) -> tuple[Target, ...]:
    """The targets that one `--target ENGINE[:CAPABILITY,…]` each writes. Raises UsageError."""
    targets = tuple(dict.fromkeys(map(_target, texts)))
    engines = [target.engine for target in targets]
    for name in engines:
        if engines.count(name) > 1:  # a bundle has one plan of an engine in a precision
            listed = ",".join(dict.fromkeys(c for t in targets for c in t.capabilities))
            raise usage_fault(
                "build/target",
                f"{name} is named more than once, for different GPUs",
                help=f"a plan takes several, with commas between: --target {name}:{listed}",
            )
    return targets


def _target(text: str) -> Target:
    engine, colon, capabilities = text.partition(":")
    name = engine.strip().replace("-", "_")
    known = (*PLAN_ENGINES, *MODEL_ENGINES)
    if name not in known:
        close = get_close_matches(name, known, 1)
        raise usage_fault(
            "build/target",
            f"there is no engine {engine!r} to build for",
            help=f"did you mean {close[0]}?" if close else f"the engines are {', '.join(known)}",
        )
    if not colon:
        return Target(name)
    if name not in PLAN_ENGINES:
        message = f"{name} loads the model as it is, and takes no compute capability"
        raise usage_fault("build/target", message)
    listed = dict.fromkeys(item.strip() for item in capabilities.split(","))
    if "" in listed:
        raise usage_fault(
            "build/target",
            f"{text!r} leaves a compute capability empty",
            help=f"for example --target {name}:8.9,12.0",
        )
    return Target(name, tuple(listed))
