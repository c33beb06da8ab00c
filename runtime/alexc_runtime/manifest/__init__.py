"""`manifest.json`: what a bundle says of itself. This room owns its format, both ways.

The file is JSON. It starts with the three keys by which any version can be told apart,

    "format": "alexc-bundle"          what it is
    "version": 1                      version of the format: a reader knows one
    "digest": "sha256:…"              SHA-256 of this file with these 64 digits as zeros

and the last one binds all the rest: a changed byte in the manifest is noticed as surely as one in
the files that it lists. Keys that a reader does not know are skipped; one that would change the
meaning of the others takes a new version.

    records  what it says, as values
    format   its text: written from the records, and read into them again
    bundle   the folder that it lies in, and whether the files there are those that it lists
"""

from alexc_runtime.manifest.bundle import (
    ENGINES,
    MANIFEST,
    MODEL,
    REPORT,
    WEIGHTS,
    Bundle,
    open_bundle,
    read,
)
from alexc_runtime.manifest.format import FORMAT, VERSION, parse, render
from alexc_runtime.manifest.records import (
    BackendRecord,
    BatchRange,
    Built,
    Channels,
    EngineRecord,
    Input,
    InputType,
    Manifest,
    Origin,
    Output,
    Preprocess,
    Verification,
    format_shape,
)

__all__ = [
    "ENGINES",
    "FORMAT",
    "MANIFEST",
    "MODEL",
    "REPORT",
    "VERSION",
    "WEIGHTS",
    "BackendRecord",
    "BatchRange",
    "Built",
    "Bundle",
    "Channels",
    "EngineRecord",
    "Input",
    "InputType",
    "Manifest",
    "Origin",
    "Output",
    "Preprocess",
    "Verification",
    "format_shape",
    "open_bundle",
    "parse",
    "read",
    "render",
]
