"""`alexc train`: learn a net's weights by the recipe of its spec."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alexc.cli.terminal import JsonOption, interruptible, print_diagnostics, print_json
from alexc.frontend import load_net

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from alexc.train.loop import Outcome

_INTERRUPTED = 130


def train(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="The spec file.")],
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="URI",
            help="mnist:DIR, fashion-mnist:DIR, cifar10:DIR, folder:DIR, wds:PATTERN, hf:NAME or "
            "synthetic:COUNT.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="RUN", help="The run's folder; default: runs/NAME."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in RUN, if there is one.")
    ] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Such as train.epochs=2. May be repeated."),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option("--weights", metavar="FILE", help="Start from these; default: drawn."),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option("--device", metavar="NAME", help="cpu or cuda; default: cuda if there."),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            metavar="N",
            min=1,
            max=1024,
            help="CPU threads; default: as many as PyTorch takes.",
        ),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(
            "--processes",
            metavar="N",
            min=0,
            max=1024,
            help="That decode images; default: one a core.",
        ),
    ] = None,
    stop_after: Annotated[
        int | None,
        typer.Option("--stop-after", metavar="STEPS", min=1, help="Save and end after so many."),
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write RUN/tensorboard too.", show_default=False)
    ] = False,
    json: JsonOption = False,
) -> None:
    """Train a spec's net on data, by the spec's recipe, into the folder RUN.

    Ctrl-C and SIGTERM save the state and end with status 130; --resume goes on from there, or from
    the last checkpoint after a crash, with the same result, bit for bit. Under torchrun all workers
    train together.
    """
    from alexc.train.loop import Options
    from alexc.train.plots import draw_run
    from alexc.train.recipe import recipe_of
    from alexc.train.start import train as learn
    from alexc.train.workers import joined

    net = load_net(spec)
    recipe = recipe_of(net, overrides or ())
    folder = out or Path("runs") / net.spec.name
    options = Options(folder, resume, weights, device, threads, processes, stop_after, tensorboard)
    with (
        joined(device) as workers,
        interruptible(lambda: _kept(folder)) if workers.first else nullcontext(),
    ):
        if workers.first:
            print_diagnostics(net.warnings)
        with _reporter(workers.first and not json) as report:
            outcome = learn(net, recipe, data, options, workers, report)
        if workers.first:
            draw_run(folder, outcome.scores, net.labels)
            _print(folder, outcome, json)
    raise typer.Exit(_INTERRUPTED if outcome.interrupted else 0)


def _kept(folder: Path) -> str:
    """What there is of a run that ends outside of its steps, or by a second Ctrl-C."""
    from alexc.train import checkpoint

    last = checkpoint.latest(folder)
    if last is None:
        return f"no step is saved in {folder}; --resume begins at the first one"
    return f"{folder} is saved up to step {last.state.step:,}; --resume goes on"


def _print(folder: Path, outcome: Outcome, json: bool) -> None:
    from alexc.train.report import seconds_in_words

    scores = outcome.scores
    if json:
        print_json(
            {
                "run": str(folder),
                "step": outcome.step,
                "steps": outcome.steps,
                "finished": scores is not None,
                "top1": scores.top1 if scores else None,
                "top5": scores.top5 if scores else None,
                "images": scores.images if scores else None,
                "seconds": round(outcome.seconds, 3),
            }
        )
    elif scores is None:
        print(f"{folder}: stopped at step {outcome.step:,} of {outcome.steps:,}; --resume goes on")
    else:
        print(
            f"{folder}: top-1 {scores.top1:.2%}, top-5 {scores.top5:.2%} of {scores.images:,} "
            f"images after {seconds_in_words(outcome.seconds)}"
        )


class _Lines:
    """A line on stderr for every epoch, and no more than one every ten seconds between.

    Where steps are so slow that there are no figures of them for a minute, the step alone.
    """

    def __init__(self) -> None:
        self._said = time.monotonic()
        self._steps = self._per_epoch = 1

    def begin(self, name: str, step: int, steps: int, per_epoch: int) -> None:
        self._steps, self._per_epoch = steps, per_epoch
        start = f" from step {step:,}" if step else ""
        self.say(f"{name}: {steps:,} steps, {per_epoch:,} an epoch{start}")

    def step(self, step: int, values: Mapping[str, float]) -> None:
        silent = time.monotonic() - self._said
        if values and silent > 10:
            self.say(f"  step {step:,}: {_shown(values)}")
        elif silent > 60:
            self.say(f"  step {step:,}")

    def epoch(self, epoch: int, values: Mapping[str, float]) -> None:
        self.say(
            f"epoch {epoch}: train loss {values['train_loss']:.4f}, "
            f"train {values['train_top1']:.2%}, test {values['top1']:.2%}"
        )

    def say(self, text: str) -> None:
        self._said = time.monotonic()
        print(text, file=sys.stderr, flush=True)


class _Bar(_Lines):
    """A progress bar on a terminal; epochs are printed above it."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._bar = progress
        self._id: TaskID | None = None
        self._text = ""

    def begin(self, name: str, step: int, steps: int, per_epoch: int) -> None:
        super().begin(name, step, steps, per_epoch)
        self._id = self._bar.add_task(name, total=steps, completed=step, values="")

    def step(self, step: int, values: Mapping[str, float]) -> None:
        assert self._id is not None
        self._text = _shown(values) if values else self._text
        self._bar.update(self._id, completed=step, values=self._text)

    def say(self, text: str) -> None:
        self._bar.console.print(text, highlight=False, markup=False)


class _Silent:
    """Says nothing: for the other workers, and where JSON is asked for."""

    def begin(self, name: str, step: int, steps: int, per_epoch: int) -> None: ...

    def step(self, step: int, values: Mapping[str, float]) -> None: ...

    def epoch(self, epoch: int, values: Mapping[str, float]) -> None: ...

    def say(self, text: str) -> None: ...


@contextmanager
def _reporter(talks: bool) -> Iterator[Any]:
    if not talks:
        yield _Silent()
    elif not sys.stderr.isatty():
        yield _Lines()
    else:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[values]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True)) as progress:
            yield _Bar(progress)


def _shown(values: Mapping[str, float]) -> str:
    return (
        f"loss {values['loss']:.4f}, top-1 {values['top1']:.1%}, "
        f"{values['images_per_s']:,.0f} images/s, {values['loading']:.0%} loading"
    )
