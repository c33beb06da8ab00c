"""Plans alexnet for this machine, and races the planned session against every single way.

`performance.py` calls it; by itself it measures the plan alone:

    python benchmarks/planned.py [PHOTOS…]      prints what came of it as JSON
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from alexc.assembly.options import Auto, Options
from alexc.build import build
from alexc.diagnostics import AlexcError
from alexc.engines.options import PlanOptions
from alexc.frontend import load_net
from alexc.plan import ours
from alexc.plan.bars import plan_result
from alexc.plan.budget import parse_budget
from alexc.plan.measure import Pace, race
from alexc.plan.prepare import prepared, standard, subject
from alexc.plan.result import row
from alexc_runtime.manifest import BatchRange, EngineRecord, read

SPEC = Path(__file__).resolve().parents[1] / "specs" / "alexnet.yaml"
BATCHES = (1, 16)
BUDGET = "1e-2"  # the fast class of the bars
_PACE = Pace(rounds=11, seconds=0.15, profile_runs=0)

Progress = Callable[[str], None]


def bundles(photos: Sequence[Path], folder: Path, progress: Progress) -> list[Path]:
    """The bundle with a plan, and with photographs one in eight bits, of the weights of seed 0.

    One that can't be built is left out, and why is told.
    """
    net = load_net(SPEC)
    wanted = {
        "planned": Options(
            folder / "planned",
            plans=PlanOptions(profiles=(BatchRange(BATCHES[0], BATCHES[1], BATCHES[1]),)),
            calibrate=tuple(photos),
            auto=Auto(parse_budget(BUDGET)),
        )
    }
    if photos:
        wanted["u8s8"] = Options(folder / "u8s8", precision="u8s8", calibrate=tuple(photos))
    made = []
    for name, options in wanted.items():
        try:
            build(net, options, lambda step, name=name: progress(f"{name}: {step}"))  # type: ignore[misc]
        except AlexcError as error:
            progress(f"{name}: {error.diagnostics[0].message}")
        else:
            made.append(options.out)
    return made


def measure(folder: Path, progress: Progress) -> dict[str, Any]:
    """The plan of the bundle in `folder`, and its session raced with every way that it may take."""
    manifest = read(folder)
    plan = manifest.plan
    assert plan is not None
    singles = [
        ours.of_record(
            folder,
            EngineRecord(way.engine, way.precision, "candidate", way.path),
            note=way.label,
            threads=way.threads,
        )
        for way in plan.candidates
        if way.usable
    ]
    with tempfile.TemporaryDirectory() as scratch:
        net = prepared(folder, Path(scratch), 0, progress)
        progress("computing the reference")
        images, expected = standard(net, max(BATCHES), 0)
        files = subject(net, Path(scratch), images, None)
        contestants = [ours.planned(folder, manifest), *singles]
        results = race(
            contestants, files, BATCHES, expected, _PACE, lambda step: progress(str(step))
        )
    rows = [row(result, batch, None) for batch in BATCHES for result in results]
    return plan_result(plan.to_json(), rows)


def main() -> int:
    """Plan, race, print."""
    with tempfile.TemporaryDirectory() as name:
        photos = [Path(word) for word in sys.argv[1:]]
        made = bundles(photos, Path(name), lambda text: print(text, file=sys.stderr))
        found = measure(made[0], lambda text: print(text, file=sys.stderr))
    print(json.dumps(found, ensure_ascii=False, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
