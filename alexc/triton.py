"""A bundle as a model repository of NVIDIA's Triton Inference Server.

    DIR/alexc-triton.json            what was written, so that it is known again; no model
        NAME_onnx/config.pbtxt       ONNX Runtime, on the CPU that the bundle was verified on
                  labels.txt
                  1/model.onnx       and beside it the weights that it refers to
        NAME_tensorrt/config.pbtxt   a plan of TensorRT, where the bundle has one
                      labels.txt
                      1/model.plan

Models and plans are the bundle's own bytes: what was verified is what is served. Of a plan Triton's
backend wants the very version of TensorRT that built it, and can't load those of TensorRT for RTX.
docs/triton.md says how to serve such a folder, and how what is written here was checked.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from alexc import __version__, folders
from alexc.bundle import is_bundle
from alexc.diagnostics import AlexcError, Diagnostic, UsageError, fault, usage_fault
from alexc.engines.model import load, weights_files
from alexc.files import resolved
from alexc_runtime.digests import FileRecord, differences, is_safe, sha256
from alexc_runtime.manifest import Bundle, EngineRecord, Manifest

MARKER = "alexc-triton.json"
_FORMAT = "alexc-triton"
_MARKER_START = f'{{"format": "{_FORMAT}"'.encode()
_MOST_MARKER_BYTES = 1_000_000

CONFIG, LABELS, VERSION = "config.pbtxt", "labels.txt", "1"

# How long a request waits for others to share a batch with: less than the batch itself takes.
QUEUE_MICROSECONDS = 1000

_TYPES = {"float32": "TYPE_FP32", "uint8": "TYPE_UINT8"}


@dataclass(frozen=True, slots=True)
class Repository:
    """What a repository holds: names of models, and why engines of the bundle are not among them.

    `written` is false where all of it was there already.
    """

    models: tuple[str, ...]
    left_out: tuple[str, ...]
    written: bool


@dataclass(frozen=True)
class _Model:
    """One model of the repository: texts by name, and files of the bundle by their name here."""

    name: str
    config: str
    files: Mapping[str, str]
    labels: str | None = None

    @property
    def texts(self) -> dict[str, str]:
        return {CONFIG: self.config} | ({} if self.labels is None else {LABELS: self.labels})


@dataclass
class _Models:
    found: list[_Model] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def write_repository(bundle: Bundle, out: Path) -> Repository:
    """Make `out` the repository of this bundle, or find that it is.

    It appears whole or not at all, and takes the place of one that was written before. Raises
    UsageError if it can't lie there, as `refuse_place` does; AlexcError if the bundle has nothing
    that Triton can load, or the disk is full.
    """
    refuse_place(bundle.folder, out)
    models = _models(bundle)
    if not models.found:
        raise AlexcError(
            Diagnostic(
                "triton/nothing",
                f"there is nothing in {bundle.folder} that Triton could load",
                notes=tuple(models.left_out),
            )
        )
    names = tuple(model.name for model in models.found)
    left_out = tuple(models.left_out)
    wanted = _records(bundle.manifest, models.found)
    if _read_marker(out) == wanted and not differences(out, wanted) and not _added(out, wanted):
        return Repository(names, left_out, written=False)
    with folders.staged(out, "triton", partial(_refuse_unless_replaceable, out=out)) as stage:
        for model in models.found:
            (stage.folder / model.name / VERSION).mkdir(parents=True)
            for name, text in model.texts.items():
                (stage.folder / model.name / name).write_text(text, encoding="utf-8")
            for name, path in model.files.items():
                _copy(bundle, path, stage.folder / model.name / VERSION / name)
        marker = {
            "format": _FORMAT,
            "version": 1,
            "alexc": __version__,
            "bundle": bundle.manifest.inputs_digest,
            "files": {path: asdict(record) for path, record in wanted.items()},
        }
        (stage.folder / MARKER).write_text(json.dumps(marker, ensure_ascii=False) + "\n", "utf-8")
        stage.commit()
    return Repository(names, left_out, written=True)


def refuse_place(bundle: Path, out: Path) -> None:
    """Raise UsageError if a repository of the bundle in the folder `bundle` can't lie at `out`.

    That is inside of a bundle or around this one, and where anything else is, or a repository that
    someone has changed. The bundle need not be there yet, so that a build can ask before it begins.
    """
    place, source = resolved(out), resolved(bundle)
    own = "give the repository a folder of its own: --triton DIR"
    if place == source or source in place.parents or place in source.parents:
        message = f"{out} and the bundle {bundle} can't lie in each other"
        raise usage_fault("triton/place", message, help=own)
    # A bundle holds what its build made, and the next build of it would refuse to go on.
    if around := next(filter(is_bundle, place.parents), None):
        raise usage_fault("triton/place", f"{out} lies in the bundle {around}", help=own)
    with suppress(OSError):  # it can't be looked at, and so not written either, which tells why
        _refuse_unless_replaceable(place, out)


def _copy(bundle: Bundle, path: str, target: Path) -> None:
    """Copy a file of the bundle, and see that what was written is what the manifest lists."""
    shutil.copyfile(bundle.path(path), target)
    if sha256(target) != bundle.manifest.files[path].sha256:
        raise fault("triton/altered", f"{path} of {bundle.folder} changed while it was copied")


# ---- the models ----------------------------------------------------------------------------------


def _models(bundle: Bundle) -> _Models:
    """What of the bundle Triton can load, and in words what it can't."""
    models = _Models()
    manifest = bundle.manifest
    onnx = [record for record in manifest.engines if record.engine == "onnxruntime"]
    loaded = next((record for record in onnx if record.path is not None), None)
    if loaded is None:
        status = onnx[0].status if onnx else "it was not built for"
        models.left_out.append(f"onnxruntime: {status}")
    else:
        models.found.append(_onnx_model(bundle, loaded))
    plans = [record for record in manifest.engines if record.engine == "tensorrt"]
    fit = [record for record in plans if _unfit(record) is None]
    # A search leaves several, and what it chose stands first.
    models.found += [_plan_model(manifest, record) for record in fit[:1]]
    models.left_out += [
        f"tensorrt {record.precision}: {_unfit(record)}" for record in plans if record not in fit
    ]
    if any(record.engine == "tensorrt_rtx" for record in manifest.engines):
        models.left_out.append(
            "tensorrt_rtx: Triton's backend loads plans of TensorRT, not of TensorRT for RTX"
        )
    return models


def _onnx_model(bundle: Bundle, record: EngineRecord) -> _Model:
    assert record.path is not None
    name = f"{bundle.manifest.name}_onnx"
    beside = weights_files(load(bundle.path(record.path)))
    files = {"model.onnx": record.path, **{file: file for file in beside}}
    labels = _labels(bundle.manifest)
    config = _config(bundle.manifest, name, "onnxruntime", "model.onnx", ["kind: KIND_CPU"])
    return _Model(name, config, files, labels)


def _unfit(record: EngineRecord) -> str | None:
    """Why Triton can't serve from a plan of TensorRT; None if it can."""
    if record.path is None:
        return record.status
    built = record.built
    if built is not None and built.stripped:
        return "its plan is without weights, and Triton puts none in"
    if built is not None and built.profiles and min(p.min for p in built.profiles) > 1:
        return "its plan takes no single image, which a client may send: --batch 1,…"
    return None


def _plan_model(manifest: Manifest, record: EngineRecord) -> _Model:
    assert record.path is not None
    name = f"{manifest.name}_tensorrt"
    instances = ["kind: KIND_GPU"]
    profiles = record.built.profiles if record.built is not None else ()
    if len(profiles) > 1:  # without being told, Triton uses the first alone
        listed = ", ".join(f'"{index}"' for index in range(len(profiles)))
        instances.append(f"profile: [ {listed} ]")
    library = f"TensorRT {record.built.library}" if record.built is not None else "TensorRT"
    config = _config(manifest, name, "tensorrt", "model.plan", instances, f"built by {library}")
    return _Model(name, config, {"model.plan": record.path}, _labels(manifest))


def _labels(manifest: Manifest) -> str | None:
    """A line for each class, where the first output has a score for each."""
    labels = manifest.labels
    if labels is None or manifest.outputs[0].shape != (len(labels),):
        return None
    return "".join(" ".join(label.split()) + "\n" for label in labels)


# ---- config.pbtxt --------------------------------------------------------------------------------


def _config(
    manifest: Manifest,
    name: str,
    backend: str,
    file: str,
    instances: Sequence[str],
    note: str = "",
) -> str:
    """A ModelConfig of Triton's model_config.proto, in protobuf's text format.

    Sizes are those of one image: a `max_batch_size` of 1 or more stands for the batch before them.
    """
    batch, labelled = manifest.input.batch, _labels(manifest) is not None
    taken = _tensor(manifest.input.name, _TYPES[manifest.input.dtype], manifest.input.shape)
    given = [
        _tensor(output.name, "TYPE_FP32", output.shape)
        + ([f"label_filename: {_quoted(LABELS)}"] if labelled and index == 0 else [])
        for index, output in enumerate(manifest.outputs)
    ]
    lines = [
        f"# {manifest.name}, written by alexc {__version__}" + (f", {note}" if note else ""),
        f"name: {_quoted(name)}",
        f"backend: {_quoted(backend)}",
        f"default_model_filename: {_quoted(file)}",
        f"max_batch_size: {batch.max}",
        *_listing("input", [taken]),
        *_listing("output", given),
        *_listing("instance_group", [["count: 1", *instances]]),
        "version_policy: { latest: { num_versions: 1 } }",
    ]
    if batch.max > 1:
        preferred = sorted({batch.opt, batch.max} - {1})
        lines += [
            "dynamic_batching {",
            f"  preferred_batch_size: [ {', '.join(map(str, preferred))} ]",
            f"  max_queue_delay_microseconds: {QUEUE_MICROSECONDS}",
            "}",
        ]
    return "\n".join(lines) + "\n"


def _tensor(name: str, type_: str, shape: tuple[int, ...]) -> list[str]:
    dims = ", ".join(map(str, shape))
    return [f"name: {_quoted(name)}", f"data_type: {type_}", f"dims: [ {dims} ]"]


def _listing(field: str, messages: Sequence[Sequence[str]]) -> list[str]:
    """A repeated field, each of its messages given as lines."""
    lines = [f"{field} ["]
    for index, message in enumerate(messages):
        last = index == len(messages) - 1
        lines += ["  {", *(f"    {line}" for line in message), "  }" if last else "  },"]
    return [*lines, "]"]


def _quoted(text: str) -> str:
    """A string of the text format. Names of nets and layers are letters, digits and `_.-/`."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


# ---- what stands there ---------------------------------------------------------------------------


def _records(manifest: Manifest, models: Sequence[_Model]) -> dict[str, FileRecord]:
    """Size and digest of every file but the marker, by its path in the repository."""
    found = {}
    for model in models:
        for name, text in model.texts.items():
            data = text.encode()
            record = FileRecord(len(data), hashlib.sha256(data).hexdigest())
            found[f"{model.name}/{name}"] = record
        for name, path in model.files.items():
            found[f"{model.name}/{VERSION}/{name}"] = manifest.files[path]
    return found


def _read_marker(folder: Path) -> dict[str, FileRecord] | None:
    """What was written into `folder`; None if nothing was, or the marker can't be read."""
    try:
        path = folder / MARKER
        if path.stat().st_size > _MOST_MARKER_BYTES:
            return None
        files: dict[str, Any] = json.loads(path.read_bytes())["files"]
        return {
            name: FileRecord(int(record["bytes"]), str(record["sha256"]))
            for name, record in files.items()
            if is_safe(name)
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _added(folder: Path, files: Mapping[str, FileRecord]) -> list[str]:
    """Files in the folder that were not written with it."""
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return sorted(found - set(files) - {MARKER})


def _refuse_unless_replaceable(target: Path, out: Path) -> None:
    """Raise UsageError if something at `target` would be lost by putting a repository there."""
    elsewhere = "give another place with --triton, or move it away"
    try:
        if not any(target.iterdir()):
            return
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise usage_fault("triton/not-ours", f"{out} is a file", help=elsewhere) from None
    try:
        with (target / MARKER).open("rb") as file:
            known = file.read(len(_MARKER_START)) == _MARKER_START
    except OSError:
        known = False
    if not known:
        raise usage_fault(
            "triton/not-ours",
            f"{out} exists and is no model repository that alexc wrote",
            help=elsewhere,
        )
    before = _read_marker(target) or {}
    changed = _added(target, before)
    # A configuration is made to be tuned; models that are damaged are simply written again.
    texts = {path: record for path, record in before.items() if path.endswith((CONFIG, LABELS))}
    changed += [
        path
        for path, record in texts.items()
        if (target / path).exists() and differences(target, {path: record})
    ]
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise UsageError(
            Diagnostic(
                "triton/changed",
                f"{out} was changed since alexc wrote it: {', '.join(changed[:3])}{more}",
                help=elsewhere,
            )
        )
