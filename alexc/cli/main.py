"""The command line: one thin file per command, and the one place where faults become exit codes.

Results go to stdout, everything else to stderr. 0 good; 1 the spec, the check or the comparison
failed; 2 wrong usage, missing file, missing package; 130 interrupted.
"""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from alexc import __version__
from alexc.cli.bench import bench
from alexc.cli.build import build
from alexc.cli.check import check
from alexc.cli.data import app as data
from alexc.cli.diff import diff
from alexc.cli.eval import evaluate
from alexc.cli.features import features
from alexc.cli.import_ import import_
from alexc.cli.inspect import inspect
from alexc.cli.new import new
from alexc.cli.predict import predict
from alexc.cli.schema import schema
from alexc.cli.terminal import print_diagnostics
from alexc.cli.train import train
from alexc.cli.verify import verify
from alexc.diagnostics import AlexcError, Diagnostic, to_json

app = typer.Typer(
    help="Compile one YAML spec of a network to PyTorch, ONNX and TensorRT, and prove them equal.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# In the order in which a newcomer meets them, which is how `--help` lists them.
for name, command in (
    ("check", check),
    ("inspect", inspect),
    ("build", build),
    ("verify", verify),
    ("predict", predict),
    ("train", train),
    ("eval", evaluate),
    ("bench", bench),
    ("import", import_),
    ("new", new),
    ("diff", diff),
    ("schema", schema),
    ("features", features),
):
    app.command(name)(command)
app.add_typer(data, name="data")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"alexc {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point of the `alexc` script."""
    try:
        app()
    except AlexcError as error:
        _report(list(error.diagnostics))
        sys.exit(error.exit_code)


def _report(diagnostics: list[Diagnostic]) -> None:
    if "--json" in sys.argv[1:]:
        print(json.dumps({"diagnostics": [to_json(d) for d in diagnostics]}, ensure_ascii=False))
    print_diagnostics(diagnostics)
