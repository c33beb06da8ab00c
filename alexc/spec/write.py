"""Plain data → the YAML that a person would write: a layer a line, in the order of the data."""

from __future__ import annotations

import io
from typing import Any

# Root keys whose values stand on one line each, as they are written by hand.
_ONE_LINE_CHILDREN = ("layers", "allow")
_ONE_LINE = ("input", "outputs", "init", "preprocess")


def to_yaml(spec: dict[str, Any]) -> str:
    """YAML 1.2 text that reads back as `spec` (see `alexc.source.plain`)."""
    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedMap, CommentedSeq

    def one_line(value: Any) -> Any:
        """The value as a flow collection, nested ones included."""
        if isinstance(value, dict):
            mapping = CommentedMap({key: one_line(item) for key, item in value.items()})
            mapping.fa.set_flow_style()
            return mapping
        if isinstance(value, list):
            listing = CommentedSeq([one_line(item) for item in value])
            listing.fa.set_flow_style()
            return listing
        return value

    def shaped(key: str, value: Any) -> Any:
        if key in _ONE_LINE_CHILDREN and isinstance(value, dict):
            return {name: one_line(item) for name, item in value.items()}
        if key in _ONE_LINE_CHILDREN and isinstance(value, list):
            return [one_line(item) for item in value]
        if key in _ONE_LINE:
            return one_line(value)
        if isinstance(value, dict):
            return {name: one_line(item) for name, item in value.items()}
        return value

    yaml = YAML()
    yaml.width = 1_000_000
    yaml.indent(mapping=2, sequence=4, offset=2)
    stream = io.StringIO()
    yaml.dump({key: shaped(key, value) for key, value in spec.items()}, stream)
    return stream.getvalue()
