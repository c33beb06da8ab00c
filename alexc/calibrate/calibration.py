"""Calibration: the ranges of a net's tensors by every method, and which method serves it best.

Two thirds of the images give the ranges. The rest are held out: on them the net is run on the grids
that each method gives, and the method whose outputs lie nearest to the float64 reference's is kept.
All of it is written to `calibration.json`, from which a later build can take the ranges again.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from alexc.calibrate.histogram import Histogram
from alexc.calibrate.ranges import METHODS, limit
from alexc.diagnostics import AlexcError, Diagnostic, usage_fault
from alexc.graph.graph import Graph
from alexc.graph.quantization import WEIGHTS, Scheme
from alexc.ops.base import Array
from alexc.passes.quantize import quantize, tensors_to_range
from alexc.verify.crosscheck import Samples
from alexc.verify.reference import evaluate
from alexc.verify.report import Accuracy

Weights = Mapping[str, NDArray[np.float32]]
Images = NDArray[np.float32]
Number = TypeVar("Number", bound=np.generic)

FILE = "calibration.json"
_KIND, _VERSION = "alexc-calibration", 1
_MAX_BYTES = 64_000_000

# The reference takes about a second for an image of AlexNet; as many as this are held out at most.
MOST_HELD_OUT = 16


@dataclass(frozen=True)
class Tried:
    """What one method gives: the limits of its tensors, and how far it is from the reference.

    The figures are those of the held-out images: `rel_l2` over all outputs, `max_abs` the largest
    error of any, `top1_agreement` of the first output, null if that is an image.
    """

    limits: Mapping[str, float]
    rel_l2: float
    max_abs: float
    top1_agreement: float | None


@dataclass(frozen=True)
class Calibration:
    """The ranges of a graph's tensors, and what they were found with.

    `graph` and `weights` are digests of what was calibrated, `images` of the images' pixels.
    """

    scheme: Scheme
    layers: tuple[str, ...]
    method: str
    tried: Mapping[str, Tried]
    images: int
    held_out: int
    images_digest: str
    graph_digest: str
    weights_digest: str

    @property
    def limits(self) -> Mapping[str, float]:
        """The largest magnitude that each tensor represents, by the method that was kept."""
        return self.tried[self.method].limits

    def apply(self, graph: Graph, weights: Weights) -> Graph:
        """`graph` in its inference form with the calibrated layers quantized.

        Raises AlexcError calibrate/other if it, or its weights, are not those calibrated.
        """
        faults = []
        for what, mine, theirs in (
            ("layers", self.graph_digest, _digest_of_graph(graph)),
            ("weights", self.weights_digest, digest_of_weights(weights)),
        ):
            if mine != theirs:
                faults.append(
                    Diagnostic(
                        "calibrate/other",
                        f"the ranges were measured with other {what}",
                        help="calibrate again on photographs: --calibrate DIR",
                    )
                )
        if faults:
            raise AlexcError(*faults)
        return quantize(graph, weights, self.limits, self.layers, self.scheme)

    def to_json(self) -> dict[str, Any]:
        """The content of `calibration.json`."""
        return {
            "format": _KIND,
            "version": _VERSION,
            "numbers": self.scheme,
            "layers": list(self.layers),
            "method": self.method,
            "images": self.images,
            "held_out": self.held_out,
            "images_digest": self.images_digest,
            "graph_digest": self.graph_digest,
            "weights_digest": self.weights_digest,
            "methods": {
                name: {
                    "rel_l2": tried.rel_l2,
                    "max_abs": tried.max_abs,
                    "top1_agreement": tried.top1_agreement,
                    "limits": dict(tried.limits),
                }
                for name, tried in self.tried.items()
            },
        }

    def write(self, path: Path) -> None:
        """Write `calibration.json`."""
        text = json.dumps(self.to_json(), ensure_ascii=False, indent=1, allow_nan=False)
        path.write_text(text + "\n", encoding="utf-8")


def read(path: Path) -> Calibration:
    """What `write` wrote. Raises UsageError if there is no file, AlexcError if it is another."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise _unreadable(path, "it is too large")
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise usage_fault("file/missing", f"there is no file {path}") from None
    except OSError as error:
        raise usage_fault("file/unreadable", f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise _unreadable(path, "it is not JSON") from None
    if not isinstance(content, dict) or content.get("format") != _KIND:
        raise _unreadable(path, "it is something else")
    if content.get("version") != _VERSION:
        raise _unreadable(path, f"its version is {content.get('version')!r}, not {_VERSION}")
    try:
        return _parsed(content)
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise _unreadable(path, f"it is not as a build writes it ({error})") from None


def calibrate(
    graph: Graph,
    weights: Weights,
    images: Images,
    layers: Sequence[str],
    scheme: Scheme,
    progress: Callable[[str], None] | None = None,
    exact: Mapping[str, Array] | None = None,
) -> tuple[Calibration, Samples]:
    """Measure the ranges that quantizing `layers` of `graph` takes, by every method.

    `graph` is in its inference form and `images` have been found fit (see `images.check`). Also
    returns the held-out images with the reference's outputs, on which others can be compared too;
    `exact` are those outputs, where they have been computed before.
    """
    from alexc.calibrate.simulate import Simulation

    say = progress or (lambda _: None)
    measured, held_out = split(images)
    say("measuring ranges")
    wanted = tensors_to_range(graph, layers, scheme)
    histograms = {name: Histogram() for name in wanted}
    simulation = Simulation(graph, weights)
    for tensors in simulation.tensors(measured):
        for name, histogram in histograms.items():
            histogram.add(_finite(name, tensors[name]))
    if exact is None:
        say("the reference of the held-out images")
        exact = reference_outputs(graph, weights, held_out)
    tried = {}
    for method in METHODS:
        say(f"trying ranges: {method}")
        limits = {name: limit(method, histograms[name], format) for name, format in wanted.items()}
        found = simulation.outputs(held_out, quantize(graph, weights, limits, layers, scheme))
        tried[method] = _tried(graph, limits, found, exact)
    best = min(tried, key=lambda method: tried[method].rel_l2)
    calibration = Calibration(
        scheme,
        tuple(layers),
        best,
        tried,
        len(measured),
        len(held_out),
        "sha256:" + hashlib.sha256(images.tobytes()).hexdigest(),
        _digest_of_graph(graph),
        digest_of_weights(weights),
    )
    return calibration, Samples(held_out, exact)


def split(images: NDArray[Number]) -> tuple[NDArray[Number], NDArray[Number]]:
    """The images to measure, and those held out: every third one, of many fewer."""
    every = max(3, math.ceil(len(images) / MOST_HELD_OUT))
    held = np.arange(len(images)) % every == every - 1
    return images[~held], images[held]


def reference_outputs(graph: Graph, weights: Weights, images: Images) -> dict[str, Array]:
    """The outputs of the float64 reference, by name."""
    parts = []
    for first in range(0, len(images), 4):
        values = evaluate(graph, weights, images[first : first + 4])
        parts.append({name: values[name] for name in graph.outputs})
    return {name: np.concatenate([part[name] for part in parts]) for name in graph.outputs}


def digest_of_weights(weights: Weights) -> str:
    """SHA-256 of the tensors by name."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(f"{name} {weights[name].shape}\n".encode())
        digest.update(np.ascontiguousarray(weights[name]).data)
    return "sha256:" + digest.hexdigest()


def _digest_of_graph(graph: Graph) -> str:
    """The digest of what the graph computes in fp32, whatever its layers' precisions."""
    return graph.rebuilt(precisions={}, quantized={}, forms={}).digest()


def _tried(
    graph: Graph,
    limits: Mapping[str, float],
    found: Mapping[str, NDArray[np.float32]],
    exact: Mapping[str, Array],
) -> Tried:
    each = [Accuracy.of("", name, found[name], exact[name]) for name in graph.outputs]
    error = math.sqrt(sum(float(((found[n] - exact[n]) ** 2).sum()) for n in graph.outputs))
    norm = math.sqrt(sum(float((exact[n] ** 2).sum()) for n in graph.outputs))
    return Tried(
        limits,
        error / norm if norm else error,
        max(one.max_abs for one in each),
        each[0].top1_agreement,
    )


def _finite(name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
    if not np.isfinite(values).all():
        raise AlexcError(
            Diagnostic(
                "calibrate/not-finite",
                f"{name} is not finite for some image, so that it has no range",
                help="look at the weights and the preprocessing: fp32 itself overflows",
            )
        )
    return values


def _parsed(content: Mapping[str, Any]) -> Calibration:
    tried = {
        str(name): Tried(
            {str(tensor): _magnitude(value) for tensor, value in each["limits"].items()},
            _magnitude(each["rel_l2"]),
            _magnitude(each["max_abs"]),
            None if each["top1_agreement"] is None else _magnitude(each["top1_agreement"]),
        )
        for name, each in content["methods"].items()
    }
    if content["numbers"] not in WEIGHTS or content["method"] not in tried:
        raise ValueError("unknown numbers or method")
    for tensor in tried[content["method"]].limits:
        # A tensor that was zero in every image has no range by any method.
        limits = [each.limits[tensor] for each in tried.values()]
        if 0.0 in limits and any(limits):
            raise ValueError(f"the range of {tensor} is 0 by one method and not by another")
    return Calibration(
        cast(Scheme, content["numbers"]),
        tuple(map(str, content["layers"])),
        content["method"],
        tried,
        int(content["images"]),
        int(content["held_out"]),
        str(content["images_digest"]),
        str(content["graph_digest"]),
        str(content["weights_digest"]),
    )


def _magnitude(value: Any) -> float:
    number = float(value)
    if not (math.isfinite(number) and number >= 0) or isinstance(value, bool | str):
        raise ValueError(f"{value!r} is no magnitude")
    return number


def _unreadable(path: Path, why: str) -> AlexcError:
    return AlexcError(
        Diagnostic(
            "calibrate/file",
            f"{path} is no calibration: {why}",
            help="give a folder of photographs, or the calibration.json of a bundle",
        )
    )
