"""Trying variants: in races, on images, and against the reference.

What comes of each is written into its `Tried`. An engine that is not here, crashes, hangs or gives
wrong numbers gets a fault there, and nothing else comes of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexc.calibrate.narrow import taking
from alexc.diagnostics import AlexcError
from alexc.frontend import Net
from alexc.plan.budget import Error
from alexc.plan.choice import Tried, sizes
from alexc.plan.contestant import Subject
from alexc.plan.measure import Pace, Step, WorkerFault, race
from alexc.plan.photographs import Labelled, look, photographs
from alexc.plan.prepare import standard_inputs, standard_of, standard_pixels
from alexc.plan.request import Request
from alexc.plan.timing import Times
from alexc.plan.workshop import Workshop
from alexc.verify.report import Report
from alexc_runtime.manifest import WEIGHTS
from alexc_runtime.opening import ENGINES

Weights = Mapping[str, NDArray[np.float32]]
Progress = Callable[[str], None]

_DISTINCT_IMAGES = 2


class Trials:
    """Where the variants of a net are made and tried, in the folder `scratch`.

    `images` is how many images errors are measured on, and `real` whether those are photographs.
    """

    def __init__(
        self, net: Net, weights: Weights, request: Request, scratch: Path, progress: Progress
    ) -> None:
        self.workshop = Workshop(net, weights, scratch / "ways", request, progress)
        self.batches = sizes(request.plans.batch)
        self._progress = progress
        progress("plan: computing the reference")
        given = request.seen()
        self.real = given is not None
        if given is None:
            few = standard_pixels if request.pixels is not None else standard_inputs
            given = few(net.graph, _DISTINCT_IMAGES, 0)
        self.images = len(given)
        distinct = given[:_DISTINCT_IMAGES]
        graph = taking(net.graph, request.pixels)
        self._standard = standard_of(graph, weights, distinct.astype(np.float32))
        self._photographs = photographs(
            net.graph, weights, given, self._standard, scratch, graph.pixels
        )
        np.save(scratch / "images.npy", distinct[np.arange(max(self.batches)) % len(distinct)])
        self._subject = Subject(
            spec=scratch / "spec.json",
            weights=self.workshop.folder / WEIGHTS,
            images=scratch / "images.npy",
            exported=scratch / "exported.onnx",
            scratch=scratch,
        )

    def race(self, stage: str, racers: Sequence[Tried], pace: Pace) -> list[dict[int, Times]]:
        """Race those that can be, and take down what goes wrong and how exact they are.

        The times of each by batch, in the order of `racers`; none of one that could not be raced.
        """
        contestants = {}
        for index, each in enumerate(racers):
            try:
                contestants[index] = self.workshop.contestant(each.variant)
            except AlexcError as error:
                each.fault = self._in_words(error.diagnostics[0].message)
        what = f"plan: {stage}, {len(contestants)} ways"
        self._progress(what)

        def say(step: Step) -> None:
            if step.round == 1:
                self._progress(f"{what}, batch {step.batch}")

        field = list(contestants.values())
        results = race(field, self._subject, self.batches, self._standard, pace, say)
        times: list[dict[int, Times]] = [{} for _ in racers]
        for index, result in zip(contestants, results, strict=True):
            each = racers[index]
            if result.fault is not None:
                each.fault = self._in_words(result.fault, result.missing)
            if result.errors:
                exact = all(error.exact for error in result.errors.values())
                worst = max(error.rel_l2 for error in result.errors.values())
                known = each.error
                # Photographs, once seen, say it better than the few images of a race.
                each.error = Error(worst, exact) if known is None else replace(known, exact=exact)
            times[index] = dict(result.times)
        return times

    def look(self, each: Tried, labelled: Labelled | None = None) -> None:
        """See what it makes of all images, and with `labelled` how accurate that is."""
        self._progress(f"plan: the error of {each.variant.label}")
        try:
            contestant = self.workshop.contestant(each.variant)
            seen = look(contestant, self._subject, self._photographs, labelled)
        except AlexcError as error:
            each.fault = self._in_words(error.diagnostics[0].message)
        except WorkerFault as fault:
            each.fault = self._in_words(fault.reason, fault.missing)
        else:
            exact = each.error.exact if each.error is not None else False
            each.error = Error(seen.rel_l2, exact, seen.agreement if self.real else None)
            each.top1, each.top5 = seen.top1, seen.top5

    def _in_words(self, reason: str, missing: bool = False) -> str:
        """Why there is nothing of a variant, without the folder that is gone after the search."""
        reason = reason.replace(f"{self.workshop.folder}{os.sep}", "")
        return f"not run: {reason}" if missing else f"failed: {reason}"

    def cross_check(self, each: Tried) -> None:
        """Hold every layer of its model against the reference, on its engine."""
        from alexc.verify.crosscheck import verify

        variant = each.variant
        self._progress(f"plan: verifying {replace(variant, threads=None).label}")
        made = self.workshop.make(variant)
        of_plan = ENGINES[variant.engine].needs_plan
        report = verify(
            made.form,
            made.weights,
            made.model,
            written=made.written,
            plans=[self.workshop.record(variant)] if of_plan else (),
            inputs=None if made.samples is None else made.samples.images[:2],
            samples=made.samples,
            precision=variant.precision,
            backends=(variant.engine,),
        )
        each.rejection = None if report.passed else _rejection(report)
        each.verified = each.rejection is None


def _rejection(report: Report) -> str:
    """Why a cross-check did not pass, in words."""
    if (found := report.first_divergence) is not None:
        return f"{found.layer} does not compute what the spec says ({found.kind})"
    return "; ".join(result.status for result in report.backends) or "nothing ran"
