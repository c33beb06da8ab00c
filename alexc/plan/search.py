"""The search for the fastest way to run a net on this machine that is exact enough.

All ways at once would be too many, so that they are tried in stages, each with what the one before
has left:

    forms       every form of the model in fp32, in a short race; of each engine the best two stay
    precisions  the best of each engine in every narrower precision that it has. What is over the
                budget is never raced
    threads     the best of each batch with other numbers of threads
    finals      the best three of each batch, once the cross-check has passed them, in a longer
                race

The first three have one shape: what is proposed is raced with those that stand, and the leaders of
that race stand. Who can't be told apart from the last of them stays, too. What is chosen and why is
decided by `choice` from the measurements alone.
"""

from __future__ import annotations

import filecmp
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexc.diagnostics import AlexcError
from alexc.engines.forms import FORMS, changing
from alexc.folders import scratch
from alexc.frontend import Net
from alexc.plan.choice import Tried, choose, first, leaders, racing
from alexc.plan.measure import Pace
from alexc.plan.outcome import nothing_passes, plan_of, usable
from alexc.plan.request import Request
from alexc.plan.trials import Trials
from alexc.plan.variant import Variant, combined, narrower, threaded
from alexc_runtime.manifest import ENGINES as PLANS
from alexc_runtime.manifest import WEIGHTS, EngineRecord
from alexc_runtime.opening import ENGINES
from alexc_runtime.planned import Plan, this_machine

Weights = Mapping[str, NDArray[np.float32]]
Progress = Callable[[str], None]

# How long a search takes, about, on two cores for AlexNet: what is left of it is the final race's.
_SECONDS = 165.0
_SHORT = Pace(rounds=6, seconds=0.04, fewest=1, most=4, profile_runs=0, most_seconds=8.0)
_FINAL = Pace(rounds=11, seconds=0.12, fewest=2, most=12, profile_runs=0, most_seconds=16.0)
_LEAST_FINAL_SECONDS = 4.0
_RESERVED = 30.0  # of them, for the final race
_STAY_PER_ENGINE, _FINALISTS = 2, 3


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
    met (see `request.check`). Raises AlexcError plan/nothing-passes if no way is verified and
    within the budget.
    """
    from alexc.engines.tensorrt.layers import layers_file

    started = time.monotonic()
    with scratch("plan") as folder:
        trials = Trials(net, weights, request, folder, progress)
        course = _Course(trials, request, started)
        course.run()
        found = course.found()
        for file in found.files:
            made = trials.workshop.folder / file
            if (into / file).exists():
                of_plan = file.startswith(f"{PLANS}/")
                if not of_plan or filecmp.cmp(made, into / file, shallow=False):
                    continue
                # It tells the layers of the plan that goes.
                (into / layers_file(file)).unlink(missing_ok=True)
            (into / file).parent.mkdir(exist_ok=True)
            shutil.copyfile(made, into / file)
    return found


class _Course:
    """The stages, and what they leave: `_standing` are those that are still in, of those `_raced`
    in the last short race that decided it."""

    def __init__(self, trials: Trials, request: Request, started: float) -> None:
        self._trials = trials
        self._workshop = trials.workshop
        self._batches = trials.batches
        self._request = request
        self._started = started
        self._tried: list[Tried] = []
        self._standing: list[Tried] = []
        self._raced: list[Tried] = []

    def run(self) -> None:
        """All stages, one after the other."""
        self._stage("forms", self._forms(), self._leaders_of_each_engine)
        self._stage("precisions", self._precisions(), self._leaders)
        self._stage("threads", self._threads(), self._leaders)
        self._finals()

    def found(self) -> Found:
        """What came of it. Raises AlexcError plan/nothing-passes."""
        budget, trials = self._request.budget, self._trials
        chosen = choose(self._tried, budget, self._batches)
        if not chosen:
            raise AlexcError(nothing_passes(self._tried, budget))
        seconds = time.monotonic() - self._started
        plan = plan_of(self._tried, chosen, budget, trials.images, trials.real, seconds)
        kept = usable(self._tried, budget)
        records = dict.fromkeys(
            replace(self._workshop.record(each.variant), status="verified")
            for each in (*chosen.values(), *kept)
        )
        files: dict[str, None] = {}
        for each in kept:
            # The model of an engine's plan as well: by it the plan can be verified again.
            own = (each.variant.path, *self._workshop.make(each.variant).files)
            files |= dict.fromkeys(name for name in own if name != WEIGHTS)
        return Found(plan, tuple(records), tuple(files))

    # ---- what each stage proposes ----------------------------------------------------------------

    def _forms(self) -> list[Variant]:
        """Every form in fp32, on every engine that is here."""
        forms = changing(self._workshop.plain, self._workshop.weights)
        proposed = []
        for engine, kind in ENGINES.items():
            if (obstacle := kind.obstacle()) is not None:
                self._tried.append(Tried(Variant(engine), fault=f"not run: {obstacle}"))
            else:
                proposed += [self._variant(engine, form) for form in ((), *((f,) for f in forms))]
        return proposed

    def _precisions(self) -> list[Variant]:
        """The forms that stand, together and in narrower precisions."""
        kinds = {name: form.kind for name, form in FORMS.items()}
        together = combined([each.variant for each in self._standing], dict(kinds))
        if not self._request.budget.narrow:
            return together
        # As it is written it may be the best again: in bf16 OpenVINO is fast at LRN itself.
        best = [
            variant
            for engine in ENGINES
            if (own := self._best_of(engine))
            for variant in (self._variant(engine, ()), *own)
        ]
        quantizable, precisions = self._workshop.can_quantize, self._workshop.precisions
        return [*together, *narrower([*best, *together], quantizable, precisions)]

    def _threads(self) -> list[Variant]:
        """The best of each batch with other numbers of threads than the engine's own."""
        if self._request.threads is not None or self._left() < _SECONDS / 3:
            return []
        best = [each.variant for batch in self._batches for each in self._best(batch)[:1]]
        return threaded(best, this_machine().cores)

    # ---- the shape of a stage --------------------------------------------------------------------

    def _stage(
        self,
        name: str,
        proposed: Iterable[Variant],
        leaders_of: Callable[[Sequence[Tried]], list[Tried]],
    ) -> None:
        """Race those that stand and what is proposed; `leaders_of` says who stands then.

        What rounds more than fp32 is looked at first, and is not raced if it is over the budget.
        """
        new = [Tried(variant) for variant in proposed]
        for each in new:
            if (known := self._of_same_file(each)) is not None:
                each.error = known.error
            elif each.variant.precision != "fp32":
                self._trials.look(each)
        self._tried += new
        fit = [each for each in new if self._within(each)]
        if not fit:
            return
        self._raced = [*self._standing, *fit]
        for each, times in zip(
            self._raced, self._trials.race(name, self._raced, _SHORT), strict=True
        ):
            each.short = times
        self._standing = leaders_of([each for each in self._raced if self._within(each)])

    def _leaders_of_each_engine(self, racers: Sequence[Tried]) -> list[Tried]:
        return [
            kept
            for engine in ENGINES
            for kept in leaders(_of(engine, racers), self._batches, _STAY_PER_ENGINE)
        ]

    def _leaders(self, racers: Sequence[Tried]) -> list[Tried]:
        """The best at any batch, and of each engine one, to take its place where it is not."""
        kept = leaders(racers, self._batches, _FINALISTS)
        usual = self._request.plans.batch.opt
        for engine in ENGINES:
            own = _of(engine, racers)
            if own and not _of(engine, kept):
                kept.append((racing(own, usual) or own)[0])
        return kept

    # ---- finals ----------------------------------------------------------------------------------

    def _finals(self) -> None:
        """The cross-check of the best, and their race. Of those that fail the next best come."""
        while True:
            finalists = self._finalists()
            unsure = [each for each in finalists if each.verified is None]
            if not unsure:
                break
            for each in sorted(unsure, key=_at_best):
                if self._left() < _RESERVED and self._each_batch_has_one(finalists):
                    each.dropped = "there was no time left to verify it"
                    self._standing = [one for one in self._standing if one is not each]
                else:
                    self._certify(each)
            if any(not self._within(each) for each in unsure) and self._left() > _RESERVED:
                # Whoever was dropped because of one that has failed is in again.
                known = {id(each) for each in self._standing}
                self._standing += [each for each in self._raced if id(each) not in known]
        if not finalists:
            return
        left = max(_LEAST_FINAL_SECONDS, self._left() / len(self._batches))
        pace = replace(_FINAL, most_seconds=min(left, _FINAL.most_seconds or left))
        for each, times in zip(
            finalists, self._trials.race("finals", finalists, pace), strict=True
        ):
            each.final = times

    def _finalists(self) -> list[Tried]:
        """The best few at each batch, and the best of each engine, that have not failed yet."""
        kept: set[int] = set()
        for batch in self._batches:
            here = self._best(batch)
            few = first(here, batch, _FINALISTS)
            if batch == self._request.plans.batch.opt:
                few += [own[0] for engine in ENGINES if (own := _of(engine, here))]
            kept |= {id(each) for each in few}
        return [each for each in self._tried if id(each) in kept]

    def _each_batch_has_one(self, finalists: Sequence[Tried]) -> bool:
        """Whether of every batch's best few one was verified."""
        ready = {id(each) for each in finalists if each.verified and self._within(each)}
        return all(
            any(id(each) in ready for each in first(self._best(batch), batch, _FINALISTS))
            for batch in self._batches
        )

    def _certify(self, each: Tried) -> None:
        """Its error on all images, its accuracy, and the cross-check."""
        if (known := self._of_same_file(each)) is not None and known.verified is not None:
            each.error, each.top1, each.top5 = known.error, known.top1, known.top5
            each.verified, each.rejection = known.verified, known.rejection
            return
        self._trials.look(each, self._request.labelled)
        if self._within(each):
            self._trials.cross_check(each)

    # ---- what is known ---------------------------------------------------------------------------

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
        """Those that stand, the fastest at a batch first."""
        return racing([each for each in self._standing if self._within(each)], batch)

    def _best_of(self, engine: str) -> list[Variant]:
        """The fastest of an engine at each batch."""
        best = [own[0] for batch in self._batches if (own := _of(engine, self._best(batch)))]
        return list(dict.fromkeys(each.variant for each in best))

    def _of_same_file(self, each: Tried) -> Tried | None:
        """One that was tried of the same file on the same engine, the best known one first.

        However many threads an engine has, its numbers are those of the file.
        """
        file = (each.variant.engine, each.variant.path)
        same = [
            other
            for other in self._tried
            if other is not each and (other.variant.engine, other.variant.path) == file
        ]
        return next((other for other in same if other.verified is not None), next(iter(same), None))


def _of(engine: str, tried: Iterable[Tried]) -> list[Tried]:
    return [each for each in tried if each.variant.engine == engine]


def _at_best(each: Tried) -> float:
    """Milliseconds an image in the last short race, at the batch where it is best."""
    return min((taken.p50 / batch for batch, taken in each.short.items()), default=inf)
