"""A benchmark's result as Markdown, made of its JSON and of nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_LAYERS_SHOWN = 5
_BUSY = 0.05  # a share of the cores from which others' work is pointed out

Json = Mapping[str, Any]


def markdown(result: Json) -> str:
    """Machine, rows, comparisons, limits and layers, as sections of the second level."""
    parts = [
        "## Machine\n\n" + machine_text(result["machine"]),
        *(_section(result, batch) for batch in batches(result)),
        "## The limit\n\n" + limits_text(result),
        "## Where the time goes\n\n" + layers_text(result),
    ]
    return "\n".join(part.rstrip() + "\n" for part in parts)


def batches(result: Json) -> list[int]:
    """The batch sizes that were measured, in their order."""
    return list(dict.fromkeys(row["batch"] for row in result["rows"]))


def _section(result: Json, batch: int) -> str:
    title = "One image" if batch == 1 else f"Batches of {batch}"
    rows = [row for row in result["rows"] if row["batch"] == batch]
    lines = [line for line in comparison_lines(result) if line.startswith(f"batch {batch},")]
    lines += overhead_lines(rows)
    listed = "\n".join(f"- {line}" for line in lines)
    return f"## {title}\n\n{rows_table(rows)}\n\n{listed}"


def machine_text(machine: Json) -> str:
    """What bears on the times, in a few sentences."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    cache, memory = machine["last_level_cache_bytes"], machine["memory_bytes"]
    sizes = ", ".join(
        text
        for text in (
            f"{cache / 2**20:.0f} MiB last cache" if cache else "",
            f"{memory / 2**30:.0f} GiB memory" if memory else "",
        )
        if text
    )
    affinity = ", ".join(map(str, machine["affinity"]))
    rates = "; ".join(
        f"in those of batch {rated['batch']} memory is read at {rated['read_gb_per_s']:.1f} GB/s, "
        "and matrices are multiplied in billions of multiply–accumulates a second: "
        + ", ".join(f"{name} {rate:,.0f}" for name, rate in rated["gmacs_per_s"].items())
        for rated in machine["rates"]
    )
    text = (
        f"{machine['cpu']}, {machine['cores']} cores (affinity {affinity}), "
        f"{', '.join(machine['features']) or 'no vector extensions named'}; {sizes}. "
        f"Governor: {machine['governor']}. Threads: {machine['threads']}. {machine['system']}.\n\n"
        f"Measured between the rounds: {rates or 'nothing'}.\n\n"
        f"{versions}.\n"
    )
    if (others := machine.get("others_share")) is not None and others > _BUSY:
        text += (
            f"\n**The machine was busy: other programs took {others:.0%} of its cores.** Times are "
            "longer than they need be, and only large differences mean anything.\n"
        )
    return text


ROWS_HEAD = (
    "engine",
    "precision",
    "class",
    "error",
    "median ms",
    "middle half",
    "p99",
    "images/s",
    "of limit",
    "load s",
    "cold start s",
    "memory MB",
)


def rows_table(rows: Sequence[Json]) -> str:
    """One line a row, the fastest first and what was not measured last."""
    ordered = sorted(rows, key=lambda row: row["p50_ms"] or float("inf"))
    return table(ROWS_HEAD, [row_cells(row) for row in ordered], right=range(3, 12))


def row_cells(row: Json) -> list[str]:
    """The cells of a row, as ROWS_HEAD names them. One that was not measured says why."""
    name = row["engine"] if row["family"] == "peer" else f"**{row['engine']}**"
    if row["p50_ms"] is None:
        return [name, row["precision"], row["status"], *[""] * 9]
    low, high = row["quartiles_ms"]
    return [
        name,
        row["precision"],
        row["class"],
        f"{row['rel_l2']:.0e}",
        figures(row["p50_ms"]),
        f"{figures(low)}–{figures(high)}",
        figures(row["p99_ms"]),
        f"{row['images_per_s']:,.0f}",
        f"{row['of_limit']:.0%}" if row["of_limit"] is not None else "",
        f"{row['load_ms'] / 1e3:.2f}",
        f"{row['cold_start_ms'] / 1e3:.2f}",
        f"{row['peak_bytes'] / 1e6:,.0f}" if row["peak_bytes"] else "",
    ]


def comparison_lines(result: Json) -> list[str]:
    """Each comparison as a sentence. What lies within the noise is called a tie."""
    lines = []
    for each in result["comparisons"]:
        low, high = each["interval"]
        start = f"batch {each['batch']}, {each['class']}: {each['ours']}"
        if each["verdict"] == "tie" and not low <= 1 <= high:
            how = f"and {each['peer']} took too few rounds to be told apart"
        elif each["verdict"] == "tie":
            how = f"and {each['peer']} are tied"
        else:
            how = f"is {each['times_as_fast']:.2f} × as fast as {each['peer']}"
        lines.append(f"{start} {how} ({low:.2f}–{high:.2f})")
    return lines


def overhead_lines(rows: Sequence[Json]) -> list[str]:
    """What `alexc_runtime` takes beside the engine's own call."""
    lines = []
    for row in rows:
        if row["runtime_overhead"] is not None:
            low, high = row["runtime_overhead_interval"]
            lines.append(
                f"batch {row['batch']}: alexc_runtime adds {row['runtime_overhead']:.1%} "
                f"({low:.1%} to {high:.1%}) to {row['engine']} {row['precision']}'s own call"
            )
    return lines


def limits_text(result: Json) -> str:
    """The shortest possible times."""
    rows = [
        [
            str(each["batch"]),
            each["precision"],
            figures(each["memory_ms"]),
            figures(each["compute_ms"]),
            figures(each["ms"]),
        ]
        for each in result["limits"]
    ]
    if not rows:
        return "The machine's rates could not be measured.\n"
    head = ("batch", "precision", "reading weights ms", "multiplying ms", "limit ms")
    return (
        f"{result['macs']:,} multiply–accumulates an image and "
        f"{result['weight_bytes'] / 1e6:,.0f} MB of weights in fp32, at the rates above. Layers "
        "run one after the other, and each takes at least the longer of reading its weights and "
        "multiplying; all else is taken to be free.\n\n" + table(head, rows, right=(0, 2, 3, 4))
    )


def layers_text(result: Json) -> str:
    """The layers of which the most is to be gained, for every engine that counts."""
    parts = []
    for each in result["layers"]:
        rows = [
            [
                layer["layer"],
                figures(layer["ms"]),
                figures(layer["limit_ms"]) if layer["limit_ms"] else "",
                figures(layer["to_gain_ms"]),
            ]
            for layer in each["layers"][:_LAYERS_SHOWN]
        ]
        head = ("layer", "ms", "limit ms", "to gain ms")
        name = f"{each['engine']} {each['precision']}, batch {each['batch']}"
        parts.append(f"{name}:\n\n{table(head, rows, right=(1, 2, 3))}\n")
    return "\n".join(parts) or "No engine that ran counts its layers.\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[int] = ()) -> str:
    """A table in Markdown; `right` are the columns of numbers."""
    aligned = set(right)
    rule = ["---:" if index in aligned else "---" for index in range(len(head))]
    lines = [head, rule, *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def figures(value: float) -> str:
    """Three figures: `2.31`, `23.1`, `231`."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
