"""The compiler's front end: a spec's path → a Net, or all its faults in one go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from alexc.diagnostics import AlexcError, Diagnostic
from alexc.graph.elaborate import elaborate
from alexc.graph.facts import check_facts
from alexc.graph.graph import Graph
from alexc.graph.lint import lint
from alexc.ops.pointwise import Softmax
from alexc.source import Listing, Scalar
from alexc.spec.merge import project_root, resolve_path
from alexc.spec.parse import Spec, load_spec


@dataclass(frozen=True, slots=True)
class Net:
    """A spec that holds together: its graph, its classes' names and what lint has to say."""

    spec: Spec
    graph: Graph
    labels: tuple[str, ...] | None
    warnings: tuple[Diagnostic, ...]


def load_net(path: Path) -> Net:
    """Check the spec at `path` in full.

    Raises AlexcError with every fault that was found, sorted by place, and UsageError where there
    is no such file.
    """
    spec, faults = load_spec(path)
    if spec is None:
        raise AlexcError(*sort_by_place(faults))
    graph, more = elaborate(spec)
    faults += more
    faults += _check_preprocess(spec)
    labels = _labels(spec, graph, faults)
    if graph is not None:
        faults += check_facts(spec, graph)
    if faults or graph is None:
        raise AlexcError(*sort_by_place(faults))
    return Net(spec, graph, labels, tuple(sort_by_place(lint(spec, graph))))


def sort_by_place(diagnostics: list[Diagnostic]) -> list[Diagnostic]:
    """In the order of the file, for a layer's fault comes before those of its readers."""

    def key(diagnostic: Diagnostic) -> tuple[str, int, int]:
        place = diagnostic.place
        return (place.source.path, place.line, place.column) if place else ("", 0, 0)

    return sorted(diagnostics, key=key)


def outputs_are_probabilities(graph: Graph) -> bool:
    """Whether the first output needs no softmax to be read as probabilities."""
    return isinstance(graph.by_name[graph.outputs[0]].op, Softmax)


def _check_preprocess(spec: Spec) -> list[Diagnostic]:
    """Whether what comes out of preprocessing is what the net takes."""
    header = spec.header
    preprocess, image = header.preprocess, header.input
    if preprocess is None:
        return []
    faults = []
    if preprocess.crop is not None and preprocess.crop != (image.height, image.width):
        rows, columns = preprocess.crop
        faults.append(
            Diagnostic(
                "preprocess/crop",
                f"the crop is {rows}×{columns} and the input {image.height}×{image.width}",
                spec.place("preprocess", "crop"),
                help="leave `crop` out to take the input's size",
            )
        )
    if preprocess.resize is not None and preprocess.resize < max(image.height, image.width):
        faults.append(
            Diagnostic(
                "preprocess/resize",
                f"the shorter side is {preprocess.resize} after resizing, "
                f"too short for a crop of {image.height}×{image.width}",
                spec.place("preprocess", "resize"),
                help=f"{max(image.height, image.width)} or more",
            )
        )
    channels = 1 if preprocess.channels == "grey" else 3
    if channels != image.channels:
        faults.append(
            Diagnostic(
                "preprocess/channels",
                f"{preprocess.channels} has {channels} and the input {image.channels} channels",
                spec.place("preprocess", "channels"),
                help="channels: grey for one plane, rgb or bgr for three",
            )
        )
    for field in ("mean", "std"):
        values = getattr(preprocess, field)
        if values is not None and len(values) != image.channels:
            faults.append(
                Diagnostic(
                    "preprocess/values",
                    f"{field} has {len(values)} values and the input {image.channels} channels",
                    spec.place("preprocess", field),
                    help="one value for each channel",
                )
            )
    return faults


def _labels(spec: Spec, graph: Graph | None, faults: list[Diagnostic]) -> tuple[str, ...] | None:
    """The classes' names, read from the spec or the file that it names."""
    node = spec.tree.get("labels")
    labels: tuple[str, ...] | None = None
    if isinstance(node, Listing):
        labels = tuple(spec.header.labels or ())
    elif isinstance(node, Scalar) and isinstance(node.value, str):
        # The path is relative to the file that wrote it, which may be a base of this spec.
        owner = Path(node.place.source.path).resolve()
        try:
            file = resolve_path(node, owner, project_root(owner), "labels/file")
            labels = tuple(file.read_text(encoding="utf-8").splitlines())
        except AlexcError as error:
            faults.extend(error.diagnostics)
        except (OSError, UnicodeDecodeError) as error:
            faults.append(Diagnostic("labels/file", f"{node.value}: {error}", node.place))
    if labels is not None and graph is not None:
        classes = graph.shapes[graph.outputs[0]][0]
        if len(labels) != classes:
            message = f"{len(labels)} labels for the {classes} outputs of {graph.outputs[0]}"
            faults.append(Diagnostic("labels/count", message, spec.place("labels")))
    return labels
