"""What `alexc build` shows of a new bundle: who was verified, the plan, ranges and accuracies."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table
from rich.text import Text

from alexc.assembly.options import PLAN_ENGINES
from alexc.build import Result
from alexc.calibrate.calibration import Calibration
from alexc.cli.inspect_bundle import accuracy_table
from alexc.cli.tables import pairs, show, table
from alexc.cli.terminal import console
from alexc.engines.record import VERIFIED
from alexc_runtime.manifest import Manifest
from alexc_runtime.planned import Choice, Plan


def print_summary(folder: Path, result: Result) -> None:
    """Print what came of a build that was not up to date already."""
    manifest, report = result.manifest, result.report
    assert report is not None
    out = console()
    title = f"{folder}: {manifest.name}, verified against {report.reference}"
    out.print(Text(title, "bold"), soft_wrap=True)
    said = [(name, "\n".join(lines)) for name, lines in _of_each(manifest).items()]
    if result.calibration is not None:
        said.append(("ranges", _ranges(result.calibration)))
    show(out, pairs(said))
    if manifest.plan is not None:
        out.print()
        show(out, _plan(manifest.plan))
    if report.accuracy:
        show(out, accuracy_table([each.to_json() for each in report.accuracy]))


def _of_each(manifest: Manifest) -> dict[str, list[str]]:
    """What is said of each backend, and of the plans of those engines that take one."""
    said = {
        each.backend: [VERIFIED if each.passed else each.status]
        for each in manifest.verification.backends
    }
    for record in manifest.engines:
        if record.engine not in PLAN_ENGINES:
            continue
        lines = said.setdefault(record.engine, [])
        if record.status == VERIFIED and lines == [VERIFIED]:
            lines[0] = f"{VERIFIED}, a plan in {record.precision}"
        else:
            lines.append(f"plan in {record.precision}: {record.status}")
    return said


def _plan(plan: Plan) -> Table:
    """The choices, each with what it took of the batches that were measured."""
    ways = {(c.engine, c.precision, c.path, c.threads): c for c in plan.candidates}
    chosen = [
        (choice, ways.get((way.engine, way.precision, way.path, way.threads)))
        for choice in plan.choices
        for way in [choice.way]
    ]
    times = [
        {} if way is None else {each.batch: f"{each.ms:.3g}" for each in way.times}
        for _, way in chosen
    ]
    batches = sorted(set().union(*times))
    columns = [f"ms of {batch}" for batch in batches]
    title = f"plan: the fastest within {plan.budget} of {len(plan.candidates)} ways"
    made = table("batches", "run on", *columns, figures=columns, title=title)
    for (choice, way), taken in zip(chosen, times, strict=True):
        label = str(choice.way) if way is None else way.label
        made.add_row(_sizes(choice), label, *(taken.get(batch, "") for batch in batches))
    return made


def _sizes(choice: Choice) -> str:
    if choice.max is None:
        return "all" if choice.min == 1 else f"{choice.min} and more"
    return str(choice.min) if choice.min == choice.max else f"{choice.min} to {choice.max}"


def _ranges(calibration: Calibration) -> str:
    """What the ranges were taken from, by what method, and how far off each method is."""
    chosen = calibration.tried[calibration.method]
    others = ", ".join(
        f"{name} {tried.rel_l2:.2%}"
        for name, tried in calibration.tried.items()
        if name != calibration.method
    )
    return (
        f"of {calibration.images} images by {calibration.method}, {chosen.rel_l2:.2%} off on "
        f"{calibration.held_out} others; {others}"
    )
