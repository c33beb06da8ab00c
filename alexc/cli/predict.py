"""`alexc predict`: the most likely classes of photographs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alexc.bundle import runtime_faults
from alexc.cli.terminal import JsonOption, print_json
from alexc.diagnostics import fault

_AT_ONCE = 16  # photographs in memory at a time


def predict(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle's folder.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE…", help="Photographs.")],
    engine: Annotated[
        str | None,
        typer.Option("--engine", metavar="NAME", help="Run on this engine; default: the best."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show the five most probable classes of photographs, on the best engine at hand."""
    import alexc_runtime

    with runtime_faults(), alexc_runtime.open(bundle, engine) as session:
        preprocess = session.manifest.preprocess
        if preprocess is None:
            raise fault(
                "predict/no-preprocess",
                f"the bundle {bundle} does not say how a photograph becomes its input",
                help="add `preprocess:` to the spec and build again",
            )
        at_once = min(_AT_ONCE, session.manifest.input.batch.max)
        found = []
        for start in range(0, len(images), at_once):
            batch = alexc_runtime.load_photos(images[start : start + at_once], preprocess)
            found += alexc_runtime.top(session.run(batch), session.manifest)
        why = session.why
    if json:
        print_json(
            [
                {
                    "file": str(file),
                    "top": [
                        {"label": best.label, "index": best.index, "probability": best.probability}
                        for best in row
                    ],
                }
                for file, row in zip(images, found, strict=True)
            ]
        )
        return
    for file, row in zip(images, found, strict=True):
        print(file)
        for best in row:
            print(f"  {best.probability:6.1%}  {best.label or f'class {best.index}'}")
    typer.echo(f"run by {why}", err=True)
