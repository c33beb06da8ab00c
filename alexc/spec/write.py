"""Plain data → the YAML that a person would write: a layer a line, in the order of the data."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from alexc.source import FORBIDDEN, resolve

_WIDTH = 100
# Root keys whose values are tables: an entry a line, however short they are.
_TABLES = ("layers", "blocks", "expect", "allow")

# Words that need no quotes wherever they stand: none of YAML's marks in them.
_PLAIN = re.compile(r"[^\W_](?:[\w./+-]| (?=[\w(]))*\Z|\$\w+\Z")


def to_yaml(spec: dict[str, Any]) -> str:
    """YAML 1.2 text that reads back as `spec` (see `alexc.source.plain`)."""
    lines: list[str] = []
    for key, value in spec.items():
        lines += _entry(f"{to_flow(key)}:", value, 0, spread=key in _TABLES)
    return "\n".join(lines) + "\n"


def to_flow(value: Any) -> str:
    """The value on one line: `{op: conv, kernel_size: [3, 5]}`."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{to_flow(str(k))}: {to_flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(to_flow, value)) + "]"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    return json.dumps(value)


def _text(value: str) -> str:
    if _PLAIN.match(value) and resolve(value) == value:
        return value
    quoted = json.dumps(value, ensure_ascii=False)
    return FORBIDDEN.sub(lambda match: f"\\u{ord(match.group()):04x}", quoted)


def _entry(start: str, value: Any, indent: int, *, spread: bool = False) -> Iterator[str]:
    """The lines of `start value`: one or two if it fits, else one for each part of the value."""
    pad = " " * indent
    flow = to_flow(value)
    fits_beside = len(pad) + len(start) + 1 + len(flow) <= _WIDTH
    if not value or not isinstance(value, dict | list) or (fits_beside and not spread):
        yield f"{pad}{start} {flow}"
    elif start != "-" and not spread and len(pad) + 2 + len(flow) <= _WIDTH:
        yield pad + start
        yield f"{pad}  {flow}"
    else:
        first, *rest = _parts(value, indent + 2)
        if start == "-":  # the first part stands beside the dash
            yield f"{pad}- {first.lstrip()}"
        else:
            yield pad + start
            yield first
        yield from rest


def _parts(value: dict[str, Any] | list[Any], indent: int) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _entry(f"{to_flow(str(key))}:", item, indent)
    else:
        for item in value:
            yield from _entry("-", item, indent)
