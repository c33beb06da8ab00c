"""A bundle that is made in milliseconds: one convolution with two outputs, and its value in numpy.

`conv` is (5, 7, 9) for an image of (3, 9, 11); `scores` is its mean over the image, (5,).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from alexc.bundle import staged
from alexc.weights.store import extents, write
from alexc_runtime.manifest import (
    MODEL,
    REPORT,
    WEIGHTS,
    BackendRecord,
    BatchRange,
    EngineRecord,
    Input,
    Manifest,
    Output,
    Preprocess,
    Verification,
)

Array = NDArray[np.float32]

IMAGE = (3, 9, 11)
LABELS = ("tench", "goldfish", "hammerhead", "鸵鸟", "brambling")
PLAN = "engines/tensorrt_rtx-fp32.plan"

MANIFEST = Manifest(
    alexc="0.1.0",
    name="small",
    inputs_digest="sha256:" + "1" * 64,
    spec_digest="sha256:" + "2" * 64,
    graph_digest="sha256:" + "3" * 64,
    input=Input("input", IMAGE, BatchRange(1, 2, 4)),
    outputs=(Output("scores", (5,)), Output("conv", (5, 7, 9))),
    preprocess=Preprocess(
        resize=16,
        crop=(9, 11),
        channels="rgb",
        scale=1 / 255,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
    labels=LABELS,
    spec={"name": "small", "layers": {"conv": {"op": "conv", "alpha": 1e-4}}},
    engines=(
        EngineRecord("onnxruntime", "fp32", "verified", MODEL),
        EngineRecord("tensorrt_rtx", "fp32", "built, not run: no GPU", PLAN),
    ),
    versions={"onnx": "1.23"},
    verification=Verification(
        passed=True,
        reference="float64 numpy",
        backends=(
            BackendRecord("onnxruntime", "compared", True),
            BackendRecord("tensorrt_rtx", "not run: no GPU", None),
        ),
    ),
)


def weights() -> dict[str, Array]:
    random = np.random.default_rng(7)
    return {
        "conv.weight": random.normal(size=(5, 3, 3, 3)).astype(np.float32),
        "conv.bias": random.normal(size=5).astype(np.float32),
    }


def images(count: int) -> Array:
    return np.random.default_rng(count).normal(size=(count, *IMAGE)).astype(np.float32)


def expected(batch: Array) -> dict[str, Array]:
    """The outputs for a batch, from the formula."""
    own = weights()
    conv = np.zeros((len(batch), 5, 7, 9))
    for row in range(3):
        for column in range(3):
            window = batch[:, :, row : row + 7, column : column + 9]
            kernel = own["conv.weight"][:, :, row, column]
            conv += np.einsum("nchw,kc->nkhw", window.astype(float), kernel.astype(float))
    conv += own["conv.bias"][:, None, None]
    return {
        "scores": conv.mean(axis=(2, 3)).astype(np.float32),
        "conv": conv.astype(np.float32),
    }


def fill(folder: Path) -> None:
    """Write every file of the bundle but the manifest."""
    from onnx import TensorProto, helper

    write(folder / WEIGHTS, weights())
    initializers = []
    for name, extent in extents(folder / WEIGHTS).items():
        tensor = TensorProto(
            name=name,
            dims=extent.shape,
            data_type=TensorProto.FLOAT,
            data_location=TensorProto.EXTERNAL,
        )
        places = {"location": WEIGHTS, "offset": extent.offset, "length": extent.length}
        for key, place in places.items():
            tensor.external_data.add(key=key, value=str(place))
        initializers.append(tensor)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["input", "conv.weight", "conv.bias"], ["conv"], "conv"),
            helper.make_node("GlobalAveragePool", ["conv"], ["mean"], "mean"),
            helper.make_node("Flatten", ["mean"], ["scores"], "scores"),
        ],
        "small",
        [value("input", TensorProto.FLOAT, ["batch", *IMAGE])],
        [
            value("scores", TensorProto.FLOAT, ["batch", 5]),
            value("conv", TensorProto.FLOAT, ["batch", 5, 7, 9]),
        ],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    (folder / MODEL).write_bytes(model.SerializeToString())
    (folder / REPORT).write_text('{"passed": true}\n')
    (folder / "engines").mkdir()
    (folder / PLAN).write_bytes(b"a plan\0" * 99)


def make(out: Path, **changes: Any) -> Manifest:
    """A bundle at `out`, its manifest MANIFEST with these fields changed."""
    with staged(out) as stage:
        fill(stage.folder)
        return stage.commit(replace(MANIFEST, **changes))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that no test may change."""
    out = tmp_path_factory.mktemp("built") / "small"
    make(out)
    return out
