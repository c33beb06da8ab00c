"""PyTorch's state dicts: which tensor is whose, and what may not be loaded at all."""

from __future__ import annotations

import argparse
import os
import struct
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from alexc.diagnostics import AlexcError, UsageError
from alexc.frontend import load_net
from alexc.importers import builder
from alexc.importers.foreign import ForeignNet, Request
from alexc.importers.formats import read_foreign
from alexc.importers.writer import write
from alexc.lower.to_torch import to_torch
from alexc.weights import store
from tests.command_line import Alexc, alexc

__all__ = ["alexc"]

SPECS = Path(__file__).resolve().parents[1] / "specs"

SMALL = """\
alexc: 1
name: small
input: {channels: 2, height: 6, width: 5}
layers:
  conv1: {op: conv, out_channels: 4, kernel_size: 3, padding: 1}
  bn1: batch_norm
  relu1: relu
  conv2: {op: conv, out_channels: 4, kernel_size: 3, padding: 1, bias: false}
  conv3: {op: conv, out_channels: 4, kernel_size: 3, padding: 1, bias: false}
  pool3: {op: adaptive_avg_pool, output_size: 1}
  flatten: flatten
  fc4: {op: linear, out_features: 3}
"""


class Small(nn.Module):
    """The net of the spec `SMALL`, in the way and with the names that people write."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.body = nn.Sequential(
            nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.Conv2d(4, 4, 3, padding=1, bias=False)
        )
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled: torch.Tensor = self.head(self.body(self.stem(x)).mean(dim=(2, 3)))
        return pooled


def small() -> Small:
    torch.manual_seed(5)
    net = Small()
    with torch.no_grad():
        for name, buffer in net.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
            elif name.endswith("running_mean"):
                buffer.normal_()
    return net.eval()


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


def read(path: Path, **request: Any) -> ForeignNet:
    return read_foreign(path, Request(**request))


def code(path: Path, **request: Any) -> str:
    with pytest.raises(AlexcError) as caught:
        read(path, **request)
    return caught.value.diagnostics[0].code


def saved(path: Path, value: Any, **options: Any) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(value, path, **options)
    return path


def assert_computes(net: Small, imported: ForeignNet, tmp_path: Path) -> None:
    done = write(imported, tmp_path / "net.yaml")
    assert done.weights is not None
    graph = load_net(done.spec).graph
    ours = to_torch(graph, store.read(done.weights, graph)).eval()
    images = torch.randn(3, 2, 6, 5)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), net(images))


# ---- a net that is said --------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_are_matched_in_order(tmp_path: Path, spec: Path, zipped: bool) -> None:
    net = small()
    path = saved(tmp_path / "w.pth", net.state_dict(), _use_new_zipfile_serialization=zipped)
    imported = read(path, like=spec)
    assert [(row.origin.name, row.layer) for row in imported.rows] == [
        ("stem.0", "conv1"),
        ("stem.1", "bn1"),
        ("body.0", "conv2"),
        ("body.1", "conv3"),
        ("head", "fc4"),
    ]
    assert_computes(net, imported, tmp_path)
    text = (tmp_path / "net.yaml").read_text()
    assert text.endswith("alexc: 1\nname: small\nextends: small.yaml\nsource: PyTorch file w.pth\n")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        lambda state: {f"module._orig_mod.{name}": tensor for name, tensor in state.items()},
        lambda state: {"epoch": 3, "state_dict": state, "best": 0.5},
        lambda state: {"model": {f"module.{name}": tensor for name, tensor in state.items()}},
        lambda state: {name: nn.Parameter(t) for name, t in state.items() if t.is_floating_point()},
        lambda state: {name: t.half() if "num" not in name else t for name, t in state.items()},
    ],
    ids=["parallel", "compiled", "checkpoint", "both", "parameters", "half"],
)
def test_wrappers_are_taken_off(tmp_path: Path, spec: Path, wrap: Any) -> None:
    net = small().half().float()  # so that 16 bits hold the weights exactly
    path = saved(tmp_path / "w.pth", wrap(net.state_dict()))
    assert_computes(net, read(path, like=spec), tmp_path)


def test_names_that_agree_go_before_order(tmp_path: Path, spec: Path) -> None:
    net = small()
    names = {
        "stem.0": "conv1",
        "stem.1": "bn1",
        "body.0": "conv2",
        "body.1": "conv3",
        "head": "fc4",
    }
    state = net.state_dict()
    mixed = {}
    for name in sorted(state, reverse=True):
        owner, _, local = name.rpartition(".")
        mixed[f"{names[owner]}.{local}"] = state[name]
    path = saved(tmp_path / "w.pth", mixed)
    assert_computes(net, read(path, like=spec), tmp_path)


def safetensors(path: Path, state: dict[str, torch.Tensor]) -> Path:
    tensors = {name: tensor.numpy() for name, tensor in state.items()}
    store.write(path, dict(sorted(tensors.items())))
    return path


def test_safetensors_are_matched_by_shape_and_number(tmp_path: Path, spec: Path) -> None:
    net = small()
    path = safetensors(tmp_path / "w.safetensors", net.state_dict())
    assert_computes(net, read(path, like=spec), tmp_path)


def test_what_nothing_tells_apart_is_refused(tmp_path: Path, spec: Path) -> None:
    names = {"body.0.weight": "left.weight", "body.1.weight": "right.weight"}
    state = {names.get(name, name): tensor for name, tensor in small().state_dict().items()}
    path = safetensors(tmp_path / "w.safetensors", state)
    assert code(path, like=spec) == "import/ambiguous-weights"


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_weights_of_another_net_are_refused(tmp_path: Path, spec: Path, change: str) -> None:
    state = small().state_dict()
    if change == "missing":
        del state["head.bias"]
    elif change == "extra":
        state["more.weight"] = torch.ones(4, 4)
    else:
        state["head.weight"] = torch.ones(3, 5)
    assert code(saved(tmp_path / "w.pth", state), like=spec) == "import/weight-shape"


def test_a_base_that_may_not_be_extended_is_written_out(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    (one / "small.yaml").write_text(SMALL + "labels: labels.txt\n")
    (one / "labels.txt").write_text("a\nb\nc\n")
    path = saved(tmp_path / "w.pth", small().state_dict())
    done = write(read(path, like=one / "small.yaml"), other / "net.yaml")
    assert "extends" not in done.spec.read_text()
    assert done.net.labels == ("a", "b", "c")


# ---- torchvision's AlexNet -----------------------------------------------------------------------


def torchvision_alexnet(classes: int = 10) -> dict[str, torch.Tensor]:
    """Tensors of torchvision's names and shapes; nothing reads their values."""
    state = OrderedDict()
    sizes = [(3, 64, 11), (64, 192, 5), (192, 384, 3), (384, 256, 3), (256, 256, 3)]
    for index, (inputs, outputs, kernel) in zip((0, 3, 6, 8, 10), sizes, strict=True):
        state[f"features.{index}.weight"] = torch.zeros(outputs, inputs, kernel, kernel)
        state[f"features.{index}.bias"] = torch.zeros(outputs)
    units = [(9216, 4096), (4096, 4096), (4096, classes)]
    for index, (inputs, outputs) in zip((1, 4, 6), units, strict=True):
        state[f"classifier.{index}.weight"] = torch.empty(1).expand(outputs, inputs)
        state[f"classifier.{index}.bias"] = torch.zeros(outputs)
    return state


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a file of few bytes stand for large weights, which it otherwise may not."""
    monkeypatch.setattr(builder, "_FREE_GROWTH", 2**30)


@pytest.mark.usefixtures("small_files")
def test_torchvisions_alexnet_is_known_by_itself(tmp_path: Path) -> None:
    net = read(saved(tmp_path / "alexnet.pth", torchvision_alexnet(1000)))
    known = load_net(SPECS / "alexnet-owt.yaml")
    assert net.graph.parameter_count == 61_100_840
    assert net.graph.to_json() == known.graph.to_json()
    assert net.preprocess is not None
    preprocess = known.spec.header.preprocess
    assert preprocess is not None
    assert tuple(net.preprocess["mean"]) == preprocess.mean
    assert net.preprocess["resize"] == preprocess.resize
    assert [(row.origin.name, row.layer) for row in net.rows][::7] == [
        ("features.0", "conv1"),
        ("classifier.6", "fc8"),
    ]


@pytest.mark.usefixtures("small_files")
def test_any_number_of_classes(tmp_path: Path) -> None:
    net = read(saved(tmp_path / "alexnet.pth", torchvision_alexnet(7)))
    assert net.graph.shapes["fc8"] == (7,)


def test_a_net_that_nothing_says_is_asked_for(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pth", small().state_dict())
    with pytest.raises(UsageError) as caught:
        read(path)
    assert caught.value.diagnostics[0].code == "import/unknown-net"
    assert "--like" in str(caught.value.diagnostics[0].help)


# ---- what may not be loaded ----------------------------------------------------------------------


class Command:
    """What a malicious file holds: loading it with pickle would run a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, zipped: bool) -> None:
    mark = tmp_path / "it ran"
    value = {"a.weight": torch.ones(2, 2), "b": Command(f"touch '{mark}'")}
    path = saved(tmp_path / "w.pth", value, _use_new_zipfile_serialization=zipped)
    with pytest.raises(AlexcError) as caught:
        read(path)
    assert caught.value.diagnostics[0].code == "import/runs-code"
    assert "posix.system" in caught.value.diagnostics[0].message
    assert not mark.exists()


def test_objects_of_any_kind_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pth", {"arguments": argparse.Namespace(seed=1)})
    assert code(path) == "import/runs-code"
    assert code(saved(tmp_path / "m.pth", nn.Linear(2, 3))) == "import/runs-code"


@pytest.mark.parametrize(
    "value", [{}, {"epoch": 3}, [torch.ones(2)], 7, {"state_dict": {"epoch": 3}}, {"a": {"b": 1}}],
    ids=str,
)  # fmt: skip
def test_what_is_no_state_dict_is_refused(tmp_path: Path, value: Any) -> None:
    assert code(saved(tmp_path / "w.pth", value)) == "import/no-state-dict"


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(2, 2).to_sparse(),
        torch.ones(2, 2, dtype=torch.complex64),
        torch.ones(2, 2, dtype=torch.int8),
    ],
    ids=["sparse", "complex", "whole"],
)
def test_tensors_of_other_kinds_are_refused(tmp_path: Path, tensor: torch.Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert code(saved(tmp_path / "w.pth", {"a.weight": tensor})) == "import/tensor-type"


def rezipped(
    source: Path, target: Path, compression: int = zipfile.ZIP_STORED, **parts: bytes
) -> Path:
    """The archive with some of its parts replaced, by the ends of their names."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for info in old.infolist():
            end = info.filename.rpartition("/")[2].replace(".", "_")
            new.writestr(info.filename, parts.get(end, old.read(info.filename)))
    return target


def test_archives_that_lie_are_refused(tmp_path: Path, spec: Path) -> None:
    path = saved(tmp_path / "w.pth", small().state_dict())
    packed = rezipped(path, tmp_path / "packed.pth", zipfile.ZIP_DEFLATED)
    assert code(packed, like=spec) == "import/damaged"
    program = rezipped(path, tmp_path / "program.pth", data_pkl=b"\x80\x02" + b"}" * 2**21)
    assert code(program, like=spec) == "import/too-large"
    data = path.read_bytes()
    crowded = bytearray(data)
    for mark, place, form in ((b"PK\x05\x06", 10, "<H"), (b"PK\x06\x06", 32, "<Q")):
        record = data.rfind(mark)
        if record >= 0:
            struct.pack_into(form, crowded, record + place, 60_000)
    (tmp_path / "crowded.pth").write_bytes(crowded)
    with pytest.raises(AlexcError):
        read(tmp_path / "crowded.pth", like=spec)
    with zipfile.ZipFile(path) as archive:
        name = next(info.filename for info in archive.infolist() if info.filename.endswith(".pkl"))
        program_text = archive.read(name)
    # The storage of 72 numbers claims to have 72 million, and its tensor to be so large.
    lying = program_text.replace(b"KH", b"J" + struct.pack("<i", 72_000_000))
    lying = lying.replace(b"(K\x04K\x02K\x03K\x03t", b"(K\x04K\x02J\x40\x4b\x4c\x00K\x03t")
    assert lying != program_text
    assert code(rezipped(path, tmp_path / "lying.pth", data_pkl=lying), like=spec)


def test_cut_and_changed_files_are_refused(tmp_path: Path, spec: Path) -> None:
    data = saved(tmp_path / "w.pth", {"a.weight": torch.ones(3, 2)}).read_bytes()
    path = tmp_path / "cut.pth"
    for length in range(0, len(data), 97):
        path.write_bytes(data[:length])
        with pytest.raises(AlexcError):
            read(path, like=spec)
    chance = np.random.default_rng(1)
    for _ in range(50):
        changed = np.frombuffer(data, np.uint8).copy()
        where = chance.integers(len(changed), size=4)
        changed[where] = chance.integers(256, size=4)
        path.write_bytes(changed.tobytes())
        with pytest.raises(AlexcError):
            read(path, like=spec)


def test_the_command(alexc: Alexc, tmp_path: Path, spec: Path) -> None:
    path = saved(tmp_path / "w.pth", small().state_dict())
    out = tmp_path / "out" / "net.yaml"
    ran = alexc("import", path, "--like", spec, "--out", out, "--json")
    assert ran.status == 0
    assert [row["source"] for row in ran.json["layers"]] == [
        "stem.0", "stem.1", "body.0", "body.1", "head"
    ]  # fmt: skip
    assert Path(ran.json["weights"]).exists()
    assert alexc("import", path, "--out", tmp_path / "b.yaml").status == 2
    assert alexc("import", path, "--weights", path, "--out", tmp_path / "c.yaml").status == 2
