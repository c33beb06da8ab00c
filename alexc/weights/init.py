"""The first weights of a net: drawn once, in numpy, from the spec's `init` and a seed.

Each tensor has random streams of its own, keyed by the seed and its name. So a layer's draw is the
same in every net that has it: adding, removing or renaming another layer, or putting the layers in
another order, changes nothing in it, and threads may draw in any order.

What a recipe means is in `_recipe`. Batch norm starts as the identity (weight 1, bias 0, running
mean 0, running variance 1) whatever the net's recipe is; only the layer's own `init` changes that.

Names of the schemes, for a tensor with `fan_in` terms in the sum of one output, and `fan_out` sums
that one input is a term of (both within a group):
    normal            N(0, value²)
    truncated_normal  N(0, value²) with what lies beyond two deviations drawn again, as TensorFlow
                      does; `value` is the deviation before the cut, which leaves 0.88 of it
    uniform           U(−value, value)
    constant          value
    kaiming_normal    N(0, 2 / fan_in)                            He et al. 2015, eq. 10
    kaiming_uniform   U(±√(6 / fan_in))                           the same variance
    xavier_normal     N(0, 2 / (fan_in + fan_out))                Glorot and Bengio 2010, eq. 12
    xavier_uniform    U(±√(6 / (fan_in + fan_out)))               Glorot and Bengio 2010, eq. 16
A bias with one of the last four takes the fans of its layer's weight.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from alexc.diagnostics import AlexcError, Diagnostic
from alexc.graph.graph import Graph, Node
from alexc.ops.conv import Conv
from alexc.ops.dense import Linear
from alexc.ops.norm import BatchNorm
from alexc.spec.model import DistributionModel, InitSpec, LayerInit, Scheme

# A large tensor is drawn in blocks of this many values, each from a stream of its own, so that two
# threads can share the one tensor that holds most of AlexNet. It is part of what a seed means.
_BLOCK = 2**22
# Values are drawn and scaled this many at a time, while they are in the cache.
_CHUNK = 2**15
# Ten deviations of this are still far from the largest float32, 3.4e38.
_LARGEST = 1e37

_BATCH_NORM = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}


def draw(
    graph: Graph, default: InitSpec, layers: Mapping[str, LayerInit], seed: int
) -> dict[str, NDArray[np.float32]]:
    """Every tensor of the graph's weights, in the order of `graph.parameters`.

    `default` is the net's init, `layers` what single layers say of their own; `seed` is 0 or more.
    The same arguments give the same bits on every machine with the same release of numpy (whose
    samplers may change from one release to the next, though they have not since 1.17).

    Raises AlexcError for what can't be drawn: init/no-such-tensor, init/no-fan, init/too-large.
    """
    if seed < 0:
        raise ValueError("a seed is 0 or more")
    distributions = resolve(graph, default, layers)
    weights = {
        name: np.empty(parameter.shape, np.float32) for name, parameter in graph.parameters.items()
    }

    def fill(job: tuple[str, int]) -> None:
        name, block = job
        flat = weights[name].reshape(-1)[block * _BLOCK : (block + 1) * _BLOCK]
        _fill(flat, distributions[name], _stream(seed, name, block))

    jobs = [
        (name, block)
        for name, array in weights.items()
        for block in range(-(-array.size // _BLOCK))
    ]
    jobs.sort(key=lambda job: weights[job[0]].size, reverse=True)  # the long ones first
    with ThreadPoolExecutor(max_workers=min(2, os.cpu_count() or 1)) as threads:
        list(threads.map(fill, jobs))
    return weights


def resolve(
    graph: Graph, default: InitSpec, layers: Mapping[str, LayerInit]
) -> dict[str, DistributionModel]:
    """What each tensor is drawn from, with every scheme by shape worked out to a number.

    A layer's own word comes first, then the net's `weight` and `bias`, then its recipe.
    Raises AlexcError, as `draw` does.
    """
    recipe = _recipe(default, graph)
    faults = list(_unused(graph, layers))
    resolved: dict[str, DistributionModel] = {}
    for node in graph.nodes:
        own = layers.get(node.name, LayerInit())
        for local, whole in node.parameter_names().items():
            chosen: DistributionModel | None = None
            if local in ("weight", "bias"):
                chosen = getattr(own, local)
                if chosen is None and not isinstance(node.op, BatchNorm):
                    chosen = getattr(default, local)
            chosen = chosen or recipe[whole]
            try:
                resolved[whole] = _by_numbers(chosen, node, whole)
            except AlexcError as error:
                faults += error.diagnostics
    if faults:
        raise AlexcError(*faults)
    return resolved


# ---- recipes -------------------------------------------------------------------------------------


def _recipe(default: InitSpec, graph: Graph) -> dict[str, DistributionModel]:
    """The distribution of every tensor by the recipe's name.

    paper    Krizhevsky, Sutskever and Hinton 2012, section 5: weights N(0, 0.01²); biases 1 in the
             second, fourth and fifth convolution and in the linear layers but the last, else 0.
             The paper says it by position, and so it is done here, in whatever net it is asked for.
    caffe    Caffe's bvlc_alexnet: biases 0.1 at those places, and N(0, 0.005²) for the weights of
             the linear layers but the last.
    kaiming  weights kaiming_normal, biases 0.
    xavier   weights xavier_uniform, biases 0.
    torch    PyTorch's own: weights and biases U(±1/√fan_in).
    """
    convs = [node.name for node in graph.nodes if isinstance(node.op, Conv)]
    linears = [node.name for node in graph.nodes if isinstance(node.op, Linear)]
    hidden = set(linears[:-1])
    raised = hidden | {name for number, name in enumerate(convs, 1) if number in (2, 4, 5)}

    def weight(node: Node) -> DistributionModel:
        match default.recipe:
            case "paper":
                return _of("normal", 0.01)
            case "caffe":
                return _of("normal", 0.005 if node.name in hidden else 0.01)
            case "kaiming":
                return _of("kaiming_normal")
            case "xavier":
                return _of("xavier_uniform")
            case "torch":
                return _of("uniform", 1 / math.sqrt(_fans(node)[0]))

    def bias(node: Node) -> DistributionModel:
        match default.recipe:
            case "paper":
                return _of("constant", 1.0 if node.name in raised else 0.0)
            case "caffe":
                return _of("constant", 0.1 if node.name in raised else 0.0)
            case "torch":
                return _of("uniform", 1 / math.sqrt(_fans(node)[0]))
            case _:
                return _of("constant", 0.0)

    recipe = {}
    for node in graph.nodes:
        for local, whole in node.parameter_names().items():
            if isinstance(node.op, BatchNorm):
                recipe[whole] = _of("constant", _BATCH_NORM[local])
            else:
                recipe[whole] = {"weight": weight, "bias": bias}[local](node)
    return recipe


def _of(scheme: Scheme, value: float | None = None) -> DistributionModel:
    return DistributionModel(scheme=scheme, value=value)


def _by_numbers(distribution: DistributionModel, node: Node, whole: str) -> DistributionModel:
    """The same distribution as one of normal, truncated_normal, uniform and constant."""
    scheme, value = distribution.scheme, distribution.value
    if value is not None:
        if abs(value) > _LARGEST:
            raise AlexcError(
                Diagnostic(
                    "init/too-large",
                    f"{whole}: {scheme} {value:g} is more than float32 weights can hold",
                    help=f"the limit is {_LARGEST:g}; usual values are below 1",
                )
            )
        return distribution
    if isinstance(node.op, BatchNorm):
        raise AlexcError(
            Diagnostic(
                "init/no-fan",
                f"{whole}: {scheme} goes by the number of inputs, and batch norm sums none",
                help="give it a number, for example 0 or 1",
            )
        )
    fan_in, fan_out = _fans(node)
    by_shape: dict[Scheme, DistributionModel] = {
        "kaiming_normal": _of("normal", math.sqrt(2 / fan_in)),
        "kaiming_uniform": _of("uniform", math.sqrt(6 / fan_in)),
        "xavier_normal": _of("normal", math.sqrt(2 / (fan_in + fan_out))),
        "xavier_uniform": _of("uniform", math.sqrt(6 / (fan_in + fan_out))),
    }
    return by_shape[scheme]


def _fans(node: Node) -> tuple[int, int]:
    """Terms in the sum of one output, and sums that one input is a term of.

    The weight is (out, in / groups, *kernel), and an input is seen by the out / groups outputs of
    its own group alone. (PyTorch's xavier counts all of `out` even where there are groups.)
    """
    outputs, inputs, *kernel = node.parameters["weight"].shape
    groups = node.op.groups if isinstance(node.op, Conv) else 1
    taps = math.prod(kernel)
    return inputs * taps, outputs // groups * taps


def _unused(graph: Graph, layers: Mapping[str, LayerInit]) -> Iterator[Diagnostic]:
    """A fault for each init of a tensor that no layer has: it would be passed over in silence."""
    for name, own in layers.items():
        node = graph.by_name.get(name)
        for local in ("weight", "bias"):
            if getattr(own, local) is None or (node and local in node.parameters):
                continue
            has = ", ".join(node.parameters) if node and node.parameters else "no weights"
            what = f"the {node.op.kind} {name} has {has}" if node else f"there is no layer {name}"
            yield Diagnostic(
                "init/no-such-tensor",
                f"{name}.{local} is given an init, and {what}",
                help=f"remove `{local}` from the init of {name}",
            )


# ---- drawing -------------------------------------------------------------------------------------


def _stream(seed: int, name: str, block: int) -> np.random.Generator:
    """The random stream of one block of one tensor.

    The key is a digest of the three, so streams are independent without counting tensors. SFC64 is
    numpy's fastest generator; a seed of 256 bits is spread over its state by SeedSequence.
    """
    key = hashlib.sha256(f"alexc weights 1\0{seed}\0{name}\0{block}".encode()).digest()
    return np.random.Generator(np.random.SFC64(int.from_bytes(key, "little")))


def _fill(
    flat: NDArray[np.float32], distribution: DistributionModel, stream: np.random.Generator
) -> None:
    """Draw every value of `flat`, from a distribution given by numbers."""
    value = np.float32(distribution.value or 0.0)
    if distribution.scheme == "constant":
        flat[:] = value
        return
    for first in range(0, flat.size, _CHUNK):
        chunk = flat[first : first + _CHUNK]
        if distribution.scheme == "uniform":
            stream.random(dtype=np.float32, out=chunk)  # [0, 1)
            chunk -= np.float32(0.5)
            chunk *= 2 * value
            continue
        stream.standard_normal(dtype=np.float32, out=chunk)
        if distribution.scheme == "truncated_normal":
            (beyond,) = np.nonzero(np.abs(chunk) > 2)
            while beyond.size:
                chunk[beyond] = stream.standard_normal(beyond.size, dtype=np.float32)
                beyond = beyond[np.abs(chunk[beyond]) > 2]
        chunk *= value
