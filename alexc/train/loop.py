"""Training, from the first step to the last, or from wherever it was stopped.

Every random number is a function of the recipe's seed and of the number of the step: the order of
the images (`data.order`), what is done to them (`augment`), and dropout, for which PyTorch's
generators are seeded anew in every step. So the state of a run is its tensors and a few numbers,
and a run that goes on is the same run, bit for bit, on the same kind of processor.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from alexc.diagnostics import AlexcError, Diagnostic, fault, usage_fault
from alexc.frontend import Net
from alexc.graph.graph import Graph
from alexc.lower.to_torch import TorchNet, to_torch
from alexc.spec.recipe import TrainSpec
from alexc.train import board, checkpoint
from alexc.train.augment import Draw, Pixels
from alexc.train.checkpoint import Checkpoint, State, Sums
from alexc.train.data.dataset import DAMAGED, Dataset
from alexc.train.data.loader import batches
from alexc.train.data.order import chance, share
from alexc.train.data.photos import told
from alexc.train.data.uri import form_for, open_data, stored_size
from alexc.train.evaluate import Scores, evaluate
from alexc.train.guard import Guard, diagnosis
from alexc.train.metrics import Metrics
from alexc.train.optimizer import make_optimizer, restore_states, states_by_name
from alexc.train.precision import Precision, autocast, choose, storage
from alexc.train.recipe import graph_for_training
from alexc.train.run import (
    LOCK,
    RunRecord,
    claimed,
    is_run,
    open_run,
    record_of,
    refuse_unless_same,
    weights_in,
    write_record,
)
from alexc.train.schedule import Plateau, factor
from alexc.train.workers import Workers
from alexc.weights import store
from alexc.weights.init import draw

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch.optim import Optimizer

_STRETCH = 50  # steps between two lines of metrics
_TALK = 10  # steps between two looks at what workers have to say to each other


class Reporter(Protocol):
    """Who is told how it goes. Called by the first worker only."""

    def begin(self, name: str, step: int, steps: int, per_epoch: int) -> None: ...

    def step(self, step: int, values: Mapping[str, float]) -> None: ...

    def epoch(self, epoch: int, values: Mapping[str, float]) -> None: ...

    def say(self, text: str) -> None: ...


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


@dataclass(slots=True)
class _Stop:
    """Set by SIGTERM and Ctrl-C: the step at hand is finished, then the state is saved."""

    asked: bool = False
    handlers: dict[int, Any] = field(default_factory=dict)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt  # the second Ctrl-C waits for nothing
        self.asked = True


@contextmanager
def _stoppable() -> Iterator[_Stop]:
    """While this is open, SIGTERM and Ctrl-C are requests."""
    stop = _Stop()
    before: dict[signal.Signals, Any] = {}
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            before[number] = signal.signal(number, stop)
    except ValueError:
        pass  # not in the main thread: nobody can ask
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def train(
    net: Net, recipe: TrainSpec, uri: str, options: Options, workers: Workers, report: Reporter
) -> Outcome:
    """Train the net by the recipe on the data at `uri`, into the folder `options.out`.

    Raises AlexcError or UsageError, with nothing written, for whatever can be known before the
    first step; and AlexcError for a run that learns nothing.
    """
    if recipe.batch % (workers.size * recipe.accumulate):
        raise fault(
            "recipe/batch",
            f"a batch of {recipe.batch} is not {workers.size} workers × {recipe.accumulate} parts "
            "of one size",
            help="choose train.batch and train.accumulate so that it divides",
        )
    if options.tensorboard:
        board.require()
    graph = graph_for_training(net.graph)
    form = form_for(net, graph, stored_size(net, recipe.resize))
    learnt, tested = open_data(uri, "train", form), open_data(uri, "test", form)
    if len(learnt) < recipe.batch:
        raise fault(
            "recipe/batch",
            f"{uri} has {len(learnt):,} images to learn from, less than a batch of {recipe.batch}",
            help=f"--set train.batch={len(learnt)}",
        )
    precision = choose(recipe.precision, workers.device)
    record = record_of(
        net,
        recipe,
        uri,
        (len(learnt), len(tested)),
        threads=options.threads or torch.get_num_threads(),
        precision=precision,
        weights=str(options.weights) if options.weights else None,
    )
    before = _before(options, record, workers)
    if before is not None and options.threads is None:
        record = before
        precision = choose(record.precision, workers.device)
    torch.set_num_threads(record.threads)
    torch.backends.cudnn.benchmark = True  # sizes stay the same from step to step
    run = _Run(net, graph, recipe, precision, learnt, tested, options, workers, report)
    weights = _first_weights(net, recipe, options) if before is None else None
    workers.wait()  # until all have seen what was there before
    with claimed(options.out) if workers.first else nullcontext():
        if workers.first and before is None:
            write_record(options.out, record)
        workers.wait()
        run.prepare(weights, checkpoint.latest(options.out) if before is not None else None)
        with _stoppable() as stop, _denormals_flushed():
            return run.go(stop)


@contextmanager
def _denormals_flushed() -> Iterator[None]:
    """Count denormals as zero in the block: a dying net's activations cost ten times as much.

    It is a setting of the whole thread. Left on, it would also change what numpy computes there.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def _before(options: Options, record: RunRecord, workers: Workers) -> RunRecord | None:
    """What is kept of the run to go on with, or None for a new one.

    Refuses what would be overwritten, and a run of another net, recipe or data.
    """
    if not is_run(options.out):
        if options.out.is_dir() and any(path.name != LOCK for path in options.out.iterdir()):
            raise usage_fault("run/not-empty", f"{options.out} holds something else than a run")
        return None
    if not options.resume and not workers.restarted:
        raise usage_fault(
            "run/exists",
            f"{options.out} is a run already",
            help="--resume goes on with it; another --out starts a new one",
        )
    before = open_run(options.out).record
    refuse_unless_same(options.out, before, record)
    return before


def _first_weights(net: Net, recipe: TrainSpec, options: Options) -> dict[str, NDArray[np.float32]]:
    if options.weights is not None:
        return store.read(weights_in(options.weights), net.graph)
    layers = {name: layer.init for name, layer in net.spec.layers.items() if layer.init}
    return draw(net.graph, net.spec.header.init, layers, recipe.seed)


class _Run:
    """The moving parts of a run in one process."""

    def __init__(
        self,
        net: Net,
        graph: Graph,
        recipe: TrainSpec,
        precision: Precision,
        learnt: Dataset,
        tested: Dataset,
        options: Options,
        workers: Workers,
        report: Reporter,
    ) -> None:
        self.net, self.graph, self.recipe, self.precision = net, graph, recipe, precision
        self.learnt, self.tested = learnt, tested
        self.options, self.workers, self.report = options, workers, report
        self.classes = graph.shapes[graph.outputs[0]][0]
        said = net.spec.header.preprocess
        dtype = storage(precision)
        self.pixels = Pixels(
            graph, said, recipe.augment, learnt.shape, dtype=dtype, device=workers.device
        )
        self.test_pixels = Pixels(
            graph, said, recipe.augment, tested.shape, dtype=dtype, device=workers.device
        )
        self.per_epoch = len(learnt) // recipe.batch
        self.steps = self.per_epoch * recipe.epochs
        self.state = State()
        self.average: dict[str, Tensor] | None = None
        self.board: board.Board | None = None
        # Of each step not looked at yet: its number, loss and hits, images that count, images.
        self.unsettled: list[tuple[int, Tensor, Tensor, int]] = []
        self.saved: int | None = None  # the step of the last checkpoint

    # ---- setting up ------------------------------------------------------------------------------

    def prepare(
        self, weights: Mapping[str, NDArray[np.float32]] | None, start: Checkpoint | None
    ) -> None:
        """Make module and optimiser, from first weights or from a checkpoint."""
        workers, recipe = self.workers, self.recipe
        wanted = self.graph.parameters
        given = {name: weights[name] for name in wanted} if weights is not None else None
        module = to_torch(self.graph, given).to(workers.device, storage(self.precision))
        if recipe.channels_last:
            # The cast of PyTorch's stubs leaves this overload out.
            module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.module: TorchNet = module
        self.optimizer: Optimizer = make_optimizer(module, recipe.optimizer)
        self.scaler = torch.amp.GradScaler(workers.device.type, enabled=self.precision == "fp16")
        if recipe.ema is not None:
            self.average = {k: v.detach().clone() for k, v in _floats(module).items()}
        if start is not None:
            self._restore(start)
        elif given is None:
            # Killed before the first checkpoint: the run begins again, from the same weights.
            first = _first_weights(self.net, recipe, self.options)
            module.load_state_dict({k: torch.from_numpy(first[k]) for k in wanted}, strict=False)
        forward: nn.Module = module
        if recipe.compile:
            forward = torch.compile(module)  # type: ignore[assignment]
        if workers.size > 1:
            ids = [workers.device.index] if workers.device.type == "cuda" else None
            forward = DistributedDataParallel(forward, device_ids=ids)
        self.forward = forward
        self.guard = Guard(self.classes, recipe.stuck_after, self.state.guard_loss)

    def _restore(self, start: Checkpoint) -> None:
        self.state = start.state
        self.saved = start.state.step
        tensors = start.tensors()
        own = self.module.state_dict()
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(tensors[f"net:{name}"])
            if self.average is not None:
                for name, value in self.average.items():
                    value.copy_(tensors[f"average:{name}"])
        momenta = {
            whole.removeprefix("optimizer:"): value
            for whole, value in tensors.items()
            if whole.startswith("optimizer:")
        }
        restore_states(self.module, self.optimizer, momenta)
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(self.state.scaler)

    # ---- running ---------------------------------------------------------------------------------

    def go(self, stop: _Stop) -> Outcome:
        """Steps until the last or until `stop`; metrics, tests and checkpoints as they fall due."""
        state, recipe, first = self.state, self.recipe, self.workers.first
        if first:
            self.metrics = Metrics(self.options.out, state.step, self.report.say)
            self.report.begin(self.graph.name, state.step, self.steps, self.per_epoch)
            if self.options.tensorboard:
                self.board = board.Board(self.options.out, state.step)
            for data in (self.learnt, self.tested):
                if data.damaged:
                    self.report.say(told(data.damaged))
        if state.step == self.steps:
            self.report.say(f"{self.options.out} is finished: all {self.steps:,} steps are done")
        started = saved = time.monotonic()
        before = state.seconds
        end = self.steps
        if self.options.stop_after is not None:
            end = min(end, state.step + self.options.stop_after)
        clock = _Clock()
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

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        return batches(
            self.learnt,
            seed=self.recipe.seed,
            batch=self.recipe.batch,
            steps=range(self.state.step, self.steps),
            rank=self.workers.rank,
            workers=self.workers.size,
            processes=self._processes(),
        )

    def _processes(self) -> int:
        """How many processes decode. In each, threads would only take turns."""
        if self.learnt.in_memory:
            return 0
        if self.options.processes is None:
            return len(os.sched_getaffinity(0))
        return self.options.processes

    def _step(self, images: Tensor, labels: Tensor) -> None:
        """One update of the weights."""
        state, recipe, workers = self.state, self.recipe, self.workers
        part = share(recipe.batch, workers.rank, workers.size)
        inputs = self.pixels.for_training(
            images, Draw.of(recipe.seed, state.step, recipe.batch).part(part)
        )
        labels = labels.to(workers.device, non_blocking=True)
        # Dropout differs from worker to worker, and from step to step.
        torch.manual_seed(chance(recipe.seed, "step", state.step, workers.rank))
        rate = self._set_rate()
        self.optimizer.zero_grad(set_to_none=True)
        found = torch.zeros(2, dtype=torch.float64, device=workers.device)  # loss, correct
        self.module.train()
        parts = recipe.accumulate
        for number, (x, y) in enumerate(
            zip(inputs.chunk(parts), labels.chunk(parts), strict=True), 1
        ):
            with self._alone(number < parts):
                with autocast(self.precision, workers.device):
                    logits = self.forward(x).flatten(1)
                wide = logits if logits.dtype == torch.float64 else logits.float()
                # The mean over the images that could be read, also where that is none of them.
                loss = functional.cross_entropy(
                    wide,
                    y,
                    ignore_index=DAMAGED,
                    label_smoothing=recipe.label_smoothing,
                    reduction="sum",
                ) / (y >= 0).sum().clamp_min(1)
                self.scaler.scale(loss / parts).backward()  # type: ignore[no-untyped-call]
            found[0] += loss.detach() / parts
            found[1] += (wide.detach().argmax(1) == y).sum()
        self.unsettled.append((state.step + 1, found, (labels >= 0).sum(), len(labels)))
        self.at_hand = inputs, labels, rate
        # A GPU is not waited for at every step; what was found is looked at some steps later.
        if workers.device.type == "cpu" or len(self.unsettled) == _TALK:
            self._settle()
        if recipe.clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.module.parameters(), recipe.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self._average()

    def _settle(self) -> None:
        """Look at the losses of the last steps: judge them, and add them to the epoch's sums.

        Raises AlexcError if nothing is learnt. Called before anything is told or saved, so that no
        checkpoint holds what a step that went wrong has made.
        """
        state = self.state
        for step, found, known, count in self.unsettled:
            loss, correct = found.tolist()
            images = int(known)
            if images and (verdict := self.guard.verdict(loss, step)) is not None:
                raise diagnosis(verdict, self.module, *self.at_hand)
            state.guard_loss = self.guard.mean
            state.sums.images += images
            state.sums.damaged += count - images
            state.sums.loss += loss * images
            state.sums.correct += int(correct)
        self.unsettled.clear()

    def _alone(self, more: bool) -> AbstractContextManager[object]:
        """Where gradients are not exchanged yet, because more of them will be added."""
        if more and isinstance(self.forward, DistributedDataParallel):
            return self.forward.no_sync()
        return nullcontext()

    def _set_rate(self) -> float:
        """The rate of this step, taken at its middle, so that none is 0."""
        state, recipe = self.state, self.recipe
        epoch = (state.step + 0.5) / self.per_epoch
        plateau = Plateau(state.plateau_best, state.plateau_waited, state.plateau_lowered)
        rate = recipe.optimizer.learning_rate * factor(
            recipe.schedule, epoch, recipe.epochs, plateau
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    @torch.no_grad()
    def _average(self) -> None:
        """w̄ ← e·w̄ + (1 − e)·w; early on with a smaller e, so that the draw is soon forgotten."""
        assert self.average is not None and self.recipe.ema is not None
        step = self.state.step
        keep = min(self.recipe.ema, (1 + step) / (10 + step))
        current = _floats(self.module)
        torch._foreach_lerp_(
            list(self.average.values()), [current[name] for name in self.average], 1 - keep
        )

    # ---- testing, telling, saving ----------------------------------------------------------------

    def _test(self, views: int = 1, *, quick: bool = False) -> Scores:
        """The accuracy of the weights as they are kept, on this worker's part and then in all."""
        self.module.eval()
        averages = self.average

        def forward(inputs: Tensor) -> Tensor:
            with autocast(self.precision, self.workers.device) if quick else nullcontext():
                scores: Tensor = (
                    self.module(inputs)
                    if averages is None
                    else torch.func.functional_call(self.module, averages, (inputs,))
                )
            return scores

        workers = self.workers
        found = evaluate(
            forward,
            self.tested,
            self.test_pixels,
            self.classes,
            views=views,
            part=(workers.rank, workers.size),
        )
        if workers.size == 1:
            return found
        counts = workers.total(found.images, found.correct, found.in_top5, found.damaged)
        images, correct, in_top5, damaged = map(int, counts)
        (loss,) = workers.total(found.loss * found.images)
        confusion = np.array(workers.total(*found.confusion.reshape(-1).tolist())).astype(np.int64)
        return Scores(
            images,
            correct,
            in_top5,
            loss / images,
            confusion.reshape(self.classes, self.classes),
            damaged,
        )

    def _end_epoch(self) -> bool:
        """Test, write the epoch's line, and say whether the weights are the best so far."""
        state, recipe = self.state, self.recipe
        self._settle()
        scores = self._test(quick=True)
        plateau = Plateau(state.plateau_best, state.plateau_waited, state.plateau_lowered)
        plateau.see(1 - scores.top1, recipe.schedule)
        state.plateau_best, state.plateau_waited = plateau.best, plateau.waited
        state.plateau_lowered = plateau.lowered
        sums = state.sums
        images, loss, correct, damaged = self.workers.total(
            sums.images, sums.loss, sums.correct, sums.damaged
        )
        values = {
            "train_loss": loss / images,
            "train_top1": correct / images,
            "loss": scores.loss,
            "top1": scores.top1,
            "top5": scores.top5,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
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

    def _tell(self, clock: _Clock) -> None:
        self._settle()
        sums, state = self.state.sums, self.state
        if not self.workers.first or not sums.images:
            return
        seconds, loading = clock.lap()
        values = {
            "loss": sums.loss / sums.images,
            "top1": sums.correct / sums.images,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "images_per_s": round(clock.steps_in_lap * self.recipe.batch / seconds, 1),
            "loading": round(loading, 4),
        }
        self.metrics.write(
            "step", step=state.step, epoch=round(state.step / self.per_epoch, 4), **values
        )
        if self.board is not None:
            self.board.write("step", state.step, values)
        self.report.step(state.step, values)

    def _asked(self, stop: _Stop) -> bool:
        """Whether any worker was asked to stop. All come to the same answer at the same step."""
        if self.workers.size == 1:
            return stop.asked
        if self.state.step % _TALK:
            return False
        return self.workers.total(float(stop.asked))[0] > 0

    def _due(self, saved: float) -> bool:
        spec = self.recipe.checkpoint
        by_steps = spec.steps is not None and self.state.step % spec.steps == 0
        return by_steps or time.monotonic() - saved >= 60 * spec.minutes

    def _save(self, *, last: bool = False) -> None:
        """Save the state. Without room on the disk the run goes on, unless this was the `last`."""
        self._settle()
        self.saved = self.state.step
        if not self.workers.first:
            return
        if self.scaler.is_enabled():
            self.state.scaler = dict(self.scaler.state_dict())
        own = self.module.state_dict()
        kept = self.average if self.average is not None else own
        weights = {name: kept[name].float() for name in self.net.graph.parameters if name in kept}
        training = {f"net:{name}": value for name, value in own.items()}
        momenta = states_by_name(self.module, self.optimizer)
        training |= {f"optimizer:{name}": value for name, value in momenta.items()}
        if self.average is not None:
            training |= {f"average:{name}": value for name, value in self.average.items()}
        keep = self.recipe.checkpoint.keep
        try:
            checkpoint.save(self.options.out, self.state, weights, training, keep=keep)
        except OSError as error:
            self.saved = None
            message = (
                f"the checkpoint of step {self.state.step:,} could not be written: "
                f"{error.strerror or error}"
            )
            if last:
                help = "make room, then go on with --resume"
                raise AlexcError(Diagnostic("checkpoint/unwritable", message, help=help)) from None
            self.report.say(f"{message}; the run goes on")


def _floats(module: nn.Module) -> dict[str, Tensor]:
    """Everything of the module that has an average: weights and the statistics of batch norm."""
    return {k: v for k, v in module.state_dict().items() if v.is_floating_point()}


class _Clock:
    """Measures how much of the time goes by in waiting for images."""

    def __init__(self) -> None:
        self._lap = time.monotonic()
        self._waited = 0.0
        self._steps = 0
        self.steps_in_lap = 0

    def waiting(self, source: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        """The same batches, the time until each is there counted."""
        while True:
            before = time.monotonic()
            batch = next(source, None)
            self._waited += time.monotonic() - before
            if batch is None:
                return
            yield batch
            self._steps += 1

    def lap(self) -> tuple[float, float]:
        """Seconds since the last lap, and the share of them that was waiting."""
        now = time.monotonic()
        seconds = max(1e-9, now - self._lap)
        waited, self._waited = self._waited, 0.0
        self.steps_in_lap, self._steps = self._steps + 1, -1
        self._lap = now
        return seconds, waited / seconds
