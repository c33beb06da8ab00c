"""ONNX Runtime on a GPU as a backend of the cross-check, with the CPU's provider in its place.

No machine of the tests has a GPU. What is asked of the providers is tested here, and what they are
told; that their kernels compute the same, only a GPU can tell.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

import alexc_runtime
from alexc.assembly.options import Options, Target
from alexc.build import build
from alexc.diagnostics import AlexcError, UsageError
from alexc.engines.options import PlanOptions
from alexc.graph.graph import Graph
from alexc.lower.to_onnx import serialize, to_onnx
from alexc.ops.conv import Conv
from alexc.ops.dense import Linear
from alexc.ops.norm import Lrn
from alexc.ops.pixels import Pixels
from alexc.ops.pointwise import Relu
from alexc.ops.structure import Flatten
from alexc.passes.inference import inference
from alexc.passes.precision import with_precision
from alexc.passes.read_pixels import read_pixels
from alexc.verify import Report, crosscheck, verify
from alexc.verify.backends import onnxruntime_gpu
from alexc.verify.backends.base import Backend, BackendFault, Subject
from alexc.verify.backends.onnxruntime import OnnxRuntime, load
from alexc.verify.backends.onnxruntime_gpu import OnnxRuntimeCuda, OnnxRuntimeTensorRT
from alexc.verify.exchange import Exchange
from alexc.verify.precision import BF16, FP16, FP32, TF32, of_layers
from alexc.weights import store
from alexc_runtime.engines import onnxruntime_gpu as engines
from alexc_runtime.manifest import MODEL, WEIGHTS, BatchRange, EngineRecord
from tests.cases import weights_for
from tests.small_specs import Project, project
from tests.straw_onnxruntime import (
    TOLD,
    GoodCuda,
    GoodTensorRT,
    OnCpu,
    PlansOnCpu,
    WrongCuda,
)

__all__ = ["project"]


def small_net() -> Graph:
    return Graph.build(
        "small",
        (3, 10, 14),
        [
            ("conv1", Conv(out_channels=6, kernel_size=(3, 2)), ("input",)),
            ("relu1", Relu(), ("conv1",)),
            ("norm1", Lrn(size=3, alpha=0.5, beta=0.75, k=2.0, alpha_per="window"), ("relu1",)),
            ("flat", Flatten(), ("norm1",)),
            ("fc2", Linear(out_features=5), ("flat",)),
        ],
        ("fc2",),
    )


PIXELS = Pixels(scale=1 / 255, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a GPU of straw, on which ONNX Runtime is and nothing else."""
    use(monkeypatch, OnnxRuntime, GoodCuda, GoodTensorRT)
    monkeypatch.setattr(crosscheck, "READERS", {})
    TOLD.clear()
    PlansOnCpu.ran.clear()


def use(monkeypatch: pytest.MonkeyPatch, *kinds: type[Backend]) -> None:
    monkeypatch.setattr(crosscheck, "BACKENDS", {kind.name: kind for kind in kinds})


class Written:
    """A net and its model in a folder."""

    def __init__(self, folder: Path, written: Graph | None = None) -> None:
        self.graph = small_net()
        self.written = written or inference(self.graph)
        self.weights = weights_for(self.graph)
        store.write(folder / WEIGHTS, self.weights)
        self.model = folder / MODEL
        extents = store.extents(folder / WEIGHTS)
        self.model.write_bytes(serialize(to_onnx(self.written, extents)))

    def verify(self, *backends: str, **options: Any) -> Report:
        return verify(
            self.graph,
            self.weights,
            self.model,
            written=self.written,
            backends=backends or None,
            isolate=False,
            **options,
        )


@pytest.mark.parametrize("input", ["float32", "uint8"])
def test_the_model_is_held_in_every_check_as_it_is_served(tmp_path: Path, input: str) -> None:
    pixels = read_pixels(inference(small_net()), PIXELS) if input == "uint8" else None
    written = Written(tmp_path, pixels)
    report = written.verify("onnxruntime_cuda", batch=2, batches=BatchRange(2, 4, 5))
    assert report.passed, report.to_json()
    layers = {node.name for node in written.written.nodes}
    for check in ("alone", "provoked", "end_to_end"):
        assert {row.layer for row in report.rows if row.check == check} == layers
    assert [row.images for row in report.rows if row.check == "shipped"] == [None, 1, 3, 4, 5]
    # What is shipped, the whole net, layers alone, and provoked.
    assert TOLD == [[("CUDAExecutionProvider", {"device_id": "0", "use_tf32": "0"})]] * 4


def test_what_serves_wrongly_has_not_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, WrongCuda)
    report = Written(tmp_path).verify("onnxruntime_cuda")
    assert not report.passed
    assert {(row.layer, row.check) for row in report.rows if not row.passed} == {("fc2", "shipped")}


def test_the_provider_for_tensorrt_is_told_the_batches_and_whose_plans_it_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALEXC_CACHE", str(tmp_path / "cache"))
    written = Written(tmp_path)
    report = written.verify("onnxruntime_tensorrt", batch=2, batches=BatchRange(2, 3, 4))
    assert report.passed, report.to_json()
    assert set(PlansOnCpu.ran) == {2, 3, 4}  # one image is run as two
    digest = hashlib.sha256((tmp_path / WEIGHTS).read_bytes()).hexdigest()
    assert (tmp_path / "cache" / "onnxruntime" / digest).is_dir()
    shipped, *localising = TOLD
    (name, settings), (second, _) = shipped
    assert (name, second) == ("TensorrtExecutionProvider", "CUDAExecutionProvider")
    assert settings["trt_profile_max_shapes"] == "input:4x3x10x14"
    assert [providers[0] for providers in localising] == [(name, {"device_id": "0"})] * 3


def test_a_precision_is_told_to_the_providers(tmp_path: Path) -> None:
    half = with_precision(inference(small_net()), "fp16")
    written = Written(tmp_path, half)
    report = written.verify("onnxruntime_cuda", "onnxruntime_tensorrt", precision="fp16")
    assert report.passed, report.to_json()
    of_tensorrt = [providers[0] for providers in TOLD if len(providers) == 2]
    assert len(of_tensorrt) == 4
    assert all(settings["trt_fp16_enable"] == "1" for _, settings in of_tensorrt)
    TOLD.clear()
    assert Written(tmp_path).verify("onnxruntime_cuda", precision="tf32").passed
    assert TOLD == [[("CUDAExecutionProvider", {"device_id": "0", "use_tf32": "1"})]] * 4


def test_what_takes_the_place_of_fp32_is_tolerated(monkeypatch: pytest.MonkeyPatch) -> None:
    def narrowed(kind: type[Backend]) -> list[str | None]:
        graph = inference(small_net())
        precisions = ("fp32", "tf32", "fp16", "bf16", "int8")
        return [kind.narrows(Subject(graph, {}, None, graph, precision=p)) for p in precisions]

    assert narrowed(OnnxRuntime) == [None, None, None, None, None]
    assert narrowed(OnnxRuntimeCuda) == [None, "tf32", None, None, None]
    assert narrowed(OnnxRuntimeTensorRT) == ["tf32", "tf32", "fp16", "bf16", "tf32"]
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    assert narrowed(OnnxRuntimeTensorRT) == [None, None, "fp16", "bf16", None]

    graph = inference(small_net()).rebuilt(precisions={"conv1": "fp16"})
    plain = {"conv1": FP16, "relu1": FP32, "norm1": FP32, "flat": FP32, "fc2": FP32}
    assert of_layers(graph) == plain
    assert of_layers(graph, "tf32") == {**plain, "fc2": TF32}
    assert of_layers(graph, "bf16") == {**dict.fromkeys(plain, BF16), "conv1": FP16}


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_does_not_start_did_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine whose CUDA lacks a library: here there is no provider at all."""
    monkeypatch.setattr(OnnxRuntimeCuda, "engine", engines.OnnxRuntimeCuda)
    monkeypatch.setattr(OnnxRuntimeCuda, "obstacle", lambda _: None)
    monkeypatch.setattr(OnnxRuntimeCuda, "concerned", lambda _: True)
    use(monkeypatch, OnnxRuntime, OnnxRuntimeCuda)
    report = Written(tmp_path).verify()
    assert report.passed
    status = {result.backend: (result.status, result.passed) for result in report.backends}
    said, passed = status["onnxruntime_cuda"]
    assert passed is None
    assert said.startswith("not run: it can't load the model (")
    assert not Written(tmp_path).verify("onnxruntime_cuda").passed
    with pytest.raises(BackendFault, match="CUDAExecutionProvider could not be started"):
        load(str(tmp_path / MODEL), providers=engines.OnnxRuntimeCuda.computing("fp32"))


def test_without_a_driver_nobody_is_told_of_a_gpu_but_who_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, OnnxRuntime, OnnxRuntimeCuda, OnnxRuntimeTensorRT)
    why = "there is no NVIDIA driver on this machine"
    monkeypatch.setattr(engines, "no_driver", lambda: why)
    monkeypatch.setattr(onnxruntime_gpu, "no_driver", lambda: why)
    written = Written(tmp_path)
    assert [result.backend for result in written.verify().backends] == ["onnxruntime"]
    (asked,) = written.verify("onnxruntime_cuda").backends
    assert (asked.status, asked.passed) == (f"not run: {why}", None)
    # With one, what is missing is said.
    monkeypatch.setattr(onnxruntime_gpu, "no_driver", lambda: None)
    _, *of_gpu = written.verify().backends
    assert [result.status for result in of_gpu] == [f"not run: {why}"] * 2


def test_another_process_is_told_of_batches_and_precision(tmp_path: Path) -> None:
    written = Written(tmp_path)
    graph = written.graph
    subject = Subject(
        graph, written.weights, written.model, graph, batches=BatchRange(1, 2, 3), precision="tf32"
    )
    exchange = Exchange(tmp_path)
    exchange.put_subject(subject, tmp_path / WEIGHTS)
    read = exchange.subject()
    assert (read.batches, read.precision) == (subject.batches, subject.precision)


# ---- in a build ----------------------------------------------------------------------------------

SPEC = """\
alexc: 1
name: small
input: {channels: 3, height: 8, width: 11}
layers:
  conv1: {op: conv, out_channels: 4, kernel_size: 3}
  norm1: {op: lrn, size: 3, alpha: 0.5, beta: 0.75, k: 2, alpha_per: window}
"""


def test_a_build_verifies_them_where_there_is_a_gpu_and_they_serve_first(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, OnnxRuntime, GoodCuda)
    out = project.folder / "out"
    options = Options(out, plans=PlanOptions((BatchRange(2, 3, 5),)))
    monkeypatch.setattr("alexc.assembly.plans.PLAN_ENGINES", ())
    manifest = build(project.load(SPEC), options, lambda _: None).manifest
    record = EngineRecord("onnxruntime_cuda", "fp32", "verified", MODEL)
    assert manifest.engines[0] == record
    report = json.loads((out / "verify.json").read_text(encoding="utf-8"))
    sizes = {row["images"] for row in report["layers"] if row["backend"] == "onnxruntime_cuda"}
    assert {2, 3, 5} <= sizes
    monkeypatch.setitem(alexc_runtime.ENGINES, "onnxruntime_cuda", OnCpu)
    with alexc_runtime.open(out) as session:
        assert (session.engine, session.status) == ("onnxruntime_cuda", "verified")


def test_a_build_in_tf32_has_the_gpu_multiply_in_it(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, OnnxRuntime, GoodCuda)
    monkeypatch.setattr("alexc.assembly.plans.PLAN_ENGINES", ())
    options = Options(project.folder / "out", precision="tf32")
    manifest = build(project.load(SPEC), options, lambda _: None).manifest
    precisions = {record.engine: record.precision for record in manifest.engines}
    assert precisions == {"onnxruntime_cuda": "tf32", "onnxruntime": "fp32"}
    monkeypatch.setitem(alexc_runtime.ENGINES, "onnxruntime_cuda", OnCpu)
    TOLD.clear()
    alexc_runtime.open(options.out).close()
    assert TOLD == [[("CUDAExecutionProvider", {"device_id": "0", "use_tf32": "1"})]]


def test_a_build_refuses_a_gpu_that_computes_something_else(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, OnnxRuntime, WrongCuda)
    monkeypatch.setattr("alexc.assembly.plans.PLAN_ENGINES", ())
    options = Options(project.folder / "out")
    with pytest.raises(AlexcError, match="norm1 on onnxruntime_cuda does not compute"):
        build(project.load(SPEC), options, lambda _: None)
    assert not options.out.exists()


def test_one_that_is_asked_for_and_not_there_is_said_to_be_missing(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, OnnxRuntime)
    why = "there is no NVIDIA driver on this machine"
    monkeypatch.setattr(engines, "no_driver", lambda: why)
    options = Options(project.folder / "out", targets=(Target("onnxruntime_cuda"),))
    with pytest.raises(UsageError, match=f"onnxruntime_cuda can't be verified here: {why}"):
        build(project.load(SPEC), options, lambda _: None)
