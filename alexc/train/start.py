"""The start of a run, new or again: all that can be known before the first step is known here.

What doesn't fit is said before anything is written. Then the folder is claimed, and the loop goes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch

from alexc.diagnostics import fault, usage_fault
from alexc.frontend import Net
from alexc.spec.recipe import TrainSpec
from alexc.train import board, checkpoint
from alexc.train.augment import Pixels
from alexc.train.data.dataset import Dataset
from alexc.train.data.uri import form_for, open_data, stored_size
from alexc.train.interrupt import stoppable
from alexc.train.learner import Learner
from alexc.train.loop import Loop, Options, Outcome, Part
from alexc.train.precision import choose, storage
from alexc.train.recipe import graph_for_training
from alexc.train.report import Reporter
from alexc.train.run import (
    LOCK,
    RunRecord,
    claimed,
    is_run,
    open_run,
    record_of,
    refuse_unless_same,
    weights_in,
    write_record,
)
from alexc.train.workers import Workers
from alexc.weights import store
from alexc.weights.init import draw

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def train(
    net: Net, recipe: TrainSpec, uri: str, options: Options, workers: Workers, report: Reporter
) -> Outcome:
    """Train the net by the recipe on the data at `uri`, into the folder `options.out`.

    Raises AlexcError or UsageError, with nothing written, for whatever can be known before the
    first step; and AlexcError for a run that learns nothing, or that memory does not suffice for.
    """
    with _memory_told():
        return _train(net, recipe, uri, options, workers, report)


def _train(
    net: Net, recipe: TrainSpec, uri: str, options: Options, workers: Workers, report: Reporter
) -> Outcome:
    if recipe.batch % (workers.size * recipe.accumulate):
        raise fault(
            "recipe/batch",
            f"a batch of {recipe.batch} is not {workers.size} workers × {recipe.accumulate} parts "
            "of one size",
            help="choose train.batch and train.accumulate so that it divides",
        )
    if options.tensorboard:
        board.require()
    graph = graph_for_training(net.graph)
    form = form_for(net, graph, stored_size(net, recipe.resize))
    learnt, tested = open_data(uri, "train", form), open_data(uri, "test", form)
    if len(learnt) < recipe.batch:
        raise fault(
            "recipe/batch",
            f"{uri} has {len(learnt):,} images to learn from, less than a batch of {recipe.batch}",
            help=f"--set train.batch={len(learnt)}",
        )
    precision = choose(recipe.precision, workers.device)
    record = record_of(
        net,
        recipe,
        uri,
        (len(learnt), len(tested)),
        threads=options.threads or torch.get_num_threads(),
        precision=precision,
        weights=str(options.weights) if options.weights else None,
    )
    before = _before(options, record, workers)
    if before is not None and options.threads is None:
        record = before
        precision = choose(record.precision, workers.device)
    torch.set_num_threads(record.threads)
    torch.backends.cudnn.benchmark = True  # sizes stay the same from step to step

    def part(data: Dataset) -> Part:
        said, dtype = net.spec.header.preprocess, storage(precision)
        shape, device = data.shape, workers.device
        return Part(data, Pixels(graph, said, recipe.augment, shape, dtype=dtype, device=device))

    parts = part(learnt), part(tested)
    weights = _first_weights(net, recipe, options) if before is None else {}
    workers.wait()  # until all have seen what was there before
    claim = claimed(options.out, restarted=workers.restarted)
    with claim if workers.first else nullcontext():
        if workers.first and before is None:
            write_record(options.out, record)
        workers.wait()
        last = checkpoint.latest(options.out) if before is not None else None
        if before is not None and last is None:
            # Killed before the first checkpoint: the run begins again, from the same weights.
            weights = _first_weights(net, recipe, options)
        learner = Learner(graph, recipe, precision, workers, last or weights)
        with stoppable() as stop, _denormals_flushed():
            return Loop(learner, last, *parts, options, report).go(stop)


@contextmanager
def _memory_told() -> Iterator[None]:
    """Turns what numpy and PyTorch raise where memory runs out into one fault."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # The CPU's allocator raises a plain RuntimeError.
        known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not known and "allocate memory" not in str(error):
            raise
        reason = next(iter(str(error).splitlines()), "an allocation failed")
        raise fault(
            "train/memory",
            f"there is not enough memory: {reason}",
            help="a smaller train.batch, the same batch in parts (train.accumulate), or smaller "
            "images (train.resize, train.augment.padding)",
        ) from None


@contextmanager
def _denormals_flushed() -> Iterator[None]:
    """Count denormals as zero in the block: a dying net's activations cost ten times as much.

    It is a setting of the whole thread. Left on, it would also change what numpy computes there.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def _before(options: Options, record: RunRecord, workers: Workers) -> RunRecord | None:
    """What is kept of the run to go on with, or None for a new one.

    Refuses what would be overwritten, and a run of another net, recipe or data.
    """
    if not is_run(options.out):
        if options.out.is_dir() and any(path.name != LOCK for path in options.out.iterdir()):
            raise usage_fault("run/not-empty", f"{options.out} holds something else than a run")
        return None
    if not options.resume and not workers.restarted:
        raise usage_fault(
            "run/exists",
            f"{options.out} is a run already",
            help="--resume goes on with it; another --out starts a new one",
        )
    before = open_run(options.out).record
    refuse_unless_same(options.out, before, record)
    return before


def _first_weights(net: Net, recipe: TrainSpec, options: Options) -> dict[str, NDArray[np.float32]]:
    if options.weights is not None:
        return store.read(weights_in(options.weights), net.graph)
    layers = {name: layer.init for name, layer in net.spec.layers.items() if layer.init}
    return draw(net.graph, net.spec.header.init, layers, recipe.seed)
