"""Normalisation folded into the first convolutions: pixels in, the same numbers out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from alexc.graph.graph import Graph
from alexc.ops.base import Padding
from alexc.ops.conv import Conv
from alexc.ops.pointwise import Relu
from alexc.ops.structure import Add
from alexc.passes.fold_normalisation import Normalisation, fold_normalisation
from tests.cases import reference, weights_for

PHOTO = Normalisation(1 / 255, (0.485, 0.456, 0.406, 0.4), (0.229, 0.224, 0.225, 0.3))
NO_MEAN = Normalisation(1 / 255, (0.0, 0.0, 0.0, 0.0), (0.229, 0.224, 0.225, 0.3))
PAD = Padding(top=1, left=2)


def net(*convs: Conv, **more: Any) -> Graph:
    """Convolutions that all read the input, (4, 9, 7), and are added."""
    names = [f"conv{index}" for index in range(len(convs))]
    layers: list[Any] = [(name, conv, ("input",)) for name, conv in zip(names, convs, strict=True)]
    if len(convs) > 1:
        layers.append(("sum", Add(), tuple(names)))
    layers.append(("relu", Relu(), (layers[-1][0],)))
    return Graph.build("net", (4, 9, 7), layers, ("relu",), **more)


@pytest.mark.parametrize(
    ("graph", "normalisation"),
    [
        (net(Conv(out_channels=6, kernel_size=(3, 2), stride=(2, 1))), PHOTO),
        (net(Conv(out_channels=6, kernel_size=(3, 2), groups=2, bias=False)), PHOTO),
        (net(Conv(out_channels=8, kernel_size=(2, 3), groups=4)), PHOTO),
        (
            net(*[Conv(out_channels=5, kernel_size=(3, 3), bias=bias) for bias in (True, False)]),
            PHOTO,
        ),
        (net(Conv(out_channels=6, kernel_size=(3, 2), padding=PAD)), NO_MEAN),
    ],
    ids=["one", "groups", "depthwise", "two readers", "padding without a mean"],
)
def test_pixels_give_what_the_normalised_image_gave(
    graph: Graph, normalisation: Normalisation
) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (2, 4, 9, 7)).astype(np.float32)
    mean, std = (
        np.array(each).reshape(-1, 1, 1) for each in (normalisation.mean, normalisation.std)
    )
    images = ((pixels * normalisation.scale - mean) / std).astype(np.float32)
    weights = weights_for(graph)
    result = fold_normalisation(graph, weights, normalisation)
    assert result is not None
    after, folded = result
    assert [node.name for node in after.nodes] == [node.name for node in graph.nodes]
    expected = reference(graph, weights, images)["relu"]
    found = reference(after, folded, pixels)["relu"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=2**-18 * np.abs(expected).max())


@pytest.mark.parametrize(
    "graph",
    [
        net(Conv(out_channels=6, kernel_size=(3, 2), padding=PAD)),
        net(
            Conv(out_channels=5, kernel_size=(3, 3)),
            Conv(
                out_channels=5,
                kernel_size=(5, 5),
                padding=Padding(top=1, left=1, bottom=1, right=1),
            ),
        ),
        net(Conv(out_channels=6, kernel_size=(3, 2)), precisions={"conv0": "fp16"}),
        Graph.build("net", (4, 9, 7), [("relu", Relu(), ("input",))], ("relu",)),
    ],
    ids=["padding", "padding in one of two", "precision", "no convolution"],
)
def test_where_it_is_not_the_same_it_is_not_done(graph: Graph) -> None:
    assert fold_normalisation(graph, weights_for(graph), PHOTO) is None


def test_as_many_means_as_channels() -> None:
    graph = net(Conv(out_channels=6, kernel_size=(3, 2)))
    with pytest.raises(ValueError, match="4 channels"):
        fold_normalisation(graph, weights_for(graph), Normalisation(1.0, (0.0,), (1.0,)))
