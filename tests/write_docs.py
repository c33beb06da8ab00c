"""Writes what is generated in docs/: `make docs`."""

from __future__ import annotations

import json
from pathlib import Path

from alexc.spec.reference import reference
from alexc.spec.schema import json_schema

DOCS = Path(__file__).resolve().parents[1] / "docs"
MARK = "<!-- From here on written by `make docs`, from the models. -->\n\n"


def spec_md() -> str:
    """docs/spec.md as it should be: what is written there by hand, and the reference."""
    by_hand = (DOCS / "spec.md").read_text(encoding="utf-8").partition(MARK)[0]
    return by_hand + MARK + reference()


def schema_json() -> str:
    return json.dumps(json_schema(), ensure_ascii=False, indent=2) + "\n"


if __name__ == "__main__":
    (DOCS / "spec.md").write_text(spec_md(), encoding="utf-8")
    (DOCS / "alexc.schema.json").write_text(schema_json(), encoding="utf-8")
