"""One backend in a process of its own, so that its crash or its hanging is its own too.

    python -m alexc.verify.worker FOLDER MODULE:CLASS

The process opens the backend at once, while its parent still computes the reference. Then it
waits for a line on stdin, the name of a request in the folder; it answers step by step, a line on
stdout for each, and ends. The end of stdin before that ends it too: its parent is gone.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import TextIO

from alexc.verify.answers import Request, answers
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
    """Answer one request, written to the exchange under the names that go down the channel."""

    def asked() -> Request:
        name = sys.stdin.readline().strip()
        if not name:
            raise KeyboardInterrupt
        return exchange.request(name, subject, backend.graph)

    for number, answer in enumerate(answers(backend, asked)):
        name = f"{backend.name}-answer-{number}"
        exchange.put_answer(name, answer)
        print(name, file=channel, flush=True)


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
