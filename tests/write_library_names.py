"""Write down the names in TensorRT's Python bindings, for tests/test_library_names.py.

    pip download --no-deps --dest wheels 'tensorrt-cu13-bindings<11'
    pip download --no-deps --dest wheels 'tensorrt-cu13-bindings>=11'
    python tests/write_library_names.py wheels/*.whl

The bindings can't be imported without the libraries, which lie elsewhere. But every name that they
give to Python is a string in the compiled module. A linker keeps a name that another one ends in
only once, as the end of the longer one.
"""

from __future__ import annotations

import hashlib
import re
import sys
import textwrap
import zipfile
from pathlib import Path

FOLDER = Path(__file__).parent / "library_names"


def names(module: bytes) -> list[str]:
    """All strings of the compiled module that could be names in Python, sorted."""
    found = re.findall(rb"(?<=\0)([A-Za-z][A-Za-z0-9_]{1,59})(?=\0)", module)
    return sorted({name.decode() for name in found if not name.startswith((b"GLIBC", b"GCC"))})


def main() -> None:
    """Write a file for each wheel that the command line names."""
    for wheel in map(Path, sys.argv[1:]):
        with zipfile.ZipFile(wheel) as archive:
            module = archive.read("tensorrt_bindings/tensorrt.so")
        package, version = wheel.name.split("-")[:2]
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        head = f"# Names in {package} {version}\n# {wheel.name}\n# sha256 {digest}\n"
        text = textwrap.fill(" ".join(names(module)), 100, break_long_words=False)
        (FOLDER / f"tensorrt-{version}.txt").write_text(f"{head}{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
