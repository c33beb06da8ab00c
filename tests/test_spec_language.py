"""The language's names, schema and texts, held against what they stand for."""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexc.diagnostics import AlexcError
from alexc.frontend import load_net
from alexc.ops import OPS
from alexc.source import parse, plain, read
from alexc.spec.forms import Form
from alexc.spec.model import RESERVED_NAMES, Header, check_layer_name
from alexc.spec.names import Names, clip, listing
from alexc.spec.parse import load_spec, spec_from_json
from alexc.spec.schema import json_schema
from tests.small_specs import HEAD, Project, project

__all__ = ["project"]

ROOT = Path(__file__).resolve().parents[1]
SPECS = sorted(ROOT.glob("specs/**/*.yaml"))
SCHEMA = json_schema()


# ---- names of layers -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["conv1", "卷积1", "inception_3a/1x1", "a-b", "Ünï", "x" * 100, "3x3", "relu", "1st"]
)
def test_names_that_layers_can_have(name: str) -> None:
    assert check_layer_name(name) is None


@pytest.mark.parametrize(
    "name",
    [
        *("", "a.b", "a b", "_a", "-a", "a/", "/a", "a//b", "x" * 101, "a\n", "😀", "$a", "a:b"),
        *("input", "1", "1e5", "0x1F", "true", "null", "for", "None", "forward", "a\u202e"),
    ],
)
def test_names_that_layers_can_t_have(name: str) -> None:
    assert check_layer_name(name)


def test_reserved_names_are_those_of_a_torch_module() -> None:
    """A layer is a submodule, and a submodule can't hide what a module needs itself."""
    from torch import nn

    from alexc.lower.to_torch import TorchNet

    public = {name for name in dir(nn.Module()) if not name.startswith("_")}
    own = {
        name
        for name, _ in inspect.getmembers(TorchNet)
        if not name.startswith("_") and name not in dir(nn.Module)
    }
    assert public | own <= RESERVED_NAMES
    # the rest are names that TorchNet gives its instances, or other versions of torch have
    assert len(RESERVED_NAMES - public - own) <= 4


# ---- misspelt words ------------------------------------------------------------------------------

FIELDS = Names(["out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "bias"])


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("kernal_size", "kernel_size"),
        ("kernel", "kernel_size"),
        ("kernelSize", "kernel_size"),
        ("KERNEL-SIZE", "kernel_size"),
        ("out_chanels", "out_channels"),
        ("outchannels", "out_channels"),
        ("strides", "stride"),
        ("stirde", "stride"),
        ("pad", "padding"),
        ("group", "groups"),
        ("gruops", "groups"),
        ("activation", None),
        ("", None),
        ("x" * 5000, None),
        ("步长", None),
    ],
)
def test_the_nearest_name(word: str, meant: str | None) -> None:
    assert FIELDS.nearest(word) == meant


def test_a_name_is_not_suggested_for_itself() -> None:
    assert FIELDS.did_you_mean("stride") is None


MANY = [f"stage{i:03d}_convolution" for i in range(1000)]
MANY_NAMES = Names(MANY)


@given(st.sampled_from(MANY), st.integers(0, 20), st.sampled_from("xk_9"))
def test_one_wrong_letter_is_found_among_many_names(word: str, at: int, letter: str) -> None:
    for typo in (word[:at] + letter + word[at:], word[:at] + word[at + 1 :]):
        assert MANY_NAMES.nearest(typo) is not None


def test_lists_and_words_are_cut() -> None:
    assert listing([]) == ""
    assert listing(["a"]) == "a"
    assert listing(["a", "b", "c"], "or") == "a, b or c"
    assert listing("abcdef", most=3) == "a, b, c, …"
    assert clip("ab\x1b[0m\ncd") == "ab�[0m�cd"
    assert clip("x" * 100) == "x" * 59 + "…"


def test_forms_in_words() -> None:
    conv = Form.of(OPS["conv"])
    assert str(conv.at("kernel_size")) == "a whole number or a list of 2 whole numbers"
    assert str(conv.at("bias")) == "true or false"
    assert str(Form.of(Header).at("expect").at("shapes")) == (
        "a mapping of names to lists of whole numbers"
    )
    assert str(Form.of(Header).at("expect").at("shapes").at("any").at(0)) == "a whole number"
    assert str(Form.of(Header).at("nothing").at("here")) == "something else"


# ---- the schema ----------------------------------------------------------------------------------


def validator() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(SCHEMA)


def faults(data: Any) -> list[str]:
    return [error.message for error in validator().iter_errors(data)]


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_the_schema_file_is_up_to_date() -> None:
    """`make docs` writes it."""
    file = ROOT / "docs" / "alexc.schema.json"
    assert json.loads(file.read_text(encoding="utf-8")) == SCHEMA


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_every_spec_is_valid_by_the_schema(path: Path) -> None:
    assert faults(plain(read(path))) == []


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_every_spec_tells_editors_of_the_schema(path: Path) -> None:
    up = "../" * (len(path.relative_to(ROOT).parts) - 1)
    line = f"# yaml-language-server: $schema={up}docs/alexc.schema.json"
    assert line in path.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_every_resolved_spec_is_valid_by_the_schema(path: Path) -> None:
    assert faults(load_net(path).spec.to_json()) == []


@pytest.mark.parametrize("folder", sorted(ROOT.glob("tests/bad_specs/*")), ids=lambda p: p.name)
def test_specs_that_are_only_warned_of_are_valid(folder: Path) -> None:
    file = folder / "spec.yaml"
    if file.exists() and (folder / "expected.txt").read_text(encoding="utf-8")[:7] == "warning":
        assert faults(plain(read(file))) == []


# Bad specs whose fault a schema can see: names, kinds and ranges of values in one file.
VISIBLE = (
    "spec-choice spec-length spec-missing-field spec-no-layers spec-pattern spec-range spec-type "
    "spec-unknown-field layer-form layer-inputs layer-no-op layer-unknown-op lrn-even-window "
    "block-definition everything-at-once init-distribution.unknown"
).split()


@pytest.mark.parametrize(
    "folder",
    [f for f in sorted(ROOT.glob("tests/bad_specs/*")) if f.name.startswith(tuple(VISIBLE))],
    ids=lambda p: p.name,
)
def test_bad_specs_are_invalid_by_the_schema(folder: Path) -> None:
    file = folder / "spec.yaml"
    invisible = ("spec-range.std", "spec-pattern", "block-definition.parameters")
    if file.exists() and folder.name not in invisible:
        assert faults(plain(read(file)))


def _mappings(data: Any) -> Iterator[dict[str, Any]]:
    if isinstance(data, dict):
        yield data
        for value in data.values():
            yield from _mappings(value)
    elif isinstance(data, list):
        for value in data:
            yield from _mappings(value)


@pytest.mark.parametrize("name", ["alexnet", "alexnet-fcn", "squeezenet-1.1", "lenet"])
def test_no_misspelt_field_is_valid(name: str) -> None:
    """A key that nobody knows is an error wherever keys are not names of the author's."""
    (path,) = [path for path in SPECS if path.stem == name]
    data = plain(read(path))
    count = len(list(_mappings(data)))
    free = [
        id(named)
        for mapping in _mappings(data)
        for key in ("layers", "blocks", "shapes", "layer_parameters", "precision", "classes")
        if isinstance(named := mapping.get(key), dict)
    ]
    wrong = 0
    for index in range(count):
        bad = copy.deepcopy(data)
        original, mapping = (list(_mappings(d))[index] for d in (data, bad))
        if id(original) in free or "block" in original:
            continue
        mapping["kernal_sizes"] = 3
        wrong += 1
        assert faults(bad), original
    assert wrong > 3


def test_fields_are_described_for_hover_texts() -> None:
    for kind in OPS:
        for name, field in SCHEMA["$defs"][f"op_{kind}"]["properties"].items():
            assert "description" in field or "$ref" in field, f"{kind}.{name}"
    for name, field in SCHEMA["else"]["properties"].items():
        if name not in ("blocks", "layers"):
            assert field.get("description"), name


# ---- specs that are kept as JSON -----------------------------------------------------------------


def test_a_spec_that_a_bundle_keeps_is_read_again(project: Project) -> None:
    text = HEAD + 'labels: ["😀", "\\u2028", "\\x7f", "no"]\nlayers:\n  f: flatten\n'
    text += "  fc: {op: linear, out_features: 4}\n"
    net = project.load(text)
    spec, found = spec_from_json(net.spec.to_json(), "manifest.json")
    assert found == []
    assert spec is not None
    assert spec.to_json() == net.spec.to_json()
    assert spec.header.labels == ("😀", "\u2028", "\x7f", "no")


def test_a_spec_that_a_bundle_should_not_keep_is_told(project: Project) -> None:
    spec, found = spec_from_json({"alexc": 1, "name": "n", "layers": {"a": "rellu"}}, "m.json")
    assert spec is None
    assert [str(d.place) for d in found] == ["m.json:1:1", "m.json:4:6"]
    assert load_spec(project.write(HEAD + "layers: {a: relu}\n"))[1] == []


def test_all_faults_of_a_file_are_told_in_one_go(project: Project) -> None:
    layers = "".join(f"  l{i}: {{op: relu, slope: {i}}}\n" for i in range(300))
    with pytest.raises(AlexcError) as raised:
        project.layers(layers)
    assert len(raised.value.diagnostics) == 300


def test_places_survive_parsing_of_a_merged_tree() -> None:
    tree = parse(b"a: {b: 1}", "x.yaml")
    assert str(tree.entries["a"].key) == "x.yaml:1:1"
