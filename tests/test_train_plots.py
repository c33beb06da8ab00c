"""Pictures and page of a run, also of a short one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexc.train.plots import curves, draw_run, filters
from alexc.train.report import seconds_in_words
from tests.train_nets import run, small_net

pytest.importorskip("matplotlib")


def epoch(number: int) -> dict[str, Any]:
    return {
        "kind": "epoch",
        "epoch": number,
        "train_loss": 2 / number,
        "train_top1": 0.3,
        "loss": 3 / number,
        "top1": 0.2,
    }


def test_without_an_epoch_there_are_no_curves() -> None:
    assert curves([{"kind": "step", "step": 50}]) is None


@pytest.mark.parametrize("count", [1, 2, 20, 21, 90])
def test_curves_are_seen_however_few_epochs_there_are(count: int) -> None:
    figure = curves([epoch(number) for number in range(1, count + 1)])
    assert figure is not None
    for axes in figure.axes:
        low, high = axes.get_xlim()
        ticks = [float(tick) for tick in axes.get_xticks() if low <= tick <= high]
        assert ticks
        assert all(tick == round(tick) for tick in ticks)
        for line in axes.lines:
            assert len(line.get_xdata()) == count  # type: ignore[arg-type]
            assert (line.get_marker() == "o") == (count <= 20)
    losses, errors = figure.axes
    assert [line.get_ydata()[0] for line in losses.lines] == [2, 3]  # type: ignore[index]
    assert [line.get_ydata()[0] for line in errors.lines] == [70, 80]  # type: ignore[index]


def test_between_kernels_the_page_shines_through() -> None:
    weight = np.random.default_rng(5).standard_normal((6, 3, 4, 2)).astype(np.float32)
    (image,) = filters(weight).axes[0].images
    sheet = np.asarray(image.get_array())
    assert sheet.shape == (11, 13, 4)  # two rows of four places
    assert sheet[..., 3].sum() == 6 * 4 * 2
    assert not sheet[0].any()
    np.testing.assert_allclose(sheet[1:5, 1:3, :3].min(), 0)
    np.testing.assert_allclose(sheet[1:5, 1:3, :3].max(), 1)


def test_the_page_of_a_run_of_one_epoch(tmp_path: Path) -> None:
    net = small_net(tmp_path)
    outcome = run(net, tmp_path / "run", "train.epochs=1")
    written = draw_run(tmp_path / "run", outcome.scores, None)
    assert [path.name for path in written] == [
        *("curves.png", "filters.png", "confusion.png", "index.html")
    ]
    page = written[-1].read_text(encoding="utf-8")
    assert "88 images to learn from, 88 to test with; " in page
    assert ", one thread.</p>" in page
    assert "of 88 images, one view of each, after 0." in page
    assert page.count("<img class=drawn ") == 2
    assert page.count("<img alt=") == 1


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "0.00 s"),
        (0.414, "0.41 s"),
        (0.9949, "0.99 s"),
        (0.996, "1.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (5412.3, "5,412 s"),
    ],
)
def test_seconds_have_two_figures(seconds: float, words: str) -> None:
    assert seconds_in_words(seconds) == words
