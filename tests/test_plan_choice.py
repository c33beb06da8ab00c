"""From made-up measurements to a choice: what is over the budget, what ties, what is said of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from alexc.diagnostics import AlexcError, UsageError
from alexc.plan.budget import Budget, Error, nearest, parse_budget
from alexc.plan.choice import Tried, choose, first, leaders, racing, ranges, sizes, verdict
from alexc.plan.outcome import nothing_passes, plan_of
from alexc.plan.timing import Times
from alexc.plan.variant import PRECISIONS, Variant, combined, narrower, threaded
from alexc_runtime.manifest import BatchRange

EXACT = Error(1e-7, True)
COARSE = Error(4e-3, False, 0.99)
LOOSE = parse_budget("1e-2")


def times(ms: float, noise: float = 0.0, rounds: int = 9) -> Times:
    """So many rounds of runs around `ms`; each other round is slower by the noise."""
    return Times(tuple((ms * (1 + noise * (i % 2)),) * 2 for i in range(rounds)))


def tried(
    engine: str,
    ms: dict[int, float],
    precision: str = "fp32",
    error: Error = EXACT,
    noise: float = 0.0,
    **changes: Any,
) -> Tried:
    """One that was verified, and took so long in the last race."""
    found = Tried(Variant(engine, precision), error, verified=True, **changes)
    found.final = {batch: times(each, noise) for batch, each in ms.items()}
    return found


# ---- budgets -------------------------------------------------------------------------------------


def test_what_is_within_a_budget() -> None:
    assert parse_budget("exact").excess(EXACT) is None
    assert parse_budget("exact").excess(Error(1e-7, False)) == (
        "an error of 1.0e-07 is more than rounding in fp32 explains"
    )
    assert parse_budget("1e-3").excess(COARSE) == "an error of 4.0e-03, where 0.001 is allowed"
    assert parse_budget("4e-3").excess(COARSE) is None
    assert parse_budget("top1:99%").excess(COARSE) is None
    over = parse_budget("top1:99.5%").excess(COARSE)
    assert over == (
        "the reference's first class for 99.00% of the photographs, where 99.50% is asked for"
    )
    both = parse_budget("1e-2, top1:99%")
    assert both == Budget("1e-2,top1:99%", False, 0.01, 0.99)
    assert both.excess(COARSE) is None
    assert both.excess(Error(4e-3, False)) == "its agreement with the reference was not measured"
    # NaN is within nothing.
    assert parse_budget("0.5").excess(Error(float("nan"), False)) is not None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("1e-3,", "is empty"),
        ("fast", "'fast' is no budget"),
        ("EXACT", "'EXACT' is no budget"),
        ("-1e-3", "is no budget"),
        ("top1:99", "is no budget"),
        ("nan", "is no budget"),
        ("0", "a relative error of 0 is not between 0 and 1"),
        ("1", "not between 0 and 1"),
        ("top1:0%", "a share of 0% is not above 0 %"),
        ("top1:101%", "is not above 0 % up to 100 %"),
        ("1e-3, 1e-2", "one relative error, and this one has 1e-3 and 1e-2"),
        ("top1:9%,top1:8%", "one share of photographs, and this one has top1:9% and top1:8%"),
        ("x" * 99, f"'{'x' * 40}…' is no budget"),
    ],
)
def test_what_is_no_budget(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_budget(text)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "plan/budget"
    assert message in diagnostic.message


def test_the_nearest_and_what_would_take_it() -> None:
    errors = [Error(0.31, False, 0.9), Error(0.0432, False, 0.985), Error(0.05, False, 0.98)]
    assert nearest(parse_budget("1e-3"), errors) == 1
    assert nearest(parse_budget("top1:99%"), errors) == 1
    assert nearest(parse_budget("exact"), []) is None
    for text in ("1e-3", "top1:99.5%", "1e-3,top1:99.5%", "exact"):
        budget = parse_budget(text)
        suggested = budget.taking(errors[1])
        assert suggested is not None
        wider = parse_budget(suggested)
        assert budget.excess(errors[1]) is not None
        assert wider.excess(errors[1]) is None
    assert parse_budget("1e-3,top1:99.5%").taking(errors[1]) == "0.044,top1:98.5%"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("1e-3", Error(1.0, False)),
        ("exact", Error(0.999, False)),
        ("exact", Error(float("nan"), False)),
        ("top1:99%", Error(1e-3, False, 0.0)),
        ("1e-2,top1:99%", Error(1e-3, False, 0.00004)),
    ],
)
def test_a_budget_that_could_not_be_given_is_not_suggested(text: str, error: Error) -> None:
    assert parse_budget(text).taking(error) is None


# ---- choosing ------------------------------------------------------------------------------------


def test_the_fastest_within_the_budget_is_chosen_at_each_batch() -> None:
    one = tried("onnxruntime", {1: 9.0, 8: 40.0})
    two = tried("openvino", {1: 8.0, 8: 50.0})
    narrow = tried("openvino", {1: 2.0, 8: 20.0}, "bf16", COARSE)
    every = [one, two, narrow]
    assert choose(every, LOOSE, (1, 8)) == {1: narrow, 8: narrow}
    assert choose(every, parse_budget("1e-3"), (1, 8)) == {1: two, 8: one}
    assert choose(every, parse_budget("1e-3"), (1, 8, 32)) == {1: two, 8: one}
    # The same measurements in another order of candidates give the same choice.
    assert choose(every[::-1], LOOSE, (1, 8)) == {1: narrow, 8: narrow}


@pytest.mark.parametrize(
    "changes", [{"verified": False}, {"verified": None}, {"fault": "failed: it died"}]
)
def test_what_was_not_verified_or_failed_is_never_chosen(changes: dict[str, Any]) -> None:
    slow, fast = tried("onnxruntime", {1: 9.0}), tried("openvino", {1: 1.0})
    for name, value in changes.items():
        setattr(fast, name, value)
    assert choose([slow, fast], LOOSE, (1,)) == {1: slow}
    unknown = tried("openvino", {1: 1.0})
    unknown.error = None
    assert choose([slow, unknown], LOOSE, (1,)) == {1: slow}


def test_a_tie_goes_to_the_more_exact_then_to_the_first() -> None:
    exact = tried("onnxruntime", {1: 2.01}, noise=0.03)
    narrow = tried("openvino", {1: 2.0}, "bf16", COARSE)
    narrower_still = tried("openvino", {1: 2.0}, "int8", Error(9e-3, False))
    alike = tried("openvino", {1: 2.01}, noise=0.03)
    # Every other round the exact one is faster.
    narrow.final[1] = times(2.02, -0.03)
    assert choose([narrow, exact], LOOSE, (1,)) == {1: exact}
    narrow.final[1] = times(2.0)
    assert choose([narrower_still, narrow], LOOSE, (1,)) == {1: narrow}
    assert choose([exact, alike], LOOSE, (1,)) == {1: exact}
    assert choose([alike, exact], LOOSE, (1,)) == {1: alike}


def test_a_tie_keeps_one_session() -> None:
    """The same file with as many threads as the engine takes anyway would be loaded twice."""
    usual = tried("onnxruntime", {1: 3.0, 8: 20.0, 32: 80.0}, noise=0.03)
    named = tried("onnxruntime", {1: 2.0, 8: 20.0, 32: 80.0}, noise=0.03)
    named.variant = replace(named.variant, threads=2)
    other = tried("openvino", {1: 4.0, 8: 20.1, 32: 90.0}, noise=0.03)
    every, budget = [usual, other, named], parse_budget("exact")
    chosen = choose(every, budget, (1, 8, 32))
    assert chosen == {1: named, 8: named, 32: named}
    assert list(choose(every[::-1], budget, (1, 8, 32)).values()) == [named] * 3
    assert len(plan_of(every, chosen, budget, 2, False, 1.0).choices) == 1
    assert verdict(usual, every, chosen, budget) == (
        "1.50 × the time of onnxruntime fp32, 2 threads at batch 1 (1.50–1.50); "
        "tied with onnxruntime fp32, 2 threads at batch 8, which runs other batches, too; "
        "tied with onnxruntime fp32, 2 threads at batch 32, which runs other batches, too"
    )
    # No two of these run all, and one that runs two batches comes before others for one each.
    one, two = tried("openvino", {1: 3.0, 8: 20.0}), tried("onnxruntime", {8: 20.0, 32: 80.0})
    assert choose([one, two], budget, (1, 8, 32)) == {1: one, 8: one, 32: two}
    # More exact comes before fewer sessions.
    coarse = tried("openvino", {1: 2.0, 8: 20.0}, "bf16", COARSE)
    exact = tried("onnxruntime", {8: 20.0})
    assert choose([coarse, exact], LOOSE, (1, 8)) == {1: coarse, 8: exact}


def test_a_tie_gives_away_no_more_than_two_percent() -> None:
    fast = tried("openvino", {1: 2.0}, "bf16", COARSE)
    # Slower by a tenth in most rounds, and faster in enough of them that it is called a tie.
    exact = tried("onnxruntime", {1: 2.0})
    slow, quick = (2.2,), (1.9,)
    exact.final[1] = Times((slow, quick, slow, quick, slow, slow, quick, slow, slow))
    assert choose([fast, exact], LOOSE, (1,)) == {1: fast}


def test_ranges_between_the_measured_batches() -> None:
    assert ranges((1, 8, 32)) == [(1, 2), (3, 16), (17, None)]
    assert ranges((4,)) == [(1, None)]
    assert ranges((2, 3, 4)) == [(1, 2), (3, 3), (4, None)]
    assert sizes(BatchRange(1, 8, 32)) == (1, 8, 32)
    assert sizes(BatchRange(4, 4, 4)) == (4,)


def test_a_short_race_leaves_those_that_are_not_clearly_slower() -> None:
    def short(engine: str, ms: dict[int, float], noise: float = 0.0) -> Tried:
        found = Tried(Variant(engine))
        found.short = {batch: times(each, noise, 6) for batch, each in ms.items()}
        return found

    best = short("onnxruntime", {1: 2.0, 8: 9.0})
    close = short("openvino", {1: 2.1, 8: 9.9}, -0.06)
    large = short("tensorrt", {1: 4.0, 8: 8.0})
    slow = short("tensorrt_rtx", {1: 5.0, 8: 12.0})
    dead = short("openvino", {1: 1.0, 8: 1.0})
    dead.fault = "failed: it died"
    every = [slow, best, close, large, dead]
    # What is no faster than one before it is left out, though it is not clearly slower.
    assert leaders(every, (1, 8), 3) == [best, large]
    assert slow.dropped == (
        "in a short race 2.50 × the time of onnxruntime fp32 at batch 1; "
        "1.50 × the time of tensorrt fp32 at batch 8"
    )
    assert dead.dropped is None
    assert leaders([slow, best, close], (1,), 1) == [best]


def noisy(engine: str, *factors: float, batch: int = 1) -> Tried:
    """One that took so many times 10 ms in each round of a short race."""
    found = Tried(Variant(engine))
    found.short = {batch: Times(tuple((10.0 * factor,) for factor in factors))}
    return found


def test_contestants_are_ranked_round_by_round() -> None:
    """A machine that is busy for some rounds is busy for all; medians of all runs would mislead."""
    quick = noisy("openvino", 1.0, 1.0, 1.0, 3.0, 3.0, 3.0)
    slow = noisy("onnxruntime", 1.2, 1.2, 1.2, 3.6, 3.6, 3.6)
    # At its best where the others were held up, so that its median run is the shortest.
    erratic = noisy("tensorrt", 1.4, 1.5, 1.6, 1.6, 4.0, 4.2)
    assert erratic.short[1].p50 < quick.short[1].p50
    assert racing([erratic, slow, quick], 1) == [quick, slow, erratic]
    dead = noisy("openvino", 0.5)
    dead.fault = "failed: it died"
    assert racing([dead, slow], 1) == [slow]
    assert racing([slow], 8) == []


def test_who_is_within_the_noise_of_the_cut_stays() -> None:
    best = noisy("onnxruntime", 1.00, 1.01, 0.99, 1.00, 1.02, 1.00)
    second = noisy("openvino", 1.10, 1.12, 1.09, 1.11, 1.10, 1.10)
    level = noisy("tensorrt", 1.11, 1.10, 1.12, 1.12, 1.12, 1.12)  # faster in one round
    behind = noisy("tensorrt_rtx", 1.13, 1.13, 1.13, 1.13, 1.13, 1.13)
    ranked = racing([behind, level, second, best], 1)
    assert ranked == [best, second, level, behind]
    assert first(ranked, 1, 1) == [best]
    assert first(ranked, 1, 2) == [best, second, level]
    assert first(ranked, 1, 9) == ranked
    assert first([], 1, 2) == []
    # No more than one, the fastest, however many there are.
    alike = [noisy("openvino", *[1.0 + 0.001 * i] * 5, 1.0) for i in range(7)]
    assert first(racing(alike, 1), 1, 3) == alike[:4]
    # Of too few rounds nothing can be told.
    once = [noisy("openvino", 1.0), noisy("onnxruntime", 2.0)]
    assert first(once, 1, 1) == once


def test_the_best_is_not_dropped_for_a_few_bad_rounds() -> None:
    """What a quiet machine would show to be faster by 5 % stands beside one that comes first."""
    plain = noisy("onnxruntime", 1.00, 1.01, 1.00, 0.99, 1.00, 1.01)
    faster = noisy("openvino", 0.95, 1.08, 0.96, 1.02, 1.04, 1.03)
    assert leaders([plain, faster], (1,), 2) == [plain, faster]
    # One that was in no round faster by more than a tie gives away is left out.
    same = noisy("openvino", 1.00, 1.01, 0.99, 0.99, 1.01, 1.01)
    assert leaders([plain, same], (1,), 2) == [plain]
    assert same.dropped == "in a short race 1.00 × the time of onnxruntime fp32 at batch 1"


# ---- words ---------------------------------------------------------------------------------------


def test_why_each_lost_in_words() -> None:
    won = tried("onnxruntime", {1: 2.0, 8: 9.0})
    slow = tried("openvino", {1: 4.0, 8: 9.0})
    coarse = tried("openvino", {}, "bf16", COARSE)
    wrong = tried("openvino", {}, "int8", Error(1e-7, True))
    wrong.verified, wrong.rejection = False, "conv1 does not compute what the spec says (local)"
    gone = Tried(Variant("tensorrt"), fault="not run: there is no GPU")
    early = Tried(Variant("onnxruntime", forms=("windowed",)), EXACT, dropped="in a short race …")
    every = [gone, won, slow, coarse, wrong, early]
    budget = parse_budget("exact")
    chosen = choose(every, budget, (1, 8))
    assert chosen == {1: won, 8: won}
    assert [verdict(each, every, chosen, budget) for each in every] == [
        "not run: there is no GPU",
        "chosen at batch 1, 8",
        (
            "2.00 × the time of onnxruntime fp32 at batch 1 (2.00–2.00); "
            "tied with onnxruntime fp32 at batch 8, which stands first"
        ),
        "over the budget: an error of 4.0e-03 is more than rounding in fp32 explains",
        "not verified: conv1 does not compute what the spec says (local)",
        "in a short race …",
    ]


def test_what_is_slower_by_more_than_a_tie_gives_away_is_not_called_tied() -> None:
    won, other = tried("onnxruntime", {1: 10.0}), tried("openvino", {})
    # The interval of the ratio holds 1, and the median gives away 6 %.
    other.final = {1: Times(tuple((ms,) for ms in (10.6,) * 7 + (9.0,) * 2))}
    chosen = choose([other, won], parse_budget("exact"), (1,))
    assert chosen == {1: won}
    lost = verdict(other, [other, won], chosen, parse_budget("exact"))
    assert lost == "1.06 × the time of onnxruntime fp32 at batch 1 (0.90–1.06)"


def test_the_plan_keeps_every_candidate_and_the_files_of_the_usable() -> None:
    won, other = tried("openvino", {1: 2.0, 8: 9.0}), tried("onnxruntime", {1: 3.0, 8: 9.5})
    lost = tried("openvino", {1: 1.0}, "int8", Error(0.3, False))
    every = [other, won, lost]
    found = plan_of(every, choose(every, LOOSE, (1, 8)), LOOSE, 2, False, 12.3456)
    assert found.said == "all batches on openvino in fp32"
    assert found.seconds == 12.35
    assert [each.path for each in found.candidates] == ["model.onnx", "model.onnx", None]
    assert [each.usable for each in found.candidates] == [True, True, False]
    assert [(t.batch, t.ms, t.final) for t in found.candidates[0].times] == [
        (1, 3.0, True),
        (8, 9.5, True),
    ]
    assert found.ways(1)[1].engine == "onnxruntime"


def test_two_choices_become_two_ranges() -> None:
    small, large = (
        tried("openvino", {1: 2.0, 8: 9.0, 32: 30.0}),
        tried("onnxruntime", {1: 3.0, 8: 8.0, 32: 20.0}),
    )
    every = [small, large]
    found = plan_of(every, choose(every, LOOSE, (1, 8, 32)), LOOSE, 2, False, 1.0)
    assert [(each.min, each.max, each.way.engine) for each in found.choices] == [
        (1, 2, "openvino"),
        (3, None, "onnxruntime"),
    ]


def test_nothing_passes_says_what_it_would_take() -> None:
    coarse = tried("openvino", {1: 1.0}, "bf16", COARSE)
    gone = Tried(Variant("tensorrt"), fault="not run: there is no GPU")
    diagnostic = nothing_passes([gone, coarse], parse_budget("1e-3"))
    assert diagnostic.code == "plan/nothing-passes"
    assert "the nearest is openvino bf16" in diagnostic.message
    assert diagnostic.help == "--budget 0.004 takes openvino bf16"
    assert diagnostic.notes[0] == "tensorrt fp32: not run: there is no GPU"
    nothing = nothing_passes([gone], LOOSE)
    assert "no engine could run the net" in nothing.message
    assert isinstance(AlexcError(nothing), AlexcError)


# ---- variants ------------------------------------------------------------------------------------


def test_names_of_files() -> None:
    assert Variant("openvino").path == "model.onnx"
    assert Variant("openvino", "bf16", ("banded",), 2).path == "model-banded-bf16.onnx"
    assert Variant("tensorrt_rtx", "tf32").model == "model.onnx"
    assert Variant("tensorrt_rtx", "tf32").path == "engines/tensorrt_rtx-tf32.plan"
    assert Variant("openvino", "bf16", ("banded",), 1).label == "openvino bf16, banded, 1 thread"


def test_narrower_precisions_are_those_of_the_engine() -> None:
    both = [Variant("onnxruntime", forms=("banded",)), Variant("openvino")]
    narrow = [Variant("openvino", "bf16"), Variant("openvino", "int8-weights")]
    assert narrower(both, False, PRECISIONS) == narrow
    found = narrower([*both, both[0]], True, PRECISIONS)
    assert Variant("onnxruntime", "u8s8", ("banded",)) in found
    assert len(found) == len(set(found))
    assert narrower([Variant("unheard-of")], True, PRECISIONS) == []


def test_other_numbers_of_threads() -> None:
    best = [Variant("openvino", "bf16"), Variant("onnxruntime_cuda"), Variant("openvino", "bf16")]
    assert threaded(best, 8) == [Variant("openvino", "bf16", threads=count) for count in (1, 4, 8)]
    assert threaded(best[:1], 2) == [replace(best[0], threads=count) for count in (1, 2)]
    assert threaded(best, 1) == []


def test_winners_of_different_kinds_are_combined() -> None:
    kinds = {"folded": "norm", "pool-first": "order", "banded": "lrn", "windowed": "lrn"}
    one = [Variant("onnxruntime", forms=(name,)) for name in ("windowed", "banded", "folded")]
    assert combined(one, kinds) == [Variant("onnxruntime", forms=("folded", "windowed"))]
    assert combined([*one[:2], Variant("openvino", forms=("folded",))], kinds) == []
