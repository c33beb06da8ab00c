"""What the trainer costs, and what its choices gain, in processor time on this machine.

    python benchmarks/train_speed.py            # of alexnet-fashion-small, batch 128, 2 threads
    python benchmarks/train_speed.py --photos DIR

    loop       images/s of `alexc train` against a bare loop over the same module; bar: 0.97
    settings   what `precision: auto` and channels-last gain over plain eager fp32; bar: 1.5
    photos     with --photos, a folder of class folders: shards of `alexc data pack` to 224 crops,
               flips and colour noise, against a plain Pillow loader of the folder; bar: 1.5

Images per second of processor time and thread, so that what else runs on the machine counts little.
The two sides take turns.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from alexc.frontend import Net, load_net
from alexc.graph.graph import Graph
from alexc.lower.to_torch import to_torch
from alexc.ops.structure import Flatten
from alexc.spec.model import Preprocess
from alexc.spec.recipe import AugmentSpec, NoiseSpec
from alexc.train.augment import Draw, Pixels
from alexc.train.data.dataset import ImageForm
from alexc.train.data.folder import listed
from alexc.train.data.loader import batches
from alexc.train.data.pack import PackOptions, pack
from alexc.train.data.shards import load as load_shards
from alexc.train.loop import Options
from alexc.train.optimizer import make_optimizer
from alexc.train.precision import autocast, choose
from alexc.train.recipe import recipe_of
from alexc.train.start import train
from alexc.train.workers import joined
from alexc.weights.init import draw
from alexc_runtime.cores import affinity

SPEC = Path(__file__).resolve().parents[1] / "specs" / "alexnet-fashion-small.yaml"
CPU = torch.device("cpu")
BATCH = 128
STEPS, WARM = 24, 6


class Stopwatch:
    """Notes the processor time at every step that the trainer reports."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def begin(self, name: str, step: int, steps: int, per_epoch: int) -> None: ...

    def step(self, step: int, values: Mapping[str, float]) -> None:  # noqa: ARG002
        self.times.append(time.process_time())

    def epoch(self, epoch: int, values: Mapping[str, float]) -> None: ...

    def say(self, text: str) -> None: ...


def by_trainer(net: Net) -> float:
    """Images a second of processor time, of `alexc train`."""
    watch = Stopwatch()
    # The bare loop averages no weights and does nothing to images: neither does the trainer here.
    plain = ("train.ema=null", "train.augment={}", f"train.batch={BATCH}", "train.epochs=2")
    recipe = recipe_of(net, plain)
    with tempfile.TemporaryDirectory() as name, joined("cpu") as workers:
        options = Options(Path(name) / "run", device="cpu", stop_after=STEPS)
        train(net, recipe, f"synthetic:{BATCH * (STEPS + 1)}", options, workers, watch)
    return BATCH * (len(watch.times) - 1 - WARM) / (watch.times[-1] - watch.times[WARM])


def by_hand(net: Net, precision: str, *, channels_last: bool) -> float:
    """The same of a loop as short as it can be, over the same module and optimiser."""
    recipe = recipe_of(net, ())
    chosen = choose(precision, CPU)
    module = to_torch(net.graph, draw(net.graph, net.spec.header.init, {}, 0))
    images = torch.randn(BATCH, *net.graph.input_shape)
    if channels_last:
        module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.arange(BATCH) % 10
    optimizer = make_optimizer(module, recipe.optimizer)
    times = []
    for _ in range(STEPS):
        optimizer.zero_grad(set_to_none=True)
        with autocast(chosen, CPU):
            logits = module(images)
        loss = functional.cross_entropy(logits.float(), labels, label_smoothing=0.05)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        loss.item()
        times.append(time.process_time())
    return BATCH * (len(times) - 1 - WARM) / (times[-1] - times[WARM])


NOISE = NoiseSpec(
    eigenvalues=(0.2175, 0.0188, 0.0045),
    eigenvectors=(
        (-0.5675, 0.7192, 0.4009),
        (-0.5808, -0.0045, -0.8140),
        (-0.5836, -0.6948, 0.4203),
    ),
)


def by_shards(folder: Path, count: int) -> float:
    """Images a second of processor time: shards → decoded → crops, flips, noise, floats."""
    graph = Graph.build("crop", (3, 224, 224), [("f", Flatten(), ("input",))], ("f",))
    data = load_shards(str(folder), "train", ImageForm(3, (256, 256), 1000))
    data.in_memory = False
    pixels = Pixels(
        graph,
        Preprocess(mean=(124.0, 117.0, 104.0)),
        AugmentSpec(flip=True, noise=NOISE),
        data.shape,
    )
    batch = min(32, len(data))
    steps = range(count // batch)
    started = time.process_time()
    for step, (images, _) in enumerate(batches(data, seed=0, batch=batch, steps=steps)):
        pixels.for_training(images, Draw.of(0, step, batch))
    return len(steps) * batch / (time.process_time() - started)


def by_pillow(folder: Path, count: int) -> float:
    """The same by Pillow, image by image, from the files as they are."""
    from PIL import Image

    files = listed(folder, "train").files
    chance = np.random.default_rng(0)
    vectors, values = np.array(NOISE.eigenvectors), np.array(NOISE.eigenvalues)
    started = time.process_time()
    for number in range(count):
        with Image.open(files[number % len(files)]) as opened:
            image = opened.convert("RGB")
        factor = 256 / min(image.size)
        size = (max(256, round(image.width * factor)), max(256, round(image.height * factor)))
        image = image.resize(size, Image.Resampling.BILINEAR)
        left, top = chance.integers(0, size[0] - 223), chance.integers(0, size[1] - 223)
        image = image.crop((int(left), int(top), int(left) + 224, int(top) + 224))
        if chance.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        noise = 255 * (chance.normal(0, 0.1, 3) * values) @ vectors
        array = np.asarray(image, np.float32) + noise.astype(np.float32)
        torch.from_numpy(array - np.array([124, 117, 104], np.float32)).permute(
            2, 0, 1
        ).contiguous()
    return count / (time.process_time() - started)


def compare(name: str, sides: dict[str, Callable[[], float]], bar: float, rounds: int) -> bool:
    """Print the medians of both sides, the first over the second, and whether it meets the bar."""
    found: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, measure in sides.items():
            found[side].append(measure())
    medians = {side: statistics.median(values) for side, values in found.items()}
    ratio = list(medians.values())[0] / list(medians.values())[1]  # noqa: RUF015
    shown = ", ".join(f"{side} {value:,.0f}/s" for side, value in medians.items())
    print(f"{name}: {shown}; ratio {ratio:.3f}, bar {bar}", flush=True)
    return ratio >= bar


def main() -> int:
    """Compare, print, exit status 1 where a bar is not met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--photos", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    net = load_net(SPEC)
    good = compare(
        "loop",
        {
            "trainer": lambda: by_trainer(net),
            "bare": lambda: by_hand(net, "auto", channels_last=True),
        },
        0.97,
        arguments.rounds,
    )
    good &= compare(
        "settings",
        {
            f"{choose('auto', CPU)}, channels last": lambda: by_hand(
                net, "auto", channels_last=True
            ),
            "eager fp32": lambda: by_hand(net, "fp32", channels_last=False),
        },
        1.5,
        arguments.rounds,
    )
    if arguments.photos is not None:
        with tempfile.TemporaryDirectory() as name:
            shards = Path(name) / "shards"
            options = PackOptions(images_per_shard=64, processes=len(affinity()))
            pack(arguments.photos, shards, options, lambda *_: None)
            good &= compare(
                "photos",
                {
                    "shards": lambda: by_shards(shards, 256),
                    "Pillow": lambda: by_pillow(arguments.photos, 256),
                },
                1.5,
                arguments.rounds,
            )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
