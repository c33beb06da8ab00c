"""The files of a Caffe net: its own, or that of the solver that names it, and its weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from alexc.diagnostics import AlexcError, Diagnostic
from alexc.importers import prototext
from alexc.importers.builder import Builder
from alexc.importers.caffe.data import beside
from alexc.importers.caffe.layer import CaffeLayer, layers_of
from alexc.importers.caffe.schema import SCHEMAS
from alexc.importers.caffe.solver import is_solver
from alexc.importers.proto import Message
from alexc.importers.wire import Mapped
from alexc.importers.wire import read as read_wire
from alexc.spec.names import clip


class Files:
    """What was read, and from where.

    `layers` are all that the net writes, of whatever phase; `trained` those of the file that holds
    the weights, none where the import is without. `paths` are the files in the order of reading.
    """

    def __init__(self, path: Path, weights: Path | None, builder: Builder) -> None:
        """Raises UsageError for a file that can't be read, AlexcError for one that is no net."""
        self.paths = [path]
        self.net_file = path
        self.weights_file = weights or path
        self.solver: Message | None = None
        self._mapped: Mapped | None = None
        self.net = self._load(path, builder)
        self.layers = layers_of(self.net)
        self.trained = self._load_trained(weights)

    @property
    def release(self) -> Callable[[], None]:
        """Lets go of the memory that the mapped weights take."""
        return self._mapped.release if self._mapped is not None else lambda: None

    def _load(self, path: Path, builder: Builder) -> Message:
        """The net of a file: its own, or the one that a solver names."""
        if path.suffix.lower() in (".caffemodel", ".binaryproto"):
            self._mapped = Mapped(path)
            return read_wire(self._mapped, SCHEMAS["Net"], SCHEMAS)
        file = prototext.read(path, SCHEMAS["File"], SCHEMAS)
        if not is_solver(file):
            return file
        self.solver = file
        for name in ("net_param", "train_net_param"):
            if file.has(name):
                return file.message(name)
        field = "net" if file.has("net") else "train_net"
        named = file.text(field)
        found = beside(path.parent, named) if named else None
        if found is None or found.resolve() == path.resolve():
            builder.stop(
                "import/solver-net",
                f"the solver names the net {clip(named, 200)!r}, which is not beside it"
                if named
                else "the solver names no net",
                file.place_of(field),
                help="import the net's own file, or put it beside the solver",
            )
        self.paths.append(found)
        self.net_file = found
        net = prototext.read(found, SCHEMAS["File"], SCHEMAS)
        if is_solver(net):
            builder.stop("import/solver-net", f"{found} is a solver too", file.place_of(field))
        return net

    def _load_trained(self, weights: Path | None) -> list[CaffeLayer]:
        if weights is None:
            return self.layers if self._mapped is not None else []
        self._mapped = Mapped(weights)
        if bytes(self._mapped.bytes[:4]) == b"\x89HDF":
            raise AlexcError(
                Diagnostic(
                    "import/hdf5",
                    f"{weights} is an HDF5 file, and only binary protos are read",
                    help="Caffe writes them with snapshot_format: BINARYPROTO",
                )
            )
        self.paths.append(weights)
        trained = layers_of(read_wire(self._mapped, SCHEMAS["Net"], SCHEMAS))
        if not trained:
            message = f"{weights} holds no layers, so it is no caffemodel of a net"
            raise AlexcError(Diagnostic("import/damaged", message))
        return trained
