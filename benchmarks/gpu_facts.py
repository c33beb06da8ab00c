"""What machine it is, and what runs on its card at all: two parts of benchmarks/gpu.py."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib.util import find_spec
from io import StringIO
from typing import Any

import numpy as np

import alexc_runtime
from benchmarks.gpu_setting import ROOT, Setting

Result = dict[str, Any]

_ASKED = (
    "name",
    "compute_cap",
    "driver_version",
    "memory.total",
    "clocks.max.sm",
    "clocks.max.mem",
    "power.limit",
)
# Libraries whose versions decide what runs.
_TELLING = re.compile(r"(cuda|nvidia|tensorrt|torch|triton|onnx|numpy|cupy)")


def gpus() -> list[str]:
    """Name and compute capability of each GPU, as the driver tells them."""
    from alexc.engines.driver import machine

    return list(machine()[1])


# ---- the machine ---------------------------------------------------------------------------------


def facts(_: str, __: Setting) -> Result:
    """The cards, the driver, and the libraries; what does not answer says why."""
    from alexc.engines.driver import machine
    from alexc.plan.machine import describe

    offered, cards = machine()
    version = int(offered or 0)
    return {
        "gpus": list(cards),
        "cuda of the driver": f"{version // 1000}.{version % 1000 // 10}",
        "nvidia-smi": _of(_nvidia_smi),
        "onnxruntime": _of(_onnxruntime),
        "torch": _of(_torch),
        "packages": _packages(),
        "machine": describe().to_json(),
    }


def _of(ask: Callable[[], Result]) -> Result:
    try:
        return ask()
    except Exception as error:  # noqa: BLE001  (the others are still to be asked)
        return {"fault": f"{type(error).__name__}: {error}"[:500]}


def _nvidia_smi() -> Result:
    done = subprocess.run(
        ["nvidia-smi", f"--query-gpu={','.join(_ASKED)}", "--format=csv,noheader"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    first = done.stdout.strip().splitlines()[0]
    return dict(zip(_ASKED, (value.strip() for value in first.split(",")), strict=True))


def _onnxruntime() -> Result:
    """Its providers, and what it prints of the libraries that it looks for."""
    import onnxruntime

    said = StringIO()
    with redirect_stdout(said):
        onnxruntime.preload_dlls()
    return {
        "version": onnxruntime.__version__,
        "file": onnxruntime.__file__,
        "build": onnxruntime.get_build_info(),
        "providers": onnxruntime.get_available_providers(),
        "said": said.getvalue().strip(),
    }


def _torch() -> Result:
    import torch

    cudnn: Any = torch.backends.cudnn
    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": cudnn.version(),
        "kernels for": torch.cuda.get_arch_list(),
    }


def _packages() -> dict[str, str]:
    """The versions of all that is installed and could matter, by name."""
    found = {}
    for package in importlib.metadata.distributions():
        name = package.metadata["Name"]
        if name and _TELLING.search(name.lower()):
            found[name.lower().replace("_", "-")] = package.version
    return dict(sorted(found.items()))


# ---- what runs -----------------------------------------------------------------------------------


def runs(engine: str, setting: Setting) -> Result:
    """Whether it computes lenet on this card, and how far from float64; else all that it says.

    Of a TensorRT also what the library itself makes of this card, without alexc's part in it.
    """
    if engine == "torch":
        return _torch_runs()
    found = _runs(engine, setting)
    if engine in ("tensorrt", "tensorrt_rtx"):
        found["library"] = library_on_card(engine)
    return found


def _runs(engine: str, setting: Setting) -> Result:
    from alexc.bundle import read_bundle
    from alexc.verify.reference import expect
    from alexc.weights import store
    from benchmarks.gpu_tasks import make

    folder = setting.work / "lenet"
    made: Result = {}
    if not (folder / "manifest.json").exists():
        made = make(ROOT / "specs" / "lenet.yaml", "--out", str(folder))
    bundle, net = read_bundle(folder)
    weights = store.read(bundle.path("weights.safetensors"), net.graph)
    batch = np.random.default_rng(0).standard_normal((2, *net.graph.input_shape), np.float32)
    expected = expect(net.graph, weights, batch, seed=0).values
    refused = {"refused": made["refused"]} if "refused" in made else {}
    try:
        with alexc_runtime.open(folder, engine) as session:
            outputs = session.run(batch)
    except alexc_runtime.RuntimeFaultError as error:
        cause = [str(error.__cause__)] if error.__cause__ is not None else []
        said = "; ".join((error.message, *error.notes, *cause))
        return {"runs": False, "fault": said, "help": error.help, **refused}
    rel_l2 = max(_rel_l2(outputs[name], expected[name]) for name in net.graph.outputs)
    return {"runs": bool(rel_l2 < 1e-2), "rel_l2": rel_l2, **refused}


def _rel_l2(found: Any, expected: Any) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def _torch_runs() -> Result:
    if find_spec("torch") is None:
        return {"runs": False, "fault": "the package torch is not installed"}
    import torch

    if not torch.cuda.is_available():
        return {"runs": False, "fault": f"torch {torch.__version__} finds no GPU"}
    matrix = torch.ones(64, 64, device="cuda")
    return {"runs": bool((matrix @ matrix == 64).all())}


def library_on_card(name: str) -> Result:
    """How far TensorRT's own calls get here with a net of one ReLU, and its messages, in its words.

    `reached` is the last of `import`, `builder`, `plan`, `engine`, `context` that it came to.
    """
    from alexc_runtime.engines.base import import_obstacle, load
    from alexc_runtime.engines.tensorrt_plan import log

    if (obstacle := import_obstacle(name, name.replace("_", "-"))) is not None:
        return {"reached": None, "said": [obstacle]}
    library: Any = load(name)
    logger = log(library)
    found: Result = {"version": library.__version__, "reached": "import", "said": logger.messages}
    try:
        builder = library.Builder(logger)
        found["reached"] = "builder"
        flag = getattr(library.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        network = builder.create_network(0 if flag is None else 1 << int(flag))
        given = network.add_input("input", library.float32, (1, 8))
        relu = network.add_activation(given, library.ActivationType.RELU)
        network.mark_output(relu.get_output(0))
        plan = builder.build_serialized_network(network, builder.create_builder_config())
        if plan is None:
            return found
        found["reached"] = "plan"
        runtime = library.Runtime(logger)
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            return found
        found["reached"] = "engine"
        if engine.create_execution_context() is not None:
            found["reached"] = "context"
    except Exception as error:  # noqa: BLE001  (how it fails is what is asked)
        found["said"] = [*logger.messages, f"{type(error).__name__}: {error}"]
    return found
