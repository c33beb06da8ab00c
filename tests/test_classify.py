"""From scores to the most likely classes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from alexc_runtime import BatchError, Prediction, top
from alexc_runtime.manifest import Output
from tests.small_bundle import LABELS, MANIFEST


def test_logits_become_probabilities() -> None:
    scores = np.log([[0.1, 0.2, 0.4, 0.05, 0.25], [0.5, 0.1, 0.1, 0.1, 0.2]]).astype(np.float32)
    first, second = top({"scores": scores + 700}, MANIFEST, k=3)
    assert [(each.index, each.label) for each in first] == [
        (2, LABELS[2]),
        (4, LABELS[4]),
        (1, LABELS[1]),
    ]
    assert [each.probability for each in first] == pytest.approx([0.4, 0.25, 0.2], rel=1e-3)
    # Equals stand in the order of their classes.
    assert [each.index for each in second] == [0, 4, 1]


def test_probabilities_are_taken_as_they_are() -> None:
    manifest = replace(MANIFEST, outputs=(Output("scores", (5,), probabilities=True),))
    ((best,),) = top({"scores": np.array([[0, 0, 0.75, 0.25, 0]], np.float32)}, manifest, k=1)
    assert best == Prediction(LABELS[2], 2, 0.75)


def test_scores_far_apart_do_not_overflow() -> None:
    scores = np.array([[-3e38, 0, 3e38, 1, 2]], np.float32)
    ((first, second),) = top({"scores": scores}, MANIFEST, k=2)
    assert (first.index, first.probability) == (2, 1.0)
    assert second.probability == 0.0


def test_without_labels_there_are_indices() -> None:
    for labels in (None, LABELS[:2]):
        manifest = replace(MANIFEST, labels=labels)
        (found,) = top({"scores": np.arange(5, dtype=np.float32)[None]}, manifest)
        assert [each.index for each in found] == [4, 3, 2, 1, 0]
        assert found[0].label is None
        assert found[4].label == (labels[0] if labels else None)


def test_scores_may_have_a_height_and_width_of_one() -> None:
    manifest = replace(MANIFEST, outputs=(Output("scores", (5, 1, 1)),))
    (found,) = top({"scores": np.arange(5, dtype=np.float32).reshape(1, 5, 1, 1)}, manifest)
    assert found[0].index == 4


def test_what_are_no_scores_is_refused() -> None:
    manifest = replace(MANIFEST, outputs=(Output("conv", (5, 7, 9)),))
    with pytest.raises(BatchError, match="not one score per class"):
        top({"conv": np.zeros((2, 5, 7, 9), np.float32)}, manifest)
    for value in (np.nan, np.inf):
        with pytest.raises(BatchError, match="NaN or infinities"):
            top({"scores": np.full((2, 5), value, np.float32)}, MANIFEST)
