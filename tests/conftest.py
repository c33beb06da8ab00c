"""What holds for every test: its share of the cores, no network, any order, the GPU only if there.

`make test` runs the tests in several processes. On their own:

    .venv/bin/python -m pytest tests/test_imports.py --order-seed 7
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from functools import cache
from typing import Any

# Before anything imports numpy or torch: the test processes share the cores, instead of each
# starting a thread for every one of them. Commands that tests start inherit this.
_PROCESSES = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_THREADS = max(1, (os.cpu_count() or 1) // _PROCESSES)
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, str(_THREADS))

# What `make test` tells its children is not for the makes that tests start, and how wide a terminal
# is doesn't change what a test sees.
for _variable in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "COLUMNS"):
    os.environ.pop(_variable, None)

# Plans are kept in nobody's home, and a test never finds those of another.
os.environ["ALEXC_CACHE"] = ""

import hypothesis  # noqa: E402
import pytest  # noqa: E402

# The same examples in every run, and no time limit an example on a machine that others use too.
# A campaign looks further: `pytest --hypothesis-profile campaign`.
hypothesis.settings.register_profile(
    "tests", derandomize=True, deadline=None, database=None, print_blob=True
)
hypothesis.settings.register_profile(
    "campaign", deadline=None, max_examples=10_000, print_blob=True
)
hypothesis.settings.load_profile("tests")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--order-seed",
        type=int,
        default=2012,
        metavar="N",
        help="seed of the order that tests run in; 0 is the order of the files (default: 2012)",
    )


def pytest_report_header(config: pytest.Config) -> str:
    return f"order seed: {config.getoption('--order-seed')}"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    _shuffle(items, config.getoption("--order-seed"))
    if any(item.get_closest_marker("gpu") for item in items) and not _gpu_answers():
        skip = pytest.mark.skip(reason="needs an NVIDIA GPU, and nvidia-smi does not answer")
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(skip)


def _shuffle(items: list[pytest.Item], seed: int) -> None:
    """Put files, and the tests in each, in an order of chance, so that none can lean on another.

    A file's tests stay together, so that what they share is made once. The same seed gives the
    same order in every process.
    """
    if seed == 0:
        return
    chance = random.Random(seed)
    files: dict[str, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(str(item.path), []).append(item)
    order = list(files)
    chance.shuffle(order)
    items.clear()
    for file in order:
        chance.shuffle(files[file])
        items.extend(files[file])


@cache
def _gpu_answers() -> bool:
    command = shutil.which("nvidia-smi")
    return command is not None and subprocess.run([command], capture_output=True).returncode == 0


# ---- no network ----------------------------------------------------------------------------------


class NetworkUsed(RuntimeError):  # noqa: N818  (it reads as what happened)
    """A test tried to reach another machine."""


def _refuse_network(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook that lets sockets reach this machine only: its own files and loopback."""
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        # Addresses of AF_UNIX are paths; those of the internet begin with the host.
        if not isinstance(address, tuple) or _is_loopback(str(address[0])):
            return
    elif event == "socket.getaddrinfo":
        address = arguments[0]
        if address is None or _is_loopback(
            address.decode() if isinstance(address, bytes) else str(address)
        ):
            return
    else:
        return
    raise NetworkUsed(f"a test reached for the network: {event} {address!r}")


def _is_loopback(host: str) -> bool:
    return host in ("", "localhost", "::1") or host.startswith("127.")


def pytest_configure() -> None:
    # An audit hook can't be taken away again, and sees what C code asks Python's sockets to do, so
    # it also holds in threads and fixtures.
    sys.addaudithook(_refuse_network)
