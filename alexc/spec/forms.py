"""What a JSON Schema says, in words: `a whole number or a list of 2 whole numbers`.

The schema of a field is made by pydantic from the field itself, so diagnostics and the reference
manual, which both read it here, can't tell another story than validation.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from pydantic import BaseModel

from alexc.spec.names import listing
from alexc.spec.write import to_flow

Schema = dict[str, Any]

_MOST_NAMED = 8
_KINDS = {
    "integer": ("a whole number", "whole numbers"),
    "number": ("a number", "numbers"),
    "boolean": ("true or false", "truth values"),
    "string": ("text", "texts"),
}


class Form:
    """The schema of one value, of a field or of anything within it."""

    def __init__(self, schema: Schema, definitions: Schema) -> None:
        self.schema = schema
        self._definitions = definitions

    @staticmethod
    def of(model: type[BaseModel]) -> Form:
        """The form of a mapping that `model` validates."""
        schema = _schema(model)
        return Form(schema, schema.get("$defs", {}))

    @property
    def description(self) -> str | None:
        """What the field is for."""
        return self.schema.get("description")

    @property
    def example(self) -> str | None:
        """A value that the author of the field would write, as YAML."""
        examples = self.schema.get("examples")
        return to_flow(examples[0]) if examples else None

    @property
    def fields(self) -> list[str]:
        """The keys that a mapping here may have, where they are known."""
        return [name for branch in self._branches() for name in branch.get("properties", {})]

    @property
    def choices(self) -> list[str]:
        """The words that the value may be, where they are known."""
        return [str(word) for branch in self._branches() for word in branch.get("enum", ())]

    def takes(self, kind: str) -> bool:
        """Whether a value may be of this kind of JSON Schema: `integer`, `boolean`, …"""
        return any(branch.get("type") == kind for branch in self._branches())

    def at(self, step: str | int) -> Form:
        """The form of the value under a key, or of an item of a list; of anything if unknown."""
        for branch in self._branches():
            properties = branch.get("properties", {})
            if step in properties:
                return Form(properties[step], self._definitions)
            for word in ("items", "additionalProperties"):
                wanted = isinstance(step, int) == (word == "items")
                if wanted and isinstance(branch.get(word), dict):
                    return Form(branch[word], self._definitions)
        return Form({}, self._definitions)

    def __str__(self) -> str:
        """The form in words, as an object of `must be`."""
        words: dict[str, None] = {}
        for branch in self._branches():
            words |= dict.fromkeys(branch.get("enum") or [_phrase(branch, self._definitions)])
        # What is shortest to write comes first.
        ranked = sorted(map(str, words), key=lambda word: word.startswith(("a list", "a mapping")))
        return listing(ranked, "or") or "something else"

    def _branches(self) -> Iterator[Schema]:
        yield from _branches(self.schema, self._definitions)


@cache
def _schema(model: type[BaseModel]) -> Schema:
    return model.model_json_schema()


def _branches(schema: Schema, definitions: Schema) -> Iterator[Schema]:
    """The alternatives of a schema, references followed, without null."""
    if "$ref" in schema:
        yield from _branches(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    elif "anyOf" in schema:
        for branch in schema["anyOf"]:
            yield from _branches(branch, definitions)
    elif schema and schema.get("type") != "null":
        yield schema


def _phrase(schema: Schema, definitions: Schema) -> str:
    if "const" in schema:
        return str(schema["const"])
    if "enum" in schema:
        return listing(map(str, schema["enum"]), "or")
    kind = schema.get("type")
    if kind == "array":
        each: Schema = schema.get("items") or next(iter(schema.get("prefixItems", ())), {})
        items = list(_branches(each, definitions))
        count = schema.get("minItems") if schema.get("minItems") == schema.get("maxItems") else None
        number = f"{count} " if count else ""
        plural = _plural(items[0]) if len(items) == 1 else "values"
        return f"a list of {number}{plural}"
    if kind == "object":
        if properties := schema.get("properties"):
            return f"a mapping of {listing(properties, most=_MOST_NAMED)}"
        values = list(_branches(schema.get("additionalProperties") or {}, definitions))
        return f"a mapping of names to {_plural(values[0]) if len(values) == 1 else 'values'}"
    return _KINDS.get(str(kind), ("something else", ""))[0]


def _plural(schema: Schema) -> str:
    kind = str(schema.get("type"))
    if "enum" in schema:
        return listing(map(str, schema["enum"]), "or")
    if kind == "array":
        return "lists of " + _plural(schema.get("items", {}))
    return "mappings" if kind == "object" else _KINDS.get(kind, ("", "values"))[1]
