"""What the manifest says of each engine, by what the verification found of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from alexc.assembly.options import MODEL_ENGINES, Options
from alexc.diagnostics import usage_fault
from alexc.engines.forms import FILES
from alexc.engines.record import BUILT, VERIFIED, EngineRecord
from alexc.verify.report import Report
from alexc_runtime.manifest import MODEL
from alexc_runtime.opening import ENGINES as RUNNERS


def of_plans(plans: Sequence[EngineRecord], report: Report) -> list[EngineRecord]:
    """The plans with what the verification found: that they are right, or why they did not run."""
    results = {result.backend: result for result in report.backends}
    told = []
    for plan in plans:
        result = results.get(plan.engine)
        if plan.path is not None and result is not None:
            if result.passed:
                plan = replace(plan, status=VERIFIED)
            elif plan.status == BUILT:  # there is a GPU, and yet
                plan = replace(plan, status=f"{BUILT}: {result.status.removeprefix('not run: ')}")
        told.append(plan)
    return told


def of_models(options: Options, report: Report) -> list[EngineRecord]:
    """The engines that load model.onnx, or a form of their own.

    Raises UsageError if one was named and not verified.
    """
    results = {result.backend: result for result in report.backends}
    asked = [target.engine for target in options.asked(MODEL_ENGINES)]
    records = []
    for name in asked or (MODEL_ENGINES if not options.targets else ()):
        result = results.get(name)
        # A GPU multiplies in TF32 where it is told to, and a CPU has nothing of the kind.
        precision = options.precision if RUNNERS[name].on_gpu else options.model_precision
        if result is not None and result.passed:
            # A form of its own, where it has one, was verified by itself.
            form = results.get(f"{name}_form")
            path = FILES[name] if form is not None and form.passed else MODEL
            records.append(EngineRecord(name, precision, VERIFIED, path))
        elif asked:
            why = result.status if result else "it was not run"
            raise usage_fault("build/target", f"{name} was not verified: {why}")
        elif result is not None and precision != "fp32" and RUNNERS[name].obstacle() is None:
            # It is here and has no kernels for this precision: that must not look like work left
            # to do.
            records.append(EngineRecord(name, precision, result.status, None))
    return records


def verified_forms(report: Report) -> list[str]:
    """The models beside model.onnx that passed, each in the form of one engine."""
    passed = {backend.backend for backend in report.backends if backend.passed}
    return [file for engine, file in FILES.items() if f"{engine}_form" in passed]
