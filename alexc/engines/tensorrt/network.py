"""An ONNX model as TensorRT understands it: the parsed network and its tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexc.diagnostics import AlexcError, Diagnostic, usage_fault
from alexc.engines.model import load as load_model
from alexc.engines.model import model_input
from alexc.engines.tensorrt.flavours import FLAVOURS
from alexc.engines.tensorrt.guard import undisturbed
from alexc.engines.tensorrt.library import Library
from alexc.engines.tensorrt.words import LIMITS, TYPES, is_noise, reason
from alexc_runtime.engines.base import import_obstacle


@dataclass(frozen=True, slots=True)
class ParsedTensor:
    """A tensor of the network as TensorRT understands the ONNX model.

    `shape` has None where the size is open, which is the batch; `dtype` is numpy's name.
    """

    shape: tuple[int | None, ...]
    dtype: str


def parse(model: Path, flavour: str = "tensorrt_rtx") -> dict[str, ParsedTensor]:
    """The tensors of the model as TensorRT understands them, without building anything.

    Raises UsageError if the library is missing, and AlexcError as `build_plan` does.
    """
    obstacle = import_obstacle(flavour, FLAVOURS[flavour].package)
    if obstacle is not None:
        raise usage_fault("engine/not-installed", obstacle)
    return _tensors(model, flavour)


@undisturbed()
def _tensors(model: Path, flavour: str) -> dict[str, ParsedTensor]:
    return Network.parsed(Library(flavour), model).tensors()


@dataclass(slots=True)
class Network:
    """A parsed network. The parser is held because the weights are its own."""

    owner: Library
    network: Any
    parser: Any
    input_name: str
    input_shape: tuple[int, ...]

    @classmethod
    def parsed(cls, owner: Library, model: Path) -> Network:
        """The network of the model. Raises AlexcError that names the node TensorRT can't take."""
        input = model_input(model, load_model(model))
        # Since TensorRT 11 there are no other networks, and the flag may go.
        flags = owner.library.NetworkDefinitionCreationFlag.__members__
        flag = flags.get("STRONGLY_TYPED")
        network = owner.builder.create_network(0 if flag is None else 1 << int(flag))
        parser = owner.library.OnnxParser(network, owner.logger)
        # By path: the weights are looked for beside the file, and mapped rather than copied.
        if not parser.parse_from_file(str(model)) or parser.num_errors:
            raise _parse_fault(owner, model, parser)
        return cls(owner, network, parser, input.name, input.shape)

    def tensors(self) -> dict[str, ParsedTensor]:
        """Every tensor of the network by name: the inputs and what the layers give."""
        return {tensor.name: _parsed(tensor) for tensor in self._tensors()}

    def _tensors(self) -> Iterator[Any]:
        for index in range(self.network.num_inputs):
            yield self.network.get_input(index)
        for index in range(self.network.num_layers):
            layer = self.network.get_layer(index)
            for output in range(layer.num_outputs):
                yield layer.get_output(output)


def _parse_fault(owner: Library, model: Path, parser: Any) -> AlexcError:
    faults = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        node, operator = error.node_name(), error.node_operator()
        where = f"node {node} ({operator}) of {model}" if operator else str(model)
        details = [line for line in error.desc().splitlines() if not is_noise(line)]
        telling = [line for line in details if not line.startswith("Invalid Node")]
        why = reason(telling[0]) if telling else "it gives no reason"
        # Of weights that can't be read the reason is in the log alone.
        notes = [] if operator else [reason(line) for line in owner.logger.errors[:3]]
        faults.append(
            Diagnostic(
                "engine/parse",
                f"{owner.name} can't take {where}: {why}",
                notes=tuple(notes),
                help=LIMITS.get(operator),
            )
        )
    return AlexcError(*faults) if faults else owner.fault("engine/parse", f"{model}: no reason")


def _parsed(tensor: Any) -> ParsedTensor:
    shape = tuple(None if size < 0 else int(size) for size in tensor.shape)
    return ParsedTensor(shape, TYPES.get(tensor.dtype.name, tensor.dtype.name.lower()))
