"""The spec language as a JSON Schema: what `alexc schema` prints and editors complete from.

Assembled from the same pydantic models that validate, so that it can't say anything else. An editor
takes it by a line on top of a spec:

    # yaml-language-server: $schema=../docs/alexc.schema.json

A file that `extends` another is a patch, in which anything may be missing or null; then names and
kinds of values are checked, and no more can be.
"""

from __future__ import annotations

from typing import Any

from alexc.ops import OPS
from alexc.ops.base import Op
from alexc.spec.merge import PATCHED
from alexc.spec.model import LAYER_KEYS, RESERVED_NAMES, STRUCTURE, Header, LayerInit
from alexc.spec.positions import POSITIONS

Schema = dict[str, Any]

_NAME: Schema = {"type": "string", "description": "The name of a layer."}
_NULL: Schema = {"type": "null"}
_LAYER_NAMES: Schema = {
    "minLength": 1,
    "maxLength": 100,
    "not": {"enum": ["input", *sorted(RESERVED_NAMES)]},
}


def json_schema() -> Schema:
    """The schema of a spec file, as JSON Schema draft 2020-12."""
    definitions: Schema = {}
    header = _lift(Header.model_json_schema(), definitions)["properties"]
    definitions["LayerInit"] = _lift(LayerInit.model_json_schema(), definitions)
    definitions |= {f"op_{kind}": _layer(kind, op, definitions) for kind, op in OPS.items()}
    definitions["use"] = _use()
    definitions["layer"] = {
        "description": "A layer: the name of an op, or its fields.",
        "anyOf": [_bare(), *_references("op"), {"$ref": "#/$defs/use"}],
    }
    definitions |= {f"patch_{kind}": _patch_of_op(kind, definitions) for kind in OPS}
    definitions["patch_fields"] = _patch_of_fields(definitions)
    definitions["patch_use"] = _patch_of_use(definitions)
    definitions["patch"] = {
        "description": "A change of a layer, or a new one.",
        "anyOf": [
            {**_NULL, "description": "Removes the layer."},
            _bare(),
            *_references("patch"),
            {"$ref": "#/$defs/patch_fields"},
            {"$ref": "#/$defs/patch_use"},
        ],
    }
    definitions["block"] = _block()
    definitions["block_layer"] = _layer_of_block()
    patched = {
        name: _nullable(_loose(schema, definitions) if name in PATCHED else schema)
        for name, schema in header.items()
        if name not in ("alexc", "name")
    }
    root: Schema = _tidy(
        {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "alexc spec",
            "description": "A network, as alexc compiles it.",
            "type": "object",
            "properties": {
                "alexc": header.pop("alexc"),
                "name": header.pop("name"),
                "extends": {
                    "type": "string",
                    "description": STRUCTURE["extends"],
                    "examples": ["alexnet.yaml"],
                },
                **{name: {} for name in header},
                "blocks": {"type": "object", "description": STRUCTURE["blocks"]},
                "layers": {
                    "type": "object",
                    "description": STRUCTURE["layers"],
                    "propertyNames": _LAYER_NAMES,
                },
            },
            "required": ["alexc", "name"],
            "additionalProperties": False,
            "if": {"required": ["extends"]},
            "then": {
                "properties": {
                    **patched,
                    "blocks": {"additionalProperties": _nullable({"$ref": "#/$defs/block"})},
                    "layers": {"additionalProperties": {"$ref": "#/$defs/patch"}},
                },
            },
            "else": {
                "properties": {
                    **header,
                    "blocks": {"additionalProperties": {"$ref": "#/$defs/block"}},
                    "layers": {
                        "minProperties": 1,
                        "additionalProperties": {"$ref": "#/$defs/layer"},
                    },
                },
                "required": ["input", "layers"],
            },
            "$defs": definitions,
        }
    )
    return root


# ---- layers --------------------------------------------------------------------------------------


def _layer(kind: str, op: type[Op], definitions: Schema) -> Schema:
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


def _common() -> Schema:
    """What every layer may say beside its op's fields."""
    return {
        "inputs": {
            "anyOf": [_NAME, {"type": "array", "items": _NAME, "minItems": 1}],
            "description": "Layers that this one reads, or `input`; default: the one before it.",
        },
        "init": {"$ref": "#/$defs/LayerInit"},
    }


def _bare() -> Schema:
    """The ops that need no field, as one word."""
    return {"enum": [kind for kind, op in OPS.items() if not _required(op)]}


def _references(prefix: str) -> list[Schema]:
    return [{"$ref": f"#/$defs/{prefix}_{kind}"} for kind in OPS]


def _required(op: type[Op]) -> list[str]:
    return [name for name, field in op.model_fields.items() if field.is_required()]


# ---- blocks --------------------------------------------------------------------------------------


def _use() -> Schema:
    return {
        "type": "object",
        "description": "A use of a block: its name and its parameters.",
        "properties": {
            "block": {"type": "string", "description": "The block's name."},
            "inputs": _NAME,
        },
        "required": ["block"],
        "not": {"required": ["op"]},
    }


def _block() -> Schema:
    return {
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


def _layer_of_block() -> Schema:
    """In a block any value may be a parameter, so only the names of fields can be checked."""
    names = {name for op in OPS.values() for name in op.model_fields}
    return {
        "anyOf": [
            _bare(),
            {"type": "string", "pattern": "^\\$"},
            {
                "type": "object",
                "properties": {"op": {"anyOf": [{"enum": list(OPS)}, {"pattern": "^\\$"}]}},
                "propertyNames": {"enum": sorted({*names, *LAYER_KEYS})},
                "required": ["op"],
            },
        ]
    }


# ---- patches -------------------------------------------------------------------------------------


def _positions() -> Schema:
    position = {**_NAME, "description": "The layer that this one is put beside."}
    return dict.fromkeys(POSITIONS, position)


def _patch_of_op(kind: str, definitions: Schema) -> Schema:
    """A layer with its op: a new one, or fields of one of that op."""
    whole = definitions[f"op_{kind}"]
    fields = {name: _nullable(field) for name, field in whole["properties"].items()}
    fields["op"] = whole["properties"]["op"]
    return {**whole, "properties": {**fields, **_positions()}, "required": ["op"]}


def _patch_of_fields(definitions: Schema) -> Schema:
    """Fields of a layer whose op the base says."""
    fields: dict[str, list[Schema]] = {}
    for kind in OPS:
        for name, field in definitions[f"op_{kind}"]["properties"].items():
            if name != "op" and field not in fields.setdefault(name, []):
                fields[name].append(field)
    # What a field is for may differ from op to op.
    loose = {name: _nullable({"anyOf": [*forms, _NULL]}) for name, forms in fields.items()}
    return {
        "type": "object",
        "properties": {**loose, **_positions()},
        "additionalProperties": False,
    }


def _patch_of_use(definitions: Schema) -> Schema:
    """A use of a block, or parameters of one that the base has: names that are no op's fields."""
    known = sorted({*definitions["patch_fields"]["properties"], "op"} - {"inputs", *_positions()})
    return {
        "type": "object",
        "properties": {**_use()["properties"], **_positions()},
        "anyOf": [{"required": ["block"]}, {"propertyNames": {"not": {"enum": known}}}],
        "not": {"required": ["op"]},
    }


# ---- schemas from schemas ------------------------------------------------------------------------


def _lift(schema: Schema, definitions: Schema) -> Schema:
    """The schema with its own definitions moved to the root's."""
    definitions.update(schema.pop("$defs", {}))
    return schema


def _loose(schema: Schema, definitions: Schema) -> Schema:
    """The schema of a mapping of which a patch gives only some keys, or null to remove one."""
    if "$ref" in schema:
        target = definitions[schema["$ref"].rpartition("/")[2]]
        about = {key: value for key, value in schema.items() if key != "$ref"}
        return {**_loose(target, definitions), **about}
    if "anyOf" in schema:
        return {**schema, "anyOf": [_loose(branch, definitions) for branch in schema["anyOf"]]}
    if "properties" not in schema:
        return schema
    loose = {key: value for key, value in schema.items() if key != "required"}
    fields = {name: _nullable(field) for name, field in schema["properties"].items()}
    return {**loose, "properties": fields}


def _nullable(schema: Schema) -> Schema:
    branches = schema.get("anyOf", [schema])
    if _NULL in branches:
        return schema
    about: Schema = {key: schema[key] for key in ("description", "examples") if key in schema}
    return {**about, "anyOf": [*branches, _NULL]}


def _tidy(schema: Any) -> Any:
    """Without the titles that pydantic makes up, and defaults of null, which say nothing."""
    if isinstance(schema, list):
        return [_tidy(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    root = "$schema" in schema
    return {
        key: value if key in ("enum", "examples", "const", "default") else _tidy(value)
        for key, value in schema.items()
        if (key != "title" or root or not isinstance(value, str))
        and not (key == "default" and value is None)
    }
