"""The spec language as a JSON Schema: what `alexc schema` prints and editors complete from.

Assembled from the same pydantic models that validate, so that it can't say anything else. An editor
takes it by the line that `alexc new` writes on top of a spec:

    # yaml-language-server: $schema=…
"""

from __future__ import annotations

from typing import Any

from alexc.ops import OPS
from alexc.ops.base import Op
from alexc.spec.model import Header, LayerInit

_NAME = {"type": "string", "description": "The name of a layer."}


def json_schema() -> dict[str, Any]:
    """The schema of a spec file, as JSON Schema draft 2020-12.

    A file that `extends` another is a patch, in which fields may be missing: the layers of such a
    file are held against the fields alone.
    """
    header = Header.model_json_schema()
    definitions: dict[str, Any] = header.pop("$defs", {})
    definitions["LayerInit"] = _lift(LayerInit.model_json_schema(), definitions)
    for kind, op in OPS.items():
        definitions[f"op_{kind}"] = _layer(kind, op, definitions)
    whole = {
        "description": "A layer: the name of an op, or its fields.",
        "anyOf": [
            {"enum": [kind for kind, op in OPS.items() if not _required(op)]},
            *({"$ref": f"#/$defs/op_{kind}"} for kind in OPS),
            {"$ref": "#/$defs/use"},
        ],
    }
    definitions["use"] = {
        "type": "object",
        "description": "A use of a block: its name and its parameters.",
        "properties": {
            "block": {"type": "string", "description": "The block's name."},
            "inputs": _NAME,
        },
        "required": ["block"],
    }
    definitions["layer"] = whole
    definitions["patch"] = _patch()
    definitions["block"] = {
        "type": "object",
        "description": "Layers given once and used with parameters.",
        "properties": {
            "parameters": {
                "type": "array",
                "items": {"type": "string"},
                "description": "Names that stand in the layers as $name.",
            },
            "layers": {
                "type": "object",
                "minProperties": 1,
                "additionalProperties": {"$ref": "#/$defs/block_layer"},
                "description": "As under the root's `layers`; `input` is what flows in.",
            },
        },
        "required": ["layers"],
        "additionalProperties": False,
    }
    # In a block any value may be a parameter, so only the names of fields can be checked.
    definitions["block_layer"] = {
        "anyOf": [
            {"enum": list(OPS)},
            {
                "type": "object",
                "properties": {"op": {"enum": list(OPS)}},
                "propertyNames": {"enum": sorted(_all_fields())},
                "required": ["op"],
            },
        ]
    }
    root: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "alexc spec",
        "description": "A network, as alexc compiles it.",
        "type": "object",
        "properties": {
            **{name: _nullable(value) for name, value in header["properties"].items()},
            "extends": {
                "type": "string",
                "description": "The spec that this one changes, relative to this file.",
                "examples": ["alexnet.yaml"],
            },
            "blocks": {
                "type": "object",
                "additionalProperties": {"anyOf": [{"$ref": "#/$defs/block"}, {"type": "null"}]},
                "description": "Groups of layers given once and used with parameters.",
            },
            "layers": {
                "type": "object",
                "description": "Layers by name, in the order of the data.",
            },
        },
        "required": ["alexc", "name"],
        "additionalProperties": False,
        "if": {"required": ["extends"]},
        "then": {
            "properties": {"layers": {"additionalProperties": {"$ref": "#/$defs/patch"}}},
        },
        "else": {
            "properties": {
                "layers": {"minProperties": 1, "additionalProperties": {"$ref": "#/$defs/layer"}}
            },
            "required": ["input", "layers"],
        },
        "$defs": definitions,
    }
    return root


def _lift(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema with its own definitions moved to the root's."""
    definitions.update(schema.pop("$defs", {}))
    return schema


def _required(op: type[Op]) -> list[str]:
    return [name for name, field in op.model_fields.items() if field.is_required()]


def _all_fields() -> set[str]:
    return {name for op in OPS.values() for name in op.model_fields} | {"op", "inputs", "init"}


def _common() -> dict[str, Any]:
    """What every layer may say beside its op's fields."""
    return {
        "inputs": {
            "anyOf": [_NAME, {"type": "array", "items": _NAME, "minItems": 1}],
            "description": "Layers that this one reads, or `input`; default: the one before it.",
        },
        "init": {"$ref": "#/$defs/LayerInit"},
    }


def _layer(kind: str, op: type[Op], definitions: dict[str, Any]) -> dict[str, Any]:
    schema = _lift(op.model_json_schema(), definitions)
    summary = (op.__doc__ or "").strip().split("\n\n")[0].replace("\n    ", " ")
    return {
        "type": "object",
        "description": summary,
        "properties": {
            "op": {"const": kind, "description": summary},
            **schema.get("properties", {}),
            **_common(),
        },
        "required": ["op", *_required(op)],
        "additionalProperties": False,
    }


def _patch() -> dict[str, Any]:
    """A layer of a spec that extends another: any fields, a place, or null to remove it."""
    fields: dict[str, Any] = {name: {} for name in sorted(_all_fields())}
    position = {**_NAME, "description": "The layer that this one is put beside."}
    return {
        "anyOf": [
            {"type": "null", "description": "Removes the layer."},
            {"enum": [kind for kind, op in OPS.items() if not _required(op)]},
            {
                "type": "object",
                "properties": {
                    **fields,
                    **_common(),
                    "op": {"enum": list(OPS)},
                    "after": position,
                    "before": position,
                },
                "if": {"required": ["block"]},
                "else": {"additionalProperties": False},
            },
        ]
    }


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    """A root key may be null where a file extends another: that removes it."""
    if "anyOf" in schema and {"type": "null"} not in schema["anyOf"]:
        return {**schema, "anyOf": [*schema["anyOf"], {"type": "null"}]}
    return schema
