"""How fast batches are, and what Python takes of it: two parts of benchmarks/gpu.py.

Batches lie on the GPU, and outputs stay there, but where a contestant takes them `from the host`.
"""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import alexc_runtime
from alexc_runtime.engines.cuda import Cuda
from alexc_runtime.engines.tensorrt import TensorRT
from alexc_runtime.manifest import Manifest
from alexc_runtime.session import ENGINES, Session
from benchmarks.gpu_bundles import PRECISIONS, bundle_of

BATCHES = (1, 8, 64, 256)
PEERS = ("torch eager", "torch compile", "export tensorrt", "export tensorrt_rtx")
PLANS = ("tensorrt", "tensorrt_rtx")

_SECONDS = 1.5  # that a contestant is timed for, at each batch and in each way
_CALLS = 2000  # that the overhead is the median of

Result = dict[str, Any]


@dataclass
class Timed:
    """A batch that can be run: `put` gives it to the GPU, `wait` waits until all is done."""

    put: Callable[[], object]
    wait: Callable[[], object]


def contestants(work: Path) -> list[str]:
    """`ENGINE PRECISION`, `… without graphs` and `… from the host`, and the peers."""
    names = []
    for precision in PRECISIONS:
        if not (bundle_of(work, precision) / "manifest.json").exists():
            continue
        for engine in PLANS:
            own = f"{engine} {precision}"
            names += [own, f"{own} without graphs", f"{own} from the host"]
        names.append(f"onnxruntime_cuda {precision}")
    return [*names, *PEERS]


def speed(name: str, work: Path, _: Path | None) -> Result:
    """By batch: p50 and p99 in milliseconds, and images a second with many batches under way."""
    engine, precision, *how = name.split(" ", 2)
    makers: dict[str, Callable[..., AbstractContextManager[Maker]]]
    makers = {"torch eager": _eager, "torch compile": _compiled}
    make = makers.get(name, _exported if name in PEERS else _of_bundle)
    with make(work, engine, precision, how[0] if how else "") as at:
        return {str(batch): timed(at(batch), batch) for batch in BATCHES}


Maker = Callable[[int], Timed]


@contextmanager
def _of_bundle(work: Path, engine: str, precision: str, how: str) -> Iterator[Maker]:
    folder = bundle_of(work, precision)
    with alexc_runtime.open(folder, engine, precision=precision) as session, ExitStack() as held:
        yield lambda batch: of_session(session, batch, how, held)


def of_session(session: Session, batch: int, how: str, held: ExitStack) -> Timed:
    """A batch of a session, on the GPU unless it is to come `from the host`."""
    cuda = Cuda("the benchmark")
    host = np.random.default_rng(batch).standard_normal(
        (batch, *session.manifest.input.shape), np.float32
    )
    if how == "from the host":
        return Timed(lambda: session.run(host), lambda: None)
    if how == "without graphs" and isinstance(session._engine, TensorRT):  # noqa: SLF001
        session._engine._launches._recording = False  # noqa: SLF001
    there = OnDevice(cuda, host, held)
    return Timed(lambda: session.run(there), lambda: cuda.call(cuda.api.cudaDeviceSynchronize))


class OnDevice:
    """An array on the GPU, as other libraries offer theirs."""

    def __init__(self, cuda: Cuda, array: Any, held: ExitStack) -> None:
        self.shape = array.shape
        address = cuda.memory(array.nbytes, held, "a batch")
        source = cuda.page_locked(array.nbytes, held, "a batch")
        ctypes.memmove(source, array.ctypes.data, array.nbytes)
        with ExitStack() as own:
            stream = cuda.stream(own)
            cuda.call(cuda.copy(address, source, array.nbytes, cuda.to_device, stream))
            cuda.call(cuda.api.cudaStreamSynchronize, stream)
        self.__cuda_array_interface__ = {
            "version": 3, "shape": array.shape, "typestr": array.dtype.str,
            "data": (address, False), "strides": None, "stream": None,
        }  # fmt: skip


def timed(run: Timed, batch: int, seconds: float = _SECONDS) -> Result:
    """Times of a batch: one after the other, each waited for; then many put before one wait."""
    for _ in range(5):
        run.put()
    run.wait()
    single: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(single) < 5:
        start = time.perf_counter()
        run.put()
        run.wait()
        single.append(time.perf_counter() - start)
    many = max(2, min(512, round(0.2 / statistics.median(single))))
    best = float("inf")
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or best == float("inf"):
        start = time.perf_counter()
        for _ in range(many):
            run.put()
        run.wait()
        best = min(best, (time.perf_counter() - start) / many)
    single.sort()
    return {
        "p50_ms": statistics.median(single) * 1e3,
        "p99_ms": single[min(len(single) - 1, int(len(single) * 0.99))] * 1e3,
        "images_per_s": batch / min(best, statistics.median(single)),
        "runs": len(single),
    }


def _torch_net(work: Path) -> Any:
    """The net of the fp32 bundle in torch: fp16 within, channels last, float32 in and out."""
    import torch

    from alexc.bundle import net_in
    from alexc.lower.to_torch import to_torch
    from alexc.weights import store

    if not torch.cuda.is_available():
        raise RuntimeError("torch finds no GPU")
    folder = bundle_of(work, "fp32")
    manifest = alexc_runtime.open_bundle(folder).manifest
    graph = net_in(manifest, str(folder)).graph
    net = to_torch(graph, store.read(folder / "weights.safetensors", graph)).eval()
    half: Any = net.half().cuda()
    half = half.to(memory_format=torch.channels_last)

    class InHalf(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = half

        def forward(self, images: Any) -> Any:
            found = self.net(images.half().to(memory_format=torch.channels_last))
            return (found[graph.outputs[0]] if isinstance(found, dict) else found).float()

    return InHalf().eval(), manifest


def _of_torch(call: Any, shape: tuple[int, ...]) -> Maker:
    import torch

    def at(batch: int) -> Timed:
        images = torch.randn(batch, *shape, device="cuda")

        def put() -> object:
            with torch.inference_mode():
                return call(images)

        return Timed(put, torch.cuda.synchronize)

    return at


@contextmanager
def _eager(work: Path, *_: str) -> Iterator[Maker]:
    net, manifest = _torch_net(work)
    yield _of_torch(net, manifest.input.shape)


@contextmanager
def _compiled(work: Path, *_: str) -> Iterator[Maker]:
    import torch

    net, manifest = _torch_net(work)
    # With CUDA graphs, which this mode brings; compiled anew for each size.
    yield _of_torch(torch.compile(net, mode="max-autotune", dynamic=False), manifest.input.shape)


@contextmanager
def _exported(work: Path, _: str, engine: str, __: str) -> Iterator[Maker]:
    """The plan that TensorRT makes of the file that torch.onnx.export writes of the fp16 net."""
    import torch

    if (obstacle := ENGINES[engine].obstacle()) is not None:
        raise RuntimeError(obstacle)
    net, manifest = _torch_net(work)
    folder = work / f"exported-{engine}"
    folder.mkdir(exist_ok=True)
    output = manifest.outputs[0].name
    torch.onnx.export(  # noqa: TID251  (to measure what comes of it)
        net,
        (torch.randn(2, *manifest.input.shape, device="cuda"),),
        folder / "exported.onnx",
        input_names=["input"],
        output_names=[output],
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    bundle = _bundle_of_export(folder, engine, manifest)
    with alexc_runtime.open(bundle, engine) as session, ExitStack() as held:
        yield lambda batch: of_session(session, batch, "", held)


def _bundle_of_export(folder: Path, engine: str, manifest: Manifest) -> Path:
    """A bundle of nothing but the plan of an exported model, so that the same runtime runs it."""
    from alexc.bundle import staged
    from alexc.engines.options import PlanOptions
    from alexc.engines.tensorrt import build_plan
    from alexc_runtime.manifest import MODEL, REPORT, WEIGHTS, BatchRange, Verification

    options = PlanOptions(profiles=(BatchRange(1, 1, 1), BatchRange(2, 64, 256)))
    made = build_plan(
        folder / "exported.onnx",
        folder / "exported.plan",
        flavour=engine,
        precision="fp16",
        options=options,
    )
    if made.record.path is None:
        raise RuntimeError(made.record.status)
    path = f"engines/{engine}-fp16.plan"
    with staged(folder / "bundle") as stage:
        (stage.folder / "engines").mkdir()
        for name in (MODEL, WEIGHTS, REPORT):
            (stage.folder / name).write_bytes(b"")
        (stage.folder / path).write_bytes((folder / "exported.plan").read_bytes())
        record = replace(made.record, path=path)
        changed = replace(
            manifest,
            engines=(record,),
            outputs=manifest.outputs[:1],
            verification=Verification(passed=None, reference="none"),
            plan=None,
            files={},
        )
        stage.commit(changed)
    return folder / "bundle"


# ---- what Python takes ---------------------------------------------------------------------------


def overhead(precision: str, work: Path, _: Path | None) -> Result:
    """By engine: microseconds of calls at batch 1, over the bare launch of the same graph."""
    found: Result = {}
    for engine in PLANS:
        try:
            with (
                alexc_runtime.open(bundle_of(work, precision), engine) as session,
                ExitStack() as held,
            ):
                found[engine] = overhead_of(session, held)
        except alexc_runtime.RuntimeFaultError as error:
            found[engine] = {"fault": str(error).splitlines()[0]}
    return found


def overhead_of(session: Session, held: ExitStack, calls: int = _CALLS) -> Result:
    """Medians in microseconds: bare launch and wait, and the call with the batch on either side.

    They take turns, so that whatever else the machine does falls on all alike. Of a batch on the
    host, copying its bytes to where the GPU reads them belongs to the bare launch.
    """
    engine = session._engine  # noqa: SLF001
    assert isinstance(engine, TensorRT)
    images = session.batch_limits[0]
    there = of_session(session, images, "", held)
    host = np.zeros((images, *session.manifest.input.shape), np.float32)
    wait = engine._cuda.api.cudaStreamSynchronize  # noqa: SLF001
    pinned = engine._slots.first.addresses[session.manifest.input.name]  # noqa: SLF001
    stream = engine._compute  # noqa: SLF001
    for _ in range(10):
        there.put()
        session.run(host)
    graphs = engine._launches._graphs  # noqa: SLF001
    of_host, of_gpu = (
        next((g.launch for key, g in graphs.items() if isinstance(key[0], int) is lent), None)  # type: ignore[index]
        for lent in (False, True)
    )
    if of_host is None or of_gpu is None:
        return {"fault": "it runs without CUDA graphs"}

    def ways() -> dict[str, Callable[[], object]]:
        return {
            "bare, host": lambda: (
                ctypes.memmove(pinned, host.ctypes.data, host.nbytes),
                of_host(),
                wait(stream),
            ),
            "run, host": lambda: session.run(host),
            "bare, GPU": lambda: (of_gpu(), wait(stream)),
            "run, GPU": lambda: (there.put(), wait(stream)),
        }

    taken: dict[str, list[int]] = {way: [] for way in ways()}
    for _ in range(calls):
        for way, call in ways().items():
            start = time.perf_counter_ns()
            call()
            taken[way].append(time.perf_counter_ns() - start)
    found: Result = {way: statistics.median(times) / 1e3 for way, times in taken.items()}
    for side in ("host", "GPU"):
        found[f"over, {side}"] = found[f"run, {side}"] - found[f"bare, {side}"]
    return found
