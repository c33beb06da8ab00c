"""The compiler's front end: a spec's path → a Net, or all its faults in one go."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from alexc.diagnostics import AlexcError, Diagnostic
from alexc.graph.elaborate import elaborate
from alexc.graph.facts import check_facts, check_precisions
from alexc.graph.graph import Graph
from alexc.graph.lint import lint
from alexc.ops.pointwise import Softmax
from alexc.source import Listing, Scalar
from alexc.spec.parse import Spec, load_spec, spec_from_json
from alexc.spec.paths import project_root, resolve_path

MAX_LABEL_BYTES = 4_000_000  # ImageNet's 21,841 classes take half a megabyte


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
        raise AlexcError(*sort_by_place(faults, str(path)))
    graph, more = elaborate(spec)
    faults += more
    faults += _check_preprocess(spec)
    labels = _labels(spec, graph, faults)
    if graph is not None:
        faults += check_facts(spec, graph)
        faults += check_precisions(spec, graph)
    if faults or graph is None:
        raise AlexcError(*sort_by_place(faults, str(path)))
    return Net(spec, graph, labels, tuple(sort_by_place(lint(spec, graph), str(path))))


def net_of(data: dict[str, Any], labels: tuple[str, ...] | None, shown_as: str) -> Net:
    """The net of a merged spec that a bundle or a run has kept; it was checked when it was kept.

    Raises AlexcError, with places in `shown_as`, if this version of alexc can't read it.
    """
    spec, faults = spec_from_json(data, shown_as)
    graph = None
    if spec is not None:
        graph, more = elaborate(spec)
        faults += more
    if spec is None or graph is None:
        raise AlexcError(*faults)
    return Net(spec, graph, labels, ())


def sort_by_place(diagnostics: list[Diagnostic], file: str) -> list[Diagnostic]:
    """Those of `file` before those of its bases, in the order of the lines; each fault once.

    What a block or an anchor gives is in as many layers as use it, but written only once.
    """
    kept: dict[tuple[bool, str, int, int, str], list[Diagnostic]] = {}
    for diagnostic in diagnostics:
        place = diagnostic.place
        path, line, column = (
            (place.source.path, place.line, place.column) if place else (file, 0, 0)
        )
        kept.setdefault((path != file, path, line, column, diagnostic.code), []).append(diagnostic)
    result = []
    for key in sorted(kept, key=lambda key: key[:4]):
        first, *more = kept[key]
        if more and (uses := len({diagnostic.message for diagnostic in more} - {first.message})):
            note = f"{uses} more layer{'s' * (uses > 1)} made of the same lines"
            first = replace(first, notes=(*first.notes, note))
        result.append(first)
    return result


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
                help=f"resize to {max(image.height, image.width)} or more",
            )
        )
    channels = 1 if preprocess.channels == "grey" else 3
    if channels != image.channels:
        faults.append(
            Diagnostic(
                "preprocess/channels",
                f"{preprocess.channels} has {channels} channel{'s' * (channels > 1)}, "
                f"and the input {image.channels}",
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
                    f"{field} has {len(values)} value{'s' * (len(values) > 1)}, "
                    f"and the input {image.channels} channel{'s' * (image.channels > 1)}",
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
        labels = spec.header.labels if isinstance(spec.header.labels, tuple) else None
    elif isinstance(node, Scalar) and isinstance(node.value, str) and node.value:
        # The path is relative to the file that wrote it, which may be a base of this spec.
        owner = Path(node.place.source.path).resolve()
        try:
            file = resolve_path(node, owner, project_root(owner), "labels/file")
            with file.open("rb") as stream:
                text = stream.read(MAX_LABEL_BYTES + 1)
            if len(text) > MAX_LABEL_BYTES:
                message = (
                    f"{node.value} is larger than {MAX_LABEL_BYTES:,} bytes: no list of labels"
                )
                faults.append(Diagnostic("labels/file", message, node.place))
            else:
                # Only these end a line; a label may hold any other sign.
                labels = tuple(re.split(r"\r\n|\n", text.decode("utf-8-sig").rstrip("\r\n")))
        except AlexcError as error:
            faults.extend(error.diagnostics)
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8"
            faults.append(Diagnostic("labels/file", f"{node.value}: {reason}", node.place))
    if labels is not None and graph is not None:
        output = graph.outputs[0]
        classes = graph.shapes[output][0]
        if len(labels) != classes:
            message = f"there are {len(labels)} labels and {output} has {classes} values"
            help = "one label for each class, one a line"
            faults.append(Diagnostic("labels/count", message, spec.place("labels"), help=help))
    return labels
