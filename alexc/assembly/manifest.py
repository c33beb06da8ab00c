"""What a bundle says of itself, as far as a build knows before its files are hashed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from alexc import __version__
from alexc.assembly.inputs import spec_digest
from alexc.assembly.options import Options
from alexc.bundle import tool_versions
from alexc.engines.record import EngineRecord
from alexc.frontend import Net, outputs_are_probabilities
from alexc.graph.graph import INPUT
from alexc.model import preprocess_of
from alexc.verify.report import Report
from alexc_runtime.manifest import BackendRecord, Input, Manifest, Origin, Output, Verification
from alexc_runtime.planned import Plan


def manifest_of(
    net: Net,
    options: Options,
    key: str,
    engines: Sequence[EngineRecord],
    report: Report,
    certified: Mapping[str, str],
    plan: Plan | None,
) -> Manifest:
    """The manifest, without its files. `certified` are digests of what the report speaks of."""
    graph = net.graph
    probabilities = outputs_are_probabilities(graph)
    return Manifest(
        alexc=__version__,
        name=net.spec.name,
        inputs_digest=key,
        spec_digest=spec_digest(net),
        graph_digest=graph.digest(),
        input=Input(INPUT, graph.input_shape, options.plans.batch, options.input),
        outputs=tuple(
            Output(name, graph.shapes[name], probabilities and index == 0)
            for index, name in enumerate(graph.outputs)
        ),
        preprocess=preprocess_of(net, options.input),
        labels=net.labels,
        spec=net.spec.to_json(),
        precision=options.model_precision,
        weights=Origin(options.drawn_from),
        engines=tuple(engines),
        versions=tool_versions(),
        verification=Verification(
            passed=report.passed,
            reference=report.reference,
            backends=tuple(BackendRecord(b.backend, b.status, b.passed) for b in report.backends),
            digests=certified,
            inputs={} if report.inputs is None else report.inputs.to_json(),
        ),
        plan=plan,
    )
