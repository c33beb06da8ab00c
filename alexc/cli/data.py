"""`alexc data`: what is done to a data set before training."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from alexc.cli.terminal import JsonOption, counted, interruptible, print_json
from alexc.diagnostics import usage_fault
from alexc.files import resolved
from alexc.frontend import load_net

app = typer.Typer(
    help="Prepare data: PCA of its colours, shards of scaled photographs.", no_args_is_help=True
)


@app.command()
def pca(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="Whose images are meant.")],
    data: Annotated[str, typer.Option("--data", metavar="URI", help="As `alexc train` takes it.")],
    json: JsonOption = False,
) -> None:
    """Compute mean, deviation and principal components of the colours of a training set.

    What is printed goes into the spec: `preprocess` takes mean and std, `train.augment.noise` the
    eigenvalues and eigenvectors.
    """
    from alexc.train.data.colours import components
    from alexc.train.data.uri import form_for, open_data, stored_size
    from alexc.train.recipe import graph_for_training

    net = load_net(spec)
    recipe = net.spec.header.train
    size = stored_size(net, recipe.resize if recipe is not None else None)
    form = form_for(net, graph_for_training(net.graph), size)
    found = components(open_data(data, "train", form))
    if json:
        print_json(asdict(found))
        return
    print(f"# of {found.images:,} images, pixels in [0, 1]")
    print(f"mean: {_row(found.mean)}")
    print(f"std: {_row(found.std)}")
    print("noise:")
    print("  std: 0.1")
    print(f"  eigenvalues: {_row(found.eigenvalues)}")
    print("  eigenvectors:")
    for vector in found.eigenvectors:
        print(f"    - {_row(vector)}")


def _row(values: tuple[float, ...]) -> str:
    return f"[{', '.join(f'{value:.6g}' for value in values)}]"


@app.command()
def pack(
    source: Annotated[Path, typer.Argument(metavar="DIR", help="A folder for each class.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Where the shards go.")],
    size: Annotated[
        int,
        typer.Option("--size", metavar="PIXELS", min=8, max=8192, help="Side of a stored photo."),
    ] = 256,
    quality: Annotated[
        int, typer.Option("--quality", metavar="Q", min=1, max=100, help="Of JPEG.")
    ] = 95,
    images_per_shard: Annotated[
        int, typer.Option("--images-per-shard", metavar="N", min=1, help="In one file.")
    ] = 2048,
    processes: Annotated[
        int | None,
        typer.Option(
            "--processes", metavar="N", min=1, max=1024, help="At work; default: one a core."
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Pack class folders into WebDataset shards of photographs that are scaled already.

    Can be stopped and started again. Damaged files are left out and listed in OUT/damaged.txt.
    """
    from alexc.train.data.pack import PackOptions
    from alexc.train.data.pack import pack as make
    from alexc_runtime.cores import affinity

    if resolved(out).is_relative_to(resolved(source)):
        raise usage_fault("pack/inside", f"{out} lies in {source}, and would be packed itself")
    workers = processes or len(affinity())
    options = PackOptions(size, quality, images_per_shard, processes=workers)
    kept = f"the shards in {out} are whole, and the same command goes on with them"
    with interruptible(kept), _bar(enabled=not json) as progress:
        packed = make(source, out, options, progress)
    if json:
        print_json(asdict(packed))
        return
    shards = counted(packed.shards, "shard")
    print(f"{out}: {counted(packed.images, 'photograph')} in {shards}, {packed.made:,} new")
    if packed.damaged:
        damaged = counted(len(packed.damaged), "damaged file")
        print(f"without {damaged}: see {out / 'damaged.txt'}")


@contextmanager
def _bar(*, enabled: bool) -> Iterator[Callable[[int, int], None]]:
    if not enabled or not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("shards")
        yield lambda done, total: progress.update(task, completed=done, total=total)
