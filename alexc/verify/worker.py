"""One backend in a process of its own, so that its crash or its hanging is its own too.

    python -m alexc.verify.worker FOLDER MODULE:CLASS

The process opens the backend at once, and computes the whole net while its parent still computes
the reference. Two lines on stdin name what is asked, files in the folder: the whole net, an empty
line for none, and then layers on their own. It answers step by step, a line on stdout for each,
and ends. The end of stdin before that ends it too: its parent is gone.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import TextIO

from alexc.verify.answers import Layers, answers
from alexc.verify.backends.base import Backend, Subject
from alexc.verify.exchange import Exchange


def main() -> int:
    """Run the backend that the command line names."""
    exchange = Exchange(Path(sys.argv[1]))
    subject = exchange.subject()
    kind = backend_class(sys.argv[2])
    channel = _private_stdout()
    try:
        serve(kind(subject), exchange, subject, channel)
    except (BrokenPipeError, KeyboardInterrupt):
        return 1
    return 0


def serve(backend: Backend, exchange: Exchange, subject: Subject, channel: TextIO) -> None:
    """Answer what is asked, written to the exchange under the names that go down the channel."""
    name = _line()
    whole = exchange.whole(name) if name else None

    def layers() -> Layers:
        return exchange.layers(_line(), subject, backend.graph)

    for number, answer in enumerate(answers(backend, whole, layers)):
        # Another process may have answered before this one, and its arrays be mapped still.
        name = f"{backend.name}-answer-{os.getpid()}-{number}"
        exchange.put_answer(name, answer)
        print(name, file=channel, flush=True)


def _line() -> str:
    line = sys.stdin.readline()
    if not line:
        raise KeyboardInterrupt
    return line.strip()


def backend_class(name: str) -> type[Backend]:
    """The class that `module:Class` names."""
    module, _, attribute = name.partition(":")
    kind: type[Backend] = getattr(importlib.import_module(module), attribute)
    return kind


def _private_stdout() -> TextIO:
    """A channel for answers alone; what libraries print goes to stderr."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return channel


if __name__ == "__main__":
    sys.exit(main())
