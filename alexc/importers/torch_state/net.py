"""A state dict and the net that it belongs to → a ForeignNet.

A state dict holds weights and no net. The net is either said (`--like SPEC`), or it is
torchvision's AlexNet, which is known by the names and shapes of its sixteen tensors. Its tensors
are found for the layers of the net by their names, else by shape and order; where more than one way
fits, the import is refused rather than guessed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alexc.diagnostics import AlexcError, fault, usage_fault
from alexc.frontend import Net, load_net
from alexc.graph.graph import Node
from alexc.importers.builder import Builder, Value
from alexc.importers.foreign import ForeignLayer, ForeignNet, Origin, Request, Row
from alexc.importers.torch_state.files import Module, StateDict, read_state_dict
from alexc.ops.base import Shape, format_shape
from alexc.ops.conv import Conv
from alexc.ops.dense import Linear
from alexc.ops.pointwise import Dropout, Relu
from alexc.ops.pool import AdaptiveAvgPool, MaxPool
from alexc.ops.structure import Flatten
from alexc.spec.names import clip

# torchvision's alexnet: where its layers with weights stand among its modules.
_CONVOLUTIONS = tuple(f"features.{i}" for i in (0, 3, 6, 8, 10))
_GEOMETRY = ((11, 4, 2), (5, 1, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1))  # kernel, stride, padding
_LINEARS = tuple(f"classifier.{i}" for i in (1, 4, 6))


def read_torch(path: Path, request: Request) -> ForeignNet:
    """The net of a state dict.

    Raises UsageError for a file that can't be read or whose net is not known, AlexcError if it is
    damaged, would run code, or fits the net in no way or in several.
    """
    state = read_state_dict(path)
    if request.like is not None:
        return _like(path, state, load_net(request.like), request.like)
    return _torchvision(path, state, request)


# ---- a net that is said --------------------------------------------------------------------------


def _like(path: Path, state: StateDict, net: Net, base: Path) -> ForeignNet:
    """The state dict as weights of the net of a spec."""
    nodes = [node for node in net.graph.nodes if node.parameters]
    matched = match(path, state, nodes)
    rows = []
    layers = []
    for node in net.graph.nodes:
        module = matched.get(node.name)
        origin = Origin(module.name, module.kind) if module else Origin("", node.op.kind)
        weights = module.tensors if module else {}
        layers.append(ForeignLayer(node.name, node.op, node.inputs, origin, weights, {}))
        if module is not None:
            rows.append(Row(origin, node.name))
    return ForeignNet(
        "PyTorch",
        net.spec.name,
        (path,),
        net.graph,
        tuple(layers),
        tuple(rows),
        extends=base,
        release=state.mapped.release if state.mapped else lambda: None,
    )


def match(path: Path, state: StateDict, nodes: Sequence[Node]) -> dict[str, Module]:
    """The module of each layer that has weights. Raises AlexcError if there is not just one way.

    By names if all of them agree; by order if shapes agree in order and the file keeps it; else by
    shape, layers of the same shapes in the order of their numbers.
    """
    by_name = {module.name.replace(".", "/"): module for module in state.modules}
    wanted = {node.name: _signature(node) for node in nodes}
    if {name: module.signature for name, module in by_name.items()} == wanted:
        return {name: by_name[name] for name in wanted}
    signatures = [module.signature for module in state.modules]
    if state.ordered and signatures == list(wanted.values()):
        return dict(zip(wanted, state.modules, strict=True))
    if sorted(signatures) != sorted(wanted.values()):
        raise _misfit(path, state.modules, nodes)
    found: dict[str, Module] = {}
    for signature in dict.fromkeys(wanted.values()):
        names = [name for name, own in wanted.items() if own == signature]
        modules = [module for module in state.modules if module.signature == signature]
        if len(modules) > 1 and not state.ordered:
            modules = _by_number(path, modules, names)
        found |= dict(zip(names, modules, strict=True))
    return {name: found[name] for name in wanted}


def _signature(node: Node) -> tuple[tuple[str, Shape], ...]:
    return tuple(sorted((local, p.shape) for local, p in node.parameters.items()))


def _by_number(path: Path, modules: Sequence[Module], names: Sequence[str]) -> list[Module]:
    """Modules of one shape in the order of the numbers in their names: nothing else tells."""
    words = {re.sub(r"\d+", "#", module.name) for module in modules}
    if len(words) > 1:
        raise fault(
            "import/ambiguous-weights",
            f"{path}: {', '.join(clip(m.name) for m in modules)} have the same shapes, and nothing "
            f"says which of them is {', '.join(names)}",
            help="rename them to the layers' names, or import a .pth file, which keeps their order",
        )
    return sorted(modules, key=lambda m: [int(number) for number in re.findall(r"\d+", m.name)])


def _misfit(path: Path, modules: Sequence[Module], nodes: Sequence[Node]) -> AlexcError:
    """The first place where file and net part, and how many there are of each."""
    position = 0
    for module, node in zip(modules, nodes, strict=False):
        if module.signature != _signature(node):
            break
        position += 1
    ends = "nothing more"
    theirs = next((_described(m.name, m.signature) for m in modules[position:]), ends)
    ours = next((_described(node.name, _signature(node)) for node in nodes[position:]), ends)
    return fault(
        "import/weight-shape",
        f"{path}: its {len(modules)} modules are not the {len(nodes)} layers with weights of the "
        f"spec: it has {theirs} where the spec has {ours}",
    )


def _described(name: str, signature: Sequence[tuple[str, Shape]]) -> str:
    shapes = ", ".join(f"{local} {format_shape(shape)}" for local, shape in signature)
    return f"{clip(name) or 'a module'} ({shapes})"


# ---- torchvision's AlexNet -----------------------------------------------------------------------


def _torchvision(path: Path, state: StateDict, request: Request) -> ForeignNet:
    """torchvision's `alexnet`, with any number of kernels, units and classes."""
    modules = {module.name: module for module in state.modules}
    if modules.keys() != {*_CONVOLUTIONS, *_LINEARS}:
        raise _unknown_net(path, state.modules)
    builder = Builder("PyTorch", path)
    value = builder.input(request.input_shape or (3, 224, 224))
    for number, (source, geometry) in enumerate(zip(_CONVOLUTIONS, _GEOMETRY, strict=True), 1):
        kernel, stride, padding = geometry
        module = modules[source]
        weight = module.tensors.get("weight")
        if weight is None or weight.ndim != 4 or weight.shape[2:] != (kernel, kernel):
            raise _unknown_net(path, state.modules)
        value = builder.add(
            Origin(module.name, "Conv2d"),
            Conv,
            {
                "out_channels": weight.shape[0],
                "kernel_size": kernel,
                "stride": stride,
                "padding": padding,
                "bias": "bias" in module.tensors,
            },
            [value],
            name=f"conv{number}",
            weights=module.tensors,
        )
        value = _plain(builder, Relu, {}, value, f"relu{number}")
        if number in (1, 2, 5):
            fields = {"kernel_size": 3, "stride": 2}
            value = _plain(builder, MaxPool, fields, value, f"pool{number}")
    value = _plain(builder, AdaptiveAvgPool, {"output_size": 6}, value, "avgpool")
    value = _plain(builder, Flatten, {}, value, "flatten")
    for number, source in zip((6, 7, 8), _LINEARS, strict=True):
        module = modules[source]
        weight = module.tensors.get("weight")
        if weight is None or weight.ndim != 2:
            raise _unknown_net(path, state.modules)
        if number < 8:
            value = _plain(builder, Dropout, {"p": 0.5}, value, f"drop{number}")
        value = builder.add(
            Origin(module.name, "Linear"),
            Linear,
            {"out_features": weight.shape[0], "bias": "bias" in module.tensors},
            [value],
            name=f"fc{number}",
            weights=module.tensors,
        )
        if number < 8:
            value = _plain(builder, Relu, {}, value, f"relu{number}")
    builder.notes.append(
        "The names and shapes of its tensors are those of torchvision.models.alexnet; what a state "
        "dict doesn't hold (strides, padding, pooling, dropout, preprocessing) is torchvision's."
    )
    preprocess = {
        "resize": 256,
        "channels": "rgb",
        "scale": 1 / 255,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }
    standard = builder.input_shape == (3, 224, 224)
    return builder.finish(
        "alexnet",
        [path],
        [value],
        preprocess=preprocess if standard else None,
        release=state.mapped.release if state.mapped else lambda: None,
    )


def _plain(builder: Builder, kind: Any, fields: dict[str, Any], value: Value, name: str) -> Value:
    """A layer that a state dict says nothing of."""
    origin = Origin("", kind.__name__)
    return builder.add(origin, kind, fields, [value], name=name, weights={}, listed=False)


def _unknown_net(path: Path, modules: Sequence[Module]) -> AlexcError:
    listed = "; ".join(_described(m.name, m.signature) for m in modules[:4])
    more = f"; and {len(modules) - 4} more" if len(modules) > 4 else ""
    return usage_fault(
        "import/unknown-net",
        f"{path} holds weights and no net: {listed}{more}",
        help="--like SPEC says which net they are of, for example specs/alexnet.yaml; known by "
        "itself is only torchvision's alexnet",
    )
