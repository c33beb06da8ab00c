"""The spec language's root keys as pydantic models; what a layer's op may say stands with the op.

Everything here is validated data without places: `alexc.spec.parse` puts the faults where they
belong in the file.
"""

from __future__ import annotations

import keyword
import re
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from alexc.ops.base import AsTuple, NonNegative, Pair, Positive, Record
from alexc.source import resolve
from alexc.spec.names import Names, clip, listing
from alexc.spec.recipe import TrainSpec

# The number formats that a layer can compute and keep its result in.
Precision = Literal["fp32", "fp16", "bf16"]

# The root keys that say what the net is made of, and what they are for; `Header` has the others.
STRUCTURE = {
    "layers": "Layers by name, in the order of the data.",
    "blocks": "Groups of layers given once and used with parameters.",
    "extends": "The spec that this one changes, relative to this file.",
}

# Keys of a layer that are not its op's fields.
LAYER_KEYS = ("op", "inputs", "init")

# Words of letters, digits, _ and -, of any script; a slash groups them (`inception_3a/1x1`). There
# is no dot: torch and the weights file use it to part a layer from its parameter.
_LAYER_NAME = re.compile(r"\w[\w-]*(/\w[\w-]*)*\Z")

# Attributes of every torch module, and of the TorchNet that a net becomes: a layer of such a name
# could not be its submodule. Written out, since checking a spec must not import torch; a test holds
# them against the classes.
RESERVED_NAMES = frozenset(
    """
    T_destination add_module apply bfloat16 buffers call_super_init children compile cpu cuda
    double dump_patches eval extra_repr float forward get_buffer get_extra_state get_parameter
    get_submodule graph half intermediates ipu load_state_dict modules mtia named_buffers
    named_children named_modules named_parameters parameters register_backward_hook
    register_buffer register_forward_hook register_forward_pre_hook register_full_backward_hook
    register_full_backward_pre_hook register_load_state_dict_post_hook
    register_load_state_dict_pre_hook register_module register_parameter
    register_state_dict_post_hook register_state_dict_pre_hook requires_grad_ set_extra_state
    set_submodule share_memory state_dict to to_empty train training type xpu zero_grad
    """.split()
)


def check_layer_name(name: str) -> str | None:
    """Why `name` can't name a layer, or None if it can."""
    if name == "input":
        return "`input` is the name of the net's input"
    if name in RESERVED_NAMES:
        return f"`{name}` is an attribute of every PyTorch module"
    if keyword.iskeyword(name):
        return f"`{name}` is a word of Python, in which the net is a module with its layers' names"
    if len(name) > 100:
        return "it is longer than 100 characters"
    if name.startswith("_") or not _LAYER_NAME.match(name):
        return "a name is of letters, digits, _ and -, joined by /, a letter or digit first"
    if not isinstance(resolve(name), str):
        return "where another layer reads it, it is no name but a value"
    return None


class InputSpec(Record):
    """The image that the net takes; the batch is always symbolic."""

    channels: Positive = Field(description="Planes of the image: 3 for colour.", examples=[3])
    height: Positive = Field(description="Rows, in pixels.", examples=[227])
    width: Positive = Field(description="Columns, in pixels.", examples=[227])


# ---- initial weights -----------------------------------------------------------------------------

_WithValue = Literal["normal", "truncated_normal", "uniform", "constant"]
_ByShape = Literal["kaiming_normal", "kaiming_uniform", "xavier_normal", "xavier_uniform"]
Scheme = Literal[_WithValue, _ByShape]
_SCHEMES_WITH_VALUE: tuple[str, ...] = get_args(_WithValue)
_SCHEMES_BY_SHAPE: tuple[str, ...] = get_args(_ByShape)
_SCHEMES: tuple[str, ...] = get_args(Scheme)
_NUMBER = (int, float)


class DistributionModel(Record):
    """What initial values are drawn from. `value` is the standard deviation, bound or constant."""

    scheme: Scheme
    value: float | None = Field(default=None, allow_inf_nan=False)

    @model_validator(mode="after")
    def _value_fits(self) -> DistributionModel:
        if (self.scheme in _SCHEMES_WITH_VALUE) != (self.value is not None):
            word = "needs a" if self.value is None else "takes no"
            raise _no_distribution(f"{self.scheme} {word} number", f"write {_how(self.scheme)}")
        if self.value is not None and self.value < 0 and self.scheme != "constant":
            what = "bound" if self.scheme == "uniform" else "standard deviation"
            raise _no_distribution(f"a {what} is at least 0, and {self.value:g} is given")
        return self


def _no_distribution(message: str, help: str | None = None) -> PydanticCustomError:
    return PydanticCustomError("distribution", "{message}", {"message": message, "help": help})


def _how(scheme: str) -> str:
    return f"{{{scheme}: 0.01}}" if scheme in _SCHEMES_WITH_VALUE else scheme


def _as_distribution(value: Any) -> Any:
    """A distribution as a spec writes it → the fields of DistributionModel."""
    number: Any = None
    match value:
        case bool() | list() | None:
            scheme = ""
        case int() | float():
            scheme, number = "constant", float(value)
        case str():
            scheme = value
        case dict() if len(value) == 1:
            ((scheme, number),) = value.items()
            if scheme in _SCHEMES and (isinstance(number, bool) or not isinstance(number, _NUMBER)):
                raise _no_distribution(f"{scheme} takes one number", f"write {_how(scheme)}")
        case dict():
            scheme = ""
        case _:  # a DistributionModel, from Python
            return value
    if scheme not in _SCHEMES:
        ways = (
            f"write a number; or {_how('normal')}, likewise {listing(_SCHEMES_WITH_VALUE[1:])}; "
            f"or one word: {listing(_SCHEMES_BY_SHAPE, 'or')}"
        )
        raise _no_distribution(
            f"there is no distribution {clip(scheme)}" if scheme else "this is no distribution",
            Names(_SCHEMES).did_you_mean(scheme) or ways,
        )
    return {"scheme": scheme, "value": number}


Distribution = Annotated[
    DistributionModel,
    BeforeValidator(_as_distribution),
    WithJsonSchema(
        {
            "description": "A number, {normal: STD}, {truncated_normal: STD}, {uniform: BOUND}, "
            "{constant: VALUE}, or a scheme that goes by the layer's shape.",
            "anyOf": [
                {"type": "number"},
                {"enum": list(_SCHEMES_BY_SHAPE)},
                {
                    "type": "object",
                    "properties": {name: {"type": "number"} for name in _SCHEMES_WITH_VALUE},
                    "minProperties": 1,
                    "maxProperties": 1,
                    "additionalProperties": False,
                },
            ],
        }
    ),
]


class LayerInit(Record):
    """How one layer's weights are drawn; what is not said comes from the net's `init`."""

    weight: Distribution | None = Field(
        default=None, description="Initial weights.", examples=[{"normal": 0.01}]
    )
    bias: Distribution | None = Field(default=None, description="Initial biases.", examples=[1])


Recipe = Literal["paper", "caffe", "kaiming", "xavier", "torch"]
RECIPES: tuple[Recipe, ...] = get_args(Recipe)


class InitSpec(LayerInit):
    """The net's initial weights: a recipe by name, and what differs from it in every layer."""

    recipe: Recipe = Field(
        default="kaiming",
        description="paper: Krizhevsky 2012, section 5; caffe: Caffe's AlexNet; kaiming: He 2015, "
        "normal, fan-in; xavier: Glorot 2010, uniform; torch: PyTorch's defaults.",
    )


def _as_init(value: Any) -> Any:
    return {"recipe": value} if isinstance(value, str) else value


InitField = Annotated[
    InitSpec,
    BeforeValidator(_as_init),
    WithJsonSchema(
        {
            "description": "How weights are drawn when none are given; default: kaiming.",
            "examples": ["paper"],
            "anyOf": [
                {"enum": list(RECIPES)},
                InitSpec.model_json_schema(),
            ],
        }
    ),
]


# ---- the rest of the root ------------------------------------------------------------------------


class Expect(Record):
    """Facts from the source, checked at every build."""

    parameters: NonNegative | None = Field(
        default=None, description="Trainable parameters of the net.", examples=[60965224]
    )
    macs: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="Multiply–accumulates per image.", examples=[724406816]
    )
    layer_parameters: dict[str, NonNegative] = Field(
        default={}, description="Trainable parameters by layer.", examples=[{"conv1": 34944}]
    )
    shapes: dict[str, Annotated[tuple[Positive, ...], AsTuple]] = Field(
        default={},
        description="Output shapes by layer, without the batch.",
        examples=[{"pool5": [256, 6, 6]}],
    )


_Numbers = Annotated[tuple[Annotated[float, Field(allow_inf_nan=False)], ...], AsTuple]


def _no_zero(values: tuple[float, ...]) -> tuple[float, ...]:
    if any(value <= 0 for value in values):
        raise PydanticCustomError("not_positive", "a standard deviation is greater than 0")
    return values


class Preprocess(Record):
    """From a photograph to the net's input: resize, crop, channels, then (x·scale − mean) / std."""

    resize: Positive | None = Field(
        default=None,
        description="Length of the shorter side after resizing, in pixels.",
        examples=[256],
    )
    crop: Pair | None = Field(
        default=None,
        description="Size of the centre crop, [height, width] in pixels; default: the net's input.",
        examples=[227],
    )
    channels: Literal["rgb", "bgr", "grey"] = Field(
        default="rgb", description="Order of the input's channels."
    )
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        default=1.0,
        description="Factor on the pixel values 0 … 255, before the mean.",
        examples=[1],
    )
    mean: _Numbers | None = Field(
        default=None,
        description="Per channel in the input's order, subtracted after scaling.",
        examples=[[123.68, 116.78, 103.94]],
    )
    std: Annotated[_Numbers, AfterValidator(_no_zero)] | None = Field(
        default=None,
        description="Per channel, divided by after the mean.",
        examples=[[0.229, 0.224, 0.225]],
    )


class Allowance(Record):
    """A warning that the author has seen and accepts, with the reason."""

    lint: str = Field(description="The warning's code.", examples=["lint/dropped-pixels"])
    layer: str | None = Field(default=None, description="Only at this layer; default: everywhere.")
    reason: Annotated[str, Field(min_length=1)] = Field(description="Why it is as it should be.")


class Header(Record):
    """The root keys of a spec, all but `layers`, `blocks` and `extends`."""

    alexc: Literal[1] = Field(description="Version of the spec language.")
    name: Annotated[str, Field(pattern=r"^[\w][\w.-]*$", max_length=100)] = Field(
        description="The net's name, also the folder of its bundle.", examples=["alexnet"]
    )
    source: str | None = Field(
        default=None, description="The paper, file or page that the spec follows."
    )
    description: str | None = Field(default=None, description="What the net is for.")
    input: InputSpec = Field(description="The image that the net takes.")
    outputs: Annotated[Annotated[tuple[str, ...], Field(min_length=1)], AsTuple] | None = Field(
        default=None,
        description="Layers whose values are the result; default: the last layer.",
        examples=[["fc8"]],
    )
    init: InitField = InitSpec()
    expect: Expect = Field(default=Expect(), description="Facts checked at every build.")
    preprocess: Preprocess | None = Field(
        default=None, description="From a photograph to the net's input."
    )
    precision: dict[str, Precision] = Field(
        default={},
        description="Layers that keep this precision, whatever the build is told.",
        examples=[{"fc8": "fp32"}],
    )
    train: TrainSpec | None = Field(
        default=None, description="The recipe by which the net's weights are learnt."
    )
    labels: Annotated[tuple[str, ...], AsTuple] | Annotated[str, Field(min_length=1)] | None = (
        Field(
            default=None,
            description="Names of the classes: a list, or a text file with one a line.",
        )
    )
    allow: Annotated[tuple[Allowance, ...], AsTuple] = Field(
        default=(), description="Warnings that are accepted, each with its reason."
    )
