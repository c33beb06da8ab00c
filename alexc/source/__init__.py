"""YAML 1.2 → values that remember where they were written.

This room owns text, syntax and places. It knows nothing of networks: keys and values are checked by
the rooms below.

    text      a file's bytes → its values, within limits that hostile input can't pass
    reader    the syntax: block and flow collections, scalars, anchors; what is wrong with it
    scalars   what the text of a scalar stands for
    tree      the values, each with its place

The reader is our own, for three reasons. A parser that has to tell a newcomer what is wrong must
know what he was about: which bracket is open, which key has a value already, how far the neighbours
are indented. Every value keeps its place through merges. And a general parser in Python takes a
second for a net of a few thousand layers. It reads YAML 1.2 without tags, keys that are no words,
and several documents in one file; those are refused. What it accepts, any YAML 1.2 parser reads
alike: `tests/campaigns/fuzz_check.py` compares it with ruamel.yaml.
"""

from alexc.source.scalars import resolve
from alexc.source.text import MAX_BYTES, parse, read, read_bytes
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
