"""All of an engine on a real GPU but TensorRT: memory, streams, graphs, and arrays of torch.

TensorRT does not run on every GPU. Here its double stands for it, and computes by copies that CUDA
puts on the stream, which a graph can hold: `scores` are the first numbers of an image, and `conv`
all of them, with ones behind.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

import alexc_runtime
from alexc_runtime.engines.cuda import MODULE, Cuda
from alexc_runtime.engines.tensorrt import TensorRT
from tests import tensorrt_double
from tests.cuda_double import Gpu
from tests.small_bundle import IMAGE, Array, built, images
from tests.tensorrt_double import Behaviour

__all__ = ["built"]

pytestmark = pytest.mark.gpu

_SCORES, _IMAGE, _CONV = (4 * size for size in (5, 3 * 9 * 11, 5 * 7 * 9))  # bytes of an image
_ONE = 0x01  # of each byte behind an image


@pytest.fixture(autouse=True)
def _library(monkeypatch: pytest.MonkeyPatch) -> None:
    api = pytest.importorskip(MODULE)
    cuda = Cuda("the test")
    stream = SimpleNamespace(stream=lambda _: None)
    library = tensorrt_double.library(cast(Gpu, stream), Behaviour())

    def execute(context: Any, stream: int) -> bool:
        place, count = context.addresses, context.batch
        kind, source = cuda.on_device, place["input"]
        cuda.call(api.cudaMemset2DAsync, place["conv"], _CONV, _ONE, _CONV, count, stream)
        for target, pitch, width in (
            (place["scores"], _SCORES, _SCORES),
            (place["conv"], _CONV, _IMAGE),
        ):
            copied = (target, pitch, source, _IMAGE, width, count, kind, stream)
            cuda.call(api.cudaMemcpy2DAsync, *copied)
        return True

    monkeypatch.setattr(library.IExecutionContext, "execute_async_v3", execute)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", library)
    monkeypatch.setenv("ALEXC_CACHE", "")


def computed(batch: Array) -> dict[str, Array]:
    flat = np.ascontiguousarray(batch).reshape(len(batch), -1)
    conv = np.full((len(batch), _CONV), _ONE, np.uint8).view(np.float32)
    conv[:, : flat.shape[1]] = flat
    return {"scores": flat[:, :5], "conv": conv.reshape(len(batch), 5, 7, 9)}


def agree(outputs: Any, batch: Array) -> None:
    for name, value in computed(batch).items():
        found = outputs[name]
        found = found if isinstance(found, np.ndarray) else found.numpy()
        np.testing.assert_array_equal(found, value)


def engine_of(session: alexc_runtime.Session) -> TensorRT:
    assert isinstance(session._engine, TensorRT)
    return session._engine


def test_batches_of_the_host(built: Path) -> None:
    with alexc_runtime.open(built, "tensorrt_rtx") as opened:
        for count in (4, 2, 3, 4, 2, 3, 3):
            agree(opened.run(images(count)), images(count))
        assert len(engine_of(opened)._launches._graphs) == 3
        counts = [3, 4, 2, 4, 3, 3, 2, 2]
        for outputs, count in zip(
            opened.run_many(images(count) for count in counts), counts, strict=True
        ):
            agree(outputs, images(count))
    opened.close()


def test_tensors_of_torch_on_any_stream(built: Path) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch uses no GPU")
    batch = torch.from_numpy(images(3)).cuda()
    torch.cuda.synchronize()
    with alexc_runtime.open(built, "tensorrt_rtx") as opened:
        for stream in (torch.cuda.current_stream(), torch.cuda.Stream()):
            with torch.cuda.stream(stream):
                for turn in range(40):
                    batch += 1
                    outputs = opened.run(batch)
                    found = {name: torch.from_dlpack(out) for name, out in outputs.items()}
                    doubled = {name: tensor * 2 for name, tensor in found.items()}
                    expected = batch.cpu().numpy()
                    agree(outputs, expected)
                    for name, value in computed(expected).items():
                        assert found[name].data_ptr() == outputs[name]._holder.address, turn
                        np.testing.assert_array_equal(doubled[name].cpu().numpy(), value * 2)
        keys = engine_of(opened)._launches._graphs
        assert [key for key in keys if isinstance(cast(Any, key)[0], int)]
        whole = torch.zeros(2 * 297 + 1, device="cuda")
        whole[1:] = torch.from_numpy(images(2).reshape(-1))
        agree(opened.run(whole[1:].reshape(2, *IMAGE)), images(2))
        kept = opened.run(batch)
        with pytest.raises(RuntimeError, match="invalid for input"):
            torch.from_dlpack(kept["scores"]).reshape(7)
    agree(kept, batch.cpu().numpy())  # after the end
    np.testing.assert_array_equal(
        torch.from_dlpack(kept["conv"]).cpu().numpy(), computed(batch.cpu().numpy())["conv"]
    )


def test_threads_record_while_others_wait_for_the_gpu(
    built: Path, caplog: pytest.LogCaptureFixture
) -> None:
    faults: list[BaseException] = []

    def work(session: alexc_runtime.Session, count: int) -> None:
        try:
            for _ in range(20):
                agree(session.run(images(count)), images(count))
                assert engine_of(session)._cuda.rest()
        except BaseException as error:  # noqa: BLE001  (told by the thread that waits)
            faults.append(error)

    for _ in range(5):
        with (
            alexc_runtime.open(built, "tensorrt_rtx") as one,
            alexc_runtime.open(built, "tensorrt_rtx") as other,
        ):
            threads = [
                threading.Thread(target=work, args=(session, count))
                for session in (one, other)
                for count in (2, 3, 4)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    assert not faults
    assert not caplog.records
