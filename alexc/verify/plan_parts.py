"""Copies of a model that the runtime can run from a plan: one input, and outputs of float32."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexc.graph.graph import INPUT


def in_float32(model: bytes) -> tuple[bytes, dict[str, str]]:
    """The model with every output in float32, and what each of them is called there.

    One of another type is cast, and what it is cast to is the output in its place.
    """
    import onnx
    from onnx import TensorProto, helper

    copy = onnx.ModelProto.FromString(model)
    names = {}
    for output in copy.graph.output:
        name = output.name
        names[name] = name
        if output.type.tensor_type.elem_type != TensorProto.FLOAT:
            names[name] = f"{name} in float32"
            copy.graph.node.append(
                helper.make_node("Cast", [name], [names[name]], to=TensorProto.FLOAT)
            )
            output.CopyFrom(helper.make_tensor_value_info(names[name], TensorProto.FLOAT, None))
    return bytes(copy.SerializeToString()), names


def packed(
    model: bytes, feeds: Mapping[str, NDArray[np.float32]]
) -> tuple[bytes, NDArray[np.float32]]:
    """The model with all its inputs in one, side by side, and `feeds` as it takes them.

    The input is `(batch, numbers)`; slices of it are what the model's own inputs were. All are of
    one batch. What is fed as pixels stays float32, for TensorRT has uint8 outside a network only.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    copy = onnx.ModelProto.FromString(model)
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []

    def constant(name: str, values: list[int]) -> str:
        constants.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    axis = constant("packed.axis", [1])
    first = 0
    for name, array in feeds.items():
        last = first + math.prod(array.shape[1:])
        start, end = constant(f"{name}.start", [first]), constant(f"{name}.end", [last])
        shape = constant(f"{name}.shape", [-1, *array.shape[1:]])
        nodes += [
            helper.make_node("Slice", [INPUT, start, end, axis], [f"{name}.flat"]),
            helper.make_node("Reshape", [f"{name}.flat", shape], [name]),
        ]
        first = last
    for node in copy.graph.node:
        for attribute in node.attribute:
            if (
                node.op_type == "Cast"
                and attribute.i == TensorProto.UINT8
                and node.input[0] in feeds
            ):
                attribute.i = TensorProto.FLOAT
    nodes += copy.graph.node
    del copy.graph.node[:], copy.graph.input[:]
    copy.graph.node.extend(nodes)
    copy.graph.input.append(
        helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", first])
    )
    copy.graph.initializer.extend(constants)
    columns = [array.reshape(len(array), -1) for array in feeds.values()]
    return bytes(copy.SerializeToString()), np.concatenate(columns, axis=1, dtype=np.float32)


def lend_weights(model: Path, copy: bytes, folder: Path) -> None:
    """Put the files in which a copy's weights lie, beside `model`, into the folder as links."""
    import onnx
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    for tensor in onnx.ModelProto.FromString(copy).graph.initializer:
        if not uses_external_data(tensor):
            continue
        place: Any = ExternalDataInfo(tensor)
        source, target = model.parent / place.location, folder / place.location
        if target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            target.symlink_to(source.absolute())
        except OSError:  # no links on this file system, or for this user
            shutil.copyfile(source, target)
