"""Layer files of 2012: columns, sizes that are rounded up, and what each parameter means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexc.diagnostics import AlexcError
from alexc.frontend import load_net
from alexc.importers.foreign import ForeignNet, Request
from alexc.importers.formats import read_foreign
from alexc.importers.writer import write
from alexc.verify.reference import evaluate
from tests.command_line import Alexc, alexc
from tests.import_samples.by_hand import convolve, drawn, lrn_across, lrn_within, pool

__all__ = ["alexc"]

SAMPLES = Path(__file__).parent / "import_samples" / "cuda-convnet"
LAYERS = SAMPLES / "layers-small.cfg"


def read(path: Path = LAYERS, **request: Any) -> ForeignNet:
    return read_foreign(path, Request(**{"input_shape": (3, 17, 14)} | request))


def changed(tmp_path: Path, old: str, new: str, count: int = 1) -> Path:
    """The small net with something else in it, and its parameters beside it."""
    text = LAYERS.read_text()
    assert old in text
    path = tmp_path / LAYERS.name
    path.write_text(text.replace(old, new, count))
    parameters = SAMPLES / "layer-params-small.cfg"
    (tmp_path / parameters.name).write_text(parameters.read_text())
    return path


def test_columns_are_joined_where_that_is_the_same_function() -> None:
    net = read()
    described = {layer.name: (layer.op.kind, layer.inputs) for layer in net.layers}
    assert described == {
        "conv1a": ("conv", ("input",)),
        "rnorm1a": ("lrn", ("conv1a",)),
        "conv1b": ("conv", ("input",)),
        "rnorm1b": ("lrn", ("conv1b",)),
        "columns": ("concat", ("rnorm1a", "rnorm1b")),
        "pool1": ("max_pool", ("columns",)),
        "relu1": ("relu", ("pool1",)),
        "conv2": ("conv", ("relu1",)),
        "relu2": ("relu", ("conv2",)),
        "conv3": ("conv", ("relu2",)),
        "cnorm3": ("lrn", ("conv3",)),
        "flatten": ("flatten", ("cnorm3",)),
        "fc4": ("linear", ("flatten",)),
        "tanh4": ("tanh", ("fc4",)),
        "hs4": ("dropout", ("tanh4",)),
        "fc5": ("linear", ("hs4",)),
    }
    groups = {layer.name: layer.op.model_dump().get("groups") for layer in net.layers}
    assert (groups["conv2"], groups["conv3"]) == (1, 2)
    assert net.graph.outputs == ("fc5",)


def test_the_net_computes_what_the_two_columns_computed(tmp_path: Path) -> None:
    done = write(read(), tmp_path / "net.yaml")
    graph = load_net(done.spec).graph
    weights = dict(zip(graph.parameters, drawn(3, *(p.shape for p in graph.parameters.values())),
                       strict=True))  # fmt: skip
    (x,) = drawn(4, (2, 3, 17, 14))
    values = evaluate(graph, weights, x)

    # Two columns, each with its own filters. 17 and 14 rows: ⌈(17 − 4) / 2⌉ + 1 = 8, and 6.
    wide = np.pad(x, [(0, 0), (0, 0), (0, 1), (0, 0)])
    pooled = []
    for column in "ab":
        conv1 = convolve(
            wide, weights[f"conv1{column}.weight"], weights[f"conv1{column}.bias"], stride=2
        )
        assert conv1.shape == (2, 4, 8, 6)
        normed = lrn_across(conv1, 3, 0.3, 0.75, 2)
        pooled.append(np.maximum(pool(normed, 3, 2, 0, average=False), 0))
    both = np.concatenate(pooled, axis=1)
    outputs = []
    for i in (0, 1):
        w2, b2 = (weights[f"conv2.{n}"][3 * i : 3 * i + 3] for n in ("weight", "bias"))
        w3, b3 = (weights[f"conv3.{n}"][2 * i : 2 * i + 2] for n in ("weight", "bias"))
        conv2 = np.maximum(convolve(both, w2, b2, pad=(1, 1)), 0)
        outputs.append(lrn_within(convolve(conv2, w3, b3, pad=(1, 1)), 3, 0.6, 0.5))
    flat = np.concatenate(outputs, axis=1).reshape(2, -1)
    fc4 = np.tanh(flat @ weights["fc4.weight"].T + weights["fc4.bias"])
    expected = fc4 @ weights["fc5.weight"].T + weights["fc5.bias"]
    np.testing.assert_allclose(values["fc5"], expected, rtol=1e-5)


def test_initial_weights_and_learning_rates_are_told(tmp_path: Path) -> None:
    done = write(read(), tmp_path / "net.yaml")
    text = " ".join(line.lstrip("# ") for line in done.spec.read_text().splitlines())
    assert "conv1a and conv1b: learning rate 0.001 on weights and 0.002 on biases" in text
    init = done.net.spec.layers["conv2"].init
    assert init is not None
    assert init.weight is not None
    assert init.weight.value == 0.03
    assert done.net.spec.header.init.weight is not None
    assert done.net.spec.header.init.weight.value == 0.01


def test_every_layer_is_accounted_for() -> None:
    rows = {row.origin.name: (row.layer, row.note) for row in read().rows}
    assert rows["conv3a"] == rows["conv3b"] == ("conv3", "both columns in conv3")
    assert rows["probs"] == (None, "measures only")
    assert rows["labels"] == (None, "labels")


def test_a_column_that_does_something_else_stays_apart(tmp_path: Path) -> None:
    text = LAYERS.read_text()
    start = text.index("[conv3b]")
    path = changed(tmp_path, text[start : text.index("[cnorm3a]")], """\
[conv3b]
type=conv
inputs=conv2b
filters=2
padding=0
filterSize=1
channels=3

""")  # fmt: skip
    wiring = {layer.name: layer.inputs for layer in read(path).layers}
    # Half of conv2 is read by itself, so conv2 stays two layers too.
    assert wiring["conv3b"] == ("relu2b",)
    assert wiring["columns"] == ("rnorm1a", "rnorm1b")
    assert wiring["columns_2"] == ("cnorm3a", "cnorm3b")


def test_half_of_a_pair_that_is_read_alone_keeps_the_pair_apart(tmp_path: Path) -> None:
    path = changed(tmp_path, "inputs=hs4a,hs4b", "inputs=hs4a")
    net = read(path)
    names = [layer.name for layer in net.layers]
    assert "hs4a" in names
    assert "hs4" not in names
    assert net.graph.shapes["fc4a"] == (3,)


def test_partial() -> None:
    assert read(partial="rnorm1a").graph.outputs == ("rnorm1a",)
    with pytest.raises(AlexcError) as caught:
        read(partial="rnorm1")
    assert "did you mean rnorm1" in str(caught.value.diagnostics[0].help)


def test_the_size_of_the_images_is_asked_for_or_known(tmp_path: Path) -> None:
    with pytest.raises(AlexcError) as caught:
        read(input_shape=None)
    assert caught.value.diagnostics[0].code == "import/input-size"
    path = changed(tmp_path, "stride=2\nfilterSize=4", "stride=4\nfilterSize=11", 2)
    net = read(path, input_shape=None)
    assert net.graph.input_shape == (3, 224, 224)
    assert net.graph.shapes["conv1a"] == (4, 55, 55)
    assert "import/assumed-input" in [warning.code for warning in net.warnings]


@pytest.mark.parametrize(
    ("old", "new", "code", "line"),
    [
        ("type=rnorm", "type=cnorm", "import/unsupported-layer", 112),
        ("type=pool\n", "type=local\n", "import/unsupported-layer", 48),
        ("gpu=0", "vendor=7", "import/unknown-field", 21),
        ("sharedBiases=1", "sharedBiases=0", "import/unsupported-field", 20),
        ("neuron=relu", "neuron=softrelu", "import/unsupported-field", 55),
        ("pool=max", "pool=rms", "import/unsupported-field", 50),
        ("filterSize=3,3", "filterSize=3,5", "import/value", 72),
        ("filters=4", "filters=four", "import/value", 14),
        ("keep=0.75", "keep=yes", "import/value", 142),
        ("channels=4\n", "channels=5\n", None, 0),
        ("channels=3\n", "channels=2\n", "import/channels", 13),
        ("inputs=rnorm1a", "inputs=rnorm1", "import/unknown-blob", 51),
        ("size=3", "size=4", "import/value", 36),
        ("size=3", "", "import/missing-parameter", 36),
        ("sizeX=3", "sizeX=30", "shape/kernel-too-large", 48),
        ("filterSize=4", "filterSize=4\nfilterSize=4", "import/syntax", 18),
        ("[data]", "data", "import/syntax", 2),
        ("[pool1a]", "[conv1a]", "import/syntax", 48),
    ],
)
def test_a_fault_is_told_with_its_line(
    tmp_path: Path, old: str, new: str, code: str | None, line: int
) -> None:
    path = changed(tmp_path, old, new)
    if code is None:
        read(path)  # what a normalisation says of its channels means nothing
        return
    with pytest.raises(AlexcError) as caught:
        read(path)
    found = {(d.code, d.place.line if d.place else 0) for d in caught.value.diagnostics}
    assert (code, line) in found, found


def test_missing_parameters_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "layers-other.cfg"
    path.write_text(LAYERS.read_text())
    with pytest.raises(AlexcError) as caught:
        read(path)
    assert {diagnostic.code for diagnostic in caught.value.diagnostics} == {
        "import/missing-parameter"
    }


def test_the_command(alexc: Alexc, tmp_path: Path) -> None:
    out = tmp_path / "net.yaml"
    ran = alexc("import", LAYERS, "--input", "3x17x14", "--out", out, "--json")
    assert ran.status == 0
    assert ran.json["parameters"] == load_net(out).graph.parameter_count
    assert alexc("import", LAYERS, "--weights", LAYERS, "--out", tmp_path / "b.yaml").status == 2
