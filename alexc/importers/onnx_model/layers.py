"""An ONNX model → the layers that it has, for a cross-check: nothing is refused that can be run.

`read` makes a spec of a model, so that what a spec can't say ends it. Here the same rows of
`OPERATIONS` say what each layer is and what its weights are; a layer of which they can't is kept,
with the op that it most likely is, since its results can be compared all the same.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from alexc.diagnostics import AlexcError, Diagnostic, fault
from alexc.importers.builder import Builder, Value
from alexc.importers.onnx_model.evaluation import NotConstantError
from alexc.importers.onnx_model.model import Model, read_model
from alexc.importers.onnx_model.node import Node
from alexc.importers.onnx_model.operations import OPERATIONS
from alexc.importers.onnx_model.plan import Planned, plan
from alexc.importers.onnx_model.read import OLDEST_OPSET, given_names
from alexc.importers.onnx_model.step import Refused, Step
from alexc.importers.proto import Message
from alexc.ops.base import Shape
from alexc.spec.names import clip
from alexc.verify.foreign.model import ForeignLayer, ForeignModel, Stated

_OWN_DOMAINS = ("", "ai.onnx")
_FLOAT32 = 1

# What the language calls a layer that none of its ops can say in full.
_LIKELY = {
    "Conv": "conv",
    "Gemm": "linear",
    "MatMul": "linear",
    "BatchNormalization": "batch_norm",
    "MaxPool": "max_pool",
    "GlobalMaxPool": "max_pool",
    "AveragePool": "avg_pool",
    "GlobalAveragePool": "adaptive_avg_pool",
    "ReduceMean": "adaptive_avg_pool",
    "LRN": "lrn",
    "Softmax": "softmax",
    "Flatten": "flatten",
    "Reshape": "flatten",
    "Add": "add",
    "Sum": "add",
    "Concat": "concat",
}

# They hand on what they read, in inference.
_PASSING = ("Identity", "Cast", "Dropout")


def read_layers(path: Path, image: Shape) -> ForeignModel:
    """The layers of the model at `path`, whose input is taken to be batch×`image`.

    Raises UsageError for a file that can't be read; AlexcError for one that is damaged, that needs
    a newer ONNX, or that does not take one float32 tensor.
    """
    model = read_model(path)
    try:
        return _Reading(model, image).read()
    finally:
        model.release()


class _Reading:
    def __init__(self, model: Model, image: Shape) -> None:
        self.model = model
        self.image = image
        self.builder = Builder("ONNX", model.path)
        self.layers: list[ForeignLayer] = []

    def read(self) -> ForeignModel:
        model = self.model
        self._check_ops()
        source = self._input()
        stated = _stated(source) or (None, *(None for _ in self.image))
        self._check_weights()
        name = source.text("name")
        model.batch = stated[0] if stated else None
        # What the file states is held against the spec later; here what follows is to be read.
        values = {name: self.builder.input(self.image)}
        model.shapes[name] = self.image
        planned = plan(model, model.outputs)
        for node in model.nodes:
            if (found := planned.get(node.index)) is not None:
                values[node.output] = self._layer(found, values)
        outputs = {one.text("name"): _stated(one) for one in model.stated_outputs}
        return ForeignModel(model.path, model.producer, name, stated, outputs, tuple(self.layers))

    def _layer(self, planned: Planned, values: dict[str, Value]) -> Value:
        """Keep the layer, and tell what it gives."""
        node, main, model = planned.node, planned.main, self.model
        layer = ForeignLayer(
            node.output,
            f"{clip(node.output)} ({clip(main.op)})",
            _LIKELY.get(main.op) if main.domain in _OWN_DOMAINS else None,
            planned.sources,
            names=tuple(filter(None, given_names(model, planned))),
            passes=main.op in _PASSING and len(planned.sources) == 1,
        )
        value = Value(node.output, None)
        inputs = [values.get(name, Value(name, None)) for name in planned.sources]
        operation = OPERATIONS.get(main.op) if main.domain in _OWN_DOMAINS else None
        before = len(self.builder.layers)
        if operation is not None and not (layer.passes and main.op == "Dropout"):
            try:
                result = operation(Step(self.builder, model, planned, inputs, ""))
            except (Refused, NotConstantError):
                result = None
            if result is not None:
                value = Value(node.output, result.shape, result.non_negative)
            if len(self.builder.layers) > before:
                made = self.builder.layers[-1]
                layer = replace(layer, kind=made.op.kind, weights=dict(made.weights or {}))
        elif layer.passes:
            value = Value(node.output, inputs[0].shape, inputs[0].non_negative)
        if value.shape is not None:
            model.shapes[node.output] = value.shape
        self.layers.append(replace(layer, shape=value.shape))
        return value

    # ---- what a backend would only trip over -----------------------------------------------------

    def _check_ops(self) -> None:
        from onnx import defs

        model = self.model
        if model.opset > (known := defs.onnx_opset_version()):
            raise fault(
                "verify/foreign-opset",
                f"{model.path}: its ops are those of opset {model.opset}, and the onnx package "
                f"here knows them up to {known}",
                help="export it with an older opset, or upgrade onnx",
            )
        if model.opset < OLDEST_OPSET:
            raise fault(
                "verify/foreign-opset",
                f"{model.path}: its ops are those of opset {model.opset}, and they are read from "
                f"{OLDEST_OPSET} on",
                help="onnx.version_converter brings them up",
            )
        unknown: dict[str, Node] = {}
        for node in model.nodes:
            if node.domain in _OWN_DOMAINS and not defs.has(node.op):
                unknown.setdefault(node.op, node)
        if unknown:
            raise AlexcError(
                *(
                    Diagnostic(
                        "verify/foreign-op",
                        f"{model.path}: {node.origin}: ONNX has no op {clip(op)}",
                    )
                    for op, node in unknown.items()
                )
            )

    def _check_weights(self) -> None:
        """Every weight must be there, be it beside the file. None is copied for that."""
        for message in self.model.initializers.values():
            self.model.tensors.array(message)

    def _input(self) -> Message:
        model = self.model
        inputs = [one for one in model.inputs if one.text("name") not in model.initializers]
        if len(inputs) != 1:
            names = ", ".join(clip(one.text("name")) for one in inputs) or "none"
            raise fault(
                "verify/foreign-input",
                f"{model.path} takes so many inputs: {names}; a spec has one",
            )
        kind = inputs[0].message("type").message("tensor_type").integer("elem_type", _FLOAT32)
        if kind != _FLOAT32:
            raise fault(
                "verify/foreign-input",
                f"{model.path}: its input {clip(inputs[0].text('name'))} is of ONNX's type {kind}, "
                "and a spec's is float32",
            )
        return inputs[0]


def _stated(one: Message) -> Stated | None:
    """The shape that the model states of an input or output; None if it states none."""
    tensor = one.message("type").message("tensor_type")
    if not tensor.has("shape"):
        return None
    dims = tensor.message("shape").messages("dim")
    return tuple(n if (n := dim.integer("dim_value", 0)) > 0 else None for dim in dims)
