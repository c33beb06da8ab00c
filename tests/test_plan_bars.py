"""The bars from made-up measurements: what holds, what is a tie, what was not measured."""

from __future__ import annotations

from typing import Any

from alexc.plan.bars import bars, bars_text, plan_result


def row(engine: str, ms: dict[int, float], precision: str = "fp32", **changes: Any) -> list[Any]:
    """Rows of a benchmark, a round of each time with a little noise."""
    rows = []
    for batch, median in ms.items():
        rounds = [median * (1 + noise) for noise in (0, 0.01, -0.01) * 3]
        rows.append(
            {
                "engine": engine,
                "family": "ours",
                "precision": precision,
                "batch": batch,
                "note": "",
                "class": "exact" if precision == "fp32" else "fast",
                "p50_ms": median,
                "round_ms": rounds,
                "of_limit": 0.8 if precision == "fp32" else None,
                "runtime_overhead": None,
                "runtime_overhead_interval": None,
                **changes,
            }
        )
    return rows


def peer(engine: str, ms: dict[int, float], precision: str = "fp32") -> list[Any]:
    return row(engine, ms, precision, family="peer", **{"class": "exact"})


BENCH = {
    "rows": [
        *row("onnxruntime", {1: 9.0, 16: 60.0}, of_limit=0.7, runtime_overhead=0.005),
        *row("openvino", {1: 8.0, 16: 50.0}),
        *row("openvino", {1: 2.5, 16: 30.0}, "bf16"),
        *peer("export-onnxruntime", {1: 13.0, 16: 110.0}),
        *peer("export-openvino", {1: 8.0, 16: 49.0}),
        *peer("export-openvino", {1: 4.0, 16: 20.0}, "int8"),
        *[each | {"p50_ms": None} for each in peer("torch", {1: 1.0, 16: 1.0})],
    ]
}
for each in BENCH["rows"]:
    if each["runtime_overhead"] is not None:
        each["runtime_overhead_interval"] = [0.004, 0.015]

PLAN = {
    "seconds": 171.0,
    "images": 200,
    "candidates": [
        {"verdict": "chosen at batch 1", "agreement": 0.995},
        {"verdict": "2.00 × the time of …", "agreement": 0.2},
    ],
}


def test_every_bar_says_whether_it_held() -> None:
    rows = [
        *row("planned", {1: 2.5, 16: 31.0}, "bf16"),
        *row("openvino", {1: 2.5, 16: 30.0}, "bf16", note="banded"),
        *row("onnxruntime", {1: 9.0, 16: 29.0}, note="onnxruntime fp32, native"),
    ]
    found = bars(BENCH, plan_result(PLAN, rows))
    assert [(each["what"].split(",")[0], each["batch"], each["held"]) for each in found] == [
        ("exact", 1, "yes"),
        ("exact", 1, "yes"),
        ("exact", 1, "yes"),
        ("fast", 1, "yes"),
        ("fast", 1, "yes"),
        ("what alexc_runtime adds to the engine's own call", 1, "yes"),
        ("exact", 16, "no"),
        ("exact", 16, "yes"),
        ("exact", 16, "yes"),
        ("fast", 16, "yes"),
        ("fast", 16, "no"),
        ("what alexc_runtime adds to the engine's own call", 16, "yes"),
        ("fast", None, "yes"),
        ("the plan's search", None, "yes"),
        ("the planned session", 1, "yes"),
        ("the planned session", 16, "no"),
    ]
    text = bars_text(found)
    assert "5.20 × (5.20–5.20): openvino bf16, against export-onnxruntime fp32" in text
    assert "80%: openvino fp32" in text
    assert "171 s" in text
    assert "99.5% of 200" in text
    assert "0.94 × (0.94–0.94), against onnxruntime fp32, native" in text


def test_inside_the_noise_is_a_tie_and_what_is_not_there_was_not_measured() -> None:
    slower = row("openvino", {1: 8.1})
    slower[0]["round_ms"] = [8.1, 7.9, 8.3, 7.9, 8.4, 8.2, 7.9, 8.2, 8.3]
    bench = {"rows": [*slower, *peer("export-openvino", {1: 8.0})]}
    held = {(each["what"], each["batch"]): each["held"] for each in bars(bench, None)}
    assert held["exact, against the best peer in fp32", 1] == "tie"
    assert held["exact, against torch.onnx.export → ONNX Runtime", 1] == "not measured"
    assert held["exact, share of the measured limit", 16] == "not measured"
    assert held["the plan's search", None] == "not measured"
