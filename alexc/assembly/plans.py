"""The plans that TensorRT makes of model.onnx, and what is known of their layers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from alexc.assembly.options import PLAN_ENGINES, Options, Target
from alexc.diagnostics import AlexcError, UsageError, usage_fault
from alexc.engines.cache import cached_plan
from alexc.engines.record import EngineRecord, not_built
from alexc_runtime.digests import FileRecord
from alexc_runtime.manifest import ENGINES, MODEL, WEIGHTS

if TYPE_CHECKING:
    from alexc.engines.tensorrt import Progress as PlanProgress

Progress = Callable[[str], None]


def build_plans(
    options: Options,
    folder: Path,
    files: Mapping[str, FileRecord],
    layers: Sequence[str],
    progress: Progress,
    watch: PlanProgress | None = None,
) -> list[EngineRecord]:
    """The plans asked for, or those of every library that is installed.

    `folder` is the bundle's, in which model and weights lie, and `files` has their digests. What is
    known of a plan's layers, in terms of `layers`, is written beside it. `watch` is told how much
    of a plan is done.

    A net that TensorRT can't take is a fault only where a plan was asked for by name; elsewhere the
    record says why there is none.
    """
    records = []
    for target in options.asked(PLAN_ENGINES) if options.targets else _installed():
        progress(f"plan for {target.engine}")
        try:
            with _named_in_place(folder, options.out):
                record = _build(target, options, folder, files, layers, watch)
        except AlexcError as error:
            # What the engine says of the net; a full disk, say, is a fault wherever it comes.
            if options.targets or not error.diagnostics[0].code.startswith("engine/"):
                raise
            record = not_built(target.engine, options.precision, error.diagnostics[0].message)
        if record.path is None and options.targets:
            raise no_plan(target.engine, record.status.removeprefix("not built: "))
        records.append(record)
    return records


def no_plan(engine: str, why: str) -> UsageError:
    """That an engine was named for which no plan can be built here."""
    return usage_fault(
        "build/target",
        f"no plan for {engine}: {why}",
        help="leave --target out to build for what is installed",
    )


@contextmanager
def _named_in_place(folder: Path, out: Path) -> Iterator[None]:
    """Lets the faults of the block name files of the bundle in its place, where nobody has seen the
    folder that it is made in."""
    try:
        yield
    except AlexcError as error:
        told = (
            replace(d, message=d.message.replace(str(folder), str(out))) for d in error.diagnostics
        )
        raise type(error)(*told) from error


def _installed() -> list[Target]:
    from alexc.engines.tensorrt import flavours

    found = flavours()
    return [Target(name) for name in PLAN_ENGINES if found[name].obstacle is None]


def _build(
    target: Target,
    options: Options,
    folder: Path,
    files: Mapping[str, FileRecord],
    layers: Sequence[str],
    watch: PlanProgress | None,
) -> EngineRecord:
    """Build one plan, or take it from the cache, and write what is known of its layers."""
    from alexc.engines.tensorrt.layers import described, layers_file

    path = f"{ENGINES}/{target.engine}-{options.precision}.plan"
    (folder / ENGINES).mkdir(exist_ok=True)
    plan = cached_plan(
        options.plan_cache,
        folder / MODEL,
        folder / path,
        {name: files[name].sha256 for name in (MODEL, WEIGHTS)},
        flavour=target.engine,
        precision=options.precision,
        options=replace(options.plans, targets=target.capabilities),
        progress=watch,
    )
    built = plan.record.built
    if plan.layers is not None and built is not None:
        shown = described(plan.layers, target.engine, built.library, options.precision, layers)
        text = json.dumps(shown, ensure_ascii=False, indent=1) + "\n"
        (folder / layers_file(path)).write_text(text, encoding="utf-8")
    return replace(plan.record, path=path if plan.record.path else None)
