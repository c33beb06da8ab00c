"""The ops' fields, shape rules, parameters and MACs: by the table of cases, and at their limits."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from alexc.ops import OPS
from alexc.ops.base import MAX_ELEMENTS, Op, Padding, Parameter, Shape, ShapeFault
from alexc.ops.conv import Conv
from alexc.ops.dense import Linear
from alexc.ops.norm import BatchNorm, Lrn
from alexc.ops.pool import AdaptiveAvgPool, AvgPool, MaxPool
from alexc.ops.structure import Add, Concat
from alexc.ops.window import Axis, image_axes
from tests.cases import CASES, Case


def op(kind: str, **fields: Any) -> Op:
    """An op as a spec writes it."""
    return OPS[kind].model_validate(fields)


# ---- the table -----------------------------------------------------------------------------------


def test_every_op_has_cases() -> None:
    assert {case.op.kind for case in CASES} == set(OPS)


def test_every_field_takes_two_values_in_the_cases() -> None:
    """A field that always has one value in the table could be ignored and no test would fail."""
    irrelevant = {("batch_norm", "momentum"), ("dropout", "p")}  # act in training alone
    for kind, cls in OPS.items():
        for name in cls.model_fields:
            values = {repr(getattr(case.op, name)) for case in CASES if case.op.kind == kind}
            assert len(values) > 1 or (kind, name) in irrelevant, f"{kind}.{name}"


def test_sizes_within_a_case_differ() -> None:
    alike = []
    for case in CASES:
        for shape in (*case.inputs, case.output):
            sizes = (case.batch, *(size for size in shape if size != 1))
            if len(set(sizes)) < len(sizes):
                alike.append(f"{case}: {sizes}")
    assert not alike


def test_case_names_differ() -> None:
    assert len({str(case) for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_output_shape(case: Case) -> None:
    assert case.op.output_shape(*case.inputs) == case.output


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_op_survives_json(case: Case) -> None:
    cls = type(case.op)
    assert cls.model_validate(case.op.model_dump(mode="json")) == case.op
    assert cls.model_validate_json(case.op.model_dump_json()) == case.op


# ---- parameters and MACs -------------------------------------------------------------------------


def test_parameters_of_a_grouped_convolution() -> None:
    conv2 = op("conv", out_channels=256, kernel_size=5, padding=2, groups=2)
    parameters = conv2.parameters((96, 27, 27))
    assert {name: p.shape for name, p in parameters.items()} == {
        "weight": (256, 48, 5, 5),
        "bias": (256,),
    }
    assert sum(p.count for p in parameters.values()) == 307_456
    assert conv2.macs((96, 27, 27)) == 256 * 27 * 27 * 48 * 5 * 5


def test_parameters_of_a_linear_layer() -> None:
    fc6 = op("linear", out_features=4096)
    assert {name: p.shape for name, p in fc6.parameters((9216,)).items()} == {
        "weight": (4096, 9216),
        "bias": (4096,),
    }
    assert fc6.macs((9216,)) == 9216 * 4096


def test_without_bias() -> None:
    assert list(op("linear", out_features=3, bias=False).parameters((2,))) == ["weight"]
    plain = op("conv", out_channels=3, kernel_size=1, bias=False)
    assert list(plain.parameters((2, 5, 4))) == ["weight"]


@pytest.mark.parametrize("shape", [(7, 4, 3), (7,)])
def test_statistics_are_not_trainable(shape: Shape) -> None:
    statistics = {
        "running_mean": Parameter((7,), trainable=False),
        "running_var": Parameter((7,), trainable=False),
    }
    affine = {"weight": Parameter((7,)), "bias": Parameter((7,))}
    assert BatchNorm().parameters(shape) == affine | statistics
    assert BatchNorm(affine=False).parameters(shape) == statistics


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.op.kind not in ("conv", "linear")], ids=str
)
def test_only_products_with_weights_count_as_macs(case: Case) -> None:
    assert case.op.macs(*case.inputs) == 0


# ---- shapes that don't fit -----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Misfit:
    """Shapes that an op must refuse, and every word that it must say."""

    op: Op
    inputs: tuple[Shape, ...]
    code: str
    message: str
    field: str | None
    help: str

    def __str__(self) -> str:
        shapes = "+".join("x".join(map(str, shape)) for shape in self.inputs)
        return f"{self.code}-{self.op.kind}-{shapes}-{self.field}"


MISFITS = [
    Misfit(
        op("conv", out_channels=256, kernel_size=5, groups=5),
        ((96, 27, 27),),
        "shape/groups",
        "96 input channels do not divide into groups=5",
        "groups",
        "divisors of 96 and 256: 1, 2, 4, 8, 16, 32",
    ),
    Misfit(
        op("conv", out_channels=9, kernel_size=5, groups=2),
        ((6, 27, 27),),
        "shape/groups",
        "9 output channels do not divide into groups=2",
        "groups",
        "divisors of 6 and 9: 1, 3",
    ),
    Misfit(
        op("conv", out_channels=720720, kernel_size=1, groups=11),
        ((1441441, 1, 1),),
        "shape/groups",
        "1441441 input channels do not divide into groups=11",
        "groups",
        "divisors of 1441441 and 720720: 1",
    ),
    Misfit(
        op("conv", out_channels=720720, kernel_size=1, groups=17),
        ((720720, 1, 1),),
        "shape/groups",
        "720720 input channels do not divide into groups=17",
        "groups",
        "divisors of 720720 and 720720: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, …",
    ),
    Misfit(
        op("conv", out_channels=5, kernel_size=11, stride=4),
        ((3, 7, 23),),
        "shape/kernel-too-large",
        "the kernel spans 11 rows and the padded image has 7: ⌊(7 − 11) / 4⌋ + 1 = 0",
        "kernel_size",
        "a kernel_size of at most 7 rows, or 4 rows more of padding or of input",
    ),
    Misfit(
        op("conv", out_channels=5, kernel_size=[2, 4], padding=[0, 1], dilation=3),
        ((3, 7, 6),),
        "shape/kernel-too-large",
        "the kernel spans 10 columns and the padded image has 8: "
        "⌊(1 + 6 + 1 − (3·(4 − 1) + 1)) / 1⌋ + 1 = -1",
        "kernel_size",
        "a kernel_size of at most 3 columns, or 2 columns more of padding or of input",
    ),
    Misfit(
        op("max_pool", kernel_size=3, stride=2),
        ((5, 2, 4),),
        "shape/kernel-too-large",
        "the kernel spans 3 rows and the padded image has 2: ⌊(2 − 3) / 2⌋ + 1 = 0",
        "kernel_size",
        "a kernel_size of at most 2 rows, or 1 row more of padding or of input",
    ),
    Misfit(
        op("avg_pool", kernel_size=7, stride=2, ceil_mode=True),
        ((5, 8, 4),),
        "shape/kernel-too-large",
        "the kernel spans 7 columns and the padded image has 4: ⌈(4 − 7) / 2⌉ + 1 = 0",
        "kernel_size",
        "a kernel_size of at most 5 columns, or 2 columns more of padding or of input",
    ),
    Misfit(
        op("max_pool", kernel_size=[3, 2], padding={"right": 2}),
        ((5, 8, 4),),
        "shape/padding-too-large",
        "padding of 2 and a window of 2 columns: a window could see nothing of the image",
        "padding",
        "padding of at most 1 on a side",
    ),
    Misfit(
        op("linear", out_features=4096),
        ((256, 6, 7),),
        "shape/not-flat",
        "linear needs features and gets 256×6×7",
        None,
        "put a flatten before it: 256·6·7 = 10752 features",
    ),
    *(
        Misfit(
            image_op,
            ((9216,),),
            "shape/not-an-image",
            f"{image_op.kind} needs channels×height×width and gets 9216",
            None,
            "put it before the flatten",
        )
        for image_op in (
            op("conv", out_channels=5, kernel_size=3),
            op("max_pool", kernel_size=3),
            op("avg_pool", kernel_size=3),
            op("adaptive_avg_pool", output_size=3),
            op("lrn", size=5, alpha=1, beta=1, k=1, alpha_per="window"),
        )
    ),
    Misfit(
        Add(),
        ((64, 56, 55), (128, 56, 55)),
        "shape/add",
        "cannot add 64×56×55 and 128×56×55: 128×56×55 differs from 64×56×55",
        "inputs",
        "a 1×1 convolution with out_channels=64 gives 64×56×55",
    ),
    Misfit(
        Add(),
        ((64, 56, 55), (64, 56, 55), (64, 28, 27)),
        "shape/add",
        "cannot add 64×56×55, 64×56×55 and 64×28×27: 64×28×27 differs from 64×56×55",
        "inputs",
        "make every input 64×56×55; stride and padding set height and width",
    ),
    Misfit(
        Add(),
        ((10,), (12,)),
        "shape/add",
        "cannot add 10 and 12: 12 differs from 10",
        "inputs",
        "a linear layer with out_features=10 gives 10",
    ),
    Misfit(
        Add(),
        ((10,), (10, 1, 1)),
        "shape/add",
        "cannot add 10 and 10×1×1: 10×1×1 differs from 10",
        "inputs",
        "flatten all of the inputs or none of them",
    ),
    Misfit(
        Concat(),
        ((64, 28, 27), (32, 28, 26)),
        "shape/concat",
        "cannot concatenate 64×28×27 and 32×28×26: "
        "all but the channels must agree, and 28×26 differs from 28×27",
        "inputs",
        "make height×width 28×27 in every input; stride and padding of the branches set it",
    ),
    Misfit(
        Concat(),
        ((64, 28, 27), (32,)),
        "shape/concat",
        "cannot concatenate 64×28×27 and 32: an image and features do not join",
        "inputs",
        "flatten all of the inputs or none of them",
    ),
    Misfit(
        op("conv", out_channels=2**31 - 1, kernel_size=3),
        ((3, 5, 4),),
        "shape/too-large",
        "the output would be 2147483647×3×2 = 12,884,901,882 numbers",
        None,
        "a tensor holds at most 2,147,483,647 numbers",
    ),
    Misfit(
        op("conv", out_channels=10**5, kernel_size=1),
        ((10**5, 1, 1),),
        "shape/too-large",
        "the weight would be 100000×100000×1×1 = 10,000,000,000 numbers",
        "out_channels",
        "a tensor holds at most 2,147,483,647 numbers",
    ),
    Misfit(
        op("conv", out_channels=5, kernel_size=1, padding=10**9, stride=10**9),
        ((3, 5, 4),),
        "shape/too-large",
        "the padded input would be 3×2000000005×2000000004 = 12,000,000,054,000,000,060 numbers",
        "padding",
        "a tensor holds at most 2,147,483,647 numbers",
    ),
    Misfit(
        op("linear", out_features=10**6),
        ((10**4,),),
        "shape/too-large",
        "the weight would be 1000000×10000 = 10,000,000,000 numbers",
        "out_features",
        "a tensor holds at most 2,147,483,647 numbers",
    ),
    Misfit(
        op("adaptive_avg_pool", output_size=[10**5, 10**5]),
        ((3, 5, 4),),
        "shape/too-large",
        "the output would be 3×100000×100000 = 30,000,000,000 numbers",
        "output_size",
        "a tensor holds at most 2,147,483,647 numbers",
    ),
    Misfit(
        Concat(),
        ((2**30, 1, 1), (2**30, 1, 1)),
        "shape/too-large",
        "the output would be 2147483648×1×1 = 2,147,483,648 numbers",
        None,
        "a tensor holds at most 2,147,483,647 numbers",
    ),
]


@pytest.mark.parametrize("misfit", MISFITS, ids=str)
def test_shapes_that_do_not_fit(misfit: Misfit) -> None:
    with pytest.raises(ShapeFault) as caught:
        misfit.op.output_shape(*misfit.inputs)
    fault = caught.value
    said = fault.code, fault.message, fault.field, fault.help
    assert said == (misfit.code, misfit.message, misfit.field, misfit.help)
    assert fault.field in {None, "inputs", *type(misfit.op).model_fields}


@pytest.mark.parametrize("ceil", [False, True])
def test_the_help_for_a_large_kernel_helps(ceil: bool) -> None:
    """What the help proposes fits, and one pixel more does not."""
    tall = AvgPool(kernel_size=(9, 2), stride=(3, 1), ceil_mode=ceil)
    largest, missing = (7, 2) if ceil else (5, 4)
    with pytest.raises(ShapeFault) as caught:
        tall.output_shape((3, 5, 8))
    assert caught.value.help is not None
    assert f"at most {largest} rows, or {missing} rows more" in caught.value.help
    fits = AvgPool(kernel_size=(largest, 2), stride=(3, 1), ceil_mode=ceil)
    assert fits.output_shape((3, 5, 8)) == (3, 1, 7)
    assert tall.output_shape((3, 5 + missing, 8)) == (3, 1, 7)


def test_the_largest_tensor_is_allowed() -> None:
    assert Linear(out_features=1).output_shape((MAX_ELEMENTS,)) == (1,)


# ---- windows along an axis -----------------------------------------------------------------------


def axes(ceil: bool) -> st.SearchStrategy[Axis]:
    """Any axis of a convolution; or, in ceil mode, any that a pool allows."""
    return st.builds(
        Axis,
        name=st.just("rows"),
        size=st.integers(1, 20),
        before=st.integers(0, 6),
        after=st.integers(0, 6),
        kernel=st.integers(1, 7),
        stride=st.integers(1, 8),
        dilation=st.integers(1, 3),
        ceil=st.just(ceil),
    ).map(_as_pool if ceil else lambda axis: axis)


def _as_pool(axis: Axis) -> Axis:
    before, after = axis.before % axis.kernel, axis.after % axis.kernel
    return dataclasses.replace(axis, before=before, after=after, dilation=1)


def window_starts(axis: Axis) -> list[int]:
    """Where windows start, by laying them down one after the other."""
    starts: list[int] = []
    start = 0
    while start + axis.span <= axis.padded or (
        # In ceil mode a window may hang over the edge, if the one before left pixels unread ...
        axis.ceil
        and start + axis.span < axis.padded + axis.stride
        # ... and if it sees the image.
        and start < axis.before + axis.size
    ):
        starts.append(start)
        start += axis.stride
    return starts


@given(axes(ceil=False) | axes(ceil=True))
def test_windows_are_counted_as_they_are_laid(axis: Axis) -> None:
    starts = window_starts(axis)
    assert max(axis.count, 0) == len(starts)
    if starts:
        end = starts[-1] + axis.span
        assert axis.reach == end
        assert axis.overhang == max(0, end - axis.padded)
        assert axis.unread == max(0, axis.padded - end)
        assert axis.ceil or axis.overhang == 0
        assert axis.unread < axis.stride + axis.after


@given(axes(ceil=False).map(_as_pool) | axes(ceil=True))
def test_every_pooling_window_sees_the_image(axis: Axis) -> None:
    """This is why padding must be smaller than the window: no divisor is 0, no maximum is −∞."""
    for start in window_starts(axis):
        assert start < axis.before + axis.size
        assert start + axis.kernel > axis.before
    # Engines refuse pads as wide as the window; what hangs over is part of the pad they see.
    if axis.count >= 1:
        assert axis.after + axis.overhang < axis.kernel


def test_sides_go_to_their_axes() -> None:
    sides = Padding(top=1, left=2, bottom=3, right=4)
    rows, columns = image_axes((3, 10, 20), (5, 6), (1, 2), sides, (2, 3))
    assert (rows.size, rows.before, rows.after, rows.kernel, rows.stride) == (10, 1, 3, 5, 1)
    assert (columns.size, columns.before, columns.after) == (20, 2, 4)
    assert (columns.kernel, columns.stride, rows.dilation, columns.dilation) == (6, 2, 2, 3)


# ---- fields --------------------------------------------------------------------------------------


def test_one_number_stands_for_both_axes() -> None:
    square = op("conv", out_channels=5, kernel_size=3, stride=2, padding=1, dilation=4)
    assert square == Conv(
        out_channels=5,
        kernel_size=(3, 3),
        stride=(2, 2),
        padding=Padding(top=1, left=1, bottom=1, right=1),
        dilation=(4, 4),
    )


def test_two_numbers_are_rows_and_columns() -> None:
    pool = op("max_pool", kernel_size=[3, 2], padding=[1, 0])
    assert pool == MaxPool(kernel_size=(3, 2), padding=Padding(top=1, bottom=1))


def test_sides_by_name() -> None:
    pool = op("avg_pool", kernel_size=3, padding={"right": 1, "bottom": 2})
    assert pool == AvgPool(kernel_size=(3, 3), padding=Padding(bottom=2, right=1))


def test_a_pool_steps_by_its_window() -> None:
    assert MaxPool(kernel_size=(3, 2)).steps == (3, 2)
    assert MaxPool(kernel_size=(3, 2), stride=(1, 4)).steps == (1, 4)


def test_alpha_in_both_conventions() -> None:
    fields: dict[str, Any] = {"size": 5, "alpha": 0.5, "beta": 0.75, "k": 2}
    paper = op("lrn", **fields, alpha_per="element")
    caffe = op("lrn", **fields, alpha_per="window")
    within = op("lrn", **fields, alpha_per="window", region="within_channel")
    assert isinstance(paper, Lrn)
    assert isinstance(caffe, Lrn)
    assert isinstance(within, Lrn)
    assert (paper.alpha_per_element, paper.alpha_per_window) == (0.5, 2.5)
    assert (caffe.alpha_per_element, caffe.alpha_per_window) == (0.1, 0.5)
    assert (within.alpha_per_element, within.alpha_per_window) == (0.02, 0.5)


@pytest.mark.parametrize(
    ("kind", "fields", "at"),
    [
        ("conv", {"kernel_size": 3}, ("out_channels",)),
        ("conv", {"out_channels": 5}, ("kernel_size",)),
        ("conv", {"out_channels": 0, "kernel_size": 3}, ("out_channels",)),
        ("conv", {"out_channels": 2**31, "kernel_size": 3}, ("out_channels",)),
        ("conv", {"out_channels": 5.0, "kernel_size": 3}, ("out_channels",)),
        ("conv", {"out_channels": "5", "kernel_size": 3}, ("out_channels",)),
        ("conv", {"out_channels": True, "kernel_size": 3}, ("out_channels",)),
        ("conv", {"out_channels": 5, "kernel_size": True}, ("kernel_size",)),
        ("conv", {"out_channels": 5, "kernel_size": [3, 0]}, ("kernel_size", 1)),
        ("conv", {"out_channels": 5, "kernel_size": [3, 3, 3]}, ("kernel_size",)),
        ("conv", {"out_channels": 5, "kernel_size": None}, ("kernel_size",)),
        ("conv", {"out_channels": 5, "kernel_size": 3, "padding": -1}, ("padding", "top")),
        ("conv", {"out_channels": 5, "kernel_size": 3, "padding": "same"}, ("padding",)),
        ("conv", {"out_channels": 5, "kernel_size": 3, "padding": {"up": 1}}, ("padding", "up")),
        ("conv", {"out_channels": 5, "kernel_size": 3, "bias": 1}, ("bias",)),
        ("conv", {"out_channels": 5, "kernel_size": 3, "pading": 1}, ("pading",)),
        ("relu", {"inplace": True}, ("inplace",)),
        ("lrn", {"size": 5, "alpha": 1, "beta": 1, "k": 1}, ("alpha_per",)),
        ("dropout", {"p": 1}, ("p",)),
        ("dropout", {"p": float("nan")}, ("p",)),
        ("batch_norm", {"eps": 0}, ("eps",)),
        ("batch_norm", {"momentum": 1.5}, ("momentum",)),
    ],
)
def test_fields_that_are_refused(kind: str, fields: dict[str, Any], at: tuple[Any, ...]) -> None:
    with pytest.raises(ValidationError) as caught:
        op(kind, **fields)
    assert at in [error["loc"] for error in caught.value.errors()]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", 0),
        ("alpha", -1e-4),
        ("alpha", float("inf")),
        ("beta", 0),
        ("k", 0),
        ("k", True),
        ("alpha_per", "channel"),
        ("region", "within_channels"),
    ],
)
def test_lrn_fields_that_are_refused(field: str, value: Any) -> None:
    good = {"size": 5, "alpha": 1e-4, "beta": 0.75, "k": 2, "alpha_per": "element"}
    op("lrn", **good)
    with pytest.raises(ValidationError) as caught:
        op("lrn", **good | {field: value})
    assert [error["loc"] for error in caught.value.errors()] == [(field,)]


def test_an_even_window_is_refused() -> None:
    with pytest.raises(ValidationError) as caught:
        op("lrn", size=4, alpha=1, beta=1, k=1, alpha_per="window")
    (error,) = caught.value.errors()
    assert error["type"] == "even_window"
    assert error["msg"] == (
        "a window of 4 has no middle: libraries disagree on where it lies; 3 and 5 have one"
    )


def test_ops_are_frozen() -> None:
    pool = AdaptiveAvgPool(output_size=(3, 2))
    with pytest.raises(ValidationError):
        pool.output_size = (1, 1)  # type: ignore[misc]
    assert hash(pool) == hash(AdaptiveAvgPool(output_size=(3, 2)))


# ---- what an editor shows ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", OPS)
def test_the_schema_explains_every_field(kind: str) -> None:
    schema = OPS[kind].model_json_schema()
    assert schema["description"]
    for name, field in schema.get("properties", {}).items():
        assert field.get("description"), name
        assert field.get("examples") or field.get("type") == "boolean", name


@pytest.mark.parametrize("kind", OPS)
def test_the_examples_are_legal(kind: str) -> None:
    cls = OPS[kind]
    good = next(case.op for case in CASES if case.op.kind == kind).model_dump(mode="json")
    for name, field in cls.model_fields.items():
        for example in field.examples or []:
            cls.model_validate(good | {name: example})
