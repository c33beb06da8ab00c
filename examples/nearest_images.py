"""For some images, the ones nearest to them by a layer's activations: section 6 of the 2012 paper.

    alexc features RUN --data URI --layer fc7 --out fc7.safetensors
    python examples/nearest_images.py RUN --data URI --features fc7.safetensors --out nearest.png

The left column shows the first test image of each class, then the nearest of all the others by
Euclidean distance.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from safetensors.numpy import load_file

from alexc.train.data.uri import form_for, open_data, stored_size
from alexc.train.run import open_run

NEAREST = 6


def main() -> int:
    """Find the neighbours and draw them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("nearest.png"))
    arguments = parser.parse_args()
    run = open_run(arguments.run)
    net = run.net
    form = form_for(net, net.graph, stored_size(net, run.recipe.resize))
    data = open_data(arguments.data, "test", form)
    written = load_file(arguments.features)
    features, labels = written["features"], written["labels"]
    features = features.reshape(len(features), -1)
    classes = sorted(set(labels.tolist()))
    figure = Figure(figsize=(1.2 * (1 + NEAREST), 1.2 * len(classes)))
    grid = figure.subplots(len(classes), 1 + NEAREST, squeeze=False)
    right = 0
    for row, label in zip(grid, classes, strict=True):
        asked = int(np.flatnonzero(labels == label)[0])
        distances = np.linalg.norm(features - features[asked], axis=1)
        order = np.argsort(distances, kind="stable")
        found = order[order != asked][:NEAREST]
        right += int((labels[found] == label).sum())
        pictures, _ = data.read(np.concatenate([[asked], found]))
        for axes, picture in zip(row, pictures, strict=True):
            axes.imshow(picture.squeeze(), cmap="grey", vmin=0, vmax=255)
            axes.set_axis_off()
    figure.savefig(arguments.out, dpi=120, bbox_inches="tight")
    print(f"{arguments.out}: {right} of {NEAREST * len(classes)} neighbours are of the same class")
    return 0


if __name__ == "__main__":
    sys.exit(main())
