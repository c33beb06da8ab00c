"""How a plan is to be built, beside its model and precision."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from alexc.diagnostics import Diagnostic, UsageError
from alexc.engines.record import DEFAULT_BATCH, BatchRange

MOST_LEVEL = 5

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """What a build of a plan is told.

    `profiles` are the ranges of batches that it takes, each with kernels of its own. `targets` are
    compute capabilities, as `8.9` or `sm89`, or `current`; none is the library's default.
    `level`, 0 to 5, is how long to look for faster kernels, and `workspace` the bytes that a layer
    may use to compute in; None leaves both to the library. A plan of `any_version` is loaded by
    later versions of the library too, one of `any_gpu` by GPUs of compute capability 8.0 and
    later. A `stripped` plan is without its weights, which are put in when it is loaded.
    """

    profiles: tuple[BatchRange, ...] = (DEFAULT_BATCH,)
    targets: tuple[str, ...] = ()
    level: int | None = None
    workspace: int | None = None
    any_version: bool = False
    any_gpu: bool = False
    stripped: bool = False

    def __post_init__(self) -> None:
        if not self.profiles:
            raise ValueError("a plan has one or more profiles")
        if self.level is not None and not 0 <= self.level <= MOST_LEVEL:
            raise ValueError(f"the level is 0 to {MOST_LEVEL}, not {self.level}")

    @property
    def batch(self) -> BatchRange:
        """From the smallest batch that any profile takes to the largest.

        Its middle is the first profile's.
        """
        return hull(self.profiles)

    def to_json(self) -> dict[str, Any]:
        """As it stands in a plan's key."""
        return asdict(self)


DEFAULT_OPTIONS = PlanOptions()


def hull(profiles: tuple[BatchRange, ...]) -> BatchRange:
    """From the smallest batch of all to the largest, fastest where the first one is."""
    smallest = min(profile.min for profile in profiles)
    return BatchRange(smallest, profiles[0].opt, max(profile.max for profile in profiles))


def parse_bytes(text: str) -> int:
    """The bytes that `--workspace 2GiB` writes. Raises UsageError."""
    found = re.fullmatch(r"\s*(\d{1,15})\s*([KMG]I?B)?\s*", text.upper(), re.ASCII)
    size = int(found[1]) * _UNITS[found[2] or ""] if found else 0
    if not 0 < size < 2**63:
        shown = text if len(text) <= 40 else text[:40] + "…"
        raise UsageError(
            Diagnostic(
                "engine/workspace",
                f"{shown!a} is no amount of memory",
                help="for example --workspace 2GiB, or 512MiB",
            )
        )
    return size
