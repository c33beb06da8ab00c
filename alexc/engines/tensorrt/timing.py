"""TensorRT's timing cache: how long each kernel took here, for the builds to come.

    FOLDER/<SHA-256 of the library's version, the driver and the GPU>

Of TensorRT alone: TensorRT for RTX times no kernels, and there a timing cache does nothing but ask
for a GPU (release notes of 1.1; deprecated since 1.2).
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

from alexc.diagnostics import AlexcError
from alexc.engines import driver
from alexc.engines.tensorrt.library import Library
from alexc.files import whole_file

_log = logging.getLogger(__name__)


class TimingCache:
    """The times that a build starts from, and keeps. Without them it takes longer, no more."""

    def __init__(self, folder: Path, owner: Library, config: Any) -> None:
        of_cuda, gpus = driver.machine()
        key = "\n".join((owner.version, str(of_cuda), *gpus))
        self._file = folder / hashlib.sha256(key.encode()).hexdigest()
        self._config = config
        try:
            self._known = self._file.read_bytes()
        except OSError:
            self._known = b""
        cache = config.create_timing_cache(self._known)
        if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
            _log.warning("the times in %s are not used: they are not of this machine", self._file)
            self._known = b""
            config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)

    def keep(self) -> None:
        """Write what is known now. Fails with no more than a warning in the log."""
        times = self._config.get_timing_cache()
        content = b"" if times is None else bytes(times.serialize())
        if not content or content == self._known:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(self._file) as file:
                file.write(content)
        except (OSError, AlexcError) as error:
            _log.warning("the times of kernels are not kept in %s: %s", self._file, error)
