"""How fast batches are on the engines of the runtime: a part of benchmarks/gpu.py.

Batches lie on the GPU, and outputs stay there, but where a contestant takes them `from the host`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import alexc_runtime
from benchmarks import gpu_peers
from benchmarks.gpu_setting import Setting
from benchmarks.gpu_timing import Maker, of_session, timed

Result = dict[str, Any]


def speed(about: str, setting: Setting) -> Iterator[Result]:
    """By batch: p50 and p99 in milliseconds, and images a second with many batches under way.

    `about` is `ENGINE PRECISION`, with `without graphs` or `from the host` behind it, or one of
    `gpu_peers.PEERS` or `BARE`; ` at N` behind either is for that batch alone. What was measured so
    far comes after each batch.
    """
    parts = re.fullmatch(r"(.*?)(?: at (\d+))?", about)
    assert parts is not None
    name, batch = parts.groups()
    engine, precision, *how = name.split(" ", 2)
    others = {**gpu_peers.PEERS, **gpu_peers.BARE}
    make: Callable[..., AbstractContextManager[Maker]] = others.get(name, _of_bundle)
    found: Result = {}
    with make(setting, engine, precision, how[0] if how else "") as at:
        for size in setting.scale.batches if batch is None else (int(batch),):
            found[str(size)] = timed(at(size), size, setting.scale.seconds)
            yield found


@contextmanager
def _of_bundle(setting: Setting, engine: str, precision: str, how: str) -> Iterator[Maker]:
    folder = setting.bundle(precision)
    with alexc_runtime.open(folder, engine, precision=precision) as session, ExitStack() as held:
        yield lambda batch: of_session(session, batch, how, held)
