"""A layer's activations for every image of a set: what retrieval compares, as in section 6 of the
2012 paper, whose fc7 puts images of one thing near each other.
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

import numpy as np
import torch

from alexc.diagnostics import fault, usage_fault
from alexc.lower.to_torch import to_torch
from alexc.passes.prefix import up_to
from alexc.train.data.uri import Split
from alexc.train.score import opened
from alexc.weights import store


@torch.no_grad()
def write_features(
    target: Path, uri: str, split: Split, layer: str, out: Path, *, batch: int = 256
) -> tuple[int, ...]:
    """Write `features` (n, …) and `labels` (n,) to a safetensors file; the shape of the first.

    `target` is a run or a bundle. Raises UsageError if there is no such layer, set or folder.
    """
    graph, weights, data, pixels = opened(target, uri, split)
    if layer not in graph.by_name:
        close = get_close_matches(layer, graph.by_name, 1)
        raise usage_fault(
            "features/layer",
            f"{graph.name} has no layer {layer}",
            help=f"did you mean {close[0]}?" if close else f"it has {', '.join(graph.by_name)}",
        )
    part = up_to(graph, layer)
    net = to_torch(part, {name: weights[name] for name in part.parameters})
    net.eval()
    rows, labels = [], []
    for first in range(0, len(data), batch):
        indices = np.arange(first, min(first + batch, len(data)))
        images, numbers = data.read(indices)
        known = numbers >= 0
        if known.any():
            inputs = pixels.for_testing(torch.from_numpy(images[known]))
            rows.append(net(inputs).numpy())
            labels.append(numbers[known])
    if not rows:
        raise fault("data/empty", f"no image of {data.name} could be read")
    features = np.concatenate(rows)
    store.write(out, {"features": features, "labels": np.concatenate(labels)})
    return features.shape
