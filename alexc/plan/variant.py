"""The ways to run a net that a search tries: engine, precision, forms of the model, threads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from alexc.calibrate.narrow import QUANTIZED
from alexc_runtime.manifest import MODEL
from alexc_runtime.opening import ENGINES
from alexc_runtime.planned import way_label

# What each engine computes in natively, fp32 first. An engine that is not named has fp32.
PRECISIONS: dict[str, tuple[str, ...]] = {
    "tensorrt": ("fp32", "tf32", "fp16", "int8"),
    "tensorrt_rtx": ("fp32", "tf32", "fp16", "int8"),
    # Its TF32 would be of the same file as fp32, and is left out.
    "onnxruntime_cuda": ("fp32", "fp16"),
    # On a CPU it has slow kernels for fp16, and writes weights of int8 out in fp32.
    "onnxruntime": ("fp32", "u8s8"),
    "openvino": ("fp32", "bf16", "int8-weights", "u8s8"),
}


@dataclass(frozen=True, order=True)
class Variant:
    """One way to run a net. `forms` are names of `engines.forms.FORMS`, in their order; `threads`
    bounds the engine's (None: its own choice)."""

    engine: str
    precision: str = "fp32"
    forms: tuple[str, ...] = ()
    threads: int | None = None

    @property
    def model(self) -> str:
        """The name of its model: tf32 is how TensorRT multiplies, and no matter of the model."""
        precision = "fp32" if self.precision == "tf32" else self.precision
        parts = (*self.forms, *(() if precision == "fp32" else (precision,)))
        return f"model-{'-'.join(parts)}.onnx" if parts else MODEL

    @property
    def ranges(self) -> str:
        """The name of the file with its model's ranges, where that is in eight bits."""
        return self.model.replace("model", "calibration", 1).removesuffix(".onnx") + ".json"

    @property
    def path(self) -> str:
        """The file in the bundle that the engine loads."""
        if not ENGINES[self.engine].needs_plan:
            return self.model
        parts = (self.engine, *self.forms, self.precision)
        return f"engines/{'-'.join(parts)}.plan"

    @property
    def label(self) -> str:
        """`openvino bf16, banded, 2 threads`."""
        return way_label(self.engine, self.precision, self.forms, self.threads)


def narrower(
    variants: Iterable[Variant], quantizable: bool, precisions: dict[str, tuple[str, ...]]
) -> list[Variant]:
    """These variants in every narrower precision that their engines have, each once.

    Those of eight bits are left out unless it is `quantizable`: they take ranges.
    """
    found = {
        replace(variant, precision=precision): None
        for variant in variants
        for precision in precisions.get(variant.engine, ("fp32",))[1:]
        if quantizable or precision not in QUANTIZED
    }
    return list(found)


def threaded(variants: Iterable[Variant], cores: int) -> list[Variant]:
    """These variants with one thread, half the cores and all of them, each once.

    Those on a GPU are left out, and all of them where there is one core.
    """
    counts = sorted({1, cores // 2, cores} - {0}) if cores > 1 else []
    return [
        replace(variant, threads=count)
        for variant in dict.fromkeys(variants)
        if not ENGINES[variant.engine].on_gpu
        for count in counts
    ]


def combined(winners: Iterable[Variant], kinds: dict[str, str]) -> list[Variant]:
    """Variants in the forms of several winners at once, of one engine and of different kinds.

    `kinds` says of each form, in the order of their names in a variant, of which kind it is. Only
    winners with one form count.
    """
    single = [each for each in winners if len(each.forms) == 1]
    found: dict[Variant, None] = {}
    for engine in dict.fromkeys(each.engine for each in single):
        by_kind: dict[str, Variant] = {}
        for each in single:
            if each.engine == engine:
                by_kind.setdefault(kinds[each.forms[0]], each)
        forms = [each.forms[0] for each in by_kind.values()]
        if len(forms) > 1:
            ordered = tuple(name for name in kinds if name in forms)
            found[replace(next(iter(by_kind.values())), forms=ordered)] = None
    return list(found)
