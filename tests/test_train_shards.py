"""Shards: what `alexc data pack` makes, what is read of others', and the package webdataset."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexc.diagnostics import AlexcError, UsageError
from alexc.train.data.dataset import ImageForm
from alexc.train.data.pack import PackOptions, pack
from tests.train_photos import colours_are_those_of_the_labels, make_photos, opened


def _packed(tmp_path: Path, **options: Any) -> Path:
    folder, out = tmp_path / "set", tmp_path / "shards"
    if not folder.exists():
        make_photos(folder)
    done = []
    pack(
        folder, out, PackOptions(size=26, images_per_shard=8, **options), lambda *x: done.append(x)
    )
    assert done[-1] == (5, 5)
    return out


def test_packed_shards_hold_the_same_set(tmp_path: Path) -> None:
    out = _packed(tmp_path)
    names = sorted(path.name for path in out.glob("*.tar"))
    assert names == ["test-00000.tar", *(f"train-0000{n}.tar" for n in range(4))]
    train, test = opened(f"wds:{out}", "train"), opened(f"wds:{out}", "test")
    assert (len(train), len(test)) == (30, 3)
    assert train.classes == ("ant", "bee", "cat")
    colours_are_those_of_the_labels(train)
    for pattern in ("train-*.tar", "train-{00000..00003}.tar"):
        same = opened(f"wds:{out}/{pattern}", "train")
        np.testing.assert_array_equal(same.labels, train.labels)
        assert len(opened(f"wds:{out}/{pattern}", "test")) == 3


def test_packing_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    out = _packed(tmp_path)
    before = {path.name: path.read_bytes() for path in out.glob("*.tar")}
    (out / "train-00001.tar").unlink()
    (out / "train-00002.tar").unlink()
    folder = tmp_path / "set"
    options = PackOptions(size=26, images_per_shard=8)
    packed = pack(folder, out, options, lambda *_: None)
    assert (packed.images, packed.shards, packed.made) == (33, 5, 2)
    assert {path.name: path.read_bytes() for path in out.glob("*.tar")} == before
    with pytest.raises(AlexcError, match="with other options"):
        pack(folder, out, PackOptions(size=30, images_per_shard=8), lambda *_: None)


def test_shards_that_cannot_be_written(tmp_path: Path) -> None:
    out = _packed(tmp_path)
    (out / "train-00001.tar").unlink()
    (out / ".train-00001.tar.partial").mkdir()  # as good as a full disk: the file can't be made
    with pytest.raises(UsageError, match="file/unwritable"):
        pack(tmp_path / "set", out, PackOptions(size=26, images_per_shard=8), lambda *_: None)


def test_damaged_files_are_left_out_of_shards_and_listed(tmp_path: Path) -> None:
    folder = make_photos(tmp_path / "set")
    (folder / "ant" / "00.png").write_bytes(b"")
    out = _packed(tmp_path)
    assert "00.png is empty" in (out / "damaged.txt").read_text()
    assert len(opened(f"wds:{out}", "train")) == 29


def test_damaged_shards(tmp_path: Path) -> None:
    out = _packed(tmp_path)
    shard = out / "train-00000.tar"
    shard.write_bytes(shard.read_bytes()[:1800])
    with pytest.raises(AlexcError, match="data/damaged"):
        opened(f"wds:{out}", "train")
    with pytest.raises(UsageError, match="there are no shards"):
        opened(f"wds:{tmp_path}/none-*.tar", "train")
    with pytest.raises(UsageError, match="names 1,000,000,000 shards"):
        opened(f"wds:{tmp_path}/{{000..999999999}}.tar", "train")
    _shard(tmp_path / "odd.tar", {"1.cls": b"cat", "1.png": RED})
    with pytest.raises(AlexcError, match="holds b'cat' and should hold a number"):
        opened(f"wds:{tmp_path}/odd.tar", "train")


# ---- what others write ---------------------------------------------------------------------------


def _picture(colour: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 24), colour).save(buffer, "PNG")
    return buffer.getvalue()


def _shard(path: Path, files: dict[str, bytes]) -> str:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return f"wds:{path}"


RED, BLUE = _picture((200, 10, 10)), _picture((10, 10, 200))


@pytest.mark.parametrize(
    "files",
    [
        {"1.png": RED, "1.cls": b"0", "2.cls": b"2", "2.png": BLUE},
        {"a/1.png": RED, "a/1.cls": b"0\n", "b/1.png": BLUE, "b/1.cls": b"2"},
        {"1.json": b'{"label": 0}', "1.png": RED, "2.json": b"2", "2.txt": b"blue", "2.png": BLUE},
        {
            "1.json": b"{}",
            "1.cls": b"0",
            "1.png": RED,
            "2.json": b"7",
            "2.png": BLUE,
            "2.cls": b"2",
        },
        {
            "1.input.png": RED,
            "1.mask.png": BLUE,
            "1.output.cls": b"0",
            "2.PNG": BLUE,
            "2.cls": b"2",
        },
        {"1.png": RED, "1.cls": b"0", "alone.cls": b"3", "2.png": BLUE, "2.cls": b"2"},
    ],
    ids=["either order", "folders", "json", "cls before json", "several points", "no image"],
)
def test_samples_of_all_kinds(tmp_path: Path, files: dict[str, bytes]) -> None:
    data = opened(_shard(tmp_path / "some.tar", files), "train")
    assert data.labels.tolist() == [0, 2]
    colours_are_those_of_the_labels(data)


def test_an_image_without_a_label_is_named(tmp_path: Path) -> None:
    uri = _shard(tmp_path / "some.tar", {"1.png": RED, "2.png": BLUE, "2.cls": b"2"})
    with pytest.raises(AlexcError, match="the image 1 has no label beside it"):
        opened(uri, "train")


def test_a_compressed_shard_is_named_so(tmp_path: Path) -> None:
    _shard(tmp_path / "some.tar", {"1.png": RED, "1.cls": b"0"})
    packed = tmp_path / "some.tar.gz"
    packed.write_bytes(gzip.compress((tmp_path / "some.tar").read_bytes()))
    with pytest.raises(AlexcError, match="is compressed, and images are read by their place"):
        opened(f"wds:{packed}", "train")


# ---- with the package webdataset itself ----------------------------------------------------------


def _webdataset() -> Any:
    return pytest.importorskip("webdataset", reason="the package webdataset is not installed")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # its own, which are no concern of alexc
def test_webdataset_reads_what_is_packed_here(tmp_path: Path) -> None:
    package = _webdataset()
    out = _packed(tmp_path)
    names = sorted(str(path) for path in out.glob("train-*.tar"))
    ours = opened(f"wds:{out}", "train", ImageForm(3, (26, 26), 4))
    images, labels = ours.read(np.arange(len(ours)))
    source = package.WebDataset(names, shardshuffle=False, empty_check=False)
    theirs = list(source.decode("rgb8").to_tuple("jpg", "cls"))
    np.testing.assert_array_equal(np.stack([image for image, _ in theirs]), images)
    assert [label for _, label in theirs] == labels.tolist()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_what_webdataset_writes_is_read_here(tmp_path: Path) -> None:
    package = _webdataset()
    with package.ShardWriter(str(tmp_path / "train-%05d.tar"), maxcount=7, verbose=0) as writer:
        for number in range(20):
            label = {"json": {"label": number % 3}} if number % 2 else {"cls": number % 3}
            picture = _picture([(200, 10, 10), (10, 200, 10), (10, 10, 200)][number % 3])
            writer.write({"__key__": f"part/{number:06}", "png": picture, "txt": "x", **label})
    for split, count in (("train", 18), ("test", 2)):
        data = opened(f"wds:{tmp_path}/train-{{00000..00002}}.tar", split)  # type: ignore[arg-type]
        assert len(data) == count
        colours_are_those_of_the_labels(data)
