"""What a build searches for, where it is told to find the fastest engines."""

from __future__ import annotations

from alexc.assembly.options import Options
from alexc.calibrate.calibration import read as read_calibration
from alexc.calibrate.images import load_as_taken
from alexc.calibrate.narrow import how_to_read, saved_ranges
from alexc.frontend import Net
from alexc.model import preprocess_of
from alexc.plan.request import Material, Request, check


def request_of(net: Net, options: Options) -> Request | None:
    """What is to be searched for; None if nothing is.

    Raises UsageError if the budget can't be measured, AlexcError if photographs are unfit for it.
    """
    auto = options.auto
    if auto is None:
        return None
    preprocess = preprocess_of(net, options.input)
    material = Material()
    if (saved := saved_ranges(options.calibrate)) is not None:
        material = Material(calibration=read_calibration(saved))
    elif options.calibrate:
        material = Material(load_as_taken(options.calibrate, how_to_read(preprocess)))
    request = Request(
        auto.budget,
        options.plans,
        material,
        auto.labelled,
        auto.threads,
        options.plan_cache,
        preprocess if options.input == "uint8" else None,
    )
    check(net, request)
    return request
