"""The layers of a plan: those that were parsed, or those of the built engine, fusions and all."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from alexc.engines.tensorrt.network import Network

FORMAT = "alexc-plan-layers"

Source = Literal["network", "engine"]

SAID: dict[Source, str] = {
    "network": "the layers that TensorRT parsed, before it fused any: "
    "without a GPU the built engine can't be asked for its own",
    "engine": "the layers of the built engine, as its inspector lists them",
}


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of TensorRT. `nodes` are the model's that it computes, in its own words."""

    name: str
    kind: str
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Layers:
    """All layers, in the order in which they run, and which of the two they are."""

    source: Source
    layers: tuple[Layer, ...]

    def to_json(self) -> dict[str, Any]:
        """As it is kept beside a plan in the cache."""
        return {"source": self.source, "layers": [asdict(layer) for layer in self.layers]}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Layers:
        """What `to_json` gave. Raises KeyError, TypeError or ValueError if it is something else."""
        source: Source
        (source,) = (known for known in SAID if known == content["source"])
        return cls(
            source,
            tuple(
                Layer(str(layer["name"]), str(layer["kind"]), tuple(map(str, layer["nodes"])))
                for layer in content["layers"]
            ),
        )


def of_network(network: Network) -> Layers:
    """The parsed layers; each is named after the model's node that it came from."""
    layers = (network.network.get_layer(index) for index in range(network.network.num_layers))
    return Layers(
        "network",
        tuple(
            Layer(layer.name, layer.type.name.lower(), tuple(_metadata(layer.metadata)))
            for layer in layers
            if layer.type.name != "CONSTANT"  # weights, which compute nothing
        ),
    )


def of_engine(library: Any, logger: Any, plan: Path) -> Layers | None:
    """The layers of the built engine, or None if it does not tell. It takes a GPU."""
    try:
        runtime = library.Runtime(logger)
        # A plan for any version of the library brings the code that loads it; it is our own.
        runtime.engine_host_code_allowed = True
        engine = runtime.deserialize_cuda_engine(plan.read_bytes())
        inspector = engine.create_engine_inspector()
        text = inspector.get_engine_information(library.LayerInformationFormat.JSON)
        return Layers("engine", tuple(map(_inspected, json.loads(text)["Layers"])))
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError):
        # The C++ side gave nothing: the plan may be for other GPUs than the one that is here.
        return None


def _inspected(entry: str | Mapping[str, Any]) -> Layer:
    """A layer as the inspector writes it: an object, or its name alone."""
    if isinstance(entry, str):
        return Layer(entry, "", tuple(_parts(entry)))
    name = str(entry["Name"])
    nodes = tuple(_metadata(str(entry.get("Metadata", "")))) or tuple(_parts(name))
    return Layer(name, str(entry.get("LayerType", "")).lower(), nodes)


def _metadata(text: str) -> Iterable[str]:
    """The nodes in what the parser writes of a layer: `[ONNX Layer: conv1]`, one or more."""
    return dict.fromkeys(re.findall(r"\[ONNX Layer: ([^\]]*)\]", text))


def _parts(name: str) -> Iterable[str]:
    """The nodes in the name of a fused layer: `conv1 + PWN(relu1)`."""
    inner = re.findall(r"[\w./:-]+", name.replace(" + ", " ").replace("||", " "))
    return dict.fromkeys(part for part in inner if part != "PWN")


def spec_layers(layer: Layer, known: Sequence[str]) -> list[str]:
    """The spec's layers that a layer computes, in the spec's order.

    A layer of the spec may be several nodes of the model: those of `norm1` are `norm1`, and
    `norm1.` with something after it.
    """
    names = set(known)
    found = set()
    for node in layer.nodes or (layer.name,):
        stem = node
        while stem not in names and "." in stem:
            stem = stem.rpartition(".")[0]
        found.add(stem)
    return [name for name in known if name in found]


def described(
    layers: Layers, engine: str, library: str, precision: str, known: Sequence[str]
) -> dict[str, Any]:
    """What is written beside the plan, and shown by `alexc inspect`. `known` are the spec's."""
    return {
        "format": FORMAT,
        "version": 1,
        "engine": engine,
        "library": library,
        "precision": precision,
        "source": layers.source,
        "said": SAID[layers.source],
        "layers": [
            {
                "name": layer.name,
                "type": layer.kind,
                "spec": " + ".join(spec_layers(layer, known)) or None,
            }
            for layer in layers.layers
        ],
    }


def layers_file(plan: str) -> str:
    """Where a bundle has what is known of the layers of the plan at this path."""
    return plan.removesuffix(".plan") + ".layers.json"
