"""Faults in the model that to_onnx makes, which ONNX Runtime then runs."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from tests.mutants.onnx_tools import (
    attribute_scaled,
    attributes,
    lrn_shifted,
    mean_without_square,
    node_before,
    node_behind,
    number_changed,
    other_operator,
    pool1_before_norm1,
    reads,
    through_type,
)
from tests.mutants.planting import Mutant, PlantOnnx


def onnx_mutants() -> list[Mutant]:
    """Faults in the model that to_onnx makes, run on ONNX Runtime."""

    def m(name: str, layer: str, plant: PlantOnnx, kind: str = "local") -> Mutant:
        return Mutant(name, layer, onnx=plant, kind=kind)

    lrn = [
        m("alpha × size", "norm1", attribute_scaled("norm1", "alpha", 5)),
        m("alpha ÷ size", "norm1", attribute_scaled("norm1", "alpha", 1 / 5)),
        m("alpha's default", "norm1", attributes("norm1", alpha=None)),
        m("k's default", "norm1", attributes("norm1", bias=None)),
        m("beta = 0.5", "norm1", attributes("norm1", beta=0.5)),
        m("size 3", "norm1", attributes("norm1", size=3)),
        m("size 7", "norm1", attributes("norm1", size=7)),
        m("even window", "norm1", attributes("norm1", size=4)),
        m("missing", "norm1", other_operator("norm1", "Identity")),
        m("window shifted", "norm1", lrn_shifted),
        m("alpha × size²", "norm2", number_changed("norm2.alpha", lambda a: a * 9)),
        m("k = 2", "norm2", number_changed("norm2.k", lambda a: a + 1)),
        m("beta = 0.75", "norm2", number_changed("norm2.beta", lambda a: a + 0.25)),
        m("padding not counted", "norm2", attributes("norm2.mean", count_include_pad=0)),
        m("square missing", "norm2", mean_without_square),
        m("size 5", "norm2", attributes("norm2.mean", kernel_shape=[5, 5], pads=[2] * 4)),
    ]
    conv = [
        m("stride off by one", "conv1", attributes("conv1", strides=[2, 1])),
        m("padding one more", "conv1", attributes("conv1", pads=[2, 2, 1, 0])),
        m("padding missing", "conv2", attributes("conv2", pads=[0] * 4)),
        m("padding on the other side", "conv1", attributes("conv1", pads=[1, 0, 1, 2])),
        m("padding's axes swapped", "conv3", attributes("conv3", pads=[1, 2, 0, 2])),
        m("dilation off by one", "conv3", attributes("conv3", dilations=[1, 1])),
        m("dilation's axes swapped", "conv3", attributes("conv3", dilations=[1, 2])),
        m("groups merged", "conv2", attributes("conv2", group=1)),
        m(
            "groups swapped",
            "conv2",
            node_before("conv2", 1, "Gather", [np.roll(np.arange(16), 8)], axis=0),
        ),
        m("bias of zeros dropped", "conv1", reads("conv1", lambda n: n[:2])),
        m("RBG for RGB", "stem", node_before("stem", 0, "Gather", [np.array([0, 2, 1])], axis=1)),
        m("bias dropped", "conv2", reads("conv2", lambda n: n[:2])),
        m("BGR for RGB", "conv1", node_before("conv1", 0, "Gather", [np.array([2, 1, 0])], axis=1)),
        m(
            "kernel flipped",
            "conv1",
            node_before("conv1", 1, "Gather", [np.arange(5)[::-1].copy()], axis=2),
        ),
        m("kernel transposed", "conv2", node_before("conv2", 1, "Transpose", perm=[0, 1, 3, 2])),
        m(
            "weight of the 1×1 convolution transposed",
            "left",
            node_before("left", 1, "Transpose", perm=[1, 0, 2, 3]),
        ),
        m("input in fp16", "conv1", through_type("conv1", 0, TensorProto.FLOAT16)),
        m("weight in fp16", "conv2", through_type("conv2", 1, TensorProto.FLOAT16)),
        m("weight in bf16", "conv3", through_type("conv3", 1, TensorProto.BFLOAT16)),
        m("another layer's bias", "right", reads("right", lambda n: [*n[:2], "stem.bias"])),
    ]
    dense = [
        m("weight transposed", "fc5", attributes("fc5", transB=0)),
        m("bias dropped", "fc4", reads("fc4", lambda n: n[:2])),
        m("bias doubled", "fc4", attributes("fc4", transB=1, beta=2.0)),
        m("scaled", "fc6", attributes("fc6", transB=1, alpha=0.999)),
        m("weight in fp16", "fc4", through_type("fc4", 1, TensorProto.FLOAT16)),
        m("input in bf16", "scores", through_type("scores", 0, TensorProto.BFLOAT16)),
        m(
            "order row, column, channel",
            "flat",
            node_before("flat", 0, "Transpose", perm=[0, 2, 3, 1]),
        ),
        m(
            "order channel, column, row",
            "flat",
            node_before("flat", 0, "Transpose", perm=[0, 1, 3, 2]),
        ),
        m("another axis", "flat", attributes("flat", axis=2)),
    ]
    pool = [
        m(
            "average for maximum",
            "pool1",
            other_operator("pool1", "AveragePool", kernel_shape=[3, 3], strides=[2, 2]),
        ),
        m("kernel one more", "pool1", attributes("pool1", kernel_shape=[4, 3])),
        m("stride one less", "pool1", attributes("pool1", strides=[1, 2])),
        m("floor for ceil", "pool2", attributes("pool2", pads=[1, 0, 0, 1])),
        m("padding on the other side", "pool2", attributes("pool2", pads=[0, 1, 1, 0])),
        m(
            "maximum for average",
            "pool3",
            other_operator(
                "pool3",
                "MaxPool",
                kernel_shape=[3, 3],
                strides=[2, 2],
                pads=[1, 1, 1, 1],
                ceil_mode=1,
            ),
        ),
        m("padding counted", "pool3", attributes("pool3", count_include_pad=1)),
        m("overhang counted", "average", attributes("average", count_include_pad=1)),
        m(
            "rows averaged with other weights",
            "bins",
            number_changed("bins.average_rows", lambda a: np.roll(a, 1, 1)),
        ),
        m("bins transposed", "bins", node_behind("bins", "Transpose", perm=[0, 1, 3, 2])),
    ]
    norm = [
        m("eps 1e-3", "norm3", attributes("norm3", epsilon=1e-3)),
        m("eps 1e-6", "norm3", attributes("norm3", epsilon=1e-6)),
        m("mean and variance swapped", "norm3", reads("norm3", lambda n: [*n[:3], n[4], n[3]])),
        m(
            "weight and bias swapped",
            "norm3",
            reads("norm3", lambda n: [n[0], n[2], n[1], *n[3:]]),
        ),
        m("weight for mean", "norm3", reads("norm3", lambda n: [*n[:3], n[1], n[4]])),
        m("ones of two", "norm", number_changed("norm.ones", lambda a: a + 1)),
        m("zeros of one", "norm", number_changed("norm.zeros", lambda a: a + 1)),
    ]
    pointwise = [
        m("missing", "relu1", other_operator("relu1", "Identity")),
        m("leaky", "relu1", other_operator("relu1", "LeakyRelu")),
        m("capped at 6", "relu2", node_behind("relu2", "Clip", [np.float32(0), np.float32(6)])),
        m("absolute value", "relu3", other_operator("relu3", "Abs")),
        m("ELU", "relu4", other_operator("relu4", "Elu")),
        m("sigmoid for tanh", "tanh5", other_operator("tanh5", "Sigmoid")),
        m("softsign for tanh", "tanh5", other_operator("tanh5", "Softsign")),
        m("tanh for sigmoid", "gate", other_operator("gate", "Tanh")),
        m("clipped to a line", "gate", other_operator("gate", "HardSigmoid")),
        m("over the batch", "prob", attributes("prob", axis=0)),
        m("logarithm of it", "prob", other_operator("prob", "LogSoftmax", axis=1)),
        m("missing", "prob", other_operator("prob", "Identity")),
        m("over the rows", "channels", attributes("channels", axis=2)),
        m("over the columns", "channels", attributes("channels", axis=-1)),
        m("an input missing", "sum", reads("sum", lambda n: n[:2])),
        m("maximum for sum", "sum", other_operator("sum", "Max")),
        m("mean for sum", "sum", other_operator("sum", "Mean")),
        m("inputs swapped", "join", reads("join", lambda n: n[::-1])),
        m("along the rows", "join", attributes("join", axis=2)),
        m("in fp16", "gate", through_type("gate", 0, TensorProto.FLOAT16)),
        m("in bf16", "sum", through_type("sum", 0, TensorProto.BFLOAT16)),
    ]
    wiring = [
        m("norm behind pool", "norm1", pool1_before_norm1),
        m("reads past the ReLU", "norm1", reads("norm1", lambda _: ["conv1"])),
        m("reads past the norm", "relu3", reads("relu3", lambda _: ["conv3"])),
        m("reads the other branch", "gate", reads("gate", lambda _: ["left"])),
        m("reads one branch twice", "join", reads("join", lambda n: [n[1], n[1]])),
        m(
            "another layer's weight",
            "fc5",
            reads("fc5", lambda n: [n[0], "fc5.weight", "fc4.bias"]),
        ),
    ]
    return [*lrn, *conv, *dense, *pool, *norm, *pointwise, *wiring]
