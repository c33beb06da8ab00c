"""What others take the shapes and types of the model's tensors to be, without running it.

    python -m alexc.verify.shapes MODEL READER        prints them as JSON

alexc's own shape rules, ONNX's shape inference and TensorRT's parser are three independent readings
of one model. They must agree for every named tensor, and for that no GPU is needed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexc.diagnostics import AlexcError
from alexc.graph.graph import Graph
from alexc.spec.model import Precision
from alexc.verify import python

Shape = tuple[int | None, ...]  # None is the batch

_NUMPY_NAMES: dict[Precision, str] = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


@dataclass(frozen=True, slots=True)
class Tensor:
    """The shape of a tensor and numpy's name of its type."""

    shape: Shape
    dtype: str

    def __str__(self) -> str:
        return "×".join("batch" if size is None else str(size) for size in self.shape) + (
            f" of {self.dtype}"
        )


@dataclass(frozen=True, slots=True)
class Reading:
    """One reader's view of a model, or why it has none."""

    tensors: Mapping[str, Tensor]
    fault: str | None = None


def stated(graph: Graph) -> dict[str, Tensor]:
    """The named tensors as alexc's own rules have them; outputs of the graph are float32."""
    return {
        node.name: Tensor(
            (None, *node.shape),
            "float32"
            if node.name in graph.outputs
            else _NUMPY_NAMES[graph.precision_of(node.name)],
        )
        for node in graph.nodes
    }


def inferred(model: Path) -> Reading:
    """ONNX's shape inference, with what the model states of its own tensors taken away."""
    import onnx
    from onnx import shape_inference

    bare = onnx.load(str(model), load_external_data=False)
    del bare.graph.value_info[:]
    for output in bare.graph.output:
        output.type.tensor_type.ClearField("shape")
    # Not strict: where one layer does not fit the next, the tensors before it are still told.
    known = shape_inference.infer_shapes(bare, data_prop=True).graph
    return Reading({value.name: _typed(value) for value in (*known.value_info, *known.output)})


def _typed(value: Any) -> Tensor:
    from onnx import helper

    tensor = value.type.tensor_type
    sizes = tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
    return Tensor(sizes, str(helper.tensor_dtype_to_np_dtype(tensor.elem_type)))


def parsed(model: Path, flavour: str) -> Reading:
    """TensorRT's network."""
    from alexc.engines.tensorrt import parse

    try:
        tensors = parse(model, flavour)
    except AlexcError as error:
        return Reading({}, error.diagnostics[0].message)
    return Reading({name: Tensor(each.shape, each.dtype) for name, each in tensors.items()})


# Every reader by name, with the package that it needs.
READERS: dict[str, tuple[str, Callable[[Path], Reading]]] = {
    "onnx": ("onnx", inferred),
    "tensorrt_rtx": ("tensorrt_rtx", lambda model: parsed(model, "tensorrt_rtx")),
    "tensorrt": ("tensorrt", lambda model: parsed(model, "tensorrt")),
}


class Reader:
    """A reader in a process of its own, started at once. Whoever starts it ends it."""

    def __init__(self, name: str, model: Path) -> None:
        self.name = name
        self._process = subprocess.Popen(
            python.command("alexc.verify.shapes", str(model.absolute()), name),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=python.environment(),
        )

    def read(self, patience: float) -> Reading:
        """What it found, or that it crashed, or took longer than `patience` seconds."""
        try:
            said, _ = self._process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            return Reading({}, f"no answer for {patience:g} s")
        if self._process.returncode != 0:
            return Reading({}, f"exit status {self._process.returncode}")
        message = json.loads(said.splitlines()[-1])
        tensors = {
            name: Tensor(tuple(shape), dtype) for name, (shape, dtype) in message["tensors"].items()
        }
        return Reading(tensors, message["fault"])

    def end(self) -> None:
        """End the process, if it has not ended."""
        self._process.kill()
        self._process.communicate()


def main() -> int:
    """Print what the reader that the command line names finds."""
    _, read = READERS[sys.argv[2]]
    reading = read(Path(sys.argv[1]))
    tensors = {name: (tensor.shape, tensor.dtype) for name, tensor in reading.tensors.items()}
    sys.stdout.write(json.dumps({"tensors": tensors, "fault": reading.fault}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
