"""`alexc check`: are these specs sound?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alexc.cli.terminal import JsonOption, print_diagnostics, print_json
from alexc.diagnostics import AlexcError, Diagnostic, to_json
from alexc.frontend import load_net


def check(
    specs: Annotated[list[Path], typer.Argument(metavar="SPEC", help="Spec files to check.")],
    json: JsonOption = False,
) -> None:
    """Validate specs: syntax, fields, shapes and expected facts. Builds nothing.

    Every fault of every file is shown, with its line. Exit status 1 if any spec is at fault.
    """
    files = []
    status = 0
    for path in specs:
        diagnostics: list[Diagnostic] = []
        ok = True
        try:
            diagnostics += load_net(path).warnings
        except AlexcError as error:
            ok = False
            diagnostics += error.diagnostics
            status = max(status, error.exit_code)
        files.append(
            {"file": str(path), "ok": ok, "diagnostics": [to_json(d) for d in diagnostics]}
        )
        if not json:
            print_diagnostics(diagnostics)
            errors = sum(d.severity == "error" for d in diagnostics)
            print(f"{path}: {_verdict(errors, len(diagnostics) - errors)}")
    if json:
        print_json({"files": files})
    raise typer.Exit(status)


def _verdict(errors: int, warnings: int) -> str:
    parts = [
        f"{count} {word}{'s' * (count > 1)}"
        for count, word in ((errors, "error"), (warnings, "warning"))
        if count
    ]
    return ", ".join(parts) if errors else ", ".join(["ok", *parts])
