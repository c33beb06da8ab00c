"""YAML 1.2 → values that remember where they were written.

This room owns text, syntax and places. It knows nothing of networks: keys and values are checked by
the rooms below.

    text      a file's bytes → its values, within limits that hostile input can't pass
    composer  the parser's events → the tree
    syntax    what the parser complains of, in words that say what to write instead
    scalars   what the text of a scalar stands for
    tree      the values, each with its place

The parser is libyaml, by way of ruamel.yaml. The tree is composed here from its events, because
every value keeps its place through merges, scalars follow the YAML 1.2 core schema (`1e-4` is a
number, `no` is a word), and alias bombs and deep nesting must end in an error.
"""

from alexc.source.scalars import resolve
from alexc.source.text import FORBIDDEN, MAX_BYTES, parse, read, read_bytes
from alexc.source.tree import (
    MAX_DEPTH,
    MAX_VALUES,
    Entry,
    Listing,
    Mapping,
    Node,
    Scalar,
    locate,
    mapping,
    plain,
    sequence,
)

__all__ = [
    "FORBIDDEN",
    "MAX_BYTES",
    "MAX_DEPTH",
    "MAX_VALUES",
    "Entry",
    "Listing",
    "Mapping",
    "Node",
    "Scalar",
    "locate",
    "mapping",
    "parse",
    "plain",
    "read",
    "read_bytes",
    "resolve",
    "sequence",
]
