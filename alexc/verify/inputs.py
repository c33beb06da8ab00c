"""Inputs that provoke faults: images with structure for the whole net, and tensors for one layer.

Everything is drawn in numpy from a seed. No image file comes with the package, so the structured
images are synthetic: what real photographs have is a 1/f spectrum, edges and smooth gradients.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from alexc.diagnostics import usage_fault
from alexc.graph.graph import Graph, Node
from alexc.ops.base import Op, Shape
from alexc.ops.conv import Conv
from alexc.ops.dense import Linear
from alexc.ops.norm import BatchNorm, Lrn
from alexc.ops.pixels import Pixels
from alexc.ops.pointwise import Sigmoid, Softmax, Tanh

Images = NDArray[np.float32]

# What a batch is filled with, in this order, over and over.
KINDS: tuple[str, ...] = (
    "structured",
    "gaussian",
    "zeros",
    "constant",
    "one-hot",
    "large",
    "small",
    "denormal",
)
# Of all tensors and images, where nobody says how many: float64, with a tolerance for each.
_MOST_NUMBERS = 1 << 26

PIXEL_KINDS: tuple[str, ...] = ("structured", "gaussian", "black", "white", "constant", "one-hot")


def kinds_for(graph: Graph, images: int | None = None) -> tuple[str, ...]:
    """The kinds of so many images, as the model of the graph takes them.

    By default one of each; of a large net fewer, but two, so that what is known of all its tensors
    takes a gigabyte. What is large overflows fp16 by its nature: an infinity there would be
    nobody's fault.
    """
    kinds = KINDS if graph.pixels is None else PIXEL_KINDS
    if "fp16" in graph.precisions.values():
        kinds = tuple(kind for kind in kinds if kind != "large")
    if images is None:
        numbers = sum(math.prod(node.shape) for node in graph.nodes)
        images = min(max(_MOST_NUMBERS // max(numbers, 1), 2), len(kinds))
    return tuple(kinds[index % len(kinds)] for index in range(images))


def batch(shape: Shape, images: int, seed: int, kinds: Sequence[str] = KINDS) -> Images:
    """So many images `(images, *shape)`, one of each kind in turn."""
    generator = np.random.default_rng(seed)
    return np.stack([image(kinds[i % len(kinds)], shape, generator) for i in range(images)])


def batch_of_pixels(shape: Shape, kinds: Sequence[str], seed: int) -> Images:
    """Images of whole numbers from 0 to 255: what a model takes that normalises by itself."""
    generator = np.random.default_rng(seed)
    return np.stack([_image_of_pixels(kind, shape, generator) for kind in kinds])


def _image_of_pixels(kind: str, shape: Shape, generator: np.random.Generator) -> Images:
    if kind in ("black", "white"):
        return np.full(shape, 255.0 * (kind == "white"), np.float32)
    if kind == "one-hot":
        return 255 * image(kind, shape, generator)
    # Photographs have a deviation of about 64 around the middle.
    return np.clip(np.rint(128 + 64 * image(kind, shape, generator)), 0, 255)


def image(kind: str, shape: Shape, generator: np.random.Generator) -> Images:
    """One image of a kind, as large as normalised photographs unless the kind says otherwise."""
    if kind == "structured":
        return structured(shape, generator)
    if kind == "zeros":
        return np.zeros(shape, np.float32)
    if kind == "constant":
        return np.broadcast_to(
            generator.standard_normal((shape[0], *[1] * (len(shape) - 1))), shape
        ).astype(np.float32)
    if kind == "one-hot":
        pixels = np.zeros(shape, np.float32)
        pixels[tuple(size // 2 for size in shape)] = 1.0
        return pixels
    gaussian = generator.standard_normal(shape, dtype=np.float32)
    scale = {"gaussian": 1.0, "large": 2.0**10, "small": 2.0**-20, "denormal": 2.0**-130}[kind]
    return gaussian * np.float32(scale)


def structured(shape: Shape, generator: np.random.Generator) -> Images:
    """What photographs are made of: a 1/f spectrum alike in all channels, an edge, a gradient."""
    channels, (height, width) = shape[0], (shape[1:] if len(shape) == 3 else (1, 1))
    down = np.fft.fftfreq(height)[:, np.newaxis]
    across = np.fft.rfftfreq(width)[np.newaxis, :]
    frequency = np.maximum(np.hypot(down, across), 1 / max(height, width))
    noise = generator.standard_normal((channels + 1, height, width))
    cloud = np.fft.irfft2(np.fft.rfft2(noise) / frequency, s=(height, width))
    # Photographs are mostly grey: the channels share the first cloud.
    picture = cloud[0] + 0.3 * cloud[1:]
    picture /= max(float(picture.std()), 1e-12)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j] if height * width > 1 else (0.0, 0.0)
    angle = generator.uniform(0, 2 * math.pi)
    along = np.cos(angle) * x + np.sin(angle) * y
    picture += 0.5 * along + np.where(along > generator.uniform(-0.3, 0.3), 0.7, -0.7)
    images: Images = picture.reshape(shape).astype(np.float32)
    return images


def provoking_inputs(
    node: Node, sources: Sequence[str], images: int, generator: np.random.Generator
) -> list[Images]:
    """Dense random tensors for one layer, of magnitudes at which all of its fields matter.

    Behind a ReLU half of the numbers are zero, and behind small weights the squares of an LRN
    vanish beside k: faults hide there that these inputs show. Every second image is of larger
    numbers, which show what overflows or is cut off. `sources` are the names of the tensors that
    the layer reads, once for each input: what is read twice is drawn once.
    """
    drawn = {}
    for source, shape in zip(sources, node.input_shapes, strict=True):
        if isinstance(node.op, Pixels):
            drawn[source] = generator.integers(0, 256, (images, *shape)).astype(np.float32)
            continue
        values = generator.standard_normal((images, *shape), dtype=np.float32)
        values[::2] *= _scale(node.op)
        values[1::2] *= _large_scale(node.op, values[1::2].shape, generator)
        drawn[source] = values
    return [drawn[source] for source in sources]


def _scale(op: Op) -> np.float32:
    if isinstance(op, Lrn) and op.alpha_per_element > 0:
        # A·Σa² as large as k, within what squares can be represented.
        wanted = math.sqrt(op.k / (op.alpha_per_element * op.window_elements))
        return np.float32(min(max(wanted, 2.0**-30), 2.0**30))
    if isinstance(op, Tanh | Sigmoid | Softmax):
        return np.float32(2.0)
    return np.float32(1.0)


def _large_scale(op: Op, shape: Shape, generator: np.random.Generator) -> Images:
    if isinstance(op, Conv | Linear | BatchNorm):
        # One large term would hide the others: small ones are what makes these sums hard.
        return np.ones((), np.float32)
    if isinstance(op, Lrn):
        return np.asarray(4 * _scale(op))
    if isinstance(op, Tanh | Sigmoid | Softmax):
        return np.asarray(100.0, np.float32)
    # Ops that copy numbers, or add a few.
    return np.exp2(generator.uniform(-10, 10, shape)).astype(np.float32)


def provoking_weights(
    node: Node, weights: dict[str, NDArray[np.float32]], generator: np.random.Generator
) -> dict[str, NDArray[np.float32]]:
    """The layer's weights, by local name, with those replaced in which a fault could hide.

    A bias of zeros may be dropped unnoticed, and so may the eps beside a large variance; weights
    that are all the same can be transposed.
    """
    result = dict(weights)
    op = node.op
    if isinstance(op, BatchNorm):
        channels = node.shape[0]
        result["running_mean"] = generator.standard_normal(channels, dtype=np.float32)
        spread = generator.uniform(0.5, 2.0, channels) * max(op.eps, 2.0**-60)
        result["running_var"] = spread.astype(np.float32)
    for name, array in result.items():
        if name == "bias":
            result[name] = generator.standard_normal(array.shape, dtype=np.float32)
        elif name == "weight" and array.size > 1 and array.min() == array.max():
            fan_in = math.prod(array.shape[1:]) if isinstance(op, Conv | Linear) else 1
            drawn = generator.standard_normal(array.shape, dtype=np.float32)
            result[name] = drawn / np.float32(math.sqrt(fan_in))
    return result


def images_for(graph: Graph, inputs: Images | None, count: int | None, seed: int) -> Images:
    """Images as the model of the graph takes them: those given, or drawn ones.

    Raises UsageError for images of another shape, or no pixels where those are wanted.
    """
    if inputs is None:
        kinds = kinds_for(graph, count)
        if graph.pixels is not None:
            return batch_of_pixels(graph.input_shape, kinds, seed)
        return batch(graph.input_shape, len(kinds), seed, kinds)
    if inputs.shape[1:] != graph.input_shape or len(inputs) == 0:
        raise usage_fault(
            "verify/input-shape",
            f"{graph.name} takes images of the shape {graph.input_shape}, not {inputs.shape[1:]}",
        )
    images = np.ascontiguousarray(inputs, np.float32)
    if graph.pixels is not None and not np.isin(images, np.arange(256, dtype=np.float32)).all():
        raise usage_fault(
            "verify/input-pixels", f"{graph.name} takes pixels: whole numbers from 0 to 255"
        )
    return images


def as_trained(written: Graph, images: Images) -> Images:
    """The images as the graph was trained on them: normalised where the model takes pixels."""
    if written.pixels is None:
        return images
    return written.pixels.reference([images.astype(np.float64)], {}).astype(np.float32)
