"""The text of cuda-convnet's files: `[name]` sections of `key=value` lines, each with its place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from alexc.diagnostics import Place
from alexc.importers.builder import MAX_LAYERS, Builder
from alexc.importers.foreign import Origin
from alexc.importers.proto import Document
from alexc.importers.prototext import read_text
from alexc.spec.names import clip

_MAX_BYTES = 500_000  # the released files have 3,000


@dataclass(frozen=True, slots=True)
class Section:
    """One layer as it is written; keys are in small letters, as the 2012 reader takes them."""

    name: str
    values: Mapping[str, str]
    places: Mapping[str, Place | None]
    place: Place | None

    @property
    def type(self) -> str:
        return self.values.get("type", "")

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(
            part.strip() for part in self.values.get("inputs", "").split(",") if part.strip()
        )

    @property
    def origin(self) -> Origin:
        return Origin(self.name, self.type, self.place)

    @property
    def is_cost(self) -> bool:
        return self.type.startswith("cost.")


def sections(path: Path, builder: Builder) -> list[Section]:
    """The `[name]` sections of a file with their `key=value` lines; faults go to the builder."""
    text = read_text(path, _MAX_BYTES)
    document = Document(str(path), text)
    found: list[Section] = []
    values: dict[str, str] = {}
    places: dict[str, Place | None] = {}
    known: set[str] = set()
    offset = 0
    for line in text.split("\n"):
        place = document.place(offset, max(1, len(line.rstrip())))
        offset += len(line) + 1
        stripped = line.strip()
        if not stripped or stripped[0] in "#;":
            continue
        if header := re.fullmatch(r"\[([^\]]+)\]\s*(?:[#;].*)?", stripped):
            name = header[1].strip()
            if name in known:
                builder.fault("import/syntax", f"the layer {clip(name)} is given twice", place)
            known.add(name)
            values, places = {}, {}
            found.append(Section(name, values, places, place))
            if len(found) > MAX_LAYERS:
                builder.stop("import/too-many-layers", f"it has more than {MAX_LAYERS:,} layers")
            continue
        key, equals, value = stripped.partition("=")
        if not equals or not found:
            what = "stands in no [section]" if not found else "is neither [name] nor key=value"
            builder.stop("import/syntax", f"this line {what}", place)
        key = key.strip().lower()
        if key in values:
            builder.fault("import/syntax", f"{clip(key)} is given twice", place)
        values[key] = re.split(r"\s[#;]", value)[0].strip()
        places[key] = place
    if not found:
        builder.stop("import/empty", "it has no [section], so it is no layer file")
    return found


def parameters_file(path: Path) -> Path | None:
    """The file of parameters that goes with a layer file: layer-params-145.cfg with layers-145."""
    named = path.with_name(path.name.replace("layers", "layer-params", 1))
    return named if named != path and named.is_file() else None


# ---- values --------------------------------------------------------------------------------------


def numbers(section: Section, key: str) -> list[int]:
    """A list of whole numbers, empty if it is none."""
    parts = [part.strip() for part in section.values.get(key, "").split(",")]
    if not all(re.fullmatch(r"-?[0-9]{1,9}", part) for part in parts):
        return []
    return [int(part) for part in parts]


def floats(section: Section, key: str) -> list[float]:
    """A list of numbers, empty if it is none."""
    try:
        return [float(part) for part in section.values[key].split(",")]
    except (KeyError, ValueError):
        return []


def only_float(section: Section, key: str) -> float | None:
    """The one number of a field, or None if it is none or several."""
    values = floats(section, key)
    return values[0] if len(values) == 1 else None
