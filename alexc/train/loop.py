"""A run from one step to another: images to steps, and what falls due between two of them.

Every random number is a function of the recipe's seed and of the number of the step: the order of
the images (`data.order`), what is done to them (`augment`), and dropout (`learner`). So the state
of a run is its tensors and a few numbers, and a run that goes on is the same run, bit for bit, on
the same kind of processor.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from alexc.diagnostics import AlexcError, Diagnostic, fault
from alexc.spec.recipe import TrainSpec
from alexc.train import board, checkpoint
from alexc.train.augment import Draw, Pixels
from alexc.train.checkpoint import Checkpoint, State, Sums
from alexc.train.data.dataset import Dataset
from alexc.train.data.loader import batches
from alexc.train.data.order import share
from alexc.train.data.photos import told
from alexc.train.evaluate import Scores, evaluate, together
from alexc.train.guard import Guard
from alexc.train.interrupt import Stop
from alexc.train.learner import Learner
from alexc.train.metrics import Metrics
from alexc.train.report import Clock, Reporter
from alexc.train.schedule import Plateau, factor
from alexc.train.tally import Tally
from alexc_runtime.cores import affinity

_STRETCH = 50  # steps between two lines of metrics
_TALK = 10  # steps between two looks at what workers have to say to each other
_LOOK = 10  # steps between two looks at the losses on a GPU


@dataclass(frozen=True, slots=True)
class Options:
    """What a run is told beside its recipe; nothing here changes what is learnt but `threads`.

    `processes` decode images where these are not in memory; None is one for each core. After
    `stop_after` steps the run ends as if it had been asked to, with a checkpoint.
    """

    out: Path
    resume: bool = False
    weights: Path | None = None
    device: str | None = None
    threads: int | None = None
    processes: int | None = None
    stop_after: int | None = None
    tensorboard: bool = False


@dataclass(slots=True)
class Outcome:
    """How a run ended: `scores` are of the last weights, None where it was stopped before."""

    step: int
    steps: int
    scores: Scores | None
    interrupted: bool = False
    best_top1: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a data set, and how its images become inputs."""

    data: Dataset
    pixels: Pixels


class Loop:
    """A run under way, in one worker."""

    def __init__(
        self,
        learner: Learner,
        last: Checkpoint | None,
        learnt: Part,
        tested: Part,
        options: Options,
        report: Reporter,
    ) -> None:
        """Before the first step, or where the last checkpoint stands."""
        self.learner = learner
        self.state = state = last.state if last is not None else State()
        self.last = last
        self.saved = state.step if last is not None else None  # the step of the last checkpoint
        self.learnt, self.tested = learnt, tested
        self.options, self.report = options, report
        self.recipe: TrainSpec = learner.recipe
        self.workers = learner.workers
        self.per_epoch = len(learnt.data) // self.recipe.batch
        self.steps = self.per_epoch * self.recipe.epochs
        graph = learner.graph
        self.classes = graph.shapes[graph.outputs[0]][0]
        guard = Guard(self.classes, self.recipe.stuck_after, state.guard_loss)
        every = 1 if self.workers.device.type == "cpu" else _LOOK
        self.tally = Tally(state, guard, self._diagnosis, every)
        self.rate = self.recipe.optimizer.learning_rate
        self.board: board.Board | None = None

    def go(self, stop: Stop) -> Outcome:
        """Steps until the last or until `stop`; metrics, tests and checkpoints as they fall due."""
        state, recipe, first = self.state, self.recipe, self.workers.first
        if first:
            self._begin()
        if state.step == self.steps:
            self.report.say(f"{self.options.out} is finished: all {self.steps:,} steps are done")
        started = saved = time.monotonic()
        before = state.seconds
        end = self.steps
        if self.options.stop_after is not None:
            end = min(end, state.step + self.options.stop_after)
        clock = Clock()
        interrupted = False
        for images, labels in clock.waiting(self._batches()):
            interrupted = self._asked(stop)
            if state.step >= end or interrupted:
                break
            self._step(images, labels)
            state.step += 1
            state.seconds = before + time.monotonic() - started
            if state.step % _STRETCH == 0 or state.step == end:
                self._tell(clock)
            elif first:
                self.report.step(state.step, {})
            ended = state.step % self.per_epoch == 0
            improved = self._end_epoch() if ended else False
            state.seconds = before + time.monotonic() - started
            if improved or self._due(saved):
                self._save()
                saved = time.monotonic()
        if self.saved != state.step:
            self._save(last=True)
        if state.step < self.steps:
            return Outcome(
                state.step, self.steps, None, interrupted, state.best_top1, state.seconds
            )
        # Without autocast: the very numbers that an engine gives in fp32.
        scores = self._test(recipe.views)
        if first and not self.metrics.ended:
            self.metrics.write(
                "end",
                step=state.step,
                epoch=recipe.epochs,
                top1=scores.top1,
                top5=scores.top5,
                loss=scores.loss,
                views=recipe.views,
                images=scores.images,
                seconds=round(state.seconds, 3),
            )
        return Outcome(state.step, self.steps, scores, False, state.best_top1, state.seconds)

    # ---- one step --------------------------------------------------------------------------------

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        return batches(
            self.learnt.data,
            seed=self.recipe.seed,
            batch=self.recipe.batch,
            steps=range(self.state.step, self.steps),
            rank=self.workers.rank,
            workers=self.workers.size,
            processes=self._processes(),
        )

    def _processes(self) -> int:
        """How many processes decode. In each, threads would only take turns."""
        if self.learnt.data.in_memory:
            return 0
        if self.options.processes is None:
            return len(affinity())
        return self.options.processes

    def _step(self, images: Tensor, labels: Tensor) -> None:
        """One update of the weights, from stored images."""
        recipe, workers, step = self.recipe, self.workers, self.state.step
        part = share(recipe.batch, workers.rank, workers.size)
        draw = Draw.of(recipe.seed, step, recipe.batch).part(part)
        inputs = self.learnt.pixels.for_training(images, draw)
        labels = labels.to(workers.device, non_blocking=True)
        self.rate = self._rate(step)
        self.tally.add(self.learner.gradients(inputs, labels, step))
        self.learner.update(step, self.rate)

    def _rate(self, step: int) -> float:
        """The learning rate of a step of this epoch, taken at its middle, so that none is 0."""
        recipe = self.recipe
        epoch = (step + 0.5) / self.per_epoch
        falling = factor(recipe.schedule, epoch, recipe.epochs, self._plateau())
        return recipe.optimizer.learning_rate * falling

    def _plateau(self) -> Plateau:
        state = self.state
        return Plateau(state.plateau_best, state.plateau_waited, state.plateau_lowered)

    def _diagnosis(self, verdict: str, step: int) -> AlexcError:
        """The fault to stop with: this was found in step number `step`, counted from 1."""
        return self.learner.diagnosis(verdict, step, self._rate(step - 1))

    # ---- testing ---------------------------------------------------------------------------------

    def _test(self, views: int = 1, *, quick: bool = False) -> Scores:
        """The accuracy of the weights as they are kept, on this worker's part and then in all."""
        found = evaluate(
            lambda inputs: self.learner.scores(inputs, quick=quick),
            self.tested.data,
            self.tested.pixels,
            self.classes,
            views=views,
            part=(self.workers.rank, self.workers.size),
        )
        return together(found, self.workers)

    def _end_epoch(self) -> bool:
        """Test, write the epoch's line, and say whether the weights are the best so far."""
        state = self.state
        self.tally.settle()
        scores = self._test(quick=True)
        plateau = self._plateau()
        plateau.see(1 - scores.top1, self.recipe.schedule)
        state.plateau_best, state.plateau_waited = plateau.best, plateau.waited
        state.plateau_lowered = plateau.lowered
        sums = state.sums
        images, loss, correct, damaged = self.workers.total(
            sums.images, sums.loss, sums.correct, sums.damaged
        )
        if not images:
            raise fault("data/empty", f"no image of {self.learnt.data.name} could be read")
        values = {
            "train_loss": loss / images,
            "train_top1": correct / images,
            "loss": scores.loss,
            "top1": scores.top1,
            "top5": scores.top5,
            "learning_rate": self.rate,
            "seconds": round(state.seconds, 3),
            "damaged": int(damaged),
        }
        state.sums = Sums()
        epoch = state.step // self.per_epoch
        if self.workers.first:
            self.metrics.write("epoch", step=state.step, epoch=epoch, **values)
            if self.board is not None:
                self.board.write("epoch", state.step, values)
            self.report.epoch(epoch, values)
        improved = state.best_top1 is None or scores.top1 > state.best_top1
        if improved:
            state.best_top1, state.best_step = scores.top1, state.step
        return improved

    # ---- telling ---------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Open the metrics, and say where the run stands and what its data lacks."""
        state = self.state
        self.metrics = Metrics(self.options.out, state.step, self.report.say)
        self.report.begin(self.learner.graph.name, state.step, self.steps, self.per_epoch)
        for name in checkpoint.passed_over(self.options.out, self.last):
            self.report.say(f"the checkpoint {name} is damaged, and passed over")
        if self.options.tensorboard:
            self.board = board.Board(self.options.out, state.step)
        for part in (self.learnt, self.tested):
            if part.data.damaged:
                self.report.say(told(part.data.damaged))

    def _tell(self, clock: Clock) -> None:
        self.tally.settle()
        sums, state = self.state.sums, self.state
        if not self.workers.first or not sums.images:
            return
        seconds, loading = clock.lap()
        values = {
            "loss": sums.loss / sums.images,
            "top1": sums.correct / sums.images,
            "learning_rate": self.rate,
            "images_per_s": round(clock.steps_in_lap * self.recipe.batch / seconds, 1),
            "loading": round(loading, 4),
        }
        self.metrics.write(
            "step", step=state.step, epoch=round(state.step / self.per_epoch, 4), **values
        )
        if self.board is not None:
            self.board.write("step", state.step, values)
        self.report.step(state.step, values)

    def _asked(self, stop: Stop) -> bool:
        """Whether any worker was asked to stop. All come to the same answer at the same step."""
        if self.workers.size == 1:
            return stop.asked
        if self.state.step % _TALK:
            return False
        return self.workers.total(float(stop.asked))[0] > 0

    # ---- saving ----------------------------------------------------------------------------------

    def _due(self, saved: float) -> bool:
        spec = self.recipe.checkpoint
        by_steps = spec.steps is not None and self.state.step % spec.steps == 0
        return by_steps or time.monotonic() - saved >= 60 * spec.minutes

    def _save(self, *, last: bool = False) -> None:
        """Save the state. Without room on the disk the run goes on, unless this was the `last`."""
        self.tally.settle()
        state, learner = self.state, self.learner
        self.saved = state.step
        if not self.workers.first:
            return
        state.scaler = learner.scaling()
        keep = self.recipe.checkpoint.keep
        try:
            checkpoint.save(
                self.options.out, state, learner.weights(), learner.tensors(), keep=keep
            )
        except OSError as error:
            self.saved = None
            message = (
                f"the checkpoint of step {state.step:,} could not be written: "
                f"{error.strerror or error}"
            )
            if last:
                help = "make room, then go on with --resume"
                raise AlexcError(Diagnostic("checkpoint/unwritable", message, help=help)) from None
            self.report.say(f"{message}; the run goes on")
