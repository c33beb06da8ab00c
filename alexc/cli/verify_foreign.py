"""`alexc verify … --onnx FILE`: does another tool's file compute what the spec describes?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from alexc.cli.terminal import steps
from alexc.diagnostics import usage_fault

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from alexc.graph.graph import Graph
    from alexc.verify.foreign.report import ForeignReport
    from alexc_runtime.manifest import Preprocess

    Weights = Mapping[str, NDArray[np.float32]]
    Meant = tuple[str, Graph, Weights | None, Preprocess | None]


def meant(path: Path, weights: Path | None) -> Meant:
    """Name, graph, weights and preprocessing of a spec or bundle.

    A spec has the weights of `weights`, or none; a bundle its own.
    """
    from alexc.bundle import read_bundle
    from alexc.frontend import load_net
    from alexc.model import preprocess_of
    from alexc.weights import store
    from alexc_runtime.manifest import WEIGHTS

    if path.is_file():
        net = load_net(path)
        given = None if weights is None else store.read(weights, net.graph)
        return net.spec.name, net.graph, given, preprocess_of(net)
    if weights is not None and path.exists():
        raise usage_fault("verify/weights", "a bundle has its own weights; --weights is of a spec")
    bundle, net = read_bundle(path)
    own = store.read(bundle.path(WEIGHTS), net.graph)
    preprocess = bundle.manifest.preprocess
    if preprocess is not None:  # another's file takes what the net was trained on, never pixels
        preprocess = replace(preprocess, dtype="float32")
    return bundle.manifest.name, net.graph, own, preprocess


def check_foreign(
    file: Path,
    graph: Graph,
    weights: Weights | None,
    *,
    inputs: NDArray[np.float32] | None,
    photographs: Sequence[str] = (),
    seed: int,
    backends: Sequence[str] | None,
    batch: int | None,
    quiet: bool,
) -> ForeignReport:
    """The file held against the graph; with `weights`, its own must be these."""
    from alexc.importers.onnx_model.layers import read_layers
    from alexc.verify.foreign.crosscheck import verify_foreign

    model = read_layers(file, graph.input_shape)
    with steps(enabled=not quiet) as progress:
        return verify_foreign(
            graph,
            model,
            weights=weights,
            inputs=inputs,
            photographs=photographs,
            seed=seed,
            backends=backends,
            batch=batch,
            progress=progress,
        )
