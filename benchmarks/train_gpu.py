"""What training costs on an NVIDIA GPU, and what its recipes reach there; kept as JSON.

    python benchmarks/train_gpu.py                                  a step of alexnet, minutes
    python benchmarks/train_gpu.py --fashion URI --cifar URI        and the recipes on real data
    python benchmarks/train_gpu.py --tiny                           all of it in seconds, on the CPU

    step      one of alexnet, 1024 images that lie on the GPU already: as `alexc train` takes it in
              bf16, with train.compile and without, and plain eager torch in fp32. Its operations
              (three times those of the net: forward, and two products backward) against the
              measured rate of matrix products; bar: 0.35. Against eager fp32; bar: 4
    trainer   the same through the whole of `alexc train`, from uint8 in memory
    fashion   alexnet-fashion at 224×224 by its recipe; bar: 93.5 %
    cifar     alexnet-cifar by its recipe with more epochs; bar: 91 %

Exit status 1 where a bar is not met, 2 without an NVIDIA GPU. `--tiny` only shows that the program
runs: its numbers mean nothing, and no bar is held against them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "runtime")]

import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.nn import functional  # noqa: E402

from alexc.frontend import Net, load_net  # noqa: E402
from alexc.lower.to_torch import to_torch  # noqa: E402
from alexc.plan.machine import describe  # noqa: E402
from alexc.train.learner import Learner  # noqa: E402
from alexc.train.loop import Options  # noqa: E402
from alexc.train.optimizer import make_optimizer  # noqa: E402
from alexc.train.precision import choose  # noqa: E402
from alexc.train.recipe import graph_for_training, recipe_of  # noqa: E402
from alexc.train.start import train  # noqa: E402
from alexc.train.workers import Workers, joined  # noqa: E402
from alexc.weights.init import draw  # noqa: E402

BARS = {"of_products": 0.35, "over_eager_fp32": 4.0, "fashion": 0.935, "cifar": 0.91}


@dataclass(frozen=True, slots=True)
class Recipe:
    """A spec that is trained by its recipe, with what is overridden."""

    spec: str
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured."""

    device: str
    batch: int
    step: Recipe
    compiled: bool
    warm: int
    steps: int
    product: int  # rows and columns of the matrices
    fashion: Recipe
    cifar: Recipe


# Longer than on two cores, where alexnet-cifar gets twelve epochs, and with more done to images.
LONGER = ("train.epochs=100", "train.augment.erase=8", "train.ema=0.9995")
WHOLE = Sizes(
    device="cuda",
    batch=1024,
    step=Recipe("alexnet", ("train.precision=bf16",)),
    compiled=True,
    warm=12,
    steps=30,
    product=8192,
    fashion=Recipe("alexnet-fashion"),
    cifar=Recipe("alexnet-cifar", LONGER),
)
_FEW = Recipe("alexnet-fashion-small", ("train.epochs=2", "train.batch=8"))
TINY = Sizes(
    device="cpu",
    batch=4,
    step=Recipe("alexnet-fashion-small", ("train.precision=bf16",)),
    compiled=False,
    warm=1,
    steps=2,
    product=64,
    fashion=_FEW,
    cifar=_FEW,
)


def seconds_of(step: Callable[[], object], sizes: Sizes) -> float:
    """The median of single steps, each waited for."""
    for _ in range(sizes.warm):
        step()
    times = []
    for _ in range(sizes.steps):
        _wait(sizes)
        started = time.perf_counter()
        step()
        _wait(sizes)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _wait(sizes: Sizes) -> None:
    if sizes.device == "cuda":
        torch.cuda.synchronize()


def rate_of_products(sizes: Sizes) -> float:
    """Operations a second of a product of two square matrices in bf16."""
    n, device = sizes.product, sizes.device
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * n**3 / seconds_of(lambda: a @ b, sizes)


def _batch(net: Net, sizes: Sizes) -> tuple[Tensor, Tensor]:
    graph = graph_for_training(net.graph)
    classes = graph.shapes[graph.outputs[0]][0]
    images = torch.randn(sizes.batch, *graph.input_shape, device=sizes.device)
    return images, torch.arange(sizes.batch, device=sizes.device) % classes


def step_of_alexc(net: Net, sizes: Sizes, *overrides: str) -> float:
    """Images a second of `alexc train`'s own step, with what the recipe is overridden by."""
    recipe = recipe_of(net, (f"train.batch={sizes.batch}", *sizes.step.overrides, *overrides))
    graph, workers = graph_for_training(net.graph), Workers(0, 1, torch.device(sizes.device))
    weights = draw(net.graph, net.spec.header.init, {}, 0)
    precision = choose(recipe.precision, workers.device)
    learner = Learner(graph, recipe, precision, workers, weights)
    images, labels = _batch(net, sizes)
    images = images.contiguous(memory_format=torch.channels_last)

    def step() -> None:
        learner.gradients(images, labels, 0)
        learner.update(0, 1e-4)

    return sizes.batch / seconds_of(step, sizes)


def step_of_torch(net: Net, sizes: Sizes) -> float:
    """Images a second of a loop as it is usually written: eager, fp32, torch's own settings."""
    graph = graph_for_training(net.graph)
    weights = draw(net.graph, net.spec.header.init, {}, 0)
    module = to_torch(graph, {name: weights[name] for name in graph.parameters}).to(sizes.device)
    optimizer = make_optimizer(module, recipe_of(net, ()).optimizer)
    images, labels = _batch(net, sizes)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        outputs = module(images)
        assert isinstance(outputs, Tensor)
        functional.cross_entropy(outputs, labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return sizes.batch / seconds_of(step, sizes)


def measured_step(sizes: Sizes) -> dict[str, Any]:
    """Rates of all kinds of steps, beside what the device can do."""
    torch.backends.cudnn.benchmark = True
    net = load_net(ROOT / "specs" / f"{sizes.step.spec}.yaml")
    operations = 6 * graph_for_training(net.graph).macs
    products = rate_of_products(sizes)
    ours = {"eager": step_of_alexc(net, sizes)}
    if sizes.compiled:
        ours["compiled"] = step_of_alexc(net, sizes, "train.compile=true")
    fp32 = step_of_torch(net, sizes)
    best = max(ours.values())
    return {
        "spec": sizes.step.spec,
        "batch": sizes.batch,
        "products_per_s": products,
        "operations_per_image": operations,
        "images_per_s": ours,
        "images_per_s_eager_fp32": fp32,
        "tf32_in_convolutions": torch.backends.cudnn.allow_tf32,
        "of_products": best * operations / products,
        "over_eager_fp32": best / fp32,
    }


class Rates:
    """Notes how many images a second the trainer reports, and how much of the time it waited."""

    def __init__(self) -> None:
        self.values: Mapping[str, float] = {}

    def begin(self, name: str, step: int, steps: int, per_epoch: int) -> None: ...

    def step(self, step: int, values: Mapping[str, float]) -> None:  # noqa: ARG002
        self.values = values or self.values

    def epoch(self, epoch: int, values: Mapping[str, float]) -> None: ...

    def say(self, text: str) -> None:
        print(text, file=sys.stderr)


def trained(given: Recipe, uri: str, device: str) -> dict[str, Any]:
    """A run of `alexc train` in a folder that is gone afterwards: accuracy, time, last rates."""
    net, rates = load_net(ROOT / "specs" / f"{given.spec}.yaml"), Rates()
    recipe = recipe_of(net, given.overrides)
    with tempfile.TemporaryDirectory() as folder, joined(device) as workers:
        options = Options(Path(folder) / "run", device=device)
        outcome = train(net, recipe, uri, options, workers, rates)
    assert outcome.scores is not None
    return {
        "spec": given.spec,
        "overrides": given.overrides,
        "top1": outcome.scores.top1,
        "images": outcome.scores.images,
        "seconds": outcome.seconds,
        **{key: rates.values.get(key) for key in ("images_per_s", "loading")},
    }


def judged(found: dict[str, Any]) -> dict[str, bool]:
    """Which bars are met, of those that something was measured for."""
    values = {name: found[name]["top1"] for name in ("fashion", "cifar") if name in found}
    values |= {name: found["step"][name] for name in ("of_products", "over_eager_fp32")}
    return {name: value >= BARS[name] for name, value in values.items()}


def measured(sizes: Sizes, uris: Mapping[str, str | None]) -> dict[str, Any]:
    """All that there is data for."""
    found: dict[str, Any] = {"step": measured_step(sizes)}
    batch = max(4, sizes.batch // 4)
    # One epoch of sixty steps: what is told last is the rate of its last ten, long after the start.
    once = ("train.epochs=1", "train.schedule.warmup=0", f"train.batch={batch}")
    own = (*once, *sizes.step.overrides)
    found["trainer"] = trained(
        Recipe(sizes.step.spec, own), f"synthetic:{60 * batch}", sizes.device
    )
    for name, recipe in (("fashion", sizes.fashion), ("cifar", sizes.cifar)):
        if (uri := uris[name]) is not None:
            found[name] = trained(recipe, uri, sizes.device)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description="Measure training on an NVIDIA GPU.")
    parser.add_argument("--fashion", metavar="URI", help="train alexnet-fashion on this")
    parser.add_argument("--cifar", metavar="URI", help="train alexnet-cifar on this")
    parser.add_argument("--batch", type=int, help="images in a step (1024)")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--tiny", action="store_true", help="a few images, on the CPU")
    given = parser.parse_args(arguments)
    if not given.tiny and not torch.cuda.is_available():
        print("there is no NVIDIA GPU that PyTorch can use: nothing is measured", file=sys.stderr)
        return 2
    if given.tiny:
        torch.set_num_threads(1)  # two would wait for each other on so little
    sizes = TINY if given.tiny else WHOLE
    if given.batch is not None:
        sizes = replace(sizes, batch=given.batch)
    name = "tiny" if given.tiny else torch.cuda.get_device_name()
    found = measured(sizes, {"fashion": given.fashion, "cifar": given.cifar})
    bars = {} if given.tiny else judged(found)
    kept = {"device": name, **found, "bars": bars, "machine": describe().to_json()}
    file = given.results / f"train-{'-'.join(name.lower().split())}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({**found, "bars": bars}, indent=1))
    print(f"kept in {file}", file=sys.stderr)
    return 0 if all(bars.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
