"""What the cross-check of a foreign file found, beside what every cross-check finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from alexc.verify.report import Report


@dataclass(frozen=True)
class ForeignReport(Report):
    """`matched` are the file's tensors for the spec's layers, `no_counterpart` why others have
    none; `file` is the file's name and `producer` what wrote it, as it says itself."""

    file: str = ""
    producer: str = ""
    matched: Mapping[str, str] = field(default_factory=dict)
    no_counterpart: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As of any report, with the foreign file's part under `foreign`."""
        return {
            **super().to_json(),
            "foreign": {
                "file": self.file,
                "producer": self.producer,
                "matched": dict(self.matched),
                "no_counterpart": dict(self.no_counterpart),
            },
        }
