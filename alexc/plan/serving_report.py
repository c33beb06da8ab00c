"""What clients of a session get, in words and tables: made of a benchmark's JSON alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from alexc.plan.report import figures, table

Json = Mapping[str, Any]

CLOSED_HEAD = (
    *("engine", "precision", "clients"),
    *("one by one: images/s", "median ms", "p99 ms"),
    *("batched: images/s", "median ms", "p99 ms", "images a run", "times as many"),
)
OPEN_HEAD = (
    *("engine", "precision", "load", "requests/s"),
    *("one by one: median ms", "p99 ms"),
    *("batched: median ms", "p99 ms", "images a run"),
)


def serving_text(rows: Sequence[Json]) -> str:
    """The section's body: closed loops, then requests that come by themselves."""
    return (
        "Clients share one session. Each asks for one image, waits for it, and asks for the next. "
        "“One by one”, every request is a run of its own; “batched”, a `Batcher` of "
        "`alexc_runtime` with its defaults stands before the session.\n\n"
        + table(CLOSED_HEAD, closed_cells(rows), range(2, len(CLOSED_HEAD)))
        + "\n\nRequests that come by themselves at random moments; the load is a share of the most "
        "that the engine answered above. Without batching 16 threads run them. Latencies count "
        "from the moment at which a request comes.\n\n"
        + table(OPEN_HEAD, open_cells(rows), range(2, len(OPEN_HEAD)))
        + "\n"
    )


def closed_cells(rows: Sequence[Json]) -> list[list[str]]:
    """A line for each engine and number of clients, in the order of CLOSED_HEAD."""
    lines = []
    for alone, batched in pairs(rows, "closed"):
        line = [alone["engine"], alone["precision"], str(alone["clients"])]
        line += [_speed(alone), *_latency(alone), _speed(batched), *_latency(batched)]
        lines.append([*line, _gathered(batched), _gain(alone, batched)])
    return lines


def open_cells(rows: Sequence[Json]) -> list[list[str]]:
    """A line for each engine and load, in the order of OPEN_HEAD."""
    return [
        [
            *(alone["engine"], alone["precision"], f"{alone['load']:.0%}"),
            *(figures(alone["rate"]), *_latency(alone), *_latency(batched), _gathered(batched)),
        ]
        for alone, batched in pairs(rows, "poisson")
    ]


# A terminal has no room for both ways side by side: there they stand below each other, with a table
# of its own for each engine.
CLOSED_LINES_HEAD = (
    *("clients", "way", "images/s", "median ms", "p99 ms", "images a run", "times as many"),
)
OPEN_LINES_HEAD = ("load", "requests/s", "way", "median ms", "p99 ms", "images a run")
WAYS = ("one by one", "batched")


def closed_lines(rows: Sequence[Json]) -> dict[str, list[list[str]]]:
    """By engine two lines for each number of clients, in the order of CLOSED_LINES_HEAD."""
    found: dict[str, list[list[str]]] = {}
    for alone, batched in pairs(rows, "closed"):
        for way, row, gain in zip(WAYS, (alone, batched), ("", _gain(alone, batched)), strict=True):
            if row["images_per_s"] is not None:
                line = [str(row["clients"]), way, _speed(row), *_latency(row), _gathered(row), gain]
                found.setdefault(_engine(row), []).append(line)
    return found


def open_lines(rows: Sequence[Json]) -> dict[str, list[list[str]]]:
    """By engine two lines for each load, in the order of OPEN_LINES_HEAD."""
    found: dict[str, list[list[str]]] = {}
    for pair in pairs(rows, "poisson"):
        for way, row in zip(WAYS, pair, strict=True):
            if row["images_per_s"] is not None:
                load = [f"{row['load']:.0%}", figures(row["rate"])]
                line = [*load, way, *_latency(row), _gathered(row)]
                found.setdefault(_engine(row), []).append(line)
    return found


def unserved(rows: Sequence[Json]) -> list[str]:
    """Why what is missing in those tables was not measured, each reason once."""
    missing = (row for row in rows if row["images_per_s"] is None)
    return list(dict.fromkeys(f"{_engine(row)}: {row['status']}" for row in missing))


def pairs(rows: Sequence[Json], arrivals: str) -> Iterator[tuple[Json, Json]]:
    """The rows of the same engine and load, without batching and with it."""
    found: dict[tuple[Any, ...], Json] = {}
    for row in rows:
        if row["arrivals"] != arrivals:
            continue
        key = tuple(row[name] for name in ("engine", "precision", "clients", "load"))
        if (other := found.pop(key, None)) is None:
            found[key] = row
        else:
            yield (other, row) if row["batching"] else (row, other)


def _engine(row: Json) -> str:
    return f"{row['engine']} {row['precision']}"


def _gain(alone: Json, batched: Json) -> str:
    """How many times as many images a second there are with batching."""
    if not (alone["images_per_s"] and batched["images_per_s"]):
        return ""
    return f"{batched['images_per_s'] / alone['images_per_s']:.2f}"


def _speed(row: Json) -> str:
    """Images a second; for what was not measured, why."""
    return str(row["status"]) if row["images_per_s"] is None else figures(row["images_per_s"])


def _latency(row: Json) -> list[str]:
    return [figures(row[name]) if row[name] is not None else "" for name in ("p50_ms", "p99_ms")]


def _gathered(row: Json) -> str:
    return f"{row['mean_batch']:.1f}" if row["mean_batch"] is not None else ""
