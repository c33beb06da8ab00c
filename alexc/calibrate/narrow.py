"""The graph that a model of some precision is written from, and what it takes to make it.

    fp32, tf32   every layer in fp32 (tf32 is how TensorRT multiplies, and no matter of the model)
    fp16, bf16   all layers in it but those that lose too much (see `passes.precision`)
    int8, u8s8, fp8
                 convolutions and linear layers on grids (see `passes.quantize`), the rest in fp32
    int8-weights the weights of linear layers on grids (see `passes.weight_only`), all else in fp32

Layers that the spec's `precision:` names keep what it says. A model that takes pixels has one more
layer before all others, which normalises them (see `passes.read_pixels`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexc.calibrate import calibration as calibrations
from alexc.calibrate.calibration import Calibration
from alexc.calibrate.images import load_as_taken, stand_ins
from alexc.calibrate.overflow import foretell
from alexc.diagnostics import AlexcError, fault, usage_fault
from alexc.graph.graph import Graph
from alexc.graph.quantization import Scheme
from alexc.ops.conv import Conv
from alexc.ops.dense import Linear
from alexc.ops.pixels import Pixels
from alexc.passes.inference import inference
from alexc.passes.precision import with_precision
from alexc.passes.quantize import quantizable
from alexc.passes.read_pixels import read_pixels
from alexc.passes.weight_only import linear_layers, weight_only
from alexc.spec.model import Precision
from alexc.verify.crosscheck import Samples
from alexc_runtime.manifest import Preprocess
from alexc_runtime.preprocess import normalised

Weights = Mapping[str, NDArray[np.float32]]
Images = NDArray[np.float32]

_OF_LAYERS: dict[str, Precision] = {"fp16": "fp16", "bf16": "bf16"}
QUANTIZED: dict[str, Scheme] = {"int8": "int8", "u8s8": "u8s8", "fp8": "fp8"}

WEIGHT_ONLY = "int8-weights"

_HOW = "--calibrate DIR, with photographs like those that the net will see"


@dataclass(frozen=True)
class Narrow:
    """What a model is written from. `samples` are photographs to take its accuracy on, as the model
    takes them: pixels, where it does, as whole numbers of float32."""

    graph: Graph
    calibration: Calibration | None = None
    samples: Samples | None = None


def check(
    graph: Graph,
    precision: str,
    named: Mapping[str, Precision],
    paths: Sequence[Path],
    preprocess: Preprocess | None,
) -> None:
    """Refuse what `narrow` could not do with these, as far as that shows before anything is read.

    Raises UsageError calibrate/missing if ranges are needed and there are no paths, or if those are
    of both kinds; AlexcError calibrate/no-preprocess if nothing says how photographs are read, and
    precision/no-layers if int8-weights finds nothing to round.
    """
    saved = saved_ranges(paths)
    if saved is not None and len(paths) > 1:
        raise usage_fault("calibrate/missing", "give photographs or one calibration.json, not both")
    if precision in QUANTIZED and not paths:
        raise usage_fault(
            "calibrate/missing",
            f"{precision} takes the ranges of real activations, and there are no images",
            help=_HOW,
        )
    if paths and saved is None:
        how_to_read(preprocess)
    if precision == WEIGHT_ONLY:
        _rounded_layers(inference(graph), named)


def formats(graph: Graph, precision: str, named: Mapping[str, Precision]) -> dict[str, str]:
    """The formats that convolutions and linear layers would compute in, each with the first layer
    that does."""
    model = with_precision(inference(graph), _OF_LAYERS.get(precision, "fp32"), named)
    found: dict[str, str] = {}
    for node in model.nodes:
        if isinstance(node.op, Conv | Linear):
            found.setdefault(model.precision_of(node.name), node.name)
    return found


def saved_ranges(paths: Sequence[Path]) -> Path | None:
    """The calibration.json among the paths of `--calibrate`; the others are photographs."""
    return next((path for path in paths if path.suffix == ".json"), None)


def how_to_read(preprocess: Preprocess | None) -> Preprocess:
    """How photographs become what the net takes. Raises AlexcError if the spec does not say."""
    if preprocess is None:
        raise fault(
            "calibrate/no-preprocess",
            "the spec does not say how to read photographs",
            help="write `preprocess:` into the spec",
        )
    return preprocess


def written(
    graph: Graph,
    weights: Weights,
    precision: str,
    named: Mapping[str, Precision],
    calibration: Calibration | None = None,
    preprocess: Preprocess | None = None,
) -> Graph:
    """The graph, in its inference form, in a precision. int8, u8s8 and fp8 take a calibration.

    Where `preprocess` is of uint8 it takes pixels. Raises AlexcError calibrate/other if the
    calibration is of another net or other weights, and precision/no-layers if int8-weights finds
    nothing to round.
    """
    plain = inference(graph)
    result = with_precision(plain, _OF_LAYERS.get(precision, "fp32"), named)
    if precision in QUANTIZED:
        if calibration is None or calibration.scheme != precision:
            raise fault("calibrate/other", f"the ranges are not those of {precision}", help=_HOW)
        result = calibration.apply(result, weights)
    elif precision == WEIGHT_ONLY:
        result = weight_only(result, weights, _rounded_layers(plain, named))
    return taking(result, preprocess)


def taking(graph: Graph, preprocess: Preprocess | None) -> Graph:
    """The graph as its model takes images: pixels, where `preprocess` is of uint8."""
    if preprocess is None or preprocess.dtype == "float32":
        return graph
    layer = Pixels(scale=preprocess.scale, mean=preprocess.mean, std=preprocess.std)
    return read_pixels(graph, layer)


def narrow(
    graph: Graph,
    weights: Weights,
    precision: str,
    named: Mapping[str, Precision],
    paths: Sequence[Path],
    preprocess: Preprocess | None,
    progress: Callable[[str], None],
    photographs: NDArray[Any] | None = None,
) -> Narrow:
    """As `written`, with ranges measured on the photographs in `paths`, or read from a file there.

    `photographs` are those in `paths`, as the model takes them, where they have been read before.
    Raises what `check` and `written` raise, AlexcError if the images or the file are unfit, and
    precision/overflow if fp16 will overflow.
    """
    check(graph, precision, named, paths, preprocess)
    images, pixels, samples = None, None, None
    saved = saved_ranges(paths)
    calibration = None if saved is None else calibrations.read(saved)
    if paths and saved is None:
        read = how_to_read(preprocess)
        if photographs is None:
            progress("calibration: reading images")
            photographs = load_as_taken(paths, read)
        images = photographs
        if read.dtype == "uint8":
            images = normalised(photographs, read)
            _, pixels = calibrations.split(photographs)
    plain = inference(graph)
    if precision in QUANTIZED:
        if images is not None:
            calibration, samples = calibrations.calibrate(
                plain,
                weights,
                images,
                quantizable(plain, named),
                QUANTIZED[precision],
                lambda step: progress(f"calibration: {step}"),
            )
        result = written(graph, weights, precision, named, calibration)
    else:
        calibration = None
        result = written(graph, weights, precision, named)
        if "fp16" in result.precisions.values():
            progress("calibration: magnitudes")
            _refuse_overflow(result, weights, images, preprocess)
        if images is not None and (result.precisions or result.quantized):
            progress("calibration: the reference of the held-out images")
            _, held_out = calibrations.split(images)
            samples = Samples(held_out, calibrations.reference_outputs(plain, weights, held_out))
    taken = taking(result, preprocess)
    if samples is not None and pixels is not None:
        samples = replace(samples, images=pixels.astype(np.float32))
    return Narrow(taken, calibration, samples)


def _rounded_layers(graph: Graph, named: Mapping[str, Precision]) -> tuple[str, ...]:
    """What int8-weights rounds of a graph in its inference form. Raises AlexcError if nothing."""
    layers = linear_layers(graph, named)
    if not layers:
        raise fault(
            "precision/no-layers",
            f"{WEIGHT_ONLY} is for linear layers before the last, and {graph.name} has none",
            help="int8 rounds convolutions, too: --precision int8 --calibrate DIR",
        )
    return layers


def _refuse_overflow(
    graph: Graph, weights: Weights, images: Images | None, preprocess: Preprocess | None
) -> None:
    from alexc.calibrate.simulate import Simulation

    if images is None:
        images = stand_ins(graph.input_shape, preprocess)
    overflow = foretell(graph, Simulation(graph, weights).magnitudes(images))
    if overflow is not None:
        raise AlexcError(overflow)
