"""A model's weights as a plan holds them: those that its layers multiply by, and random ones.

The parser makes a factor and a summand of each channel of a batch norm's weights, in float32, and
the plan has those alone; TensorRT puts the bias of a convolution before it into the summand. All
other weights a plan has as the model gives them, in some order and type; but none of a layer that
no output depends on, as the last where the one before is the output.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from alexc.engines.model import load as load_model
from alexc_runtime.stripped import BatchNorm

if TYPE_CHECKING:
    import onnx

_CHUNK = 1 << 22  # numbers that are drawn at a time

# What a batch norm's scale and shift are made of, by the names of its fields.
_OF_BATCH_NORM = ("running_mean", "running_var", "weight", "bias", "before")


@dataclass(frozen=True, slots=True)
class Weight:
    """A tensor of weights that the model has in a file beside it."""

    name: str
    file: str
    offset: int
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many numbers it has."""
        return int(np.prod(self.shape))

    def values(self, folder: Path) -> NDArray[np.float32]:
        """The numbers, mapped from the file."""
        flat: NDArray[Any] = np.memmap(folder / self.file, "<f4", "r", self.offset, (self.count,))
        return flat.reshape(self.shape)


@dataclass(frozen=True)
class Weights:
    """A model's weights by name, which of them an output needs, and those of batch norms."""

    tensors: dict[str, Weight]
    needed: Set[str]
    batch_norms: tuple[BatchNorm, ...]

    def in_plan(self, folder: Path) -> dict[str, NDArray[np.float32]]:
        """What a plan is made of, by name, largest first, the weights lying in `folder`."""
        values = {name: self.tensors[name].values(folder) for name in self.needed}
        held = dict(values)
        for norm in self.batch_norms:
            held |= norm.tensors(values)
            for name in (getattr(norm, field) for field in _OF_BATCH_NORM):
                if name is not None:
                    held.pop(name, None)
        return dict(sorted(held.items(), key=lambda item: (-item[1].size, item[0])))


def weights_of(model: Path) -> Weights:
    """The weights of a model. Raises what `engines.model.load` raises."""
    graph = load_model(model).graph
    initializers = {each.name for each in graph.initializer}
    tensors = {each.name: _weight(each) for each in graph.initializer if each.external_data}
    outputs = {output.name for output in graph.output}
    nodes = _needed(graph.node, outputs)
    norms = tuple(
        _batch_norm(node, tensors, _bias_of(node.input[0], nodes, outputs))
        for node in nodes
        # Weights that are cast are none of the parser's: it leaves all of them to layers.
        if node.op_type == "BatchNormalization" and initializers.issuperset(node.input[1:])
    )
    return Weights(tensors, tensors.keys() & {name for node in nodes for name in node.input}, norms)


def write_random(model: Path, folder: Path, seed: int = 0) -> Path:
    """The model in another folder, with random weights. Returns its path.

    They are between −½ and ½; but vectors, and what batch norms come to, are numbers that are all
    written in eight characters and whose signs are those of any other seed. For TensorRT writes the
    first eight of a vector into a comment of the CUDA source that it generates, `bn6_scale_w
    Float-{-0.353542, 0.152502, …}`, and two plans whose comments differ in length differ in more.
    """
    weights = weights_of(model)
    ends: dict[str, int] = {}
    for weight in weights.tensors.values():
        end = weight.offset + 4 * weight.count
        ends[weight.file] = max(end, ends.get(weight.file, 0))
    generator = np.random.default_rng(seed)
    for name, end in ends.items():
        with (folder / name).open("wb") as file:
            file.writelines(_random(generator, -(-end // 4)))
    vectors = [weight for weight in weights.tensors.values() if len(weight.shape) == 1]
    values = {weight.name: _of_eight_characters(generator, weight.count) for weight in vectors}
    for norm in weights.batch_norms:
        values |= _coming_to(norm, values)
    for weight in vectors:
        with (folder / weight.file).open("r+b") as file:
            file.seek(weight.offset)
            file.write(values[weight.name].astype("<f4").tobytes())
    (folder / model.name).write_bytes(model.read_bytes())
    return folder / model.name


def _random(generator: np.random.Generator, count: int) -> Iterator[bytes]:
    for start in range(0, count, _CHUNK):
        some = generator.random(min(_CHUNK, count - start), np.float32)
        yield (some - np.float32(0.5)).tobytes()


def _of_eight_characters(generator: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Six digits none of which is dropped, 0.100001 to 0.999999, every other number negative."""
    digits = 10 * generator.integers(10_000, 100_000, count) + generator.integers(1, 10, count)
    signs: NDArray[np.float64] = np.where(np.arange(count) % 2, -1e-6, 1e-6)
    return signs * digits


def _coming_to(
    norm: BatchNorm, values: dict[str, NDArray[np.float64]]
) -> dict[str, NDArray[np.float64]]:
    """Weights of which the scale and the shift are what was drawn as γ and β, or as what is there.

    γ = scale · √(variance + eps) and β = shift + (mean − before) · scale; where there is no γ, the
    variance is 1 / scale² − eps, and where there is no β, the mean before − shift / scale.
    """
    mean, variance = values[norm.running_mean], np.abs(values[norm.running_var])
    made = {norm.running_var: variance, norm.running_mean: mean}
    if norm.weight is None:
        scale = variance
        made[norm.running_var] = 1 / scale**2 - norm.eps
    else:
        scale = values[norm.weight]
        made[norm.weight] = scale * np.sqrt(variance + norm.eps)
    before = np.zeros_like(mean) if norm.before is None else values[norm.before]
    if norm.bias is None:
        made[norm.running_mean] = before - mean / scale
    else:
        made[norm.bias] = values[norm.bias] + (mean - before) * scale
    return made


def _weight(tensor: onnx.TensorProto) -> Weight:
    said = {entry.key: entry.value for entry in tensor.external_data}
    return Weight(tensor.name, said["location"], int(said.get("offset", 0)), tuple(tensor.dims))


def _needed(nodes: Sequence[onnx.NodeProto], outputs: Set[str]) -> list[onnx.NodeProto]:
    """The nodes that an output depends on, of nodes in the order of the data."""
    wanted, found = set(outputs), []
    for node in reversed(nodes):
        if not wanted.isdisjoint(node.output):
            wanted.update(node.input)
            found.append(node)
    return found[::-1]


def _batch_norm(
    node: onnx.NodeProto, tensors: Mapping[str, Weight], before: str | None
) -> BatchNorm:
    _, weight, bias, mean, variance = node.input
    (eps,) = (each.f for each in node.attribute if each.name == "epsilon")
    # What lies in the model and in no file is the one that stands for γ, or the zero for β.
    of_weight, of_bias, of_before = (
        name if name in tensors else None for name in (weight, bias, before)
    )
    return BatchNorm(node.output[0], mean, variance, of_weight, of_bias, of_before, eps)


def _bias_of(tensor: str, nodes: Sequence[onnx.NodeProto], outputs: Set[str]) -> str | None:
    """The bias of the convolution that gives this tensor, if nothing else reads it."""
    readers = [node for node in nodes if tensor in node.input]
    if len(readers) > 1 or tensor in outputs:
        return None
    inputs = [node.input for node in nodes if node.op_type == "Conv" and tensor in node.output]
    return inputs[0][2] if inputs and len(inputs[0]) > 2 else None
