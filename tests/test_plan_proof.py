"""`alexc verify` on the models that only a plan's ways run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from alexc.assembly.options import Options, Target
from alexc.build import build
from alexc.bundle import read_bundle
from alexc.diagnostics import AlexcError
from alexc.engines.options import PlanOptions
from alexc.engines.record import BatchRange
from alexc.frontend import Net, load_net
from alexc.plan.budget import parse_budget
from alexc.plan.proof import shipped, with_shipped
from alexc.plan.request import Material, Request
from alexc.plan.variant import Variant
from alexc.plan.workshop import Workshop
from alexc.verify import crosscheck
from alexc.verify.backends import BACKENDS
from alexc.verify.report import Report
from alexc.weights import store
from alexc.weights.init import draw
from alexc_runtime.digests import FileRecord, sha256
from alexc_runtime.manifest import MANIFEST, MODEL, WEIGHTS, read, render
from alexc_runtime.opening import ENGINES
from alexc_runtime.planned import Candidate, Choice, Plan, Way, this_machine
from tests.command_line import Alexc, alexc

__all__ = ["alexc"]

SPEC = """\
alexc: 1
name: small
input: {channels: 3, height: 9, width: 8}
layers:
  conv1: {op: conv, out_channels: 6, kernel_size: 2}
  bn1: batch_norm
  relu1: relu
  pool1: {op: max_pool, kernel_size: 2, stride: 2}
  flat: flatten
  fc: {op: linear, out_features: 7}
init: kaiming
"""
PLANS = PlanOptions(profiles=(BatchRange(1, 2, 3),))


@dataclass
class Planned:
    """A bundle to which variants of its net can be given, as a search would."""

    folder: Path
    net: Net
    workshop: Workshop

    def add(self, *variants: Variant, without: tuple[str, ...] = ()) -> None:
        """Let the plan hold these variants; files of the names `without` get lost."""
        manifest = read(self.folder)
        files, candidates = dict(manifest.files), []
        for variant in variants:
            made = self.workshop.make(variant)
            for name in made.files:
                if name not in without and name not in files:
                    shutil.copyfile(self.workshop.folder / name, self.folder / name)
                    files[name] = _recorded(self.folder / name)
            candidates.append(_candidate(variant))
        first = candidates[0]
        assert first.path is not None
        way = Way(first.engine, first.precision, first.path, None)
        plan = Plan(
            "1e-2", this_machine(), 2, False, 1.0, (Choice(1, None, way),), tuple(candidates)
        )
        self.write(replace(manifest, plan=plan, files=files))

    def change(self, name: str, edit: Callable[[onnx.ModelProto], None]) -> None:
        """Put another model into its place, of which the manifest knows."""
        model = onnx.load(str(self.folder / name), load_external_data=False)
        edit(model)
        (self.folder / name).write_bytes(model.SerializeToString())
        manifest = read(self.folder)
        files = {**manifest.files, name: _recorded(self.folder / name)}
        self.write(replace(manifest, files=files))

    def write(self, manifest: object) -> None:
        (self.folder / MANIFEST).write_bytes(render(manifest))  # type: ignore[arg-type]


def _recorded(file: Path) -> FileRecord:
    return FileRecord(file.stat().st_size, sha256(file))


def _candidate(variant: Variant) -> Candidate:
    return Candidate(
        engine=variant.engine,
        precision=variant.precision,
        forms=variant.forms,
        threads=variant.threads,
        path=variant.path,
        times=(),
        rel_l2=1e-4,
        exact=False,
        agreement=None,
        top1=None,
        top5=None,
        usable=True,
        verdict="usable",
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Net, Workshop]:
    """A bundle, its net, and where variants of that are made."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "small.yaml").write_text(SPEC, encoding="utf-8")
    net = load_net(folder / "small.yaml")
    options = Options(folder / "out", targets=(Target("onnxruntime"),), plans=PLANS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crosscheck, "BACKENDS", {"onnxruntime": BACKENDS["onnxruntime"]})
        patch.setattr(crosscheck, "READERS", {})
        build(net, options, lambda _: None)
    photographs = np.random.default_rng(3).standard_normal((9, 3, 9, 8)).astype(np.float32)
    request = Request(parse_budget("1e-2"), PLANS, Material(photographs=photographs))
    weights = draw(net.graph, net.spec.header.init, {}, 0)
    return folder / "out", net, Workshop(net, weights, folder / "ways", request, lambda _: None)


@pytest.fixture
def planned(made: tuple[Path, Net, Workshop], tmp_path: Path) -> Planned:
    bundle, net, workshop = made
    shutil.copytree(bundle, tmp_path / "out")
    return Planned(tmp_path / "out", net, workshop)


FOLDED = Variant("onnxruntime", forms=("folded", "pool-first"))
EIGHT = Variant("onnxruntime", "u8s8")
NARROW = Variant("openvino", "bf16", ("folded",))
# What is found of the bundle's own model: nothing.
ALONE = Report(True, "float64 numpy", (), (), None)


def verified(planned: Planned, *backends: str) -> tuple[Report, list[str]]:
    """What is found of the plan's models, in this process, and which are left out."""
    bundle, net = read_bundle(planned.folder)
    weights = store.read(bundle.path(WEIGHTS), net.graph)
    models, left_out = shipped(bundle, net, weights, ())
    check = partial(crosscheck.verify, batch=1, batches=BatchRange(1, 2, 3), isolate=False)
    return with_shipped(ALONE, models, check, backends or None), left_out


def test_each_model_is_held_in_its_form_and_precision(planned: Planned) -> None:
    pytest.importorskip("openvino")
    planned.add(Variant("onnxruntime"), FOLDED, replace(FOLDED, threads=1), EIGHT, NARROW)
    report, left_out = verified(planned)
    assert left_out == []
    assert report.passed, report.to_json()
    assert {result.backend: result.passed for result in report.backends} == {
        "onnxruntime fp32, folded, pool-first": True,
        "onnxruntime u8s8": True,
        "openvino bf16, folded": True,
    }
    of_form = {row.layer for row in report.rows if row.backend.endswith("pool-first")}
    assert {"pool1.unrectified", "pool1", "fc"} <= of_form
    shipped = [
        row.images
        for row in report.rows
        if (row.backend, row.check) == ("onnxruntime u8s8", "shipped")
    ]
    assert shipped == [None, 2, 3]  # the bundle's sizes
    only, _ = verified(planned, "openvino")
    assert [result.backend for result in only.backends] == ["openvino bf16, folded"]


def test_what_any_build_verifies_is_not_verified_twice(planned: Planned) -> None:
    planned.add(Variant("onnxruntime"), Variant("openvino"), FOLDED)
    own = planned.folder / "model-onnxruntime.onnx"
    shutil.copyfile(planned.folder / FOLDED.model, own)
    manifest = read(planned.folder)
    planned.write(replace(manifest, files={**manifest.files, own.name: _recorded(own)}))
    report, left_out = verified(planned)
    assert (list(report.backends), left_out) == ([], [])


def test_what_can_not_run_here_is_no_fault(
    planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned.add(NARROW)
    monkeypatch.setattr(ENGINES["openvino"], "obstacle", classmethod(lambda _: "it is not there"))
    report, _ = verified(planned)
    assert report.passed
    (result,) = report.backends
    assert (result.backend, result.passed) == ("openvino bf16, folded", None)
    assert result.status == "not run: it is not there"


def test_a_plan_that_runs_other_files_than_those_of_its_models_is_refused(planned: Planned) -> None:
    planned.add(Variant("onnxruntime", "fp32", ("pool-first",)))
    manifest = read(planned.folder)
    plan = manifest.plan
    assert plan is not None
    (way,), (choice,) = plan.candidates, plan.choices
    other = replace(choice, way=replace(choice.way, path="other.onnx"))
    for changed in (
        replace(plan, candidates=(replace(way, path="other.onnx"),), choices=(other,)),
        replace(plan, candidates=(replace(way, path=MODEL),)),
        replace(plan, choices=(other,)),
        replace(plan, candidates=()),
    ):
        planned.write(replace(manifest, plan=changed))
        with pytest.raises(AlexcError, match="not the file of the model that it names"):
            verified(planned)


def test_a_bundle_from_before_says_of_what_the_build_alone_speaks(planned: Planned) -> None:
    planned.add(EIGHT, without=(EIGHT.ranges,))
    report, left_out = verified(planned)
    assert list(report.backends) == []
    assert left_out == [
        "onnxruntime u8s8: the bundle has no calibration-u8s8.json, and the build alone verified it"
    ]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"engine": "tpu"}, "tpu bf16, folded: this alexc knows no engine tpu"),
        ({"precision": "fp4"}, "openvino fp4, folded: this alexc knows no precision fp4"),
        ({"forms": ("curled",)}, "openvino bf16, curled: this alexc knows no form curled"),
    ],
)
def test_a_bundle_of_a_later_alexc_says_what_this_one_does_not_know(
    planned: Planned, changed: dict[str, Any], said: str
) -> None:
    planned.add(NARROW)
    manifest = read(planned.folder)
    assert manifest.plan is not None
    (candidate,), (choice,) = manifest.plan.candidates, manifest.plan.choices
    candidate = replace(candidate, **changed)
    way = replace(choice.way, engine=candidate.engine, precision=candidate.precision)
    choices = (replace(choice, way=way),)
    plan = replace(manifest.plan, candidates=(candidate,), choices=choices)
    planned.write(replace(manifest, plan=plan))
    report, left_out = verified(planned)
    assert list(report.backends) == []
    assert left_out == [f"{said}, and the build alone verified it"]


def test_one_that_computes_something_else_fails_the_bundle(planned: Planned, alexc: Alexc) -> None:
    def swap(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            if node.op_type == "Relu":
                node.op_type = "Sigmoid"

    planned.add(FOLDED)
    planned.change(FOLDED.model, swap)
    ran = alexc("verify", planned.folder, "--batch", 1, "--backend", "onnxruntime")
    assert ran.status == 1
    assert "onnxruntime fp32, folded, pool-first DIVERGES" in ran.out
    assert "first divergence: pool1 on onnxruntime fp32, folded, pool-first, local" in ran.out
    assert "pool1.unrectified" in ran.out
    assert "FAILED" in ran.out
