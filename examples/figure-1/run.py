"""Figure 1 of the 2012 paper: training error by epoch, with ReLU and with tanh, on CIFAR-10.

    python examples/figure-1/run.py --data cifar10:DIR --out runs/figure-1

Twice: with pixels and first weights as the paper has them, and with those that are usual today. As
in the paper each net has the learning rate that it learns fastest with: every rate of its pair is
given `LOOK` epochs, and the one with the lowest error then goes on until the error is 25 %, or
`MOST` epochs are over. The error of an epoch is that of its own steps, counted as the net learns.
A second start goes on where the first was stopped. Writes figure-1.json, and curves.png, which is
drawn from it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alexc.frontend import load_net
from alexc.plan.machine import describe
from alexc.train import checkpoint, metrics
from alexc.train.loop import Options
from alexc.train.recipe import recipe_of
from alexc.train.run import open_run
from alexc.train.start import train
from alexc.train.workers import joined

HERE = Path(__file__).parent
LOOK, MOST = 2, 36  # epochs
ERROR = 0.25
IMAGES = 50_000


@dataclass(frozen=True, slots=True)
class Pair:
    """Two nets that differ in their activations alone: the specs relu…yaml and tanh…yaml."""

    title: str
    suffix: str
    rates: tuple[float, ...]

    @property
    def nets(self) -> dict[str, str]:
        return {f"relu{self.suffix}": "ReLU", f"tanh{self.suffix}": "tanh"}


PAIRS = (
    Pair("pixels less their mean, weights N(0, 0.01)", "-2012", (0.0003, 0.001, 0.003, 0.01)),
    Pair("pixels scaled to deviation 1, Xavier's weights", "", (0.003, 0.01, 0.03)),
)


class Lines:
    """Prints a line an epoch."""

    def __init__(self, name: str) -> None:
        self.name = name

    def begin(self, name: str, step: int, steps: int, per_epoch: int) -> None: ...

    def step(self, step: int, values: Mapping[str, float]) -> None: ...

    def epoch(self, epoch: int, values: Mapping[str, float]) -> None:
        print(f"{self.name}, epoch {epoch}: error {1 - values['train_top1']:.1%}", flush=True)

    def say(self, text: str) -> None:
        print(text)


def learnt(name: str, rate: float, data: str, folder: Path, epochs: int) -> list[float]:
    """The training error of each epoch of the net, once at least so many epochs are over."""
    net = load_net(HERE / f"{name}.yaml")
    recipe = recipe_of(net, (f"train.optimizer.learning_rate={rate}",))
    last = checkpoint.latest(folder)
    missing = epochs * (IMAGES // recipe.batch) - (last.state.step if last is not None else 0)
    if missing > 0:
        options = Options(folder, resume=True, device="cpu", stop_after=missing)
        with joined("cpu") as workers:
            ended = train(net, recipe, data, options, workers, Lines(f"{name}, rate {rate:g}"))
        if ended.interrupted:
            raise SystemExit(130)
    return [1 - line["train_top1"] for line in metrics.read(folder) if line["kind"] == "epoch"]


def curve(name: str, rates: tuple[float, ...], data: str, out: Path) -> dict[str, Any]:
    """The search for a rate, and the errors with the one that was chosen."""
    folders = {rate: out / f"{name}-{rate}" for rate in rates}
    looks = {rate: learnt(name, rate, data, folders[rate], LOOK)[:LOOK] for rate in rates}
    rate = min(rates, key=lambda rate: looks[rate][-1])
    run = open_run(folders[rate])
    errors = looks[rate]
    while errors[-1] > ERROR and len(errors) < MOST:
        errors = learnt(name, rate, data, folders[rate], len(errors) + 1)
    return {
        "spec": f"{name}.yaml",
        "search": {str(rate): errors for rate, errors in looks.items()},
        "learning_rate": rate,
        "errors": errors,
        "epochs_to_25_percent": reached(errors),
        "precision": run.record.precision,
        "threads": run.record.threads,
        "versions": run.record.versions,
    }


def reached(errors: list[float]) -> float | None:
    """After how many epochs the error is `ERROR`, on the straight lines between the epochs."""
    for number, error in enumerate(errors):
        if error <= ERROR:
            before = errors[number - 1] if number else 1.0
            return round(number + (before - ERROR) / (before - error), 2)
    return None


def draw(result: list[dict[str, Any]]) -> Figure:
    """A panel for each pair, both curves down to 25 %, as in the paper."""
    figure = Figure(figsize=(4.6 * len(result), 4.2), layout="constrained")
    panels = figure.subplots(1, len(result), sharex=True, sharey=True, squeeze=False)[0]
    for axes, pair in zip(panels, result, strict=True):
        _panel(axes, pair)
    panels[0].set_ylabel("training error rate")
    figure.suptitle("Four layers on CIFAR-10: epochs to a training error of 25 %")
    return figure


def _panel(axes: Axes, pair: dict[str, Any]) -> None:
    for name, style, colour in (("ReLU", "-", "black"), ("tanh", "--", "tab:red")):
        found = pair[name]
        errors, at = found["errors"], found["epochs_to_25_percent"]
        end = f"{at:.1f} epochs" if at is not None else f"not in {len(errors)} epochs"
        label = f"{name}, learning rate {found['learning_rate']:g}: {end}"
        epochs = range(1, len(errors) + 1)
        axes.plot(epochs, errors, style, color=colour, marker="o", markersize=3, label=label)
    axes.axhline(ERROR, color="grey", linewidth=0.7)
    axes.set(title=pair["title"], xlabel="epochs", ylim=(0, 0.75))
    axes.set_xlim(left=0)
    axes.title.set_fontsize("medium")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)


def main() -> int:
    """Train the nets and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/figure-1"))
    arguments = parser.parse_args()
    result: list[dict[str, Any]] = []
    for pair in PAIRS:
        curves = {
            title: curve(name, pair.rates, arguments.data, arguments.out)
            for name, title in pair.nets.items()
        }
        relu, tanh = (found["epochs_to_25_percent"] for found in curves.values())
        ratio = round(tanh / relu, 2) if relu and tanh else None
        result.append({"title": pair.title, **curves, "tanh_over_relu": ratio})
    kept = {
        "epochs_of_the_search": LOOK,
        "most_epochs": MOST,
        "pairs": result,
        "machine": describe().to_json(),
    }
    text = json.dumps(kept, indent=1) + "\n"
    (arguments.out / "figure-1.json").write_text(text, encoding="utf-8")
    draw(result).savefig(arguments.out / "curves.png", dpi=150)
    print(arguments.out / "curves.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
