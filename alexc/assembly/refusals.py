"""What a build refuses before its first second of work: all that shows in what it was told."""

from __future__ import annotations

from dataclasses import replace

from alexc.assembly.options import MODEL_ENGINES, PLAN_ENGINES, Options
from alexc.assembly.plans import no_plan
from alexc.calibrate import narrow
from alexc.diagnostics import fault, usage_fault
from alexc.engines.record import WITHOUT_KERNELS
from alexc.frontend import Net
from alexc.model import preprocess_of
from alexc_runtime.errors import BundleError
from alexc_runtime.manifest import read as read_manifest
from alexc_runtime.opening import ENGINES as RUNNERS


def check(net: Net, options: Options) -> None:
    """Raise AlexcError or UsageError for what can't be built, or must not be, of this net."""
    _keep_given_weights(options)
    preprocess = preprocess_of(net)
    if options.input == "uint8" and preprocess is None:
        raise fault(
            "build/no-preprocess",
            f"{net.spec.name} does not say how pixels are normalised, so no model of it can do it",
            help="write `preprocess:` into the spec, or build with --input float32",
        )
    named = net.spec.header.precision
    narrow.check(net.graph, options.precision, named, options.calibrate, preprocess)
    _refuse_absent_engines(options)
    _refuse_without_kernels(net, options)


def _keep_given_weights(options: Options) -> None:
    """Raise UsageError if drawn weights would take the place of given ones, and nobody said so."""
    if options.weights is not None or options.seed is not None:
        return
    try:
        there = read_manifest(options.out).weights
    except BundleError:  # there is none, or none that can be read
        return
    if there is not None and there.seed is None:
        raise usage_fault(
            "build/given-weights",
            f"the bundle {options.out} has weights that were given, and this build would draw some",
            help="give them again with --weights FILE, draw others with --seed N, or build into "
            "another place with --out",
        )


def _refuse_absent_engines(options: Options) -> None:
    """Raise UsageError if an engine that was named can't be built for, or verified, here."""
    from alexc.engines.tensorrt import why_no_plan

    for target in options.asked(PLAN_ENGINES):
        plans = replace(options.plans, targets=target.capabilities)
        if (why := why_no_plan(target.engine, options.precision, plans)) is not None:
            raise no_plan(target.engine, why)
    for target in options.asked(MODEL_ENGINES):
        if (obstacle := RUNNERS[target.engine].obstacle()) is not None:
            raise usage_fault(
                "build/target",
                f"{target.engine} can't be verified here: {obstacle}",
                help="leave --target out to build for what is installed",
            )


def _refuse_without_kernels(net: Net, options: Options) -> None:
    """Raise UsageError if an engine that was named can't compute in a format of the model."""
    computing = narrow.formats(net.graph, options.precision, net.spec.header.precision)
    for target in options.asked(MODEL_ENGINES):
        for lacking in WITHOUT_KERNELS.get(target.engine, ()):
            if lacking in computing:
                raise usage_fault(
                    "build/target",
                    f"{target.engine} has no kernels for {lacking}, in which "
                    f"{computing[lacking]} would compute",
                    help="leave --target out to build for engines that have them",
                )
