"""The parts of a step: augmentation, schedules, optimisers, the guard."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from alexc.graph.graph import Graph
from alexc.ops.structure import Flatten
from alexc.spec.model import Preprocess
from alexc.spec.recipe import AugmentSpec, NoiseSpec, OptimizerSpec, ScheduleSpec
from alexc.train.augment import Draw, Pixels, cut
from alexc.train.optimizer import make_optimizer
from alexc.train.schedule import Plateau, factor


def _graph(channels: int, height: int, width: int) -> Graph:
    layers = [("flatten", Flatten(), ("input",))]
    return Graph.build("flat", (channels, height, width), layers, ("flatten",))


def _images(count: int, height: int, width: int, channels: int) -> torch.Tensor:
    chance = np.random.default_rng(height * width)
    pixels = chance.integers(0, 256, (count, height, width, channels), dtype=np.uint8)
    return torch.from_numpy(pixels)


# ---- augmentation --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(7, 9), (70, 90)], ids=["gathered", "copied"])
def test_a_cut_is_a_window_mirrored_or_not(size: tuple[int, int]) -> None:
    height, width = size
    images = _images(5, height + 4, width + 3, 3)
    top, left = torch.tensor([0, 4, 2, 1, 3]), torch.tensor([3, 0, 1, 2, 0])
    mirrored = torch.tensor([False, True, True, False, True])
    found = cut(images, top, left, mirrored, height, width)
    for number in range(5):
        y, x = int(top[number]), int(left[number])
        window = images[number, y : y + height, x : x + width]
        wanted = window.flip(1) if mirrored[number] else window
        assert torch.equal(found[number], wanted)


def test_pixels_are_scaled_as_the_runtime_scales_them() -> None:
    said = Preprocess(channels="bgr", scale=0.5, mean=(3.0, 5.0, 7.0), std=(2.0, 4.0, 8.0))
    images = _images(2, 6, 5, 3)
    inputs = Pixels(_graph(3, 6, 5), said, AugmentSpec(), (6, 5, 3)).for_testing(images)
    assert inputs.shape == (2, 3, 6, 5)
    for channel, (source, mean, std) in enumerate([(2, 3, 2), (1, 5, 4), (0, 7, 8)]):
        wanted = (images[..., source].float() * 0.5 - mean) / std
        torch.testing.assert_close(inputs[:, channel], wanted)


@pytest.mark.parametrize("channels", ["rgb", "bgr"])
def test_colour_noise_shifts_each_image_along_the_components(channels: str) -> None:
    vectors = ((0.6, 0.8, 0.0), (0.0, 0.0, 1.0), (0.8, -0.6, 0.0))
    noise = NoiseSpec(std=0.1, eigenvalues=(0.3, 0.2, 0.1), eigenvectors=vectors)
    said = Preprocess(channels=channels, scale=1 / 255, std=(0.5, 0.25, 0.2))  # type: ignore[arg-type]
    images = _images(4, 6, 5, 3)
    draw = Draw.of(1, 2, 4)
    graph = _graph(3, 6, 5)
    plain = Pixels(graph, said, AugmentSpec(), (6, 5, 3)).for_training(images, draw)
    noisy = Pixels(graph, said, AugmentSpec(noise=noise), (6, 5, 3)).for_training(images, draw)
    alphas = 0.1 * draw.noise.numpy()
    shift = (alphas * np.array([0.3, 0.2, 0.1])) @ np.array(vectors)  # of R, G, B in [0, 1]
    if channels == "bgr":
        shift = shift[:, ::-1]
    wanted = np.broadcast_to((shift / np.array([0.5, 0.25, 0.2]))[:, :, None, None], noisy.shape)
    np.testing.assert_allclose((noisy - plain).numpy(), wanted, atol=1e-6)


@pytest.mark.parametrize("border", ["reflect", "zero"])
def test_crops_come_from_everywhere_and_what_is_beyond_the_edge(border: str) -> None:
    augment = AugmentSpec(padding=2, border=border, flip=True)  # type: ignore[arg-type]
    image = _images(1, 7, 6, 1)
    count = 600
    inputs = Pixels(_graph(1, 7, 6), None, augment, (7, 6, 1)).for_training(
        image.expand(count, -1, -1, -1), Draw.of(3, 4, count)
    )
    mode = "reflect" if border == "reflect" else "constant"
    padded = np.pad(image[0, :, :, 0].numpy(), 2, mode=mode)  # type: ignore[call-overload]
    views = {
        window.tobytes()
        for y in range(5)
        for x in range(5)
        for window in (padded[y : y + 7, x : x + 6], padded[y : y + 7, x : x + 6][:, ::-1])
    }
    found = {view.astype(np.uint8).tobytes() for view in inputs[:, 0].numpy()}
    assert found == views


def test_ten_views_are_corners_and_centre_and_their_mirror_images() -> None:
    images = _images(2, 9, 8, 3)
    views = Pixels(_graph(3, 6, 5), None, AugmentSpec(), (9, 8, 3)).for_testing(images, 10)
    assert views.shape == (20, 3, 6, 5)
    source = images.permute(0, 3, 1, 2).float()
    corners = [(0, 0), (0, 3), (3, 0), (3, 3), (round(1.5), round(1.5))]
    for image in range(2):
        for number, (y, x) in enumerate(corners):
            wanted = source[image, :, y : y + 6, x : x + 5]
            assert torch.equal(views[10 * image + 2 * number], wanted)
            assert torch.equal(views[10 * image + 2 * number + 1], wanted.flip(2))


def test_small_images_are_enlarged_as_pillow_enlarges_them() -> None:
    from PIL import Image

    images = _images(1, 7, 9, 1)
    pixels = Pixels(
        _graph(1, 21, 21), Preprocess(resize=21, channels="grey"), AugmentSpec(), (7, 9, 1)
    )
    inputs = pixels.for_testing(images)
    large = Image.fromarray(images[0, :, :, 0].numpy()).resize((27, 21), Image.Resampling.BILINEAR)
    wanted = np.asarray(large.crop((3, 0, 24, 21)), np.float32)
    assert np.abs(inputs[0, 0].numpy() - wanted).max() <= 1


def test_a_square_is_erased_around_a_point() -> None:
    inputs = Pixels(_graph(1, 12, 10), None, AugmentSpec(erase=4), (12, 10, 1)).for_training(
        torch.full((300, 12, 10, 1), 7, dtype=torch.uint8), Draw.of(5, 6, 300)
    )
    erased = (inputs == 0).sum(dim=(1, 2, 3))
    assert int(erased.max()) == 16
    assert int(erased.min()) == 4  # in a corner, a quarter of it
    assert bool(((inputs == 0) | (inputs == 7)).all())


def test_a_draw_depends_on_seed_and_step_alone() -> None:
    assert torch.equal(Draw.of(1, 9, 8).row, Draw.of(1, 9, 8).row)
    assert not torch.equal(Draw.of(1, 9, 8).row, Draw.of(1, 10, 8).row)
    assert not torch.equal(Draw.of(1, 9, 8).row, Draw.of(2, 9, 8).row)


# ---- schedules and optimisers --------------------------------------------------------------------


def test_schedules_by_hand() -> None:
    def at(epoch: float, spec: ScheduleSpec) -> float:
        return factor(spec, epoch, 10, Plateau())

    cosine = ScheduleSpec(name="cosine", warmup=2, last=0.1)
    assert [at(e, cosine) for e in (0.5, 1.0)] == [0.25, 0.5]
    assert at(2.0, cosine) == 1.0
    assert math.isclose(at(6.0, cosine), 0.55)
    assert math.isclose(at(10.0, cosine), 0.1)
    step = ScheduleSpec(name="step", every=4, factor=0.5)
    assert [at(e, step) for e in (3.9, 4.0, 8.5)] == [1.0, 0.5, 0.25]
    assert math.isclose(at(7.5, ScheduleSpec(name="linear")), 0.25)
    assert at(7.5, ScheduleSpec(name="constant")) == 1.0


def test_a_plateau_lowers_the_rate_three_times_at_most() -> None:
    spec = ScheduleSpec(name="plateau", patience=2, times=3)
    plateau = Plateau()
    factors = []
    for error in (0.9, 0.8, 0.8, 0.8, 0.7, 0.71, 0.72, 0.73, 0.74, 0.75, 0.76, 0.77, 0.78):
        plateau.see(error, spec)
        factors.append(round(math.log10(factor(spec, 0, 10, plateau))))
    assert factors == [0, 0, 0, -1, -1, -1, -2, -2, -3, -3, -3, -3, -3]


@pytest.mark.parametrize("name", ["sgd", "lars"])
def test_updates_by_hand(name: str) -> None:
    spec = OptimizerSpec(
        name=name,  # type: ignore[arg-type]
        learning_rate=0.1,
        momentum=0.5,
        weight_decay=0.2,
        decay_biases=False,
        trust=0.01,
    )
    layer = nn.Linear(3, 2, dtype=torch.float64)
    optimizer = make_optimizer(layer, spec)
    w, b = (p.detach().clone() for p in (layer.weight, layer.bias))
    v_w, v_b = torch.zeros_like(w), torch.zeros_like(b)
    for number in range(3):
        g_w, g_b = torch.full_like(w, number + 1.0), torch.full_like(b, -1.0)
        layer.weight.grad, layer.bias.grad = g_w.clone(), g_b.clone()
        optimizer.step()
        local = 1.0
        if name == "lars":
            local = float(0.01 * w.norm() / (g_w.norm() + 0.2 * w.norm()))
        v_w = 0.5 * v_w + local * 0.1 * (g_w + 0.2 * w)
        v_b = 0.5 * v_b + 0.1 * g_b
        w, b = w - v_w, b - v_b
    torch.testing.assert_close(layer.weight.detach(), w)
    torch.testing.assert_close(layer.bias.detach(), b)
