"""Which layer is which, where nothing is called as it was and branches come in another order."""

from __future__ import annotations

import copy
import random
from pathlib import Path

import numpy as np
import onnx
import pytest

from alexc.frontend import load_net
from alexc.graph.graph import Graph
from alexc.importers.onnx_model.layers import read_layers
from alexc.passes.fold_batch_norm import fold_batch_norm
from alexc.passes.inference import inference
from alexc.verify.foreign.match import match
from tests.test_import_onnx import exported

SPECS = Path(__file__).resolve().parents[1] / "specs"


def disguised(graph: Graph, folder: Path, seed: int) -> tuple[Path, dict[str, str]]:
    """A model of the graph in another order, and what it calls the graph's tensors."""
    generator = random.Random(seed)
    file = exported(graph, folder)
    model = onnx.load(str(file), load_external_data=False)
    made = {value.name for value in (*model.graph.input, *model.graph.initializer)}
    left, ordered = list(model.graph.node), []
    while left:
        node = generator.choice([n for n in left if made.issuperset(filter(None, n.input))])
        left = [other for other in left if other is not node]
        ordered.append(copy.deepcopy(node))
        made.update(node.output)
    del model.graph.node[:], model.graph.value_info[:]
    names: dict[str, str] = {}

    def new(name: str) -> str:
        return names.setdefault(name, f"t{generator.getrandbits(40)}") if name else ""

    for node in ordered:
        node.name = ""
        node.input[:] = map(new, node.input)
        node.output[:] = map(new, node.output)
    model.graph.node.extend(ordered)
    for value in (*model.graph.initializer, *model.graph.input, *model.graph.output):
        value.name = new(value.name)
    file.write_bytes(model.SerializeToString())
    return file, names


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    "spec", ["alexnet", "alexnet-2012", "zoo/googlenet", "zoo/resnet18", "zoo/squeezenet-1.1"]
)
def test_every_layer_is_found_in_a_disguised_file(spec: str, seed: int, tmp_path: Path) -> None:
    graph = load_net(SPECS / f"{spec}.yaml").graph
    file, names = disguised(inference(graph), tmp_path, seed)
    matching = match(graph, read_layers(file, graph.input_shape))
    wanted = {node.name: names[node.name] for node in inference(graph).nodes}
    assert {name: layer.tensor for name, layer in matching.pairs.items()} == wanted
    assert set(matching.absent.values()) <= {"acts in training only"}
    assert not matching.extra


def test_layers_are_followed_through_folded_batch_norms(tmp_path: Path) -> None:
    graph = load_net(SPECS / "zoo" / "resnet18.yaml").graph
    ones = {name: np.ones(p.shape, np.float32) for name, p in graph.parameters.items()}
    folded, _ = fold_batch_norm(inference(graph), ones)
    file, names = disguised(folded, tmp_path, 3)
    matching = match(graph, read_layers(file, graph.input_shape))
    wanted = {node.name: names[node.name] for node in folded.nodes}
    assert {name: layer.tensor for name, layer in matching.pairs.items()} == wanted
    assert len(matching.folded) == 20
    assert set(matching.absent) == set(matching.folded.values())
    assert not matching.extra
