"""`blocks`: layers given once and used with parameters."""

from __future__ import annotations

import pytest

from tests.small_specs import HEAD, Project, project

__all__ = ["project"]

FIRE = """\
blocks:
  fire:
    parameters: [squeeze, expand]
    layers:
      squeeze: {op: conv, out_channels: $squeeze, kernel_size: 1}
      relu: relu
      left: {op: conv, out_channels: $expand, kernel_size: 1}
      right: {op: conv, out_channels: $expand, kernel_size: 3, padding: 1, inputs: relu}
      join: {op: concat, inputs: [left, right]}
"""


def test_a_use_becomes_its_layers(project: Project) -> None:
    graph = project.load(
        HEAD
        + FIRE
        + "layers:\n"
        + "  conv1: {op: conv, out_channels: 5, kernel_size: 1}\n"
        + "  fire2: {block: fire, squeeze: 2, expand: 4}\n"
        + "  relu2: relu\n"
        + "  fire3: {block: fire, squeeze: 3, expand: 6, inputs: conv1}\n"
        + "  add: {op: concat, inputs: [fire2, fire3, fire2/squeeze]}\n"
    ).graph
    assert {node.name: (node.inputs, node.shape[0]) for node in graph.nodes} == {
        "conv1": (("input",), 5),
        "fire2/squeeze": (("conv1",), 2),
        "fire2/relu": (("fire2/squeeze",), 2),
        "fire2/left": (("fire2/relu",), 4),
        "fire2/right": (("fire2/relu",), 4),
        "fire2/join": (("fire2/left", "fire2/right"), 8),
        "relu2": (("fire2/join",), 8),
        "fire3/squeeze": (("conv1",), 3),
        "fire3/relu": (("fire3/squeeze",), 3),
        "fire3/left": (("fire3/relu",), 6),
        "fire3/right": (("fire3/relu",), 6),
        "fire3/join": (("fire3/left", "fire3/right"), 12),
        "add": (("fire2/join", "fire3/join", "fire2/squeeze"), 22),
    }


def test_what_flows_in_is_named_input(project: Project) -> None:
    residual = """\
blocks:
  residual:
    layers:
      conv: {op: conv, out_channels: 3, kernel_size: 3, padding: 1}
      add: {op: add, inputs: [conv, input]}
layers:
  first: {block: residual}
  second: {block: residual}
  third: {block: residual, inputs: first}
outputs: [second, third]
"""
    graph = project.load(HEAD + residual).graph
    inputs = {node.name: node.inputs for node in graph.nodes}
    assert inputs["first/add"] == ("first/conv", "input")
    assert inputs["second/add"] == ("second/conv", "first/add")
    assert inputs["third/add"] == ("third/conv", "first/add")
    assert graph.outputs == ("second/add", "third/add")


def test_a_parameter_may_name_a_layer_of_the_net(project: Project) -> None:
    text = """\
blocks:
  join:
    parameters: [other]
    layers:
      relu: relu
      add: {op: add, inputs: [relu, $other]}
layers:
  relu: tanh
  a: {block: join, other: relu}
"""
    nodes = project.load(HEAD + text).graph.by_name
    assert nodes["a/add"].inputs == ("a/relu", "relu")  # not the block's own layer of that name


def test_a_parameter_may_be_any_value(project: Project) -> None:
    text = """\
blocks:
  any:
    parameters: [kind, kernel, init]
    layers:
      pool: {op: $kind, kernel_size: $kernel}
      conv: {op: conv, out_channels: 2, kernel_size: [1, $kernel], init: $init}
layers:
  a: {block: any, kind: avg_pool, kernel: 2, init: {bias: 3}}
"""
    net = project.load(HEAD + text)
    assert net.graph.by_name["a/pool"].op.kind == "avg_pool"
    init = net.spec.layers["a/conv"].init
    assert init is not None
    assert init.bias is not None
    assert init.bias.value == 3


def test_a_fault_in_a_parameter_is_at_the_use(project: Project) -> None:
    text = HEAD + FIRE + "layers:\n  fire2: {block: fire, squeeze: two, expand: 4}\n"
    (fault,) = project.said_of(text)
    assert str(fault.place) == "spec.yaml:14:33"


def test_a_fault_in_a_block_is_told_once(project: Project) -> None:
    uses = "".join(f"  fire{i}: {{block: fire, squeeze: 2, expand: 4}}\n" for i in range(5))
    text = HEAD + FIRE.replace("kernel_size: 3", "kernel_size: 99") + "layers:\n" + uses
    (fault,) = project.said_of(text)
    assert (fault.code, str(fault.place)) == ("shape/kernel-too-large", "spec.yaml:11:61")
    # fire0 alone is judged: what follows it reads what can't be computed
    assert "fire0/right" in fault.message
    text = HEAD + FIRE.replace("kernel_size: 3", "kernal_size: 3") + "layers:\n" + uses
    (fault,) = project.said_of(text)
    assert fault.notes == ("4 more layers made of the same lines",)


@pytest.mark.parametrize(
    "use",
    [
        "{block: fier, squeeze: 2, expand: 4}",
        "{block: fire, squeeze: 2}",
        "{block: fire, squeeze: 2, expand: 4, stride: 2}",
        "{block: fire, squeeze: 2, expand: 4, inputs: [input, input]}",
        "{block: 3}",
        "{block: [fire]}",
        "{block: fire, op: conv, squeeze: 2, expand: 4}",
    ],
)
def test_a_wrong_use_gives_one_fault_and_its_readers_none(project: Project, use: str) -> None:
    text = (
        f"{HEAD}{FIRE}layers:\n  f: {use}\n  relu: relu\n  add: {{op: add, inputs: [f, f/join]}}\n"
    )
    (fault,) = project.said_of(text + "outputs: [f/left, add]\n")
    assert fault.code.startswith("block/")


def test_a_wrong_block_gives_its_faults_and_its_uses_none(project: Project) -> None:
    text = HEAD + FIRE.replace("$expand", "$expnd", 1).replace("[left,", "[lefft,")
    text += "layers:\n  f: {block: fire, squeeze: 2, expand: 4}\n  relu: {op: relu, inputs: f}\n"
    assert project.codes(text) == ["block/parameter", "block/inputs"]


def test_the_layer_after_a_wrong_use_does_not_read_the_one_before_it(project: Project) -> None:
    text = HEAD + FIRE + "layers:\n  f: {block: fire}\n  fc: {op: linear, out_features: 3}\n"
    assert project.codes(text) == ["block/parameter"]  # not also that fc needs a flatten


def test_blocks_that_nobody_uses_are_judged_too(project: Project) -> None:
    text = HEAD + FIRE.replace("$expand", "$expnd") + "layers:\n  relu: relu\n"
    assert project.codes(text) == ["block/parameter", "block/parameter"]


@pytest.mark.parametrize("names", ["inputs", "block", "n, n"])
def test_a_parameter_that_no_use_could_give_is_refused(project: Project, names: str) -> None:
    layers = "layers: {a: {op: linear, out_features: $n}}"
    text = (
        f"blocks: {{b: {{parameters: [{names}], {layers}}}}}\nlayers: {{x: {{block: b, n: 3}}}}\n"
    )
    head = "alexc: 1\nname: net\ninput: {channels: 1, height: 3, width: 3}\n"
    codes = {diagnostic.code for diagnostic in project.said_of(head + text)}
    assert "block/definition" in codes
