"""What URIs open, in all the forms that data sets come in, and what is said of damaged ones."""

from __future__ import annotations

import gzip
import json
import pickle  # noqa: TID251  (to write what others write; nothing here loads it)
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from alexc.diagnostics import AlexcError, UsageError
from alexc.train import checkpoint, metrics
from alexc.train.data import photo, photos
from alexc.train.data.colours import components
from alexc.train.data.dataset import ArrayDataset, ImageForm, with_channels
from alexc.train.data.order import epoch_order, share
from alexc.train.data.uri import open_data
from alexc.train.evaluate import Scores, together
from alexc.train.score import labelled
from alexc.train.workers import Workers
from tests.train_nets import SMALL, run, small_net
from tests.train_photos import colours_are_those_of_the_labels, make_photos, opened

GREY = ImageForm(1, (28, 28), 10)
COLOUR = ImageForm(3, (32, 32), 10)
chance = np.random.default_rng(2012)


# ---- IDX -----------------------------------------------------------------------------------------


def _idx(values: NDArray[np.uint8]) -> bytes:
    return (
        struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()
    )


def _mnist(folder: Path, *, packed: bool) -> NDArray[np.uint8]:
    images = chance.integers(0, 256, (7, 28, 28), dtype=np.uint8)
    for stem in ("train", "t10k"):
        for kind, values in (
            ("images-idx3", images),
            ("labels-idx1", np.arange(7, dtype=np.uint8)),
        ):
            data, name = _idx(values), f"{stem}-{kind}-ubyte"
            if packed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(data))
            else:
                (folder / name).write_bytes(data)
    return images


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_idx_files(tmp_path: Path, name: str, packed: bool) -> None:
    images = _mnist(tmp_path, packed=packed)
    data = open_data(f"{name}:{tmp_path}", "test", GREY)
    read, labels = data.read(np.array([5, 2]))
    np.testing.assert_array_equal(read[..., 0], images[[5, 2]])
    assert labels.tolist() == [5, 2]
    assert data.shape == (28, 28, 1)
    assert data.classes is not None
    assert len(data.classes) == 10


def test_grey_images_for_a_net_that_takes_colour(tmp_path: Path) -> None:
    images = _mnist(tmp_path, packed=False)
    data = open_data(f"mnist:{tmp_path}", "train", COLOUR)
    np.testing.assert_array_equal(data.read(np.array([3]))[0][0, ..., 2], images[3])


@pytest.mark.parametrize(
    ("damage", "code", "words"),
    [
        (lambda data: data[:-5], "data/damaged", "it holds 5,483 values and its head says 5,488"),
        (lambda data: gzip.compress(data)[:-9], "data/damaged", "it can't be unpacked"),
        (lambda _: b"<!DOCTYPE html>", "data/format", "it begins 3c 21 44 4f"),
        (lambda _: b"", "data/format", "is no IDX file"),
    ],
)
def test_damaged_idx_files(tmp_path: Path, damage: Any, code: str, words: str) -> None:
    _mnist(tmp_path, packed=False)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(AlexcError) as caught:
        open_data(f"mnist:{tmp_path}", "train", GREY)
    assert caught.value.diagnostics[0].code == code
    assert words in caught.value.diagnostics[0].message


def test_missing_and_misfitting_idx_files(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"holds no train-images-idx3-ubyte, neither plain nor \.gz"
    ):
        open_data(f"mnist:{tmp_path}", "train", GREY)
    _mnist(tmp_path, packed=False)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(_idx(np.zeros(6, np.uint8)))
    with pytest.raises(AlexcError, match="7 train images and 6 labels"):
        open_data(f"mnist:{tmp_path}", "train", GREY)
    with pytest.raises(AlexcError, match=r"has the label 6, and the net 4 outputs \(0 … 3\)"):
        open_data(f"mnist:{tmp_path}", "test", ImageForm(1, (28, 28), 4))


# ---- CIFAR-10 ------------------------------------------------------------------------------------


def _batches() -> dict[str, tuple[NDArray[np.uint8], list[int]]]:
    names = [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]
    return {
        name: (chance.integers(0, 256, (3, 3, 32, 32), dtype=np.uint8), [number, 9, number + 1])
        for number, name in enumerate(names)
    }


def _cifar_binary(folder: Path, batches: dict[str, tuple[NDArray[np.uint8], list[int]]]) -> None:
    for name, (images, labels) in batches.items():
        rows = [
            bytes([label]) + image.tobytes() for image, label in zip(images, labels, strict=True)
        ]
        (folder / f"{name}.bin").write_bytes(b"".join(rows))


def _cifar_python(folder: Path, batches: dict[str, tuple[NDArray[np.uint8], list[int]]]) -> None:
    inner = folder / "cifar-10-batches-py"
    inner.mkdir()
    for name, (images, labels) in batches.items():
        content = {b"data": images.reshape(len(images), -1), b"labels": labels, b"filenames": []}
        (inner / name).write_bytes(pickle.dumps(content, protocol=2))


def _cifar_sheets(folder: Path, batches: dict[str, tuple[NDArray[np.uint8], list[int]]]) -> None:
    for name, (images, _) in batches.items():
        sheet = images.transpose(0, 2, 3, 1).reshape(len(images), 1024, 3)
        Image.fromarray(sheet).save(folder / f"{name}.png")
    train = [
        label for name, (_, labels) in batches.items() if name != "test_batch" for label in labels
    ]
    (folder / "train_lables.json").write_text(json.dumps(train))
    (folder / "test_lables.json").write_text(json.dumps(batches["test_batch"][1]))


@pytest.mark.parametrize("write", [_cifar_binary, _cifar_python, _cifar_sheets])
def test_the_three_forms_of_cifar(tmp_path: Path, write: Any) -> None:
    batches = _batches()
    write(tmp_path, batches)
    train = open_data(f"cifar10:{tmp_path}", "train", COLOUR)
    test = open_data(f"cifar10:{tmp_path}", "test", COLOUR)
    assert (len(train), len(test)) == (15, 3)
    images, labels = train.read(np.array([4]))
    wanted, numbers = batches["data_batch_2"]
    np.testing.assert_array_equal(images[0], wanted[1].transpose(1, 2, 0))
    assert labels.tolist() == [numbers[1]]


def test_a_pickle_of_cifar_runs_nothing(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return Path.touch, (tmp_path / "exploded",)  # type: ignore[return-value]

    _cifar_python(tmp_path, _batches())
    path = tmp_path / "cifar-10-batches-py" / "data_batch_1"
    path.write_bytes(pickle.dumps({b"data": Bomb(), b"labels": [1]}, protocol=2))
    with pytest.raises(AlexcError, match="data/damaged"):
        open_data(f"cifar10:{tmp_path}", "train", COLOUR)
    assert not (tmp_path / "exploded").exists()


def test_damaged_cifar(tmp_path: Path) -> None:
    _cifar_binary(tmp_path, _batches())
    (tmp_path / "data_batch_3.bin").unlink()
    with pytest.raises(UsageError, match=r"lacks data_batch_3\.bin"):
        open_data(f"cifar10:{tmp_path}", "train", COLOUR)
    (tmp_path / "test_batch.bin").write_bytes(bytes(3000))
    with pytest.raises(AlexcError, match="3,000 bytes are no multiple of 3073"):
        open_data(f"cifar10:{tmp_path}", "test", COLOUR)


@pytest.mark.parametrize("name", ["data_batch_2.png", "train_lables.json"])
def test_sheets_that_were_not_loaded_whole(tmp_path: Path, name: str) -> None:
    _cifar_sheets(tmp_path, _batches())
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(
        AlexcError, match=f"{name} is damaged: .*\n = help: it was not loaded whole"
    ):
        open_data(f"cifar10:{tmp_path}", "train", COLOUR)


# ---- photographs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("in_memory", [True, False])
def test_class_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: bool) -> None:
    monkeypatch.setattr(photos, "_SHARE_OF_MEMORY", 0.25 if in_memory else 0.0)
    folder = make_photos(tmp_path / "set")
    train, test = (opened(f"folder:{folder}", split) for split in ("train", "test"))
    assert train.in_memory == in_memory
    assert (len(train), len(test)) == (30, 3)  # every tenth of each class is held out
    assert train.classes == ("ant", "bee", "cat")
    images, labels = train.read(np.arange(30))
    assert images.shape == (30, 24, 20, 3)
    assert np.bincount(labels).tolist() == [10, 10, 10]
    colours_are_those_of_the_labels(train)


def test_labels_follow_the_names_that_the_spec_gives(tmp_path: Path) -> None:
    folder = make_photos(tmp_path / "set")
    form = ImageForm(3, (24, 20), 4, ("dog", "cat", "bee", "ant"))
    assert np.bincount(opened(f"folder:{folder}", "train", form).labels).tolist() == [0, 10, 10, 10]
    assert opened(f"folder:{folder}", "train", form).labels[0] == 3
    strange = ImageForm(3, (24, 20), 4, ("dog", "cat", "bee", "emu"))
    with pytest.raises(AlexcError, match="that the spec's labels don't name: ant"):
        opened(f"folder:{folder}", "train", strange)


def test_damaged_photos_are_counted_listed_and_survived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_photos(tmp_path / "set")
    (folder / "bee" / "00.png").write_bytes(b"no photo")
    whole = (folder / "cat" / "01.jpg").read_bytes()
    (folder / "cat" / "01.jpg").write_bytes(whole[: len(whole) // 2])
    train = opened(f"folder:{folder}", "train")
    assert len(train) == 28
    assert len(train.damaged) == 2
    assert "00.png" in photos.told(train.damaged)
    assert photos.told(train.damaged).startswith("2 damaged images are left out: ")
    monkeypatch.setattr(photos, "_SHARE_OF_MEMORY", 0.0)
    streamed = opened(f"folder:{folder}", "train")
    assert len(streamed) == 30
    (folder / "ant" / "04.png").unlink()  # while the run goes on
    labels = streamed.read(np.arange(30))[1]
    assert (labels == -1).sum() == 3


def test_folders_that_are_no_set(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no folder"):
        opened(f"folder:{tmp_path}/none", "train")
    with pytest.raises(UsageError, match="should hold one for each class"):
        opened(f"folder:{tmp_path}", "train")
    make_photos(tmp_path / "set")
    (tmp_path / "set" / "dog").mkdir()
    with pytest.raises(AlexcError, match="data/empty-class"):
        opened(f"folder:{tmp_path / 'set'}", "train")


def test_more_classes_than_outputs(tmp_path: Path) -> None:
    folder = make_photos(tmp_path / "set")
    with pytest.raises(AlexcError, match="has the label 2, and the net 2 outputs"):
        opened(f"folder:{folder}", "train", ImageForm(3, (24, 20), 2))


def test_photos_of_every_kind_become_what_the_net_takes(tmp_path: Path) -> None:
    folder = tmp_path / "set" / "all"
    folder.mkdir(parents=True)
    ramp = np.linspace(0, 65535, 40 * 30).reshape(40, 30).astype(np.uint16)
    Image.fromarray(ramp).save(folder / "0-sixteen-bits.png")
    Image.fromarray((ramp // 257).astype(np.uint8)).save(folder / "1-grey.png")
    Image.new("RGBA", (30, 40), (255, 0, 0, 0)).save(folder / "2-transparent.png")
    turned = Image.new("RGB", (40, 30), (0, 0, 0))
    turned.paste((255, 255, 255), (0, 0, 20, 30))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: upright, its left side is on top
    turned.save(folder / "3-turned.jpg", exif=exif, quality=95)
    data = opened(f"folder:{tmp_path / 'set'}", "train", ImageForm(3, (40, 30), 1))
    assert data.damaged == ()
    images, _ = data.read(np.arange(4))
    np.testing.assert_allclose(images[0], images[1], atol=1)
    assert images[2].min() == 255  # over white
    assert images[3, :15].mean() > 240
    assert images[3, 25:].mean() < 15
    for number, file in enumerate(sorted(folder.iterdir())):  # in a shard, they are no files
        in_shard = photo.from_bytes(file.read_bytes(), file.name, (40, 30), 3)
        np.testing.assert_array_equal(in_shard, images[number])


def test_images_of_another_size_than_the_spec_are_refused(tmp_path: Path) -> None:
    _mnist(tmp_path, packed=False)
    net = small_net(tmp_path, SMALL.replace("height: 10, width: 12", "height: 40, width: 42"))
    with pytest.raises(AlexcError) as caught:
        run(net, tmp_path / "run", "train.batch=4", data=f"mnist:{tmp_path}")
    assert caught.value.diagnostics[0].code == "data/classes"
    net = small_net(
        tmp_path,
        SMALL.replace("height: 10, width: 12", "height: 40, width: 42").replace(
            "out_features: 5", "out_features: 10"
        ),
    )
    with pytest.raises(AlexcError) as caught:
        run(net, tmp_path / "run", "train.batch=4", data=f"mnist:{tmp_path}")
    assert caught.value.diagnostics[0].code == "data/size"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("processes", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_on_photos_that_are_not_held_goes_on_and_survives_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    folder = make_photos(tmp_path / "set")
    (folder / "bee" / "00.png").write_bytes(b"no photo")
    net = small_net(tmp_path, SMALL.replace("epochs: 3", "epochs: 2"))
    monkeypatch.setattr(photos, "_SHARE_OF_MEMORY", 0.0)

    def start(name: str, stop: int | None) -> bytes:
        out, uri = tmp_path / name, f"folder:{folder}"
        run(net, out, "train.batch=8", data=uri, resume=True, stop_after=stop, processes=processes)
        last = checkpoint.latest(out)
        assert last is not None
        return (last.folder / checkpoint.TRAINING).read_bytes()

    whole = start("whole", None)
    assert [start("parts", stop) == whole for stop in (2, 3, None)] == [False, False, True]
    epochs = [line for line in metrics.read(tmp_path / "whole") if line["kind"] == "epoch"]
    assert 1 <= sum(line["damaged"] for line in epochs) <= 2


def test_a_run_that_learns_from_damaged_photos_only_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_photos(tmp_path / "set" / "val", 4)
    for file in make_photos(tmp_path / "set" / "train", 6).rglob("*.*"):
        file.write_bytes(b"no photo")
    monkeypatch.setattr(photos, "_SHARE_OF_MEMORY", 0.0)
    net, uri = small_net(tmp_path), f"folder:{tmp_path / 'set'}"
    with pytest.raises(AlexcError, match="data/empty") as caught:
        run(net, tmp_path / "run", "train.batch=8", data=uri, processes=0)
    assert "could be read" in caught.value.diagnostics[0].message
    with pytest.raises(AlexcError, match="data/empty"):
        labelled(net, uri, "train").some(6)


def test_workers_whose_test_images_are_all_damaged_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Workers, "total", lambda _, *values: [2 * value for value in values])
    nothing = Scores(0, 0, 0, 0.0, np.zeros((3, 3), np.int64), damaged=4)
    with pytest.raises(AlexcError, match="data/empty"):
        together(nothing, Workers(0, 2, torch.device("cpu")))


# ---- what holds for all --------------------------------------------------------------------------


@pytest.mark.parametrize("uri", ["cifar10:", "nothing", "folder", "ftp:x", "synthetic:-1"])
def test_uris_that_name_nothing(uri: str) -> None:
    with pytest.raises(UsageError, match="data/uri"):
        opened(uri, "train")


def test_grey_from_colour_is_itu_r_601() -> None:
    pixels = np.array([[[[255, 0, 0], [0, 255, 0], [0, 0, 255], [7, 7, 7]]]], np.uint8)
    assert with_channels(pixels, 1).reshape(-1).tolist() == [76, 150, 29, 7]


def test_an_epoch_shows_every_image_once_and_each_another_order() -> None:
    first, second = epoch_order(7, 0, 1000), epoch_order(7, 1, 1000)
    assert sorted(first) == list(range(1000))
    assert first.tolist() != second.tolist()
    assert epoch_order(7, 0, 1000).tolist() == first.tolist()
    assert epoch_order(8, 0, 1000).tolist() != first.tolist()
    parts = [first[:24][share(24, rank, 3)] for rank in range(3)]
    assert np.concatenate(parts).tolist() == first[:24].tolist()


def test_the_colours_of_a_set_are_its_principal_components() -> None:
    values = np.array([0.05, 0.004, 0.001])
    vectors, _ = np.linalg.qr(chance.normal(size=(3, 3)))
    drawn = chance.normal(size=(40, 16, 12, 3)) * np.sqrt(values) @ vectors.T
    pixels = np.clip(np.rint(255 * (0.5 + drawn)), 0, 255).astype(np.uint8)
    found = components(ArrayDataset("drawn", pixels, np.zeros(40, np.int64)))
    flat = pixels.reshape(-1, 3) / 255
    np.testing.assert_allclose(found.mean, flat.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(found.std, flat.std(axis=0), atol=1e-12)
    matrix = np.array(found.eigenvectors)
    rebuilt = matrix.T @ np.diag(found.eigenvalues) @ matrix
    np.testing.assert_allclose(rebuilt, np.cov(flat.T, bias=True), atol=1e-12)
    assert list(found.eigenvalues) == sorted(found.eigenvalues, reverse=True)
