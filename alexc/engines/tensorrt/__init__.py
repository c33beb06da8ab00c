"""TensorRT and TensorRT for RTX: from `model.onnx` to a plan, with or without a GPU.

The two libraries have one Python interface under two names, so one code serves both; `FLAVOURS`
holds the few facts in which they differ.

tensorrt_rtx   Builds on the CPU; only running needs a GPU. Kernels are compiled where the plan is
               loaded. What follows was found with 1.7.1 on a machine without a GPU. A fresh
               builder's config lists no compute capability (`num_compute_capabilities` is 0); the
               plan is then for Ampere and all later GPUs: 8.0, 8.6, 8.9, 12.0, 12.1 and, says
               NVIDIA, what comes after. Turing, 7.5, is left out unless it is named. To target
               some GPUs, set the number and then each one; the plan runs on those alone and is
               hardly smaller, since nearly all of it is the weights. `CURRENT` asks for the GPU
               at hand and fails without one. For 7.5 no float32 matrix product can be compiled,
               so a float32 net with a linear layer is refused there. 9.0 (H100, H200) is neither
               in NVIDIA's list nor among the names that can be set, and whether the default plan
               runs on it can only be seen on one.
               Two builds of one model do the same but need not agree in every byte: the numbers
               of temporary tensors and the order of the outputs vary.
tensorrt       Chooses kernels by timing them, so that building needs the GPU it builds for. Its
               libraries come from NVIDIA's own package host.

Networks are strongly typed: the precision of each layer is the one that the ONNX model writes, and
the builder may not change it. Alone TF32, which rounds the factors of float32 products to ten bits
of mantissa, is a flag, and TensorRT sets it by default; here it is set for the precision `tf32` and
cleared for every other.
"""

from __future__ import annotations

from alexc.engines.tensorrt.builder import Plan, build_plan, why_no_plan
from alexc.engines.tensorrt.callbacks import Progress
from alexc.engines.tensorrt.flavours import FLAVOURS, Flavour, flavours
from alexc.engines.tensorrt.network import ParsedTensor, parse

__all__ = [
    "FLAVOURS",
    "Flavour",
    "ParsedTensor",
    "Plan",
    "Progress",
    "build_plan",
    "flavours",
    "parse",
    "why_no_plan",
]
