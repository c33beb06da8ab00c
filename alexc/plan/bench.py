"""A benchmark from beginning to end: the net made ready, the machine measured, the race.

What comes of it is JSON; tables, Markdown and plots are made of that and of nothing else.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexc.bundle import runtime_faults
from alexc.diagnostics import fault, usage_fault
from alexc.folders import scratch
from alexc.plan import machine, ours
from alexc.plan.contestant import Contestant, Subject
from alexc.plan.measure import Pace, Result, race, run_alone
from alexc.plan.peers import NEED_EXPORT, PEERS, ranges_note
from alexc.plan.prepare import Prepared, prepared, standard, subject
from alexc.plan.rates import Rates
from alexc.plan.result import result, rounded
from alexc.plan.serving import ServingPace, serve
from alexc.plan.serving_load import DISTINCT_IMAGES
from alexc_runtime.manifest import WEIGHTS, Manifest, open_bundle
from alexc_runtime.opening import ENGINES

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What is measured.

    `beside` are further bundles of the same net with the same weights, in other precisions.
    `engines` and `peers` are names to keep; None keeps all. `clients` are how many ask alexc's own
    engines at once, where serving is measured, too. `photographs` are images as the net takes them,
    on which peers measure ranges.
    """

    batches: tuple[int, ...] = (1, 16)
    beside: tuple[Path, ...] = ()
    engines: tuple[str, ...] | None = None
    peers: tuple[str, ...] | None = None
    threads: int | None = None
    seed: int = 0
    clients: tuple[int, ...] = ()
    photographs: NDArray[np.float32] | None = None
    pace: Pace = field(default_factory=Pace)
    serving: ServingPace = field(default_factory=ServingPace)


def check(options: Options) -> None:
    """Raise UsageError for names of no engine or peer, before anything is made."""
    for kind, asked, known in (
        ("engine", options.engines, tuple(ENGINES)),
        ("peer", options.peers, tuple(PEERS)),
    ):
        for name in asked or ():
            if name not in known:
                close = get_close_matches(name, known, 1)
                raise usage_fault(
                    f"bench/{kind}",
                    f"there is no {kind} {name!r} to measure",
                    help=f"did you mean {close[0]}?"
                    if close
                    else f"the {kind}s are {', '.join(known)}",
                )


def bench(target: Path, options: Options, progress: Progress) -> dict[str, Any]:
    """Measure the bundle or the spec at `target` and return the result, of JSON's types.

    Raises AlexcError or UsageError if the target can't be read; what a contestant does is said in
    its row.
    """
    check(options)
    with scratch("bench") as folder:
        net = prepared(target, folder, options.seed, progress)
        own = [
            contestant
            for each, manifest in [(net.folder, net.manifest), *_beside(net, options)]
            for contestant in _of_bundle(each.resolve(), manifest, beside=each != net.folder)
            if _wanted(contestant.engine, options.engines)
        ]
        return measure(net, folder, options, own, progress)


def measure(
    net: Prepared,
    scratch: Path,
    options: Options,
    own: Sequence[Contestant],
    progress: Progress,
) -> dict[str, Any]:
    """Measure these contestants and the peers asked for, with `scratch` for what they write."""
    progress("computing the reference")
    # Clients ask for different images, so that one that got another's would show.
    most = max(*options.batches, DISTINCT_IMAGES if options.clients else 1)
    images, expected = standard(net, most, options.seed)
    files = subject(net, scratch, images, options.threads, options.photographs)
    before = machine.describe()
    peers = _peers(options)
    exported = _export(peers, files, progress)
    wall, busy, own_cpu = time.monotonic(), machine.busy_seconds(), _children_seconds()
    contestants = [*own, *peers]
    with Rates(options.threads) as rates:
        progress("measuring the machine")
        rates.ready()  # before others are timed
        results = race(
            contestants,
            files,
            options.batches,
            expected,
            options.pace,
            lambda step: progress(str(step)),
            rates.turn,
        )
    wall, own_cpu = time.monotonic() - wall, _children_seconds() - own_cpu
    others = None
    if busy is not None and (after := machine.busy_seconds()) is not None:
        others = max(0.0, after - busy - own_cpu) / (wall * len(before.affinity))
    for each in results:
        if each.contestant.engine in NEED_EXPORT and exported is not None:
            each.prepare_ms = exported.load_ms
            if exported.fault is not None:
                each.fault, each.missing = exported.fault, exported.missing
    found = result(net.graph, options.batches, results, rates.medians(), before)
    found["machine"] |= {
        "threads": options.threads or "each engine's default",
        "others_share": rounded(others),
        "wall_s": rounded(wall),
    }
    if options.clients:
        fit = [each.contestant for each in results if each.contestant in own and not each.fault]
        found["serving"] = serve(fit, files, options.clients, options.serving, progress)
    return found


# ---- who takes part ------------------------------------------------------------------------------


def _of_bundle(folder: Path, manifest: Manifest, *, beside: bool) -> list[Contestant]:
    """Every engine of a bundle; and where it has a plan, the session that follows it.

    Of one that stands beside another, the latter alone: its engines have other forms of one model.
    """
    own = [] if manifest.plan is None else [ours.planned(folder, manifest)]
    return own if own and beside else [*own, *ours.contestants(folder, manifest)]


def _beside(net: Prepared, options: Options) -> list[tuple[Path, Manifest]]:
    """The further bundles. Raises AlexcError unless they are of the same net and weights."""
    found = []
    for folder in options.beside:
        with runtime_faults():
            manifest = open_bundle(folder).manifest
        for what, one, other in (
            ("net", net.manifest.graph_digest, manifest.graph_digest),
            ("weights", net.manifest.files[WEIGHTS].sha256, manifest.files[WEIGHTS].sha256),
        ):
            if one != other:
                raise fault(
                    "bench/beside",
                    f"{folder} is not of the same {what}, so that nothing can be compared",
                    help="build both from one spec, with the same --weights or --seed",
                )
        found.append((folder, manifest))
    return found


def _peers(options: Options) -> list[Contestant]:
    given = None if options.photographs is None else len(options.photographs)
    return [
        replace(contestant, note=f"{contestant.note}, {ranges_note(given)}")
        if contestant.precision == "int8"
        else contestant
        for name, contestants in PEERS.items()
        if _wanted(name, options.peers)
        for contestant in contestants
    ]


def _wanted(name: str, asked: Collection[str] | None) -> bool:
    return asked is None or name in asked


def _export(peers: Sequence[Contestant], subject: Subject, progress: Progress) -> Result | None:
    """Export the net for the peers that need it."""
    if not any(peer.engine in NEED_EXPORT for peer in peers):
        return None
    progress("exporting the net with torch.onnx for the peers")
    export = Contestant("torch.onnx.export", "peer", "fp32", "alexc.plan.peers:export")
    return run_alone(export, subject)


def _children_seconds() -> float:
    """Processor time of all processes that have been started from here and are done."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
