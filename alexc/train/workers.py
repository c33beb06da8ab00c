"""The processes that train together: started by torchrun, joined by torch.distributed.

Gloo carries what lies on CPUs and NCCL what lies on GPUs. One process alone needs neither.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import torch
from torch import distributed

from alexc.diagnostics import fault, usage_fault


@dataclass(frozen=True, slots=True)
class Workers:
    """This process among all of them."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the one that writes files and talks."""
        return self.rank == 0

    @property
    def restarted(self) -> bool:
        """Whether torchrun has started the group again after it lost a worker."""
        return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0

    def total(self, *values: float) -> list[float]:
        """Each value summed over all workers."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(tensor)
        return [float(value) for value in tensor]

    def wait(self) -> None:
        """Until all workers are here."""
        self.total(0.0)


@contextmanager
def joined(device: str | None) -> Iterator[Workers]:
    """The group that torchrun started this process in, or this process alone.

    Raises UsageError if the device asked for is not there, and AlexcError where the connection to
    another worker breaks, also in the block.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    chosen = _device(device, local)
    if size == 1:
        yield Workers(0, 1, chosen)
        return
    with _losses_told():
        stores: Any = distributed  # of which its types leave out the stores
        store, rank, _ = next(stores.rendezvous("env://"))
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo",
            store=stores.PrefixStore(agreed_name(store, rank, size), store),
            rank=rank,
            world_size=size,
        )
        try:
            yield Workers(rank, size, chosen)
        finally:
            distributed.destroy_process_group()


def agreed_name(store: Any, rank: int, size: int) -> str:
    """A name for this group, on which its workers agree by the `torch.distributed.Store`.

    torchrun keeps its store from one start of the group to the next (PyTorch 2.13; only with
    TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 it does not), and so the addresses of workers that are
    lost: a new one that is quick would connect to them. Nor do all workers count restarts alike,
    where several machines take part. So worker 0 makes a new name, and gives it to each that asks
    for it with a word that nobody has used before; what a lost one asked is answered in vain.
    Raises RuntimeError if not all are there in time.
    """
    if rank:
        mine = uuid4().hex
        store.set(f"alexc/asks/{rank}", mine)
        name: str = store.get(f"alexc/answer/{mine}").decode()
        store.set(f"{name}/here/{rank}", "")
        return name
    name = f"alexc/{uuid4().hex}"
    missing = set(range(1, size))
    end = time.monotonic() + store.timeout.total_seconds()
    while missing:
        for other in sorted(missing):
            if store.check([f"{name}/here/{other}"]):
                missing.remove(other)
            elif store.check([f"alexc/asks/{other}"]):
                store.set(f"alexc/answer/{store.get(f'alexc/asks/{other}').decode()}", name)
        if time.monotonic() > end:
            raise distributed.DistError(f"[store] workers {sorted(missing)} did not come")
        time.sleep(0.01)
    return name


@contextmanager
def _losses_told() -> Iterator[None]:
    """Turns errors of the connection between workers into one that says what can be done."""
    try:
        yield
    except RuntimeError as error:
        # Gloo has no kind of its own for this, but names itself.
        if not isinstance(error, distributed.DistError) and "gloo" not in str(error).lower():
            raise
        reason = str(error).strip().splitlines()[0].rpartition("] ")[2]
        raise fault(
            "train/lost-worker",
            f"the connection to another worker broke: {reason}",
            help="its own message says why it ended; torchrun --max-restarts starts all of them "
            "again, and they go on from the last checkpoint",
        ) from None


def _device(name: str | None, local: int) -> torch.device:
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise usage_fault("train/device", f"there is no device {name!r}", help="cpu or cuda")
    if name == "cpu":
        return torch.device("cpu")
    if local >= torch.cuda.device_count():
        raise usage_fault(
            "train/device",
            f"worker {local} of this machine has no GPU: PyTorch sees {torch.cuda.device_count()}",
            help="start as many workers as there are GPUs, or train with --device cpu",
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)
