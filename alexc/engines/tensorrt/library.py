"""The library itself: its logger, its builder, its errors and what it can build for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from alexc.diagnostics import AlexcError, Diagnostic, usage_fault
from alexc.engines import driver
from alexc.engines.tensorrt.callbacks import logger
from alexc.engines.tensorrt.flavours import FLAVOURS
from alexc.engines.tensorrt.words import reason
from alexc_runtime.engines.base import load


class Library:
    """The library, its logger and its builder, which must outlive what is made with them."""

    def __init__(self, flavour: str) -> None:
        self.library: Any = load(flavour)
        self.version = str(self.library.__version__)
        self.flavour = FLAVOURS[flavour]
        self.name = self.flavour.package
        self.logger: Any = logger(self.library)
        try:
            self.builder: Any = self.library.Builder(self.logger)
        except (RuntimeError, TypeError) as error:  # its C++ side returned nothing
            raise self.fault("engine/build", f"{self.name} makes no builder: {error}") from None

    def fault(self, code: str, message: str, *, help: str | None = None) -> AlexcError:
        """An error with what TensorRT has logged so far as notes."""
        notes = tuple(note for note in self.logger.errors if reason(note) not in message)
        return AlexcError(Diagnostic(code, message, notes=notes[:5], help=help))

    def capabilities(self, targets: Sequence[str]) -> list[Any]:
        """The library's own values for targets such as `8.9`, `sm89` or `current`."""
        known = getattr(self.library, "ComputeCapability", None)
        if not targets:
            return []
        if known is None:
            raise usage_fault(
                "engine/target",
                f"{self.name} {self.version} builds for the GPU of this machine alone",
                help="leave the target away, or build with tensorrt-rtx",
            )
        names = {name.lower(): value for name, value in known.__members__.items() if name != "NONE"}
        found: dict[str, Any] = {}
        for target in targets:
            name = re.sub(r"^(sm[_-]?)?(\d+)\.?(\d)$", r"sm\2\3", target.strip().lower())
            if name not in names:
                listed = ", ".join(
                    f"{name[2:-1]}.{name[-1]}" if name.startswith("sm") else name for name in names
                )
                raise usage_fault(
                    "engine/target",
                    f"{self.name} {self.version} has no target {target}",
                    help=f"it can be told {listed}; without a target the plan is for 8.0 and later",
                )
            found[name] = names[name]
        if "current" in found and not driver.gpu_count():
            message = "the target current is the GPU of this machine, and it has none"
            raise usage_fault("engine/target", message)
        if "current" in found and len(found) > 1:
            raise usage_fault("engine/target", "the target current goes with no other")
        return list(found.values())
