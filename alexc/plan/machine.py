"""The machine that a benchmark ran on, as far as it bears on its times."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from alexc_runtime.cores import affinity

# The packages whose version can change a time.
_PACKAGES = (
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxscript",
    "openvino",
    "nncf",
    "tensorrt",
    "tensorrt-rtx",
    "torch",
    "torch-tensorrt",
)
_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
_NOT_REPORTED = "not reported"


@dataclass(frozen=True)
class Machine:
    """What was found; a size is None and a text `not reported` where the system does not say.

    `affinity` are the cores that this process may run on; `governor` is the kernel's policy for
    the clock of the first of them; `load` the average number of processes that ran in the minute
    before.
    """

    cpu: str
    affinity: tuple[int, ...]
    features: tuple[str, ...]
    last_level_cache_bytes: int | None
    memory_bytes: int | None
    governor: str
    load: float | None
    system: str
    versions: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "cores": len(self.affinity)}


def describe() -> Machine:
    """This machine, now. Nothing is measured and nothing heavy is imported."""
    cpuinfo = _read("/proc/cpuinfo")
    model = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    flags = re.search(r"^flags\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    present = set(flags[1].split()) if flags else set()
    cores = affinity()
    policy = f"/sys/devices/system/cpu/cpu{cores[0]}/cpufreq/scaling_governor"
    return Machine(
        cpu=model[1].strip() if model else platform.processor() or _NOT_REPORTED,
        affinity=cores,
        features=tuple(feature for feature in _FEATURES if feature in present),
        last_level_cache_bytes=_last_level_cache(cores[0]),
        memory_bytes=_memory(),
        governor=_read(policy).strip() or _NOT_REPORTED,
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        system=f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        versions=_versions(),
    )


def busy_seconds() -> float | None:
    """Processor time that all cores together have spent at work since the machine started.

    None where the system does not say. The difference of two calls, less the time of one's own
    processes, is what others took.
    """
    first = _read("/proc/stat").partition("\n")[0].split()
    if len(first) < 9 or first[0] != "cpu":
        return None
    user, nice, system, _idle, _waiting, interrupts, soft, stolen = map(int, first[1:9])
    ticks = user + nice + system + interrupts + soft + stolen
    return ticks / os.sysconf("SC_CLK_TCK")


def _versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def _last_level_cache(core: int) -> int | None:
    """Bytes of the largest cache that the core reaches."""
    sizes = []
    for index in Path(f"/sys/devices/system/cpu/cpu{core}/cache").glob("index*/size"):
        size = re.fullmatch(r"(\d+)([KMG]?)", _read(str(index)).strip())
        if size:
            sizes.append(int(size[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[size[2]])
    return max(sizes, default=None)


def _memory() -> int | None:
    total = re.search(r"^MemTotal:\s*(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)
    return int(total[1]) * 1024 if total else None


def _read(path: str) -> str:
    """A file of the system's; nothing where there is none."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
