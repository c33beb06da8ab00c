"""Caffe's nets, read by what Caffe says they mean: worked out here with loops, not with alexc."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from alexc.diagnostics import AlexcError, UsageError
from alexc.frontend import load_net
from alexc.importers.foreign import ForeignNet, Request
from alexc.importers.formats import read_foreign
from alexc.importers.writer import Imported, write
from alexc.lower.to_onnx import serialize, to_onnx
from alexc.verify.reference import evaluate
from alexc.weights import store
from tests.command_line import Alexc, alexc
from tests.import_samples.by_hand import (
    convolve,
    drawn,
    lrn_across,
    lrn_within,
    pool,
    softmax,
)
from tests.import_samples.writing import (
    blob,
    caffemodel,
    field,
    floats,
    old_caffemodel,
)

__all__ = ["alexc"]

SAMPLES = Path(__file__).parent / "import_samples" / "caffe"
Array = NDArray[Any]


def read(name: str | Path, **request: Any) -> ForeignNet:
    return read_foreign(SAMPLES / name, Request(**request))


def imported(tmp_path: Path, name: str | Path, **request: Any) -> Imported:
    return write(read(name, **request), tmp_path / "net.yaml")


def layers(net: ForeignNet) -> dict[str, str]:
    return {layer.name: layer.op.kind for layer in net.layers}


def codes(error: AlexcError) -> list[str]:
    return [diagnostic.code for diagnostic in error.diagnostics]


def result(tmp_path: Path, prototxt: str, model: bytes, images: Array) -> dict[str, Array]:
    """Every tensor of the imported net, computed from the two files that the import wrote."""
    (tmp_path / "net.caffemodel").write_bytes(model)
    done = imported(tmp_path, prototxt, weights=tmp_path / "net.caffemodel")
    assert done.weights is not None
    net = load_net(done.spec)
    return evaluate(net.graph, store.read(done.weights, net.graph), images.astype(np.float32))


def test_a_net_of_alexnets_kind_computes_what_caffe_computes(tmp_path: Path) -> None:
    w1, b1, w2, b2, w3, b3, x = drawn(
        1, (8, 3, 3, 3), (8,), (6, 4, 3, 1), (6,), (5, 54), (5,), (2, 3, 14, 13)
    )
    model = caffemodel(
        {
            "conv1": ("Convolution", [w1, b1]),
            "conv2": ("Convolution", [w2, b2]),
            "fc3": ("InnerProduct", [w3, b3]),
        }
    )
    values = result(tmp_path, "small.prototxt", model, x)
    conv1 = np.maximum(convolve(x, w1, b1, stride=2), 0)
    pool1 = pool(lrn_across(conv1, 5, 0.2, 0.75, 2), 3, 2, 0, average=False)
    conv2 = np.maximum(convolve(pool1, w2, b2, pad=(1, 0), group=2), 0)
    fc3 = conv2.reshape(2, -1) @ w3.T + b3
    for name, expected in (("relu1", conv1), ("pool1", pool1), ("relu2", conv2), ("fc3", fc3)):
        np.testing.assert_allclose(values[name], expected, rtol=1e-5, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(values["prob"], softmax(fc3), rtol=1e-5)


def test_the_model_of_an_imported_net_computes_the_same(tmp_path: Path) -> None:
    w1, b1, fc, bias, x = drawn(12, (3, 2, 3, 3), (3,), (4, 18), (4,), (5, 2, 8, 6))
    (tmp_path / "w.caffemodel").write_bytes(
        old_caffemodel({"conv1/3x3": (4, [w1, b1]), "fc": (14, [fc, bias])})
    )
    done = imported(tmp_path, "old.prototxt", weights=tmp_path / "w.caffemodel")
    assert done.weights is not None
    graph = load_net(done.spec).graph
    model = to_onnx(graph, store.extents(done.weights))
    (tmp_path / "model.onnx").write_bytes(serialize(model))
    session = onnxruntime.InferenceSession(
        tmp_path / "model.onnx", providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(None, {"input": x})
    pooled = pool(np.maximum(convolve(x, w1, b1), 0), 2, 2, 0, average=False)
    np.testing.assert_allclose(found, pooled.reshape(5, -1) @ fc.T + bias, rtol=1e-4, atol=1e-5)


def test_branches_and_batch_norm_compute_what_caffe_computes(tmp_path: Path) -> None:
    w1, mean, scale, shift, left, bias, mean2, fc, x = drawn(
        2, (6, 4, 3, 3), (6,), (6,), (6,), (6, 6, 1, 1), (6,), (12,), (3, 12), (2, 4, 9, 7)
    )
    variance, variance2 = (np.abs(a) + 0.5 for a in drawn(3, (6,), (12,)))
    factor = np.array([999.98236], np.float32)
    model = caffemodel(
        {
            "conv1": ("Convolution", [w1]),
            "bn1": ("BatchNorm", [mean * factor, variance * factor, factor]),
            "scale1": ("Scale", [scale, shift]),
            "left": ("Convolution", [left, bias]),
            "bn2": ("BatchNorm", [mean2, variance2, np.ones(1, np.float32)]),
            "fc": ("InnerProduct", [fc]),
        }
    )
    values = result(tmp_path, "branches.prototxt", model, x)

    def channels(vector: Array) -> Array:
        return vector[:, np.newaxis, np.newaxis]

    conv1 = convolve(x, w1, None, pad=(1, 1), dilation=2)
    normed = (conv1 - channels(mean)) / np.sqrt(channels(variance) + 0.001)
    relu1 = np.maximum(normed * channels(scale) + channels(shift), 0)
    total = convolve(relu1, left, bias) + lrn_within(relu1, 3, 0.7, 0.5)
    average = pool(total, 3, 2, 1, average=True)
    both = np.concatenate([average, pool(total, 2, 2, 0, average=False)], axis=1)
    bn2 = (both - channels(mean2)) / np.sqrt(channels(variance2) + 1e-5)
    fc_result = bn2.mean(axis=(2, 3)) @ fc.T
    for name, expected in (
        ("relu1", relu1),
        ("sum", total),
        ("average", average),
        ("both", both),
        ("bn2", bn2),
        ("tanh", np.tanh(fc_result)),
    ):
        np.testing.assert_allclose(values[name], expected, rtol=1e-4, atol=1e-5, err_msg=name)


def test_the_old_syntax_and_its_weights(tmp_path: Path) -> None:
    w1, b1, fc, bias, x = drawn(4, (3, 2, 3, 3), (3,), (4, 18), (4,), (1, 2, 8, 6))
    model = old_caffemodel({"conv1/3x3": (4, [w1, b1]), "fc": (14, [fc, bias])})
    values = result(tmp_path, "old.prototxt", model, x)
    pooled = pool(np.maximum(convolve(x, w1, b1), 0), 2, 2, 0, average=False)
    np.testing.assert_allclose(values["pool_1"], pooled, rtol=1e-5)
    np.testing.assert_allclose(values["fc"], pooled.reshape(1, -1) @ fc.T + bias, rtol=1e-5)


# ---- the spec that is written --------------------------------------------------------------------


def test_the_spec_is_what_a_person_would_write(tmp_path: Path) -> None:
    done = imported(tmp_path, "small.prototxt")
    text = done.spec.read_text()
    assert text.startswith("# Imported from Caffe: small.prototxt (sha256 ")
    assert text[text.index("\nalexc: 1") :] == (
        "\nalexc: 1\n"
        "name: Small\n"
        "source: Caffe file small.prototxt\n"
        "\n"
        "input: {channels: 3, height: 14, width: 13}\n"
        "\n"
        "layers:\n"
        "  conv1: {op: conv, out_channels: 8, kernel_size: 3, stride: 2}\n"
        "  relu1: relu\n"
        "  norm1: {op: lrn, size: 5, alpha: 0.2, beta: 0.75, k: 2, alpha_per: window}\n"
        "  pool1: {op: max_pool, kernel_size: 3, stride: 2, ceil_mode: true}\n"
        "  conv2: {op: conv, out_channels: 6, kernel_size: [3, 1], padding: [1, 0], groups: 2}\n"
        "  relu2: relu\n"
        "  drop2: {op: dropout, p: 0.3}\n"
        "  flatten: flatten\n"
        "  fc3: {op: linear, out_features: 5}\n"
        "  prob: softmax\n"
        "\n"
        "preprocess: {resize: 14, channels: bgr}\n"
        "\n"
        "expect:\n"
        "  parameters: 577\n"
        "\n"
        "allow:\n"
        "  - {lint: lint/softmax-output, layer: prob, reason: so it is in Caffe}\n"
    )
    warned = [warning.code for warning in load_net(done.spec).warnings]
    assert "lint/softmax-output" not in warned


def test_a_training_net_becomes_input_preprocessing_and_init() -> None:
    net = read("small_train.prototxt")
    assert net.graph.input_shape == (3, 13, 13)
    assert net.graph.outputs == ("fc2",)
    # Caffe's (x − mean) · scale is x · scale − mean · scale here.
    assert net.preprocess == {
        "resize": 13,
        "channels": "bgr",
        "scale": 0.5,
        "mean": [52, 58.5, 62],
    }
    assert [layer.init for layer in net.layers if layer.init] == [
        {"weight": {"normal": 0.01}, "bias": 0},
        {"weight": {"normal": 0.02}, "bias": 1},
    ]
    left_out = {(row.origin.name, row.note) for row in net.rows if row.layer is None}
    assert left_out == {
        ("data", "the input"),
        ("data", "not in phase TEST"),
        ("accuracy", "measures only"),
        ("loss", "measures only"),
    }


def test_a_solver_wraps_the_net_beside_it(tmp_path: Path) -> None:
    done = imported(tmp_path, "small_solver.prototxt")
    text = " ".join(line.lstrip("# ") for line in done.spec.read_text().splitlines())
    assert done.net.graph.by_name["fc2"].op.kind == "linear"
    assert (
        "Trained with SGD, learning rate 0.01 multiplied by 0.1 every 1,000 iterations, "
        "momentum 0.9, weight decay 0.0005, 4,500 iterations."
    ) in text
    assert "In training: crops of 13×13 at random places, mirrored at random" in text
    assert "All layers: learning rate ×1 on weights and ×2 on biases" in text


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("", "", {"schedule": {"name": "step", "every": 1}}),  # 1,000 · 32 / 60,000 = 0.53
        ('"step"', '"fixed"', {"schedule": {"name": "constant"}}),
        ('"step"', '"poly" power: 1', {"schedule": {"name": "linear"}}),
        ("gamma: 0.1", "gamma: 0.5", {"schedule": {"name": "step", "every": 1, "factor": 0.5}}),
        ("gamma: 0.1", "gamma: 1.5", None),
        ('"step"', '"inv"', None),
        ("base_lr: 0.01", "base_lr: -1", None),
        ("base_lr: 0.01", 'base_lr: 0.01 type: "Adam"', None),
        (
            "base_lr: 0.01",
            'base_lr: 0.1 type: "Nesterov" iter_size: 4',
            {
                "epochs": 10,  # 4,500 · 32 · 4 / 60,000 = 9.6
                "batch": 128,
                "optimizer": {"nesterov": True, "learning_rate": 0.1, "decay_biases": False},
                "schedule": {"name": "step", "every": 2},
            },
        ),
    ],
)
def test_a_solver_becomes_a_recipe_where_the_data_is_known(
    tmp_path: Path, old: str, new: str, expected: dict[str, Any] | None
) -> None:
    for name in ("small_train.prototxt", "small_solver.prototxt"):
        text = (SAMPLES / name).read_text().replace("train_lmdb", "data/mnist_train_lmdb")
        (tmp_path / name).write_text(text.replace(old, new))
    net = read(tmp_path / "small_solver.prototxt")
    if expected is None:
        assert net.train is None
        assert any("There is no `train` here" in note for note in net.notes)
        return
    assert (
        net.train
        == {
            "epochs": 2,  # 4,500 · 32 / 60,000 = 2.4
            "batch": 32,
            "optimizer": {"decay_biases": False},
            "schedule": {"name": "step", "every": 1},
            "augment": {"flip": True},
        }
        | expected
    )
    recipe = write(net, tmp_path / "net.yaml").net.spec.header.train
    assert recipe is not None
    assert recipe.epochs == net.train["epochs"]


def test_a_solver_never_reads_outside_of_its_folder(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "net.prototxt").write_text((SAMPLES / "small.prototxt").read_text())
    for named in ("../net.prototxt", str(tmp_path / "net.prototxt"), "", "solver.prototxt"):
        (inner / "solver.prototxt").write_text(f'net: "{named}" base_lr: 0.1')
        with pytest.raises(AlexcError) as caught:
            read_foreign(inner / "solver.prototxt", Request())
        assert codes(caught.value) == ["import/solver-net"]


def test_ceil_mode_is_said_only_where_it_matters() -> None:
    fields = {layer.name: layer.op for layer in read("branches.prototxt").layers}
    assert fields["average"].model_dump()["ceil_mode"] is False  # 9, 7 with padding divide
    assert fields["largest"].model_dump()["ceil_mode"] is True


def test_batch_norm_takes_its_scale_along_and_needs_none() -> None:
    net = read("branches.prototxt")
    affine = {
        layer.name: layer.op.model_dump()["affine"] for layer in net.layers if "bn" in layer.name
    }
    assert affine == {"bn1": True, "bn2": False}
    assert "scale1" not in layers(net)


def test_in_place_layers_have_names_and_wiring_of_their_own() -> None:
    net = read("small.prototxt")
    wiring = {layer.name: layer.inputs for layer in net.layers}
    assert wiring["relu2"] == ("conv2",)
    assert wiring["drop2"] == ("relu2",)
    assert wiring["flatten"] == ("drop2",)


def test_names_that_a_spec_can_not_have_are_changed_and_told(tmp_path: Path) -> None:
    done = imported(tmp_path, "old.prototxt")
    assert "pool_1" in done.net.graph.by_name
    assert "# Renamed: pool_1 is pool.1." in done.spec.read_text()


@pytest.mark.parametrize(
    ("filler", "expected"),
    [
        ('type: "xavier"', {"uniform": 0.3333}),  # √(3 / 27)
        ('type: "xavier" variance_norm: AVERAGE', "xavier_uniform"),
        ('type: "xavier" variance_norm: FAN_OUT', {"uniform": 0.2041}),  # √(3 / 72)
        ('type: "msra"', "kaiming_normal"),
        ('type: "uniform" min: -0.1 max: 0.1', {"uniform": 0.1}),
        ("value: 0.5", 0.5),
    ],
)
def test_fillers_become_init(tmp_path: Path, filler: str, expected: object) -> None:
    text = (SAMPLES / "small.prototxt").read_text()
    text = text.replace("stride: 2 }", f"stride: 2 weight_filler {{ {filler} }} }}", 1)
    (tmp_path / "net.prototxt").write_text(text)
    net = read(tmp_path / "net.prototxt")
    assert net.layers[0].init == {"weight": expected, "bias": 0}


def test_a_filler_without_counterpart_is_told(tmp_path: Path) -> None:
    text = (SAMPLES / "small.prototxt").read_text()
    text = text.replace("stride: 2 }", 'stride: 2 weight_filler { type: "bilinear" } }', 1)
    (tmp_path / "net.prototxt").write_text(text)
    net = read(tmp_path / "net.prototxt", mean="1,2,3")
    assert [warning.code for warning in net.warnings] == ["import/init"]


# ---- what the files don't say --------------------------------------------------------------------

DATABASE = """
name: "Small"
layer {{ name: "data" type: "Data" top: "data" top: "label" {transform} }}
layer {{
  name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param {{ num_output: 8 kernel_size: 3 }}
}}
"""


def database(tmp_path: Path, transform: str = "") -> Path:
    path = tmp_path / "train.prototxt"
    path.write_text(DATABASE.format(transform=transform))
    return path


def test_a_size_that_no_file_gives_is_asked_for(tmp_path: Path) -> None:
    path = database(tmp_path)
    with pytest.raises(AlexcError) as caught:
        read(path)
    (fault,) = caught.value.diagnostics
    assert fault.code == "import/input-size"
    assert fault.place is not None
    assert fault.place.line == 3
    assert "--input" in str(fault.help)
    assert read(path, input_shape=(1, 28, 20)).graph.input_shape == (1, 28, 20)


def test_a_size_is_taken_from_the_file_beside_that_has_the_same_layers(tmp_path: Path) -> None:
    path = database(tmp_path)
    for name, kernel in (("deploy", "conv1"), ("other", "elsewhere")):
        (tmp_path / f"{name}.prototxt").write_text(
            'input: "data" input_shape { dim: 1 dim: 2 dim: 9 dim: 8 }\n'
            f'layer {{ name: "{kernel}" type: "Convolution" bottom: "data" top: "conv1"\n'
            "  convolution_param { num_output: 8 kernel_size: 3 } }"
        )
    net = read(path)
    assert net.graph.input_shape == (2, 9, 8)
    assert [warning.code for warning in net.warnings] == ["import/assumed-input"]


def test_channels_come_from_the_weights(tmp_path: Path) -> None:
    (weights,) = drawn(5, (8, 5, 3, 3))
    (tmp_path / "w.caffemodel").write_bytes(
        caffemodel({"conv1": ("Convolution", [weights, weights[:, 0, 0, 0]])})
    )
    path = database(tmp_path, "transform_param { crop_size: 10 }")
    assert read(path, weights=tmp_path / "w.caffemodel").graph.input_shape == (5, 10, 10)


def test_preprocessing_is_taken_from_the_net_that_the_weights_were_trained_in(
    tmp_path: Path,
) -> None:
    data = field(1, "d") + field(2, "Data") + field(4, "data") + field(100, field(1, 0.25))
    w1, b1, w2, b2, w3, b3 = drawn(6, (8, 3, 3, 3), (8,), (6, 4, 3, 1), (6,), (5, 54), (5,))
    trained = caffemodel(
        {
            "conv1": ("Convolution", [w1, b1]),
            "conv2": ("Convolution", [w2, b2]),
            "fc3": ("InnerProduct", [w3, b3]),
        }
    )
    (tmp_path / "w.caffemodel").write_bytes(trained + field(100, data))
    net = read("small.prototxt", weights=tmp_path / "w.caffemodel")
    assert net.preprocess == {"resize": 14, "channels": "bgr", "scale": 0.25}


def test_a_mean_image_becomes_the_average_of_each_channel(tmp_path: Path) -> None:
    image = np.stack([np.full((16, 20), value, np.float32) for value in (10, 20, 30)])
    image[2, 3, 4] += 320  # the average of 320 pixels grows by one
    path = database(
        tmp_path, 'transform_param { crop_size: 10 mean_file: "data/mean.binaryproto" }'
    )
    (tmp_path / "mean.binaryproto").write_bytes(
        b"".join(field(i + 1, n) for i, n in enumerate((1, 3, 16, 20))) + floats(5, image)
    )
    net = read(path, input_shape=(3, 10, 10))
    assert net.preprocess is not None
    assert net.preprocess["mean"] == [10, 20, 31]
    assert net.preprocess["resize"] == 20
    assert [warning.code for warning in net.warnings] == ["import/mean-image"]
    np.save(tmp_path / "mean.npy", image)
    given = read(path, input_shape=(3, 10, 10), mean=str(tmp_path / "mean.npy"))
    assert given.preprocess == net.preprocess
    numbers = read(path, input_shape=(3, 10, 10), mean="1,2,3.5")
    assert numbers.preprocess is not None
    assert numbers.preprocess["mean"] == [1, 2, 3.5]


def test_a_mean_image_that_is_not_here_is_told_and_not_made_up(tmp_path: Path) -> None:
    path = database(tmp_path, 'transform_param { crop_size: 10 mean_file: "../mean.binaryproto" }')
    net = read(path, input_shape=(3, 10, 10))
    assert [warning.code for warning in net.warnings] == ["import/no-mean"]
    assert net.preprocess is not None
    assert "mean" not in net.preprocess


NPY = b"\x93NUMPY\x01\x00\x46\x00{'descr': '<f4', 'fortran_order': False, 'shape': (SHAPE,), }"


@pytest.mark.parametrize(
    ("content", "suffix"),
    [
        (b"\x93NUMPY\x01\x00", ".npy"),
        (
            b"\x93NUMPY\x01\x00\x46\x00{'descr': '<f4', 'fortran_order': False, 'shape': (9" * 2,
            ".npy",
        ),
        (
            NPY.replace(b"SHAPE", b"9 9").ljust(80) + bytes(4 * 81),
            ".npy",
        ),
        (field(5, b"abc"), ".binaryproto"),
        (blob(np.ones((3, 2), np.float32)), ".binaryproto"),
        (field(1, 3) + field(2, 2**40), ".binaryproto"),
    ],
)
def test_a_mean_that_is_none_is_refused(tmp_path: Path, content: bytes, suffix: str) -> None:
    mean = tmp_path / f"mean{suffix}"
    mean.write_bytes(content)
    with pytest.raises(AlexcError):
        read("small.prototxt", mean=str(mean))


# ---- which layers are part of the net ------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "included"),
    [
        ("include { phase: TEST }", True),
        ("include { phase: TRAIN }", False),
        ("include { phase: TRAIN } include { phase: TEST }", True),
        ("exclude { phase: TRAIN }", True),
        ("exclude { phase: TEST }", False),
        ('include { stage: "deploy" }', False),
        ('include { not_stage: "deploy" }', True),
        ("include { min_level: 1 }", False),
        ("include { max_level: 2 phase: TEST }", True),
        ("exclude { min_level: 1 }", True),
    ],
)
def test_rules_say_which_layers_there_are(tmp_path: Path, rules: str, included: bool) -> None:
    text = (SAMPLES / "small.prototxt").read_text()
    text = text.replace('top: "conv2" dropout_param', f'top: "conv2" {rules} dropout_param')
    (tmp_path / "net.prototxt").write_text(text)
    net = read(tmp_path / "net.prototxt")
    assert ("drop2" in layers(net)) is included
    assert next(row for row in net.rows if row.origin.name == "drop2").layer == (
        "drop2" if included else None
    )


def test_old_data_layers_prepare_images_in_fields_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(
        """
        layers {
          name: "d" type: DATA top: "data" top: "label"
          data_param { source: "x" scale: 0.25 crop_size: 9 mirror: true batch_size: 4 }
        }
        layers {
          name: "c" type: CONVOLUTION bottom: "data" top: "c"
          convolution_param { num_output: 2 kernel_size: 3 }
        }
        layers { name: "l" type: SOFTMAX_LOSS bottom: "c" bottom: "label" }
        """
    )
    net = read(tmp_path / "net.prototxt")
    assert net.graph.input_shape == (3, 9, 9)
    assert net.preprocess == {"resize": 9, "channels": "bgr", "scale": 0.25}


FIELD, LAYER = "import/unsupported-field", "import/unsupported-layer"


@pytest.mark.parametrize(
    ("layer", "code"),
    [
        ('bottom: "conv1" type: "Eltwise" eltwise_param { operation: PROD }', FIELD),
        ('bottom: "conv1" type: "Eltwise" eltwise_param { coeff: 1 coeff: -1 }', FIELD),
        ('type: "Scale"', FIELD),
        ('type: "Power" power_param { shift: 1 }', FIELD),
        ('type: "Power"', None),
        ('type: "Split" top: "y"', None),
        ('type: "Concat"', None),
        ('type: "Concat" bottom: "data"', "shape/concat"),
        ('type: "Reshape" reshape_param { shape { dim: 0 dim: -1 } }', None),
        ('type: "Reshape" reshape_param { shape { dim: -1 } axis: 1 }', None),
        ('type: "Reshape" reshape_param { shape { dim: 0 dim: 2 dim: -1 } }', FIELD),
        ('type: "Flatten" flatten_param { axis: 2 }', FIELD),
        ('type: "Slice"', LAYER),
        ('', LAYER),
        ('type: "ReLU" vendor_param { x: 1 }', "import/unknown-field"),
    ],
)  # fmt: skip
def test_other_layers(tmp_path: Path, layer: str, code: str | None) -> None:
    (tmp_path / "net.prototxt").write_text(
        'input: "data" input_shape { dim: 1 dim: 3 dim: 8 dim: 7 }\n'
        'layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"\n'
        "  convolution_param { num_output: 4 kernel_size: 3 } }\n"
        f'layer {{ name: "x" top: "x" bottom: "conv1" {layer} }}\n'
    )
    if code is None:
        assert "conv1" in read(tmp_path / "net.prototxt").graph.by_name
        return
    with pytest.raises(AlexcError) as caught:
        read(tmp_path / "net.prototxt")
    assert codes(caught.value) == [code]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('layer { name: "a" type: "ReLU" } layers { name: "b" type: RELU }', "import/two-syntaxes"),
        ('layers { layer { name: "a" type: "conv" } }', "import/too-old"),
        ("", "import/empty"),
        ('net: "" base_lr: 1', "import/solver-net"),
        (
            'input: "a" input: "b" layer { type: "Eltwise" bottom: "a" bottom: "b" top: "s" }',
            "import/inputs",
        ),
        ('input: "a" layer { name: "loss" type: "EuclideanLoss" bottom: "a" }', "import/no-input"),
    ],
)  # fmt: skip
def test_files_that_hold_no_net_are_refused(tmp_path: Path, text: str, code: str) -> None:
    (tmp_path / "net.prototxt").write_text(text)
    with pytest.raises(AlexcError) as caught:
        read(tmp_path / "net.prototxt")
    assert codes(caught.value) == [code]


def test_weights_in_hdf5_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "w.caffemodel.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(AlexcError) as caught:
        read("small.prototxt", weights=tmp_path / "w.caffemodel.h5")
    assert codes(caught.value) == ["import/hdf5"]


# ---- what can't be said --------------------------------------------------------------------------


def test_everything_that_can_not_be_said_is_refused_at_once_with_its_line() -> None:
    with pytest.raises(AlexcError) as caught:
        read("refused.prototxt")
    found = [(d.code, d.place.line if d.place else 0) for d in caught.value.diagnostics]
    assert sorted(found, key=lambda item: item[1]) == [
        ("import/unsupported-layer", 8),
        ("import/unsupported-layer", 9),
        ("import/unsupported-field", 13),
        ("import/unknown-field", 16),
        ("import/unsupported-layer", 18),
    ]
    messages = [diagnostic.message for diagnostic in caught.value.diagnostics]
    assert "up: a spec can't say Caffe's Deconvolution" in messages
    assert any("pool" in message and "ceil_mode" in message for message in messages)
    assert caught.value.diagnostics[0].help == "--partial conv1 imports the net up to there"


def test_partial_imports_what_leads_to_a_layer() -> None:
    net = read("refused.prototxt", partial="conv1")
    assert layers(net) == {"conv1": "conv"}
    assert {row.origin.name for row in net.rows if row.layer is None} >= {"up", "boxes"}
    with pytest.raises(AlexcError) as caught:
        read("refused.prototxt", partial="conv2")
    assert caught.value.diagnostics[0].help == "did you mean conv1?"


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("num_output: 8 ", "", "import/unsupported-field"),
        (
            'kernel_size: 3 stride: 2 }\n}\nlayer { name: "relu1"',
            'stride: 2 }\n}\nlayer { name: "relu1"',
            "import/unsupported-field",
        ),
        (
            "kernel_size: 3 stride: 2",
            "kernel_size: 3 kernel_size: 3 kernel_size: 3",
            "import/unsupported-field",
        ),
        ("kernel_size: 3 stride: 2", "kernel_size: 30", "shape/kernel-too-large"),
        ("kernel_size: 3 stride: 2", "kernel_size: -1", "import/value"),
        ("pad_h: 1", "pad_h: 99999999999", "import/value"),
        ("group: 2", "group: 3", "shape/groups"),
        ("local_size: 5", "local_size: 4", "import/value"),
        ("pool: MAX", "pool: STOCHASTIC", "import/unsupported-field"),
        (
            "kernel_size: 3 stride: 2 }  #",
            "kernel_size: 1 stride: 7 }  #",
            "import/unsupported-field",
        ),
        ("num_output: 5", "num_output: 5 axis: 2", "import/unsupported-field"),
        ('bottom: "norm1"', 'bottom: "norm2"', "import/unknown-blob"),
        ('bottom: "conv2" top: "fc3"', 'top: "fc3"', "import/inputs"),
        ('bottom: "conv1" top: "norm1"', 'top: "norm1"', "import/inputs"),
        ("dim: 14", "dim: 0", "import/not-an-image"),
        ("dim: 14 dim: 13", "dim: 14", "import/not-an-image"),
        ("num_output: 8", "num_output: 8.5", "import/field-type"),
        ("num_output: 8", "num_output: eight", "import/field-type"),
        ("num_output: 8", "num_output: { }", "import/field-type"),
        ("num_output: 8", "num_output: 8x", "import/syntax"),
        ('name: "Small"', 'name: "Small', "import/syntax"),
        ('name: "Small"', 'name "Small"', "import/syntax"),
        ('name: "Small"', '[caffe.name]: "Small"', "import/syntax"),
        ('name: "Small"', 'vendor: "Small"', "import/unknown-field"),
        ('name: "prob" type', 'name: "prob" } type', "import/syntax"),
        ("lrn_param {", "lrn_param", "import/syntax"),
    ],
)
def test_a_fault_is_told_with_its_line(tmp_path: Path, old: str, new: str, code: str) -> None:
    text = (SAMPLES / "small.prototxt").read_text()
    assert old in text
    path = tmp_path / "net.prototxt"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(AlexcError) as caught:
        read(path)
    assert code in codes(caught.value)
    assert all(d.place and d.place.source.path == str(path) for d in caught.value.diagnostics)


def test_a_shape_fault_says_where_the_input_comes_from(tmp_path: Path) -> None:
    text = (SAMPLES / "small.prototxt").read_text().replace("group: 2", "group: 5")
    (tmp_path / "net.prototxt").write_text(text)
    with pytest.raises(AlexcError) as caught:
        read(tmp_path / "net.prototxt")
    (fault,) = caught.value.diagnostics  # and nothing of the layers after it
    assert fault.message == "conv2: 8 input channels do not divide into groups=5"
    assert fault.notes == ("it reads 8×3×3 from pool1",)
    assert fault.place is not None
    assert fault.place.line == 21


@pytest.mark.parametrize(
    ("model", "code"),
    [
        ({"conv1": [(8, 3, 3, 3), (8,)]}, "import/missing-weights"),
        ({"conv1": [(8, 3, 3, 5), (8,)]}, "import/weight-shape"),
        ({"conv1": [(8, 3, 3, 3)]}, "import/missing-weights"),
        ({"conv1": [(8, 3, 3, 3), (8,), (8,)]}, "import/weight-shape"),
        ({}, "import/damaged"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    tmp_path: Path, model: dict[str, list[tuple[int, ...]]], code: str
) -> None:
    path = tmp_path / "w.caffemodel"
    path.write_bytes(
        caffemodel({name: ("Convolution", drawn(7, *shapes)) for name, shapes in model.items()})
    )
    with pytest.raises(AlexcError) as caught:
        read("small.prototxt", weights=path)
    assert code in codes(caught.value)


def test_weights_that_the_net_does_not_have_are_told(tmp_path: Path) -> None:
    w1, b1, fc, bias = drawn(8, (3, 2, 3, 3), (3,), (4, 18), (4,))
    model = {"conv1/3x3": (4, [w1, b1]), "fc": (14, [fc, bias]), "fc9": (14, [fc])}
    (tmp_path / "w.caffemodel").write_bytes(old_caffemodel(model))
    net = read("old.prototxt", weights=tmp_path / "w.caffemodel")
    assert [warning.code for warning in net.warnings] == ["import/unused-weights"]
    assert "fc9" in net.warnings[0].message


def test_weights_under_another_name_are_found_close_by(tmp_path: Path) -> None:
    w1, b1, fc, bias = drawn(8, (3, 2, 3, 3), (3,), (4, 18), (4,))
    model = {"conv1/3x3": (4, [w1, b1]), "fc_": (14, [fc, bias])}
    (tmp_path / "w.caffemodel").write_bytes(old_caffemodel(model))
    with pytest.raises(AlexcError) as caught:
        read("old.prototxt", weights=tmp_path / "w.caffemodel")
    assert caught.value.diagnostics[0].help == "there are weights for fc_"


def test_weights_that_are_not_finite_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    w1, b1, fc, bias = drawn(9, (3, 2, 3, 3), (3,), (4, 18), (4,))
    fc[2, 3] = np.nan
    path = tmp_path / "w.caffemodel"
    path.write_bytes(old_caffemodel({"conv1/3x3": (4, [w1, b1]), "fc": (14, [fc, bias])}))
    with pytest.raises(AlexcError) as caught:
        imported(tmp_path / "out", "old.prototxt", weights=path)
    assert codes(caught.value) == ["weights/not-finite"]
    assert list((tmp_path / "out").iterdir()) == []


# ---- a caffemodel by itself ----------------------------------------------------------------------


def test_a_caffemodel_alone_describes_its_net(tmp_path: Path) -> None:
    w1, b1, fc, bias = drawn(10, (4, 3, 3, 2), (4,), (5, 60), (5,))
    shape = field(8, field(1, b"\x02\x03\x07\x04"))
    convolution = field(1, 4) + field(11, 3) + field(12, 2)
    model = (
        field(1, "binary")
        + field(3, "data")
        + shape
        + field(100, field(1, "c"), field(2, "Convolution"), field(3, "data"), field(4, "c"),
                field(106, convolution), field(7, blob(w1)), field(7, blob(b1)))
        + field(100, field(1, "n"), field(2, "LRN"), field(3, "c"), field(4, "n"),
                field(118, field(2, 0.0001), field(5, 2.0)))
        + field(100, field(1, "f"), field(2, "InnerProduct"), field(3, "n"), field(4, "f"),
                field(117, field(1, 5)), field(7, blob(fc)), field(7, blob(bias)))
    )  # fmt: skip
    path = tmp_path / "net.caffemodel"
    path.write_bytes(model)
    net = read(path)
    assert net.graph.input_shape == (3, 7, 4)
    # A float32 of 1e-4 is read as the number that was meant.
    assert net.layers[1].op.model_dump()["alpha"] == 0.0001
    weights = net.weights()
    np.testing.assert_array_equal(weights["c.weight"], w1)
    np.testing.assert_array_equal(weights["f.bias"], bias)


# ---- the command ---------------------------------------------------------------------------------


def test_the_command_says_what_became_of_each_layer(alexc: Alexc, tmp_path: Path) -> None:
    out = tmp_path / "specs" / "small.yaml"
    ran = alexc("import", SAMPLES / "small.prototxt", "--out", out, "--json")
    assert ran.status == 0
    assert ran.json["parameters"] == 577
    assert ran.json["weights"] is None
    rows = {row["source"]: row for row in ran.json["layers"]}
    assert rows["conv1"] == {
        "source": "conv1",
        "type": "Convolution",
        "line": 7,
        "layer": "conv1",
        "op": "conv",
        "shape": [8, 6, 6],
        "weights": {"conv1.weight": [8, 3, 3, 3], "conv1.bias": [8]},
        "note": "",
    }
    assert rows["data"]["layer"] is None
    table = alexc("import", SAMPLES / "small.prototxt", "--out", tmp_path / "table.yaml").out
    assert "InnerProduct" in table
    assert "577" in table


def test_what_exists_is_replaced_only_when_asked(alexc: Alexc, tmp_path: Path) -> None:
    out = tmp_path / "net.yaml"
    out.write_text("mine")
    refused = alexc("import", SAMPLES / "small.prototxt", "--out", out)
    assert refused.status == 2
    assert "import/exists" in refused.err
    assert out.read_text() == "mine"
    assert alexc("import", SAMPLES / "small.prototxt", "--out", out, "--force").status == 0
    assert load_net(out).graph.parameter_count == 577
    assert [path.name for path in tmp_path.iterdir()] == ["net.yaml"]


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        (["nowhere.prototxt"], 2, "file/missing"),
        ([SAMPLES], 2, "import/format"),
        ([SAMPLES / "small.prototxt", "--weights", "nowhere.caffemodel"], 2, "file/missing"),
        ([SAMPLES / "small.prototxt", "--input", "three"], 2, "import/input"),
        ([SAMPLES / "small.prototxt", "--like", "x.yaml"], 2, "import/option"),
        ([SAMPLES / "small.prototxt", "--mean", "nowhere.npy"], 2, "file/missing"),
        ([SAMPLES / "refused.prototxt"], 1, "import/unsupported-layer"),
    ],
)
def test_faults_have_their_exit_status(
    alexc: Alexc, tmp_path: Path, arguments: list[object], status: int, code: str
) -> None:
    ran = alexc("import", *arguments, "--out", tmp_path / "out.yaml", "--json")
    assert ran.status == status
    assert code in [diagnostic["code"] for diagnostic in ran.json["diagnostics"]]
    assert not (tmp_path / "out.yaml").exists()


def test_a_folder_that_can_not_be_written_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError):
        write(read("small.prototxt"), tmp_path / "file" / "net.yaml")
