"""Graph → PyTorch: `LOWERINGS` is the dictionary from each op to the module that computes it.

The result is an ordinary `nn.Module` whose submodules carry the layers' names. It draws no weights
of its own: they come from the same arrays that every other backend reads, and go back with
`weights_of` after training. Rounding modes are never left to PyTorch: what ceil mode and uneven
padding need is padded explicitly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from alexc.diagnostics import AlexcError, Diagnostic, fault
from alexc.graph.graph import INPUT, Graph
from alexc.lower.torch_modules import (
    UNSET,
    ConcatChannels,
    DividedAvgPool2d,
    PaddedConv2d,
    ResponseNorm,
    Sum,
    sides,
)
from alexc.ops.base import Op, Shape, format_shape
from alexc.ops.conv import Conv
from alexc.ops.dense import Linear
from alexc.ops.norm import BatchNorm, Lrn
from alexc.ops.pointwise import Dropout, Relu, Sigmoid, Softmax, Tanh
from alexc.ops.pool import AdaptiveAvgPool, AvgPool, MaxPool
from alexc.ops.structure import Add, Concat, Flatten


class TorchNet(nn.Module):
    """A graph as a PyTorch module: one submodule for each layer, under the layer's name.

    Built by `to_torch`. It trains, copies, saves its state, compiles and exports as any module.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        self._sources = {node.name: node.inputs for node in graph.nodes}
        self._finished = _last_reads(graph)
        for node in graph.nodes:
            layer = LOWERINGS[type(node.op)](node.op, node.input_shapes[0])
            try:
                self.add_module(node.name, layer)
            except KeyError:
                raise fault(
                    "lower/layer-name",
                    f"a layer cannot be named {node.name}, which every PyTorch module has already",
                    help=f"{node.name}1 is free",
                ) from None

    def forward(self, images: Tensor) -> Tensor | dict[str, Tensor]:
        """The output for images (batch, channels, height, width), or outputs by name if several.

        Raises AlexcError if the images don't have the shape of the graph's input.
        """
        self._check(images)
        tensors = {INPUT: images}
        for name, layer in self.named_children():
            tensors[name] = layer(*[tensors[source] for source in self._sources[name]])
            for source in self._finished[name]:  # frees memory where no gradient needs it
                del tensors[source]
        if len(self.graph.outputs) == 1:
            return tensors[self.graph.outputs[0]]
        return {name: tensors[name] for name in self.graph.outputs}

    def intermediates(self, images: Tensor) -> dict[str, Tensor]:
        """Every layer's result by name, in the order of the graph, from the same loop as `forward`.

        Raises AlexcError if the images don't have the shape of the graph's input.
        """
        self._check(images)
        tensors = {INPUT: images}
        for name, layer in self.named_children():
            tensors[name] = layer(*[tensors[source] for source in self._sources[name]])
        del tensors[INPUT]
        return tensors

    def _check(self, images: Tensor) -> None:
        if images.shape[1:] != self.graph.input_shape:
            raise fault(
                "input/shape",
                f"{self.graph.name} takes batch×{format_shape(self.graph.input_shape)} "
                f"and gets {format_shape(tuple(images.shape))}",
                help="one image needs a batch axis too: image.unsqueeze(0)"
                if images.shape == self.graph.input_shape
                else None,
            )


def to_torch(graph: Graph, weights: Mapping[str, NDArray[Any]] | None = None) -> TorchNet:
    """The graph as a PyTorch module in float32, in training mode, on the CPU.

    `weights` holds the graph's parameters by their whole names (`conv1.weight`); they are copied.
    Without it every parameter is zero, for a state that `load_state_dict` brings.

    Raises AlexcError if a weight is missing, unknown to the graph, or of another shape, and if a
    layer has a name that an `nn.Module` needs for itself.
    """
    net = TorchNet(graph)
    if weights is None:
        weights = {name: np.zeros(p.shape, np.float32) for name, p in graph.parameters.items()}
    _check_weights(graph, weights)
    state = {name: torch.tensor(array, dtype=torch.float32) for name, array in weights.items()}
    # PyTorch counts the batches that batch norm has seen, though nothing here depends on it.
    for name in net.state_dict():
        if name.endswith(".num_batches_tracked"):
            state[name] = torch.tensor(0)
    net.load_state_dict(state, assign=True)
    return net


def weights_of(net: TorchNet) -> dict[str, NDArray[np.float32]]:
    """The module's weights as `to_torch` takes them: copies, in the order of the graph."""
    state = net.state_dict()
    return {
        name: np.array(state[name].detach().cpu().to(torch.float32).numpy())
        for name in net.graph.parameters
    }


def _check_weights(graph: Graph, weights: Mapping[str, NDArray[Any]]) -> None:
    wanted = graph.parameters
    faults = [
        Diagnostic("weights/missing", f"{name} is not among the weights given")
        for name in wanted
        if name not in weights
    ]
    for name, array in weights.items():
        if name not in wanted:
            faults.append(Diagnostic("weights/extra", f"{name} is no weight of {graph.name}"))
        elif array.shape != wanted[name].shape:
            given, right = format_shape(array.shape), format_shape(wanted[name].shape)
            faults.append(
                Diagnostic("weights/shape", f"{name} is {given} and {graph.name} needs {right}")
            )
    if faults:
        raise AlexcError(*faults)


def _last_reads(graph: Graph) -> dict[str, tuple[str, ...]]:
    """For each layer, the tensors that nothing needs any more once it is computed."""
    last_reader = {source: node.name for node in graph.nodes for source in node.inputs}
    finished: dict[str, list[str]] = {node.name: [] for node in graph.nodes}
    for source, reader in last_reader.items():
        if source not in graph.outputs:
            finished[reader].append(source)
    return {name: tuple(sources) for name, sources in finished.items()}


# ---- the dictionary ------------------------------------------------------------------------------


def _conv(op: Conv, shape: Shape) -> nn.Module:
    if not op.padding.symmetric:
        return PaddedConv2d(shape[0], op)
    return nn.Conv2d(
        shape[0],
        op.out_channels,
        op.kernel_size,
        op.stride,
        (op.padding.top, op.padding.left),
        op.dilation,
        op.groups,
        op.bias,
        device=UNSET,
    )


def _max_pool(op: MaxPool, shape: Shape) -> nn.Module:
    if padding := _native_padding(op, shape):
        return nn.MaxPool2d(op.kernel_size, op.steps, padding)
    pad = nn.ConstantPad2d(sides(op.axes(shape)), float("-inf"))
    return nn.Sequential(pad, nn.MaxPool2d(op.kernel_size, op.steps))


def _avg_pool(op: AvgPool, shape: Shape) -> nn.Module:
    if padding := _native_padding(op, shape):
        return nn.AvgPool2d(
            op.kernel_size, op.steps, padding, count_include_pad=op.count_include_pad
        )
    return DividedAvgPool2d(op, shape)


def _native_padding(op: MaxPool | AvgPool, shape: Shape) -> tuple[int, int] | None:
    """The padding as PyTorch's own pools take it, or None where they can't express it.

    They pad opposite sides alike, by half a window at most. Their ceil mode is not used.
    """
    axes = op.axes(shape)
    if any(a.before != a.after or a.overhang or a.before > a.kernel // 2 for a in axes):
        return None
    return axes[0].before, axes[1].before


def _batch_norm(op: BatchNorm, shape: Shape) -> nn.Module:
    norm = nn.BatchNorm2d if len(shape) == 3 else nn.BatchNorm1d
    return norm(shape[0], op.eps, op.momentum, op.affine, device=UNSET)


# What each op is in PyTorch: from the op and the shape of its (first) input to a module.
LOWERINGS: dict[type[Op], Callable[[Any, Shape], nn.Module]] = {
    Conv: _conv,
    Linear: lambda op, shape: nn.Linear(shape[0], op.out_features, op.bias, device=UNSET),
    MaxPool: _max_pool,
    AvgPool: _avg_pool,
    AdaptiveAvgPool: lambda op, _: nn.AdaptiveAvgPool2d(op.output_size),
    Lrn: lambda op, _: ResponseNorm(op),
    BatchNorm: _batch_norm,
    Relu: lambda *_: nn.ReLU(),
    Tanh: lambda *_: nn.Tanh(),
    Sigmoid: lambda *_: nn.Sigmoid(),
    Softmax: lambda *_: nn.Softmax(dim=1),
    Dropout: lambda op, _: nn.Dropout(op.p),
    Flatten: lambda *_: nn.Flatten(),
    Add: lambda *_: Sum(),
    Concat: lambda *_: ConcatChannels(),
}
