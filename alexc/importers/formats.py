"""Which importer reads a file: by its ending, since several formats have no mark of their own."""

from __future__ import annotations

from pathlib import Path

from alexc.diagnostics import usage_fault
from alexc.importers.foreign import ForeignNet, Request

# Ending → the format's name, as `--format` takes it too.
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
FORMATS = tuple(dict.fromkeys(ENDINGS.values()))


def read_foreign(path: Path, request: Request, format: str | None = None) -> ForeignNet:
    """The net of a foreign file. Raises UsageError if its format is unknown, AlexcError if what is
    in it can't be said in a spec."""
    chosen = format or ENDINGS.get(path.suffix.lower())
    match chosen:
        case "caffe":
            from alexc.importers.caffe.net import read_caffe

            return read_caffe(path, request)
        case "onnx":
            from alexc.importers.onnx_model.read import read_onnx

            return read_onnx(path, request)
        case "torch":
            from alexc.importers.torch_state import read_torch

            return read_torch(path, request)
        case "cuda-convnet":
            from alexc.importers.cuda_convnet import read_cuda_convnet

            return read_cuda_convnet(path, request)
        case _:
            raise usage_fault(
                "import/format",
                f"{path}: its ending does not tell what format it is in",
                help=f"endings that do: {', '.join(ENDINGS)}",
            )
