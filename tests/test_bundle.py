"""Writing bundles: whole or absent, whatever happens on the way, and nothing lost."""

# ruff: noqa: PT012  (what `staged` makes of a block that raises is the very thing that is tested)

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest

import alexc_runtime
from alexc import folders
from alexc.bundle import inputs_digest, runtime_faults, staged, tool_versions, up_to_date
from alexc.diagnostics import AlexcError, UsageError
from alexc_runtime.manifest import MODEL, WEIGHTS, EngineRecord, Verification, open_bundle
from tests.small_bundle import MANIFEST, PLAN, fill, make

ROOT = Path(__file__).resolve().parents[1]

INPUTS = MANIFEST.inputs_digest


def _names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def _content(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


# ---- the good way --------------------------------------------------------------------------------


def test_a_bundle_holds_the_four_names_and_opens(tmp_path: Path) -> None:
    out = tmp_path / "build" / "nets" / "small"
    manifest = make(out)
    assert _names(out.parent) == ["small"]
    assert _names(out) == [
        "engines", "manifest.json", "model.onnx", "verify.json", "weights.safetensors",
    ]  # fmt: skip
    assert open_bundle(out).manifest == manifest
    assert manifest == replace(MANIFEST, files=manifest.files)


def test_the_same_build_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    make(tmp_path / "one")
    make(tmp_path / "two")
    assert _content(tmp_path / "one") == _content(tmp_path / "two")


def test_a_bundle_can_be_read_by_whom_the_umask_lets(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        make(tmp_path / "small")
    finally:
        os.umask(before)
    assert (tmp_path / "small").stat().st_mode & 0o777 == 0o750


def test_a_bundle_is_replaced_by_the_next(tmp_path: Path) -> None:
    make(tmp_path / "small", name="old")
    make(tmp_path / "small", name="new")
    assert open_bundle(tmp_path / "small").manifest.name == "new"
    assert _names(tmp_path) == ["small"]


def test_the_old_bundle_stands_until_the_new_one_is_ready(tmp_path: Path) -> None:
    out = tmp_path / "small"
    make(out, name="old")
    with staged(out) as stage:
        fill(stage.folder)
        assert open_bundle(out).manifest.name == "old"
        stage.commit(replace(MANIFEST, name="new"))
        assert open_bundle(out).manifest.name == "new"


def test_a_relative_path_and_a_link_are_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make(Path("small"))
    (tmp_path / "current").symlink_to("small")
    make(Path("current"), name="through the link")
    assert (tmp_path / "current").is_symlink()
    assert open_bundle(tmp_path / "small").manifest.name == "through the link"
    assert _names(tmp_path) == ["current", "small"]


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    make(tmp_path / "small")
    open_bundle(tmp_path / "small")


def test_a_block_without_commit_leaves_nothing(tmp_path: Path) -> None:
    with staged(tmp_path / "build" / "nets" / "small") as stage:
        fill(stage.folder)
    assert _names(tmp_path) == []


# ---- what is not replaced ------------------------------------------------------------------------


def _a_file(out: Path) -> None:
    out.write_text("precious")


def _a_folder(out: Path) -> None:
    out.mkdir()
    (out / "thesis.tex").write_text("precious")


def _a_web_page(out: Path) -> None:
    out.mkdir()
    (out / "manifest.json").write_text('{\n  "name": "A web page has a manifest.json, too"\n}')


def _a_bundle_with_notes(out: Path) -> None:
    make(out)
    (out / "notes.md").write_text("precious")


@pytest.mark.parametrize(
    ("prepare", "code", "message"),
    [
        (_a_file, "bundle/not-a-bundle", "is a file"),
        (_a_folder, "bundle/not-a-bundle", "exists and is not a bundle"),
        (_a_web_page, "bundle/not-a-bundle", "exists and is not a bundle"),
        (_a_bundle_with_notes, "bundle/added-files", "something was added: notes.md"),
    ],
)
def test_what_is_not_a_bundle_is_never_replaced(
    tmp_path: Path, prepare: Callable[[Path], None], code: str, message: str
) -> None:
    prepare(tmp_path / "out")
    before = _content(tmp_path)
    with pytest.raises(UsageError) as caught, staged(tmp_path / "out"):
        raise NotImplementedError("the block must not be entered")
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == code
    assert diagnostic.message.startswith(f"{tmp_path / 'out'} ")
    assert diagnostic.message.endswith(message)
    assert diagnostic.help is not None
    assert _content(tmp_path) == before


@pytest.mark.parametrize("damage", ["cut", "altered", "missing", "foreign"])
def test_a_damaged_bundle_is_replaced(tmp_path: Path, damage: str) -> None:
    out = tmp_path / "small"
    make(out)
    manifest = (out / "manifest.json").read_bytes()
    if damage == "cut":
        (out / "manifest.json").write_bytes(manifest[:200])
    elif damage == "altered":
        (out / WEIGHTS).write_bytes(b"other weights")
    elif damage == "missing":
        (out / MODEL).unlink()
    else:
        (out / "manifest.json").write_bytes(manifest.replace(b'"version": 1', b'"version": 9', 1))
    assert up_to_date(out, INPUTS) is None
    make(out)
    assert up_to_date(out, INPUTS) is not None


# ---- what goes wrong on the way ------------------------------------------------------------------


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, AlexcError, SystemExit])
@pytest.mark.parametrize("existing", [False, True])
def test_a_build_that_is_broken_off_leaves_all_as_it_was(
    tmp_path: Path, error: type[BaseException], existing: bool
) -> None:
    out = tmp_path / "build" / "small"
    if existing:
        make(out, name="old")
    before = _content(tmp_path)
    with pytest.raises(error), staged(out) as stage:
        fill(stage.folder)
        raise error
    assert _content(tmp_path) == before
    assert _names(tmp_path) == (["build"] if existing else [])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_a_full_disk_is_told(tmp_path: Path) -> None:
    out = tmp_path / "small"
    make(out, name="old")
    with pytest.raises(AlexcError) as caught, staged(out) as stage:
        fill(stage.folder)
        (stage.folder / WEIGHTS).unlink()
        (stage.folder / WEIGHTS).symlink_to("/dev/full")
        (stage.folder / WEIGHTS).write_bytes(b"one byte too many")
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "bundle/disk-full"
    assert diagnostic.message == (
        f"{out} was not written: the disk is full; what was there before is unchanged"
    )
    assert caught.value.exit_code == 1
    assert open_bundle(out).manifest.name == "old"
    assert _names(tmp_path) == ["small"]


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, "bundle/disk-full"),
        (errno.EDQUOT, "bundle/disk-full"),
        (errno.EROFS, "bundle/read-only"),
        (errno.EACCES, "bundle/not-permitted"),
        (errno.EBUSY, "bundle/in-use"),
        (errno.EIO, "bundle/not-written"),
    ],
)
@pytest.mark.parametrize("operation", ["mkdir", "write_bytes", "rename"])
def test_wherever_the_disk_refuses_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: str, operation: str
) -> None:
    out = tmp_path / "build" / "small"
    make(out, name="old")
    before = _content(tmp_path)

    def refuse(path: Path, *_: Any, **__: Any) -> NoReturn:
        raise OSError(number, os.strerror(number), str(path))

    with pytest.raises(AlexcError) as caught, monkeypatch.context() as patch:
        if operation == "mkdir":
            patch.setattr(Path, operation, refuse)
        with staged(out) as stage:
            fill(stage.folder)
            patch.setattr(Path, operation, refuse)
            stage.commit(MANIFEST)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == code
    assert "what was there before is unchanged" in diagnostic.message
    # The place is the caller's to choose, and what becomes of the disk meanwhile is not.
    of_place = number in (errno.EROFS, errno.EACCES, errno.EBUSY)
    assert caught.value.exit_code == (2 if of_place else 1)
    assert _content(tmp_path) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_the_old_bundle_comes_back_if_the_new_one_can_not_be_put_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    out = tmp_path / "small"
    make(out, name="old")
    rename = Path.rename

    def second_fails(path: Path, target: Path) -> Path:
        if "staging" in path.name:
            assert not out.exists()
            raise error
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", second_fails)
    with pytest.raises((AlexcError, KeyboardInterrupt)):
        make(out, name="new")
    assert open_bundle(out).manifest.name == "old"
    assert _names(tmp_path) == ["small"]


def test_a_place_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(AlexcError, match="was not written"), staged(tmp_path / "file" / "small"):
        raise NotImplementedError
    assert _content(tmp_path) == {"file": b"precious"}


def test_a_reader_that_goes_away_is_not_a_fault_of_the_disk(tmp_path: Path) -> None:
    with pytest.raises(BrokenPipeError), staged(tmp_path / "small"):
        raise BrokenPipeError


# ---- killed builds -------------------------------------------------------------------------------

_KILLED = """
import os, signal, sys
from pathlib import Path
from alexc.bundle import staged
from tests.small_bundle import MANIFEST, fill

rename = Path.rename

def die(path, target):
    if "staging" in path.name:
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(path, target)

with staged(Path(sys.argv[1])) as stage:
    fill(stage.folder)
    if sys.argv[2] == "while filling":
        os.kill(os.getpid(), signal.SIGKILL)
    Path.rename = die
    stage.commit(MANIFEST)
"""


def _kill(out: Path, when: str) -> None:
    done = subprocess.run([sys.executable, "-c", _KILLED, str(out), when], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize("when", ["while filling", "between the renames"])
def test_the_next_build_clears_up_after_a_kill(tmp_path: Path, when: str) -> None:
    out = tmp_path / "small"
    make(out, name="old")
    _kill(out, when)
    assert len(_names(tmp_path)) == 2
    assert out.exists() == (when == "while filling")
    with staged(out):
        assert open_bundle(out).manifest.name == "old"
    assert _names(tmp_path) == ["small"]


def test_a_build_at_work_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "small"
    with staged(out) as first:
        fill(first.folder)
        make(out, name="second")
        assert (first.folder / WEIGHTS).exists()
        # The name of another bundle may begin with this one's.
        with staged(tmp_path / "small.staging-area") as third:
            assert third.folder.exists()
        first.commit(replace(MANIFEST, name="first"))
    assert open_bundle(out).manifest.name == "first"
    assert _names(tmp_path) == ["small"]


def test_builds_into_one_place_at_one_time_end_in_one_whole_bundle(tmp_path: Path) -> None:
    out = tmp_path / "small"
    together = threading.Barrier(6)
    names = [f"net{index}" for index in range(6)]
    faults: list[BaseException] = []

    def build(name: str) -> None:
        try:
            with staged(out) as stage:
                fill(stage.folder)
                together.wait(timeout=30)
                stage.commit(replace(MANIFEST, name=name))
        except BaseException as error:  # noqa: BLE001
            faults.append(error)

    threads = [threading.Thread(target=build, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    assert open_bundle(out).manifest.name in names
    assert _names(tmp_path) == ["small"]


def test_a_lock_that_someone_keeps_does_not_stop_a_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "_LOCK_SECONDS", 0.05)
    held = folders._lock(tmp_path, wait=False)
    assert held is not None
    make(tmp_path / "small")
    os.close(held)
    open_bundle(tmp_path / "small")


# ---- what a commit refuses -----------------------------------------------------------------------


def test_a_certificate_for_other_bytes_is_refused(tmp_path: Path) -> None:
    with staged(tmp_path / "small") as stage:
        fill(stage.folder)
        digests = {name: record.sha256 for name, record in stage.records().items()}
        certificate = Verification(True, "float64 numpy", digests=digests)
        (stage.folder / WEIGHTS).write_bytes(b"other weights")
        with pytest.raises(ValueError, match=f"{WEIGHTS} was verified with other content"):
            stage.commit(replace(MANIFEST, verification=certificate))
        digests[WEIGHTS] = stage.records()[WEIGHTS].sha256
        stage.commit(replace(MANIFEST, verification=certificate))
    assert open_bundle(tmp_path / "small").manifest.verification.digests == digests


def test_a_plan_that_was_not_written_is_refused(tmp_path: Path) -> None:
    record = EngineRecord("tensorrt", "fp16", "verified", "engines/tensorrt-fp16.plan")
    with (
        pytest.raises(ValueError, match=r"names engines/tensorrt-fp16\.plan, which was not"),
        staged(tmp_path / "small") as stage,
    ):
        fill(stage.folder)
        stage.commit(replace(MANIFEST, engines=(record,)))
    assert _names(tmp_path) == []


def test_a_link_in_a_bundle_is_refused(tmp_path: Path) -> None:
    with staged(tmp_path / "small") as stage:
        fill(stage.folder)
        (stage.folder / "engines" / "more").symlink_to(stage.folder)
        with pytest.raises(ValueError, match="neither a file nor a folder"):
            stage.commit(MANIFEST)


# ---- up to date ----------------------------------------------------------------------------------


def test_a_bundle_of_the_same_inputs_is_up_to_date(tmp_path: Path) -> None:
    out = tmp_path / "small"
    assert up_to_date(out, INPUTS) is None
    manifest = make(out)
    assert up_to_date(out, INPUTS) == manifest
    assert up_to_date(out, inputs_digest({})) is None


@pytest.mark.parametrize("file", [MODEL, WEIGHTS, PLAN, "verify.json"])
def test_an_altered_bundle_is_not_up_to_date(tmp_path: Path, file: str) -> None:
    make(tmp_path / "small")
    data = bytearray((tmp_path / "small" / file).read_bytes())
    data[len(data) // 2] ^= 4
    (tmp_path / "small" / file).write_bytes(data)
    assert up_to_date(tmp_path / "small", INPUTS) is None


def test_the_key_of_a_build_depends_on_all_of_its_inputs() -> None:
    inputs = {"spec": "sha256:1", "seed": 7, "batch": [1, 8, 64], "labels": ["鸵鸟"]}
    key = inputs_digest(inputs)
    assert key.startswith("sha256:")
    assert inputs_digest(dict(reversed(inputs.items()))) == key
    for name in inputs:
        assert inputs_digest({**inputs, name: None}) != key
    with pytest.raises(ValueError, match="JSON"):
        inputs_digest({"scale": float("nan")})


def test_versions_are_those_installed() -> None:
    import numpy

    versions = tool_versions()
    assert versions["python"] == sys.version.split()[0]
    assert versions["numpy"] == numpy.__version__
    assert {"onnx", "torch"} <= set(versions)


# ---- the runtime's faults ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kind", "code"),
    [
        ({"path": "nowhere"}, UsageError, "bundle/missing"),
        ({"path": "small", "engine": "tensorrt"}, UsageError, "engine/unavailable"),
        ({"path": "small", "engine": "abacus"}, UsageError, "engine/unknown"),
        ({"path": "cut"}, AlexcError, "bundle/manifest"),
    ],
)
def test_a_fault_of_the_runtime_becomes_a_diagnostic(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    kind: type[AlexcError],
    code: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    make(Path("small"))
    make(Path("cut"))
    Path("cut/manifest.json").write_text("{")
    with pytest.raises(AlexcError) as caught, runtime_faults():
        alexc_runtime.open(**options)
    assert type(caught.value) is kind
    assert [diagnostic.code for diagnostic in caught.value.diagnostics] == [code]


def test_the_findings_of_the_runtime_are_the_diagnostics_notes(tmp_path: Path) -> None:
    make(tmp_path / "small")
    (tmp_path / "small" / MODEL).unlink()
    with pytest.raises(AlexcError) as caught, runtime_faults():
        alexc_runtime.open(tmp_path / "small")
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.notes == ("model.onnx is missing",)
