"""Which importer reads a file: by its ending, since several formats have no mark of their own."""

from __future__ import annotations

from pathlib import Path

from alexc.diagnostics import usage_fault
from alexc.importers.foreign import ForeignNet, Request

# Ending → the importer.
ENDINGS = {
    ".prototxt": "caffe",
    ".pbtxt": "caffe",
    ".caffemodel": "caffe",
    ".onnx": "onnx",
    ".pth": "torch",
    ".pt": "torch",
    ".safetensors": "torch",
    ".cfg": "cuda-convnet",
}


# What of a Request means something in each format; `input_shape` does in all of them.
_OPTIONS = {
    "caffe": ("weights", "mean", "partial"),
    "onnx": ("partial",),
    "torch": ("like",),
    "cuda-convnet": ("partial", "params"),
}


def read_foreign(path: Path, request: Request) -> ForeignNet:
    """The net of a foreign file.

    Raises UsageError if its format is unknown or an option means nothing in it, AlexcError if what
    is in it can't be said in a spec.
    """
    format = ENDINGS.get(path.suffix.lower())
    if format is None:
        raise usage_fault(
            "import/format",
            f"{path}: its ending does not tell what format it is in",
            help=f"endings that do: {', '.join(ENDINGS)}",
        )
    for option in ("weights", "mean", "partial", "like", "params"):
        if getattr(request, option) is not None and option not in _OPTIONS[format]:
            known = ", ".join(f"--{name}" for name in (*_OPTIONS[format], "input"))
            raise usage_fault(
                "import/option",
                f"--{option} means nothing for {path.name}, which is read as {format}",
                help=f"these do: {known}",
            )
    match format:
        case "caffe":
            from alexc.importers.caffe.net import read_caffe

            return read_caffe(path, request)
        case "onnx":
            from alexc.importers.onnx_model.read import read_onnx

            return read_onnx(path, request)
        case "torch":
            from alexc.importers.torch_state.net import read_torch

            return read_torch(path, request)
        case _:
            from alexc.importers.cuda_convnet.net import read_cuda_convnet

            return read_cuda_convnet(path, request)
