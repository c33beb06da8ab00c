"""The text of a manifest: written from its records, and read into them again."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict
from typing import cast

from alexc_runtime.digests import FileRecord
from alexc_runtime.errors import BundleError
from alexc_runtime.fields import Fields
from alexc_runtime.manifest.records import (
    BackendRecord,
    BatchRange,
    Built,
    Channels,
    EngineRecord,
    Input,
    InputType,
    Manifest,
    Origin,
    Output,
    Preprocess,
    Verification,
)
from alexc_runtime.planned import Plan

FORMAT = "alexc-bundle"
VERSION = 1

REBUILD = "build it again with `alexc build`"

_DIGEST = "sha256:"
_ZEROS = _DIGEST + "0" * 64


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


# ---- reading -------------------------------------------------------------------------------------


def parse(data: bytes, shown_as: str) -> Manifest:
    """The manifest in the bytes of its file. Raises BundleError if it can't be relied on."""

    def refuse(message: str, *, code: str = "bundle/manifest", help: str = REBUILD) -> BundleError:
        return BundleError(code, f"{shown_as} {message}", help=help)

    try:
        content = json.loads(data)
        if b"\\u" in data:  # `render` has no need of it; half a character hides in it
            json.dumps(content, ensure_ascii=False).encode()
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
    except ValueError as error:
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
    return Origin(fields.optional_seed("seed"))


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


# ---- both ----------------------------------------------------------------------------------------


def _digest(data: bytes) -> str:
    return _DIGEST + hashlib.sha256(data).hexdigest()
