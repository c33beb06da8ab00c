"""Manifests: what they hold, and that nothing in a bundle changes unnoticed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import alexc_runtime
from alexc_runtime import (
    BundleError,
    BundleMissingError,
)
from alexc_runtime.digests import is_safe, sha256
from alexc_runtime.manifest import (
    MODEL,
    WEIGHTS,
    Manifest,
    Origin,
    Preprocess,
    open_bundle,
    parse,
    read,
    render,
)
from tests.small_bundle import MANIFEST, PLAN, built, make, weights

__all__ = ["built"]


@pytest.fixture
def bundle(built: Path, tmp_path: Path) -> Path:
    """A bundle of the test's own."""
    return Path(shutil.copytree(built, tmp_path / "small"))


# ---- damaged bundles -----------------------------------------------------------------------------


def _flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("file", [MODEL, WEIGHTS, PLAN, "verify.json"])
@pytest.mark.parametrize("where", [0, 11, -1])
def test_one_altered_bit_is_noticed(bundle: Path, file: str, where: int) -> None:
    _flip(bundle / file, where)
    with pytest.raises(BundleError, match=f"{file} was altered: its SHA-256 is") as caught:
        alexc_runtime.open(bundle)
    assert caught.value.code == "bundle/altered"
    assert caught.value.message.endswith("is damaged: a file differs from what the build wrote")


def test_every_byte_of_the_manifest_is_bound(built: Path) -> None:
    data = (built / "manifest.json").read_bytes()
    parse(data, "manifest.json")
    for position in range(len(data)):
        altered = bytearray(data)
        altered[position] ^= 1
        with pytest.raises(BundleError):
            parse(bytes(altered), "manifest.json")
    for extra in (b"\n", b" ", b"\0"):
        with pytest.raises(BundleError):
            parse(data + extra, "manifest.json")


def test_a_truncated_manifest_is_refused_at_every_length(built: Path) -> None:
    data = (built / "manifest.json").read_bytes()
    for length in range(len(data)):
        with pytest.raises(BundleError, match=r"x\.json (is empty|is not JSON|was altered)"):
            parse(data[:length], "x.json")


def test_all_faults_of_a_bundle_are_told_in_one_go(bundle: Path) -> None:
    (bundle / MODEL).unlink()
    size = (bundle / WEIGHTS).stat().st_size
    with (bundle / WEIGHTS).open("r+b") as file:
        file.truncate(100)
    shutil.rmtree(bundle / "engines")
    with (bundle / "verify.json").open("a") as text:
        text.write("\n")
    with pytest.raises(BundleError) as caught:
        alexc_runtime.open(bundle)
    assert caught.value.notes == (
        f"{PLAN} is missing",
        "model.onnx is missing",
        "verify.json was altered: it has 18 bytes of 17",
        f"weights.safetensors was truncated: it has 100 bytes of {size}",
    )
    assert "4 of 4 files differ from what the build wrote" in str(caught.value)
    assert "build it again" in str(caught.value)


def test_symbolic_links_are_refused(bundle: Path, tmp_path: Path) -> None:
    (bundle / WEIGHTS).rename(tmp_path / "elsewhere")
    (bundle / WEIGHTS).symlink_to(tmp_path / "elsewhere")
    (bundle / "engines").rename(tmp_path / "engines")
    (bundle / "engines").symlink_to(tmp_path / "engines")
    with pytest.raises(BundleError) as caught:
        alexc_runtime.open(bundle)
    assert caught.value.notes == (
        f"{PLAN} is a symbolic link, or lies behind one",
        f"{WEIGHTS} is a symbolic link, or lies behind one",
    )


def test_the_bundle_itself_may_be_reached_by_a_link(built: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(built)
    with alexc_runtime.open(str(tmp_path / "current"), threads=1) as opened:
        assert opened.manifest.name == "small"


def test_other_things_than_files_are_refused(bundle: Path) -> None:
    (bundle / "verify.json").unlink()
    os.mkfifo(bundle / "verify.json")
    with pytest.raises(BundleError, match=r"verify\.json is not an ordinary file"):
        alexc_runtime.open(bundle)
    (bundle / "manifest.json").unlink()
    os.mkfifo(bundle / "manifest.json")
    with pytest.raises(BundleError, match=r"manifest\.json is not an ordinary file"):
        alexc_runtime.open(bundle)


def test_where_no_bundle_is_the_error_says_what_is(built: Path, tmp_path: Path) -> None:
    for path, message in (
        (tmp_path / "nowhere", "there is no "),
        (tmp_path, "holds no manifest.json"),
        (built / "manifest.json", "is a file, and a bundle is a folder"),
        (built / "manifest.json" / "x", "there is no "),
    ):
        with pytest.raises(BundleMissingError, match=message):
            alexc_runtime.open(path)
    with pytest.raises(BundleError):
        alexc_runtime.open("nul\0byte")


def test_what_a_disk_fails_to_read_is_told(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> str:
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr("alexc_runtime.digests.sha256", fail)
    with pytest.raises(BundleError) as caught:
        alexc_runtime.open(bundle)
    assert f"{WEIGHTS} can't be read: Input/output error" in caught.value.notes


# ---- the manifest --------------------------------------------------------------------------------


def test_a_manifest_comes_back_as_it_was_written() -> None:
    for manifest in (
        MANIFEST,
        replace(MANIFEST, preprocess=None, labels=None, engines=()),
        replace(MANIFEST, name='quotes " and \\ and 中文'),
        replace(MANIFEST, weights=Origin(10**400)),
    ):
        assert parse(render(manifest), "manifest.json") == manifest
        assert render(parse(render(manifest), "manifest.json")) == render(manifest)


def _leaves(content: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path to every value of a JSON document."""
    found = [place] if place else []
    items = (
        content.items()
        if isinstance(content, dict)
        else enumerate(content)
        if isinstance(content, list)
        else ()
    )
    for key, value in items:
        found += _leaves(value, (*place, key))
    return found


def test_any_value_in_any_place_is_read_or_refused() -> None:
    values: tuple[Any, ...] = (
        None,
        True,
        -1,
        0,
        10**400,
        1e308,
        "",
        "../x",
        "\ud800",
        [],
        [[]],
        {},
        {"x": {}},
    )
    places = _leaves(json.loads(render(MANIFEST)))
    assert len(places) > 60
    for place in places:
        for value in values:

            def put(content: Any, place: tuple[Any, ...] = place, value: Any = value) -> None:
                for key in place[:-1]:
                    content = content[key]
                content[place[-1]] = value

            with contextlib.suppress(BundleError):
                parse(_foreign(put), "manifest.json")


def _foreign(change: Callable[[dict[str, Any]], object]) -> bytes:
    """A manifest whose digest is right and whose content is not what alexc writes."""
    content = json.loads(render(MANIFEST))
    change(content)
    content["digest"] = zeros = "sha256:" + "0" * 64
    data = json.dumps(content, indent=2).encode()
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    return data.replace(zeros.encode(), digest.encode(), 1)


@pytest.mark.parametrize(
    ("change", "code", "text"),
    [
        (lambda m: m.update(version=2), "bundle/version", "has version 2 of the format"),
        (lambda m: m.update(version="1"), "bundle/version", "has version '1' of the format"),
        (lambda m: m.update(format="tar"), "bundle/manifest", "is not the manifest of a bundle"),
        (lambda m: m.pop("graph_digest"), "bundle/manifest", "graph_digest is missing"),
        (lambda m: m.pop("labels"), "bundle/manifest", "labels is missing"),
        (lambda m: m.update(labels=["a", 3]), "bundle/manifest", "labels[1] is 3"),
        (lambda m: m.update(name=None), "bundle/manifest", "name is null"),
        (lambda m: m.update(outputs=[]), "bundle/manifest", "one or more outputs"),
        (lambda m: m.update(outputs=["x"]), "bundle/manifest", "outputs[0] is not an object"),
        (lambda m: m["input"].update(shape=[3, 0, 7]), "bundle/manifest", "input.shape is [3, 0,"),
        (lambda m: m["input"].update(shape=[3, True]), "bundle/manifest", "input.shape[1] is true"),
        (lambda m: m["input"].update(dtype="float16"), "bundle/manifest", "input.dtype is float16"),
        (lambda m: m["input"].update(dtype="uint8"), "bundle/manifest", "takes 3×9×11 of uint8"),
        (
            lambda m: m.update(input={**m["input"], "dtype": "uint8"}, preprocess=None),
            "bundle/manifest",
            "no preprocess says of what",
        ),
        (lambda m: m["input"]["batch"].update(max=1), "bundle/manifest", "1 ≤ min ≤ opt ≤ max"),
        (lambda m: m["outputs"][1].pop("shape"), "bundle/manifest", "outputs[1].shape is missing"),
        (lambda m: m["preprocess"].update(crop=[9]), "bundle/manifest", "preprocess.crop is [9]"),
        (lambda m: m["preprocess"].update(crop=[9, 9]), "bundle/manifest", "makes 3×9×9"),
        (lambda m: m["preprocess"].update(std=[1, 0, 1]), "bundle/manifest", "std is never zero"),
        (lambda m: m["preprocess"].update(mean=[1]), "bundle/manifest", "takes 3 of mean and std"),
        (lambda m: m["preprocess"].update(channels="hsv"), "bundle/manifest", "rgb, bgr or grey"),
        (lambda m: m["preprocess"].update(resize=10), "bundle/manifest", "does not fit"),
        (lambda m: m["files"].update({"x": {"bytes": 1.5}}), "bundle/manifest", "files.x.bytes is"),
        (lambda m: m["verification"].update(passed=1), "bundle/manifest", "verification.passed is"),
        (lambda m: m["preprocess"].update(resize=10**400), "bundle/manifest", "of 1329 bits"),
        (lambda m: m["preprocess"].update(scale=10**400), "bundle/manifest", "scale is an integer"),
        (lambda m: m["input"].update(shape=[10**90, 1]), "bundle/manifest", "[0] is an integer"),
        (lambda m: m.update(labels=["\ud800"]), "bundle/manifest", "surrogates not allowed"),
    ],
)  # fmt: skip
def test_a_foreign_manifest_is_refused_with_the_reason(
    change: Callable[[dict[str, Any]], object], code: str, text: str
) -> None:
    with pytest.raises(BundleError) as caught:
        parse(_foreign(change), "build/x/manifest.json")
    assert caught.value.code == code
    assert caught.value.message.startswith("build/x/manifest.json ")
    assert text in caught.value.message


@pytest.mark.parametrize(
    "data",
    [
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"format": "alexc-bundle", "version": 1}',
        b'{"format": "alexc-bundle", "version": 1, "digest": "sha256:\\ud800"}',
    ],
)
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(BundleError):
        parse(data, "manifest.json")


@pytest.mark.parametrize(
    "path",
    ["../x", "a/../../x", "/etc/passwd", "a//b", "", ".", "./a", "a/", "C:x", "a\\..\\b", "a\0b"],
)
def test_a_path_that_leaves_the_bundle_is_refused(path: str) -> None:
    assert not is_safe(path)
    for change in (
        lambda m: m["files"].update({path: {"bytes": 1, "sha256": "0" * 64}}),
        lambda m: m["engines"][0].update(path=path),
    ):
        with pytest.raises(BundleError, match="does not name a file inside the bundle"):
            parse(_foreign(change), "manifest.json")


def test_an_engine_can_load_only_files_that_the_manifest_lists(bundle: Path) -> None:
    (bundle / "other.onnx").write_bytes(b"unchecked")
    opened = open_bundle(bundle)
    with pytest.raises(BundleError, match=r"lists no other\.onnx"):
        opened.path("other.onnx")


def test_unknown_keys_are_skipped() -> None:
    assert parse(_foreign(lambda m: m.update(later={"x": 1})), "manifest.json") == MANIFEST


def test_a_preprocess_needs_a_finite_scale() -> None:
    with pytest.raises(ValueError, match="finite"):
        Preprocess(None, (2, 3), "grey", float("nan"), (0.0,), (1.0,))


# ---- digests -------------------------------------------------------------------------------------


def test_a_digest_is_that_of_the_usual_tool(built: Path) -> None:
    manifest = alexc_runtime.open_bundle(built).manifest
    assert set(manifest.files) == {MODEL, WEIGHTS, PLAN, "verify.json"}
    assert isinstance(manifest, Manifest)
    assert manifest.files[WEIGHTS].bytes > sum(array.nbytes for array in weights().values())
    if tool := shutil.which("sha256sum"):
        done = subprocess.run([tool, built / WEIGHTS], capture_output=True, text=True, check=True)
        assert done.stdout.split()[0] == manifest.files[WEIGHTS].sha256 == sha256(built / WEIGHTS)


def test_a_bundle_may_take_pixels(tmp_path: Path) -> None:
    """An input without a type, as version 1 allows, takes float32."""
    assert MANIFEST.preprocess is not None
    pixels = replace(
        MANIFEST,
        input=replace(MANIFEST.input, dtype="uint8"),
        preprocess=replace(MANIFEST.preprocess, dtype="uint8"),
    )
    make(tmp_path / "pixels", input=pixels.input, preprocess=pixels.preprocess)
    found = read(tmp_path / "pixels")
    assert (found.input, found.preprocess) == (pixels.input, pixels.preprocess)
