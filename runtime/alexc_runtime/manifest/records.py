"""What a manifest says, as values. Making one that contradicts itself raises ValueError."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from alexc_runtime.digests import FileRecord, is_safe
from alexc_runtime.planned import Plan

Channels = Literal["rgb", "bgr", "grey"]
InputType = Literal["float32", "uint8"]


@dataclass(frozen=True)
class BatchRange:
    """The batch sizes that a plan was built for: it takes min to max and is fastest at opt."""

    min: int
    opt: int
    max: int

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max:
            raise ValueError(
                f"a batch range goes 1 ≤ min ≤ opt ≤ max, not {self.min}, {self.opt}, {self.max}"
            )


@dataclass(frozen=True)
class Input:
    """The model's input: `(batch, *shape)` of `dtype`, which is that of numpy.

    uint8 are pixels, 0 to 255, which the model normalises itself.
    """

    name: str
    shape: tuple[int, ...]
    batch: BatchRange
    dtype: InputType = "float32"


@dataclass(frozen=True)
class Output:
    """One output: float32, `(batch, *shape)`. `probabilities` if it comes from a softmax."""

    name: str
    shape: tuple[int, ...]
    probabilities: bool = False


@dataclass(frozen=True)
class Preprocess:
    """How a photo becomes the network's input: x = (pixel · scale − mean) / std.

    `resize` is the length in pixels that the shorter side is brought to (None: as it is), `crop`
    the height and width of the centre that is kept. Pixels are 0 to 255. `mean` and `std` stand in
    the order of `channels`; `mean` is in units of scaled pixels. Where `dtype` is uint8 a photo
    ends as the pixels themselves, and the formula is computed by the model.
    """

    resize: int | None
    crop: tuple[int, int]
    channels: Channels
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dtype: InputType = "float32"

    def __post_init__(self) -> None:
        if self.channels not in ("rgb", "bgr", "grey"):
            raise ValueError(f"channels is rgb, bgr or grey, not {self.channels!r}")
        count = self.channel_count
        if len(self.mean) != count or len(self.std) != count:
            raise ValueError(
                f"{self.channels} takes {count} of mean and std each, "
                f"not {len(self.mean)} and {len(self.std)}"
            )
        if min(self.crop) < 1 or (self.resize is not None and self.resize < max(self.crop)):
            raise ValueError(
                f"a crop of {self.crop[0]}×{self.crop[1]} does not fit into photos "
                f"whose shorter side is {self.resize}"
            )
        if not all(map(math.isfinite, (self.scale, *self.mean, *self.std))) or 0.0 in self.std:
            raise ValueError("scale, mean and std are finite numbers, and std is never zero")

    @property
    def channel_count(self) -> int:
        return 1 if self.channels == "grey" else 3


@dataclass(frozen=True)
class Built:
    """What a plan was built with, and so where it runs.

    `library` is the version that built it. `targets` are compute capabilities (`8.9`), none meaning
    the library's default. `profiles` are the ranges of batches that it was made for. `stripped` if
    the weights are not in it but put in from `weights.safetensors` when it is loaded.
    `any_version` if later versions of the library load it, `any_gpu` if GPUs from 8.0 on do.
    """

    library: str
    targets: tuple[str, ...] = ()
    profiles: tuple[BatchRange, ...] = ()
    stripped: bool = False
    any_version: bool = False
    any_gpu: bool = False


@dataclass(frozen=True)
class EngineRecord:
    """One way to run the bundle: `path` is the plan or model that it loads, None if none was made.

    `status` says in words what the build knows of it: `verified`, `built, not run: no GPU`.
    `built` is there for plans.
    """

    engine: str
    precision: str
    status: str
    path: str | None
    built: Built | None = None

    def to_json(self) -> dict[str, Any]:
        """As it stands in the manifest."""
        content = asdict(self)
        if self.built is None:
            del content["built"]
        return content


@dataclass(frozen=True)
class BackendRecord:
    """What became of one backend in the verification; `passed` is None if it did not run."""

    backend: str
    status: str
    passed: bool | None


@dataclass(frozen=True)
class Verification:
    """The certificate: what was compared with what, and the digests of the files it speaks of.

    `passed` is None when nothing was verified. `digests` maps paths in the bundle to SHA-256; the
    writer refuses a certificate for other bytes than those in the bundle. `inputs` says of which
    images the outputs were compared, as `verify.json` does; empty if nothing says so.
    """

    passed: bool | None
    reference: str
    backends: tuple[BackendRecord, ...] = ()
    digests: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Origin:
    """Where the weights come from: drawn from `seed`, or given, where that is None."""

    seed: int | None


@dataclass(frozen=True)
class Manifest:
    """Everything that a bundle says of itself.

    `inputs_digest` covers all that went into the build; a second build with the same one would
    make the same bundle. `spec` is the resolved spec as JSON, from which the graph can be built
    again. `versions` are those of the tools that made it. `precision` is that of the model, and
    `plan` what a search for the fastest engines found, if there was one. `weights` says where they
    come from, None where the build did not say it yet.
    """

    alexc: str
    name: str
    inputs_digest: str
    spec_digest: str
    graph_digest: str
    input: Input
    outputs: tuple[Output, ...]
    preprocess: Preprocess | None
    labels: tuple[str, ...] | None
    spec: Mapping[str, Any]
    engines: tuple[EngineRecord, ...]
    versions: Mapping[str, str]
    verification: Verification
    precision: str = "fp32"
    plan: Plan | None = None
    weights: Origin | None = None
    files: Mapping[str, FileRecord] = field(default_factory=dict)

    def record(self, engine: str, path: str) -> EngineRecord | None:
        """What is said of a file as an engine runs it, if anything is."""
        return next((r for r in self.engines if (r.engine, r.path) == (engine, path)), None)

    def __post_init__(self) -> None:
        if not self.outputs:
            raise ValueError("a bundle has one or more outputs")
        if self.preprocess is not None:
            made = (self.preprocess.channel_count, *self.preprocess.crop)
            if made != self.input.shape or self.preprocess.dtype != self.input.dtype:
                raise ValueError(
                    f"preprocess makes {format_shape(made)} of {self.preprocess.dtype} of a photo "
                    f"and the input takes {format_shape(self.input.shape)} of {self.input.dtype}"
                )
        elif self.input.dtype != "float32":
            raise ValueError(f"the input takes {self.input.dtype}, and no preprocess says of what")
        planned = self.plan.paths if self.plan is not None else []
        for path in (*self.files, *(record.path for record in self.engines), *planned):
            if path is not None and not is_safe(path):
                raise ValueError(f"{path!r} does not name a file inside the bundle")


def format_shape(shape: tuple[int, ...]) -> str:
    """`(3, 227, 227)` as people write it: 3×227×227."""
    return "×".join(map(str, shape)) or "scalar"
