"""What determines a bundle's content: two builds of the same inputs make the same bundle."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from alexc import __version__
from alexc.assembly.options import Auto, Options
from alexc.bundle import inputs_digest, tool_versions
from alexc.calibrate.images import photo_files
from alexc.diagnostics import usage_fault
from alexc.engines.driver import machine
from alexc.frontend import Net
from alexc_runtime.digests import sha256
from alexc_runtime.planned import this_machine


def key_of(net: Net, options: Options) -> str:
    """The key of a build. Raises UsageError for a file that was given and can't be read."""
    return inputs_digest(inputs_of(net, options))


def inputs_of(net: Net, options: Options) -> dict[str, Any]:
    """Everything that determines the bundle's content, as values of JSON."""
    weights = options.weights
    return {
        "alexc": __version__,
        "spec": spec_digest(net),
        "graph": net.graph.digest(),
        "labels": net.labels,
        "weights": {"file": digest_of(weights)} if weights else {"seed": options.drawn_from},
        "precision": options.precision,
        "input": options.input,
        "calibrate": [digest_of(path) for path in photo_files(options.calibrate)],
        "targets": [asdict(target) for target in options.targets],
        "plans": options.plans.to_json(),
        **({"auto": _inputs_of_search(options.auto)} if options.auto is not None else {}),
        # A GPU that has come makes plans and runs what none could before.
        "machine": machine(),
        "versions": tool_versions(),
    }


def _inputs_of_search(auto: Auto) -> dict[str, Any]:
    """What determines a plan: on another machine it is another."""
    return {
        "budget": auto.budget.text,
        "threads": auto.threads,
        "data": auto.data,
        "place": asdict(this_machine()),
    }


def spec_digest(net: Net) -> str:
    """SHA-256 of the merged spec, in which the order of the layers counts."""
    text = json.dumps(net.spec.to_json(), ensure_ascii=False, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def digest_of(file: Path) -> str:
    """SHA-256 of a file that was given. Raises UsageError if it can't be read."""
    try:
        return sha256(file)
    except FileNotFoundError:
        raise usage_fault("file/missing", f"there is no file {file}") from None
    except OSError as error:
        raise usage_fault("file/unreadable", f"{file}: {error.strerror}") from None
