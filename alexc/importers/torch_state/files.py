"""A state dict's file → its tensors by module, with nothing of it run.

A `.pth` file is a pickle, a program that the loader runs. It is loaded with PyTorch's own loader
for weights only, which runs none of it but making tensors; a file that asks for more is refused.
Before that the program is looked through, without running it, so that a file that is no state dict
is refused in milliseconds and before PyTorch is imported.
"""

from __future__ import annotations

import io
import math
import pickletools
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from alexc.diagnostics import AlexcError, fault
from alexc.importers.wire import Mapped
from alexc.ops.base import Shape
from alexc.spec.names import clip
from alexc.weights import store

if TYPE_CHECKING:
    import torch

Array = NDArray[Any]

# What wrappers put before every name.
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "state_dict.")
# What checkpoints call the state dict among the other things they hold.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "weights", "ema")
_COUNTER = "num_batches_tracked"

# The program of a pickle, without its tensors: a state dict of a thousand of them takes 100 kB.
_MAX_PROGRAM = 2**20
# How files from before PyTorch 1.6 begin: with a number of their own, in a pickle of its own; of
# those that follow, four say what the tensors are.
_OLD_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_OLD_PROGRAMS = 4
_MAX_ENTRIES = 20_000
_MAX_DIRECTORY = 4 * 2**20


@dataclass(frozen=True, slots=True)
class Module:
    """The tensors of one module of a state dict, by their local names."""

    name: str
    tensors: Mapping[str, Array]

    @property
    def signature(self) -> tuple[tuple[str, Shape], ...]:
        """What a layer must need to be this module."""
        return tuple(sorted((local, array.shape) for local, array in self.tensors.items()))

    @property
    def kind(self) -> str:
        """What kind of module has such tensors."""
        if "running_mean" in self.tensors:
            return "BatchNorm"
        weight = self.tensors.get("weight")
        return {2: "Linear", 4: "Conv2d"}.get(weight.ndim if weight is not None else 0, "module")


@dataclass(frozen=True, slots=True)
class StateDict:
    """The modules of a file. `ordered` is whether their order is that of the net."""

    modules: tuple[Module, ...]
    ordered: bool
    mapped: Mapped | None = None


def read_state_dict(path: Path) -> StateDict:
    """The tensors of a file, grouped by their modules; prefixes of wrappers are taken off."""
    if path.suffix.lower() == ".safetensors":
        mapped = Mapped(path)
        return StateDict(_modules(_safetensors(path, mapped)), False, mapped)
    return StateDict(_modules(_pickled(path)), True)


def _safetensors(path: Path, mapped: Mapped) -> dict[str, Array]:
    """The tensors where they lie. Writers sort them by name or size: their order says nothing."""
    tensors = {}
    for name, extent in store.extents(path).items():
        dtype = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "BF16": "<u2"}.get(extent.dtype)
        if dtype is None and name.endswith(_COUNTER):
            continue
        if dtype is None:
            raise fault("import/tensor-type", f"{path}: {clip(name)} holds {extent.dtype}")
        flat = np.frombuffer(mapped.bytes, dtype, math.prod(extent.shape), extent.offset)
        if extent.dtype == "BF16":
            flat = (flat.astype(np.uint32) << 16).view(np.float32)
        tensors[name] = flat.reshape(extent.shape)
    return tensors


def _pickled(path: Path) -> dict[str, Array]:
    """The tensors of a `.pth` file, mapped where its format allows it."""
    mapped = Mapped(path)  # tells that the file is missing, empty or no file
    is_zip = bytes(mapped.bytes[:4]) == b"PK\x03\x04"
    if is_zip:
        _check_archive(path, mapped)
    elif bytes(mapped.bytes[: len(_OLD_START)]) == _OLD_START:
        _check_program(path, bytes(mapped.bytes[:_MAX_PROGRAM]), _OLD_PROGRAMS)
    else:
        raise fault("import/damaged", f"{path} is neither a zip file nor an old PyTorch file")
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip or None)
            return {name: _array(path, name, one) for name, one in _tensors(path, loaded).items()}
    except AlexcError:
        raise
    except Exception as error:  # noqa: BLE001
        # On a damaged file PyTorch's loader raises whatever its parts happen to raise.
        raise _unloadable(path, str(error)) from None


def _unloadable(path: Path, message: str) -> AlexcError:
    asked = re.search(r"GLOBAL ([\w.]{1,200})", message)
    if asked is not None:
        return _runs_code(path, asked[1])
    first = clip(" ".join(message.split("\n", 1)[0].split()), 150)
    return fault(
        "import/damaged", f"{path} is no state dict of PyTorch: {first or 'it is damaged'}"
    )


def _runs_code(path: Path, name: str) -> AlexcError:
    return fault(
        "import/runs-code",
        f"{path}: loading it would call {clip(name)}, and nothing is run here",
        help="where you trust the file, write its weights alone: "
        "torch.save(model.state_dict(), NEW)",
    )


def _check_program(path: Path, program: bytes, programs: int = 1) -> None:
    """Look through a pickle's program, without running it, for what it would call.

    Only what is surely no part of a state dict is refused here; PyTorch's loader judges the rest.
    """
    stream = io.BytesIO(program)
    words: list[str] = []  # the texts just before, from which newer pickles take a name
    try:
        for _ in range(programs):
            for opcode, argument, _position in pickletools.genops(stream):
                called = argument if opcode.name == "GLOBAL" else ""
                if opcode.name == "STACK_GLOBAL" and len(words) > 1:
                    called = " ".join(words[-2:])
                if called and not _harmless(called):
                    raise _runs_code(path, called.replace(" ", "."))
                if isinstance(argument, str) and opcode.name != "GLOBAL":
                    words.append(argument)
                elif "PUT" not in opcode.name and opcode.name != "MEMOIZE":
                    words.clear()
    except (ValueError, IndexError, UnicodeDecodeError, OverflowError) as error:
        raise fault("import/damaged", f"{path} is no state dict of PyTorch: {error}") from None


def _harmless(name: str) -> bool:
    """Whether a name may be one of those that PyTorch's loader for weights knows."""
    module, _, function = name.partition(" ")
    if module in ("builtins", "__builtin__"):
        return function in ("set", "bytearray", "dict", "list", "tuple", "int", "float", "complex")
    return module.partition(".")[0] in ("torch", "collections", "numpy", "_codecs")


def _check_archive(path: Path, mapped: Mapped) -> None:
    """Refuse a zip file that would take long or much memory before anything is loaded from it."""
    tail = bytes(mapped.bytes[-66_000:])
    end = tail.rfind(b"PK\x05\x06")
    record = tail[end : end + 20]
    if end < 0 or len(record) < 20:
        raise fault("import/damaged", f"{path} is a zip file that is cut off")
    entries, size = struct.unpack("<H", record[10:12])[0], struct.unpack("<I", record[12:16])[0]
    large = tail.rfind(b"PK\x06\x06", 0, end)  # the same record for large files
    if large >= 0 and len(tail) >= large + 48:
        entries, size = struct.unpack("<QQ", tail[large + 32 : large + 48])
    elif tail.rfind(b"PK\x06\x07", 0, end) >= 0:
        raise fault("import/damaged", f"{path} is a zip file whose directory is damaged")
    if entries > _MAX_ENTRIES or size > _MAX_DIRECTORY:
        raise fault("import/too-large", f"{path} holds {entries:,} parts, more than any net")
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, EOFError) as error:
        raise fault("import/damaged", f"{path} is a damaged zip file: {error}") from None
    for part in parts:
        if part.compress_type != zipfile.ZIP_STORED or part.file_size > len(mapped):
            name = clip(part.filename)
            raise fault("import/damaged", f"{path}: {name} is packed, which PyTorch never does")
    programs = [part for part in parts if part.filename.endswith("data.pkl")]
    if len(programs) != 1:
        raise fault("import/damaged", f"{path} is a zip file, but none that PyTorch wrote")
    if programs[0].file_size > _MAX_PROGRAM:
        name = clip(programs[0].filename)
        raise fault("import/too-large", f"{path}: {name} is larger than that of any state dict")
    try:
        with zipfile.ZipFile(path) as archive:
            program = archive.read(programs[0])
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, EOFError) as error:
        raise fault("import/damaged", f"{path} is a damaged zip file: {error}") from None
    _check_program(path, program)


def _tensors(path: Path, loaded: Any) -> dict[str, torch.Tensor]:
    """The state dict in what was loaded: itself, or a part of a checkpoint."""
    import torch

    for _ in range(4):
        if not isinstance(loaded, Mapping):
            break
        if loaded and all(isinstance(value, torch.Tensor) for value in loaded.values()):
            return {str(name): value for name, value in loaded.items()}
        inner = next((loaded[name] for name in _WRAPPERS if name in loaded), None)
        if inner is None:
            break
        loaded = inner
    if isinstance(loaded, Mapping):
        names = ", ".join(clip(str(name)) for name in list(loaded)[:8]) or "nothing"
        message = f"{path} is no state dict: it holds {names}"
    else:
        message = f"{path} is no state dict: it holds a {type(loaded).__name__}"
    raise fault("import/no-state-dict", message)


def _array(path: Path, name: str, tensor: torch.Tensor) -> Array:
    """A tensor as an array, where it lies if it is dense."""
    import torch

    plain = tensor.layout == torch.strided and not tensor.is_quantized
    if (
        not plain
        or not (tensor.is_floating_point() or name.endswith(_COUNTER))
        or tensor.numel() > 2**31
    ):
        raise fault("import/tensor-type", f"{path}: {clip(name)} is not an ordinary tensor")
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    array: Array = tensor.numpy()
    return array


def _modules(tensors: dict[str, Array]) -> tuple[Module, ...]:
    """The tensors by module, without what wrappers put before the names."""
    stripped = True
    while stripped:
        stripped = False
        for prefix in _PREFIXES:
            if tensors and all(name.startswith(prefix) for name in tensors):
                tensors = {name.removeprefix(prefix): array for name, array in tensors.items()}
                stripped = True
    modules: dict[str, dict[str, Array]] = {}
    for name, array in tensors.items():
        owner, _, local = name.rpartition(".")
        if local != _COUNTER:
            modules.setdefault(owner, {})[local] = array
    return tuple(Module(name, found) for name, found in modules.items())
