"""Bad input to commands: a sentence and the right status, never a traceback, and nothing lost."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from alexc.bundle import runtime_faults
from alexc.diagnostics import AlexcError
from alexc.train import checkpoint
from alexc.train.score import score_run
from alexc_runtime.errors import BundleError, PhotoError, PhotoMissingError, RuntimeFaultError
from tests.command_line import Alexc, alexc
from tests.train_nets import DATA, SMALL, Quiet, run, small_net

__all__ = ["alexc"]  # a fixture, which pytest finds here by its name


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be in, with a spec, and a link that leads to itself."""
    monkeypatch.chdir(tmp_path)
    small_net(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    return tmp_path


# ---- files ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    "arguments",
    [
        ("new", "variant", "--from", "small.yaml", "--out", "loop/variant.yaml"),
        ("new", "x" * 300, "--from", "small.yaml"),
        ("data", "pack", "loop", "out"),
        ("inspect", "loop/small.yaml"),
        ("eval", "small.yaml", "--data", DATA),
        ("eval", "loop", "--data", DATA),
    ],
    ids=" ".join,
)
def test_what_cannot_be_used_is_told(alexc: Alexc, arguments: tuple[str, ...]) -> None:
    ran = alexc(*arguments)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith("error[")
    assert alexc(*arguments, "--json").json["diagnostics"][0]["severity"] == "error"


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    "arguments",
    [
        ("eval", "none", "--data", DATA),
        ("eval", "none", "--data", DATA, "--engine", "all"),
        ("verify", "none.yaml", "--weights", "none.safetensors"),
        ("verify", "none.yaml", "--weights", "none.safetensors", "--onnx", "none.onnx"),
    ],
    ids=" ".join,
)
def test_what_is_not_there_is_told_and_not_what_it_is_not(
    alexc: Alexc, arguments: tuple[str, ...]
) -> None:
    ran = alexc(*arguments)
    assert (ran.status, ran.out) == (2, "")
    assert f"]: there is no {arguments[1]}\n" in ran.err


@pytest.mark.usefixtures("place")
def test_a_file_that_no_room_has_words_for(alexc: Alexc, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> NoReturn:
        raise OSError(5, "Input/output error", "small.yaml")

    monkeypatch.setattr("alexc.cli.inspect.load_net", fail)
    ran = alexc("inspect", "small.yaml")
    assert ran.status == 2
    assert ran.err == "error[file/unusable]: small.yaml: Input/output error\n\n"


@pytest.mark.usefixtures("place")
def test_memory_that_runs_out(alexc: Alexc, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> NoReturn:
        raise MemoryError("Unable to allocate 3 TiB")

    monkeypatch.setattr("alexc.cli.inspect.load_net", fail)
    ran = alexc("inspect", "small.yaml")
    assert ran.status == 1
    assert "error[memory/exhausted]: there is not enough memory: Unable to allocate 3" in ran.err


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (PhotoMissingError("photo/missing", "there is no file a.jpg"), 2),
        (PhotoError("photo/unreadable", "a.jpg can't be read: Permission denied"), 2),
        (PhotoError("photo/damaged", "a.jpg is damaged"), 1),
        (BundleError("bundle/unreadable", "b/model.onnx can't be read"), 2),
        (BundleError("bundle/altered", "b is damaged"), 1),
    ],
    ids=lambda value: getattr(value, "code", None),
)
def test_what_cannot_be_read_is_wrong_usage_and_what_is_damaged_is_not(
    fault: RuntimeFaultError, status: int
) -> None:
    with pytest.raises(AlexcError) as caught, runtime_faults():
        raise fault
    assert caught.value.exit_code == status


def test_class_folders_that_cannot_be_read(
    alexc: Alexc, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "photos" / "ant").mkdir(parents=True)

    def fail(*_: object) -> NoReturn:
        raise OSError(22, "Invalid argument", "photos/ant/7")

    monkeypatch.setattr(Path, "rglob", fail)
    ran = alexc("data", "pca", "small.yaml", "--data", "folder:photos")
    assert ran.status == 2
    assert "error[file/unreadable]: photos/ant/7: Invalid argument" in ran.err


# ---- features ------------------------------------------------------------------------------------


def test_features_replace_features_only(alexc: Alexc, place: Path) -> None:
    run(small_net(place), place / "run", stop_after=1)
    last = checkpoint.latest(place / "run")
    assert last is not None
    (place / "mine.safetensors").write_bytes(last.weights.read_bytes())
    common = ("features", "run", "--data", DATA, "--layer", "pool1", "--out")
    for name, words in (
        ("small.yaml", "small.yaml is no .safetensors file"),
        ("mine.safetensors", "exists and holds something else than features"),
        ("nowhere/fresh.safetensors", "error[file/unwritable]"),
    ):
        ran = alexc(*common, name)
        assert ran.status == 2
        assert words in ran.err
    assert (place / "small.yaml").read_text() == SMALL
    assert (place / "mine.safetensors").read_bytes() == last.weights.read_bytes()
    for _ in range(2):
        assert alexc(*common, "fresh.safetensors").status == 0
    assert load_file(place / "fresh.safetensors").keys() == {"features", "labels"}


def test_an_import_writes_and_replaces_specs_only(alexc: Alexc, place: Path) -> None:
    net = Path(__file__).parent / "import_samples" / "caffe" / "small.prototxt"
    (place / "photo.jpg").write_bytes(b"a photograph")
    for name in ("photo.jpg", "net.safetensors", "net"):
        ran = alexc("import", net, "--out", name, "--force")
        assert ran.status == 2
        assert f"error[import/out]: {name} is no .yaml file" in ran.err
    assert (place / "photo.jpg").read_bytes() == b"a photograph"
    assert alexc("import", net, "--out", "net.yml").status == 0


# ---- training ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.epoch=2", "train has no field epoch\n = help: did you mean epochs?"),
        ("train.epochs=two", 'train: epochs must be a whole number, and is "two"'),
        (
            "train.optimizer.learning_rate=-1",
            "train: optimizer.learning_rate must be greater than 0",
        ),
        ("train.accumulate=3", "train: a batch of 16 images is not 3 equal parts"),
        ("train.augment.noise.std=3", "train: augment.noise needs eigenvalues and eigenvectors"),
    ],
)
def test_an_override_that_is_none_is_told_in_our_words(
    alexc: Alexc, override: str, words: str
) -> None:
    ran = alexc("train", "small.yaml", "--data", DATA, "--out", "run", "--set", override)
    assert ran.status == 2
    assert ran.err.startswith(f"error[recipe/set]: {words}")
    assert not Path("run").exists()


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("option", ["--threads", "--processes"])
def test_more_threads_and_processes_than_any_machine_has(alexc: Alexc, option: str) -> None:
    ran = alexc("train", "small.yaml", "--data", DATA, "--out", "run", option, 100_000)
    assert ran.status == 2
    assert not Path("run").exists()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 3 TiB"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
    ids=["numpy", "cuda", "cpu"],
)
def test_a_step_that_memory_does_not_suffice_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> NoReturn:
        raise error

    monkeypatch.setattr("alexc.train.loop.Loop._step", fail)
    with pytest.raises(AlexcError, match="train/memory") as caught:
        run(small_net(tmp_path), tmp_path / "run")
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.message == f"there is not enough memory: {str(error).splitlines()[0]}"
    assert diagnostic.help is not None
    assert "train.batch" in diagnostic.help


def test_other_errors_of_a_step_stay_what_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> NoReturn:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr("alexc.train.loop.Loop._step", fail)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        run(small_net(tmp_path), tmp_path / "run")


def test_damaged_checkpoints_are_named(tmp_path: Path) -> None:
    net, folder = small_net(tmp_path), tmp_path / "run"
    run(net, folder, "train.checkpoint.steps=4", stop_after=9)
    states = sorted(folder.glob("checkpoints/*/state.json"))
    names = [state.parent.name for state in states]
    assert names == ["0000000005", "0000000008", "0000000009"]  # the best, and the last two
    states[-1].write_bytes(b"")
    report = Quiet()
    run(net, folder, "train.checkpoint.steps=4", resume=True, stop_after=1, report=report)
    assert report.said == ["the checkpoint 0000000009 is damaged, and passed over"]
    for state in folder.glob("checkpoints/*/state.json"):
        state.write_bytes(b"")
    with pytest.raises(AlexcError, match=r"no checkpoint in .* is whole: 0000000005, "):
        score_run(folder, DATA, "test", views=1, best=False)


def test_best_is_of_a_run(alexc: Alexc, place: Path) -> None:
    (place / "net").mkdir()
    (place / "net" / "manifest.json").touch()
    ran = alexc("eval", "net", "--data", DATA, "--best")
    assert ran.status == 2
    assert "net is a bundle, and --best is of a run" in ran.err


# ---- packing -------------------------------------------------------------------------------------


def test_what_was_packed_is_counted_in_words(alexc: Alexc, place: Path) -> None:
    for name, count in (("ant", 2), ("bee", 1)):
        (place / "photos" / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (20, 30)).save(place / "photos" / name / f"{number}.png")
    (place / "photos" / "bee" / "cut.png").write_bytes(b"\x89PNG")
    ran = alexc("data", "pack", "photos", "shards", "--size", 16, "--processes", 1)
    assert ran.status == 0, ran.err
    assert ran.out.splitlines() == [
        "shards: 3 photographs in 1 shard, 1 new",
        "without 1 damaged file: see shards/damaged.txt",
    ]
    assert alexc("data", "pack", "photos", "other", "--size", 999_999_999).status == 2
    assert alexc("data", "pack", "photos", "photos/in").status == 2
