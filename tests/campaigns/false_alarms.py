"""Verifies random legal nets, none of which has a fault: every failure is a false alarm.

    python -m tests.campaigns.false_alarms --nets 1000 --seed 0

Prints each alarm with the seed that makes it again, and the margins that were met. NaN where the
reference is finite is no false alarm but a backend's breakdown, and is counted apart: ONNX
Runtime's LRN slides its window, and where a large square is taken off again the sum may come out
below zero. Exit status 1 if there is any alarm.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from alexc.lower.to_onnx import serialize, to_onnx
from alexc.passes.inference import inference
from alexc.verify import Report, verify
from alexc.weights import store
from tests.random_graphs import random_graph, random_images, random_weights


def verify_random_net(seed: int, folder: Path, backends: Sequence[str] | None = None) -> Report:
    """The net that `seed` names, lowered and verified."""
    generator = np.random.default_rng(seed)
    graph = random_graph(generator)
    weights = random_weights(generator, graph)
    images = random_images(generator, graph)
    file = folder / "weights.safetensors"
    store.write(file, weights)
    model = folder / "model.onnx"
    model.write_bytes(serialize(to_onnx(inference(graph), store.extents(file))))
    return verify(graph, weights, model, inputs=images, seed=seed, backends=backends, isolate=False)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--nets", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backends", nargs="*", help="by default all that are installed")
    arguments = parser.parse_args()
    started = time.perf_counter()
    alarms = breakdowns = 0
    tensors = 0
    kinds: Counter[str] = Counter()
    margins: dict[tuple[str, str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        for seed in range(arguments.seed, arguments.seed + arguments.nets):
            report = verify_random_net(seed, Path(name), arguments.backends)
            for result in report.backends:
                if result.status not in ("ran", "shapes read; not run"):
                    print(f"seed {seed}: {result.backend}: {result.status}")
            first = report.first_divergence
            at_first = [r for r in report.rows if first and r.layer == first.layer and not r.passed]
            if at_first and all("not finite" in (row.message or "") for row in at_first):
                breakdowns += 1
            elif not report.passed:
                alarms += 1
            if not report.passed:
                print(f"seed {seed}: {report.first_divergence}")
            for row in report.rows:
                tensors += 1
                kind = row.layer.rstrip("0123456789")
                kinds[kind] += 1
                if not row.passed:
                    print(f"    {row}")
                if row.max_abs:
                    key = (row.backend, str(row.check), kind)
                    margins.setdefault(key, []).append(row.tolerance / row.max_abs)
                    if row.passed and row.tolerance < 1.8 * row.max_abs:
                        print(f"seed {seed}: a margin of {row.tolerance / row.max_abs:.2f}: {row}")
    for key, values in sorted(margins.items()):
        print(
            f"{' '.join(key):42} {len(values):6} margins: smallest {min(values):9.3g} "
            f"median {np.median(values):9.3g}"
        )
    print(
        f"{arguments.nets} nets, {tensors} comparisons, {alarms} false alarms, "
        f"{breakdowns} backends that gave NaN or infinity, "
        f"{time.perf_counter() - started:.0f} s"
    )
    return 1 if alarms else 0


if __name__ == "__main__":
    sys.exit(main())
