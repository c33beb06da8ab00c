"""The two libraries, and whether they can be used here."""

from __future__ import annotations

from dataclasses import dataclass

from alexc_runtime.engines.base import import_obstacle, load


@dataclass(frozen=True, slots=True)
class Flavour:
    """One of the two libraries, and whether it can be used here.

    `version` is None, and `obstacle` says why, if it can't be imported.
    """

    module: str
    package: str
    builds_without_gpu: bool
    version: str | None = None
    obstacle: str | None = None


FLAVOURS = {
    flavour.module: flavour
    for flavour in (
        Flavour("tensorrt", "tensorrt", builds_without_gpu=False),
        Flavour("tensorrt_rtx", "tensorrt-rtx", builds_without_gpu=True),
    )
}


def flavours() -> dict[str, Flavour]:
    """Both libraries, each with its version or with what keeps it from being used here."""
    found = {}
    for name, flavour in FLAVOURS.items():
        obstacle = import_obstacle(flavour.module, flavour.package)
        version = None if obstacle else str(load(flavour.module).__version__)
        found[name] = Flavour(
            flavour.module, flavour.package, flavour.builds_without_gpu, version, obstacle
        )
    return found
