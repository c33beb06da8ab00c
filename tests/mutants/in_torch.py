"""Faults in the module that to_torch makes."""

from __future__ import annotations

import torch
from torch.nn import functional

from tests.mutants.planting import Mutant, PlantTorch
from tests.mutants.torch_tools import (
    MEAN_AND_VARIANCE_SWAPPED,
    batch_norm_with,
    bias_twice,
    changed_after,
    channels_last_order,
    computed_in,
    computed_of,
    divisors_of,
    divisors_without_padding,
    groups_merged,
    halves_swapped,
    instead,
    lrn_across,
    lrn_divided_by_present,
    lrn_of_even_window,
    lrn_shifted,
    lrn_within,
    multiplied,
    narrow,
    norm_behind_pool,
    of_input,
    padded_with_edges,
    padded_with_zeros,
    rewired,
    set_attributes,
    swapped_sides,
    ten_bits,
    with_weight,
    without_bias,
)


def torch_mutants() -> list[Mutant]:
    """Faults in the module that to_torch makes."""

    def m(name: str, layer: str, plant: PlantTorch, kind: str = "local") -> Mutant:
        return Mutant(name, layer, torch=plant, kind=kind)

    lrn = [
        m("alpha × size", "norm1", multiplied("norm1", "alpha", 5)),
        m("alpha ÷ size", "norm1", multiplied("norm1", "alpha", 1 / 5)),
        m("alpha zero", "norm1", set_attributes("norm1", alpha=0.0)),
        m("k = 1", "norm1", set_attributes("norm1", k=1.0)),
        m("beta = 0.5", "norm1", set_attributes("norm1", beta=0.5)),
        m("beta = 0.74", "norm1", set_attributes("norm1", beta=0.74)),
        m("size 3", "norm1", set_attributes("norm1", size=3)),
        m("size 7", "norm1", set_attributes("norm1", size=7)),
        m(
            "even window",
            "norm1",
            instead("norm1", lambda _forward, layer, x: lrn_of_even_window(layer, x)),
        ),
        m(
            "window shifted up",
            "norm1",
            instead("norm1", lambda _forward, layer, x: lrn_shifted(layer, x, 1)),
        ),
        m(
            "window shifted down",
            "norm1",
            instead("norm1", lambda _forward, layer, x: lrn_shifted(layer, x, -1)),
        ),
        m(
            "divided by those present",
            "norm1",
            instead("norm1", lambda _forward, layer, x: lrn_divided_by_present(layer, x)),
        ),
        m(
            "within the channel",
            "norm1",
            instead("norm1", lambda _forward, layer, x: lrn_within(layer, x)),
        ),
        m("missing", "norm1", of_input("norm1", lambda x: x)),
        m("in fp16", "norm1", changed_after("norm1", narrow(torch.float16))),
        m("alpha × size²", "norm2", multiplied("norm2", "alpha", 9)),
        m("size 5", "norm2", set_attributes("norm2", size=5)),
        m(
            "across the channels",
            "norm2",
            instead("norm2", lambda _forward, layer, x: lrn_across(layer, x)),
        ),
        m("k = 2", "norm2", set_attributes("norm2", k=2.0)),
    ]
    conv = [
        m("stride off by one", "conv1", set_attributes("conv1", stride=(2, 1))),
        m("padding one more", "conv1", set_attributes("conv1", sides=(3, 0, 1, 1))),
        m("padding one less", "conv1", set_attributes("conv1", sides=(1, 0, 1, 1))),
        m("padding on the other side", "conv1", set_attributes("conv1", sides=(0, 2, 1, 1))),
        m("padding shifted by a row", "conv3", set_attributes("conv3", sides=(1, 0, 1, 3))),
        m("dilation off by one", "conv3", set_attributes("conv3", dilation=(1, 1))),
        m("groups swapped", "conv2", with_weight("conv2", halves_swapped)),
        m("groups merged", "conv2", instead("conv2", groups_merged)),
        m("bias of zeros dropped", "conv1", instead("conv1", without_bias)),
        m("bias of zeros dropped", "stem", instead("stem", without_bias)),
        m("bias dropped", "conv2", instead("conv2", without_bias)),
        m("bias added twice", "conv2", instead("conv2", bias_twice)),
        m("kernel flipped", "conv1", with_weight("conv1", lambda w: w.flip(2, 3))),
        m("kernel transposed", "conv2", with_weight("conv2", lambda w: w.transpose(2, 3))),
        m("BGR for RGB", "conv1", with_weight("conv1", lambda w: w.flip(1))),
        m("channels read in another order", "conv3", computed_of("conv3", lambda x: x.roll(1, 1))),
        m("result's channels rotated", "conv1", changed_after("conv1", lambda y: y.roll(1, 1))),
        m(
            "padded with edges",
            "conv2",
            padded_with_edges("conv2"),
        ),
        m("in fp16", "conv1", computed_in("conv1", torch.float16)),
        m("in bf16", "conv2", computed_in("conv2", torch.bfloat16)),
        m("factors in TF32", "conv2", with_weight("conv2", ten_bits)),
        m(
            "weight of the 1×1 convolution transposed",
            "left",
            with_weight("left", lambda w: w.transpose(0, 1)),
        ),
    ]
    dense = [
        m("weight transposed", "fc5", with_weight("fc5", lambda w: w.T)),
        m("bias dropped", "fc4", instead("fc4", without_bias)),
        m("units rotated", "fc4", changed_after("fc4", lambda y: y.roll(1, 1))),
        m("in fp16", "fc4", computed_in("fc4", torch.float16)),
        m("result in fp16", "fc6", changed_after("fc6", narrow(torch.float16))),
        m("in bf16", "scores", computed_in("scores", torch.bfloat16)),
        m("order row, column, channel", "flat", of_input("flat", channels_last_order)),
        m(
            "order channel, column, row",
            "flat",
            of_input("flat", lambda x: x.transpose(2, 3).flatten(1)),
        ),
        m("reversed", "flat", of_input("flat", lambda x: x.flatten(1).flip(1))),
    ]
    pool = [
        m(
            "average for maximum",
            "pool1",
            of_input("pool1", lambda x: functional.avg_pool2d(x, 3, 2)),
        ),
        m("kernel one more", "pool1", set_attributes("pool1", kernel_size=(4, 3))),
        m("kernel one less", "pool1", set_attributes("pool1", kernel_size=(2, 3))),
        m("stride one more", "pool1", set_attributes("pool1", stride=(3, 2))),
        m("dilated", "pool1", set_attributes("pool1", dilation=2)),
        m(
            "floor for ceil",
            "pool2",
            of_input(
                "pool2",
                lambda x: functional.max_pool2d(
                    functional.pad(x, (0, 1, 1, 0), value=-torch.inf), (2, 3), (2, 1)
                ),
            ),
        ),
        m(
            "padded with zeros",
            "pool2",
            padded_with_zeros("pool2"),
        ),
        m("padding on the other side", "pool2", swapped_sides("pool2")),
        m(
            "maximum for average",
            "pool3",
            of_input("pool3", lambda x: functional.max_pool2d(x, 3, 2, 1, ceil_mode=True)),
        ),
        m(
            "padding counted",
            "pool3",
            of_input("pool3", lambda x: functional.avg_pool2d(x, 3, 2, 1, True, True)),
        ),
        m("padding not counted", "average", divisors_without_padding("average")),
        m(
            "divisor one everywhere",
            "average",
            divisors_of("average", 1.0),
        ),
        m(
            "overhang counted",
            "average",
            divisors_of("average", 9.0),
        ),
        m(
            "bins of maxima",
            "bins",
            of_input("bins", lambda x: functional.adaptive_max_pool2d(x, (4, 3))),
        ),
        m(
            "bins of one size",
            "bins",
            of_input(
                "bins",
                lambda x: functional.avg_pool2d(x, (x.shape[2] // 4, x.shape[3] // 3))[
                    :, :, :4, :3
                ],
            ),
        ),
        m(
            "bins transposed",
            "bins",
            of_input("bins", lambda x: functional.adaptive_avg_pool2d(x, (3, 4)).transpose(2, 3)),
        ),
    ]
    norm = [
        m("eps 1e-3", "norm3", set_attributes("norm3", eps=1e-3)),
        m("eps 1e-6", "norm3", set_attributes("norm3", eps=1e-6)),
        m("no eps", "norm3", set_attributes("norm3", eps=0.0)),
        m(
            "eps added after the root",
            "norm3",
            batch_norm_with(
                var=lambda layer: (layer.running_var.sqrt() + layer.eps) ** 2, eps=lambda _: 0.0
            ),
        ),
        m(
            "variance for deviation",
            "norm3",
            batch_norm_with(var=lambda layer: layer.running_var**2),
        ),
        m(
            "variance of n − 1",
            "norm3",
            batch_norm_with(var=lambda layer: layer.running_var * (128 / 127)),
        ),
        m("mean missing", "norm3", batch_norm_with(mean=lambda layer: layer.running_mean * 0)),
        m("weight missing", "norm3", batch_norm_with(weight=lambda _: None)),
        m("bias missing", "norm3", batch_norm_with(bias=lambda _: None)),
        m("mean for variance", "norm3", MEAN_AND_VARIANCE_SWAPPED),
        m(
            "statistics of the batch",
            "norm3",
            instead(
                "norm3",
                lambda _forward, layer, x: functional.batch_norm(
                    x, None, None, layer.weight, layer.bias, True, 0.1, layer.eps
                ),
            ),
        ),
        m(
            "channels of the statistics rotated",
            "norm",
            instead(
                "norm",
                lambda _forward, layer, x: functional.batch_norm(
                    x, layer.running_mean.roll(1), layer.running_var, eps=layer.eps
                ),
            ),
        ),
    ]
    pointwise = [
        m("missing", "relu1", of_input("relu1", lambda x: x)),
        m("leaky", "relu1", of_input("relu1", lambda x: functional.leaky_relu(x, 0.01))),
        m("capped at 6", "relu2", of_input("relu2", functional.relu6)),
        m("absolute value", "relu3", of_input("relu3", torch.abs)),
        m("GELU", "relu4", of_input("relu4", functional.gelu)),
        m("sigmoid for tanh", "tanh5", of_input("tanh5", torch.sigmoid)),
        m("clipped to a line", "tanh5", of_input("tanh5", functional.hardtanh)),
        m("missing", "tanh5", of_input("tanh5", lambda x: x)),
        m("tanh for sigmoid", "gate", of_input("gate", torch.tanh)),
        m("clipped to a line", "gate", of_input("gate", functional.hardsigmoid)),
        m("over the batch", "prob", of_input("prob", lambda x: x.softmax(0))),
        m("logarithm of it", "prob", of_input("prob", lambda x: x.log_softmax(1))),
        m("missing", "prob", of_input("prob", lambda x: x)),
        m(
            "maximum not taken off",
            "prob",
            of_input("prob", lambda x: x.exp() / x.exp().sum(1, keepdim=True)),
        ),
        m("over the rows", "channels", of_input("channels", lambda x: x.softmax(2))),
        m("over the columns", "channels", of_input("channels", lambda x: x.softmax(3))),
        m(
            "over all of an image",
            "channels",
            of_input("channels", lambda x: x.flatten(1).softmax(1).reshape(x.shape)),
        ),
        m(
            "active in inference",
            "drop4",
            of_input("drop4", lambda x: functional.dropout(x, 0.5, True)),
        ),
        m("scaled in inference", "drop4", of_input("drop4", lambda x: x * 0.5)),
        m("an input missing", "sum", of_input("sum", lambda a, b, _c: a + b)),
        m("an input taken off", "sum", of_input("sum", lambda a, b, c: a - b + c)),
        m("mean for sum", "sum", of_input("sum", lambda a, b, c: (a + b + c) / 3)),
        m("inputs swapped", "join", of_input("join", lambda a, b: torch.cat((b, a), 1))),
        m(
            "along the rows",
            "join",
            of_input(
                "join", lambda a, b: torch.cat((a, b), 2).reshape(a.shape[0], -1, *a.shape[2:])
            ),
        ),
    ]
    wiring = [
        m("norm behind pool", "norm1", norm_behind_pool, "wiring"),
        m("reads past the ReLU", "norm1", rewired("norm1", "conv1"), "wiring"),
        m("reads past the norm", "relu3", rewired("relu3", "conv3"), "wiring"),
        m("reads the other branch", "gate", rewired("gate", "left"), "wiring"),
        m("reads one branch twice", "join", rewired("join", "right", "right"), "wiring"),
        m("reads before the ReLU", "drop4", rewired("drop4", "fc4"), "wiring"),
    ]
    return [*lrn, *conv, *dense, *pool, *norm, *pointwise, *wiring]
