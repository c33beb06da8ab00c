"""Workers agree on a name for their group, also over a store that lost workers have written to."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from typing import Any

import pytest
import torch.distributed

from alexc.train.workers import agreed_name

_distributed: Any = torch.distributed  # of which its types leave out the stores


def _meet(store: Any, late: float = 0.0) -> set[str]:
    """The names that three workers agree on, of which worker 1 comes late."""
    names: set[str] = set()

    def come(rank: int) -> None:
        if rank == 1:
            time.sleep(late)
        names.add(agreed_name(store, rank, 3))

    threads = [threading.Thread(target=come, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return names


def test_every_start_of_a_group_has_a_name_of_its_own() -> None:
    store = _distributed.HashStore()
    store.set_timeout(timedelta(seconds=60))
    first, second = _meet(store), _meet(store, late=0.05)
    assert len(first) == len(second) == 1
    assert first != second


def test_what_a_lost_worker_asked_does_not_count() -> None:
    store = _distributed.HashStore()
    store.set_timeout(timedelta(seconds=60))
    for rank in (1, 2):
        store.set(f"alexc/asks/{rank}", "a word of one that was lost")
    assert len(_meet(store, late=0.05)) == 1


def test_a_worker_that_does_not_come_is_named() -> None:
    store = _distributed.HashStore()
    store.set_timeout(timedelta(seconds=0.05))
    with pytest.raises(RuntimeError, match=r"workers \[1\] did not come"):
        agreed_name(store, 0, 2)
