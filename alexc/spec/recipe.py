"""The `train:` key of a spec: the recipe by which its weights are learnt, as validated data.

Numbers mean what the papers mean by them; what a recipe leaves out has the defaults below. Whether
a recipe fits the net and its data is judged by `alexc.train`, since that needs shapes.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from alexc.ops.base import AsTuple, NonNegative, Pair, Positive, Record, as_tuple

_Finite = Annotated[float, Field(allow_inf_nan=False)]
_PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_AtLeastZero = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Share = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
_Factor = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]


def _rows_as_tuples(value: Any) -> Any:
    return tuple(map(as_tuple, value)) if isinstance(value, list) else value


class OptimizerSpec(Record):
    """How a gradient changes the weights.

    sgd    v ← m·v + (g + d·w);  w ← w − lr·v
    adamw  Loshchilov and Hutter 2019: decay apart from the gradient's moments
    lars   You, Gitman and Ginsburg 2017: sgd with lr scaled in each tensor by
           trust · ‖w‖ / (‖g‖ + d·‖w‖), for large batches; biases as in sgd
    """

    name: Literal["sgd", "adamw", "lars"] = Field(default="sgd", description="The rule.")
    learning_rate: _PositiveFloat = Field(
        default=0.01, description="The rate at its highest, before the schedule.", examples=[0.01]
    )
    momentum: _Share = Field(default=0.9, description="m of sgd and lars; the first beta of adamw.")
    second_momentum: _Share = Field(default=0.999, description="The second beta of adamw.")
    nesterov: bool = Field(default=False, description="Look ahead by one step (sgd only).")
    weight_decay: _AtLeastZero = Field(default=0.0005, description="d.", examples=[0.0005])
    decay_biases: bool = Field(
        default=True,
        description="Whether biases and the two vectors of batch norm decay too: the 2012 paper "
        "says so, the 2012 code does not.",
    )
    trust: _PositiveFloat = Field(default=0.001, description="The trust coefficient of lars.")


class ScheduleSpec(Record):
    """How the learning rate goes on, as a factor of `optimizer.learning_rate`.

    plateau   × `factor` when the validation error has not improved for `patience` epochs, at most
              `times` times
    step      × `factor` every `every` epochs
    cosine    from 1 to `last`: last + (1 − last)·(1 + cos πt) / 2 at the share t of the run
    linear    from 1 to `last` in a straight line
    constant  1
    """

    name: Literal["plateau", "step", "cosine", "linear", "constant"] = Field(
        default="cosine", description="The shape."
    )
    warmup: _AtLeastZero = Field(
        default=0.0, description="Epochs in which the rate rises from 0 in a straight line."
    )
    factor: _Factor = Field(default=0.1, description="Of plateau and step.")
    patience: Positive = Field(default=5, description="Epochs without a better error (plateau).")
    times: NonNegative = Field(default=3, description="How often plateau lowers the rate.")
    every: Positive = Field(default=30, description="Epochs from one step to the next.")
    last: _AtLeastZero = Field(default=0.0, description="The last factor of cosine and linear.")


class NoiseSpec(Record):
    """PCA colour noise: Σ αᵢ·λᵢ·pᵢ is added to the RGB of an image, αᵢ ~ N(0, std²) for each image.

    `eigenvalues` and `eigenvectors` (as rows over R, G, B) are of the covariance of pixels in
    [0, 1]; `alexc data pca` computes them.
    """

    std: _PositiveFloat = Field(default=0.1, description="Standard deviation of every α.")
    eigenvalues: Annotated[tuple[_AtLeastZero, _AtLeastZero, _AtLeastZero], AsTuple] = Field(
        description="λ, the largest first.", examples=[[0.2175, 0.0188, 0.0045]]
    )
    eigenvectors: Annotated[
        tuple[
            tuple[_Finite, _Finite, _Finite],
            tuple[_Finite, _Finite, _Finite],
            tuple[_Finite, _Finite, _Finite],
        ],
        BeforeValidator(_rows_as_tuples),
    ] = Field(description="p, one row for each λ.")


class AugmentSpec(Record):
    """What is done to an image before each time it is seen; the test sees none of it."""

    padding: NonNegative = Field(
        default=0,
        description="Pixels put around the image before a crop is taken anywhere in it.",
        examples=[4],
    )
    border: Literal["reflect", "zero"] = Field(
        default="reflect", description="What the pixels put around it are."
    )
    flip: bool = Field(default=False, description="Mirror left and right, every second image.")
    erase: NonNegative = Field(
        default=0,
        description="Side of a square, anywhere in the image, that is set to the mean.",
        examples=[8],
    )
    noise: NoiseSpec | None = Field(default=None, description="PCA colour noise (RGB only).")


class CheckpointSpec(Record):
    """When the state of a run is saved, and how many states are kept beside the best."""

    minutes: _PositiveFloat = Field(default=10.0, description="Between two checkpoints at most.")
    steps: Positive | None = Field(default=None, description="Between two checkpoints at most.")
    keep: Positive = Field(default=2, description="The last ones kept; the best is kept too.")


class TrainSpec(Record):
    """The recipe by which the net's weights are learnt."""

    epochs: Positive = Field(description="How often every image is seen.", examples=[90])
    batch: Positive = Field(
        default=128, description="Images in a step, over all workers together.", examples=[128]
    )
    accumulate: Positive = Field(
        default=1, description="Parts that a step is computed in, for lack of memory."
    )
    seed: NonNegative = Field(default=0, description="What weights, order and chance come from.")
    optimizer: OptimizerSpec = OptimizerSpec()
    schedule: ScheduleSpec = ScheduleSpec()
    augment: AugmentSpec = AugmentSpec()
    resize: Pair | None = Field(
        default=None,
        description="Size that images are stored in, [height, width] in pixels: the shorter side "
        "to it, then the centre; default: `preprocess.resize`, or what the data has.",
        examples=[256],
    )
    label_smoothing: _Share = Field(
        default=0.0, description="Share of the target that is spread over all classes."
    )
    clip: _PositiveFloat | None = Field(
        default=None, description="The gradient's largest norm; longer ones are shortened."
    )
    ema: _Share | None = Field(
        default=None,
        description="Weights are tested and kept as their moving average, w̄ ← e·w̄ + (1 − e)·w.",
        examples=[0.999],
    )
    precision: Literal["auto", "fp32", "bf16", "fp16", "fp64"] = Field(
        default="auto",
        description="Of products; weights stay fp32. auto: bf16 where the processor computes in it "
        "itself, else fp32.",
    )
    channels_last: bool = Field(default=True, description="Lay out images with channels last.")
    compile: bool = Field(default=False, description="Compile the module with torch.compile.")
    views: Literal[1, 10] = Field(
        default=1,
        description="Views of an image at the last test: the centre, or the corners and the centre "
        "and their mirror images, probabilities averaged.",
    )
    stuck_after: Positive = Field(
        default=2000,
        description="Steps after which a loss that is no better than guessing stops the run.",
    )
    checkpoint: CheckpointSpec = CheckpointSpec()

    @model_validator(mode="after")
    def _fits_together(self) -> TrainSpec:
        if self.batch % self.accumulate:
            raise _contradiction(
                f"a batch of {self.batch} images is not {self.accumulate} equal parts"
            )
        if self.schedule.warmup >= self.epochs:
            raise _contradiction(
                f"the warm-up takes {self.schedule.warmup:g} of {self.epochs} epochs; "
                "schedule.warmup must be less than epochs"
            )
        if self.optimizer.nesterov and self.optimizer.name != "sgd":
            raise _contradiction(f"nesterov goes with sgd, not with {self.optimizer.name}")
        return self


def _contradiction(message: str) -> PydanticCustomError:
    return PydanticCustomError("recipe", "{message}", {"message": message})
