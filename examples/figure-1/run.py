"""Figure 1 of the 2012 paper: training error by epoch, with ReLU and with tanh, on CIFAR-10.

    python examples/figure-1/run.py --data cifar10:DIR --out runs/figure-1

As in the paper, each net has the learning rate that it learns fastest with: every rate of `RATES`
is given `LOOK` epochs, and the one with the lowest error then goes on until the error is 25 %. The
error of an epoch is that of its own steps, counted while the net learns. A second start goes on
where the first was stopped. Writes figure-1.json, and curves.png, which is drawn from it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
NETS = {"relu": "ReLU", "tanh": "tanh"}
RATES = (0.003, 0.01, 0.03)
LOOK = 2  # epochs
ERROR = 0.25
IMAGES = 50_000


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
    recipe = recipe_of(load_net(HERE / f"{name}.yaml"), (f"train.optimizer.learning_rate={rate}",))
    last = checkpoint.latest(folder)
    missing = epochs * (IMAGES // recipe.batch) - (last.state.step if last is not None else 0)
    if missing > 0:
        options = Options(folder, resume=True, device="cpu", stop_after=missing)
        with joined("cpu") as workers:
            net = load_net(HERE / f"{name}.yaml")
            ended = train(net, recipe, data, options, workers, Lines(f"{NETS[name]}, rate {rate}"))
        if ended.interrupted:
            raise SystemExit(130)
    return [1 - line["train_top1"] for line in metrics.read(folder) if line["kind"] == "epoch"]


def curve(name: str, data: str, out: Path) -> dict[str, Any]:
    """The search for a rate, and the errors with the one that was chosen."""
    folders = {rate: out / f"{name}-{rate}" for rate in RATES}
    looks = {rate: learnt(name, rate, data, folders[rate], LOOK)[:LOOK] for rate in RATES}
    rate = min(RATES, key=lambda rate: looks[rate][-1])
    most = recipe_of(load_net(HERE / f"{name}.yaml"), ()).epochs
    errors = looks[rate]
    while errors[-1] > ERROR and len(errors) < most:
        errors = learnt(name, rate, data, folders[rate], len(errors) + 1)
    return {
        "name": NETS[name],
        "search": {str(rate): errors for rate, errors in looks.items()},
        "learning_rate": rate,
        "errors": errors,
        "epochs_to_25_percent": reached(errors),
    }


def reached(errors: list[float]) -> float | None:
    """After how many epochs the error is `ERROR`, on the straight lines between the epochs."""
    for number, error in enumerate(errors):
        if error <= ERROR:
            before = errors[number - 1] if number else 1.0
            return round(number + (before - ERROR) / (before - error), 2)
    return None


def draw(result: dict[str, Any], path: Path) -> None:
    """Both curves down to 25 %, as in the paper."""
    figure = Figure(figsize=(6, 4.2), layout="constrained")
    axes = figure.subplots()
    last = 1
    for found, style in zip(result["curves"], ("-", "--"), strict=True):
        errors = found["errors"]
        last = max(last, len(errors))
        label = f"{found['name']}, learning rate {found['learning_rate']:g}"
        epochs = range(1, len(errors) + 1)
        axes.plot(epochs, errors, style, color="black", marker="o", markersize=3, label=label)
        if (at := found["epochs_to_25_percent"]) is not None:
            axes.plot(at, ERROR, "s", color="black", markersize=5, clip_on=False)
            axes.annotate(
                f"{at:.1f}", (at, ERROR), (0, -14), textcoords="offset points", ha="center"
            )
    axes.axhline(ERROR, color="grey", linewidth=0.7)
    axes.text(0.01, ERROR, "25 %", transform=axes.get_yaxis_transform(), va="bottom", color="grey")
    axes.set(
        title="Four layers on CIFAR-10: epochs to 25 % training error",
        xlabel="epochs",
        ylabel="training error rate",
        xlim=(0, last + 0.5),
        ylim=(0, 0.75),
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def main() -> int:
    """Train both nets and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/figure-1"))
    arguments = parser.parse_args()
    curves = [curve(name, arguments.data, arguments.out) for name in NETS]
    record = open_run(arguments.out / f"relu-{curves[0]['learning_rate']}").record
    times = [found["epochs_to_25_percent"] for found in curves]
    result = {
        "rates": RATES,
        "epochs_of_the_search": LOOK,
        "curves": curves,
        "tanh_over_relu": round(times[1] / times[0], 2) if all(times) else None,
        "batch": record.recipe["batch"],
        "momentum": record.recipe["optimizer"]["momentum"],
        "seed": record.recipe["seed"],
        "precision": record.precision,
        "threads": record.threads,
        "versions": record.versions,
        "machine": describe().to_json(),
    }
    text = json.dumps(result, indent=1) + "\n"
    (arguments.out / "figure-1.json").write_text(text, encoding="utf-8")
    draw(result, arguments.out / "curves.png")
    for found, time in zip(curves, times, strict=True):
        print(f"{found['name']}: {time or 'not in time'} epochs to 25 %")
    print(arguments.out / "curves.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
