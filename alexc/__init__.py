"""alexc: one YAML spec of a network, compiled to PyTorch, ONNX and TensorRT, and cross-checked."""

__version__ = "0.1.0"
