"""`alexc schema`: the spec language as JSON Schema, for editors."""

from __future__ import annotations

import json as json_module

from alexc.cli.terminal import JsonOption
from alexc.spec.schema import json_schema


def schema(json: JsonOption = False) -> None:  # noqa: ARG001  (it is JSON with and without)
    """Print the JSON Schema of the spec language, for completion and hover texts in editors."""
    print(json_module.dumps(json_schema(), ensure_ascii=False, indent=2))
