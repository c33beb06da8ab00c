"""The `alexc` script, and `python -m alexc`.

Apart from the command line itself, so that an interrupt is answered from the first moment on, also
while that is being imported.
"""

from __future__ import annotations

import gc
import io
import os
import signal
import sys
from types import FrameType


def main() -> None:
    """Run the command line; 130 if it is interrupted, 143 if it is told to end by SIGTERM, 1 if its
    output can't be written."""
    try:
        signal.signal(signal.SIGTERM, _stop)
        if sys.stdout is None or sys.stderr is None:  # closed by the caller: `alexc … >&-`
            sys.stdout, sys.stderr = (
                stream or open(os.devnull, "w")  # noqa: PTH123, SIM115  (open to the end)
                for stream in (sys.stdout, sys.stderr)
            )
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # in an encoding without × a question mark
                stream.reconfigure(errors="replace")
        from alexc.cli.main import main as run

        try:
            # What is imported stays, and in the end looking through it for garbage takes 25 ms.
            run(ready=gc.freeze)
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        _leave(130)
    except OSError as error:
        # Files have their own diagnostics; what is left is the output.
        sys.stderr.write(f"alexc: the output can't be written: {error.strerror or error}\n")
        _leave(1)


def _stop(number: int, _: FrameType | None) -> None:
    """SIGTERM, by which Docker, SLURM and CI end what runs: clean up, as after Ctrl-C."""
    sys.exit(128 + number)


def _leave(status: int) -> None:
    """Exit without flushing stdout again, which would fail again."""
    sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115  (the interpreter closes it)
    sys.exit(status)


if __name__ == "__main__":
    main()
