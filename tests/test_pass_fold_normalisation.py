"""Pixels in, the same numbers out: normalised by the model, or folded into convolutions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from alexc.graph.graph import Graph
from alexc.ops.base import Padding
from alexc.ops.conv import Conv
from alexc.ops.pixels import Pixels
from alexc.ops.pointwise import Relu
from alexc.ops.structure import Add
from alexc.passes.fold_normalisation import fold_normalisation
from alexc.passes.read_pixels import read_pixels
from tests.cases import reference, weights_for

STD = (0.229, 0.224, 0.225, 0.3)
PHOTO = Pixels(scale=1 / 255, mean=(0.485, 0.456, 0.406, 0.4), std=STD)
NO_MEAN = Pixels(scale=1 / 255, mean=(0.0, 0.0, 0.0, 0.0), std=STD)
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
    ("graph", "normalised"),
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
def test_pixels_give_what_the_normalised_image_gave(graph: Graph, normalised: Pixels) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (2, 4, 9, 7)).astype(np.float32)
    mean, std = (np.array(each).reshape(-1, 1, 1) for each in (normalised.mean, normalised.std))
    images = ((pixels * normalised.scale - mean) / std).astype(np.float32)
    weights = weights_for(graph)
    expected = reference(graph, weights, images)["relu"]
    inside = read_pixels(graph, normalised)
    found = reference(inside, weights, pixels)["relu"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=2**-18 * np.abs(expected).max())
    after, folded = fold_normalisation(inside, weights)
    assert after != inside
    assert [node.name for node in after.nodes] == [node.name for node in inside.nodes]
    assert [node.name for node in after.nodes][1:] == [node.name for node in graph.nodes]
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
    inside, weights = read_pixels(graph, PHOTO), weights_for(graph)
    assert fold_normalisation(inside, weights) == (inside, weights)


def test_a_net_that_takes_no_pixels_stays_as_it_is() -> None:
    graph = net(Conv(out_channels=6, kernel_size=(3, 2)))
    weights = weights_for(graph)
    assert fold_normalisation(graph, weights) == (graph, weights)


def test_a_mean_for_each_channel() -> None:
    graph = net(Conv(out_channels=6, kernel_size=(3, 2)))
    with pytest.raises(ValueError, match="4 channels, 1 of mean and 1 of std"):
        read_pixels(graph, Pixels(scale=1.0, mean=(0.0,), std=(1.0,)))


def test_nothing_else_reads_pixels() -> None:
    layers: list[Any] = [
        ("normalised", PHOTO, ("input",)),
        ("sum", Add(), ("normalised", "input")),
    ]
    with pytest.raises(ValueError, match="normalised must be all that reads the input"):
        Graph.build("net", (4, 9, 7), layers, ("sum",))
