"""The command line: one thin file per command, and the one place where faults become exit codes.

Results go to stdout, everything else to stderr. 0 good; 1 the spec, the check or the comparison
failed; 2 wrong usage, missing file, missing package; 130 interrupted.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterable
from typing import Annotated

import typer

from alexc import __version__
from alexc.cli.terminal import print_diagnostics, print_json
from alexc.diagnostics import AlexcError, Diagnostic, to_json

# Each command and where it is, in the order in which a newcomer meets them, as `--help` lists them.
COMMANDS = {
    "check": "alexc.cli.check:check",
    "inspect": "alexc.cli.inspect:inspect",
    "build": "alexc.cli.build:build",
    "verify": "alexc.cli.verify:verify",
    "predict": "alexc.cli.predict:predict",
    "train": "alexc.cli.train:train",
    "eval": "alexc.cli.eval:evaluate",
    "bench": "alexc.cli.bench:bench",
    "import": "alexc.cli.import_:import_",
    "new": "alexc.cli.new:new",
    "diff": "alexc.cli.diff:diff",
    "schema": "alexc.cli.schema:schema",
    "features": "alexc.cli.features:features",
    "data": "alexc.cli.data:app",
}


def _version(wanted: bool) -> None:
    if wanted:
        print(f"alexc {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def command_line(names: Iterable[str]) -> typer.Typer:
    """The command line with these commands. Reading the options of all of them takes 0.1 s."""
    app = typer.Typer(
        help="Compile one YAML spec of a network to PyTorch, ONNX and TensorRT, and prove them "
        "equal.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for name in names:
        module, _, attribute = COMMANDS[name].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        if isinstance(command, typer.Typer):
            for inner in command.registered_commands:
                inner.help = _paragraphs(getattr(inner.callback, "__doc__", None) or "")
            app.add_typer(command, name=name)
        else:
            app.command(name, help=_paragraphs(command.__doc__ or ""))(command)
    return app


def _paragraphs(text: str) -> str:
    """A docstring, each paragraph on one line: help would break lines where the source does."""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def main(ready: Callable[[], None] = lambda: None) -> None:
    """Run the command that `sys.argv` names, and load no other; `ready` is called in between."""
    app = command_line(_needed(sys.argv[1:]))
    ready()
    try:
        app()
    except AlexcError as error:
        _report(list(error.diagnostics))
        sys.exit(error.exit_code)
    except OSError as error:
        # Where a room has no words for a file of its own; without a name it is the output.
        if error.filename is None:
            raise
        shown = os.fsdecode(error.filename)
        _report([Diagnostic("file/unusable", f"{shown}: {error.strerror or error}")])
        sys.exit(2)
    except MemoryError as error:
        reason = str(error).strip() or "an allocation failed"
        _report([Diagnostic("memory/exhausted", f"there is not enough memory: {reason}")])
        sys.exit(1)


def _needed(arguments: list[str]) -> Iterable[str]:
    """The commands whose options must be known; all, where help lists them or a word is wrong."""
    if arguments == ["--version"]:
        return ()
    named = next((word for word in arguments if not word.startswith("-")), None)
    return (named,) if named in COMMANDS else COMMANDS


def _report(diagnostics: list[Diagnostic]) -> None:
    if "--json" in sys.argv[1:]:
        print_json({"diagnostics": [to_json(d) for d in diagnostics]})
    print_diagnostics(diagnostics)
