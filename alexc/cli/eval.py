"""`alexc eval`: the accuracy of a bundle or a run on labelled images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from alexc.cli.terminal import JsonOption, counted, interruptible, print_json, warn_of_drawn
from alexc.diagnostics import usage_fault


def evaluate(
    target: Annotated[
        Path, typer.Argument(metavar="BUNDLE|RUN", help="A bundle's folder, or a run's.")
    ],
    data: Annotated[str, typer.Option("--data", metavar="URI", help="As `alexc train` takes it.")],
    views: Annotated[
        int,
        typer.Option(
            "--views",
            metavar="1|10",
            help="The centre, or corners, centre and their mirror images, averaged.",
        ),
    ] = 1,
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine", metavar="NAME", help="Of a bundle: this engine, or `all`; default: best."
        ),
    ] = None,
    split: Annotated[
        Literal["test", "train"], typer.Option("--split", help="Which part of the set.")
    ] = "test",
    best: Annotated[
        bool, typer.Option("--best", help="Of a run: the best checkpoint, not the last.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Measure top-1 and top-5 accuracy, with one view of each image or ten."""
    from alexc.train.score import score_bundle, score_run
    from alexc_runtime.manifest import MANIFEST, read

    if views not in (1, 10):
        raise usage_fault("eval/views", f"there are 1 or 10 views of an image, not {views}")
    with interruptible("not all images were seen, and nothing is kept"):
        if (target / MANIFEST).is_file():
            if best:
                raise usage_fault("eval/best", f"{target} is a bundle, and --best is of a run")
            found = score_bundle(target, data, split, views=views, engine=engine)
            warn_of_drawn(read(target).weights)
        elif engine is not None and target.exists():
            raise usage_fault(
                "eval/engine",
                f"{target} is no bundle, and only bundles have engines",
                help="alexc build SPEC --weights RUN makes one",
            )
        else:
            found = {"torch": score_run(target, data, split, views=views, best=best)}
    first = next(iter(found.values()))
    if json:
        print_json(
            {
                "top1": first.top1,
                "top5": first.top5,
                "images": first.images,
                "loss": first.loss,
                "damaged": first.damaged,
                "views": views,
                "engines": [
                    {"engine": name, "top1": s.top1, "top5": s.top5, "images": s.images}
                    for name, s in found.items()
                ],
            }
        )
        return
    for name, scores in found.items():
        print(
            f"{name:<13} top-1 {scores.top1:.2%}, top-5 {scores.top5:.2%} of "
            f"{counted(scores.images, 'image')}"
        )
    if first.damaged:
        print(f"{counted(first.damaged, 'image')} could not be read and counted nowhere")
