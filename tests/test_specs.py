"""The specs that come with alexc say what their sources say.

The figures stand here a second time, apart from each spec's own `expect`, so that a spec and its
facts can't be changed together by mistake.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from alexc.frontend import load_net
from alexc.ops.conv import Conv
from alexc.ops.dense import Linear

SPECS = Path(__file__).resolve().parents[1] / "specs"
ALL = sorted(SPECS.glob("**/*.yaml"))

PARAMETERS = {
    "alexnet": 60_965_224,
    "alexnet-2012": 60_965_224,
    "alexnet-avgpool": 51_939_688,
    "alexnet-bn": 60_965_576,
    "alexnet-cifar": 877_050,
    "alexnet-fashion": 46_764_746,
    "alexnet-fashion-small": 874_650,
    "alexnet-fcn": 62_378_344,
    "alexnet-no-dropout": 60_965_224,
    "alexnet-no-lrn": 60_965_224,
    "alexnet-owt": 61_100_840,
    "alexnet-plain-pooling": 60_965_224,
    "alexnet-sigmoid": 60_965_224,
    "alexnet-single": 62_378_344,
    "alexnet-tanh": 60_965_224,
    "bvlc-alexnet": 60_965_224,
    "caffenet": 60_965_224,
    "googlenet": 6_998_552,
    "lenet": 61_706,
    "lenet-relu": 61_706,
    "nin-imagenet": 7_595_176,
    "resnet18": 11_689_512,
    "squeezenet-1.1": 1_235_496,
    "vgg16": 138_357_544,
}

# The sizes after conv1, pool1, pool2, conv3 and pool5, as study notes list them.
SIZES = {
    "alexnet": (55, 27, 13, 13, 6),
    "alexnet-avgpool": (55, 27, 13, 13, 6),
    "alexnet-bn": (55, 27, 13, 13, 6),
    "alexnet-fashion": (54, 26, 12, 12, 5),
    "alexnet-owt": (55, 27, 13, 13, 6),
    "alexnet-plain-pooling": (55, 27, 13, 13, 6),
    "alexnet-single": (55, 27, 13, 13, 6),
    "bvlc-alexnet": (55, 27, 13, 13, 6),
    "caffenet": (55, 27, 13, 13, 6),
}

# The order in the first block.
FIRST_BLOCK = {
    "alexnet": "conv relu lrn max_pool",
    "alexnet-2012": "conv lrn max_pool relu",
    "alexnet-avgpool": "conv relu avg_pool lrn",
    "alexnet-bn": "conv batch_norm relu max_pool",
    "alexnet-fashion": "conv relu max_pool",
    "alexnet-no-lrn": "conv relu max_pool",
    "alexnet-owt": "conv relu max_pool",
    "alexnet-sigmoid": "conv sigmoid lrn max_pool",
    "alexnet-single": "conv relu max_pool lrn",
    "alexnet-tanh": "conv tanh lrn max_pool",
    "bvlc-alexnet": "conv relu lrn max_pool",
    "caffenet": "conv relu max_pool lrn",
    "lenet": "conv sigmoid avg_pool",
}


def _find(name: str) -> Path:
    return next(path for path in ALL if path.stem == name)


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_spec_holds_and_warns_of_nothing(path: Path) -> None:
    net = load_net(path)
    assert [str(warning) for warning in net.warnings] == []
    assert net.graph.parameter_count == PARAMETERS[net.spec.name]


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_spec_is_named_as_its_file_and_says_where_it_comes_from(path: Path) -> None:
    header = load_net(path).spec.header
    assert header.name == path.stem
    assert header.source
    assert header.preprocess is not None
    assert header.expect.parameters is not None
    assert header.expect.shapes


def test_every_figure_has_a_spec() -> None:
    assert {path.stem for path in ALL} == PARAMETERS.keys()


@pytest.mark.parametrize("name", SIZES)
def test_sizes(name: str) -> None:
    shapes = load_net(_find(name)).graph.shapes
    layers = ("conv1", "pool1", "pool2", "conv3", "pool5")
    assert tuple(shapes[layer][1] for layer in layers) == SIZES[name]


@pytest.mark.parametrize("name", FIRST_BLOCK)
def test_order_of_the_first_block(name: str) -> None:
    kinds = [node.op.kind for node in load_net(_find(name)).graph.nodes]
    second = kinds.index("conv", 1)
    assert " ".join(kinds[:second]).startswith(FIRST_BLOCK[name])
    # The 2012 code goes on with its second convolution in the same column.
    assert len(kinds[:second]) == len(FIRST_BLOCK[name].split())


def test_alexnet_counts_as_the_paper_does() -> None:
    graph = load_net(_find("alexnet")).graph
    weighted = [node for node in graph.nodes if isinstance(node.op, Conv | Linear)]
    units = 0
    for node in weighted:
        size = 1
        for extent in node.shape:
            size *= extent
        units += size
    assert (len(weighted), units, graph.macs) == (8, 659_272, 724_406_816)


def test_without_dropout_only_dropout_is_missing() -> None:
    base, variant = (load_net(_find(n)).graph for n in ("alexnet", "alexnet-no-dropout"))
    kept = [(n.name, n.op) for n in base.nodes if n.op.kind != "dropout"]
    assert kept == [(n.name, n.op) for n in variant.nodes]
