"""What a layer of a foreign net is called in the spec, and which foreign name was meant."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import islice

from alexc.ops.base import Op
from alexc.ops.dense import Linear
from alexc.ops.norm import Lrn
from alexc.ops.pointwise import Dropout, Softmax
from alexc.ops.pool import AdaptiveAvgPool, AvgPool, MaxPool
from alexc.ops.structure import Flatten
from alexc.spec.model import check_layer_name
from alexc.spec.names import Names

_FOREIGN_CHARACTERS = re.compile(r"[^\w/-]+")
_PREFIXES: dict[type[Op], str] = {
    Linear: "fc",
    Lrn: "norm",
    MaxPool: "pool",
    AvgPool: "pool",
    AdaptiveAvgPool: "pool",
    Dropout: "drop",
}


def conventional_name(kind: type[Op], weighted: int) -> str:
    """What people call such a layer after so many layers with weights: conv1, relu1, pool1, fc6."""
    if kind in (Flatten, Softmax):
        return {Flatten: "flatten", Softmax: "softmax"}[kind]
    prefix = _PREFIXES.get(kind, {"batch_norm": "bn"}.get(kind.kind, kind.kind))
    return f"{prefix}{max(weighted, 1)}"


def allowed_name(wanted: str) -> str | None:
    """The name with what the language does not allow replaced, or None if nothing is left of it."""
    parts = [
        _FOREIGN_CHARACTERS.sub("_", part).strip("_-") for part in wanted.strip().split("/") if part
    ]
    name = "/".join(part for part in parts if part)[:90].rstrip("/_-")
    if not name:
        return None
    if check_layer_name(name) is not None:
        # A reserved word, or a name that YAML reads as a number.
        name = f"{name}_layer" if name[0].isalpha() else f"layer_{name}"
    return name if check_layer_name(name) is None else None


def guess(word: str, names: Iterable[str]) -> str | None:
    """The question whether one of these names was meant, if one is near. Long ones are no words."""
    return Names(islice((n for n in names if len(n) <= 64), 2_000)).did_you_mean(word)
