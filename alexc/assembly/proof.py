"""The proof that a bundle ships with: the cross-check of what was built, or why there is none."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from alexc.assembly.inputs import digest_of
from alexc.assembly.options import Options
from alexc.calibrate.calibration import split
from alexc.calibrate.images import photo_files
from alexc.calibrate.narrow import Narrow
from alexc.diagnostics import AlexcError, Diagnostic
from alexc.engines.record import EngineRecord
from alexc.frontend import Net
from alexc.model import Weights
from alexc.verify.report import Report
from alexc_runtime.manifest import MODEL, REPORT


def prove(
    net: Net,
    weights: Weights,
    folder: Path,
    model: Narrow,
    plans: Sequence[EngineRecord],
    options: Options,
    progress: Callable[[str], None],
) -> Report:
    """Hold the models in `folder`, written from `model`, and their plans against the reference.

    Where a precision has photographs, two of those that were held out are what they are given. What
    came of it is written to verify.json. Raises AlexcError build/diverges or build/not-verified.
    """
    from alexc.verify.crosscheck import verify

    samples = model.samples
    photographs: Sequence[Path] = ()
    if samples is not None:
        files = photo_files(options.calibrate)
        _, held_out = split(np.arange(len(files)))
        photographs = [files[index] for index in held_out[:2]]
    report = verify(
        net.graph,
        weights,
        folder / MODEL,
        written=model.graph,
        plans=plans,
        inputs=None if samples is None else samples.images[:2],
        samples=samples,
        photographs=[digest_of(file) for file in photographs],
        batches=options.plans.batch,
        precision=options.precision,
        progress=lambda step: progress(f"verification: {step}"),
    )
    if not report.passed:
        raise AlexcError(_rejection(report))
    text = json.dumps(report.to_json(), ensure_ascii=False, indent=1) + "\n"
    (folder / REPORT).write_text(text, encoding="utf-8")
    return report


def _rejection(report: Report) -> Diagnostic:
    """Why there is no bundle: the first layer that diverges, and every backend that failed."""
    notes = [f"{b.backend}: {b.status}" for b in report.backends]
    divergence = report.first_divergence
    if divergence is None:
        return Diagnostic(
            "build/not-verified",
            "nothing could be verified, so there is no bundle",
            notes=tuple(notes),
            help="install onnxruntime; for bf16 and fp8 openvino",
        )
    row = next(
        row
        for row in report.rows
        if (row.layer, row.backend, row.check)
        == (divergence.layer, divergence.backend, divergence.check)
        and not row.passed
    )
    size = row.message or f"an error of {row.max_abs:.3g}, where {row.tolerance:.3g} is tolerated"
    return Diagnostic(
        "build/diverges",
        f"{divergence.layer} on {divergence.backend} does not compute what the spec says: {size}",
        notes=(f"the fault is {divergence.kind}", *notes),
        help="nothing was written; this is a fault of alexc or of the backend, not of the spec",
    )
