"""Opening bundles, choosing the engine, running it, and refusing what is not as it was built."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import alexc_runtime
from alexc.bundle import staged
from alexc_runtime import (
    BatchError,
    EngineError,
    EngineUnavailableError,
    opening,
)
from alexc_runtime.engines import cuda, tensorrt
from alexc_runtime.engines.base import Engine, import_obstacle
from alexc_runtime.engines.onnxruntime_gpu import OnnxRuntimeCuda
from alexc_runtime.manifest import (
    MODEL,
    Bundle,
    EngineRecord,
    Output,
)
from tests.small_bundle import IMAGE, MANIFEST, PLAN, Array, built, expected, fill, images, make

__all__ = ["built"]


@pytest.fixture
def bundle(built: Path, tmp_path: Path) -> Path:
    """A bundle of the test's own."""
    return Path(shutil.copytree(built, tmp_path / "small"))


# ---- the package ---------------------------------------------------------------------------------


def test_the_import_loads_numpy_and_nothing_else_of_weight() -> None:
    script = """
import sys, time
start = time.process_time()
import alexc_runtime
print(time.process_time() - start)
print(*{name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names)
"""
    seconds = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        )
        first, second = done.stdout.splitlines()
        assert "alexc_runtime" in second.split()
        assert not set(second.split()) & {
            "alexc", "torch", "pydantic", "onnx", "onnxruntime", "openvino", "PIL", "cuda",
            "tensorrt", "tensorrt_rtx", "safetensors", "ruamel", "typer", "rich",
        }  # fmt: skip
        seconds.append(float(first))
    # 0.12 s, of which numpy takes 0.09: the rest of the bound is for a busy machine.
    assert min(seconds) <= 0.25


def test_the_example_in_the_docstring_runs(
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from PIL import Image

    (tmp_path / "build").mkdir()
    bundle.rename(tmp_path / "build" / "alexnet")
    Image.new("RGB", (40, 30), (200, 100, 50)).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    assert alexc_runtime.__doc__
    paragraphs = re.findall(r"(?:^    .*\n|^\n(?=    ))+", alexc_runtime.__doc__, re.MULTILINE)
    exec(textwrap.dedent(paragraphs[0]), {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("onnxruntime - onnxruntime: the best engine at hand; verified")
    assert len(lines) == 1 + 5
    assert re.fullmatch(r" *\d+\.\d%  \d  \S+", lines[1])


# ---- running -------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("count", [1, 6])
def test_an_engine_computes_the_network(built: Path, engine: str, count: int) -> None:
    batch = images(count)
    with alexc_runtime.open(built, engine=engine, threads=1) as opened:
        assert opened.engine == engine
        assert opened.why == f"{engine}: asked for"
        outputs = opened.run(batch)
        # The outputs are the caller's: another run does not write into them.
        opened.run(batch + 1)
    assert list(outputs) == ["scores", "conv"]
    for name, value in expected(batch).items():
        assert outputs[name].dtype == np.float32
        np.testing.assert_allclose(outputs[name], value, rtol=1e-5, atol=1e-5)


def test_the_best_engine_at_hand_is_chosen_and_says_why(built: Path) -> None:
    with alexc_runtime.open(built) as opened:
        assert (opened.engine, opened.precision, opened.status) == (
            "onnxruntime",
            "fp32",
            "verified",
        )
        assert opened.batch_limits == (1, None)
        assert opened.why == (
            "onnxruntime: the best engine at hand; verified. Passed over: "
            f"tensorrt_rtx: {tensorrt.TensorRTForRTX.obstacle()}"
        )
        assert repr(opened) == "<alexc_runtime.Session small on onnxruntime in fp32>"


def test_what_the_build_verified_comes_before_what_it_never_saw(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OnnxRuntimeCuda, "obstacle", lambda: None)
    with alexc_runtime.open(built) as opened:
        assert (opened.engine, opened.status) == ("onnxruntime", "verified")


def test_a_batch_may_lie_in_memory_in_any_order(built: Path) -> None:
    batch = images(4)
    views = np.ascontiguousarray(batch.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    with alexc_runtime.open(built, threads=1) as opened:
        expected_value = opened.run(batch)["scores"]
        np.testing.assert_array_equal(opened.run(views)["scores"], expected_value)
        np.testing.assert_array_equal(opened.run(batch[::2])["scores"], expected_value[::2])


@pytest.mark.parametrize(
    ("batch", "code", "text"),
    [
        ([[1.0]], "batch/type", "a list, not a numpy array"),
        (np.zeros((2, *IMAGE)), "batch/dtype", "holds float64"),
        (np.zeros((2, *IMAGE), ">f4"), "batch/dtype", "holds >f4"),
        (np.zeros((2, *IMAGE), np.uint8), "batch/dtype", "batch.astype(np.float32)"),
        (np.zeros(IMAGE, np.float32), "batch/shape", "batch[np.newaxis]"),
        (np.zeros((2, 9, 11, 3), np.float32), "batch/shape", "batch.transpose(0, 3, 1, 2)"),
        (np.zeros((2, 3, 11, 9), np.float32), "batch/shape", "takes float32 (batch, 3, 9, 11)"),
        (np.zeros((), np.float32), "batch/shape", "the batch is ()"),
        (np.zeros((0, *IMAGE), np.float32), "batch/size", "a batch of 0 images"),
    ],
)
def test_an_array_that_is_no_batch_is_refused(
    built: Path, batch: Any, code: str, text: str
) -> None:
    with alexc_runtime.open(built, threads=1) as opened, pytest.raises(BatchError) as caught:
        opened.run(batch)
    assert caught.value.code == code
    assert text in str(caught.value)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_closed_session_does_not_go_on(built: Path, engine: str) -> None:
    opened = alexc_runtime.open(built, engine, threads=1)
    results = opened.run_many([images(2)] * 3)
    next(results)
    loaded = opened._engine
    assert loaded is not None
    opened.close()
    with pytest.raises(EngineError, match="the session is closed"):
        next(results)
    with pytest.raises(EngineError, match="the session is closed"):  # as in another thread
        loaded.run(images(2))


def test_a_session_is_of_the_process_that_opened_it(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its threads do not get over a fork: a run in the child would wait for them for ever."""
    with alexc_runtime.open(built, "onnxruntime", threads=1) as opened:
        own = os.getpid()
        monkeypatch.setattr(os, "getpid", lambda: own + 1)
        with pytest.raises(EngineError, match="opened in another process") as caught:
            opened.run(images(2))
        assert caught.value.code == "engine/process"
        monkeypatch.undo()
        opened.run(images(2))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("end", ["session.close()", "sys.exit()"])
def test_a_fork_ends_without_waiting_for_its_parents_threads(built: Path, end: str) -> None:
    script = f"""
        import os, signal, sys, alexc_runtime
        session = alexc_runtime.open(sys.argv[1], "openvino", threads=2)
        session.warm_up()
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            {end}
            os._exit(0)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        session.warm_up()
        sys.exit(ended)
    """
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script), str(built)]
    assert subprocess.run(command, check=False).returncode == 0


@pytest.mark.parametrize("images", [-1, 0, 10**15, 10**30])
def test_a_size_that_nobody_can_run_is_not_warmed_up(built: Path, images: int) -> None:
    with (
        alexc_runtime.open(built, "onnxruntime", threads=1) as opened,
        pytest.raises(BatchError, match=f"a batch of {images} images") as caught,
    ):
        opened.warm_up(images)
    assert caught.value.code == "batch/size"


def test_a_closed_session_does_not_run(built: Path) -> None:
    opened = alexc_runtime.open(built, threads=1)
    opened.close()
    opened.close()
    with pytest.raises(EngineError, match="the session is closed"):
        opened.run(images(1))


def test_a_session_that_is_closed_while_a_run_begins_is_a_closed_one(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = alexc_runtime.open(built, "onnxruntime", threads=1)
    own = os.getpid()

    def getpid() -> int:  # between the look at the session and the run: as in another thread
        monkeypatch.undo()
        opened.close()
        return own

    monkeypatch.setattr(os, "getpid", getpid)
    with pytest.raises(EngineError, match="the session is closed"):
        opened.run(images(2))


def test_an_engine_that_gives_something_else_than_the_manifest_says_is_a_fault(
    tmp_path: Path,
) -> None:
    make(tmp_path / "small", outputs=(Output("scores", (5,)), Output("conv", (5, 9, 7))))
    with (
        alexc_runtime.open(tmp_path / "small", threads=1) as opened,
        pytest.raises(EngineError, match=r"gives conv as float32 \(2, 5, 7, 9\), and the manifest"),
    ):
        opened.run(images(2))


# ---- choosing ------------------------------------------------------------------------------------


def test_an_engine_asked_for_serves_or_is_an_error(built: Path) -> None:
    with pytest.raises(EngineUnavailableError) as caught:
        alexc_runtime.open(built, engine="tensorrt")
    assert caught.value.message == f"tensorrt can't run {built}: the bundle holds no plan for it"
    with pytest.raises(EngineUnavailableError, match="there is no engine 'onnx'") as caught:
        alexc_runtime.open(built, engine="onnx")
    assert caught.value.help == (
        "the engines are tensorrt, tensorrt_rtx, onnxruntime_cuda, onnxruntime_tensorrt, "
        "onnxruntime, openvino"
    )
    with pytest.raises(EngineUnavailableError, match="holds it in fp32, not in fp16"):
        alexc_runtime.open(built, engine="onnxruntime", precision="fp16")
    with pytest.raises(EngineError, match="threads is 1 to 1024, not 0"):
        alexc_runtime.open(built, threads=0)


@pytest.mark.skipif(cuda.no_driver() is None, reason="this machine has an NVIDIA driver")
def test_without_a_driver_a_plan_is_an_error_that_says_so(built: Path) -> None:
    with pytest.raises(EngineUnavailableError) as caught:
        alexc_runtime.open(built, engine="tensorrt_rtx")
    assert caught.value.message.endswith(": there is no NVIDIA driver on this machine")


class _Broken(Engine):
    """An engine that can run here, and refuses every bundle."""

    name: ClassVar[str] = "tensorrt_rtx"
    needs_plan: ClassVar[bool] = True

    @classmethod
    def obstacle(cls) -> str | None:
        return None

    def __init__(self, bundle: Bundle, record: EngineRecord, threads: int | None) -> None:
        raise EngineError("engine/load", f"it refuses {record.path} {threads} {bundle.folder.name}")

    def run(self, batch: Array) -> dict[str, Array]:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


def test_an_engine_that_fails_to_load_is_passed_over_with_a_warning(
    built: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(opening.ENGINES, "tensorrt_rtx", _Broken)
    with (
        caplog.at_level(logging.WARNING, "alexc_runtime"),
        alexc_runtime.open(built, threads=1) as opened,
    ):
        assert opened.engine == "onnxruntime"
        assert f"tensorrt_rtx: it refuses {PLAN} 1 small" in opened.why
    assert [record.message for record in caplog.records] == [f"it refuses {PLAN} 1 small"]
    # Asked for by name, it is an error.
    with pytest.raises(EngineError, match="it refuses"):
        alexc_runtime.open(built, engine="tensorrt_rtx", threads=1)


def test_without_any_engine_the_error_lists_what_each_lacks(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("onnxruntime", "openvino"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(EngineUnavailableError) as caught:
        alexc_runtime.open(built)
    assert "onnxruntime: the package onnxruntime is not installed" in caught.value.notes
    assert "openvino: the package openvino is not installed" in caught.value.notes
    assert len(caught.value.notes) == 6


def test_openvino_serves_where_onnxruntime_is_not_installed(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with alexc_runtime.open(built, threads=1) as opened:
        assert (opened.engine, opened.status) == ("openvino", "not verified by the build")


def test_a_precision_is_chosen_among_those_of_an_engine(tmp_path: Path) -> None:
    out = tmp_path / "small"
    one, other = (
        EngineRecord("openvino", precision, "verified", MODEL) for precision in ("bf16", "fp32")
    )
    make(out, engines=(one, other))
    with alexc_runtime.open(out, "openvino", threads=1) as opened:
        assert opened.precision == "bf16"
        coarse = opened.run(images(2))["conv"]
    with alexc_runtime.open(out, "openvino", precision="fp32", threads=1) as opened:
        assert opened.precision == "fp32"
        fine = opened.run(images(2))["conv"]
    np.testing.assert_allclose(fine, expected(images(2))["conv"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(coarse, fine, rtol=0.05, atol=0.2)


def test_a_library_that_does_not_load_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_engine.py").write_text("raise OSError('libfast.so: no such file')\n")
    (tmp_path / "lacking_engine.py").write_text("import a_package_that_is_nowhere\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert import_obstacle("broken_engine", "fast") == (
        "fast is installed but does not load: libfast.so: no such file"
    )
    assert import_obstacle("lacking_engine", "fast") == (
        "fast is installed without a_package_that_is_nowhere, which it needs"
    )
    assert import_obstacle("no_such.engine", "fast") == "the package fast is not installed"


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_model_that_an_engine_refuses_is_an_engine_error(tmp_path: Path, engine: str) -> None:
    with staged(tmp_path / "small") as stage:
        fill(stage.folder)
        (stage.folder / MODEL).write_bytes(b"no model at all")
        stage.commit(MANIFEST)
    with pytest.raises(EngineError, match=f"{engine} can't load .*{MODEL}: "):
        alexc_runtime.open(tmp_path / "small", engine=engine)
