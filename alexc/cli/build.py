"""`alexc build`: from a spec to a verified bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from alexc.cli.terminal import JsonOption, interruptible, print_diagnostics, print_json, steps
from alexc.diagnostics import usage_fault
from alexc.frontend import load_net

if TYPE_CHECKING:
    from alexc.assembly.options import Auto
    from alexc.build import Result
    from alexc.frontend import Net
    from alexc.triton import Repository
    from alexc_runtime.manifest import InputType

# What `--help` shows apart from the rest, in tables of their own.
_OF_SEARCH, _OF_PLANS = "With --target auto", "Plans of TensorRT"


def build(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="The spec file.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="The bundle's folder; default: build/NAME."),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights", metavar="FILE|RUN", help="A .safetensors file, or a run; default: drawn."
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", metavar="N", min=0, help="What weights are drawn from; default: 0."),
    ] = None,
    precision: Annotated[
        str,
        typer.Option(
            "--precision",
            metavar="P",
            help="fp32, tf32 (TensorRT's products alone), fp16, bf16, int8-weights (of linear "
            "layers alone), int8, u8s8 (int8 for processors, with activations that have no sign) "
            "or fp8.",
        ),
    ] = "fp32",
    calibrate: Annotated[
        list[Path] | None,
        typer.Option(
            "--calibrate",
            metavar="PATH",
            help="Photographs, or folders of them, that eight-bit precisions take their ranges "
            "from; or a bundle's calibration.json. May be repeated.",
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            metavar="ENGINE",
            help="onnxruntime, openvino, onnxruntime_cuda, onnxruntime_tensorrt, tensorrt or "
            "tensorrt_rtx, the last also for some GPUs only: tensorrt_rtx:8.9,12.0. May be "
            "repeated. Default: whatever is installed. `auto` searches for what is the fastest on "
            "this machine within --budget.",
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            rich_help_panel=_OF_SEARCH,
            metavar="B",
            help="How far the fastest may lie from the float64 reference: "
            "exact (default), a relative error as 1e-3, or top1:99.5% of photographs with the same "
            "class. Several, with commas between, must all hold.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            rich_help_panel=_OF_SEARCH,
            metavar="URI",
            help="Labelled images to take accuracies on, as `alexc eval` takes them.",
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            rich_help_panel=_OF_SEARCH,
            metavar="N",
            min=1,
            max=1024,
            help="Threads of every engine; else some numbers are tried.",
        ),
    ] = None,
    batch: Annotated[
        list[str] | None,
        typer.Option(
            "--batch",
            metavar="MIN,OPT,MAX",
            help="Batch sizes that plans take; default: 1,8,32. May be repeated: each is a profile "
            "with kernels of its own.",
        ),
    ] = None,
    level: Annotated[
        int | None,
        typer.Option(
            "--optimization-level",
            rich_help_panel=_OF_PLANS,
            metavar="N",
            min=0,
            max=5,
            help="How long TensorRT looks for faster kernels; default: its own.",
        ),
    ] = None,
    workspace: Annotated[
        str | None,
        typer.Option(
            "--workspace",
            rich_help_panel=_OF_PLANS,
            metavar="SIZE",
            help="What a layer of a plan may compute in: 2GiB.",
        ),
    ] = None,
    version_compatible: Annotated[
        bool,
        typer.Option(
            "--version-compatible",
            rich_help_panel=_OF_PLANS,
            help="Make plans that later versions of TensorRT load, too.",
        ),
    ] = False,
    hardware_compatible: Annotated[
        bool,
        typer.Option(
            "--hardware-compatible",
            rich_help_panel=_OF_PLANS,
            help="Make plans of TensorRT for any GPU of 8.0 and later.",
        ),
    ] = False,
    strip_weights: Annotated[
        bool,
        typer.Option(
            "--strip-weights",
            rich_help_panel=_OF_PLANS,
            help="Leave the weights out of plans; they are put in where the plan is loaded. New "
            "weights then take no new plan.",
        ),
    ] = False,
    input: Annotated[
        Literal["float32", "uint8"],
        typer.Option(
            "--input",
            help="What the model takes: images that the host has normalised, or pixels as they "
            "are, which it normalises itself.",
        ),
    ] = "float32",
    triton: Annotated[
        Path | None,
        typer.Option(
            "--triton",
            metavar="DIR",
            help="Also write the bundle as a model repository of Triton Inference Server.",
        ),
    ] = None,
    no_plan_cache: Annotated[
        bool,
        typer.Option(
            "--no-plan-cache",
            rich_help_panel=_OF_PLANS,
            help="Take no plan that was built before from $ALEXC_CACHE (default: ~/.cache/alexc), "
            "and keep none there.",
        ),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Make a bundle of a spec: model, weights, TensorRT plan, and the proof that they agree.

    A second build of the same inputs does nothing. If anything fails, DIR holds what it held
    before.
    """
    from alexc.assembly.options import Options, parse_targets
    from alexc.build import build as make
    from alexc.engines.cache import default_folder
    from alexc.engines.options import PlanOptions, parse_bytes
    from alexc.engines.record import PRECISIONS, parse_batch

    if precision not in PRECISIONS:
        raise usage_fault(
            "build/precision",
            f"there is no precision {precision!r}",
            help=f"it is one of {', '.join(PRECISIONS)}",
        )
    named = [] if target == ["auto"] else target or []
    targets = parse_targets(named)
    if target == ["auto"]:
        _refuse_beside_auto(precision)
    else:
        _refuse_without_auto({"--budget": budget, "--data": data, "--threads": threads})
    plans = PlanOptions(
        tuple(dict.fromkeys(map(parse_batch, batch or ("1,8,32",)))),
        level=level,
        workspace=None if workspace is None else parse_bytes(workspace),
        any_version=version_compatible,
        any_gpu=hardware_compatible,
        stripped=strip_weights,
    )
    net = load_net(spec)
    folder = out or Path("build") / net.spec.name
    if weights is not None and weights.is_dir():
        from alexc.train.run import weights_in

        weights = weights_in(weights)
    if triton is not None:  # before the minutes that a build may take
        from alexc.triton import refuse_place

        refuse_place(folder, triton)
    untouched = f"{folder} holds what it held before; the same command starts again"
    with interruptible(untouched), steps(enabled=not json) as progress:
        options = Options(
            folder,
            weights,
            seed,
            precision,
            targets,
            plans,
            tuple(calibrate or ()),
            None if no_plan_cache else default_folder(),
            input=input,
            auto=_auto(net, budget, data, threads, input) if target == ["auto"] else None,
        )
        result = make(net, options, progress, progress.part)
    with interruptible(f"{folder} is whole; the same command goes on with {triton}"):
        repository = None if triton is None else _write_repository(folder, triton)
    print_diagnostics(net.warnings)
    if json:
        print_json(_as_json(folder, result) | _repository_as_json(triton, repository))
    elif result.report is None:
        print(f"{folder} is up to date")
    else:
        from alexc.cli.build_summary import print_summary

        print_summary(folder, result)
    if repository is not None and not json:
        _print_repository(triton, repository)


def _write_repository(folder: Path, out: Path) -> Repository:
    """The bundle for Triton, from bytes that are found to be those that were built."""
    from alexc.bundle import runtime_faults
    from alexc.triton import write_repository
    from alexc_runtime import open_bundle

    with runtime_faults():
        bundle = open_bundle(folder)
    return write_repository(bundle, out)


def _repository_as_json(out: Path | None, repository: Repository | None) -> dict[str, Any]:
    if repository is None:
        return {}
    return {
        "triton": {
            "repository": str(out),
            "models": list(repository.models),
            "left_out": list(repository.left_out),
            "up_to_date": not repository.written,
        }
    }


def _print_repository(out: Path | None, repository: Repository) -> None:
    state = "for Triton" if repository.written else "is up to date"
    print(f"{out} {state}: {', '.join(repository.models)}")
    for reason in repository.left_out:
        print(f"  without {reason}")


def _auto(
    net: Net, budget: str | None, data: str | None, threads: int | None, input: InputType
) -> Auto:
    """The search that was asked for. Raises UsageError for a budget or data that there is not."""
    from alexc.assembly.options import Auto
    from alexc.plan.budget import parse_budget

    within = parse_budget("exact" if budget is None else budget)
    if data is None:
        return Auto(within, threads)
    from alexc.train.score import labelled

    return Auto(within, threads, data, labelled(net, data, "test", input))


def _refuse_beside_auto(precision: str) -> None:
    if precision != "fp32":
        raise usage_fault(
            "build/target",
            "--target auto finds the precision itself",
            help="leave --precision out, and say with --budget how far it may go",
        )


def _refuse_without_auto(given: dict[str, object]) -> None:
    for option, value in given.items():
        if value is not None:
            raise usage_fault(
                "build/target", f"{option} is for a search", help=f"--target auto {option} {value}"
            )


def _as_json(folder: Path, result: Result) -> dict[str, Any]:
    from alexc_runtime.manifest import MODEL, WEIGHTS

    manifest = result.manifest
    return {
        "bundle": str(folder),
        "model": str(folder / MODEL),
        "weights": str(folder / WEIGHTS),
        "engines": [
            {
                "engine": record.engine,
                "precision": record.precision,
                "status": record.status,
                "path": str(folder / record.path) if record.path else None,
            }
            for record in manifest.engines
        ],
        "verified": bool(manifest.verification.passed),
        "plan": manifest.plan.to_json() if manifest.plan is not None else None,
        "up_to_date": result.report is None,
        "accuracy": [each.to_json() for each in result.report.accuracy] if result.report else [],
    }
