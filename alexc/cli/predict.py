"""`alexc predict`: the most likely classes of photographs."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import typer

from alexc.cli.terminal import JsonOption, print_json, say, warn_of_drawn
from alexc.diagnostics import fault

_AT_ONCE = 16  # photographs in memory at a time


def predict(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle's folder.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="Photographs.")],
    engine: Annotated[
        str | None,
        typer.Option("--engine", metavar="NAME", help="Run on this engine; default: the best."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show the five most probable classes of photographs, on the best engine at hand."""
    import numpy as np

    import alexc_runtime
    from alexc.bundle import runtime_faults

    with runtime_faults(), alexc_runtime.open(bundle, engine) as session:
        preprocess = session.manifest.preprocess
        if preprocess is None:
            raise fault(
                "predict/no-preprocess",
                f"the bundle {bundle} does not say how a photograph becomes its input",
                help="add `preprocess:` to the spec and build again",
            )
        smallest, largest = session.batch_limits
        at_once = max(smallest, min(_AT_ONCE, largest or _AT_ONCE))
        found, ways = [], []
        for start in range(0, len(images), at_once):
            chunk = images[start : start + at_once]
            # Pillow warns of metadata that it can't read; the picture is there all the same.
            with warnings.catch_warnings(action="ignore"):
                batch = alexc_runtime.load_photos(chunk, preprocess)
            # A plan may take no batch as small as the last one: it is filled up with its end.
            missing = max(0, smallest - len(batch))
            full = np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)])
            ways.append(session.way(len(full)))
            found += alexc_runtime.top(session.run(full), session.manifest)[: len(chunk)]
        why, origin = session.why, session.manifest.weights
    warn_of_drawn(origin)
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
    say(f"run by {', then '.join(dict.fromkeys(ways))}")
    say(why, indent="  ")
