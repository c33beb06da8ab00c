"""From a URI to a data set: `SCHEMES` is the table of what can be opened.

fashion-mnist:DIR  mnist:DIR    IDX files, gzipped or plain
cifar10:DIR                     the binary release, the Python one, or PNG sheets
folder:DIR                      a folder of photographs for each class
wds:PATTERN                     WebDataset shards, such as `alexc data pack` writes
hf:NAME                         a set of the Hugging Face hub, or one saved to disk
synthetic:COUNT                 made from a seed
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from alexc.diagnostics import fault, usage_fault
from alexc.frontend import Net
from alexc.graph.graph import Graph
from alexc.train.data import cifar, folder, hub, idx, shards, synthetic
from alexc.train.data.dataset import Dataset, ImageForm

Split = Literal["train", "test"]

SCHEMES: dict[str, Callable[[str, Split, ImageForm], Dataset]] = {
    "mnist": lambda rest, split, form: idx.load("mnist", Path(rest), split, form),
    "fashion-mnist": lambda rest, split, form: idx.load("fashion-mnist", Path(rest), split, form),
    "cifar10": lambda rest, split, form: cifar.load(Path(rest), split, form),
    "folder": folder.load,
    "wds": shards.load,
    "hf": hub.load,
    "synthetic": synthetic.load,
}


def open_data(uri: str, split: Split, form: ImageForm) -> Dataset:
    """The `train` or `test` part of the set at `uri`, in the form that the net takes.

    Raises UsageError if there is no such set, and AlexcError if it is damaged or does not fit.
    """
    scheme, colon, rest = uri.partition(":")
    if not colon or scheme not in SCHEMES:
        raise usage_fault(
            "data/uri",
            f"{uri!r} names no data set" if not colon else f"there are no data sets {scheme}:",
            help=f"write one of {', '.join(name + ':…' for name in SCHEMES)}",
        )
    if not rest and scheme != "synthetic":
        raise usage_fault("data/uri", f"{uri} does not say where the data is")
    data = SCHEMES[scheme](rest, split, form)
    if not len(data):
        raise fault("data/empty", f"{uri} holds no {split} images")
    known = data.labels[data.labels >= 0]
    if known.size and (most := int(known.max())) >= form.classes:
        raise fault(
            "data/classes",
            f"{uri} has the label {most}, and the net {form.classes} outputs (0 … "
            f"{form.classes - 1})",
            help=f"give the last layer {most + 1} outputs",
        )
    return data


def form_for(net: Net, graph: Graph, size: tuple[int, int] | None) -> ImageForm:
    """What the graph wants of its images, stored in `size` or else in the size of its input."""
    channels, height, width = graph.input_shape
    classes = graph.shapes[graph.outputs[0]][0]
    return ImageForm(channels, size or (height, width), classes, net.labels)


def stored_size(net: Net, resize: tuple[int, int] | None) -> tuple[int, int] | None:
    """The size that photographs are stored in: the recipe's word, or the preprocessing's."""
    if resize is not None:
        return resize
    said = net.spec.header.preprocess
    return (said.resize, said.resize) if said is not None and said.resize else None
