"""The cross-check from the outside: what it says of good nets, of faults, and of bad backends."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from alexc.diagnostics import AlexcError, UsageError
from alexc.graph.graph import INPUT, Graph
from alexc.lower.to_onnx import serialize, to_onnx
from alexc.ops.base import Padding
from alexc.ops.conv import Conv
from alexc.ops.dense import Linear
from alexc.ops.norm import BatchNorm, Lrn
from alexc.ops.pointwise import Dropout, Relu, Softmax
from alexc.ops.pool import MaxPool
from alexc.ops.structure import Flatten
from alexc.passes.inference import inference
from alexc.passes.precision import with_precision
from alexc.verify import Report, verify
from alexc.verify.backends import BACKENDS
from alexc.verify.backends.base import Backend
from alexc.verify.compare import compare
from alexc.verify.inputs import KINDS, batch, kinds_for
from alexc.verify.page import page
from alexc.weights import store
from alexc_runtime.manifest import BatchRange
from alexc_runtime.opening import ENGINES
from tests.broken_backends import (
    Crashing,
    Exact,
    Forgetful,
    Hanging,
    Leaving,
    Poisoned,
    Quiet,
    Talkative,
    Uneven,
)
from tests.campaigns.false_alarms import verify_random_net

Weights = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Written:
    """A net, its weights, and the model of both in a folder."""

    graph: Graph
    weights: Weights
    model: Path
    file: Path  # of the weights

    def verify(self, **options: Any) -> Report:
        return verify(self.graph, self.weights, self.model, **{"isolate": False, **options})


def small_net() -> Graph:
    return Graph.build(
        "small",
        (3, 11, 13),
        [
            ("first", Conv(out_channels=8, kernel_size=(3, 3), padding=_pad(1)), (INPUT,)),
            ("second", Relu(), ("first",)),
            ("norm", Lrn(size=5, alpha=1e-2, beta=0.75, k=2.0, alpha_per="element"), ("second",)),
            ("pool", MaxPool(kernel_size=(3, 2), stride=(2, 2)), ("norm",)),
            ("flat", Flatten(), ("pool",)),
            ("drop", Dropout(), ("flat",)),
            ("scores", Linear(out_features=6), ("drop",)),
            ("prob", Softmax(), ("scores",)),
        ],
        ("prob",),
    )  # fmt: skip


def _pad(size: int) -> Padding:
    return Padding(top=size, left=size, bottom=size, right=size)


def write(graph: Graph, folder: Path, weights: Weights | None = None) -> Written:
    generator = np.random.default_rng(3)
    drawn = {
        name: 0.3 * generator.standard_normal(parameter.shape, dtype=np.float32)
        for name, parameter in graph.parameters.items()
    }
    weights = weights or drawn
    file = folder / "weights.safetensors"
    store.write(file, weights)
    model = folder / "model.onnx"
    model.write_bytes(serialize(to_onnx(inference(graph), store.extents(file))))
    return Written(graph, weights, model, file)


@pytest.fixture(name="net")
def _net(tmp_path: Path) -> Written:
    return write(small_net(), tmp_path)


@pytest.fixture(name="among_backends")
def _among_backends(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a backend among those that there are."""

    def add(kind: type[Backend]) -> str:
        monkeypatch.setitem(BACKENDS, kind.name, kind)
        return kind.name

    return add


# ---- a net without a fault -----------------------------------------------------------------------


def test_a_good_net_passes_on_every_backend_and_in_every_check(net: Written) -> None:
    report = net.verify(backends=["torch", "onnxruntime"])
    assert report.passed
    assert report.first_divergence is None
    assert [(b.backend, b.status, b.passed) for b in report.backends] == [
        ("torch", "ran", True),
        ("onnxruntime", "ran", True),
    ]
    named = {node.name for node in net.graph.nodes}
    for backend, layers in (("torch", named), ("onnxruntime", named - {"drop"})):
        for check in ("alone", "provoked", "end_to_end"):
            rows = [r for r in report.rows if (r.backend, r.check) == (backend, check)]
            assert {row.layer for row in rows} == layers
            assert len(rows) == len(layers)
        assert [r.layer for r in report.rows if (r.backend, r.check) == (backend, "shipped")] == [
            "prob",  # of the whole batch,
            "prob",  # of one image, and
            "prob",  # of three
        ]
        weighted = [r.layer for r in report.rows if (r.backend, r.check) == (backend, "parameters")]
        assert weighted == ["first", "first", "scores", "scores"]


def test_the_json_is_the_contract(net: Written) -> None:
    found = json.loads(json.dumps(net.verify().to_json(), allow_nan=False))
    assert {"passed", "reference", "backends", "layers", "first_divergence"} <= set(found)
    assert found["passed"] is True
    assert found["first_divergence"] is None
    assert {"backend", "status", "passed"} <= set(found["backends"][0])
    for row in found["layers"]:
        assert {"layer", "backend", "max_abs", "rel_l2", "tolerance", "passed"} <= set(row)
        assert row["passed"] == (row["max_abs"] <= row["tolerance"])


def test_the_same_seed_gives_the_same_report(net: Written) -> None:
    first, again = (net.verify(backends=["torch"], seed=5).to_json() for _ in range(2))
    assert first == again


@pytest.mark.parametrize("images", [1, 3])
def test_images_that_are_given_are_used(net: Written, images: int) -> None:
    given = batch((3, 11, 13), images, 1)
    seen: list[NDArray[np.float32]] = []

    class Watching(Exact):
        name = "watching"

        def tensors(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
            seen.append(images)
            return super().tensors(images)

    BACKENDS["watching"] = Watching
    try:
        assert verify(
            net.graph, net.weights, None, inputs=given, backends=["watching"], isolate=False
        ).passed
    finally:
        del BACKENDS["watching"]
    np.testing.assert_array_equal(seen[0], given)


def test_every_kind_of_image_is_given_and_the_report_says_so(net: Written) -> None:
    report = net.verify(seed=4)
    assert report.passed, report.first_divergence
    assert report.inputs is not None
    assert tuple(report.inputs.kinds) == KINDS
    assert report.inputs.images == len(KINDS)
    assert report.inputs.seed == 4
    same, other = (net.verify(seed=seed, backends=["torch"]).inputs for seed in (4, 5))
    assert same is not None
    assert other is not None
    assert same.digest == report.inputs.digest != other.digest
    assert "8 images drawn from seed 4 (structured, gaussian, zeros," in page(report, "net")


def test_of_a_large_net_fewer_images_are_drawn() -> None:
    def wide(pixels: int) -> Graph:
        layers = [("copy", Relu(), (INPUT,)), ("more", Relu(), ("copy",))]
        return Graph.build("wide", (3, pixels, pixels), layers, ("more",))

    assert kinds_for(wide(5)) == KINDS
    assert kinds_for(wide(1600)) == KINDS[:4]  # 2·3·1600² numbers an image, of 2^26
    assert kinds_for(wide(4000)) == KINDS[:2]
    assert kinds_for(wide(4000), 9) == (*KINDS, KINDS[0])


def test_what_overflows_fp16_by_its_nature_is_not_given_to_a_net_in_fp16(net: Written) -> None:
    narrow = with_precision(inference(net.graph), "fp16", {})
    net.model.write_bytes(serialize(to_onnx(narrow, store.extents(net.file))))
    report = net.verify(written=narrow, backends=["onnxruntime"])
    assert report.passed, report.first_divergence
    assert report.inputs is not None
    assert set(report.inputs.kinds) == set(KINDS) - {"large"}


def test_outputs_are_compared_in_batches_of_every_size_that_is_served(net: Written) -> None:
    served = BatchRange(2, 5, 11)
    report = net.verify(backends=["torch", "onnxruntime"], batch=5, batches=served)
    shipped = [row for row in report.rows if row.check == "shipped"]
    assert report.passed
    assert [row.images for row in shipped if row.backend == "torch"] == [None, 1, 3]
    assert [row.images for row in shipped if row.backend == "onnxruntime"] == [None, 1, 2, 3, 11]
    assert report.inputs is not None
    assert report.inputs.batches == [1, 2, 3, 5, 11]


def test_an_output_that_is_wrong_in_one_size_of_batch_is_told(
    net: Written, among_backends: Any
) -> None:
    report = net.verify(backends=[among_backends(Uneven)])
    assert [(row.layer, row.check, row.images) for row in report.rows if not row.passed] == [
        ("prob", "shipped", 3)
    ]


def test_what_serves_is_what_is_certified(net: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped outputs are those of the runtime's engines, with its settings."""
    opened = []

    def watch(engine: Any) -> None:
        load = engine.__init__

        def watched(self: Any, bundle: Any, record: Any, threads: Any) -> None:
            opened.append((self.name, record.path, threads))
            load(self, bundle, record, threads)

        monkeypatch.setattr(engine, "__init__", watched)

    watch(ENGINES["onnxruntime"])
    watch(ENGINES["openvino"])
    backends = ["onnxruntime", *(["openvino"] if BACKENDS["openvino"].missing() is None else [])]
    assert net.verify(backends=backends).passed
    assert opened == [(name, "model.onnx", None) for name in backends]


def test_others_read_the_same_shapes_out_of_the_model(net: Written) -> None:
    report = net.verify()
    rows = [row for row in report.rows if row.check == "shapes"]
    layers = {node.name for node in net.graph.nodes} - {"drop"}
    assert {row.layer for row in rows if row.backend == "onnx"} == layers
    by_name = {result.backend: result for result in report.backends}
    # Reading is not running.
    assert by_name["onnx"].passed is None
    assert by_name["onnx"].status == "shapes read; not run"


def test_another_shape_of_a_tensor_is_named_without_running_it(net: Written) -> None:
    import onnx

    model = onnx.load(str(net.model), load_external_data=False)
    pool = next(node for node in model.graph.node if node.output[0] == "pool")
    next(a for a in pool.attribute if a.name == "strides").ints[:] = [2, 1]
    net.model.write_bytes(serialize(model))
    report = net.verify()
    assert report.first_divergence is not None
    assert report.first_divergence.layer == "pool"
    row = next(r for r in report.rows if r.layer == "pool" and r.check == "shapes")
    assert row.message == ("onnx reads batch×8×5×12 of float32 and not batch×8×5×6 of float32")


def test_overflow_in_fp16_is_foretold_with_a_patch(net: Written) -> None:
    assert net.verify(backends=["torch"]).notes == ()
    images = 3000 * batch((3, 11, 13), 2, 0)
    (note,) = net.verify(backends=["torch"], inputs=images).notes
    assert note.endswith("precision: {norm: fp32}")
    assert "fp16 would overflow above 65504 in norm (" in note


def test_progress_is_told(net: Written) -> None:
    said: list[str] = []
    net.verify(backends=["torch"], progress=said.append)
    assert said == ["computing the reference", "running torch"]


@pytest.mark.parametrize("seed", range(25))
def test_random_nets_raise_no_false_alarm(seed: int, tmp_path: Path) -> None:
    report = verify_random_net(seed, tmp_path, ("torch", "onnxruntime"))
    assert report.passed, report.first_divergence


# ---- faults --------------------------------------------------------------------------------------


def test_a_wrong_weight_in_the_file_is_named(net: Written, tmp_path: Path) -> None:
    altered = {name: array.copy() for name, array in net.weights.items()}
    altered["scores.weight"][2, 5] *= 1 + 2.0**-20
    store.write(tmp_path / "weights.safetensors", altered)
    report = net.verify()
    assert not report.passed
    assert report.first_divergence is not None
    assert report.first_divergence.to_json() == {
        "layer": "scores",
        "backend": "onnxruntime",
        "check": "parameters",
        "kind": "local",
    }
    row = next(row for row in report.rows if not row.passed)
    assert row.message == "scores.weight differs from the weights in 1 of 1440 numbers"


def test_a_wrong_attribute_is_local_and_what_follows_inherits(net: Written) -> None:
    import onnx

    model = onnx.load(str(net.model), load_external_data=False)
    norm = next(node for node in model.graph.node if node.output[0] == "norm")
    next(a for a in norm.attribute if a.name == "alpha").f *= 5
    net.model.write_bytes(serialize(model))
    report = net.verify(backends=["onnxruntime"])
    assert report.first_divergence is not None
    assert (report.first_divergence.layer, report.first_divergence.kind) == ("norm", "local")
    failed = {(row.layer, row.check) for row in report.rows if not row.passed}
    assert ("norm", "alone") in failed
    assert ("scores", "end_to_end") in failed
    assert ("scores", "alone") not in failed
    assert ("first", "end_to_end") not in failed


def test_nan_is_a_failure_with_the_layer_named(net: Written, among_backends: Any) -> None:
    report = net.verify(backends=[among_backends(Poisoned)])
    assert not report.passed
    assert report.first_divergence is not None
    assert report.first_divergence.layer == "second"
    row = next(row for row in report.rows if not row.passed)
    assert row.max_abs is None
    assert row.message == "1 of 9152 numbers are not finite (NaN)"
    json.dumps(report.to_json(), allow_nan=False)


def test_a_model_that_does_not_load_is_still_searched_for_the_layer(net: Written) -> None:
    import onnx

    model = onnx.load(str(net.model), load_external_data=False)
    norm = next(node for node in model.graph.node if node.output[0] == "norm")
    next(a for a in norm.attribute if a.name == "size").i = 4
    net.model.write_bytes(serialize(model))
    report = net.verify(backends=["onnxruntime"])
    assert not report.passed
    assert report.backends[0].status.startswith("failed: ")
    assert report.backends[0].passed is False
    assert report.first_divergence is not None
    assert (report.first_divergence.layer, report.first_divergence.kind) == ("norm", "local")


def test_overflow_is_told_from_a_fault(tmp_path: Path) -> None:
    graph = Graph.build(
        "large",
        (2, 3, 5),
        [("norm", Lrn(size=3, alpha=1.0, beta=0.75, k=1.0, alpha_per="element"), (INPUT,))],
        ("norm",),
    )
    net = write(graph, tmp_path, {})
    images = np.full((1, 2, 3, 5), 1e20, np.float32)
    report = net.verify(backends=["torch"], inputs=images)
    row = next(row for row in report.rows if row.check == "end_to_end")
    assert not row.passed
    assert row.message is None or "the reference passes through 2e+40" in row.message


# ---- backends that are missing, asked for, or broken ---------------------------------------------


def test_without_a_model_only_the_module_is_verified(net: Written) -> None:
    report = verify(net.graph, net.weights, None, isolate=False)
    by_name = {result.backend: result for result in report.backends}
    assert report.passed
    assert by_name["torch"].passed is True
    assert by_name["onnxruntime"].passed is None
    assert by_name["onnxruntime"].status == "not run: there is no model.onnx"


def test_what_did_not_run_has_not_passed(net: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BACKENDS["onnxruntime"], "packages", ("a_package_nobody_has",))
    report = net.verify(backends=["torch", "onnxruntime"])
    assert not report.passed
    result = report.backends[1]
    assert result.passed is None
    assert result.status == "not run: a_package_nobody_has is not installed"


def test_a_model_that_nothing_ran_is_not_verified(
    net: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("onnxruntime", "openvino"):
        monkeypatch.setattr(BACKENDS[name], "packages", ("a_package_nobody_has",))
    report = net.verify()
    assert report.backends[0].passed is True
    assert not report.passed


def test_a_backend_that_does_not_exist_is_a_usage_error(net: Written) -> None:
    with pytest.raises(UsageError, match="there is no backend tensorflow"):
        net.verify(backends=["tensorflow"])


def test_images_of_another_shape_are_a_usage_error(net: Written) -> None:
    with pytest.raises(UsageError, match="verify/input-shape"):
        net.verify(inputs=np.zeros((2, 3, 13, 11), np.float32))


def test_a_crash_is_the_backends_own(net: Written, among_backends: Any) -> None:
    names = [among_backends(Crashing), among_backends(Exact)]
    report = verify(net.graph, net.weights, None, backends=names)
    crashed, exact = report.backends
    assert crashed.status == "crashed: ended by SIGSEGV while computing the whole net"
    assert crashed.passed is False
    assert exact.passed is True
    assert not report.passed
    kept = {row.check for row in report.rows if row.backend == "crashing"}
    assert kept == {"parameters", "alone", "provoked"}


def test_ending_well_and_too_early_is_not_passing(net: Written, among_backends: Any) -> None:
    report = verify(net.graph, net.weights, None, backends=[among_backends(Quiet)])
    assert report.backends[0].status == "crashed: exit status 0 while computing the whole net"
    assert report.backends[0].passed is False
    assert not report.passed


def test_without_the_shipped_outputs_nothing_has_passed(net: Written, among_backends: Any) -> None:
    report = net.verify(backends=[among_backends(Forgetful)])
    assert not report.passed
    row = next(row for row in report.rows if not row.passed)
    assert (row.layer, row.check, row.message) == (
        "prob",
        "shipped",
        "forgetful has no tensor prob",
    )


def test_a_backend_that_hangs_is_ended(net: Written, among_backends: Any) -> None:
    names = [among_backends(Hanging), among_backends(Exact)]
    report = verify(net.graph, net.weights, None, backends=names, patience=3)
    hung, exact = report.backends
    assert hung.status == "timed out: no answer for 3 s while computing the outputs"
    assert hung.passed is False
    assert exact.passed is True
    assert any(row.check == "end_to_end" and row.backend == "hanging" for row in report.rows)


def test_a_backend_that_leaves_is_told_with_its_last_words(
    net: Written, among_backends: Any
) -> None:
    report = verify(net.graph, net.weights, None, backends=[among_backends(Leaving)])
    status = report.backends[0].status
    assert status == "crashed: exit status 3 (licence not found) while being loaded"
    assert not report.passed


def test_what_a_backend_prints_is_no_answer(net: Written, among_backends: Any) -> None:
    report = verify(net.graph, net.weights, None, backends=[among_backends(Talkative)])
    assert report.backends[0].status == "ran"
    assert report.passed


def test_a_temporary_folder_without_room_is_a_fault(
    net: Written, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(AlexcError, match="verify/temporary-folder"):
        verify(net.graph, net.weights, None, backends=["torch"])


def test_two_processes_find_what_one_finds(tmp_path: Path) -> None:
    """Graphs, arrays and answers come through the exchange as they are."""
    uneven = Padding(top=1, right=2)
    graph = Graph.build(
        "exchanged",
        (2, 7, 9),
        [
            ("conv", Conv(out_channels=6, kernel_size=(3, 2), padding=uneven), (INPUT,)),
            ("norm", BatchNorm(), ("conv",)),
            ("drop", Dropout(), ("norm",)),
            ("relu", Relu(), ("drop",)),
        ],
        ("relu", "norm"),
    )  # fmt: skip
    net = write(graph, tmp_path)
    net.weights["norm.running_var"][:] = np.abs(net.weights["norm.running_var"])
    net = write(graph, tmp_path, net.weights)
    backends = ["torch", "onnxruntime"]
    apart, together = (net.verify(backends=backends, isolate=each) for each in (True, False))
    assert apart.passed
    assert _facts(apart) == _facts(together)


def _facts(report: Report) -> list[tuple[Any, ...]]:
    return sorted((r.layer, r.backend, r.check, r.passed, r.tolerance > 0) for r in report.rows)


# ---- one backend against another -----------------------------------------------------------------


def test_two_backends_are_held_against_each_other(net: Written) -> None:
    report = net.verify(backends=["torch"], against="onnxruntime")
    assert report.passed
    assert report.reference == "onnxruntime"
    assert [(b.backend, b.status, b.passed) for b in report.backends] == [
        ("onnxruntime", "ran; the others are held against it", None),
        ("torch", "ran", True),
    ]
    checks = {row.check for row in report.rows}
    assert checks == {"alone", "provoked", "end_to_end", "shipped"}
    # What the module has and the model has not can't be held against it.
    assert {row.layer for row in report.rows} == {n.name for n in net.graph.nodes} - {"drop"}
    apart = {(r.layer, r.check, r.images): r for r in net.verify(backends=["torch"]).rows}
    for row in report.rows:
        if row.max_abs:  # the tolerances are those of both, each element's its own
            assert row.tolerance > 0.5 * apart[row.layer, row.check, row.images].tolerance


def test_a_fault_of_either_of_two_backends_is_found_in_its_layer(
    net: Written, among_backends: Any
) -> None:
    exact, poisoned = among_backends(Exact), among_backends(Poisoned)
    forward = net.verify(backends=[poisoned], against=exact)
    assert forward.first_divergence is not None
    assert (forward.first_divergence.layer, forward.first_divergence.backend) == (
        "second",
        "poisoned",
    )
    back = net.verify(backends=[exact], against=poisoned)
    assert not back.passed
    assert back.first_divergence is not None
    assert back.first_divergence.layer == "second"
    row = next(row for row in back.rows if not row.passed)
    assert row.message == "poisoned gives numbers that are not finite"


def test_formats_that_differ_are_allowed_what_they_differ_by(net: Written) -> None:
    """A net in fp16 and the module in fp32: exactly what fp16 costs, in the whole net alone."""
    narrow = with_precision(inference(net.graph), "fp16", {})
    net.model.write_bytes(serialize(to_onnx(narrow, store.extents(net.file))))
    report = net.verify(written=narrow, backends=["onnxruntime"], against="torch")
    assert report.passed, report.first_divergence
    assert {row.check for row in report.rows} == {"end_to_end", "shipped"}


def test_a_witness_that_fails_is_no_witness(net: Written, among_backends: Any) -> None:
    crashing, exact = among_backends(Crashing), among_backends(Exact)
    report = verify(net.graph, net.weights, None, backends=[exact], against=crashing)
    assert not report.passed
    assert report.backends[0].passed is False
    assert report.backends[0].status.startswith("crashed: ")


@pytest.mark.parametrize(
    ("backends", "against", "code"),
    [
        (["torch"], "torch", "verify/against"),
        (["torch"], "tensorflow", "verify/unknown-backend"),
        (["torch"], "onnxruntime_form", "verify/against"),
    ],
)
def test_what_can_not_be_held_against_is_a_usage_error(
    net: Written, backends: list[str], against: str, code: str
) -> None:
    with pytest.raises(UsageError, match=code):
        net.verify(backends=backends, against=against)


# ---- comparing -----------------------------------------------------------------------------------


def test_a_row_passes_exactly_if_its_largest_error_is_within_its_tolerance() -> None:
    """Each element has its own tolerance; the row's is carried over to the largest error."""
    expected = np.array([[1.0, 100.0]])
    allowed = np.array([[1e-6, 1e-2]])
    fine = compare("a", "b", "alone", expected + np.array([[5e-7, 5e-3]]), expected, allowed)
    assert fine.passed
    assert fine.max_abs == pytest.approx(5e-3)
    assert fine.tolerance == pytest.approx(1e-2)
    wrong = compare("a", "b", "alone", expected + np.array([[4e-6, 5e-3]]), expected, allowed)
    assert not wrong.passed
    assert wrong.max_abs == pytest.approx(5e-3)
    assert wrong.tolerance == pytest.approx(5e-3 / 4)


@pytest.mark.parametrize("worst", [1.0, 1.0 + 1e-12])
def test_rounding_does_not_turn_a_verdict(worst: float) -> None:
    expected, allowed = np.zeros((1, 1)), np.full((1, 1), 0.1)
    row = compare("a", "b", "alone", expected + 0.1 * worst, expected, allowed)
    assert row.max_abs is not None
    assert row.passed == (row.max_abs <= row.tolerance) == (0.1 * worst <= 0.1)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_reference_or_tolerance_that_is_not_finite_fails(bad: float) -> None:
    good, wrong = np.ones((1, 2)), np.array([[1.0, bad]])
    for expected, allowed in ((good, wrong), (wrong, good), (wrong, wrong)):
        row = compare("a", "b", "alone", good, expected, allowed)
        assert not row.passed
        assert row.message == "the reference or its tolerance is not finite"
        json.dumps(row.to_json(), allow_nan=False)


def test_another_shape_is_told_with_both() -> None:
    row = compare("a", "b", "alone", np.zeros((2, 3)), np.zeros((2, 4)), np.zeros((2, 4)))
    assert not row.passed
    assert row.message == "the result has the shape 2×3 and not 2×4"


# ---- the page ------------------------------------------------------------------------------------


def test_the_page_stands_alone_and_tells_what_failed(net: Written) -> None:
    report = net.verify(backends=["torch"])
    rows = [replace(report.rows[-1], layer="<evil>", passed=False, max_abs=1.0), *report.rows]
    text = page(replace(report, rows=rows, passed=False), "small & fine")
    assert text.startswith("<!doctype html>")
    assert "small &amp; fine" in text
    assert "<evil>" not in text
    assert "FAILED" in text
    assert not re.search(r"""(src|href)=["']?http""", text)
    assert text.count("<svg") == text.count("</svg>") == 1
    for node in net.graph.nodes:
        assert f">{node.name}</text>" in text
