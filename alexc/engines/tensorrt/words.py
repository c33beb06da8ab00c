"""TensorRT's words: names of types, limits of layers, and its messages without their noise."""

from __future__ import annotations

import re

# The types of tensors, by TensorRT's names and numpy's.
TYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT8": "int8",
    "FP8": "float8_e4m3fn",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}

# What TensorRT's own pages say of the limits of a layer, by ONNX operator.
LIMITS = {"LRN": "TensorRT's LRN takes an odd size from 1 to 15, k ≥ 1e-5 and beta ≥ 0.01"}


def is_noise(line: str) -> bool:
    """Whether a message only tells, in the course of a fault, where it was noticed.

    Without a CUDA driver every fault is followed by one that there is none.
    """
    return "catchCudaError" in line or line.startswith(("ModelImporter.cpp", "--- "))


# What stands around the telling part of a message. The first is the form of the core library,
# FUNCTION: Error Code N: KIND (REASON. In FUNCTION at FILE:LINE), the others are the parser's.
_WRAPPINGS = (
    r".*?Error Code \d+: [^(]*\((.*?)\.?\s+In \w+ at /.*",
    r".*Assertion failed: .*\): (.*)",
    r"\w+ && \"(.*)\"",
    r"\[?\w+\.cpp:\d+: (?:\w+\] )?(.*)",
)


def reason(message: str) -> str:
    """A message of TensorRT without the places in its source where it was noticed."""
    text = " ".join(message.split())
    for wrapping in _WRAPPINGS:
        if inside := re.fullmatch(wrapping, text):
            text = inside.group(1)
    return text[:500]
