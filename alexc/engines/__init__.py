"""Engines: `model.onnx` as this machine, or the one that will run it, computes it."""
