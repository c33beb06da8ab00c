"""Figure 1 of the 2012 paper: training error by epoch, with ReLU and with tanh, on CIFAR-10.

    python examples/figure-1/run.py --data cifar10:DIR --out runs/figure-1

Both nets train until their error over an epoch is 25 % or less, or 40 epochs are over. The paper's
net with ReLU got there six times sooner. A second start goes on where the first was stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from alexc.frontend import load_net
from alexc.train import metrics
from alexc.train.loop import Options
from alexc.train.recipe import recipe_of
from alexc.train.start import train
from alexc.train.workers import joined

HERE = Path(__file__).parent
ERROR = 0.25


class Epochs:
    """Prints a line an epoch and remembers the error."""

    def __init__(self) -> None:
        self.error = 1.0
        self.per_epoch = 1

    def begin(self, name: str, step: int, steps: int, per_epoch: int) -> None:
        self.per_epoch = per_epoch
        print(f"{name}: from step {step:,} of {steps:,}")

    def step(self, step: int, values: Mapping[str, float]) -> None: ...

    def epoch(self, epoch: int, values: Mapping[str, float]) -> None:
        self.error = 1 - values["train_top1"]
        print(f"epoch {epoch}: training error {self.error:.1%}", flush=True)

    def say(self, text: str) -> None:
        print(text)


def curve(name: str, data: str, out: Path) -> list[float]:
    """The training error of each epoch of the net `name`, until it is low enough."""
    net = load_net(HERE / f"{name}.yaml")
    recipe = recipe_of(net, ())
    report = Epochs()
    folder = out / name
    with joined("cpu") as workers:
        while True:
            errors = [1 - x["train_top1"] for x in metrics.read(folder) if x["kind"] == "epoch"]
            if len(errors) >= recipe.epochs or (errors and errors[-1] <= ERROR):
                return errors
            # An epoch at a time: the number of steps of one is known once the data is.
            steps = report.per_epoch if report.per_epoch > 1 else 50_000 // recipe.batch
            options = Options(folder, resume=True, device="cpu", stop_after=steps)
            if train(net, recipe, data, options, workers, report).interrupted:
                raise SystemExit(130)


def main() -> int:
    """Train both nets and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/figure-1"))
    arguments = parser.parse_args()
    curves = {name: curve(name, arguments.data, arguments.out) for name in ("relu", "tanh")}
    figure = Figure(figsize=(5, 4))
    axes = figure.subplots()
    for (name, errors), style in zip(curves.items(), ("-", "--"), strict=True):
        axes.plot(range(1, len(errors) + 1), errors, style, color="black", label=name)
        reached = next((n for n, error in enumerate(errors, 1) if error <= ERROR), None)
        print(
            f"{name}: {f'{reached} epochs' if reached else f'not in {len(errors)} epochs'} to 25 %"
        )
    axes.axhline(ERROR, color="grey", linewidth=0.5)
    axes.set(xlabel="epochs", ylabel="training error rate", ylim=(0, 0.75))
    axes.legend()
    figure.savefig(arguments.out / "figure-1.png", dpi=150, bbox_inches="tight")
    print(arguments.out / "figure-1.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
