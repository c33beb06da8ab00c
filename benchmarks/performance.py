"""Measures what docs/performance.md says, and writes it.

    python benchmarks/performance.py [--beside BUNDLE]… [--photos PATH]…   measures (15 minutes)
    python benchmarks/performance.py --from JSON    writes again from what was measured

`make bench` runs the first. It leaves build/bench/performance.json, and of that makes
docs/performance.md and the pictures beside it. The machine should have nothing else to do.

Numbers of eight bits take photographs to measure ranges on:

    make bench PHOTOS=DIR

calibrates alexc's bundle and the peer's model on them. Further bundles of alexnet, of the weights
of seed 0, are measured beside with BESIDE.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from alexc.calibrate.images import load_images
from alexc.frontend import load_net
from alexc.graph.graph import Graph
from alexc.model import preprocess_of
from alexc.ops.pixels import Pixels
from alexc.passes.fold_batch_norm import fold_batch_norm
from alexc.passes.fold_normalisation import fold_normalisation
from alexc.passes.inference import inference
from alexc.passes.lrn_form import lrn_form
from alexc.passes.pool_before_relu import pool_before_relu
from alexc.passes.read_pixels import read_pixels
from alexc.passes.weight_only import linear_layers, weight_only
from alexc.plan import bench, ours
from alexc.plan.bars import bars, bars_text
from alexc.plan.contestant import Contestant
from alexc.plan.measure import Pace, race
from alexc.plan.plot import plot
from alexc.plan.prepare import Prepared, prepared, standard, subject, write_bundle
from alexc.plan.report import figures, markdown, table
from alexc.plan.result import comparison, row
from alexc.plan.serving_plot import plot as plot_serving
from alexc.plan.serving_report import serving_text
from alexc_runtime.manifest import MODEL, EngineRecord

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from benchmarks import planned  # noqa: E402

JSON = ROOT / "build" / "bench" / "performance.json"
DOCUMENT, PICTURE = ROOT / "docs" / "performance.md", ROOT / "docs" / "performance.svg"
SERVING_PICTURE = PICTURE.with_name("serving.svg")

BATCHES = (1, 16)
CLIENTS = (1, 4, 16)
ENGINES = ("onnxruntime", "openvino")
ABLATION_PACE = Pace(rounds=7, seconds=0.1, most=20, profile_runs=0)

# By spec: what each variant of the model is called, and how it is made of the inference form.
Variant = Callable[[Graph], Graph]
VARIANTS: dict[str, dict[str, Variant]] = {
    "alexnet": {
        "native `LRN`": lambda graph: graph,
        "LRN as banded convolution": lambda graph: lrn_form(graph, "banded"),
        "LRN as windowed sum": lambda graph: lrn_form(graph, "windowed"),
        "max pooling before ReLU": pool_before_relu,
    },
    "alexnet-bn": {"batch norm": lambda graph: graph},
}
FOLDED = "batch norm folded"  # has weights of its own, so that it is made apart
WEIGHTS_ALONE = "weights of linear layers in int8"  # takes the weights; the one that is not fp32
PIXELS, PIXELS_FOLDED = "pixels in, normalised", "pixels in, normalised by the weights of conv1"

INTRODUCTION = """\
# Performance

Written by `make bench`; don't edit it.

![Milliseconds for one image and for a batch, and images a second](performance.svg)

Every engine and every peer runs in a process of its own. They take turns, round after round, so
that whatever else the machine does falls on all alike; a turn starts with a run that is not timed.
Outputs are held against the float64 reference before anything is timed: an engine is *exact* if
every number is within what rounding in fp32 explains, *fast* if it is within 1 % of the reference
in the Euclidean norm, else *coarse*. “Error” is that norm of the difference, relative. “Middle
half” is from the first to the third quartile of all runs. Comparisons are medians over rounds of
the ratio within a round, with the interval that holds the true median in at least 95 of 100 cases;
where it holds 1 there is a tie.

alexc's own engines (in bold) are timed as a deployment calls them: `Session.run` of
`alexc_runtime`, with its checks and copies. The peers are what a user would otherwise run, made on
the spot from the same weights. “Load” is the time from import until the model is loaded, “cold
start” from the start of the process until its first result; torch.compile compiles only then, anew
for each batch size. “Memory” is the most that the process ever had.
"""


def main() -> int:
    """Measure, or read what was measured, and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--beside", metavar="BUNDLE", type=Path, action="append", default=[])
    parser.add_argument("--photos", metavar="PATH", type=Path, action="append", default=[])
    parser.add_argument("--from", dest="measured", metavar="JSON", type=Path)
    arguments = parser.parse_args()
    if arguments.measured is None:
        with tempfile.TemporaryDirectory() as folder:
            made = planned.bundles(arguments.photos, Path(folder), say)
            found: dict[str, Any] = {
                "bench": measure([*arguments.beside, *made], arguments.photos),
                "plan": planned.measure(made[0], say) if made else None,
                "ablations": [ablation(name) for name in VARIANTS],
            }
        JSON.parent.mkdir(parents=True, exist_ok=True)
        JSON.write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    else:
        found = json.loads(arguments.measured.read_text(encoding="utf-8"))
    DOCUMENT.write_text(rendered(found), encoding="utf-8")
    plot(found["bench"], PICTURE)
    plot_serving(found["bench"], SERVING_PICTURE)
    written = (DOCUMENT, PICTURE, SERVING_PICTURE)
    sys.stdout.write(", ".join(str(file.relative_to(ROOT)) for file in written) + "\n")
    return 0


def say(text: str) -> None:
    """Progress, a line each."""
    sys.stderr.write(text + "\n")


# ---- measuring -----------------------------------------------------------------------------------


def measure(beside: Sequence[Path], photos: Sequence[Path]) -> dict[str, Any]:
    """alexnet on every engine and peer, and clients of the engines."""
    spec = ROOT / "specs" / "alexnet.yaml"
    photographs = None
    if photos:
        preprocess = preprocess_of(load_net(spec))
        assert preprocess is not None
        photographs = load_images(photos, preprocess)
    options = bench.Options(
        batches=BATCHES, beside=tuple(beside), clients=CLIENTS, photographs=photographs
    )
    return bench.bench(spec, options, say)


def ablation(name: str) -> dict[str, Any]:
    """The variants of a spec's model on each engine, in one race."""
    spec = ROOT / "specs" / f"{name}.yaml"
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        net = prepared(spec, scratch, 0, say)
        variants = VARIANTS[name]
        graphs = {
            _file(index): make(inference(net.graph)) for index, make in enumerate(variants.values())
        }
        write_bundle(load_net(spec), net.weights, scratch / "variants", graphs)
        contestants = [
            _contestant(engine, scratch / "variants", _file(index), variant)
            for index, variant in enumerate(variants)
            for engine in ENGINES
        ]
        if name == "alexnet":
            contestants += _weights_alone(net, spec, scratch / "weights-alone")
            contestants += _of_pixels(net, spec, scratch / "pixels")
            # All are given what those that take pixels make of them.
            preprocess = preprocess_of(load_net(spec))
            net = replace(net, manifest=replace(net.manifest, preprocess=preprocess))
        if name == "alexnet-bn":
            contestants += _folded(net, spec, scratch / "folded")
        say(f"{name}: computing the reference")
        images, expected = standard(net, max(BATCHES), 0)
        files = subject(net, scratch, images, None)
        results = race(
            contestants, files, BATCHES, expected, ABLATION_PACE, lambda step: say(str(step))
        )
    return {
        "name": name,
        "rows": [row(result, batch, None) for batch in BATCHES for result in results],
    }


def _file(index: int) -> str:
    return f"variant-{index}.onnx"


def _contestant(
    engine: str, folder: Path, file: str, variant: str, precision: str = "fp32"
) -> Contestant:
    record = EngineRecord(engine, precision, "candidate", file)
    return ours.of_record(folder, record, note=variant)


def _folded(net: Prepared, spec: Path, folder: Path) -> list[Contestant]:
    """The contestants whose batch norm is folded into new weights, beside which the model lies."""
    graph, weights = fold_batch_norm(inference(net.graph), net.weights)
    write_bundle(load_net(spec), weights, folder, {MODEL: graph})
    return [_contestant(engine, folder, MODEL, FOLDED) for engine in ENGINES]


def _weights_alone(net: Prepared, spec: Path, folder: Path) -> list[Contestant]:
    """The contestants that read the weights of linear layers as int8."""
    plain = inference(net.graph)
    graph = weight_only(plain, net.weights, linear_layers(plain))
    write_bundle(load_net(spec), net.weights, folder, {MODEL: graph})
    return [_contestant(engine, folder, MODEL, WEIGHTS_ALONE, "int8-weights") for engine in ENGINES]


def _of_pixels(net: Prepared, spec: Path, folder: Path) -> list[Contestant]:
    """The contestants that take pixels, whose model normalises them."""
    loaded = load_net(spec)
    said = preprocess_of(loaded)
    assert said is not None
    taken = replace(said, dtype="uint8")
    layer = Pixels(scale=said.scale, mean=said.mean, std=said.std)
    graph = read_pixels(inference(net.graph), layer)
    folder.mkdir()
    contestants: list[Contestant] = []
    for variant, (written, weights) in {
        PIXELS: (graph, net.weights),
        PIXELS_FOLDED: fold_normalisation(graph, net.weights),
    }.items():
        place = folder / str(len(contestants))
        write_bundle(loaded, weights, place, {MODEL: written}, taken)
        contestants += [_contestant(engine, place, MODEL, variant) for engine in ENGINES]
    return contestants


# ---- writing -------------------------------------------------------------------------------------


def rendered(found: Mapping[str, Any]) -> str:
    """docs/performance.md."""
    tables = "\n\n".join(ablation_text(each) for each in found["ablations"])
    return (
        INTRODUCTION
        + "\n## What must hold\n\n"
        + bars_introduction(found)
        + bars_text(bars(found["bench"], found.get("plan")))
        + "\n\n"
        + markdown(found["bench"])
        + "\n## Serving\n\n![Throughput and latency by the number of clients](serving.svg)\n\n"
        + serving_text(found["bench"]["serving"])
        + "\n## What the passes gain\n\n"
        + "The same net written in other forms, in fp32 but for the last of alexnet's. Gains are "
        "over the first line of the engine.\n\n" + tables + "\n"
    )


def bars_introduction(found: Mapping[str, Any]) -> str:
    """What the bars are about, and on what their errors were measured."""
    text = (
        "On two cores, in one run, by medians. Times and errors are those of weights drawn from "
        "seed 0. A tie is a comparison whose interval holds the bar. "
    )
    plan = (found.get("plan") or {}).get("plan")
    if plan is not None and plan["photographs"]:
        text += (
            f"The agreement with the reference's first class was taken with the same drawn weights "
            f"on {plan['images']} photographs: it says nothing of a trained net, for which "
            "`alexc build --target auto --budget 1e-2,top1:99%` measures it.\n\n"
        )
    else:
        text += (
            "The agreement with the reference's first class was not measured: it takes "
            "photographs, `make bench PHOTOS=DIR`, and means something with trained weights.\n\n"
        )
    return text


def ablation_text(ablation: Mapping[str, Any]) -> str:
    """A table of the variants: a line for each engine and variant, batches side by side."""
    rows: Sequence[Mapping[str, Any]] = ablation["rows"]
    lines = []
    for engine in ENGINES:
        variants = list(dict.fromkeys(row["note"] for row in rows))
        for variant in variants:
            cells = [engine, variant]
            for batch in BATCHES:
                cells += _gain(rows, engine, batch, variants[0], variant)
            lines.append(cells)
    head = ["engine", "form"]
    for batch in BATCHES:
        head += [f"batch {batch}: ms", "times as fast"]
    return f"`{ablation['name']}`:\n\n{table(head, lines, right=range(2, len(head)))}"


def _gain(
    rows: Sequence[Mapping[str, Any]], engine: str, batch: int, base: str, variant: str
) -> list[str]:
    here = {row["note"]: row for row in rows if row["engine"] == engine and row["batch"] == batch}
    found, first = here[variant], here[base]
    if found["p50_ms"] is None:
        return [found["status"], ""]
    time = figures(found["p50_ms"])
    if variant == base or first["p50_ms"] is None:
        return [time, ""]
    compared = comparison(found, first)
    if compared.verdict == "tie":
        return [time, f"tie ({compared.low:.2f}–{compared.high:.2f})"]
    return [time, f"{compared.ratio:.2f} ({compared.low:.2f}–{compared.high:.2f})"]


if __name__ == "__main__":
    sys.exit(main())
