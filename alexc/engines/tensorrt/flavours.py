"""The two libraries, and whether they can be used here."""

from __future__ import annotations

from dataclasses import dataclass

from alexc_runtime.engines.base import import_obstacle, load


@dataclass(frozen=True, slots=True)
class Flavour:
    """One of the two libraries, and whether it can be used here.

    `compiles_later`: it builds without a GPU, and compiles kernels where the plan is loaded; the
    other times kernels on the GPU that it builds for, and keeps the times for the next build.
    `version` is None, and `obstacle` says why, if it can't be imported.
    """

    module: str
    package: str
    compiles_later: bool
    version: str | None = None
    obstacle: str | None = None


FLAVOURS = {
    flavour.module: flavour
    for flavour in (
        Flavour("tensorrt", "tensorrt", compiles_later=False),
        Flavour("tensorrt_rtx", "tensorrt-rtx", compiles_later=True),
    )
}


def flavours() -> dict[str, Flavour]:
    """Both libraries, each with its version or with what keeps it from being used here."""
    found = {}
    for name, flavour in FLAVOURS.items():
        obstacle = import_obstacle(flavour.module, flavour.package)
        version = None if obstacle else str(load(flavour.module).__version__)
        found[name] = Flavour(
            flavour.module, flavour.package, flavour.compiles_later, version, obstacle
        )
    return found
