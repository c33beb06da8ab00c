"""The reference of the language in Markdown, from the models that validate it.

`make docs` writes it into `docs/spec.md`, behind what is written there by hand; a test holds the
file against it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from alexc.ops import OPS
from alexc.spec.forms import Form
from alexc.spec.model import (
    STRUCTURE,
    Allowance,
    Expect,
    Header,
    InitSpec,
    InputSpec,
    LayerInit,
    Preprocess,
)
from alexc.spec.recipe import TrainSpec
from alexc.spec.write import to_flow

# Root keys that are mappings of their own, with the models that say what is in them.
_PARTS: dict[str, type[BaseModel]] = {
    "input": InputSpec,
    "init": InitSpec,
    "expect": Expect,
    "preprocess": Preprocess,
    "allow": Allowance,
    "train": TrainSpec,
}

_FORMS_OF_STRUCTURE = {
    "extends": "the path of a spec",
    "blocks": "a mapping of names to blocks",
    "layers": "a mapping of names to layers",
}


def reference() -> str:
    """All keys and ops, with forms, defaults and meanings."""
    return "\n".join(_sections()).rstrip() + "\n"


def _sections() -> Iterator[str]:
    yield "## Root keys\n"
    yield from _table(Header)
    for name, form in _FORMS_OF_STRUCTURE.items():
        yield f"| `{name}` | {form} | | {STRUCTURE[name]} |"
    for key, model in _PARTS.items():
        yield f"\n### `{key}`\n"
        yield from _about(model)
        yield from _table(model)
        for name, part in _parts(model) if model is not InitSpec else ():
            yield f"\n#### `{key}.{name}`\n"
            yield from _about(part)
            yield from _table(part)
    yield "\n## Layers\n"
    yield "Every layer may say, beside its op's fields:\n"
    yield "| key | form | meaning |"
    yield "|---|---|---|"
    yield (
        "| `inputs` | the name of a layer, or a list of names | What it reads: layers, or `input`. "
        "Without it, the layer before it. |"
    )
    yield f"| `init` | {Form.of(LayerInit)} | How its weights are drawn, if not as the net's. |"
    yield (
        "| `after`, `before` | the name of a layer | In a spec that extends another: where it "
        "stands. |"
    )
    yield (
        "\nAn op without a required field may be written as its name alone: `relu1: relu`. Names of"
        "\nfields are PyTorch's.\n"
    )
    for kind, op in OPS.items():
        yield f"### `{kind}`\n"
        yield from _about(op)
        if op.min_inputs > 1:
            yield f"It reads {op.min_inputs} or more layers.\n"
        if op.model_fields:
            yield from _table(op)
            yield ""


def _about(model: type[BaseModel]) -> Iterator[str]:
    """The docstring: paragraphs as they are, what is indented as a block of code."""
    for paragraph in (model.__doc__ or "").strip().split("\n\n"):
        lines = [line.removeprefix("    ") for line in paragraph.split("\n")]
        if any(line.startswith(" ") or "  " in line.strip() for line in lines):
            yield "```text\n" + "\n".join(lines) + "\n```\n"
        else:
            yield "\n".join(lines) + "\n"


def _table(model: type[BaseModel]) -> Iterator[str]:
    form = Form.of(model)
    parts = {name for name, _ in _parts(model)} if model is not InitSpec else set()
    parts |= _PARTS.keys() if model is Header else set()
    yield "| key | form | default | meaning |"
    yield "|---|---|---|---|"
    for name, field in model.model_fields.items():
        described = form.at(name)
        meaning = _cell(field.description or described.description or "")
        if described.example:
            meaning += f" *E.g.* `{_cell(described.example)}`"
        shape = _cell(str(described))
        if name in parts:  # it has a table of its own
            shape = re.sub(r"(a mapping|a list of mappings)\b.*", r"\1, see below", shape)
        yield f"| `{name}` | {shape} | {_default(field)} | {meaning} |"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value: Any = field.get_default()
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", exclude_defaults=True) or None
    if value is None or value in ({}, (), []):
        return ""
    if isinstance(value, tuple) and len(set(value)) == 1:
        value = value[0]
    return f"`{_cell(to_flow(value))}`"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _parts(model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """The fields that are mappings of their own."""
    for name, field in model.model_fields.items():
        for candidate in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                yield name, candidate
