"""All that we use of CUDA's runtime is in `cuda-python`, the oldest that we take and a new one.

What is in them stands in `library_names/`, as tests/write_library_names.py found it. The double,
against which everything else is tested, must take and give what they do.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from alexc_runtime.engines import cuda
from alexc_runtime.engines.base import import_obstacle
from tests import cuda_double, write_library_names
from tests.cuda_double import Gpu
from tests.gpu_machine import Machine, machine
from tests.small_bundle import built, images

__all__ = ["built", "machine"]

REAL: Any = (
    None if import_obstacle(cuda.MODULE, "cuda-python") else importlib.import_module(cuda.MODULE)
)
ROOT = Path(__file__).resolve().parents[1]
LISTS = sorted((ROOT / "tests" / "library_names").glob("cuda-*.txt"))
SOURCES = ("alexc/**/*.py", "benchmarks/*.py", "runtime/**/*.py", "tests/test_runtime_on_gpu.py")


def used() -> dict[str, str]:
    """The names that we ask of the library, and where: all begin with `cuda` and a capital."""
    found: dict[str, str] = {}
    for pattern in SOURCES:
        for path in sorted(ROOT.glob(pattern)):
            for name in re.findall(r"\.(cuda[A-Z]\w*)", path.read_text(encoding="utf-8")):
                found.setdefault(name, str(path.relative_to(ROOT)))
    return found


def listed(file: Path) -> dict[str, str]:
    """What is in the library, as `write_library_names.words` says it."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return {name: text for name, _, text in (line.partition(" ") for line in lines[1:])}


def members(there: dict[str, str]) -> dict[str, int]:
    """The members of all enumerations, and their numbers."""
    pairs = re.findall(r"(\w+)=(-?\d+)", " ".join(there.values()))
    return {name: int(number) for name, number in pairs}


def test_there_are_lists_of_the_oldest_and_of_a_new_one() -> None:
    assert [file.name.split(".")[0] for file in LISTS] == ["cuda-12", "cuda-13"]
    oldest = LISTS[0].stem.removeprefix("cuda-").removesuffix(".post1")
    assert f'"cuda-python>={oldest}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize("file", LISTS, ids=lambda file: str(file.stem))
def test_every_name_is_in_cuda(file: Path) -> None:
    there, names = listed(file), used()
    assert {"cudaMallocHost", "cudaStreamNonBlocking", "cudaMemcpyHostToDevice"} <= names.keys()
    missing = names.keys() - there.keys() - members(there).keys()
    assert not missing, {name: names[name] for name in missing}


@pytest.mark.parametrize("file", LISTS, ids=lambda file: str(file.stem))
def test_the_double_takes_and_gives_what_cuda_does(file: Path) -> None:
    there = listed(file)
    functions = [name for name in vars(Gpu) if name.startswith("cuda")]
    assert len(functions) > 30
    for name in functions:
        own = getattr(Gpu, name)
        taken, _, given = there[name].partition(")")
        parameters = list(inspect.signature(own).parameters)[1:]  # without self
        assert parameters == re.findall(r"\w+", taken), name
        results = get_args(get_type_hints(own)["return"])[1:]  # without the status
        assert len(results) == len(re.findall(r"\w+", given)), name


@pytest.mark.parametrize("file", LISTS, ids=lambda file: str(file.stem))
def test_the_numbers_of_the_double_are_those_of_cuda(file: Path) -> None:
    there = listed(file)
    numbers, library = members(there), Gpu().library()
    for name, value in vars(library).items():
        if isinstance(value, int):
            assert str(value) == there[name], name
        elif hasattr(value, "__members__"):
            for member in value:
                assert f"{member.name}={int(member)}" in there[name].split(), member
    for status in cuda_double.Status:
        assert numbers[status.name] == status, status


def test_every_function_of_the_double_is_used() -> None:
    names = used()
    for name in vars(Gpu().library()):
        assert name.startswith("_") or name in names, name


def test_the_real_library_is_what_the_list_says() -> None:
    if REAL is None:
        pytest.skip("needs cuda-python")
    version = importlib.import_module("cuda.bindings").__version__
    for file in LISTS:
        if file.stem == f"cuda-{version}":
            assert write_library_names.words(REAL) == listed(file)
    # What is given to a function as a handle can be made of a number.
    assert int(REAL.cudaStream_t(5)) == 5


def test_the_real_library_takes_what_the_double_was_given(built: Path, machine: Machine) -> None:
    """Without a driver it does nothing, once it has made of the arguments what CUDA wants."""
    if REAL is None or cuda.no_driver() is None:
        pytest.skip("needs cuda-python, and a machine without an NVIDIA driver")
    given: dict[str, tuple[Any, ...]] = {}
    library = sys.modules[cuda.MODULE]
    for name in [name for name in vars(library) if inspect.isfunction(vars(library)[name])]:
        double = getattr(library, name)

        def noting(*arguments: Any, name: str = name, double: Any = double) -> Any:
            given[name] = arguments
            return double(*arguments)

        machine.patch.setattr(library, name, noting)
    with machine.open(built) as opened:
        for _ in opened.run_many([images(count) for count in (3, 3, 2)]):
            pass
        opened.run(images(2))
    assert len(given) > 20
    for name, arguments in given.items():
        real = [_as_in(REAL, argument) for argument in arguments]
        try:
            status = getattr(REAL, name)(*real)[0]
        except RuntimeError:
            continue  # how an old one says that there is no driver
        assert status.name in ("cudaSuccess", "cudaErrorInsufficientDriver"), name


def _as_in(real: Any, argument: Any) -> Any:
    """An argument that the double was given, as the library has it."""
    for kind, name in (
        (cuda_double.MemcpyKind, "cudaMemcpyKind"),
        (cuda_double.CaptureMode, "cudaStreamCaptureMode"),
        (cuda_double.DeviceAttr, "cudaDeviceAttr"),
    ):
        if isinstance(argument, kind):
            return getattr(getattr(real, name), argument.name)
    return int(argument)


@pytest.mark.skipif(cuda.no_driver() is None, reason="this machine has an NVIDIA driver")
def test_the_real_library_says_without_a_driver_that_there_is_none() -> None:
    if REAL is None:
        pytest.skip("needs cuda-python")
    assert cuda.no_gpu() == "there is no NVIDIA driver on this machine"
