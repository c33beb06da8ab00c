"""What a benchmark says: intervals and ties, the limit, layers, tables and pictures."""

from __future__ import annotations

import json
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexc.diagnostics import UsageError
from alexc.graph.graph import Graph
from alexc.ops.conv import Conv
from alexc.ops.dense import Linear
from alexc.ops.norm import Lrn
from alexc.ops.pointwise import Relu
from alexc.ops.structure import Flatten
from alexc.plan import machine, rates
from alexc.plan.contestant import Contestant
from alexc.plan.limit import Limit, layer_limits, net_limit
from alexc.plan.measure import Error, Result
from alexc.plan.plot import check, plot
from alexc.plan.report import comparison_lines, markdown
from alexc.plan.result import layer_of, result, row
from alexc.plan.timing import Comparison, Times, compare, median_interval

ROOT = Path(__file__).resolve().parents[1]

GRAPH = Graph.build(
    "net",
    (2, 6, 5),
    [
        ("conv", Conv(out_channels=3, kernel_size=(3, 2)), ("input",)),
        ("relu", Relu(), ("conv",)),
        ("norm", Lrn(size=3, alpha=1, beta=0.75, k=1, alpha_per="window"), ("relu",)),
        ("flatten", Flatten(), ("norm",)),
        ("fc", Linear(out_features=7), ("flatten",)),
        ("fc_relu", Relu(), ("fc",)),
    ],
    ("fc_relu",),
)
# conv makes 3×4×4 of kernels with 2·3·2 weights: 576 products, 39 weights; fc 48 · 7 + 7.
RATES = {"read": 1e6, "fp32": 1e6, "bf16": 4e6}


# ---- times ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "interval"), [(1, (0, 0)), (5, (0, 4)), (6, (0, 5)), (8, (0, 7)), (9, (1, 7))]
)
def test_the_interval_of_a_median(count: int, interval: tuple[int, int]) -> None:
    assert median_interval(count) == interval


def test_the_interval_holds_the_median_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    for count in (6, 9, 13, 20):
        low, high = median_interval(count)
        samples = np.sort(random.standard_exponential((4000, count)), axis=1)
        median = np.log(2)
        held = ((samples[:, low] <= median) & (median <= samples[:, high])).mean()
        assert 0.94 < held < 0.999


def test_disturbed_rounds_do_not_decide() -> None:
    one = [2.0, 2.1, 9.0, 2.0, 2.2, 2.1, 2.0]
    other = [4.0, 4.1, 18.5, 4.1, 4.4, 4.2, 4.1]
    compared = compare(one, other)
    assert compared.ratio == pytest.approx(2.0, abs=0.05)
    assert compared.verdict == "faster"
    assert compare(other, one).verdict == "slower"


def test_within_the_noise_is_a_tie() -> None:
    assert compare([2.0, 2.1, 2.0, 2.2, 2.1, 2.0], [2.1, 2.0, 2.1, 2.3, 2.0, 2.1]).verdict == "tie"
    # However clear, fewer than six rounds say nothing.
    assert compare([1.0] * 5, [2.0] * 5).verdict == "tie"


def test_times() -> None:
    times = Times(((1.0, 2.0, 9.0), (3.0, 4.0)))
    assert times.p50 == 3.0
    assert times.medians == [2.0, 3.5]
    assert times.quartiles == (2.0, 4.0)
    assert times.p99 == pytest.approx(9 - 0.04 * 5)


# ---- the limit -----------------------------------------------------------------------------------


def test_a_layer_is_bound_by_memory_or_by_products() -> None:
    limits = layer_limits(GRAPH, RATES, "fp32", 1, None)
    assert limits is not None
    # In microseconds: 39 weights of 4 bytes at a byte each, and 576 products at one each.
    assert {name: _microseconds(limit) for name, limit in limits.items()} == {
        "conv": (156, 576, 576),
        "fc": (1372, 336, 1372),
    }
    assert _microseconds(net_limit(limits)) == (156 + 1372, 576 + 336, 576 + 1372)


def _microseconds(limit: Limit) -> tuple[int, ...]:
    return tuple(round(ms * 1e3) for ms in (limit.memory_ms, limit.compute_ms, limit.total_ms))


def test_the_limit_of_other_precisions_and_batches() -> None:
    limits = layer_limits(GRAPH, RATES, "bf16", 100, None)
    assert limits is not None
    assert limits["conv"].total_ms == pytest.approx(57.6 / 4)
    assert limits["fc"].memory_ms == pytest.approx(0.686)
    assert layer_limits(GRAPH, RATES, "int8", 1, None) is None
    assert layer_limits(GRAPH, {}, "fp32", 1, None) is None


def test_weights_that_stay_in_the_cache_cost_no_reading() -> None:
    for cache, read in ((4 * 382, 0.0), (4 * 382 - 1, 1.372)):
        limits = layer_limits(GRAPH, RATES, "fp32", 1, cache)
        assert limits is not None
        assert limits["fc"].memory_ms == pytest.approx(read)


@pytest.mark.slow
def test_the_rates_are_those_of_a_machine() -> None:
    with rates.Rates(1) as measured:
        measured.ready()
        measured.turn(3)
        found = measured.medians()[3]
    assert found.keys() >= {"read", "fp32", "bf16"}
    assert all(1e8 < rate < 1e14 for rate in found.values())


def test_a_rate_is_the_median_of_its_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        "import itertools, json, sys\n"
        "for turn, _ in zip(itertools.count(1), sys.stdin):\n"
        "    print(json.dumps({'read': 10.0 * turn}) if turn < 4 else '', flush=True)\n"
        "    if turn == 4: sys.exit(1)\n"
    )
    monkeypatch.setattr(rates, "PROGRAM", ("-c", program))
    with rates.Rates(None) as measured:
        assert measured.medians() == {}
        measured.ready()  # 10.0, which does not count
        for batch in (1, 1, 7, 7):
            measured.turn(batch)  # in the fourth of all it dies
        assert measured.medians() == {1: {"read": 25.0}}


def test_what_a_machine_is() -> None:
    found = machine.describe().to_json()
    assert found["cores"] == len(found["affinity"]) >= 1
    assert found["versions"]["numpy"] == np.__version__
    before = machine.busy_seconds()
    assert before is None or before > 0


# ---- layers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("node", "layer"),
    [
        ("conv", "conv"),
        ("relu", "conv"),  # computed with the layer before it
        ("norm", "norm"),
        ("norm.fourth_root", "norm"),
        ("fc_relu", "fc"),
        ("fc/WithoutBiases", "fc"),
        ("Reorder_of_norm", "norm"),
        ("ReorderInput", "other"),
    ],
)
def test_the_layer_of_an_engines_node(node: str, layer: str) -> None:
    assert layer_of(node, GRAPH) == layer


# ---- the result ----------------------------------------------------------------------------------


def measured(engine: str, family: Any, ms: float, error: Error, precision: str = "fp32") -> Result:
    found = Result(Contestant(engine, family, precision, "nowhere:nothing"))
    found.load_ms, found.cold_start_ms, found.peak_bytes = 123.4, 1234.0, 250_000_000
    for batch in (1, 4):
        rounds = tuple(
            (ms * batch * wobble, ms * batch) for wobble in (1.0, 1.02, 1.01, 1.03, 1.01, 1.02)
        )
        found.times[batch], found.errors[batch] = Times(rounds), error
    return found


EXACT, FAST, COARSE = Error(1e-7, True), Error(3e-3, False), Error(4e-2, False)


@pytest.fixture
def found() -> dict[str, Any]:
    mine = measured("onnxruntime", "ours", 4.0, EXACT)
    mine.overheads[1] = Comparison(1.015, 1.01, 1.02, 31)
    mine.nodes[1] = {"relu": 1.5, "norm.square": 2.0, "norm": 0.5, "ReorderInput": 0.25}
    gone = Result(Contestant("openvino", "ours", "int8", "nowhere:nothing"))
    gone.fault, gone.missing = "the package openvino is not installed", True
    failed = Result(Contestant("torch", "peer", "bf16", "nowhere:nothing"), fault="was ended")
    return {
        **result(
            GRAPH,
            (1, 4),
            [
                mine,
                measured("openvino", "ours", 2.0, FAST, "bf16"),
                measured("torch", "peer", 8.0, EXACT),
                measured("export", "peer", 1.0, COARSE, "int8"),
                gone,
                failed,
            ],
            dict.fromkeys((1, 4), RATES),
            machine.describe(),
        ),
    }


def test_rows(found: dict[str, Any]) -> None:
    rows = {(row["engine"], row["precision"], row["batch"]): row for row in found["rows"]}
    assert len(rows) == len(found["rows"]) == 12
    row = rows["onnxruntime", "fp32", 4]
    assert row["p50_ms"] == pytest.approx(16.0, rel=0.02)
    assert row["images_per_s"] == pytest.approx(250, rel=0.02)
    assert row["class"] == "exact"
    assert row["of_limit"] == pytest.approx(row["limit_ms"] / row["p50_ms"], rel=1e-3)
    assert rows["openvino", "bf16", 1]["class"] == "fast"
    assert rows["export", "int8", 1]["class"] == "coarse"
    assert rows["export", "int8", 1]["of_limit"] is None  # no rate was measured
    gone = rows["openvino", "int8", 1]
    assert gone["status"] == "not run: the package openvino is not installed"
    assert gone["p50_ms"] is gone["images_per_s"] is gone["class"] is None
    assert rows["torch", "bf16", 1]["status"] == "failed: was ended"


def test_comparisons_are_within_a_class(found: dict[str, Any]) -> None:
    one = [each for each in found["comparisons"] if each["batch"] == 1]
    assert [(each["class"], each["ours"], each["peer"]) for each in one] == [
        ("exact", "onnxruntime fp32", "torch fp32"),
        ("fast", "openvino bf16", "torch fp32"),
    ]
    assert one[0]["times_as_fast"] == pytest.approx(2.0)
    assert one[0]["verdict"] == "faster"


def test_comparisons_as_sentences() -> None:
    each = {"class": "exact", "batch": 2, "ours": "a fp32", "peer": "b fp32", "times_as_fast": 2.0}
    verdicts = [("faster", [1.5, 2.5]), ("tie", [0.9, 2.5]), ("tie", [2.0, 2.0])]
    lines = comparison_lines(
        {"comparisons": [each | {"verdict": v, "interval": i} for v, i in verdicts]}
    )
    assert lines == [
        "batch 2, exact: a fp32 is 2.00 × as fast as b fp32 (1.50–2.50)",
        "batch 2, exact: a fp32 and b fp32 are tied (0.90–2.50)",
        "batch 2, exact: a fp32 and b fp32 took too few rounds to be told apart (2.00–2.00)",
    ]


def test_layers_come_with_what_there_is_to_gain(found: dict[str, Any]) -> None:
    (counted,) = found["layers"]
    assert [(layer["layer"], layer["ms"]) for layer in counted["layers"]] == [
        ("norm", 2.5),
        ("conv", 1.5),
        ("other", 0.25),
    ]
    assert counted["layers"][1]["to_gain_ms"] == pytest.approx(1.5 - 0.576)


def test_the_report_names_everything(found: dict[str, Any]) -> None:
    found["machine"] |= {"threads": 2, "others_share": 0.3}
    text = markdown(found)
    for line in (
        "## One image",
        "## Batches of 4",
        "| **openvino** | int8 | not run: the package openvino is not installed |",
        "- batch 1, exact: onnxruntime fp32 is 2.00 × as fast as torch fp32",
        "**The machine was busy: other programs took 30% of its cores.**",
        "onnxruntime fp32, batch 1:",
        "batch 1: alexc_runtime adds 1.5% (1.0% to 2.0%) to onnxruntime fp32's own call",
    ):
        assert line in text
    lines = text.splitlines()
    for head in (index for index, line in enumerate(lines) if line.startswith("| ---")):
        width = lines[head].count(" | ")
        table = [line for line in lines[head - 1 :] if line.startswith("| ")]
        assert all(line.count(" | ") == width for line in table[: table.index(lines[head]) + 2])


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_the_picture(found: dict[str, Any], suffix: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / f"bench{suffix}"
    found["machine"] |= {"threads": 2, "others_share": None}
    plot(found, path)
    data = path.read_bytes()
    plot(found, path)
    assert path.read_bytes() == data
    if suffix == ".svg":
        assert b"onnxruntime fp32" in data
        assert b"milliseconds for a batch of 4" in data
    else:
        assert data.startswith(b"\x89PNG")


def test_a_picture_of_another_kind_is_refused_early() -> None:
    with pytest.raises(UsageError, match=r"a plot is written as \.svg or \.png"):
        check(Path("bench.gif"))


def test_the_document_of_make_bench(found: dict[str, Any]) -> None:
    """benchmarks/performance.py writes docs/performance.md from JSON and nothing else."""
    performance = runpy.run_path(str(ROOT / "benchmarks" / "performance.py"))
    found["machine"] |= {"threads": 2, "others_share": None}
    found["serving"] = []
    rows = []
    for engine in performance["ENGINES"]:
        for note, ms in (("native", 4.0), ("banded", 2.0), ("windowed", 4.01)):
            variant = measured(engine, "ours", ms, EXACT)
            variant.times[16] = variant.times[4]
            variant.contestant = replace(variant.contestant, note=note)
            rows += [row(variant, batch, None) for batch in performance["BATCHES"]]
    data = json.loads(json.dumps({"bench": found, "ablations": [{"name": "net", "rows": rows}]}))
    text = performance["rendered"](data)
    assert text.startswith("# Performance\n")
    assert "| onnxruntime | banded | 2.00 | 2.00 (2.00–2.00) |" in text
    assert "| openvino | windowed |" in text
    assert "## Batches of 4" in text
    assert "| the plan's search |  |  | ≤ 180 s | not measured |" in text
