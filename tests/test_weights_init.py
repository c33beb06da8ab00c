"""The first weights: what each recipe draws, and that a draw depends on its seed and name alone."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable

import numpy as np
import pytest

from alexc.diagnostics import AlexcError
from alexc.graph.graph import Graph
from alexc.ops.base import Op
from alexc.ops.conv import Conv
from alexc.ops.dense import Linear
from alexc.ops.norm import BatchNorm
from alexc.ops.pointwise import Relu
from alexc.ops.structure import Flatten
from alexc.spec.model import DistributionModel, InitSpec, LayerInit, Recipe, Scheme
from alexc.weights import init
from alexc.weights.init import draw, resolve


def chain(layers: Iterable[tuple[str, Op]], shape: tuple[int, ...] = (6, 19, 17)) -> Graph:
    """A net in which each layer reads the one before it."""
    triples: list[tuple[str, Op, tuple[str, ...]]] = []
    before = "input"
    for name, op in layers:
        triples.append((name, op, (before,)))
        before = name
    return Graph.build("chain", shape, triples, (before,))


def like_alexnet() -> Graph:
    """Five convolutions, two of them in groups, and three linear layers, all of them small."""
    return chain(
        [
            ("conv1", Conv(out_channels=8, kernel_size=(3, 3))),
            ("conv2", Conv(out_channels=12, kernel_size=(3, 2), groups=2)),
            ("relu2", Relu()),
            ("conv3", Conv(out_channels=10, kernel_size=(2, 2))),
            ("conv4", Conv(out_channels=14, kernel_size=(2, 3), groups=2)),
            ("conv5", Conv(out_channels=16, kernel_size=(1, 1))),
            ("flat", Flatten()),
            ("fc6", Linear(out_features=40)),
            ("fc7", Linear(out_features=30)),
            ("fc8", Linear(out_features=20)),
        ]
    )


def recipe(name: Recipe) -> InitSpec:
    return InitSpec(recipe=name)


def of(scheme: Scheme, value: float | None = None) -> DistributionModel:
    return DistributionModel(scheme=scheme, value=value)


# ---- recipes -------------------------------------------------------------------------------------


def test_paper_raises_the_biases_that_the_paper_names() -> None:
    weights = draw(like_alexnet(), recipe("paper"), {}, seed=3)
    raised = {name for name, array in weights.items() if "bias" in name and (array == 1).all()}
    zero = {name for name, array in weights.items() if "bias" in name and (array == 0).all()}
    assert raised == {"conv2.bias", "conv4.bias", "conv5.bias", "fc6.bias", "fc7.bias"}
    assert zero == {"conv1.bias", "conv3.bias", "fc8.bias"}
    resolved = resolve(like_alexnet(), recipe("paper"), {})
    assert {d for name, d in resolved.items() if "weight" in name} == {of("normal", 0.01)}


def test_caffe_differs_in_the_biases_and_the_hidden_linear_layers() -> None:
    resolved = resolve(like_alexnet(), recipe("caffe"), {})
    assert resolved["conv4.bias"] == resolved["fc7.bias"] == of("constant", 0.1)
    assert resolved["conv3.bias"] == resolved["fc8.bias"] == of("constant", 0.0)
    assert resolved["fc6.weight"] == resolved["fc7.weight"] == of("normal", 0.005)
    assert resolved["conv1.weight"] == resolved["fc8.weight"] == of("normal", 0.01)


def test_kaiming_and_xavier_count_the_channels_of_a_group() -> None:
    # conv2: 8 channels in 2 groups, 12 outputs, 3×2 taps: fan_in 4·6 = 24, fan_out 6·6 = 36.
    kaiming = resolve(like_alexnet(), recipe("kaiming"), {})
    assert kaiming["conv2.weight"] == of("normal", math.sqrt(2 / 24))
    assert kaiming["fc7.weight"] == of("normal", math.sqrt(2 / 40))
    assert kaiming["conv2.bias"] == of("constant", 0.0)
    xavier = resolve(like_alexnet(), recipe("xavier"), {})
    assert xavier["conv2.weight"] == of("uniform", math.sqrt(6 / (24 + 36)))
    assert xavier["fc7.weight"] == of("uniform", math.sqrt(6 / (40 + 30)))
    assert xavier["fc7.bias"] == of("constant", 0.0)


def test_the_torch_recipe_has_the_spread_of_torch_itself() -> None:
    import torch

    weights = draw(like_alexnet(), recipe("torch"), {}, seed=1)
    torch.manual_seed(0)
    theirs: dict[str, torch.nn.Conv2d | torch.nn.Linear] = {
        "conv2": torch.nn.Conv2d(8, 12, (3, 2), groups=2),
        "fc7": torch.nn.Linear(40, 30),
    }
    for name, module in theirs.items():
        bound = 1 / math.sqrt(module.weight[0].numel())
        assert bound * 0.98 < float(module.weight.detach().abs().max()) <= bound
        assert bound * 0.98 < np.abs(weights[f"{name}.weight"]).max() <= bound
        assert bound * 0.8 < np.abs(weights[f"{name}.bias"]).max() <= bound


def test_kaiming_and_xavier_have_the_spread_of_torch_where_there_are_no_groups() -> None:
    import torch

    graph = chain([("conv", Conv(out_channels=64, kernel_size=(5, 3)))], (32, 11, 9))
    torch.manual_seed(0)
    kaiming = torch.nn.init.kaiming_normal_(torch.empty(64, 32, 5, 3), nonlinearity="relu")
    xavier = torch.nn.init.xavier_uniform_(torch.empty(64, 32, 5, 3))
    pairs: list[tuple[Recipe, torch.Tensor]] = [("kaiming", kaiming), ("xavier", xavier)]
    for name, theirs in pairs:
        ours = draw(graph, recipe(name), {}, seed=9)["conv.weight"]
        assert ours.std() == pytest.approx(float(theirs.std()), rel=0.02)


@pytest.mark.parametrize("name", ["paper", "caffe", "kaiming", "xavier", "torch"])
def test_batch_norm_starts_as_the_identity_whatever_the_recipe(name: Recipe) -> None:
    graph = chain([("conv", Conv(out_channels=5, kernel_size=(2, 3))), ("bn", BatchNorm())])
    default = InitSpec(recipe=name, weight=of("normal", 3.0), bias=of("constant", 7.0))
    weights = draw(graph, default, {}, seed=0)
    assert (weights["conv.bias"] == 7).all()
    for local, value in {"weight": 1, "bias": 0, "running_mean": 0, "running_var": 1}.items():
        np.testing.assert_array_equal(weights[f"bn.{local}"], np.full(5, value, np.float32))


# ---- what a spec may say beside a recipe ---------------------------------------------------------


def test_a_layer_goes_before_the_net_and_the_net_before_the_recipe() -> None:
    default = InitSpec(recipe="paper", weight=of("uniform", 0.5))
    layers = {
        "conv2": LayerInit(bias=of("constant", 9.0)),
        "fc7": LayerInit(weight=of("xavier_normal")),
        "conv5": LayerInit(weight=of("kaiming_uniform")),
    }
    resolved = resolve(like_alexnet(), default, layers)
    assert resolved["conv1.weight"] == resolved["conv2.weight"] == of("uniform", 0.5)
    assert resolved["conv2.bias"] == of("constant", 9.0)
    assert resolved["conv4.bias"] == of("constant", 1.0)
    assert resolved["fc7.weight"] == of("normal", math.sqrt(2 / (40 + 30)))
    assert resolved["conv5.weight"] == of("uniform", math.sqrt(6 / 14))


def test_a_layer_may_start_its_own_batch_norm_otherwise() -> None:
    graph = chain([("conv", Conv(out_channels=5, kernel_size=(2, 3))), ("bn", BatchNorm())])
    weights = draw(graph, recipe("kaiming"), {"bn": LayerInit(weight=of("constant", 0.0))}, seed=0)
    assert (weights["bn.weight"] == 0).all()
    assert (weights["bn.running_var"] == 1).all()


def test_faults_of_the_init_come_all_in_one_go() -> None:
    graph = chain(
        [
            ("conv", Conv(out_channels=5, kernel_size=(2, 3), bias=False)),
            ("bn", BatchNorm()),
            ("relu", Relu()),
        ]
    )
    layers = {
        "conv": LayerInit(weight=of("normal", 1e38), bias=of("constant", 1.0)),
        "bn": LayerInit(weight=of("kaiming_normal")),
        "relu": LayerInit(weight=of("constant", 1.0)),
        "gone": LayerInit(weight=of("constant", 1.0)),
    }
    with pytest.raises(AlexcError) as caught:
        draw(graph, recipe("kaiming"), layers, seed=0)
    assert [(d.code, d.message) for d in caught.value.diagnostics] == [
        ("init/no-such-tensor", "conv.bias is given an init, and the conv conv has weight"),
        ("init/no-such-tensor", "relu.weight is given an init, and the relu relu has no weights"),
        ("init/no-such-tensor", "gone.weight is given an init, and there is no layer gone"),
        ("init/too-large", "conv.weight: normal 1e+38 is more than float32 weights can hold"),
        (
            "init/no-fan",
            "bn.weight: kaiming_normal goes by the number of inputs, and batch norm sums none",
        ),
    ]


# ---- the distributions ---------------------------------------------------------------------------

# 240,000 values: the standard error of a mean is σ / 490, of a deviation about σ / 690.
SAMPLE = chain([("fc", Linear(out_features=400, bias=False))], (600,))


def sample(
    scheme: Scheme, value: float, seed: int = 0
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    layers = {"fc": LayerInit(weight=of(scheme, value))}
    return draw(SAMPLE, recipe("kaiming"), layers, seed)["fc.weight"].astype(np.float64)


def test_a_normal_draw_is_normal() -> None:
    values = sample("normal", 0.02) / 0.02
    assert abs(values.mean()) < 0.01
    assert values.std() == pytest.approx(1, rel=0.01)
    assert (values**4).mean() == pytest.approx(3, rel=0.03)
    for deviations, within in ((1, 0.6827), (2, 0.9545), (3, 0.9973)):
        assert (np.abs(values) < deviations).mean() == pytest.approx(within, abs=0.004)
    neighbours = np.corrcoef(values.reshape(-1)[:-1], values.reshape(-1)[1:])[0, 1]
    assert abs(neighbours) < 0.01


def test_a_truncated_normal_ends_at_two_deviations() -> None:
    values = sample("truncated_normal", 0.3) / 0.3
    assert np.abs(values).max() <= 2.0000001
    assert np.abs(values).max() > 1.999
    assert abs(values.mean()) < 0.01
    # Var = 1 − 2·2φ(2) / (2Φ(2) − 1) = 1 − 4·0.05399097 / 0.95449974
    assert values.std() == pytest.approx(math.sqrt(1 - 4 * 0.05399097 / 0.95449974), rel=0.01)


def test_a_uniform_draw_fills_its_range_evenly() -> None:
    values = sample("uniform", 0.25)
    assert -0.25 <= values.min() < -0.2499
    assert 0.2499 < values.max() <= 0.25
    counts, _ = np.histogram(values, bins=20, range=(-0.25, 0.25))
    assert counts.sum() == values.size
    assert (np.abs(counts - values.size / 20) < 6 * math.sqrt(values.size / 20)).all()


def test_a_width_of_zero_is_zero() -> None:
    assert not sample("normal", 0.0).any()
    assert not sample("uniform", 0.0).any()


# ---- what a draw depends on ----------------------------------------------------------------------


def test_a_draw_is_in_the_order_of_the_graph_and_all_float32() -> None:
    graph = like_alexnet()
    weights = draw(graph, recipe("torch"), {}, seed=0)
    assert list(weights) == list(graph.parameters)
    for name, array in weights.items():
        assert array.dtype == np.float32
        assert array.shape == graph.parameters[name].shape
        assert np.isfinite(array).all()


def test_another_layer_changes_nothing_in_a_draw() -> None:
    conv = ("conv", Conv(out_channels=5, kernel_size=(2, 3)))
    alone = draw(chain([conv]), recipe("torch"), {}, seed=8)
    longer = draw(
        chain([("before", Conv(out_channels=6, kernel_size=(2, 2))), conv, ("bn", BatchNorm())]),
        recipe("torch"),
        {},
        seed=8,
    )
    for name in ("conv.weight", "conv.bias"):
        np.testing.assert_array_equal(alone[name], longer[name], strict=True)


def test_seed_and_name_change_everything_in_a_draw() -> None:
    graph = chain([("one", Linear(out_features=40)), ("two", Linear(out_features=40))], (40,))
    first, second = (draw(graph, recipe("torch"), {}, seed) for seed in (0, 1))
    arrays = [
        weights[name].reshape(-1)
        for weights in (first, second)
        for name in ("one.weight", "two.weight")
    ]
    correlations = np.corrcoef(arrays) - np.eye(4)
    assert np.abs(correlations).max() < 0.12  # σ = 1/40; five deviations


def test_threads_and_blocks_do_not_repeat_or_change_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(init, "_BLOCK", 50_000)  # the sample in five blocks, the last one shorter
    values = sample("normal", 1.0)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    np.testing.assert_array_equal(values, sample("normal", 1.0), strict=True)
    blocks = [values.reshape(-1)[first : first + 40_000] for first in range(0, 240_000, 50_000)]
    correlations = np.corrcoef(blocks) - np.eye(5)
    assert np.abs(correlations).max() < 0.025


def test_the_bits_of_a_seed_are_for_ever() -> None:
    """What a seed means is part of every bundle ever built from it: these digests never change."""
    digests = {
        scheme: hashlib.sha256(sample(scheme, 0.5, seed=42).astype("<f4").tobytes()).hexdigest()[
            :16
        ]
        for scheme in ("normal", "truncated_normal", "uniform")
    }
    assert digests == {
        "normal": "31f8a966d428a5f3",
        "truncated_normal": "c159e5fb22579ceb",
        "uniform": "581895f6eaee71c3",
    }


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="a seed is 0 or more"):
        draw(SAMPLE, recipe("kaiming"), {}, seed=-1)
