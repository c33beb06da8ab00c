"""The rounding model and the tolerances that follow from it, against sums that are really rounded.

Nothing here runs a backend: float32 in numpy, one operation after the other, is the implementation
that a tolerance must bear, and errors a few times larger are what it must not.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from alexc.graph.graph import INPUT, Graph, Node, make_node
from alexc.ops import GRAPH_OPS
from alexc.ops.base import Op, Shape
from alexc.ops.conv import Conv
from alexc.ops.dense import Linear
from alexc.ops.norm import BatchNorm, Lrn
from alexc.ops.pixels import Pixels
from alexc.ops.pointwise import Relu, Softmax
from alexc.ops.structure import Flatten
from alexc.verify import tolerance
from alexc.verify.precision import BF16, FP16, FP32, TF32, Precision
from alexc.verify.reference import Expectation, expect, layer_alone
from alexc.verify.rounding import RULES, Rounding

Float32 = NDArray[np.float32]


def node(op: Op, *shapes: Shape) -> Node:
    return make_node("layer", op, tuple(f"x{i}" for i in range(len(shapes))), shapes)


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Float32:
    generator = np.random.default_rng(seed)
    return (scale * generator.standard_normal(shape)).astype(np.float32)


def one_after_the_other(x: Float32, weight: Float32, bias: Float32) -> Float32:
    """A linear layer as the plainest loop computes it: from the bias, in float32, term by term."""
    products = x[:, np.newaxis, :] * weight
    start = np.broadcast_to(bias[np.newaxis, :, np.newaxis], (*products.shape[:2], 1))
    chain = np.concatenate([start, products], axis=2)
    return np.asarray(np.add.accumulate(chain, axis=2)[:, :, -1])


def linear_margin(x: Float32, weight: Float32, bias: Float32) -> float:
    """Tolerance over error where the sums are rounded most: above 1 there is no false alarm."""
    layer = node(Linear(out_features=len(weight)), x.shape[1:])
    value, allowed, _ = layer_alone(layer, [x], {"weight": weight, "bias": bias}, FP32)
    error = np.abs(one_after_the_other(x, weight, bias) - value)
    return float((allowed / np.maximum(error, 1e-300)).min())


def test_every_op_has_a_rule() -> None:
    assert set(RULES) == set(GRAPH_OPS.values())


PHOTO = Pixels(scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


@pytest.mark.parametrize("op", [PHOTO, Pixels(scale=1.0, mean=(104.0, 117.0, 123.0), std=(1,) * 3)])
def test_every_way_to_normalise_pixels_is_within_the_tolerance(op: Pixels) -> None:
    pixels = np.broadcast_to(np.arange(256, dtype=np.float32), (2, 3, 5, 256)).copy()
    value, allowed, _ = layer_alone(node(op, (3, 5, 256)), [pixels], {}, FP32)
    mean, std = (np.array(each).reshape(-1, 1, 1) for each in (op.mean, op.std))
    narrow_mean, narrow_std = mean.astype(np.float32), std.astype(np.float32)
    scale, factor = np.float32(op.scale), (op.scale / std).astype(np.float32)
    ways = {
        "as it is written": (pixels * scale - narrow_mean) / narrow_std,
        "by the reciprocal": (pixels * scale - narrow_mean) * (1 / std).astype(np.float32),
        "one factor, one offset": pixels * factor + (-mean / std).astype(np.float32),
    }
    for way, found in ways.items():
        assert found.dtype == np.float32
        assert (np.abs(found - value) <= allowed).all(), way
    # A mean that is off by a hundredth of a pixel is not.
    shifted = (pixels * scale - (narrow_mean + np.float32(0.01) * scale)) / narrow_std
    assert (np.abs(shifted - value) > allowed).all()


@pytest.mark.parametrize("terms", [3, 70, 4000])
def test_a_plain_loop_is_within_the_tolerance_and_not_far_from_it(terms: int) -> None:
    margin = linear_margin(normal(4, terms), normal(50, terms, seed=1), normal(50, seed=2))
    assert 1 < margin < 12


def constant(value: float, *shape: int) -> Float32:
    return np.full(shape, value, np.float32)


def up_then_down(rows: int, terms: int) -> Float32:
    """Weights whose first half is positive and whose second half is negative."""
    signs = np.where(np.arange(terms) * 2 < terms, 1, -1).astype(np.float32)
    return np.asarray(abs(normal(rows, terms, seed=1)) * signs)


def pruned(rows: int, terms: int) -> Float32:
    return np.asarray(normal(rows, terms) * (np.arange(terms) % 100 == 0))


# Inputs, weight and bias of linear layers that are hard to add up, each in its own way.
HARD_SUMS: dict[str, tuple[Float32, Float32, Float32]] = {
    "all positive": (abs(normal(3, 900)), abs(normal(40, 900, seed=1)), normal(40, seed=2)),
    "equal terms": (constant(0.76, 2, 1872), constant(0.1023, 25, 1872), normal(25)),
    "a large bias first": (
        normal(3, 600, scale=0.01),
        normal(40, 600, seed=1, scale=0.01),
        constant(1.0, 40),
    ),
    "first up, then down": (abs(normal(3, 2000)), up_then_down(30, 2000), normal(30)),
    "few terms": (pruned(3, 900), normal(40, 900, seed=1), normal(40)),
    "very small": (
        normal(3, 200, scale=1e-18),
        normal(30, 200, seed=1, scale=1e-18),
        normal(30, scale=1e-36),
    ),
    "below the normal numbers": (
        normal(3, 200, scale=1e-39),
        normal(30, 200, seed=1),
        constant(0.0, 30),
    ),
    "very large": (normal(3, 200, scale=1e18), normal(30, 200, seed=1, scale=1e18), normal(30)),
    "nothing but zeros": (constant(0.0, 2, 9), constant(0.0, 4, 9), constant(0.0, 4)),
}


@pytest.mark.parametrize("kind", HARD_SUMS)
def test_no_kind_of_terms_raises_a_false_alarm(kind: str) -> None:
    assert linear_margin(*HARD_SUMS[kind]) > 1


def test_sums_that_float32_cannot_hold_have_a_tolerance_too() -> None:
    """No chain is measured then, each ends in infinity; the model of the sum is left."""
    layer = node(Linear(out_features=6), (41,))
    weights = {"weight": constant(1e30, 6, 41), "bias": constant(0.0, 6)}
    value, allowed, _ = layer_alone(layer, [constant(1e30, 2, 41)], weights, FP32)
    assert np.isfinite(value).all()
    assert np.isfinite(allowed).all()
    assert (allowed > 0).all()


def test_equal_terms_round_alike_and_are_allowed_more() -> None:
    """The error of n equal terms grows as n, that of n different ones as √n."""
    layer = node(Linear(out_features=6, bias=False), (4096,))
    x = np.ones((1, 4096), np.float32)
    equal = {"weight": constant(0.1, 6, 4096)}
    different = {"weight": (0.1 + 1e-3 * normal(6, 4096)).astype(np.float32)}
    _, alike, _ = layer_alone(layer, [x], equal, FP32)
    _, mixed, _ = layer_alone(layer, [x], different, FP32)
    assert 10 < alike.mean() / mixed.mean() < 100


def test_tolerances_scale_with_what_they_are_of() -> None:
    """A power of two changes no rounding, so it must change nothing but the scale."""
    layer = node(Conv(out_channels=7, kernel_size=(3, 2)), (5, 9, 11))
    x = normal(2, 5, 9, 11)
    weights = {"weight": normal(7, 5, 3, 2, seed=1), "bias": normal(7, seed=2)}
    _, allowed, _ = layer_alone(layer, [x], weights, FP32)
    scaled = {"weight": weights["weight"], "bias": weights["bias"] * np.float32(2**20)}
    _, larger, _ = layer_alone(layer, [x * np.float32(2**20)], scaled, FP32)
    np.testing.assert_allclose(larger, allowed * 2**20, rtol=1e-9)


def test_a_fault_of_a_millionth_is_no_rounding() -> None:
    layer = node(Linear(out_features=50), (300,))
    x, weight, bias = normal(4, 300), normal(50, 300, seed=1), normal(50, seed=2)
    value, allowed, _ = layer_alone(layer, [x], {"weight": weight, "bias": bias}, FP32)
    assert allowed.max() < 1e-5 * math.sqrt(np.mean(value**2))


@pytest.mark.parametrize(
    ("precision", "unit"), [(TF32, 2.0**-11), (FP16, 2.0**-11), (BF16, 2.0**-8)]
)
def test_a_narrower_format_is_allowed_its_own_rounding(precision: Precision, unit: float) -> None:
    layer = node(Linear(out_features=50, bias=False), (300,))
    x, weights = normal(4, 300), {"weight": normal(50, 300, seed=1)}
    value, allowed, _ = layer_alone(layer, [x], weights, precision)
    rounded = {name: _to_unit(array, unit) for name, array in weights.items()}
    error = np.abs(_to_unit(x, unit) @ rounded["weight"].T - value)
    assert (error < allowed).all()
    assert allowed.mean() < 30 * unit * np.abs(value).mean()


def _to_unit(values: Float32, unit: float) -> NDArray[np.float64]:
    """Rounded to a mantissa of this unit roundoff."""
    mantissa, exponent = np.frexp(values.astype(np.float64))
    return np.asarray(np.ldexp(np.rint(mantissa / unit) * unit, exponent))


def test_lrn_bears_windows_that_slide() -> None:
    """Adding one square and taking off another keeps the rounding of a large sum beside it."""
    op = Lrn(size=3, alpha=0.5, beta=0.75, k=1.0, alpha_per="element")
    x = normal(2, 40, 3, 5)
    x[:, 7] *= 300
    value, allowed, _ = layer_alone(node(op, (40, 3, 5)), [x], {}, FP32)
    square = np.float32(0.5) * x * x
    padded = np.pad(square, [(0, 0), (2, 2), (0, 0), (0, 0)])
    total = np.float32(1) + padded[:, 1] + padded[:, 2]
    got = np.empty_like(x)
    for channel in range(40):
        total = total + padded[:, channel + 3] - padded[:, channel]
        got[:, channel] = x[:, channel] * total ** np.float32(-0.75)
    assert (np.abs(got - value) <= allowed).all()
    # Before the large channel no sum is large, and so little is allowed.
    assert (allowed[:, 0] < 1e-5 * np.abs(x[:, 0])).all()


def test_batch_norm_bears_folded_statistics_and_no_other_eps() -> None:
    op = BatchNorm(eps=1e-5)
    x = normal(3, 6, 4, 5) + np.float32(2)
    weights = {
        "weight": normal(6),
        "bias": normal(6, seed=1),
        "running_mean": normal(6, seed=2) + np.float32(2),
        "running_var": np.array([1e-6, 1e-4, 0.1, 1, 10, 3], np.float32),
    }
    value, allowed, _ = layer_alone(node(op, (6, 4, 5)), [x], weights, FP32)
    by_channel = {n: a[:, np.newaxis, np.newaxis] for n, a in weights.items()}
    scale = by_channel["weight"] / np.sqrt(by_channel["running_var"] + np.float32(1e-5))
    folded = x * scale + (by_channel["bias"] - by_channel["running_mean"] * scale)
    assert (np.abs(folded - value) <= allowed).all()
    other = BatchNorm(eps=1.01e-5).reference(
        [x.astype(np.float64)], {n: a.astype(np.float64) for n, a in weights.items()}
    )
    assert (np.abs(other - value) > allowed)[:, :2].all()


def test_what_is_copied_is_allowed_nothing_but_underflow() -> None:
    x = normal(2, 3, 4, 5)
    value, allowed, _ = layer_alone(node(Relu(), (3, 4, 5)), [x], {}, FP32)
    assert allowed.max() <= 2.0**-126
    np.testing.assert_array_equal(value, np.maximum(x, 0))


def test_a_softmax_of_far_apart_numbers_is_allowed_their_distance() -> None:
    x = np.array([[0, -40, -60]], np.float32)
    value, allowed, _ = layer_alone(node(Softmax(), (3,)), [x], {}, FP32)
    relative = allowed / value
    assert relative[0, 0] < relative[0, 1] < relative[0, 2] < 1e-4


def test_peaks_foretell_overflow() -> None:
    op = Lrn(size=5, alpha=1.0, beta=0.75, k=2.0, alpha_per="element")
    x = np.full((1, 5, 2, 3), 200, np.float32)
    _, _, peaks = layer_alone(node(op, (5, 2, 3)), [x], {}, FP16)
    assert peaks[0] > FP16.largest  # Σ 200² = 200,000, though 200 is nothing
    _, _, peaks = layer_alone(node(Relu(), (5, 2, 3)), [x], {}, FP16)
    assert peaks[0] < FP16.largest


# ---- the whole net -------------------------------------------------------------------------------


def chain(*ops: Op, shape: Shape) -> Graph:
    layers = []
    before = INPUT
    for index, op in enumerate(ops):
        layers.append((f"layer{index}", op, (before,)))
        before = f"layer{index}"
    return Graph.build("chain", shape, layers, (before,))


def test_errors_come_through_the_layers_between() -> None:
    """What a large weight does to a value it does to the errors in it."""
    graph = chain(Linear(out_features=40), Linear(out_features=30), shape=(50,))
    weights = {
        "layer0.weight": normal(40, 50),
        "layer0.bias": normal(40),
        "layer1.weight": normal(30, 40, seed=1),
        "layer1.bias": normal(30),
    }
    expected = expect(graph, weights, normal(3, 50))
    weights["layer1.weight"] = weights["layer1.weight"] * np.float32(8)
    larger = expect(graph, weights, normal(3, 50))
    ratio = larger.tolerances["layer1"].mean() / expected.tolerances["layer1"].mean()
    assert 7 < ratio < 9
    np.testing.assert_array_equal(larger.tolerances["layer0"], expected.tolerances["layer0"])


def test_the_whole_net_in_float32_is_within_its_tolerances() -> None:
    sizes = (60, 50, 40, 30, 20)
    ops = [op for size in sizes for op in (Linear(out_features=size), Relu())]
    graph = chain(*ops, shape=(70,))
    weights = {}
    before = 70
    for index, size in enumerate(sizes):
        weights[f"layer{2 * index}.weight"] = normal(size, before, seed=index, scale=0.2)
        weights[f"layer{2 * index}.bias"] = normal(size, seed=index + 10)
        before = size
    x = normal(8, 70)
    expected = expect(graph, weights, x)
    for index in range(len(sizes)):
        name = f"layer{2 * index}"
        x = one_after_the_other(x, weights[f"{name}.weight"], weights[f"{name}.bias"])
        error = np.abs(x - expected.values[name])
        assert (error <= expected.tolerances[name]).all()
        assert expected.tolerances[name].mean() < 40 * error.mean()
        x = np.maximum(x, 0)


def test_the_same_seed_gives_the_same_tolerances() -> None:
    graph = chain(Linear(out_features=9), Relu(), Linear(out_features=5), shape=(7,))
    weights = {n: normal(*p.shape) for n, p in graph.parameters.items()}
    first, again, other = (expect(graph, weights, normal(2, 7), seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.tolerances["layer2"], again.tolerances["layer2"])
    assert (first.tolerances["layer2"] != other.tolerances["layer2"]).any()


def test_images_that_are_evaluated_apart_are_as_those_evaluated_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layers = (
        Conv(out_channels=4, kernel_size=(3, 2)),
        Relu(),
        Flatten(),
        Linear(out_features=9),
        Relu(),
        Linear(out_features=5),
    )
    graph = chain(*layers, shape=(2, 5, 6))
    weights = {n: normal(*p.shape) for n, p in graph.parameters.items()}

    def evaluated() -> list[Expectation]:
        return [expect(graph, weights, normal(5, 2, 5, 6), seed=seed) for seed in range(12)]

    together = evaluated()
    monkeypatch.setattr("alexc.verify.reference._TOGETHER", 1)
    apart = evaluated()
    last = graph.outputs[0]
    np.testing.assert_allclose(apart[0].values[last], together[0].values[last], rtol=1e-12)
    # They are drawn, and so it is their usual size that agrees.
    usual = [np.median([e.tolerances[last] for e in each], axis=0) for each in (apart, together)]
    ratio = usual[0] / usual[1]
    assert ratio.shape == (5, 5)
    assert 0.6 < ratio.min() <= ratio.max() < 1.7


def test_images_do_not_lend_each_other_tolerance() -> None:
    graph = chain(Linear(out_features=9), Linear(out_features=5), shape=(7,))
    weights = {n: normal(*p.shape) for n, p in graph.parameters.items() if "weight" in n}
    weights |= {
        n: np.zeros(p.shape, np.float32) for n, p in graph.parameters.items() if "bias" in n
    }
    small = normal(1, 7)
    both = expect(graph, weights, np.concatenate([small, small * np.float32(1e6)]))
    assert both.tolerances["layer1"][0].max() < 1e-5 * both.tolerances["layer1"][1].max()


# ---- statistics ----------------------------------------------------------------------------------


def test_drawn_errors_have_the_deviation_they_are_drawn_with() -> None:
    sigma, wandering = np.full((2, 30, 20, 25), 3.0), np.full((2, 30, 20, 25), 4.0)
    local = Rounding(sigma, 0.0, np.zeros(2), wandering)
    errors = tolerance.draw(np.random.default_rng(0), local, 8)
    assert errors.shape == (8, 2, 30, 20, 25)
    np.testing.assert_allclose(errors.std(axis=(1, 2, 3, 4))[::2], 5.0, rtol=0.02)
    np.testing.assert_allclose(np.abs(errors[1::2]), 5.0)
    one_a_channel, one_an_image = errors[1], errors[3]
    assert (one_a_channel.std(axis=(2, 3)) == 0).all()
    assert one_a_channel.std() > 4
    assert (one_an_image.std(axis=(1, 2, 3)) == 0).all()


@pytest.mark.parametrize("elements", [1, 40, 5000])
@pytest.mark.parametrize("draws", [3, 16])
def test_the_factor_covers_what_draws_may_have_missed(elements: int, draws: int) -> None:
    """A tolerance of the factor times the largest draw is exceeded as rarely as it should be."""
    generator = np.random.default_rng(elements + draws)
    trials = 400
    largest = np.array(
        [np.abs(generator.standard_normal(elements * draws)).max() for _ in range(trials)]
    )
    allowed = tolerance.factor(elements, draws) * largest
    chance = [elements * math.erfc(each / math.sqrt(2)) for each in allowed]
    assert np.mean(chance) < 100 * tolerance.FALSE_ALARM + tolerance.UNLUCKY_DRAWS * 10
    assert allowed.min() > 1


def test_wandering_sums_have_the_tails_that_are_assumed() -> None:
    """Partial sums of a random walk, rounded: heavier than normal, no heavier than Laplace's.

    Given the walk the error is normal, of a variance ∝ ∫ walk². For one that ends where it began
    (y = 0) that integral has the mean 1/6.
    """
    generator = np.random.default_rng(0)
    steps = 64
    walk = np.cumsum(generator.standard_normal((100_000, steps)), axis=1) / math.sqrt(steps)
    walk -= walk[:, -1:] * (np.arange(1, steps + 1) / steps)
    deviation = np.sqrt((walk**2).mean(axis=1) * 6)
    for multiple in (3, 5, 7):
        chance = np.mean([math.erfc(multiple / d / math.sqrt(2)) for d in deviation[:20_000]])
        assert (
            math.erfc(multiple / math.sqrt(2)) < chance < 1.3 * math.exp(-math.sqrt(2) * multiple)
        )


def test_small_nets_are_drawn_more_often() -> None:
    assert tolerance.draws_for(1000, 2) == tolerance.MOST_DRAWS
    assert tolerance.draws_for(10**10, 8) == tolerance.FEWEST_DRAWS
