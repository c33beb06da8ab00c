"""A search's measurements as the plan that a manifest keeps, or as the reason why there is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from alexc.diagnostics import Diagnostic
from alexc.plan.budget import Budget, nearest
from alexc.plan.choice import Tried, ranges, verdict
from alexc.plan.result import rounded
from alexc.plan.timing import Times
from alexc_runtime.planned import Candidate, Choice, Plan, Timed, Way, this_machine


def usable(tried: Sequence[Tried], budget: Budget) -> list[Tried]:
    """Those that may run the net: verified, within the budget, and timed at all."""
    return [each for each in tried if each.usable(budget) and (each.final or each.short)]


def plan_of(
    tried: Sequence[Tried],
    chosen: Mapping[int, Tried],
    budget: Budget,
    images: int,
    photographs: bool,
    seconds: float,
) -> Plan:
    """The plan, with every variant that was tried. Errors were measured on so many `images`."""
    kept = {id(each) for each in usable(tried, budget)}
    return Plan(
        budget=budget.text,
        machine=this_machine(),
        images=images,
        photographs=photographs,
        seconds=rounded(seconds) or 0.0,
        choices=tuple(_choices(chosen)),
        candidates=tuple(
            _candidate(each, tried, chosen, budget, id(each) in kept) for each in tried
        ),
    )


def _choices(chosen: Mapping[int, Tried]) -> list[Choice]:
    """The choices of the measured batches as ranges, neighbours that are the same in one."""
    found: list[Choice] = []
    for batch, (first, last) in zip(sorted(chosen), ranges(list(chosen)), strict=True):
        variant = chosen[batch].variant
        way = Way(variant.engine, variant.precision, variant.path, variant.threads)
        if found and found[-1].way == way:
            found[-1] = replace(found[-1], max=last)
        else:
            found.append(Choice(first, last, way))
    return found


def _candidate(
    each: Tried,
    tried: Sequence[Tried],
    chosen: Mapping[int, Tried],
    budget: Budget,
    kept: bool,
) -> Candidate:
    error = each.error
    times = {batch: (taken, False) for batch, taken in each.short.items()}
    times |= {batch: (taken, True) for batch, taken in each.final.items()}
    return Candidate(
        engine=each.variant.engine,
        precision=each.variant.precision,
        forms=each.variant.forms,
        threads=each.variant.threads,
        path=each.variant.path if kept else None,
        times=tuple(_timed(batch, taken, last) for batch, (taken, last) in sorted(times.items())),
        rel_l2=rounded(error.rel_l2) if error else None,
        exact=error.exact if error else None,
        agreement=rounded(error.agreement) if error else None,
        top1=rounded(each.top1),
        top5=rounded(each.top5),
        usable=kept,
        verdict=verdict(each, tried, chosen, budget),
    )


def _timed(batch: int, taken: Times, final: bool) -> Timed:
    ms, low, high = (rounded(each) or 0.0 for each in (taken.p50, *taken.quartiles))
    return Timed(batch, ms, low, high, final)


def nothing_passes(tried: Sequence[Tried], budget: Budget) -> Diagnostic:
    """That nothing passes, what came nearest, and what it would take."""
    measured = [each for each in tried if each.error is not None and each.fault is None]
    notes = [f"{each.variant.label}: {verdict(each, tried, {}, budget)}" for each in tried]
    errors = [each.error for each in measured if each.error is not None]
    index = nearest(budget, errors)
    if index is None:
        return Diagnostic(
            "plan/nothing-passes",
            "no engine could run the net, so there is nothing to choose from",
            notes=tuple(notes),
            help="install onnxruntime or openvino",
        )
    close = measured[index]
    wider = budget.taking(errors[index])
    help = f"--budget {wider} takes {close.variant.label}" if wider else None
    if budget.excess(errors[index]) is None:
        help = "what is within the budget was not verified: see above"
    return Diagnostic(
        "plan/nothing-passes",
        f"no way to run the net is verified and within the budget {budget.text}; "
        f"the nearest is {close.variant.label}",
        notes=tuple(notes),
        help=help,
    )
