"""Sets of the Hugging Face hub: what alexc makes of them, with the package's double and with it."""

from __future__ import annotations

import io
import logging
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexc.diagnostics import AlexcError, UsageError
from alexc.train.data import photos
from alexc.train.data.dataset import ImageForm
from alexc.train.data.uri import open_data
from tests.train_nets import SMALL, run, small_net
from tests.train_photos import PHOTO, colours_are_those_of_the_labels, make_photos

# ---- against a double ----------------------------------------------------------------------------


class _Picture:
    """Stands for `datasets.Image`."""

    def __init__(self, *, decode: bool = True) -> None:
        self.decode = decode


class _Classes:
    """Stands for `datasets.ClassLabel`."""

    names = ("ant", "bee")


class _Rows:
    """As much of `datasets.Dataset` as is used: `count` grey images, number 3 damaged."""

    def __init__(self, numbers: list[int], labels: list[Any] | None = None) -> None:
        self.numbers = numbers
        self.labels = [n % 2 for n in numbers] if labels is None else labels
        self.features: dict[str, Any] = {"id": None, "img": _Picture(), "label": _Classes()}

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, key: Any) -> Any:
        if key == "label":
            return self.labels
        assert not self.features["img"].decode
        number = self.numbers[key]
        buffer = io.BytesIO()
        Image.new("L", (30, 20), 10 * number).save(buffer, "PNG")
        picture = buffer.getvalue()
        return {"img": {"bytes": picture[:40] if number == 3 else picture, "path": None}}

    def select(self, kept: list[int]) -> _Rows:
        return _Rows([self.numbers[place] for place in kept])

    def cast_column(self, name: str, kind: _Picture) -> _Rows:
        self.features[name] = kind
        return self


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Any:
    module: Any = ModuleType("datasets")
    module.Image, module.ClassLabel = _Picture, _Classes
    module.disable_progress_bars = lambda: None
    monkeypatch.setitem(sys.modules, "datasets", module)
    return module


def test_the_parts_of_a_set(double: Any) -> None:
    double.load_dataset = lambda _: {"train": _Rows([7] * 9), "validation": _Rows([*range(6)])}
    data = open_data("hf:owner/ants", "test", PHOTO)
    assert (len(data), data.shape, data.classes) == (5, (24, 20, 3), ("ant", "bee"))
    assert data.damaged[0].startswith("hf:owner/ants, row 3 is not a photo")
    assert data.read(np.array([4]))[0].mean() == 50
    assert len(open_data("hf:owner/ants", "train", PHOTO)) == 9


def test_every_tenth_row_is_held_out_where_there_is_nothing_to_test_with(double: Any) -> None:
    double.load_dataset = lambda _: {"train": _Rows([*range(4, 25)])}
    train, test = (open_data("hf:ants", split, PHOTO) for split in ("train", "test"))
    assert (len(train), len(test)) == (19, 2)
    assert test.read(np.array([0, 1]))[0].mean(axis=(1, 2, 3)).tolist() == [130, 230]


def test_classes_get_the_numbers_of_the_spec(double: Any) -> None:
    double.load_dataset = lambda _: {"train": _Rows([4, 5, 6]), "test": _Rows([4])}
    form = ImageForm(3, (24, 20), 4, ("dog", "bee", "ant"))
    assert open_data("hf:ants", "train", form).labels.tolist() == [2, 1, 2]


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"extra": _Rows([1])}, "has no part to train: extra"),
        ({"train": _Rows([1], ["ant"]), "test": _Rows([1])}, "the column label holds 'ant'"),
        ({"train": _Rows([1], [None]), "test": _Rows([1])}, "the column label holds None"),
        ({"train": _Rows([1, 2], [-1, -1]), "test": _Rows([1])}, "does not hold a class for each"),
    ],
)
def test_sets_that_cannot_be_learnt_from(double: Any, parts: Any, words: str) -> None:
    double.load_dataset = lambda _: parts
    with pytest.raises(AlexcError, match=words):
        open_data("hf:ants", "train", PHOTO)


def test_what_the_package_says_is_passed_on(double: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> Any:
        raise ConnectionError("Couldn't reach the Hub\nlong story")

    double.load_dataset = fail
    with pytest.raises(UsageError, match=r"hf:owner/ants: Couldn't reach the Hub\n"):
        open_data("hf:owner/ants", "test", PHOTO)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match="needs the package datasets"):
        open_data("hf:owner/ants", "test", PHOTO)


def test_retries_of_the_hub_are_told_once(double: Any, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("huggingface_hub")

    def fail(_: str) -> Any:
        for number in range(5):
            logging.getLogger("huggingface_hub.utils._http").warning("Retry %d/5", number)
        raise ConnectionError("Couldn't reach the Hub")

    double.load_dataset = fail
    handlers, propagate = logger.handlers, logger.propagate
    with pytest.raises(UsageError):
        open_data("hf:ants", "train", PHOTO)
    assert caplog.messages == [
        "hf:ants: the Hugging Face hub does not answer; trying for half a minute"
    ]
    assert (logger.handlers, logger.propagate) == (handlers, propagate)


# ---- with the package itself ---------------------------------------------------------------------


def _package() -> Any:
    return pytest.importorskip(
        "datasets", reason="the package datasets is not installed: pip install 'alexc[train]'"
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Class folders of plain colours, in the kinds of files that cameras and scanners write."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    _package()
    for split, count in (("train", 9), ("test", 2)):
        make_photos(tmp_path / "set" / split, count)
    return tmp_path / "set"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # its own, which are no concern of alexc
def test_the_forms_that_the_package_keeps_on_disk(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = _package().load_dataset("imagefolder", data_dir=str(folder))
    found.save_to_disk(str(tmp_path / "saved"))
    found["train"].save_to_disk(str(tmp_path / "one"))
    (tmp_path / "parquet").mkdir()
    for split, rows in found.items():
        rows.to_parquet(str(tmp_path / "parquet" / f"{split}-00000-of-00001.parquet"))
    for name, counts in (
        ("set", (27, 6)), ("saved", (27, 6)), ("parquet", (27, 6)), ("one", (25, 2))
    ):  # fmt: skip
        for in_memory in (True, False):
            monkeypatch.setattr(photos, "_SHARE_OF_MEMORY", 0.25 if in_memory else 0.0)
            uri = f"hf:{tmp_path / name}"
            train, test = (open_data(uri, split, PHOTO) for split in ("train", "test"))
            assert (len(train), len(test)) == counts, name
            assert train.in_memory == in_memory
            assert (train.damaged, train.classes) == ((), ("ant", "bee", "cat"))
            colours_are_those_of_the_labels(train)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_run_on_such_a_set(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photos, "_SHARE_OF_MEMORY", 0.0)
    net = small_net(tmp_path, SMALL.replace("epochs: 3", "epochs: 2"))
    for out, processes in (("alone", 0), ("helped", 2)):
        ended = run(net, tmp_path / out, "train.batch=9", data=f"hf:{folder}", processes=processes)
        assert ended.scores is not None
        assert ended.scores.images == 6
