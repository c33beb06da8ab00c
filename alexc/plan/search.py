"""The search for the fastest way to run a net on this machine that is exact enough.

All ways at once would be too many, so that they are tried in stages, each with what the one before
has left:

    forms       every form of the model in fp32, in a short race; of each engine the best two stay
    precisions  the best of each engine in every narrower precision that it has. What is over the
                budget is never raced
    threads     the best of each batch with fewer threads
    finals      the best three of each batch, once the cross-check has passed them, in a longer
                race

What is chosen and why is decided by `choice` from the measurements alone. An engine that is not
here, crashes, hangs or gives wrong numbers only loses.
"""

from __future__ import annotations

import filecmp
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexc.diagnostics import AlexcError, usage_fault
from alexc.engines.forms import FORMS, changing
from alexc.engines.options import PlanOptions
from alexc.frontend import Net
from alexc.plan.budget import FEWEST_PHOTOGRAPHS, Budget, Error
from alexc.plan.choice import Tried, choose, leaders, racing, sizes
from alexc.plan.contestant import Subject
from alexc.plan.measure import Pace, Result, WorkerFault, race
from alexc.plan.outcome import nothing_passes, plan_of, usable
from alexc.plan.photographs import MOST_IMAGES, Labelled, Photographs, look, photographs
from alexc.plan.prepare import standard_inputs, standard_of
from alexc.plan.variant import Variant, combined, narrower
from alexc.plan.workshop import Material, Workshop
from alexc.verify.report import Report
from alexc_runtime.manifest import ENGINES as PLANS
from alexc_runtime.manifest import WEIGHTS, EngineRecord
from alexc_runtime.planned import Plan, this_machine
from alexc_runtime.session import ENGINES

Weights = Mapping[str, NDArray[np.float32]]
Progress = Callable[[str], None]

# How long a search takes, about, on two cores for AlexNet: what is left of it is the final race's.
_SECONDS = 165.0
_SHORT = Pace(rounds=6, seconds=0.04, fewest=1, most=4, profile_runs=0, most_seconds=8.0)
_FINAL = Pace(rounds=11, seconds=0.12, fewest=2, most=12, profile_runs=0, most_seconds=16.0)
_LEAST_FINAL_SECONDS = 4.0
_RESERVED = 30.0  # of them, for the final race
_STAY_PER_ENGINE, _FINALISTS = 2, 3
_DISTINCT_IMAGES = 2
# Of photographs without labels errors are measured on one in so many, and ranges on the others.
_HELD_OUT_EVERY = 3


@dataclass(frozen=True)
class Request:
    """What is searched for.

    `plans` is what builders of plans are told, the batch sizes with it. `threads` fixes the number
    of threads of every engine; None tries some.
    """

    budget: Budget
    plans: PlanOptions = field(default_factory=PlanOptions)
    material: Material = field(default_factory=Material)
    labelled: Labelled | None = None
    threads: int | None = None
    plan_cache: Path | None = None

    def seen(self) -> NDArray[np.float32] | None:
        """The photographs that errors are measured on: none of those that ranges come from."""
        if self.labelled is not None:
            return self.labelled.some(MOST_IMAGES)
        if (given := self.material.photographs) is not None:
            return given[_HELD_OUT_EVERY - 1 :: _HELD_OUT_EVERY][:MOST_IMAGES]
        return None

    def ranging(self) -> Material:
        """What ranges are taken from."""
        given = self.material.photographs
        if given is None or self.labelled is not None:
            return self.material
        held_out = np.arange(len(given)) % _HELD_OUT_EVERY == _HELD_OUT_EVERY - 1
        return replace(self.material, photographs=given[~held_out])


@dataclass(frozen=True)
class Found:
    """The plan, the engines that it names, and the files that they take."""

    plan: Plan
    records: tuple[EngineRecord, ...]
    files: tuple[str, ...]


def search(net: Net, weights: Weights, request: Request, into: Path, progress: Progress) -> Found:
    """Find the fastest way to run `net` for each range of batches.

    The files that the plan names are put into the folder `into`, but for weights.safetensors and
    models that are there already. An engine's plan takes the place of one that is there: no two
    builds give the same bytes, and these were measured. `request` was found to be one that can be
    met (see `check`). Raises AlexcError plan/nothing-passes if no way is verified and within the
    budget.
    """
    from alexc.engines.tensorrt.layers import layers_file

    with tempfile.TemporaryDirectory(prefix="alexc-plan-") as name:
        found, made = _search(net, weights, request, Path(name), progress)
        for file in found.files:
            of_plan = file.startswith(f"{PLANS}/")
            if (into / file).exists():
                if not of_plan or filecmp.cmp(made / file, into / file, shallow=False):
                    continue
                # It tells the layers of the plan that goes.
                (into / layers_file(file)).unlink(missing_ok=True)
            (into / file).parent.mkdir(exist_ok=True)
            shutil.copyfile(made / file, into / file)
    return found


def _search(
    net: Net, weights: Weights, request: Request, scratch: Path, progress: Progress
) -> tuple[Found, Path]:
    """What was found, and the folder that its files lie in."""
    started = time.monotonic()
    workshop = Workshop(
        net,
        weights,
        scratch / "ways",
        request.ranging(),
        request.plans,
        request.plan_cache,
        progress,
    )
    progress("plan: computing the reference")
    course = _Course(net, weights, request, workshop, scratch, started, progress)
    course.forms()
    course.precisions()
    course.threads()
    course.finals()
    return course.found(), workshop.folder


def check(net: Net, request: Request) -> None:
    """Raise UsageError if the budget asks for an agreement that can't be measured."""
    if request.budget.agreement is None:
        return
    help = "--calibrate DIR, with photographs like those that the net will see, or --data URI"
    given = request.seen()  # damaged ones don't count, so all are looked at
    if given is None:
        raise usage_fault(
            "plan/photographs",
            f"the budget {request.budget.text} is about photographs, and there are none",
            help=help,
        )
    if len(given) < FEWEST_PHOTOGRAPHS:
        count, fewest = len(given), FEWEST_PHOTOGRAPHS
        if request.labelled is None and request.material.photographs is not None:
            count, fewest = len(request.material.photographs), fewest * _HELD_OUT_EVERY
            help = f"one in {_HELD_OUT_EVERY} is held out of the ranges, and counts; {help}"
        raise usage_fault(
            "plan/photographs",
            f"{count} photographs are too few to measure an agreement on: {fewest} or more",
            help=help,
        )
    first = net.graph.outputs[0]
    if len(net.graph.shapes[first]) != 1:
        raise usage_fault(
            "plan/budget",
            f"{first} is an image, and has no first class to agree on",
            help="give a budget as a relative error: --budget 1e-3",
        )


class _Course:
    """The stages, and what they leave: `_in` are those that are still in, of those `_raced` in the
    last short race that decided it."""

    def __init__(
        self,
        net: Net,
        weights: Weights,
        request: Request,
        workshop: Workshop,
        scratch: Path,
        started: float,
        progress: Progress,
    ) -> None:
        self._net = net
        self._request = request
        self._workshop = workshop
        self._scratch = scratch
        self._started = started
        self._progress = progress
        self._batches = sizes(request.plans.batch)
        self._tried: list[Tried] = []
        self._in: list[Tried] = []
        self._raced: list[Tried] = []
        images, self._real = _images(net, request)
        distinct = images[:_DISTINCT_IMAGES]
        self._standard = standard_of(net.graph, weights, distinct)
        self._photographs: Photographs = photographs(
            net.graph, weights, images, self._standard, scratch
        )
        self._subject = _subject(scratch, workshop.folder, distinct, max(self._batches))

    # ---- stages ----------------------------------------------------------------------------------

    def forms(self) -> None:
        """Every form in fp32, on every engine that is here."""
        plain = self._workshop.plain
        singles = [(), *((name,) for name in changing(plain, self._workshop.weights))]
        new = []
        for engine, kind in ENGINES.items():
            if (obstacle := kind.obstacle()) is not None:
                self._tried.append(Tried(Variant(engine), fault=f"not run: {obstacle}"))
                continue
            new += [Tried(self._variant(engine, forms)) for forms in singles]
        self._tried += new
        self._race("forms", new)
        self._raced = new
        self._in = [
            kept
            for engine in ENGINES
            for kept in leaders(
                [each for each in new if each.variant.engine == engine],
                self._batches,
                _STAY_PER_ENGINE,
            )
        ]

    def precisions(self) -> None:
        """The forms that stayed, together and in narrower precisions."""
        kinds = {name: form.kind for name, form in FORMS.items()}
        staying = [each.variant for each in self._in]
        together = combined(staying, dict(kinds))
        new = [Tried(variant) for variant in together]
        if self._request.budget.narrow:
            # As it is written it may be the best again: in bf16 OpenVINO is fast at LRN itself.
            best = [
                variant
                for engine in ENGINES
                if (own := [each.variant for each in self._best_of(engine)])
                for variant in (self._variant(engine, ()), *own)
            ]
            quantizable = self._workshop.can_quantize
            narrow = narrower([*best, *together], quantizable, self._workshop.precisions)
            new += [Tried(variant) for variant in narrow]
        self._tried += new
        for each in new:
            if each.variant.precision != "fp32":
                self._look(each)
        new = [each for each in new if self._within(each)]
        if new:
            self._in += new
            self._race("precisions", self._in)
            self._raced = self._in
            self._in = self._leading(self._in)

    def threads(self) -> None:
        """The best of each batch with other numbers of threads than the engine's own."""
        cores = this_machine().cores
        counts = sorted({1, cores // 2, cores} - {0})
        if self._request.threads is not None or cores == 1 or self._left() < _SECONDS / 3:
            return
        best = {id(each): each for batch in self._batches for each in self._best(batch)[:1]}
        found = [each for each in best.values() if not ENGINES[each.variant.engine].needs_plan]
        new = [
            Tried(replace(each.variant, threads=count), error=each.error)
            for each in found
            for count in counts
        ]
        self._tried += new
        self._race("threads", [*found, *new])
        leading = leaders([*found, *new], self._batches, 1)
        self._in += [each for each in new if any(each is one for one in leading)]

    def finals(self) -> None:
        """The cross-check of the best, and their race. Of those that fail the next best come."""
        while True:
            finalists = self._finalists()
            unsure = [each for each in finalists if each.verified is None]
            if not unsure:
                break
            for each in sorted(unsure, key=self._rank):
                if self._left() < _RESERVED and self._each_batch_has_one(finalists):
                    each.dropped = "there was no time left to verify it"
                    self._in = [one for one in self._in if one is not each]
                else:
                    self._certify(each)
            if any(not self._within(each) for each in unsure) and self._left() > _RESERVED:
                # Whoever was dropped because of one that has failed is in again.
                known = {id(each) for each in self._in}
                self._in += [each for each in self._raced if id(each) not in known]
        left = max(_LEAST_FINAL_SECONDS, self._left() / len(self._batches))
        pace = replace(_FINAL, most_seconds=min(left, _FINAL.most_seconds or left))
        results = self._run("finals", finalists, pace)
        for each, result in results:
            each.final = dict(result.times)

    def found(self) -> Found:
        """What came of it. Raises AlexcError plan/nothing-passes."""
        budget = self._request.budget
        chosen = choose(self._tried, budget, self._batches)
        if not chosen:
            raise AlexcError(nothing_passes(self._tried, budget))
        seconds = time.monotonic() - self._started
        plan = plan_of(self._tried, chosen, budget, self._photographs.count, self._real, seconds)
        kept = usable(self._tried, budget)
        records = dict.fromkeys(
            replace(self._workshop.record(each.variant), status="verified")
            for each in (*chosen.values(), *kept)
        )
        files: dict[str, None] = {}
        for each in kept:
            own = (each.variant.path, *self._workshop.make(each.variant).files[1:])
            files |= dict.fromkeys(name for name in own if name != WEIGHTS)
        return Found(plan, tuple(records), tuple(files))

    # ---- steps ----------------------------------------------------------------------------------

    def _variant(self, engine: str, forms: tuple[str, ...]) -> Variant:
        return Variant(engine, forms=forms, threads=self._request.threads)

    def _left(self) -> float:
        return _SECONDS - (time.monotonic() - self._started)

    def _within(self, each: Tried) -> bool:
        """Whether it is still in: nothing went wrong, and it is not known to be over the budget."""
        if each.fault is not None or each.verified is False:
            return False
        budget, error = self._request.budget, each.error
        if error is not None and error.agreement is None:
            budget = replace(budget, agreement=None)  # which is measured later
        return error is None or budget.excess(error) is None

    def _best(self, batch: int) -> list[Tried]:
        """Those that are in, the fastest at a batch first."""
        return racing([each for each in self._in if self._within(each)], batch)

    def _best_of(self, engine: str) -> list[Tried]:
        """The fastest of an engine at each batch."""
        own = [each for each in self._in if each.variant.engine == engine and self._within(each)]
        best = {id(each): each for batch in self._batches for each in racing(own, batch)[:1]}
        return list(best.values())

    def _leading(self, racers: Sequence[Tried]) -> list[Tried]:
        """The best at any batch, and of each engine one, to take its place where it is not."""
        kept = leaders([each for each in racers if self._within(each)], self._batches, _FINALISTS)
        usual = self._request.plans.batch.opt
        for engine in ENGINES:
            own = [each for each in racers if each.variant.engine == engine and self._within(each)]
            if own and not any(each.variant.engine == engine for each in kept):
                first = racing(own, usual) or own
                kept.append(first[0])
        return kept

    def _finalists(self) -> list[Tried]:
        """The best few at each batch, and the best of each engine, that have not failed yet."""
        kept: dict[int, Tried] = {}
        for batch in self._batches:
            here = self._best(batch)
            of_engines: dict[str, Tried] = {}
            for each in here:
                of_engines.setdefault(each.variant.engine, each)
            if batch != self._request.plans.batch.opt:
                of_engines = {}
            for each in (*here[:_FINALISTS], *of_engines.values()):
                kept.setdefault(id(each), each)
        return [each for each in self._tried if id(each) in kept]

    def _rank(self, each: Tried) -> float:
        """Milliseconds an image in the last short race, at the batch where it is best."""
        return min((taken.p50 / batch for batch, taken in each.short.items()), default=inf)

    def _each_batch_has_one(self, finalists: Sequence[Tried]) -> bool:
        """Whether of every batch's best few one was verified."""
        ready = {id(each) for each in finalists if each.verified and self._within(each)}
        return all(
            any(id(each) in ready for each in self._best(batch)[:_FINALISTS])
            for batch in self._batches
        )

    def _race(self, stage: str, racers: Sequence[Tried]) -> None:
        for each, result in self._run(stage, racers, _SHORT):
            each.short = dict(result.times)

    def _run(self, stage: str, racers: Sequence[Tried], pace: Pace) -> list[tuple[Tried, Result]]:
        """Race those that can be, and take down what goes wrong and how exact they are."""
        contestants, running = [], []
        for each in racers:
            try:
                contestants.append(self._workshop.contestant(each.variant))
            except AlexcError as error:
                each.fault = f"failed: {error.diagnostics[0].message}"
            else:
                running.append(each)
        what = f"plan: {stage}, {len(running)} ways"
        self._progress(what)
        say = _headlines(what, self._progress)
        results = race(contestants, self._subject, self._batches, self._standard, pace, say)
        for each, result in zip(running, results, strict=True):
            if result.fault is not None:
                each.fault = ("not run: " if result.missing else "failed: ") + result.fault
            if result.errors:
                exact = all(error.exact for error in result.errors.values())
                known = each.error
                rel_l2 = max(error.rel_l2 for error in result.errors.values())
                agreement = known.agreement if known is not None else None
                # Photographs, once seen, say it better than the few images of a race.
                each.error = Error(known.rel_l2 if known else rel_l2, exact, agreement)
        return list(zip(running, results, strict=True))

    def _look(self, each: Tried, labelled: Labelled | None = None) -> None:
        """See what it makes of all images."""
        self._progress(f"plan: the error of {each.variant.label}")
        try:
            contestant = self._workshop.contestant(each.variant)
            seen = look(contestant, self._subject, self._photographs, labelled)
        except AlexcError as error:
            each.fault = f"failed: {error.diagnostics[0].message}"
        except WorkerFault as fault:
            each.fault = ("not run: " if fault.missing else "failed: ") + fault.reason
        else:
            agreement = seen.agreement if self._real else None
            exact = each.error.exact if each.error is not None else False
            each.error = Error(seen.rel_l2, exact, agreement)
            each.top1, each.top5 = seen.top1, seen.top5

    def _certify(self, each: Tried) -> None:
        """Its error on all images, its accuracy, and the cross-check.

        They are those of the same file on the same engine, however many threads that has.
        """
        for other in self._tried:
            same = (other.variant.engine, other.variant.path) == (
                each.variant.engine,
                each.variant.path,
            )
            if same and other.verified is not None:
                each.error, each.top1, each.top5 = other.error, other.top1, other.top5
                each.verified, each.rejection = other.verified, other.rejection
                return
        self._look(each, self._request.labelled)
        if self._within(each):
            self._cross_check(each)

    def _cross_check(self, each: Tried) -> None:
        """Hold every layer of its model against the reference, on its engine."""
        from alexc.verify.crosscheck import verify

        variant = each.variant
        self._progress(f"plan: verifying {replace(variant, threads=None).label}")
        made = self._workshop.make(variant)
        of_plan = ENGINES[variant.engine].needs_plan
        report = verify(
            made.form,
            made.weights,
            made.model,
            written=made.written,
            plans=[self._workshop.record(variant)] if of_plan else (),
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


def _images(net: Net, request: Request) -> tuple[NDArray[np.float32], bool]:
    """The images that errors are measured on, and whether they are photographs."""
    if (given := request.seen()) is not None:
        return given, True
    return standard_inputs(net.graph, _DISTINCT_IMAGES, 0), False


def _subject(scratch: Path, folder: Path, distinct: NDArray[np.float32], most: int) -> Subject:
    np.save(scratch / "images.npy", distinct[np.arange(most) % len(distinct)])
    return Subject(
        spec=scratch / "spec.json",
        weights=folder / WEIGHTS,
        images=scratch / "images.npy",
        exported=scratch / "exported.onnx",
        scratch=scratch,
    )


def _headlines(what: str, progress: Progress) -> Progress:
    """Of a race's progress only where a batch begins."""

    def say(text: str) -> None:
        if text.startswith("batch ") and "round 1 of" in text:
            progress(f"{what}, {text.partition(':')[0]}")

    return say
