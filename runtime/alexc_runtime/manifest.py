"""`manifest.json`: what a bundle says of itself. This room owns its format, both ways.

The file is JSON. It starts with the three keys by which any version can be told apart,

    "format": "alexc-bundle"          what it is
    "version": 1                      version of the format: a reader knows one
    "digest": "sha256:…"              SHA-256 of this file with these 64 digits as zeros

and the last one binds all the rest: a changed byte in the manifest is noticed as surely as one in
the files that it lists. Keys that a reader does not know are skipped; one that would change the
meaning of the others takes a new version.

This module checks what the manifest says; whether the files agree is asked by `open_bundle`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from alexc_runtime.digests import FileRecord, differences, is_safe
from alexc_runtime.errors import BundleError, BundleMissingError
from alexc_runtime.fields import Fields
from alexc_runtime.planned import Plan

FORMAT = "alexc-bundle"
VERSION = 1

MANIFEST = "manifest.json"
MODEL = "model.onnx"
WEIGHTS = "weights.safetensors"
REPORT = "verify.json"
ENGINES = "engines"

# A manifest with the labels of ImageNet takes 60 kB.
MAX_BYTES = 16_000_000

_DIGEST = "sha256:"
_ZEROS = _DIGEST + "0" * 64
_REBUILD = "build it again with `alexc build`"

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


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its folder, and the manifest that its files were found to agree with."""

    folder: Path
    manifest: Manifest

    def path(self, name: str) -> Path:
        """The place of a file that the manifest lists, and so was checked."""
        if name not in self.manifest.files:
            raise BundleError(
                "bundle/unlisted", f"the manifest of {self.folder} lists no {name}", help=_REBUILD
            )
        return self.folder / name


def format_shape(shape: tuple[int, ...]) -> str:
    """`(3, 227, 227)` as people write it: 3×227×227."""
    return "×".join(map(str, shape)) or "scalar"


def open_bundle(path: str | os.PathLike[str]) -> Bundle:
    """The bundle in the folder `path`, with every listed file found present and unaltered.

    Reads every byte of the bundle once; `alexc_runtime.digests` says what that costs. Raises
    BundleMissingError if there is none, and BundleError with one note per file that differs.
    """
    folder = Path(path)
    manifest = read(folder)
    if found := differences(folder, manifest.files):
        count = f"{len(found)} of {len(manifest.files)} files" if len(found) > 1 else "a file"
        raise BundleError(
            "bundle/altered",
            f"the bundle {folder} is damaged: {count} differ{'s' * (len(found) == 1)} "
            "from what the build wrote",
            notes=tuple(found),
            help=f"{_REBUILD}, or copy it again from where it came",
        )
    return Bundle(folder, manifest)


# ---- writing -------------------------------------------------------------------------------------


def render(manifest: Manifest) -> bytes:
    """The content of `manifest.json`. Equal manifests give equal bytes.

    Raises ValueError if something in it has no form in JSON.
    """
    content = {
        "format": FORMAT,
        "version": VERSION,
        "digest": _ZEROS,
        "alexc": manifest.alexc,
        "name": manifest.name,
        "inputs_digest": manifest.inputs_digest,
        "spec_digest": manifest.spec_digest,
        "graph_digest": manifest.graph_digest,
        "files": {path: asdict(manifest.files[path]) for path in sorted(manifest.files)},
        "input": {
            "name": manifest.input.name,
            "shape": manifest.input.shape,
            "dtype": manifest.input.dtype,
            "batch": asdict(manifest.input.batch),
        },
        "outputs": [asdict(output) for output in manifest.outputs],
        "preprocess": asdict(manifest.preprocess) if manifest.preprocess else None,
        "labels": manifest.labels,
        "precision": manifest.precision,
        "engines": [record.to_json() for record in manifest.engines],
        "verification": {
            "passed": manifest.verification.passed,
            "reference": manifest.verification.reference,
            "backends": [asdict(record) for record in manifest.verification.backends],
            "digests": dict(manifest.verification.digests),
            "inputs": dict(manifest.verification.inputs),
        },
        "versions": dict(manifest.versions),
        **({"plan": manifest.plan.to_json()} if manifest.plan else {}),
        **({"weights": asdict(manifest.weights)} if manifest.weights else {}),
        "spec": manifest.spec,
    }
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    data = text.encode()
    # `digest` stands before everything that a user writes, so the first zeros are its own.
    return data.replace(_ZEROS.encode(), _digest(data).encode(), 1)


def _digest(data: bytes) -> str:
    return _DIGEST + hashlib.sha256(data).hexdigest()


# ---- reading -------------------------------------------------------------------------------------


def read(folder: Path) -> Manifest:
    """The manifest of the bundle in `folder`. The other files are not looked at.

    Raises BundleMissingError if there is none, and BundleError if it can't be relied on.
    """
    return parse(_read_bytes(folder), str(folder / MANIFEST))


def _read_bytes(folder: Path) -> bytes:
    path = folder / MANIFEST
    try:
        if not stat.S_ISDIR(folder.stat().st_mode):
            raise BundleMissingError(
                "bundle/missing", f"{folder} is a file, and a bundle is a folder"
            )
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise BundleError("bundle/manifest", f"{path} is not an ordinary file", help=_REBUILD)
        if status.st_size > MAX_BYTES:
            raise BundleError(
                "bundle/manifest", f"{path} has {status.st_size:,} bytes, too many for a manifest"
            )
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        what = f"{folder} holds no {MANIFEST}" if folder.is_dir() else f"there is no {folder}"
        raise BundleMissingError(
            "bundle/missing", what, help="make a bundle with `alexc build SPEC --out DIR`"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise BundleError("bundle/unreadable", f"{path} can't be read: {reason}") from None


def parse(data: bytes, shown_as: str) -> Manifest:
    """The manifest in the bytes of its file. Raises BundleError if it can't be relied on."""

    def refuse(message: str, *, code: str = "bundle/manifest", help: str = _REBUILD) -> BundleError:
        return BundleError(code, f"{shown_as} {message}", help=help)

    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, ValueError) else "it is nested too deeply"
        what = "is empty" if not data else f"is not JSON, or was cut short: {reason}"
        raise refuse(what) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise refuse("is not the manifest of a bundle")
    if content.get("version") != VERSION:
        raise refuse(
            f"has version {content.get('version')!r} of the format; "
            f"this alexc_runtime reads version {VERSION}",
            code="bundle/version",
            help="build it again with the alexc that is installed here, "
            "or install the one that built it",
        )
    stated = content.get("digest")
    if not isinstance(stated, str) or not re.fullmatch(r"sha256:[0-9a-f]{64}", stated):
        raise refuse("has no digest", code="bundle/altered")
    if _digest(data.replace(stated.encode(), _ZEROS.encode(), 1)) != stated:
        raise refuse("was altered after the build", code="bundle/altered")
    try:
        return _manifest(Fields(content, ""))
    except (ValueError, OverflowError) as error:  # an integer too large for a float
        raise refuse(f"is not as a build writes it: {error}") from None


def _manifest(fields: Fields) -> Manifest:
    files = fields.object("files")
    labels = fields.content.get("labels", ...)
    return Manifest(
        alexc=fields.text("alexc"),
        name=fields.text("name"),
        inputs_digest=fields.text("inputs_digest"),
        spec_digest=fields.text("spec_digest"),
        graph_digest=fields.text("graph_digest"),
        files={path: _file(files.object(path)) for path in files.content},
        input=_input(fields.object("input")),
        outputs=fields.listing("outputs", _output),
        preprocess=fields.optional("preprocess", _preprocess),
        labels=None if labels is None else fields.texts("labels"),
        precision=fields.text("precision"),
        engines=fields.listing("engines", _engine),
        verification=_verification(fields.object("verification")),
        versions=fields.text_map("versions"),
        plan=fields.optional("plan", Plan.read) if "plan" in fields.content else None,
        weights=fields.optional("weights", _origin) if "weights" in fields.content else None,
        spec=fields.object("spec").content,
    )


def _file(fields: Fields) -> FileRecord:
    return FileRecord(fields.integer("bytes"), fields.text("sha256"))


def _input(fields: Fields) -> Input:
    return Input(
        fields.text("name"),
        _shape(fields),
        _batch(fields.object("batch")),
        _input_type(fields),
    )


def _input_type(fields: Fields) -> InputType:
    text = fields.text("dtype") if "dtype" in fields.content else "float32"
    if text not in ("float32", "uint8"):
        raise ValueError(f"{fields.place('dtype')} is {text}, neither float32 nor uint8")
    return cast(InputType, text)


def _origin(fields: Fields) -> Origin:
    return Origin(fields.optional_integer("seed"))


def _output(fields: Fields) -> Output:
    return Output(fields.text("name"), _shape(fields), fields.truth("probabilities"))


def _shape(fields: Fields) -> tuple[int, ...]:
    shape = fields.integers("shape")
    if not shape or min(shape) < 1:
        raise ValueError(f"{fields.place('shape')} is {list(shape)}")
    return shape


def _preprocess(fields: Fields) -> Preprocess:
    crop = fields.integers("crop")
    if len(crop) != 2:
        raise ValueError(f"{fields.place('crop')} is {list(crop)}, not height and width")
    return Preprocess(
        resize=fields.optional_integer("resize"),
        crop=(crop[0], crop[1]),
        channels=cast(Channels, fields.text("channels")),
        scale=fields.number("scale"),
        mean=fields.numbers("mean"),
        std=fields.numbers("std"),
        dtype=_input_type(fields),
    )


def _engine(fields: Fields) -> EngineRecord:
    return EngineRecord(
        fields.text("engine"),
        fields.text("precision"),
        fields.text("status"),
        fields.optional_text("path"),
        fields.optional("built", _built) if "built" in fields.content else None,
    )


def _built(fields: Fields) -> Built:
    return Built(
        fields.text("library"),
        fields.texts("targets"),
        fields.listing("profiles", _batch),
        fields.truth("stripped"),
        fields.truth("any_version"),
        fields.truth("any_gpu"),
    )


def _batch(fields: Fields) -> BatchRange:
    return BatchRange(fields.integer("min"), fields.integer("opt"), fields.integer("max"))


def _backend(fields: Fields) -> BackendRecord:
    return BackendRecord(
        fields.text("backend"), fields.text("status"), fields.optional_truth("passed")
    )


def _verification(fields: Fields) -> Verification:
    return Verification(
        passed=fields.optional_truth("passed"),
        reference=fields.text("reference"),
        backends=fields.listing("backends", _backend),
        digests=fields.text_map("digests"),
        inputs=fields.object("inputs").content if "inputs" in fields.content else {},
    )
