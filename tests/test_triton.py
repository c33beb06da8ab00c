"""Repositories for Triton: what is in them, that it is the bundle's, and what is never replaced."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexc.bundle import staged
from alexc.diagnostics import AlexcError, UsageError
from alexc.triton import MARKER, write_repository
from alexc_runtime.digests import sha256
from alexc_runtime.manifest import (
    MODEL,
    WEIGHTS,
    BatchRange,
    Built,
    EngineRecord,
    Manifest,
    open_bundle,
)
from tests.command_line import Alexc, alexc
from tests.small_bundle import IMAGE, LABELS, MANIFEST, expected, fill, images, make

__all__ = ["alexc"]

ORT = EngineRecord("onnxruntime", "fp32", "verified", MODEL)
RTX = MANIFEST.engines[1]
PLAN = "engines/tensorrt-fp16.plan"


def tensorrt(*profiles: BatchRange, **changes: Any) -> EngineRecord:
    built = Built("10.13.3", profiles=profiles or (BatchRange(1, 2, 4),), **changes)
    return EngineRecord("tensorrt", "fp16", "built, not run", PLAN, built)


def bundle_of(out: Path, *engines: EngineRecord, **changes: Any) -> Manifest:
    """A bundle with these engines, their plan's file among the others."""
    with staged(out) as stage:
        fill(stage.folder)
        (stage.folder / PLAN).write_bytes(b"a plan of TensorRT\0" * 77)
        return stage.commit(replace(MANIFEST, engines=engines, **changes))


# ---- a reader of protobuf's text format, as far as a ModelConfig needs it ------------------------

TOKEN = re.compile(
    r'\s*(?:#[^\n]*\n\s*)*(?:([{}\[\]:,])|"((?:[^"\\\n]|\\.)*)"|([A-Za-z_]\w*)|(-?\d+))'
)

# Of model_config.proto, what alexc writes: the kind of each field, or those of its message.
TENSOR: dict[str, Any] = {"name": str, "data_type": "enum", "dims": [int], "label_filename": str}
MODEL_CONFIG: dict[str, Any] = {
    "name": str,
    "backend": str,
    "default_model_filename": str,
    "max_batch_size": int,
    "input": [{key: kind for key, kind in TENSOR.items() if key != "label_filename"}],
    "output": [TENSOR],
    "instance_group": [{"count": int, "kind": "enum", "profile": [str]}],
    "version_policy": {"latest": {"num_versions": int}},
    "dynamic_batching": {"preferred_batch_size": [int], "max_queue_delay_microseconds": int},
}


def tokens(text: str) -> Iterator[tuple[str, str]]:
    position, end = 0, len(text.rstrip())
    while position < end:
        found = TOKEN.match(text, position)
        assert found is not None, text[position : position + 40]
        position = found.end()
        mark, quoted, word, number = found.groups()
        if mark is not None:
            yield "mark", mark
        elif quoted is not None:
            yield "string", re.sub(r"\\(.)", r"\1", quoted)
        else:
            yield ("word", word) if word is not None else ("number", number)
    yield "end", ""


class Parser:
    """Strict: an unknown field, a field given twice and a value of another kind are faults."""

    def __init__(self, text: str) -> None:
        self.tokens = tokens(text)
        self.next = next(self.tokens)

    def take(self, *wanted: str) -> str:
        kind, value = self.next
        assert kind in wanted or value in wanted, f"{value!r} is none of {wanted}"
        self.next = next(self.tokens, ("end", ""))
        return value

    def message(self, fields: dict[str, Any], end: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while self.next[1] != end or self.next[0] not in ("mark", "end"):
            name = self.take("word")
            assert name in fields, name
            assert name not in found, name
            kind = fields[name]
            if self.next[1] == ":":
                self.take(":")
            else:
                assert self.next[1] in "{[", name  # only messages do without the colon
            found[name] = self.many(kind[0]) if isinstance(kind, list) else self.one(kind)
        self.take("end" if end == "" else end)
        return found

    def one(self, kind: Any) -> Any:
        if isinstance(kind, dict):
            self.take("{")
            return self.message(kind, "}")
        if kind is int:
            return int(self.take("number"))
        return self.take("string" if kind is str else "word")

    def many(self, kind: Any) -> list[Any]:
        self.take("[")
        found = [self.one(kind)]
        while self.next[1] == ",":
            self.take(",")
            found.append(self.one(kind))
        self.take("]")
        return found


def config(folder: Path, name: str) -> dict[str, Any]:
    text = (folder / name / "config.pbtxt").read_text(encoding="utf-8")
    return Parser(text).message(MODEL_CONFIG, "")


# ---- what is written -----------------------------------------------------------------------------


def test_both_variants_say_what_the_bundle_says(tmp_path: Path) -> None:
    bundle_of(tmp_path / "bundle", ORT, tensorrt(), labels=LABELS)
    made = write_repository(open_bundle(tmp_path / "bundle"), tmp_path / "triton")
    assert made.models == ("small_onnx", "small_tensorrt")
    assert made.left_out == ()
    common = {
        "max_batch_size": 4,
        "input": [{"name": "input", "data_type": "TYPE_FP32", "dims": list(IMAGE)}],
        "output": [
            {
                "name": "scores",
                "data_type": "TYPE_FP32",
                "dims": [5],
                "label_filename": "labels.txt",
            },
            {"name": "conv", "data_type": "TYPE_FP32", "dims": [5, 7, 9]},
        ],
        "version_policy": {"latest": {"num_versions": 1}},
        "dynamic_batching": {"preferred_batch_size": [2, 4], "max_queue_delay_microseconds": 1000},
    }
    assert config(tmp_path / "triton", "small_onnx") == common | {
        "name": "small_onnx",
        "backend": "onnxruntime",
        "default_model_filename": "model.onnx",
        "instance_group": [{"count": 1, "kind": "KIND_CPU"}],
    }
    assert config(tmp_path / "triton", "small_tensorrt") == common | {
        "name": "small_tensorrt",
        "backend": "tensorrt",
        "default_model_filename": "model.plan",
        "instance_group": [{"count": 1, "kind": "KIND_GPU"}],
    }
    for model in made.models:
        labels = (tmp_path / "triton" / model / "labels.txt").read_text(encoding="utf-8")
        assert tuple(labels.splitlines()) == LABELS


def test_what_is_served_are_the_bytes_that_were_verified(tmp_path: Path) -> None:
    manifest = bundle_of(tmp_path / "bundle", ORT, tensorrt())
    write_repository(open_bundle(tmp_path / "bundle"), tmp_path / "triton")
    for path, source in {
        "small_onnx/1/model.onnx": MODEL,
        f"small_onnx/1/{WEIGHTS}": WEIGHTS,
        "small_tensorrt/1/model.plan": PLAN,
    }.items():
        assert sha256(tmp_path / "triton" / path) == manifest.files[source].sha256
    found = {path.name for path in (tmp_path / "triton").iterdir()}
    assert found == {MARKER, "small_onnx", "small_tensorrt"}


def test_the_model_loads_from_wherever_the_server_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    make(tmp_path / "bundle")
    write_repository(open_bundle(tmp_path / "bundle"), tmp_path / "triton")
    shutil.rmtree(tmp_path / "bundle")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    path = tmp_path / "triton" / "small_onnx" / "1" / "model.onnx"
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (scores,) = session.run(["scores"], {"input": images(3)})
    np.testing.assert_allclose(scores, expected(images(3))["scores"], rtol=1e-4, atol=1e-5)


def test_a_bundle_that_takes_pixels_says_so(tmp_path: Path) -> None:
    assert MANIFEST.preprocess is not None
    bundle_of(
        tmp_path / "bundle",
        ORT,
        input=replace(MANIFEST.input, dtype="uint8"),
        preprocess=replace(MANIFEST.preprocess, dtype="uint8"),
    )
    write_repository(open_bundle(tmp_path / "bundle"), tmp_path / "triton")
    (taken,) = config(tmp_path / "triton", "small_onnx")["input"]
    assert taken["data_type"] == "TYPE_UINT8"


def test_several_profiles_are_all_used(tmp_path: Path) -> None:
    bundle_of(tmp_path / "bundle", tensorrt(BatchRange(1, 1, 1), BatchRange(2, 3, 4)))
    made = write_repository(open_bundle(tmp_path / "bundle"), tmp_path / "triton")
    assert made.models == ("small_tensorrt",)
    (group,) = config(tmp_path / "triton", "small_tensorrt")["instance_group"]
    assert group == {"count": 1, "kind": "KIND_GPU", "profile": ["0", "1"]}


def test_of_several_plans_the_first_that_fits_is_served(tmp_path: Path) -> None:
    first, others = tensorrt(), [replace(tensorrt(), precision="fp32"), replace(RTX, path=None)]
    engines = (tensorrt(stripped=True), first, *others, RTX)
    bundle_of(tmp_path / "bundle", *engines)
    made = write_repository(open_bundle(tmp_path / "bundle"), tmp_path / "triton")
    assert made.models == ("small_tensorrt",)
    assert [reason.partition(":")[0] for reason in made.left_out] == [
        "onnxruntime",
        "tensorrt fp16",
        "tensorrt_rtx",
    ]


def test_batches_of_one_are_not_gathered(tmp_path: Path) -> None:
    bundle_of(tmp_path / "bundle", ORT, input=replace(MANIFEST.input, batch=BatchRange(1, 1, 1)))
    write_repository(open_bundle(tmp_path / "bundle"), tmp_path / "triton")
    found = config(tmp_path / "triton", "small_onnx")
    assert found["max_batch_size"] == 1
    assert "dynamic_batching" not in found


def test_labels_of_something_else_are_left_out(tmp_path: Path) -> None:
    bundle_of(tmp_path / "bundle", ORT, labels=("one", "two"))
    write_repository(open_bundle(tmp_path / "bundle"), tmp_path / "triton")
    assert "label_filename" not in config(tmp_path / "triton", "small_onnx")["output"][0]
    assert not (tmp_path / "triton" / "small_onnx" / "labels.txt").exists()


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (RTX, "not of TensorRT for RTX"),
        (tensorrt(stripped=True), "without weights"),
        (tensorrt(BatchRange(2, 3, 4)), "takes no single image"),
        (EngineRecord("tensorrt", "fp16", "not built: no GPU", None), "not built: no GPU"),
    ],
)
def test_what_triton_can_not_load_is_left_out_with_the_reason(
    tmp_path: Path, record: EngineRecord, reason: str
) -> None:
    bundle_of(tmp_path / "bundle", ORT, record)
    made = write_repository(open_bundle(tmp_path / "bundle"), tmp_path / "triton")
    assert made.models == ("small_onnx",)
    (said,) = made.left_out
    assert reason in said


def test_a_bundle_of_nothing_that_triton_loads_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "bundle", engines=(RTX,))
    with pytest.raises(AlexcError) as caught:
        write_repository(open_bundle(tmp_path / "bundle"), tmp_path / "triton")
    assert caught.value.diagnostics[0].code == "triton/nothing"
    assert not (tmp_path / "triton").exists()


# ---- what is replaced, and what is not -----------------------------------------------------------


def _stamps(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_writing_again_does_nothing_and_another_bundle_takes_its_place(tmp_path: Path) -> None:
    out = tmp_path / "triton"
    make(tmp_path / "bundle")
    assert write_repository(open_bundle(tmp_path / "bundle"), out).written
    before = _stamps(out)
    assert not write_repository(open_bundle(tmp_path / "bundle"), out).written
    assert _stamps(out) == before
    bundle_of(tmp_path / "other", ORT, tensorrt(), name="other")
    assert write_repository(open_bundle(tmp_path / "other"), out).written
    assert {path.name for path in out.iterdir()} == {MARKER, "other_onnx", "other_tensorrt"}


def test_a_damaged_model_is_written_again(tmp_path: Path) -> None:
    out = tmp_path / "triton"
    make(tmp_path / "bundle")
    write_repository(open_bundle(tmp_path / "bundle"), out)
    model = out / "small_onnx" / "1" / "model.onnx"
    model.write_bytes(b"nothing")
    assert write_repository(open_bundle(tmp_path / "bundle"), out).written
    assert model.read_bytes() == (tmp_path / "bundle" / MODEL).read_bytes()


def _a_file(out: Path) -> None:
    out.write_text("mine")


def _a_folder(out: Path) -> None:
    out.mkdir()
    (out / "mine").write_text("mine")


def _another_repository(out: Path) -> None:
    (out / "resnet" / "1").mkdir(parents=True)
    (out / "resnet" / "config.pbtxt").write_text('name: "resnet"')


def _with_a_model_added(out: Path) -> None:
    _ours(out)
    _another_repository(out)


def _with_a_tuned_configuration(out: Path) -> None:
    _ours(out)
    with (out / "small_onnx" / "config.pbtxt").open("a") as file:
        file.write("# tuned by hand\n")


def _ours(out: Path) -> None:
    write_repository(open_bundle(out.parent / "bundle"), out)


@pytest.mark.parametrize(
    ("there", "code"),
    [
        (_a_file, "triton/not-ours"),
        (_a_folder, "triton/not-ours"),
        (_another_repository, "triton/not-ours"),
        (_with_a_model_added, "triton/changed"),
        (_with_a_tuned_configuration, "triton/changed"),
    ],
)
def test_what_is_not_ours_stays(tmp_path: Path, there: Any, code: str) -> None:
    make(tmp_path / "bundle")
    out = tmp_path / "triton"
    there(out)
    before = _stamps(tmp_path)
    make(tmp_path / "other", name="other")
    with pytest.raises(UsageError) as caught:
        write_repository(open_bundle(tmp_path / "other"), out)
    assert caught.value.diagnostics[0].code == code
    after = _stamps(tmp_path)
    assert {path: after[path] for path in before if path != tmp_path} == {
        path: stamp for path, stamp in before.items() if path != tmp_path
    }


@pytest.mark.parametrize("place", ["bundle", "bundle/triton", "."])
def test_bundle_and_repository_do_not_lie_in_each_other(tmp_path: Path, place: str) -> None:
    make(tmp_path / "bundle")
    with pytest.raises(UsageError, match="can't lie in each other"):
        write_repository(open_bundle(tmp_path / "bundle"), tmp_path / place)
    open_bundle(tmp_path / "bundle")


@pytest.mark.parametrize("place", ["other/triton", "other/engines/deeper/triton"])
def test_a_repository_lies_in_no_bundle(tmp_path: Path, place: str) -> None:
    make(tmp_path / "bundle")
    make(tmp_path / "other", name="other")
    with pytest.raises(UsageError, match=r"lies in the bundle .*/other") as caught:
        write_repository(open_bundle(tmp_path / "bundle"), tmp_path / place)
    assert caught.value.diagnostics[0].code == "triton/place"
    open_bundle(tmp_path / "other")
    assert not (tmp_path / place).exists()


def test_a_copy_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "bundle")

    def full(_: Path, target: Path) -> None:
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(AlexcError) as caught:
        write_repository(open_bundle(tmp_path / "bundle"), tmp_path / "triton")
    assert caught.value.diagnostics[0].code == "triton/disk-full"
    assert "another place with --triton" in str(caught.value.diagnostics[0].help)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


# ---- the command ---------------------------------------------------------------------------------

SPEC = """\
alexc: 1
name: tiny
input: {channels: 3, height: 9, width: 7}
layers:
  conv1: {op: conv, out_channels: 4, kernel_size: 3}
  flatten: flatten
  fc: {op: linear, out_features: 5}
preprocess: {scale: 0.01}
"""


def test_a_build_writes_it_and_a_second_one_does_nothing(alexc: Alexc, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(SPEC)
    out, triton = tmp_path / "bundle", tmp_path / "triton"
    command = ["build", tmp_path / "tiny.yaml", "--out", out, "--triton", triton]
    command += ["--target", "onnxruntime", "--input", "uint8"]
    ran = alexc(*command, "--json")
    assert ran.status == 0, ran.err
    assert ran.json["triton"] == {
        "repository": str(triton),
        "models": ["tiny_onnx"],
        "left_out": [],
        "up_to_date": False,
    }
    again = alexc(*command)
    assert again.status == 0
    assert f"{out} is up to date\n{triton} is up to date: tiny_onnx\n" in again.out
    marker = json.loads((triton / MARKER).read_text())
    assert marker["bundle"] == json.loads((out / "manifest.json").read_text())["inputs_digest"]


def test_a_place_that_is_taken_is_refused_before_the_build(alexc: Alexc, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(SPEC)
    _a_folder(tmp_path / "triton")
    ran = alexc(
        "build", tmp_path / "tiny.yaml", "--out", tmp_path / "bundle", "--triton",
        tmp_path / "triton",
    )  # fmt: skip
    assert ran.status == 2
    assert "triton/not-ours" in ran.err
    assert not (tmp_path / "bundle").exists()
