"""What the text of a plain scalar stands for: numbers, truth values, null, or itself."""

from __future__ import annotations

import re

_INT = re.compile(r"[-+]?[0-9]+\Z|0o[0-7]+\Z|0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_WORDS: dict[str, bool | float | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
_NUMBER_STARTS = frozenset("+-.0123456789")


def resolve(raw: str) -> str | int | float | bool | None:
    """The value of a plain scalar by YAML 1.2's core schema (chapter 10.3.2 of its specification).

    Raises ValueError for an integer of more than 64 bits.
    """
    if raw[:1] in _NUMBER_STARTS:
        if _INT.match(raw):
            if len(raw) > 25:
                raise ValueError(raw)
            number = int(raw, {"0o": 8, "0x": 16}.get(raw[:2], 10))
            if abs(number) >= 2**63:
                raise ValueError(raw)
            return number
        if _FLOAT.match(raw):
            return float(raw)
    return _WORDS.get(raw, raw)
