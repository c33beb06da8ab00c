"""Spec → Graph: who reads whom, in which order, what the facts say; and how two nets differ."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexc.frontend import load_net, outputs_are_probabilities
from alexc.graph.diff import diff
from alexc.graph.receptive import receptive_fields
from alexc.spec.parse import Spec, parse_tree
from alexc.spec.write import to_yaml
from tests.small_specs import HEAD, Project, project

__all__ = ["project"]

SPECS = Path(__file__).resolve().parents[1] / "specs"


# ---- wiring --------------------------------------------------------------------------------------


def test_a_layer_reads_the_one_before_it(project: Project) -> None:
    graph = project.layers(
        "  a: relu\n  b: {op: tanh, inputs: input}\n  c: sigmoid\n"
        "  d: {op: add, inputs: [a, c, a]}\n  e: {op: relu, inputs: [d]}\n"
    ).graph
    assert {node.name: node.inputs for node in graph.nodes} == {
        "a": ("input",),
        "b": ("input",),
        "c": ("b",),
        "d": ("a", "c", "a"),
        "e": ("d",),
    }
    assert graph.outputs == ("e",)


def test_layers_may_be_written_before_what_they_read(project: Project) -> None:
    graph = project.layers(
        "  late: {op: add, inputs: [early, other]}\n  other: {op: relu, inputs: input}\n"
        "  early: {op: tanh, inputs: input}\n"
    ).graph
    assert [node.name for node in graph.nodes] == ["other", "early", "late"]
    # the last of the file is the output, though it is not the last to be computed
    assert graph.outputs == ("early",)


def test_the_order_of_the_file_is_kept_where_it_can_be(project: Project) -> None:
    lines = [f"  l{i}: {{op: relu, inputs: input}}\n" for i in range(20)]
    graph = project.layers("".join(lines)).graph
    assert [node.name for node in graph.nodes] == [f"l{i}" for i in range(20)]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("  a: {op: relu, inputs: a}\n", "a → a"),
        ("  a: {op: relu, inputs: b}\n  b: relu\n", "a → b → a"),
        (
            "  x: relu\n  a: {op: add, inputs: [x, c]}\n  b: relu\n  c: relu\n  d: relu\n",
            "a → b → c → a",
        ),
    ],
)
def test_a_circle_is_told_from_the_layer_that_closes_it(
    project: Project, layers: str, message: str
) -> None:
    (fault,) = project.said_of(HEAD + "layers:\n" + layers)
    assert fault.code == "graph/cycle"
    assert fault.message.endswith(f": {message}")
    assert fault.place is not None
    assert message.split(" ")[0] + ":" in fault.place.source.lines[fault.place.line - 1]


def test_a_long_circle_is_told_in_short(project: Project) -> None:
    lines = [f"  l{i}: relu\n" for i in range(1, 50)]
    text = HEAD + "layers:\n  l0: {op: relu, inputs: l49}\n" + "".join(lines)
    (fault,) = project.said_of(text)
    assert fault.message.endswith("l0 → l1 → l2 → l3 → l4 → l5 → l6 → … → l49 → l0")


def test_one_mistake_is_told_once(project: Project) -> None:
    """What reads a layer at fault, directly or not, is left unjudged."""
    layers = (
        "  conv: {op: conv, out_channels: 4, kernel_size: 3, groups: 2}\n  relu: relu\n"
        "  fc: {op: linear, out_features: 3}\n  add: {op: add, inputs: [relu, fc, conv]}\n"
        "  apart: {op: linear, out_features: 3, inputs: input}\n"
    )
    assert project.codes(HEAD + "layers:\n" + layers) == ["shape/groups", "shape/not-flat"]


def test_faults_of_the_root_do_not_hide_those_of_the_layers(project: Project) -> None:
    text = "alexc: 2\nnam: x\ninput: {channels: 3, height: 17, width: 13}\ninit: gauss\n"
    text += "layers:\n  a: {op: linear, out_features: 3}\nexpect: {parameters: many}\n"
    codes = project.codes(text)
    assert sorted(codes) == [
        "shape/not-flat",
        "spec/choice",
        "spec/choice",
        "spec/missing-field",
        "spec/type",
        "spec/unknown-field",
    ]


def test_an_unknown_output_is_told_and_the_rest_judged(project: Project) -> None:
    text = HEAD + "layers:\n  a: relu\noutputs: [b]\nlabels: [x]\nexpect: {parameters: 1}\n"
    assert project.codes(text) == ["spec/unknown-output", "labels/count", "expect/parameters"]


# ---- facts ---------------------------------------------------------------------------------------


def test_facts_that_are_so_are_not_told(project: Project) -> None:
    text = HEAD + (
        "layers:\n  conv: {op: conv, out_channels: 4, kernel_size: 3}\n  bn: batch_norm\n"
        "expect:\n  parameters: 120\n  macs: 17820\n  layer_parameters: {conv: 112, bn: 8}\n"
        "  shapes: {conv: [4, 15, 11]}\n"
        "allow: [{lint: lint/bias-before-batch-norm, reason: a test}]\n"
    )
    assert project.codes(text) == []


def test_a_total_that_follows_from_a_layer_is_not_told_apart(project: Project) -> None:
    text = HEAD + "layers:\n  conv: {op: conv, out_channels: 4, kernel_size: 3}\n"
    text += "expect: {parameters: 108, layer_parameters: {conv: 108}}\n"
    assert project.codes(text) == ["expect/layer-parameters"]
    text = text.replace("parameters: 108,", "parameters: 100,")
    assert project.codes(text) == ["expect/parameters", "expect/layer-parameters"]


@pytest.mark.parametrize(
    ("layer", "shape", "note"),
    [
        (
            "{op: conv, out_channels: 4, kernel_size: [3, 5], stride: 2, padding: [1, 2]}",
            "[4, 9, 8]",
            "rows: ⌊(1 + 17 + 1 − 3) / 2⌋ + 1 = 9",
        ),
        (
            "{op: conv, out_channels: 4, kernel_size: 3, dilation: 2}",
            "[4, 1, 1]",
            "rows: ⌊(17 − (2·(3 − 1) + 1)) / 1⌋ + 1 = 13",
        ),
        (
            "{op: max_pool, kernel_size: 2, ceil_mode: true}",
            "[3, 8, 6]",
            "rows: ⌈(17 − 2) / 2⌉ + 1 = 9",
        ),
        ("flatten", "[662]", "flatten reads 3×17×13 from input, and 3·17·13 = 663"),
    ],
)
def test_a_wrong_shape_is_told_with_the_arithmetic(
    project: Project, layer: str, shape: str, note: str
) -> None:
    text = f"{HEAD}layers:\n  a: {layer}\nexpect: {{shapes: {{a: {shape}}}}}\n"
    (fault,) = [d for d in project.said_of(text) if d.code == "expect/shape"]
    assert fault.notes[0] == note


def test_a_fact_of_a_block_is_told_its_last_layer(project: Project) -> None:
    text = HEAD + "blocks: {b: {layers: {r: relu, t: tanh}}}\nlayers: {u: {block: b}}\n"
    (fault,) = project.said_of(text + "expect: {shapes: {u: [3, 17, 13]}}\n")
    assert fault.help == "u is a use of a block; its last layer is u/t"


# ---- labels and preprocessing --------------------------------------------------------------------

CLASSIFIER = HEAD + "layers:\n  flatten: flatten\n  fc: {op: linear, out_features: 3}\n"


def test_labels_from_the_spec_and_from_a_file(project: Project) -> None:
    project.write("猫\ndog\nа fish\n", "nets/labels.txt")
    assert project.load(CLASSIFIER + "labels: [a, b, c]\n").labels == ("a", "b", "c")
    text = CLASSIFIER + "labels: labels.txt\n"
    assert project.load(text, "nets/spec.yaml").labels == ("猫", "dog", "а fish")
    # a base's labels lie where the base says, wherever the variant is
    variant = "alexc: 1\nname: v\nextends: nets/spec.yaml\n"
    assert project.load(variant, "spec.yaml").labels == ("猫", "dog", "а fish")


def test_labels_that_are_none(project: Project) -> None:
    Path("bytes.txt").write_bytes(b"\xff\xfe")
    Path("large.txt").write_bytes(b"x" * 4_000_001)
    Path("folder").mkdir()
    for path in ("bytes.txt", "large.txt", "folder", "none.txt", "../labels.txt"):
        assert project.codes(CLASSIFIER + f"labels: {path}\n") == ["labels/file"], path
    assert project.codes(CLASSIFIER + "labels: 5\n") == ["spec/type"]
    assert project.codes(CLASSIFIER + "labels: [1, 2, 3]\n") == ["spec/type"] * 3
    assert project.codes(CLASSIFIER + 'labels: ""\n') == ["spec/type"]


def test_probabilities(project: Project) -> None:
    assert not outputs_are_probabilities(project.load(CLASSIFIER).graph)
    assert outputs_are_probabilities(project.load(CLASSIFIER + "  p: softmax\n").graph)


# ---- what a net is compared by -------------------------------------------------------------------


def changes(project: Project, patch: str) -> dict[str, tuple[str, dict[str, object]]]:
    base = (
        "  conv1: {op: conv, out_channels: 4, kernel_size: 3}\n  relu1: relu\n"
        "  pool1: {op: max_pool, kernel_size: 2}\n"
    )
    old = project.load(HEAD + "layers:\n" + base, "base.yaml").graph
    new = project.load("alexc: 1\nname: v\nextends: base.yaml\n" + patch).graph
    return {c.layer: (c.change, c.before | {"→": "→"} | c.after) for c in diff(old, new)}


def test_nets_that_are_the_same_don_t_differ(project: Project) -> None:
    assert changes(project, "description: another text\n") == {}


def test_a_changed_field_is_shown_with_its_default(project: Project) -> None:
    found = changes(project, "layers: {conv1: {bias: false}}\n")
    assert found == {"conv1": ("changed", {"bias": False, "parameters": 108, "→": "→"})}


def test_layers_come_and_go_and_read_others(project: Project) -> None:
    found = changes(project, "layers: {relu1: null, tanh: {op: tanh, after: conv1}}\n")
    assert {layer: change for layer, (change, _) in found.items()} == {
        "relu1": "removed",
        "tanh": "added",
        "pool1": "changed",
    }


def test_receptive_fields_of_alexnet() -> None:
    fields = receptive_fields(load_net(SPECS / "alexnet.yaml").graph)
    # 11; 11 + 2·4; 19 + 4·8; 51 + 2·8; then ever 2·16 more
    seen = [fields[name][0] for name in ("conv1", "pool1", "conv2", "pool2", "conv3", "conv5")]
    assert seen == [11, 19, 51, 67, 99, 163]
    assert fields["pool5"] == (195, 195)
    assert fields["fc6"] == (227, 227)


# ---- a spec that was resolved is the same net ----------------------------------------------------


@pytest.mark.parametrize("path", sorted(SPECS.glob("**/*.yaml")), ids=lambda path: path.stem)
def test_the_resolved_spec_is_the_same(path: Path, project: Project) -> None:
    net = load_net(path)
    labels = net.labels
    data = net.spec.to_json()
    if isinstance(data.get("labels"), str):  # the one path in it, which is relative to the file
        data["labels"] = list(labels or ())
    again = project.load(to_yaml(data))
    assert again.graph.digest() == net.graph.digest()
    assert again.spec.to_json() == data
    assert list(again.spec.to_json()) == list(data)
    assert again.labels == labels


def test_a_spec_without_a_file_is_parsed_too(project: Project) -> None:
    tree = project.load(HEAD + "layers: {a: relu}\n").spec.tree
    spec, faults = parse_tree(tree, ())
    assert isinstance(spec, Spec)
    assert (spec.name, faults) == ("small", [])
