"""YAML text → values with places."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexc.diagnostics import AlexcError, UsageError
from alexc.source import (
    MAX_BYTES,
    MAX_DEPTH,
    MAX_VALUES,
    Listing,
    Mapping,
    Node,
    Scalar,
    locate,
    parse,
    plain,
    read_bytes,
    resolve,
)
from alexc.spec.write import to_flow, to_yaml


def read(text: str) -> Any:
    return plain(parse(text.encode(), "a.yaml"))


def code_of(text: str | bytes) -> str:
    data = text.encode() if isinstance(text, str) else text
    with pytest.raises(AlexcError) as raised:
        parse(data, "a.yaml")
    return raised.value.diagnostics[-1].code


# ---- what a scalar stands for: YAML 1.2, core schema ---------------------------------------------


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        ("1e-4", 1e-4),
        ("1E+3", 1000.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("-0", 0),
        ("+12", 12),
        ("007", 7),
        ("0o17", 15),
        ("0x1F", 31),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("null", None),
        ("~", None),
        ("", None),
        ("True", True),
        ("FALSE", False),
        # words, not values as in YAML 1.1
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("1_000", "1_000"),
        ("60,965,224", "60,965,224"),
        ("0b11", "0b11"),
        ("1:30", "1:30"),
        ("2012-12-03", "2012-12-03"),
        ("e5", "e5"),
        ("1e", "1e"),
        (".", "."),
        ("nan", "nan"),
        ("0o8", "0o8"),
        ("tRUE", "tRUE"),
        ("+", "+"),
        ("²", "²"),
        ("٣", "٣"),  # a digit of another script
    ],
)
def test_scalars_follow_the_core_schema(raw: str, value: object) -> None:
    assert resolve(raw) == value
    assert type(resolve(raw)) is type(value)


def test_not_a_number_is_one() -> None:
    found = resolve(".nan")
    assert isinstance(found, float)
    assert math.isnan(found)


@pytest.mark.parametrize("raw", ["9223372036854775808", "-9223372036854775808", "9" * 1000])
def test_whole_numbers_have_64_bits(raw: str) -> None:
    with pytest.raises(ValueError, match=raw[:10]):
        resolve(raw)


def test_quotes_make_text() -> None:
    assert read("a: '1'\nb: \"null\"\nc: !!str 5\nd: ! 6") == {
        "a": "1",
        "b": "null",
        "c": "5",
        "d": "6",
    }


def test_keys_are_names_whatever_they_look_like() -> None:
    assert read("1: a\nnull: b\n2.0: c") == {"1": "a", "null": "b", "2.0": "c"}


def test_all_styles_of_yaml() -> None:
    text = """%YAML 1.2
---
flow: {a: [1, 'two', "th\\u0072ee"], "b": {}, c,}
block:
- 1
-   k: v
    l:
    - - x
      - y
folded: >-
  one
  two

  three
literal: |
  one
   two
plain: many
  words on
  lines
anchor: &this {x: 1}
alias: [*this, *this]
# a comment
...
"""
    assert read(text) == {
        "flow": {"a": [1, "two", "three"], "b": {}, "c": None},
        "block": [1, {"k": "v", "l": [["x", "y"]]}],
        "folded": "one two\nthree",
        "literal": "one\n two\n",
        "plain": "many words on lines",
        "anchor": {"x": 1},
        "alias": [{"x": 1}, {"x": 1}],
    }


# ---- places --------------------------------------------------------------------------------------


def places(node: Node) -> list[tuple[str, int, int, int]]:
    """Every scalar and key with line, column and length."""
    found = []
    if isinstance(node, Scalar):
        found.append((node.raw, node.place.line, node.place.column, node.place.length))
    elif isinstance(node, Listing):
        for item in node.items:
            found += places(item)
    else:
        for key, entry in node.entries.items():
            found.append((key, entry.key.line, entry.key.column, entry.key.length))
            found += places(entry.value)
    return found


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["unix", "windows", "old mac"])
def test_places_count_characters_and_lines(end: str) -> None:
    text = end.join(["卷积: {名: '值', b: [1, 22]} # 注", "", "k:\t&x word", "l: *x", "empty:"])
    assert places(parse(text.encode(), "a.yaml")) == [
        ("卷积", 1, 1, 2),
        ("名", 1, 6, 1),
        ("值", 1, 9, 3),
        ("b", 1, 14, 1),
        ("1", 1, 18, 1),
        ("22", 1, 21, 2),
        ("k", 3, 1, 1),
        ("word", 3, 7, 4),
        ("l", 4, 1, 1),
        ("word", 3, 7, 4),  # an alias is where its value is written
        ("empty", 5, 1, 5),
        ("", 5, 1, 5),  # what isn't there is at its key
    ]


def test_a_byte_order_mark_counts_for_nothing() -> None:
    assert places(parse(b"\xef\xbb\xbfk: v", "a.yaml")) == [("k", 1, 1, 1), ("v", 1, 4, 1)]


def test_locate_finds_the_nearest_value_that_is_there() -> None:
    tree = parse(b"a:\n  b: [1, {c: 2}]\n", "a.yaml")

    def at(*path: str | int, key: bool = False) -> tuple[int, int]:
        place = locate(tree, path, key=key)
        return place.line, place.column

    assert at() == (1, 1)
    assert at("a", "b", 1, "c") == (2, 14)
    assert at("a", "b", 1, "c", key=True) == (2, 11)
    assert at("a", "b", 7) == (2, 6)
    assert at("a", "x", "y") == (2, 3)  # of the mapping: its first key
    assert at("nowhere") == (1, 1)


# ---- hostile input -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"\xff\xfea\x00", "yaml/encoding"),
        (b"a: \xc3\x28", "yaml/encoding"),
        (b"a: b\x00", "yaml/character"),
        ("a: \u2028", "yaml/character"),  # a line break in YAML 1.1 only
        ("a: [" * (MAX_DEPTH + 1), "yaml/depth"),
        ("- " * 10_000, "yaml/depth"),
        ("a: [" + "x, " * MAX_VALUES + "]", "yaml/too-many-values"),
        ("a: &a [1]\nb: &b [*a, *a]\n" + "c: [" + "*b, " * 10_000 + "]", "yaml/too-many-values"),
        ("a: &a [*a]", "yaml/alias"),
        ("x" * 201 + ": 1", "yaml/key"),
        ("? [a]\n: 1", "yaml/key"),
        ("*x : 1", "yaml/alias"),
        ("a: !!python/object 1", "yaml/tag"),
        ("a: !!int 1", "yaml/tag"),
        ("", "yaml/not-a-mapping"),
        ("# only a comment", "yaml/not-a-mapping"),
        ("word", "yaml/not-a-mapping"),
        ("a: 1\n---\nb: 2", "yaml/documents"),
        ("a: 1\n...\nb: 2", "yaml/documents"),
    ],
)
def test_what_no_spec_needs_is_refused(text: str | bytes, code: str) -> None:
    assert code_of(text) == code


def test_all_repeated_keys_are_told_in_one_go() -> None:
    with pytest.raises(AlexcError) as raised:
        parse(b"a: 1\na: 2\nb: {c: 1, c: 2}\n<<: 3\nd: 99999999999999999999", "a.yaml")
    assert [str(d.place) for d in raised.value.diagnostics] == [
        "a.yaml:2:1",
        "a.yaml:3:11",
        "a.yaml:4:1",
        "a.yaml:5:4",
    ]


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no file"):
        read_bytes(tmp_path / "none.yaml")
    with pytest.raises(UsageError, match="directory"):
        read_bytes(tmp_path)
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(AlexcError, match="yaml/too-large"):
        read_bytes(large)


# ---- reading what was written --------------------------------------------------------------------

_MARKS = (
    "no 1e-4 null a: # - & *a !t { ] ' \" \\ % @ ` | > ? : a:b --- ... << = 0x1F .inf $p".split()
)
_SPACED = ["", " a", "a ", "a: b", "a #b", "- x", "\n", "\t", "\u2028", "\x85", "\x7f", "\ufeff"]
_TEXTS = st.text(max_size=20) | st.sampled_from([*_MARKS, *_SPACED, "😀", "卷积"])
_NUMBERS = st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(allow_nan=False)
_VALUES = st.recursive(
    st.none() | st.booleans() | _NUMBERS | _TEXTS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(_TEXTS.filter(lambda key: key not in ("", "<<")), inner, max_size=4)
    ),
    max_leaves=12,
)
_MAPPINGS = st.dictionaries(
    st.sampled_from(["layers", "expect", "allow", "input", "k", "注"]), _VALUES, min_size=1
)


@given(_MAPPINGS)
def test_what_is_written_reads_back(data: dict[str, Any]) -> None:
    assert parse(to_yaml(data).encode(), "a.yaml") is not None
    assert read(to_yaml(data)) == data
    assert read("k: " + to_flow(data)) == {"k": data}


def test_numbers_keep_their_kind_when_written() -> None:
    data = {"k": [1, 1.0, 1e-4, 1e22, -0.0, math.inf, True, None, "1", "true"]}
    again = read(to_yaml(data))
    assert [(type(a), a) for a in again["k"]] == [(type(a), a) for a in data["k"]]


def test_layers_are_written_one_a_line() -> None:
    data = {"name": "n", "layers": {"a": "relu", "b": {"op": "conv", "kernel_size": [3, 5]}}}
    assert to_yaml(data) == "name: n\nlayers:\n  a: relu\n  b: {op: conv, kernel_size: [3, 5]}\n"


def test_mappings_know_their_size() -> None:
    tree = parse(b"a: &x [1, 2]\nb: [*x, *x]", "a.yaml")
    assert isinstance(tree, Mapping)
    assert tree.size == 1 + 3 + 7
