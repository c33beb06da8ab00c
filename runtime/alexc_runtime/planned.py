"""A bundle's plan: which engine runs which batch, why, and what this machine makes of it.

`alexc build --target auto` measures every way to run a net and keeps the fastest that is exact
enough, for each range of batch sizes. What it measured stands in the manifest under `plan`:

    "budget": "1e-2"                how far outputs may lie from the reference
    "machine": {…}                  where it was measured
    "images": 2, "photographs": false   what errors were measured on
    "seconds": 131.0                how long the search took
    "choices": [{"min": 1, "max": 2, "engine": …, "precision": …, "path": …, "threads": null}, …]
    "candidates": [{…, "times": […], "rel_l2": …, "usable": true, "verdict": "…"}, …]

`choices` go from the smallest batch to the largest and leave nothing between them out; the last has
no `max`. A candidate is `usable` if it was verified and is within the budget; its file is in the
bundle if it has a `path`. `verdict` says in words why it was chosen, or why it lost.

`alexc_runtime.engines.planned` runs one.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from alexc_runtime.cores import affinity
from alexc_runtime.fields import Fields

# More than any machine has. Engines make as many as they are told to, or die of the number.
MOST_THREADS = 1024

# The packages whose version can change which engine is the fastest.
_PACKAGES = (
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-rtx",
)


@dataclass(frozen=True)
class Place:
    """A machine, as far as it decides which engine is the fastest there."""

    cpu: str
    cores: int
    versions: Mapping[str, str]

    def departures(self, here: Place) -> list[str]:
        """In words, how the machine `here` differs from this one, which was measured."""
        found = []
        if self.cpu != here.cpu:
            found.append(f"{here.cpu}, not {self.cpu}")
        if self.cores != here.cores:
            found.append(f"{here.cores} cores, not {self.cores}")
        for name in sorted({*self.versions, *here.versions}):
            planned, found_here = self.versions.get(name), here.versions.get(name)
            if planned is None:
                found.append(f"{name} {found_here}, which was not there")
            elif found_here is None:
                found.append(f"no {name}")
            elif planned != found_here:
                found.append(f"{name} {found_here}, not {planned}")
        return found


@dataclass(frozen=True)
class Way:
    """One way to run the bundle: the file that an engine loads, and its threads (None: its own)."""

    engine: str
    precision: str
    path: str
    threads: int | None

    def __str__(self) -> str:
        if self.threads is None:
            return f"{self.engine} in {self.precision}"
        return f"{self.engine} in {self.precision} with {_in_words(self.threads)}"


@dataclass(frozen=True)
class Choice:
    """The way that batches of `min` to `max` images are run; None: all larger ones."""

    min: int
    max: int | None
    way: Way


@dataclass(frozen=True)
class Timed:
    """Milliseconds of one batch: the median, and the quartiles of all runs. `final` says that it
    was taken beside the other finalists, and may be compared with theirs."""

    batch: int
    ms: float
    low: float
    high: float
    final: bool


@dataclass(frozen=True)
class Candidate:
    """One way that was tried. What was not measured of it is None.

    `forms` are the names of those that its model is written in. `rel_l2` is the error of the
    outputs in the Euclidean norm, relative; `exact` says whether it is within what rounding in fp32
    explains. `agreement` is the share of images with the reference's first class, `top1` and `top5`
    the accuracy on labelled ones.
    """

    engine: str
    precision: str
    forms: tuple[str, ...]
    threads: int | None
    path: str | None
    times: tuple[Timed, ...]
    rel_l2: float | None
    exact: bool | None
    agreement: float | None
    top1: float | None
    top5: float | None
    usable: bool
    verdict: str

    @property
    def label(self) -> str:
        """`openvino bf16, banded, 2 threads`."""
        return way_label(self.engine, self.precision, self.forms, self.threads)


@dataclass(frozen=True)
class Plan:
    """What a search found: see the top of the file. Errors were measured on `images`."""

    budget: str
    machine: Place
    images: int
    photographs: bool
    seconds: float
    choices: tuple[Choice, ...]
    candidates: tuple[Candidate, ...]

    def __post_init__(self) -> None:
        expected: int | None = None
        for choice in self.choices:
            if expected is not None and choice.min != expected:
                raise ValueError(f"a choice of the plan starts at {choice.min}, not {expected}")
            expected = None if choice.max is None else choice.max + 1
        if not self.choices or self.choices[-1].max is not None:
            raise ValueError("the plan's last choice must take all larger batches")
        if any(choice.max is None or choice.max < choice.min for choice in self.choices[:-1]):
            raise ValueError("the plan's choices are not in the order of their batches")

    @property
    def said(self) -> str:
        """The choices in words: `batches of 1 to 2 on openvino in bf16; of 3 and more on …`."""
        ranges = []
        for choice in self.choices:
            if choice.max is None:
                sizes = "all batches" if len(self.choices) == 1 else f"of {choice.min} and more"
            else:
                end = f" to {choice.max}" if choice.max > choice.min else ""
                sizes = f"of {choice.min}{end}"
            ranges.append(f"{sizes} on {choice.way}")
        start = "" if len(self.choices) == 1 else "batches "
        return start + "; ".join(ranges)

    @property
    def paths(self) -> list[str]:
        """The files of the bundle that the plan names."""
        of_candidates = [c.path for c in self.candidates if c.path is not None]
        return [*(choice.way.path for choice in self.choices), *of_candidates]

    def ways(self, batch: int) -> list[Way]:
        """How to run a batch: as was chosen, then the other usable ways, the fastest first."""
        chosen = next(
            (c.way for c in self.choices if c.max is None or batch <= c.max), self.choices[-1].way
        )
        others = [
            (_nearest(c.times, batch), Way(c.engine, c.precision, c.path, c.threads))
            for c in self.candidates
            if c.usable and c.path is not None and c.times
        ]
        ranked = [way for _, way in sorted(others, key=lambda each: each[0])]
        return list(dict.fromkeys([chosen, *ranked]))

    def to_json(self) -> dict[str, Any]:
        """What the manifest holds."""
        return {
            "budget": self.budget,
            "machine": {**asdict(self.machine), "versions": dict(self.machine.versions)},
            "images": self.images,
            "photographs": self.photographs,
            "seconds": self.seconds,
            "choices": [
                {"min": choice.min, "max": choice.max, **asdict(choice.way)}
                for choice in self.choices
            ],
            "candidates": [asdict(candidate) for candidate in self.candidates],
        }

    @staticmethod
    def read(fields: Fields) -> Plan:
        """What `to_json` gave. Raises ValueError if it is anything else."""
        machine = fields.object("machine")
        return Plan(
            budget=fields.text("budget"),
            machine=Place(
                machine.text("cpu"), machine.integer("cores"), machine.text_map("versions")
            ),
            images=fields.integer("images"),
            photographs=fields.truth("photographs"),
            seconds=fields.number("seconds"),
            choices=fields.listing("choices", _choice),
            candidates=fields.listing("candidates", _candidate),
        )


def _nearest(times: Sequence[Timed], batch: int) -> float:
    """Milliseconds an image, at the measured batch that is nearest in proportion."""
    nearest = min(times, key=lambda t: (max(t.batch, batch) / min(t.batch, batch), t.batch))
    return nearest.ms / nearest.batch


def _choice(fields: Fields) -> Choice:
    way = Way(
        fields.text("engine"),
        fields.text("precision"),
        fields.text("path"),
        _threads(fields),
    )
    return Choice(fields.count("min"), fields.optional_integer("max"), way)


def _threads(fields: Fields) -> int | None:
    threads = fields.optional_integer("threads")
    if threads is not None and not 1 <= threads <= MOST_THREADS:
        raise ValueError(f"{fields.place('threads')} is {threads}")
    return threads


def _candidate(fields: Fields) -> Candidate:
    return Candidate(
        engine=fields.text("engine"),
        precision=fields.text("precision"),
        forms=fields.texts("forms"),
        threads=_threads(fields),
        path=fields.optional_text("path"),
        times=fields.listing("times", _timed),
        rel_l2=fields.optional_number("rel_l2"),
        exact=fields.optional_truth("exact"),
        agreement=fields.optional_number("agreement"),
        top1=fields.optional_number("top1"),
        top5=fields.optional_number("top5"),
        usable=fields.truth("usable"),
        verdict=fields.text("verdict"),
    )


def _timed(fields: Fields) -> Timed:
    return Timed(
        fields.count("batch"),
        fields.number("ms"),
        fields.number("low"),
        fields.number("high"),
        fields.truth("final"),
    )


def way_label(engine: str, precision: str, forms: Sequence[str], threads: int | None) -> str:
    """What a way is called where it stands beside others: `openvino bf16, banded, 2 threads`."""
    bound = [] if threads is None else [_in_words(threads)]
    return ", ".join([f"{engine} {precision}", *forms, *bound])


def _in_words(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"


def this_machine() -> Place:
    """This machine, now. Nothing heavy is imported."""
    import importlib.metadata  # a tenth of all that importing the runtime takes

    versions = {}
    for package in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return Place(_cpu(), len(affinity()), versions)


def _cpu() -> str:
    with suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        if (model := re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)) is not None:
            return model[1].strip()
    return platform.processor() or "not reported"
