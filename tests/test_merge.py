"""`extends`: what a variant changes, what it keeps, and where its faults are said to be."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from alexc.diagnostics import AlexcError, UsageError
from alexc.frontend import load_net
from alexc.source import plain
from alexc.spec.merge import load_tree
from alexc.spec.parse import load_spec
from tests.small_specs import Project, project

__all__ = ["project"]

BASE = """\
alexc: 1
name: base
source: a book
description: the base
input: {channels: 3, height: 17, width: 13}
init: {weight: {normal: 0.01}, bias: 0}
preprocess: {resize: 20, mean: [1, 2, 3]}
expect: {parameters: 2112}
allow: [{lint: lint/dropped-pixels, layer: pool1, reason: the book does it}]
layers:
  conv1: {op: conv, out_channels: 8, kernel_size: 3, padding: 1}
  relu1: relu
  pool1: {op: max_pool, kernel_size: 2}
  conv2: {op: conv, out_channels: 6, kernel_size: 3, inputs: pool1}
  relu2: {op: relu, inputs: conv2}
  flatten: flatten
  fc: {op: linear, out_features: 10}
"""
VARIANT = "alexc: 1\nname: variant\nextends: base.yaml\n"


@pytest.fixture(autouse=True)
def base(project: Project) -> None:
    project.write(BASE, "base.yaml")


def merged(project: Project, patch: str) -> dict[str, Any]:
    """The variant of the base with this patch, as plain data."""
    tree: dict[str, Any] = plain(load_tree(project.write(VARIANT + patch)).tree)
    return tree


def order(project: Project, patch: str) -> list[str]:
    return list(merged(project, "layers:\n" + patch)["layers"])


# ---- what is kept --------------------------------------------------------------------------------


def test_an_empty_patch_is_the_base_under_another_name(project: Project) -> None:
    tree = merged(project, "")
    base = plain(load_tree(Path("base.yaml")).tree)
    assert tree["layers"] == base["layers"]
    assert tree["name"] == "variant"
    assert {"source", "description", "expect", "extends"}.isdisjoint(tree)
    assert load_net(Path("spec.yaml")).graph.digest() == load_net(Path("base.yaml")).graph.digest()


def test_files_are_listed_base_first(project: Project) -> None:
    project.write(VARIANT)
    names = [file.name for file in load_tree(Path("spec.yaml")).files]
    assert names == ["base.yaml", "spec.yaml"]


def test_root_keys_are_patched_replaced_or_removed(project: Project) -> None:
    tree = merged(
        project,
        "input: {height: 19}\npreprocess: {mean: null, std: [1, 2, 4]}\ninit: paper\n"
        "source: another book\n",
    )
    assert tree["input"] == {"channels": 3, "height": 19, "width": 13}
    assert tree["preprocess"] == {"resize": 20, "std": [1, 2, 4]}
    assert tree["init"] == "paper"
    assert tree["source"] == "another book"
    assert "preprocess" not in merged(project, "preprocess: null\n")
    assert "source" not in merged(project, "source: null\n")


def test_allowances_are_added(project: Project) -> None:
    tree = merged(project, "allow: [{lint: lint/idle-dropout, reason: mine}]\n")
    assert [entry["lint"] for entry in tree["allow"]] == [
        "lint/dropped-pixels",
        "lint/idle-dropout",
    ]
    assert "allow" not in merged(project, "allow: null\n")


def test_what_the_base_allows_and_the_variant_lacks_is_no_matter(project: Project) -> None:
    assert project.codes(VARIANT + "layers: {pool1: {kernel_size: 1}}\n") == []
    own = "allow: [{lint: lint/dropped-pixels, layer: conv1, reason: none}]\n"
    assert project.codes(VARIANT + own) == ["lint/unused-allowance"]


# ---- layers --------------------------------------------------------------------------------------


def test_a_field_is_changed_added_and_removed(project: Project) -> None:
    layers = merged(project, "layers: {conv1: {out_channels: 9, stride: 2, padding: null}}\n")[
        "layers"
    ]
    assert layers["conv1"] == {"op": "conv", "out_channels": 9, "kernel_size": 3, "stride": 2}


@pytest.mark.parametrize(
    ("patch", "layer"),
    [
        ("relu1: tanh", "tanh"),
        ("relu1: relu", "relu"),
        ("relu1: {op: tanh}", {"op": "tanh"}),
        ("relu1: {inputs: input}", {"op": "relu", "inputs": "input"}),
        ("relu1: {op: dropout, p: 0.3}", {"op": "dropout", "p": 0.3}),
        # who a layer reads is no matter of its op
        ("relu2: tanh", {"op": "tanh", "inputs": "conv2"}),
        ("relu2: relu", {"op": "relu", "inputs": "conv2"}),
        ("relu2: {op: dropout, p: 0.3}", {"op": "dropout", "p": 0.3, "inputs": "conv2"}),
        ("relu2: {op: tanh, inputs: relu1}", {"op": "tanh", "inputs": "relu1"}),
        ("relu2: {inputs: null}", {"op": "relu"}),
        # another op starts afresh
        ("pool1: {op: avg_pool, kernel_size: 3}", {"op": "avg_pool", "kernel_size": 3}),
        ("pool1: {op: max_pool, stride: 1}", {"op": "max_pool", "kernel_size": 2, "stride": 1}),
    ],
)
def test_a_layer_is_patched(project: Project, patch: str, layer: object) -> None:
    name = patch.partition(":")[0]
    assert merged(project, f"layers:\n  {patch}\n")["layers"][name] == layer


@pytest.mark.parametrize(
    ("patch", "expected"),
    [
        ("  extra: relu", "conv1 relu1 pool1 conv2 relu2 flatten fc extra"),
        ("  relu1: null", "conv1 pool1 conv2 relu2 flatten fc"),
        ("  extra: {op: relu, after: conv1}", "conv1 extra relu1 pool1 conv2 relu2 flatten fc"),
        ("  extra: {op: relu, before: conv1}", "extra conv1 relu1 pool1 conv2 relu2 flatten fc"),
        ("  relu1: {after: pool1}", "conv1 pool1 relu1 conv2 relu2 flatten fc"),
        ("  pool1: {before: relu1}", "conv1 pool1 relu1 conv2 relu2 flatten fc"),
        ("  fc: {before: conv1}\n  conv1: {after: fc}", "fc conv1 relu1 pool1 conv2 relu2 flatten"),
        (
            "  a: {op: relu, after: conv1}\n  b: {op: relu, after: a}\n  c: {op: relu, before: a}",
            "conv1 c a b relu1 pool1 conv2 relu2 flatten fc",
        ),
        # two before one keep their order; two after one stand the later the nearer
        (
            "  a: {op: relu, before: fc}\n  b: {op: relu, before: fc}",
            "conv1 relu1 pool1 conv2 relu2 flatten a b fc",
        ),
        (
            "  a: {op: relu, after: fc}\n  b: {op: relu, after: fc}",
            "conv1 relu1 pool1 conv2 relu2 flatten fc b a",
        ),
        # beside a layer that is put in further down
        (
            "  a: {op: relu, after: b}\n  b: {op: relu, after: conv1}",
            "conv1 b a relu1 pool1 conv2 relu2 flatten fc",
        ),
    ],
)
def test_layers_stand_where_the_patch_says(project: Project, patch: str, expected: str) -> None:
    assert order(project, patch) == expected.split()


def test_a_bare_layer_keeps_its_op_when_it_moves(project: Project) -> None:
    assert merged(project, "layers: {relu1: {after: pool1}}")["layers"]["relu1"] == "relu"


def test_blocks_are_patched_by_name(project: Project) -> None:
    blocks = "blocks:\n  one: {layers: {a: relu}}\n  two: {layers: {a: tanh}}\n"
    text = BASE.replace("layers:\n", blocks + "layers:\n  start: {block: one}\n", 1)
    project.write(text, "base.yaml")
    tree = merged(project, "blocks: {one: {layers: {b: sigmoid}}, two: null}\n")
    assert tree["blocks"] == {"one": {"layers": {"b": "sigmoid"}}}
    net = load_net(Path("spec.yaml"))
    assert net.graph.nodes[0].name == "start/b"


# ---- chains and paths ----------------------------------------------------------------------------


def test_a_chain_of_files_in_folders(project: Project) -> None:
    project.write(
        "name: middle\nextends: ../base.yaml\nlayers: {relu1: tanh}\n", "more/middle.yaml"
    )
    net = project.load("alexc: 1\nname: top\nextends: more/middle.yaml\nlayers: {relu2: sigmoid}\n")
    kinds = {node.name: node.op.kind for node in net.graph.nodes}
    assert (kinds["relu1"], kinds["relu2"]) == ("tanh", "sigmoid")
    assert [file.name for file in net.spec.files] == ["base.yaml", "middle.yaml", "spec.yaml"]


def test_a_fault_of_a_base_is_at_its_line_as_the_user_would_type_it(project: Project) -> None:
    project.write(BASE.replace("padding: 1", "paddin: 1"), "nets/base.yaml")
    project.write(VARIANT, "nets/spec.yaml")
    with pytest.raises(AlexcError) as raised:
        load_net(Path("nets/spec.yaml"))
    (fault,) = raised.value.diagnostics
    assert str(fault.place) == "nets/base.yaml:11:54"


def test_a_fault_of_the_variant_is_at_the_variant(project: Project) -> None:
    (fault,) = project.said_of(VARIANT + "layers:\n  conv2: {groups: 3}\n")
    assert (str(fault.place), fault.code) == ("spec.yaml:5:19", "shape/groups")
    assert fault.notes == ("8×8×6 comes from pool1 (base.yaml:13)",)


def test_symbolic_links_within_the_project_are_followed(project: Project) -> None:
    (project.folder / "deep" / "er").mkdir(parents=True)
    Path("deep/er/real.yaml").write_text(
        "alexc: 1\nname: real\nextends: ../../base.yaml\n", encoding="utf-8"
    )
    Path("link.yaml").symlink_to("deep/er/real.yaml")
    assert load_net(Path("link.yaml")).spec.name == "real"
    assert project.codes("alexc: 1\nname: top\nextends: link.yaml\n") == []


@pytest.mark.parametrize("path", ["../outside.yaml", "out.yaml", "folder/../../outside.yaml"])
def test_no_path_leaves_the_project(project: Project, path: str) -> None:
    outside = project.folder.parent / "outside.yaml"
    outside.write_text(BASE, encoding="utf-8")
    Path("out.yaml").symlink_to(outside)
    Path("folder").mkdir()
    (fault,) = project.said_of(f"alexc: 1\nname: v\nextends: {path}\n")
    assert (fault.code, fault.message) == ("extends/path", f"the path {path} leaves the project")
    (fault,) = project.said_of(f"alexc: 1\nname: v\nextends: {outside}\n")
    assert "leaves the project" in fault.message


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("loop.yaml", "there is no file"),
        ("a\\0b.yaml", "there is no file"),
        ("x" * 5000, "there is no file"),
        ("folder", "is a folder"),
        ("folder/none.yaml", "there is no file"),
        ("base.yaml/base.yaml", "there is no file"),
    ],
)
def test_paths_that_lead_nowhere(project: Project, path: str, message: str) -> None:
    Path("loop.yaml").symlink_to("loop.yaml")
    Path("folder").mkdir()
    (fault,) = project.said_of(f'alexc: 1\nname: v\nextends: "{path}"\n')
    assert fault.code == "extends/path"
    assert message in fault.message


def test_a_base_that_is_no_yaml_is_told_at_its_line(project: Project) -> None:
    project.write("alexc: 1\nlayers: {\n", "base.yaml")
    (fault,) = project.said_of(VARIANT)
    assert (fault.code, str(fault.place)) == ("yaml/unclosed", "base.yaml:2:9")


def test_a_base_that_is_wrong_is_not_hidden_by_the_patch(project: Project) -> None:
    project.write(BASE[: BASE.index("layers:")] + "layers: [conv]\n", "base.yaml")
    (fault,) = project.said_of(VARIANT + "layers: {conv1: {out_channels: 3}}\n")
    assert (fault.code, str(fault.place)) == ("spec/no-layers", "base.yaml:10:9")


def test_faults_of_the_checked_file_come_before_those_of_its_bases(project: Project) -> None:
    project.write(BASE.replace("padding: 1", "paddin: 1"), "base.yaml")
    places = [str(d.place) for d in project.said_of(VARIANT + "descripton: x\n")]
    assert places == ["spec.yaml:4:1", "base.yaml:11:54"]


def test_the_spec_itself_must_be_there(project: Project) -> None:
    with pytest.raises(UsageError, match=r"there is no file none\.yaml"):
        load_spec(Path("none.yaml"))
    assert project.folder.exists()


# ---- moves that lean on each other ---------------------------------------------------------------


def test_a_move_means_the_same_wherever_it_is_written(project: Project) -> None:
    places = {"x": "y", "y": "z", "z": "conv1"}
    moves = [f"  {name}: {{op: relu, after: {place}}}\n" for name, place in places.items()]
    found = {tuple(order(project, "".join(each))[:5]) for each in permutations(moves)}
    assert found == {("conv1", "z", "y", "x", "relu1")}


def test_a_variant_adds_to_a_recipe(project: Project) -> None:
    project.write(BASE.replace("{weight: {normal: 0.01}, bias: 0}", "paper"), "base.yaml")
    assert merged(project, "init: {bias: 0.5}\n")["init"] == {"recipe": "paper", "bias": 0.5}
    assert merged(project, "init: caffe\n")["init"] == "caffe"


def test_a_variant_takes_a_layer_out_of_precision(project: Project) -> None:
    project.write(BASE + "precision: {conv1: fp32, fc: fp16}\n", "base.yaml")
    assert merged(project, "precision: {conv1: null}\n")["precision"] == {"fc": "fp16"}
