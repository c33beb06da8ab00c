"""Plans that were built before, by everything that they depend on.

    $ALEXC_CACHE/plans/<key>/plan.json     what the key is made of, what was built, its SHA-256
                            /plan

The folder is `~/.cache/alexc` where neither ALEXC_CACHE nor XDG_CACHE_HOME says another; with
ALEXC_CACHE set to nothing there is no cache. The key covers the model's bytes (so graph, precision
and shapes), the weights' bytes unless the plan is stripped of them, the options of the build,
TensorRT's flavour and version, and the machine's driver and GPUs, by all of which TensorRT chooses
its kernels. So a stripped plan serves whatever weights a training gives the net next.

Beside it, in `$ALEXC_CACHE/timing`, are TensorRT's times of kernels (`tensorrt.timing`).

The cache is never needed. An entry that is damaged, half written or gone is built again, and a
folder that can't be written to is a warning in the log. The least recently used entries make room.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from alexc.engines.driver import gpu_count, machine
from alexc.engines.options import PlanOptions
from alexc.engines.record import BUILT, BUILT_WITHOUT_GPU, Built, EngineRecord
from alexc.engines.tensorrt import ParsedTensor, Plan, Progress, build_plan, flavours
from alexc.engines.tensorrt.layers import Layers
from alexc_runtime.user_cache import user_cache

MOST_BYTES = 8_000_000_000

_PLAN, _DETAILS, _TIMING = "plan", "plan.json", "timing"
_VERSION = 2
_STAGING = ".staging-"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PlanKey:
    """Everything that a plan depends on. `model` and `weights` are SHA-256 of the files.

    `weights` is None for a plan that is stripped of them.
    """

    model: str
    weights: str | None
    flavour: str
    library: str
    precision: str
    options: PlanOptions
    driver: str | None
    gpus: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As it stands in `plan.json`."""
        content: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return content

    def digest(self) -> str:
        """The name of the entry."""
        text = json.dumps({"version": _VERSION, **self.to_json()}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def default_folder() -> Path | None:
    """Where this user's plans are kept, or None if ALEXC_CACHE is set to nothing."""
    folder = user_cache()
    return None if folder is None else folder / "plans"


def cached_plan(
    folder: Path | None,
    model: Path,
    plan: Path,
    digests: Mapping[str, str],
    *,
    flavour: str,
    precision: str,
    options: PlanOptions,
    progress: Progress | None = None,
) -> Plan:
    """As `engines.tensorrt.build_plan`, but a plan of the same key is copied from `folder`.

    `digests` are the SHA-256 of `model.onnx` and of its weights, by the names of the files.
    Raises what `build_plan` raises.
    """
    version = flavours()[flavour].version
    key = None
    if folder is not None and version is not None:
        driver, gpus = machine()
        files = sorted(digests.items())
        model_digest = dict(files)[model.name]
        weights = "|".join(f"{name} {digest}" for name, digest in files if name != model.name)
        in_plan = None if options.stripped else weights
        key = PlanKey(model_digest, in_plan, flavour, version, precision, options, driver, gpus)
        if (found := fetch(folder, key, plan)) is not None:
            return found
    built = build_plan(
        model,
        plan,
        flavour=flavour,
        precision=precision,
        options=options,
        progress=progress,
        timing=None if folder is None else folder.parent / _TIMING,
    )
    if folder is not None and key is not None and built.record.path is not None:
        store(folder, key, plan, built)
    return built


def fetch(folder: Path, key: PlanKey, plan: Path) -> Plan | None:
    """Copy the plan of this key to `plan`, or None if there is none that is whole.

    The copy is hashed as it is written, which is what takes the time: 0.2 s for AlexNet in fp32.
    """
    entry = folder / key.digest()
    try:
        details = json.loads((entry / _DETAILS).read_bytes())
        if details["key"] != key.to_json():
            raise ValueError("of another key")
        expected = details["sha256"]
        found = Plan(
            EngineRecord(
                key.flavour,
                key.precision,
                BUILT if gpu_count() else BUILT_WITHOUT_GPU,
                str(plan),
                Built(
                    key.library,
                    tuple(map(str, details["targets"])),
                    key.options.profiles,
                    key.options.stripped,
                    key.options.any_version,
                    key.options.any_gpu,
                ),
            ),
            tensors={
                str(name): ParsedTensor(tuple(shape), str(dtype))
                for name, (shape, dtype) in details["tensors"].items()
            },
            warnings=tuple(map(str, details["warnings"])),
            layers=Layers.from_json(details["layers"]) if details["layers"] else None,
        )
        if _copy(entry / _PLAN, plan) != expected:
            raise ValueError("damaged")
    except FileNotFoundError:
        plan.unlink(missing_ok=True)
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        _log.warning("the plan in %s is not used: %s", entry, error)
        plan.unlink(missing_ok=True)
        shutil.rmtree(entry, ignore_errors=True)
        return None
    with suppress(OSError):
        os.utime(entry)
    return found


def store(folder: Path, key: PlanKey, plan: Path, built: Plan) -> None:
    """Keep a plan that was built. Fails with no more than a warning in the log."""
    stage = folder / f"{_STAGING}{secrets.token_hex(8)}"
    try:
        stage.mkdir(parents=True)
        details = {
            "key": key.to_json(),
            "sha256": _copy(plan, stage / _PLAN),
            "targets": list(built.record.built.targets) if built.record.built else [],
            "tensors": {
                name: [list(tensor.shape), tensor.dtype] for name, tensor in built.tensors.items()
            },
            "warnings": list(built.warnings),
            "layers": built.layers.to_json() if built.layers else None,
        }
        text = json.dumps(details, ensure_ascii=False, indent=1) + "\n"
        (stage / _DETAILS).write_text(text, encoding="utf-8")
        # Another process may have put the same plan there in the meantime.
        if not (folder / key.digest()).exists():
            stage.rename(folder / key.digest())
        _make_room(folder, keep=key.digest())
    except OSError as error:
        _log.warning("the plan is not kept in %s: %s", folder, error.strerror or error)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _copy(source: Path, target: Path) -> str:
    """Copy a file and return its SHA-256."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(1 << 22))
    with source.open("rb", buffering=0) as reading, target.open("wb", buffering=0) as writing:
        while count := reading.readinto(buffer):
            digest.update(buffer[:count])
            writing.write(buffer[:count])
    return digest.hexdigest()


def _make_room(folder: Path, keep: str) -> None:
    """Remove the least recently used entries until the rest takes no more than MOST_BYTES."""
    entries = []
    for entry in folder.iterdir():
        with suppress(OSError):
            if entry.is_dir() and not entry.name.startswith(_STAGING):
                size = sum(file.stat().st_size for file in entry.iterdir())
                entries.append((entry.stat().st_mtime, size, entry))
    total = sum(size for _, size, _ in entries)
    for _, size, entry in sorted(entries, key=lambda each: each[0]):
        if total <= MOST_BYTES:
            return
        if entry.name != keep:
            shutil.rmtree(entry, ignore_errors=True)
            total -= size
