"""TensorRT as a backend of the cross-check, on an engine of straw.

No machine of the tests has a GPU. The double's plans are the models that they were built from, and
it runs them with ONNX Runtime: so what the backend builds to localise must be good models, and what
it loads must be the very bytes of the bundle. That TensorRT takes these models too is seen where
its builder runs without a GPU.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from alexc.assembly.options import Options, Target
from alexc.build import build
from alexc.diagnostics import AlexcError
from alexc.engines.options import PlanOptions
from alexc.engines.record import BatchRange, Built, EngineRecord, not_built
from alexc.engines.tensorrt import Plan, build_plan
from alexc.graph.graph import Graph
from alexc.lower.to_onnx import serialize, to_onnx
from alexc.ops.base import Padding
from alexc.ops.conv import Conv
from alexc.ops.dense import Linear
from alexc.ops.norm import Lrn
from alexc.ops.pixels import Pixels
from alexc.ops.pointwise import Dropout, Relu
from alexc.ops.pool import MaxPool
from alexc.ops.structure import Add, Flatten
from alexc.passes.inference import inference
from alexc.passes.precision import with_precision
from alexc.passes.read_pixels import read_pixels
from alexc.verify import Report, crosscheck, verify
from alexc.verify.backends import tensorrt
from alexc.verify.backends.base import Backend, Subject
from alexc.verify.backends.onnxruntime import OnnxRuntime
from alexc.verify.backends.tensorrt import PlanBackend, TensorRTForRTX
from alexc.verify.exchange import Exchange
from alexc.verify.onnx_parts import detached, given_name, instrumented
from alexc.verify.plan_parts import in_float32, lend_weights, packed
from alexc.weights import store
from alexc_runtime.engines.base import Engine
from alexc_runtime.errors import EngineError
from alexc_runtime.manifest import Bundle
from tests import test_quantize
from tests.cases import weights_for
from tests.small_specs import Project, project
from tests.straw_plans import GoodPlans, WrongPlans, weaken, with_weights

__all__ = ["project"]  # a fixture

Weights = dict[str, NDArray[np.float32]]
PIXELS = Pixels(scale=1 / 255, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
BUILT = Built("1.7.1", (), (BatchRange(1, 2, 4), BatchRange(5, 5, 9)))


def small_net() -> Graph:
    return Graph.build(
        "small",
        (3, 11, 13),
        [
            ("conv1", Conv(out_channels=8, kernel_size=(3, 3), padding=_PADDED), ("input",)),
            ("relu1", Relu(), ("conv1",)),
            ("norm1", Lrn(size=5, alpha=0.5, beta=0.75, k=2.0, alpha_per="window"), ("relu1",)),
            ("twice", Add(), ("norm1", "relu1")),
            ("pool1", MaxPool(kernel_size=(3, 3), stride=(2, 2)), ("twice",)),
            ("flat", Flatten(), ("pool1",)),
            ("drop", Dropout(p=0.5), ("flat",)),
            ("fc2", Linear(out_features=7), ("drop",)),
        ],
        ("fc2",),
    )


_PADDED = Padding(top=1, left=1, bottom=1, right=1)


class StrawEngine(Engine):
    """Runs a plan that is a model: float32 in and out, batches as the record has them."""

    name: ClassVar[str] = "tensorrt_rtx"
    needs_plan: ClassVar[bool] = True
    ran: ClassVar[list[tuple[Path, int, str]]] = []

    def __init__(self, bundle: Bundle, record: EngineRecord, threads: int | None) -> None:  # noqa: ARG002
        assert record.path is not None
        assert record.built is not None
        self._path = bundle.path(record.path)
        self._manifest = bundle.manifest
        profiles = record.built.profiles
        self.batch_limits = (min(p.min for p in profiles), max(p.max for p in profiles))
        model = onnx.load(str(self._path), load_external_data=False)
        if not model.graph.node:
            raise EngineError("engine/load", "tensorrt_rtx can't load it: it is damaged or no plan")
        self.compile(model)
        self._session = onnxruntime.InferenceSession(model.SerializeToString())

    def compile(self, model: onnx.ModelProto) -> None:
        """What becomes of the model on its way to kernels."""

    @classmethod
    def obstacle(cls) -> str | None:
        return None

    def run(self, batch: Any) -> dict[str, Any]:
        smallest, largest = self.batch_limits
        assert smallest <= len(batch) <= (largest or len(batch))
        self.ran.append((self._path, len(batch), str(batch.dtype)))
        wanted = self._manifest.input
        assert batch.shape[1:] == wanted.shape
        assert batch.dtype == wanted.dtype
        names = [output.name for output in self._manifest.outputs]
        found = dict(zip(names, self._session.run(names, {wanted.name: batch}), strict=True))
        for output in self._manifest.outputs:
            assert found[output.name].shape == (len(batch), *output.shape)
            assert found[output.name].dtype == np.float32
        return found

    def close(self) -> None:
        del self._session


def straw_build(model: Path, plan: Path, **how: Any) -> Plan:
    """A plan that is the model itself."""
    plan.write_bytes(with_weights(model).SerializeToString())
    options: PlanOptions = how["options"]
    return Plan(
        EngineRecord(
            how["flavour"],
            how["precision"],
            "built, not run",
            str(plan),
            Built("1.7.1", (), options.profiles),
        )
    )


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a GPU of straw."""
    monkeypatch.setattr(StrawEngine, "ran", [])
    monkeypatch.setattr(TensorRTForRTX, "engine", StrawEngine)
    monkeypatch.setattr(tensorrt, "build_plan", straw_build)


class Written:
    """A net with its model and a plan of it in a folder, and what the plan is recorded as."""

    def __init__(
        self, folder: Path, *, written: Graph | None = None, precision: str = "fp32"
    ) -> None:
        self.graph = small_net()
        self.written = written or inference(self.graph)
        self.weights = weights_for(self.graph)
        file = folder / "weights.safetensors"
        store.write(file, self.weights)
        self.model = folder / "model.onnx"
        self.model.write_bytes(serialize(to_onnx(self.written, store.extents(file))))
        self.plan = folder / "engines" / "small.plan"
        self.plan.parent.mkdir()
        self.plan.write_bytes(with_weights(self.model).SerializeToString())
        path = "engines/small.plan"
        self.record = EngineRecord("tensorrt_rtx", precision, "built, not run", path, BUILT)

    def verify(self, **options: Any) -> Report:
        chosen = {"backends": ["tensorrt_rtx"], "isolate": False, **options}
        return verify(
            self.graph,
            self.weights,
            self.model,
            written=self.written,
            plans=[self.record],
            **chosen,
        )


def test_a_good_plan_passes_in_every_check_and_profile(tmp_path: Path) -> None:
    written = Written(tmp_path)
    report = written.verify(batch=2)
    assert report.passed, report.to_json()
    layers = {node.name for node in written.written.nodes}
    for check in ("alone", "provoked", "end_to_end"):
        assert {row.layer for row in report.rows if row.check == check} == layers
    assert [row.images for row in report.rows if row.check == "shipped"] == [None, 1, 2, 4, 5, 9]
    shipped = [size for path, size, _ in StrawEngine.ran if path == written.plan]
    assert shipped == [2, 1, 2, 4, 5, 9]
    assert len(StrawEngine.ran) == len(shipped) + 3  # the whole net, layers alone, and provoked


def test_a_plan_of_something_else_is_caught_though_the_model_is_right(tmp_path: Path) -> None:
    written = Written(tmp_path)
    model = onnx.load(str(written.plan), load_external_data=False)
    weaken(model)
    written.plan.write_bytes(model.SerializeToString())
    report = written.verify()
    assert not report.passed
    assert {(row.layer, row.check) for row in report.rows if not row.passed} == {("fc2", "shipped")}
    assert report.first_divergence is not None
    assert report.first_divergence.check == "shipped"


def test_a_wrong_kernel_is_localised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StrawEngine, "compile", lambda _, model: weaken(model))
    report = Written(tmp_path).verify()
    first = report.first_divergence
    assert first is not None
    assert (first.layer, first.kind) == ("norm1", "local")


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_each_precision_has_tolerances_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """Weights rounded to TF32, as its kernels round them, pass where the plan is in TF32 alone."""

    def round_weights(_: StrawEngine, model: onnx.ModelProto) -> None:
        for index, tensor in enumerate(model.graph.initializer):
            if tensor.name.endswith("weight"):
                array = onnx.numpy_helper.to_array(tensor)
                bits = array.astype(np.float32).view(np.uint32) + np.uint32(0x1000)
                rounded = (bits & np.uint32(0xFFFFE000)).view(np.float32)
                replaced = onnx.numpy_helper.from_array(rounded, tensor.name)
                model.graph.initializer[index].CopyFrom(replaced)

    monkeypatch.setattr(StrawEngine, "compile", round_weights)
    report = Written(tmp_path, precision=precision).verify()
    assert report.passed == (precision == "tf32"), report.to_json()


def test_a_narrow_plan_is_seen_in_float32(tmp_path: Path) -> None:
    graph = inference(small_net())
    narrow = graph.rebuilt(precisions=dict.fromkeys(("conv1", "relu1", "norm1"), "fp16"))
    report = Written(tmp_path, written=narrow, precision="fp16").verify()
    assert report.passed, report.to_json()
    held = {row.layer for row in report.rows if row.check == "end_to_end"}
    assert {"conv1", "relu1", "norm1"} <= held


def test_a_plan_that_reads_pixels_is_given_pixels(tmp_path: Path) -> None:
    written = Written(tmp_path, written=read_pixels(inference(small_net()), PIXELS))
    report = written.verify()
    assert report.passed, report.to_json()
    assert {kind for path, _, kind in StrawEngine.ran if path == written.plan} == {"uint8"}


def test_batches_that_the_plan_does_not_take_are_filled_up(tmp_path: Path) -> None:
    written = Written(tmp_path)
    built = replace(BUILT, profiles=(BatchRange(3, 3, 3),))
    written.record = replace(written.record, built=built)
    assert written.verify(batch=2).passed
    assert written.verify(batch=7).passed
    assert {size for path, size, _ in StrawEngine.ran if path == written.plan} == {3}


def test_a_plan_that_the_engine_refuses_has_not_passed(tmp_path: Path) -> None:
    written = Written(tmp_path)
    written.plan.write_bytes(b"")
    (result,) = written.verify().backends
    assert result.passed is False
    assert result.status == "failed: tensorrt_rtx can't load it: it is damaged or no plan"


def test_a_copy_that_can_not_be_built_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(model: Path, plan: Path, **how: Any) -> Plan:  # noqa: ARG001
        return Plan(not_built("tensorrt_rtx", "fp32", "no room"))

    monkeypatch.setattr(tensorrt, "build_plan", build)
    report = Written(tmp_path).verify()
    (result,) = report.backends
    assert (result.passed, result.status) == (False, "failed: not built: no room")
    assert any(row.check == "shipped" and row.passed for row in report.rows)


def test_without_a_gpu_nothing_ran_and_nothing_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StrawEngine, "obstacle", classmethod(lambda _: "there is no NVIDIA GPU"))
    written = Written(tmp_path)
    report = written.verify()
    assert not report.passed
    assert [(b.status, b.passed) for b in report.backends] == [
        ("not run: there is no NVIDIA GPU", None)
    ]
    report = written.verify(backends=None)
    assert report.passed
    by_name = {result.backend: result for result in report.backends}
    assert by_name["tensorrt_rtx"].status == "not run: there is no NVIDIA GPU; shapes read"
    assert by_name["tensorrt_rtx"].passed is None
    assert "tensorrt" not in by_name or by_name["tensorrt"].passed is None


def test_without_a_plan_there_is_nothing_to_run(tmp_path: Path) -> None:
    written = Written(tmp_path)
    report = verify(
        written.graph, written.weights, written.model, backends=["tensorrt_rtx"], isolate=False
    )
    assert [b.status for b in report.backends] == ["not run: there is no plan for it"]
    assert not report.passed


def test_another_process_is_told_of_the_plans(tmp_path: Path) -> None:
    written = Written(tmp_path)
    subject = Subject(
        written.graph,
        written.weights,
        written.model,
        written.written,
        plans={"tensorrt_rtx": written.record},
    )
    folder = tmp_path / "exchange"
    folder.mkdir()
    exchange = Exchange(folder)
    exchange.put_subject(subject, tmp_path / "weights.safetensors")
    assert exchange.subject().plans == subject.plans


# ---- in a build ----------------------------------------------------------------------------------

SPEC = """\
alexc: 1
name: small
input: {channels: 3, height: 11, width: 13}
layers:
  conv1: {op: conv, out_channels: 4, kernel_size: 3}
  norm1: {op: lrn, size: 3, alpha: 0.5, beta: 0.75, k: 2, alpha_per: window}
"""
PLAN = "engines/tensorrt_rtx-fp32.plan"


@pytest.mark.parametrize("kind", [GoodPlans, WrongPlans])
def test_a_build_verifies_its_plans_where_there_is_a_gpu(
    project: Project, monkeypatch: pytest.MonkeyPatch, kind: type[PlanBackend]
) -> None:
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.undo()
    chosen: dict[str, type[Backend]] = {"onnxruntime": OnnxRuntime, "tensorrt_rtx": kind}
    monkeypatch.setattr(crosscheck, "BACKENDS", chosen)
    monkeypatch.setattr(crosscheck, "READERS", {})
    batch = BatchRange(2, 3, 5)
    options = Options(
        project.folder / "out",
        targets=(Target("tensorrt_rtx"), Target("onnxruntime")),
        plans=PlanOptions((batch,)),
    )
    net = project.load(SPEC)
    if kind is WrongPlans:
        with pytest.raises(AlexcError, match="norm1 on tensorrt_rtx does not compute"):
            build(net, options, lambda _: None)
        assert not options.out.exists()
        return
    manifest = build(net, options, lambda _: None).manifest
    (record,) = [each for each in manifest.engines if each.engine == "tensorrt_rtx"]
    assert (record.status, record.path) == ("verified", PLAN)
    assert manifest.verification.digests[PLAN] == manifest.files[PLAN].sha256
    report = json.loads((options.out / "verify.json").read_text(encoding="utf-8"))
    sizes = {row["images"] for row in report["layers"] if row["backend"] == "tensorrt_rtx"}
    assert {batch.min, batch.opt, batch.max} <= sizes


# ---- what TensorRT itself takes, and does --------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8", "fp8", "uint8 input"])
def test_tensorrts_builder_takes_the_copies(precision: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    graph = test_quantize.net()
    weights = weights_for(graph)
    narrow = {
        "fp16": lambda: with_precision(inference(graph), "fp16"),
        "bf16": lambda: with_precision(inference(graph), "bf16"),
        "int8": lambda: test_quantize.on_grids(weights, "int8"),
        "fp8": lambda: test_quantize.on_grids(weights, "fp8"),
        "uint8 input": lambda: read_pixels(inference(graph), PIXELS),
    }[precision]()
    model = test_quantize.write(narrow, weights, tmp_path)
    whole, names = in_float32(instrumented(model, narrow))
    nodes = list(narrow.nodes)
    feeds: Weights = {
        given_name(node.name, source): np.zeros((2, *narrow.shapes[source]), np.float32)
        for node in nodes
        for source in node.inputs
    }
    alone, _ = packed(detached(model, narrow, nodes, weights)[0], feeds)
    for index, copied in enumerate((whole, alone)):
        folder = tmp_path / f"copy-{index}"
        folder.mkdir()
        (folder / "model.onnx").write_bytes(copied)
        lend_weights(model, copied, folder)
        options = PlanOptions((BatchRange(2, 2, 2),), level=1)
        built = build_plan(folder / "model.onnx", folder / "copy.plan", options=options)
        assert built.record.path is not None, built.record.status
        outputs = set(names.values()) if index == 0 else {node.name for node in nodes}
        assert outputs <= built.tensors.keys()


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_a_real_plan_is_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    monkeypatch.undo()
    if (why := TensorRTForRTX.engine.obstacle()) is not None:
        pytest.skip(why)
    written = Written(tmp_path, precision=precision)
    options = PlanOptions(BUILT.profiles)
    built = build_plan(written.model, written.plan, precision=precision, options=options)
    written.record = replace(built.record, path=written.record.path)
    report = written.verify(isolate=True)
    assert report.passed, report.to_json()
