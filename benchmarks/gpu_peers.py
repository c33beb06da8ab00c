"""What a user would run instead, for benchmarks/gpu.py: torch, torch.compile, and other exports.

All of them compute in fp16 and take and give float32 on the GPU, as the engines of a bundle do.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import alexc_runtime
from alexc.engines.forms import FILES
from alexc_runtime.manifest import MODEL, Manifest
from alexc_runtime.opening import ENGINES
from benchmarks.gpu_setting import Setting
from benchmarks.gpu_timing import Maker, Timed, of_session


def _torch_net(setting: Setting) -> tuple[Any, Manifest]:
    """The net of the fp16 bundle in torch: fp16 within, channels last, float32 in and out."""
    import torch

    from alexc.bundle import read_bundle
    from alexc.lower.to_torch import to_torch
    from alexc.weights import store

    if not torch.cuda.is_available():
        raise RuntimeError("torch finds no GPU")
    bundle, kept = read_bundle(setting.bundle("fp16"))
    graph = kept.graph
    net = to_torch(graph, store.read(bundle.path("weights.safetensors"), graph)).eval()
    half: Any = net.half().cuda()
    half = half.to(memory_format=torch.channels_last)

    class InHalf(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = half

        def forward(self, images: Any) -> Any:
            found = self.net(images.half().to(memory_format=torch.channels_last))
            return (found[graph.outputs[0]] if isinstance(found, dict) else found).float()

    return InHalf().eval(), bundle.manifest


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
def _eager(setting: Setting, *_: str) -> Iterator[Maker]:
    net, manifest = _torch_net(setting)
    yield _of_torch(net, manifest.input.shape)


@contextmanager
def _compiled(setting: Setting, *_: str) -> Iterator[Maker]:
    # What was tuned stays, should it not come to its end and be begun again.
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        os.environ.setdefault(name, str(setting.work / name.lower()))
    import torch

    net, manifest = _torch_net(setting)
    # With CUDA graphs, which this mode brings; compiled anew for each size.
    yield _of_torch(torch.compile(net, mode="max-autotune", dynamic=False), manifest.input.shape)


# ---- the file that torch.onnx.export writes ------------------------------------------------------


def _export(setting: Setting, folder: Path) -> Manifest:
    """Write the fp16 net as `exported.onnx` into the folder, all in one file."""
    import torch

    net, manifest = _torch_net(setting)
    folder.mkdir(exist_ok=True)
    torch.onnx.export(  # noqa: TID251  (to measure what comes of it)
        net,
        (torch.randn(2, *manifest.input.shape, device="cuda"),),
        folder / "exported.onnx",
        input_names=["input"],
        output_names=[manifest.outputs[0].name],
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        external_data=False,
        verbose=False,
    )
    return manifest


@contextmanager
def _exported_to_tensorrt(setting: Setting, _: str, engine: str, __: str) -> Iterator[Maker]:
    """The plan that TensorRT makes of the file, in the same runtime as ours."""
    if (obstacle := ENGINES[engine].obstacle()) is not None:
        raise RuntimeError(obstacle)
    folder = setting.work / f"exported-{engine}"
    manifest = _export(setting, folder)
    bundle = _bundle_of_export(folder, engine, manifest, setting.scale.profiles)
    with alexc_runtime.open(bundle, engine) as session, ExitStack() as held:
        yield lambda batch: of_session(session, batch, "", held)


@contextmanager
def _exported_to_onnxruntime(setting: Setting, *_: str) -> Iterator[Maker]:
    """ONNX Runtime's CUDA provider on the file, its input and outputs bound once and for all.

    Unlike in ours it may leave nodes to the CPU, and no Python stands between two calls.
    """
    import torch

    folder = setting.work / "exported-onnxruntime_cuda"
    manifest = _export(setting, folder)
    torch.cuda.empty_cache()
    yield of_onnxruntime(folder / "exported.onnx", manifest)


@contextmanager
def _bare(file: str, options: Mapping[str, str], setting: Setting, *_: str) -> Iterator[Maker]:
    """ONNX Runtime's CUDA provider on a model of the fp16 bundle, told other than by us."""
    bundle = alexc_runtime.open_bundle(setting.bundle("fp16"))
    yield of_onnxruntime(bundle.path(file), bundle.manifest, options=options)


def of_onnxruntime(
    model: Path,
    manifest: Manifest,
    memory: str = "cuda",
    options: Mapping[str, str] | None = None,
) -> Maker:
    """A file on ONNX Runtime alone, with more options of its provider, and batches in `memory`.

    Each size of a batch has a session of its own, for a CUDA graph is of one.
    """
    import onnxruntime

    onnxruntime.preload_dlls()
    provider = ("CUDAExecutionProvider", {"use_tf32": "0", **(options or {})})

    def at(batch: int) -> Timed:
        session = onnxruntime.InferenceSession(
            str(model),
            providers=[provider if memory == "cuda" else "CPUExecutionProvider"],
            enable_fallback=0,
        )
        if memory == "cuda" and provider[0] not in session.get_providers():
            raise RuntimeError(f"the {provider[0]} could not be started")
        kind = np.dtype(np.float32)
        images = np.random.default_rng(batch).standard_normal(
            (batch, *manifest.input.shape), np.float32
        )
        output = manifest.outputs[0]
        made = onnxruntime.OrtValue
        binding = session.io_binding()
        binding.bind_ortvalue_input("input", made.ortvalue_from_numpy(images, memory, 0))
        binding.bind_ortvalue_output(
            output.name,
            made.ortvalue_from_shape_and_type((batch, *output.shape), kind, memory, 0),
        )
        return Timed(lambda: session.run_with_iobinding(binding), lambda: None)

    return at


def _bundle_of_export(
    folder: Path, engine: str, manifest: Manifest, profiles: list[tuple[int, int, int]]
) -> Path:
    """A bundle of nothing but the plan of an exported model, so that the same runtime runs it."""
    from alexc.bundle import staged
    from alexc.engines.options import PlanOptions
    from alexc.engines.tensorrt import build_plan
    from alexc_runtime.manifest import REPORT, WEIGHTS, BatchRange, Verification

    options = PlanOptions(profiles=tuple(BatchRange(*profile) for profile in profiles))
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


PEERS: dict[str, Callable[..., AbstractContextManager[Maker]]] = {
    "torch compile": _compiled,
    "export tensorrt": _exported_to_tensorrt,
    "export tensorrt_rtx": _exported_to_tensorrt,
    "export onnxruntime_cuda": _exported_to_onnxruntime,
    "torch eager": _eager,
}

_GRAPH, _NHWC = {"enable_cuda_graph": "1"}, {"prefer_nhwc": "1"}
# What ONNX Runtime could do on a GPU if it were told otherwise, or given another form of the model.
BARE: dict[str, Callable[..., AbstractContextManager[Maker]]] = {
    "bare onnxruntime_cuda": partial(_bare, MODEL, {}),
    "bare onnxruntime_cuda with graphs": partial(_bare, MODEL, _GRAPH),
    "bare onnxruntime_cuda with NHWC": partial(_bare, MODEL, _NHWC),
    "bare onnxruntime_cuda with NHWC and graphs": partial(_bare, MODEL, {**_NHWC, **_GRAPH}),
    "bare onnxruntime_cuda with LRN banded and graphs": partial(
        _bare, FILES["onnxruntime"], _GRAPH
    ),
}
