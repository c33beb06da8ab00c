"""An ONNX model → a ForeignNet, with its weights.

The layers are worked out back from the outputs (`plan`) and translated in the order of the model.
Their names are the model's where it has any: alexc writes a layer's own name to its node, PyTorch
the module's to its weights and, as a path, to its nodes. Names that an exporter made up
(`Conv_0`, `node_conv2d`) give way to conventional ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from alexc.importers.builder import Builder, Value
from alexc.importers.foreign import ForeignNet, Request
from alexc.importers.naming import guess
from alexc.importers.onnx_model.evaluation import NotConstantError
from alexc.importers.onnx_model.model import Model, read_model
from alexc.importers.onnx_model.node import Node
from alexc.importers.onnx_model.operations import OPERATIONS
from alexc.importers.onnx_model.plan import Planned, plan
from alexc.importers.onnx_model.step import Refused, Step
from alexc.importers.proto import Message
from alexc.ops.base import Shape
from alexc.spec.names import clip

OLDEST_OPSET = 7
# What exporters call a graph that has no name.
_MADE_UP_GRAPHS = ("", "main", "main_graph", "torch_jit", "torch-jit-export", "graph")
_FLOATS = (1, 10, 11, 16)


def read_onnx(path: Path, request: Request) -> ForeignNet:
    """The net of an ONNX model from opset 7 on.

    Raises UsageError for a file that can't be read, AlexcError with everything in it that can't be
    said in a spec.
    """
    return _Reader(path, request).read()


class _Reader:
    def __init__(self, path: Path, request: Request) -> None:
        self.request = request
        self.model = read_model(path)
        self.builder = Builder("ONNX", path)

    def read(self) -> ForeignNet:
        model, builder = self.model, self.builder
        if model.opset < OLDEST_OPSET:
            builder.stop(
                "import/too-old",
                f"its ops are those of opset {model.opset}, and they are read from "
                f"{OLDEST_OPSET} on",
                help="onnx.version_converter brings them up",
            )
        outputs = self._outputs()
        planned = plan(model, outputs)
        source = self._input(planned)
        values: dict[str, Value | None] = {source: builder.input(self._input_shape(source))}
        assert builder.input_shape is not None
        model.shapes[source] = builder.input_shape
        for node in model.nodes:
            if (found := planned.get(node.index)) is not None:
                value = self._translate(found, values)
                values[node.output] = value
                if value is not None and value.shape is not None:
                    model.shapes[node.output] = value.shape
        return builder.finish(
            None if model.name in _MADE_UP_GRAPHS else model.name,
            [model.path, *(mapped.path for mapped in model.tensors.external.values())],
            [values.get(name) for name in outputs],
            release=model.release,
        )

    # ---- what goes in and comes out --------------------------------------------------------------

    def _outputs(self) -> list[str]:
        name = self.request.partial
        if name is None:
            return self.model.outputs
        for node in reversed(self.model.nodes):
            if name in (node.name, *node.outputs) and node.output:
                return [node.output]
        help = guess(name, (n.name or n.output for n in self.model.nodes))
        return self.builder.stop("import/partial", f"there is no node {clip(name)}", help=help)

    def _input(self, planned: dict[int, Planned]) -> str:
        """The one input that layers read."""
        declared = {one.text("name") for one in self.model.inputs} - self.model.initializers.keys()
        read = dict.fromkeys(
            name for one in planned.values() for name in one.sources if name in declared
        )
        if len(read) != 1:
            names = ", ".join(map(clip, read)) or "none"
            self.builder.stop(
                "import/inputs", f"the net reads so many inputs: {names}; and a spec has one"
            )
        return next(iter(read))

    def _input_shape(self, name: str) -> Shape:
        message = next(one for one in self.model.inputs if one.text("name") == name)
        tensor = message.message("type").message("tensor_type")
        dims = tensor.message("shape").messages("dim")
        if tensor.integer("elem_type", 1) not in _FLOATS:
            self.builder.stop("import/not-an-image", f"the input {clip(name)} is not of floats")
        if dims and _size(dims[0]) is not None:
            self.model.batch = _size(dims[0])
        if self.request.input_shape is not None:
            return self.request.input_shape
        sizes = [_size(dim) for dim in dims]
        channels, height, width = sizes[1:] if len(sizes) == 4 else (None, None, None)
        if channels is None or height is None or width is None:
            shown = "×".join(_shown(dim) for dim in dims) or "of no known shape"
            self.builder.stop(
                "import/not-an-image" if len(dims) not in (0, 4) else "import/input-size",
                f"the input {clip(name)} is {shown}, and a spec's is batch×channels×height×width",
                help="--input CHANNELS,HEIGHT,WIDTH says what it is",
            )
        return (channels, height, width)

    # ---- translation -----------------------------------------------------------------------------

    def _translate(self, planned: Planned, values: dict[str, Value | None]) -> Value | None:
        node = planned.main
        origin = planned.node.origin
        missing = [name for name in planned.sources if name not in values]
        if missing:
            self.builder.fault(
                "import/unknown-tensor",
                f"{origin} reads {clip(missing[0])}, which no node before it makes",
            )
            return None
        operation = OPERATIONS.get(node.op) if node.domain in ("", "ai.onnx") else None
        if operation is None:
            self._refuse(planned.node)
            return None
        inputs = [values[name] for name in planned.sources]
        name = next(filter(None, given_names(self.model, planned)), "")
        try:
            return operation(Step(self.builder, self.model, planned, inputs, name))
        except Refused as problem:
            self.builder.fault("import/unsupported-field", f"{origin} ({node.op}): {problem}")
        except NotConstantError:
            message = f"{origin} ({node.op}): what it needs to know is computed while the net runs"
            self.builder.fault("import/unsupported-field", message)
        return None

    def _refuse(self, node: Node) -> None:
        """Say that a spec has no such layer; with the first fault, what comes whole before it."""
        help = None
        if not self.builder.faults and self.request.partial is None:
            last = next((row for row in reversed(self.builder.rows) if row.layer), None)
            if last is not None:
                help = f"--partial {clip(last.origin.name)} imports the net up to there"
        op = f"{clip(node.domain)}.{clip(node.op)}" if node.domain else clip(node.op)
        message = f"{node.origin}: a spec can't say ONNX's {op or 'nothing'}"
        self.builder.fault("import/unsupported-layer", message, help=help)


# ---- names ---------------------------------------------------------------------------------------


def given_names(model: Model, planned: Planned) -> Iterator[str]:
    """The model's names for a layer, the likeliest first; none that an exporter made up."""
    for node in dict.fromkeys((planned.node, planned.main)):
        if node.name == node.output and not node.name.isdecimal():
            yield node.name  # as alexc writes it
    if planned.main.op in ("Conv", "Gemm", "MatMul", "BatchNormalization"):
        for name in planned.main.inputs[1:]:
            owner, dot, parameter = name.rpartition(".")
            if dot and parameter in ("weight", "bias") and "::" not in name:
                yield owner.replace(".", "/")
    for node in dict.fromkeys((planned.node, planned.main)):
        yield _of_path(node.name, node.op)
    if model.producer != "pytorch":
        yield _of_path(planned.node.output, planned.node.op)


def _of_path(name: str, op: str) -> str:
    """The module in a node's path: `features/0` for `/features/features.0/Conv`."""
    if name.startswith(("node_", "onnx::")) or name.isdecimal() or _made_up(name, op):
        return ""
    steps: list[str] = []
    for step in filter(None, name.split("/")):
        if steps and step.startswith(f"{steps[-1]}."):
            step = step.removeprefix(f"{steps[-1]}.")  # each step repeats the one before
        steps.append(step)
    if len(steps) > 1 and (_made_up(steps[-1], op) or steps[-1] == op):
        steps.pop()
    elif steps == [op] or name.endswith("_output_0"):
        return ""
    return "/".join(step.replace(".", "/") for step in steps)


def _made_up(name: str, op: str) -> bool:
    """Whether it is the op with a number, as exporters call nodes that have no name."""
    return re.fullmatch(rf"{re.escape(op)}(_\d+)?|\w*_output_\d+|n\d+", name) is not None


def _size(dim: Message) -> int | None:
    value = dim.integer("dim_value", 0)
    return value if value > 0 else None


def _shown(dim: Message) -> str:
    return str(_size(dim) or clip(dim.text("dim_param")) or "?")
