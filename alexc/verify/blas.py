"""The threads of numpy's matrix products.

OpenBLAS, which numpy's wheels bring, lets its threads wait by spinning. While backends are being
loaded on the other cores that costs them more than it gains here: most of the reference's time goes
into other things than products.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

# The names that builds of OpenBLAS give the two functions that read and set the number of threads.
_PREFIXES = ("scipy_openblas_{}64_", "scipy_openblas_{}", "openblas_{}64_", "openblas_{}")


@contextmanager
def one_thread() -> Iterator[None]:
    """Matrix products in one thread; as before at the end. Does nothing for another library."""
    library = _library()
    if library is None:
        yield
        return
    read, write = library
    before = read()
    write(1)
    try:
        yield
    finally:
        write(before)


def _library() -> tuple[ctypes._NamedFuncPointer, ctypes._NamedFuncPointer] | None:
    """How to read and to set the number of threads of the OpenBLAS that numpy has loaded."""
    package = Path(np.__file__).parent
    for folder in (package.with_name("numpy.libs"), package / ".dylibs"):
        for file in sorted(folder.glob("*openblas*")):
            with suppress(OSError):
                loaded = ctypes.CDLL(str(file))
                for name in _PREFIXES:
                    with suppress(AttributeError):
                        return (
                            getattr(loaded, name.format("get_num_threads")),
                            getattr(loaded, name.format("set_num_threads")),
                        )
    return None
