"""`alexc features`: any layer's activations, for retrieval or a look inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from alexc.cli.terminal import JsonOption, interruptible, print_json
from alexc.diagnostics import usage_fault
from alexc.files import check_writable
from alexc.weights.header import extents


def features(
    target: Annotated[
        Path, typer.Argument(metavar="RUN|BUNDLE", help="A run's folder, or a bundle's.")
    ],
    data: Annotated[str, typer.Option("--data", metavar="URI", help="As `alexc train` takes it.")],
    layer: Annotated[str, typer.Option("--layer", metavar="NAME", help="Such as fc7.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="A .safetensors file.")],
    split: Annotated[
        Literal["test", "train"], typer.Option("--split", help="Which part of the set.")
    ] = "test",
    json: JsonOption = False,
) -> None:
    """Write a layer's activations for every image of a set: `features` (n, …) and `labels` (n).

    The images come in the order of the set, one view each, in fp32.
    """
    if out.suffix != ".safetensors":
        raise usage_fault(
            "features/out", f"{out} is no .safetensors file", help=f"--out {out.stem}.safetensors"
        )
    if out.exists() and extents(out).keys() != {"features", "labels"}:
        raise usage_fault(
            "features/out",
            f"{out} exists and holds something else than features",
            help="--out replaces features only; name another file",
        )
    check_writable(out)
    from alexc.train.features import write_features

    with interruptible(f"{out} holds what it held before"):
        written = write_features(target, data, split, layer, out)
    if json:
        print_json({"file": str(out), "layer": layer, "shape": list(written)})
    else:
        print(f"{out}: {layer}, {'×'.join(map(str, written))}")
