"""Write down what is in libraries that tests can't have at hand: TensorRT's bindings, and CUDA's.

    pip download --no-deps --dest wheels 'tensorrt-cu13-bindings<11'
    pip download --no-deps --dest wheels 'tensorrt-cu13-bindings>=11'
    python tests/write_library_names.py wheels/*.whl

    pip install --target cuda-12 'cuda-python==12.6.2.post1'
    pip install --target cuda-13 'cuda-python==13.*'
    PYTHONPATH=cuda-12 python tests/write_library_names.py cuda
    PYTHONPATH=cuda-13 python tests/write_library_names.py cuda

TensorRT's bindings can't be imported without the libraries, which lie elsewhere. But every name
that they give to Python is a string in the compiled module. A linker keeps a name that another one
ends in only once, as the end of the longer one.

CUDA's can be imported without a driver, and so tell more: what each function takes and gives, and
the numbers of the constants. test_library_names.py and test_cuda_names.py read what is written.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import re
import sys
import textwrap
import zipfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "library_names"


def names(module: bytes) -> list[str]:
    """All strings of the compiled module that could be names in Python, sorted."""
    found = re.findall(rb"(?<=\0)([A-Za-z][A-Za-z0-9_]{1,59})(?=\0)", module)
    return sorted({name.decode() for name in found if not name.startswith((b"GLIBC", b"GCC"))})


def tensorrt(wheel: Path) -> None:
    """Write the names in a wheel of TensorRT's bindings."""
    with zipfile.ZipFile(wheel) as archive:
        module = archive.read("tensorrt_bindings/tensorrt.so")
    package, version = wheel.name.split("-")[:2]
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    head = f"# Names in {package} {version}\n# {wheel.name}\n# sha256 {digest}\n"
    text = textwrap.fill(" ".join(names(module)), 100, break_long_words=False)
    (FOLDER / f"tensorrt-{version}.txt").write_text(f"{head}{text}\n", encoding="utf-8")


def words(module: Any) -> dict[str, str]:
    """What is in `cuda.bindings.runtime`, by its name.

    Of a function, what it takes and what it gives behind the status: `(size) devPtr`; of a constant
    its number; of an enumeration its members, `name=1 other=2`; of any other class nothing.
    """
    found = {}
    for name in (name for name in dir(module) if re.match("cuda[A-Z]", name)):
        thing = getattr(module, name)
        if members := getattr(thing, "__members__", {}):
            found[name] = " ".join(f"{member}={int(members[member])}" for member in members)
        elif inspect.isroutine(thing):
            taken = ", ".join(inspect.signature(thing).parameters)
            found[name] = f"({taken}) {', '.join(_results(thing))}".rstrip()
        else:
            found[name] = str(thing) if isinstance(thing, int) else ""
    return found


def _results(function: Any) -> list[str]:
    """The names of what a function gives behind the status, by its page."""
    page = function.__doc__.partition("\n")[2]  # without the line that repeats the signature
    section = re.search(r"^Returns\n-+\n(.*?)(?:\n\n|\Z)", inspect.cleandoc(page), re.M | re.S)
    lines = [] if section is None else section[1].splitlines()
    return [line.partition(" : ")[0] for line in lines if not line[0].isspace()][1:]


def cuda() -> None:
    """Write what is in the CUDA bindings that this Python imports."""
    version = importlib.import_module("cuda.bindings").__version__
    lines = [f"# cuda.bindings.runtime {version}, by tests/write_library_names.py"]
    for name, text in words(importlib.import_module("cuda.bindings.runtime")).items():
        lines.append(f"{name} {text}".rstrip())
    (FOLDER / f"cuda-{version}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Write a file for each wheel that the command line names, and for `cuda`."""
    for argument in sys.argv[1:]:
        if argument == "cuda":
            cuda()
        else:
            tensorrt(Path(argument))


if __name__ == "__main__":
    main()
