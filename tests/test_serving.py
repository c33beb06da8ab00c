"""Serving numbers: clients of one session, who gets what, and what is said of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import alexc_runtime
from alexc.cli import bench
from alexc.plan import ours
from alexc.plan.contestant import Contestant, Outputs, Subject
from alexc.plan.serving import LOADS, ServingPace, serve
from alexc.plan.serving_load import closed_loop, open_loop
from alexc.plan.serving_plot import plot
from alexc.plan.serving_report import pairs, serving_text
from alexc_runtime.manifest import EngineRecord
from alexc_runtime.session import Session
from tests.command_line import Alexc, alexc
from tests.small_bundle import MANIFEST, images, make

__all__ = ["alexc"]

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "small"
    make(folder)
    return folder


@pytest.fixture
def session(bundle: Path) -> Iterator[Session]:
    with alexc_runtime.open(bundle, "onnxruntime", threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def rows(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """One engine that serves, and one record that has nothing to load."""
    pytest.importorskip("onnxruntime")
    scratch = tmp_path_factory.mktemp("scratch")
    np.save(scratch / "images.npy", images(2))
    nowhere = scratch / "nowhere"
    subject = Subject(nowhere, nowhere, scratch / "images.npy", nowhere, scratch, threads=1)
    lacking = EngineRecord("openvino", "fp32", "it has no kernels", None)
    contestants: list[Contestant] = [
        ours.of_record(bundle, record) for record in (MANIFEST.engines[0], lacking)
    ]
    pace = ServingPace(rounds=2, seconds=0.06, open_seconds=0.1)
    said: list[str] = []
    found = serve(contestants, subject, (1, 3), pace, said.append)
    assert "serving 3 clients: round 2 of 2" in said
    return found


# ---- loads ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("batching", [False, True])
def test_clients_in_a_closed_loop(session: Session, batching: bool) -> None:
    traffic = closed_loop(session, images(2), 5, 0.1, batching=batching)
    assert traffic.images_per_s == pytest.approx(len(traffic.latencies_ms) / 0.1)
    # Five are under way at any time, so that a client waits for five: Little's law.
    waiting = np.mean(traffic.latencies_ms) / 1e3 * traffic.images_per_s
    assert 1 < waiting < 9
    assert (traffic.mean_batch > 1) is batching


@pytest.mark.parametrize("batching", [False, True])
def test_requests_that_come_by_themselves(session: Session, batching: bool) -> None:
    traffic = open_loop(session, images(2), 200.0, 0.2, batching=batching)
    assert len(traffic.latencies_ms) == 40
    assert min(traffic.latencies_ms) > 0
    assert 50 < traffic.images_per_s < 400


def test_a_server_that_falls_behind_shows_in_the_latencies(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_at_a_time, run = threading.Lock(), session.run

    def slow(batch: Any) -> Any:
        with one_at_a_time:
            time.sleep(0.01)
            return run(batch)

    monkeypatch.setattr(session, "run", slow)
    traffic = open_loop(session, images(2), 400.0, 0.1, batching=False)
    assert traffic.images_per_s <= 100  # whatever the rate
    assert max(traffic.latencies_ms) > 200  # 40 requests came in 0.1 s and take 0.4 s


@pytest.mark.parametrize("batching", [False, True])
def test_other_peoples_numbers_are_a_fault(
    session: Session, batching: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, run = [0], session.run

    def mixed_up(batch: Any) -> Any:
        calls[0] += 1
        outputs: Outputs = dict(run(batch))
        return outputs if calls[0] < 5 else {name: array + 1 for name, array in outputs.items()}

    monkeypatch.setattr(session, "run", mixed_up)
    with pytest.raises(RuntimeError, match="other numbers than its image has alone"):
        closed_loop(session, images(2), 2, 0.05, batching=batching)


# ---- rows ----------------------------------------------------------------------------------------


def test_a_row_for_every_load_and_way(rows: Rows) -> None:
    served = [row for row in rows if row["engine"] == "onnxruntime"]
    assert [(row["clients"], row["load"], row["batching"]) for row in served] == [
        *((clients, None, batching) for clients in (1, 3) for batching in (False, True)),
        *((None, load, batching) for load in LOADS for batching in (False, True)),
    ]
    for row in served:
        assert row["status"] == "measured"
        assert row["arrivals"] == ("poisson" if row["clients"] is None else "closed")
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        assert row["requests"] > 0
        assert row["mean_batch"] == 1 or row["batching"]
    most = max(row["images_per_s"] for row in served if row["clients"])
    assert served[-1]["rate"] == pytest.approx(LOADS[-1] * most, rel=1e-3)


def test_an_engine_that_can_not_serve_says_so_and_the_others_go_on(rows: Rows) -> None:
    lacking = [row for row in rows if row["engine"] == "openvino"]
    assert [row["status"] for row in lacking] == ["failed: it has no kernels"] * 4
    assert all(row["images_per_s"] is None and row["p99_ms"] is None for row in lacking)


def test_both_ways_stand_side_by_side(rows: Rows) -> None:
    assert len(list(pairs(rows, "closed"))) == 4
    for alone, batched in pairs(reversed(rows), "poisson"):  # type: ignore[arg-type]
        assert (alone["batching"], batched["batching"]) == (False, True)
        assert alone["load"] == batched["load"]


def _row(**changes: Any) -> Mapping[str, Any]:
    return {
        "engine": "onnxruntime", "precision": "fp32", "arrivals": "closed", "clients": 4,
        "load": None, "rate": None, "batching": False, "status": "measured",
        "images_per_s": 100.0, "p50_ms": 40.0, "p99_ms": 51.25, "requests": 300, "mean_batch": 1.0,
        **changes,
    }  # fmt: skip


def test_the_tables_say_what_was_measured() -> None:
    text = serving_text(
        [
            _row(),
            _row(batching=True, images_per_s=250.0, p50_ms=16.0, p99_ms=21.0, mean_batch=3.96),
            _row(clients=None, arrivals="poisson", load=0.8, rate=200.0),
            _row(clients=None, arrivals="poisson", load=0.8, rate=200.0, batching=True, p50_ms=7.0),
        ]
    )
    assert "| onnxruntime | fp32 | 4 | 100 | 40.0 | 51.2 | 250 | 16.0 | 21.0 | 4.0 | 2.50 |" in text
    assert "| onnxruntime | fp32 | 80% | 200 | 40.0 | 51.2 | 7.00 | 51.2 | 1.0 |" in text


def test_a_terminal_of_80_columns_shows_what_was_served(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = {"status": "failed: it has no kernels", "images_per_s": None, "p50_ms": None}
    served = {"engine": "onnxruntime_tensorrt", "precision": "int8-weights"}
    rows = [
        _row(**served, clients=256, images_per_s=12345.6),
        _row(**served, clients=256, batching=True, images_per_s=98765.4, mean_batch=31.96),
        _row(**served, clients=None, arrivals="poisson", load=0.8, rate=23456.0),
        _row(**served, clients=None, arrivals="poisson", load=0.8, rate=23456.0, batching=True),
        *(_row(**failed, clients=2, batching=batching) for batching in (False, True)),
    ]
    monkeypatch.setattr(bench, "console", lambda: Console(width=80, highlight=False))
    bench._print_serving(rows)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    told = [line.split() for line in lines if line.strip()]
    assert ["256", "batched", "98765", "40.0", "51.2", "32.0", "8.00"] in told
    assert ["80%", "23456", "one", "by", "one", "40.0", "51.2", "1.0"] in told
    assert lines.count("onnxruntime fp32: failed: it has no kernels") == 1


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_the_picture_shows_every_engine_that_served(
    rows: Rows, tmp_path: Path, suffix: str
) -> None:
    pytest.importorskip("matplotlib")
    result = {"name": "small", "machine": {"cpu": "a processor", "cores": 2}, "serving": rows}
    file = tmp_path / f"serving.{suffix}"
    plot(result, file)
    first = file.read_bytes()
    if suffix == "svg":
        text = first.decode()
        assert "onnxruntime fp32" in text
        assert "openvino" not in text
        assert "with dynamic batching" in text
    plot(result, file)
    assert file.read_bytes() == first


# ---- the command ---------------------------------------------------------------------------------


@pytest.mark.parametrize("clients", ["0", "1,x", "257", ""])
def test_clients_that_are_no_numbers(alexc: Alexc, clients: str, tmp_path: Path) -> None:
    ran = alexc("bench", tmp_path / "any.yaml", "--clients", clients)
    assert ran.status == 2
    assert "a number of clients is a whole number from 1 to 256" in ran.err
    assert "for example --clients 1,4,16" in ran.err
