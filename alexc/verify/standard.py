"""What backends of one graph are held to: the whole net, and every layer alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from alexc.graph.graph import Graph, Node
from alexc.graph.quantization import LARGEST
from alexc.ops.base import Array
from alexc.passes.inference import inference
from alexc.verify import inputs as provocations
from alexc.verify.backends.base import Trial
from alexc.verify.grid import off_ties, weight_steps
from alexc.verify.precision import Precision, as_kept, of_layers
from alexc.verify.reference import Expectation, expect, layer_alone, local_weights
from alexc.verify.report import Check

# Images of the batch on which layers are run alone: that is tight already with two.
_IMAGES_ALONE = 2


class Trials:
    """One layer after the other: what it is given, and what must come out."""

    def __init__(self, check: Check, graph: Graph, precisions: Mapping[str, Precision]) -> None:
        self.check: Check = check
        self.graph = graph
        self.precisions = precisions
        self.trials: dict[str, Trial] = {}
        self.values: dict[str, tuple[Array, Array, Array]] = {}

    def add(self, trial: Trial) -> None:
        """Take what the layer is given as its tensors hold it, quantized ones away from ties."""
        name = trial.node.name
        inputs = [
            as_kept(array, self.graph, source)
            for source, array in zip(trial.node.inputs, trial.inputs, strict=True)
        ]
        weights = dict(trial.weights)
        grid = self.graph.quantized.get(name)
        if grid is not None:
            if grid.input_step is not None:
                inputs[0] = off_ties(inputs[0], grid.input_step, grid.input_format)
            steps = weight_steps(grid, weights["weight"])
            weights["weight"] = off_ties(weights["weight"], steps, grid.format)
        self.trials[name] = Trial(trial.node, inputs, weights)
        precision = self.precisions[name]
        self.values[name] = layer_alone(trial.node, inputs, weights, precision, grid)


class Standard:
    """What backends of one graph are held to: the whole net, and every layer alone."""

    def __init__(
        self,
        graph: Graph,
        weights: Mapping[str, NDArray[np.float32]],
        images: NDArray[np.float32],
        seed: int,
        *,
        own_weights: bool = False,
        narrowed: str | None = None,
    ) -> None:
        """With `own_weights` only the inputs of layers alone provoke, not their weights. `narrowed`
        is the precision that may take the place of fp32 (see `precision.of_layers`)."""
        self.graph = graph
        self.images = images
        self.precisions = of_layers(graph, narrowed)
        self.expected: Expectation = expect(graph, weights, images, self.precisions, seed)
        self.trials = _trials(
            graph, weights, self.expected, self.precisions, seed, own_weights=own_weights
        )


def _trials(
    graph: Graph,
    weights: Mapping[str, NDArray[np.float32]],
    expected: Expectation,
    precisions: Mapping[str, Precision],
    seed: int,
    *,
    own_weights: bool,
) -> list[Trials]:
    """Every layer on the reference's inputs, and on inputs and weights that provoke."""
    given, provoked = Trials("alone", graph, precisions), Trials("provoked", graph, precisions)
    generator = np.random.default_rng((seed, 1))
    # Tensors with only dropout between them are one tensor in the model.
    merged = inference(graph).by_name
    for node in graph.nodes:
        own = {name: np.asarray(array) for name, array in local_weights(node, weights).items()}
        inputs = [
            expected.values[source][:_IMAGES_ALONE].astype(np.float32) for source in node.inputs
        ]
        given.add(Trial(node, inputs, own))
        sources = merged.get(node.name, node).inputs
        inputs = provocations.provoking_inputs(node, sources, _IMAGES_ALONE, generator)
        if not own_weights:
            own = provocations.provoking_weights(node, own, generator)
        provoked.add(Trial(node, _over_the_grid(graph, node, inputs), own))
    return [given, provoked]


def _over_the_grid(
    graph: Graph, node: Node, inputs: list[NDArray[np.float32]]
) -> list[NDArray[np.float32]]:
    """Standard normal inputs of a quantized layer, scaled so that they use the whole grid."""
    grid = graph.quantized.get(node.name)
    if grid is None or grid.input_step is None:
        return inputs
    scale = np.float32(LARGEST[grid.input_format] * grid.input_step / 3)
    return [inputs[0] * scale, *inputs[1:]]
