"""The format of stripped plans: what is put where, and what becomes of files that are no such."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from alexc.bundle import staged
from alexc.weights import store
from alexc_runtime import EngineError, stripped
from alexc_runtime.manifest import WEIGHTS as WEIGHTS_FILE
from alexc_runtime.stripped import BatchNorm, Place
from tests import small_bundle
from tests.gpu_machine import gpu_machine

Array = NDArray[np.float32]

PLACES = [
    Place("c", 41, "bfloat16", (2, 3), (0, 1)),
    Place("a", 3, "float32", (2, 1, 2, 2), (0, 2, 3, 1)),
    Place("b", 35, "float16", (3,), (0,)),
]
WEIGHTS: dict[str, Array] = {
    "a": np.arange(4, dtype=np.float32).reshape(2, 2, 1, 1).repeat(1, axis=2) + 1,
    "b": np.array([1.0, 70000.0, -1e-7], np.float32),
    "c": np.array([[1.0, 1.00390625, 1.01171875], [-2.5, 0.0, 3e38]], np.float32),
}


def test_weights_are_put_where_they_belong() -> None:
    plan = bytes(range(60))
    places = [Place("a", 3, "float32", (2, 1, 1, 4), (0, 2, 3, 1)), *PLACES[::2]]
    cut = stripped.strip(plan, places)
    assert stripped.is_stripped(cut)
    assert not stripped.is_stripped(plan)
    made = stripped.whole(cut, WEIGHTS)
    assert len(made) == 60
    assert made[:3] + made[53:] == plan[:3] + plan[53:]
    a = np.frombuffer(made, "<f4", 8, 3).reshape(2, 4)
    np.testing.assert_array_equal(a, [[1, 2, 0, 0], [3, 4, 0, 0]])  # padded with zeros
    np.testing.assert_array_equal(
        np.frombuffer(made, "<f2", 3, 35), np.array([1, np.inf, -1e-7], np.float16)
    )
    bits = np.frombuffer(made, "<u2", 6, 41).astype(np.uint32) << 16
    np.testing.assert_array_equal(bits.view(np.float32)[:4], [1.0, 1.0, 1.015625, -2.5])


def test_places_may_not_overlap() -> None:
    with pytest.raises(ValueError, match="b lies at 4, before 8"):
        stripped.strip(
            bytes(20), [Place("a", 0, "float32", (2,), (0,)), Place("b", 4, "float32", (2,), (0,))]
        )


@pytest.mark.parametrize(
    "change",
    [
        lambda cut: cut[:25],
        lambda cut: cut[:-1],
        lambda cut: cut + b"!",
        lambda cut: cut.replace(b"float16", b"float17"),
        lambda cut: cut.replace(b'"offset": 41', b'"offset": 36'),
        lambda cut: cut.replace(b'"offset": 41', b'"offset": -1'),
        lambda cut: cut.replace(b'"shape": [3]', b'"shape": [0]'),
        lambda cut: cut.replace(b'"bytes": 60', b'"bytes": 61'),
        lambda cut: cut.replace(b'"bytes"', b'"bites"'),
        lambda cut: cut[:40] + b"\xff" + cut[41:],
        lambda cut: cut.replace(b'"eps": 0.5', b'"eps": "a"'),
        lambda cut: cut.replace(b'"batch_norms"', b'"batch_morns"'),
    ],
    ids=[
        "short", "cut", "longer", "type", "overlap", "before", "shape", "size", "key", "text",
        "number", "norms",
    ],
)  # fmt: skip
def test_a_damaged_stripped_plan_is_said_to_be_so(change: Any) -> None:
    places = [Place("b", 35, "float16", (3,), (0,)), Place("c", 41, "bfloat16", (2, 3), (0, 1))]
    cut = stripped.strip(bytes(60), places, [BatchNorm("n", "m", "v", None, None, None, 0.5)])
    assert change(cut) != cut
    with pytest.raises(EngineError, match="the stripped plan is damaged"):
        stripped.whole(change(cut), WEIGHTS)


def test_weights_of_another_net_are_refused() -> None:
    cut = stripped.strip(bytes(60), [Place("b", 35, "float16", (4,), (0,))])
    with pytest.raises(EngineError, match=r"takes b of shape \[4\], not \[3\]"):
        stripped.whole(cut, WEIGHTS)
    wider = stripped.strip(bytes(100), [Place("c", 4, "float32", (2, 11), (0, 1))])
    with pytest.raises(EngineError, match=r"takes c of shape \[2, 11\], not \[2, 3\]"):
        stripped.whole(wider, WEIGHTS)
    other = stripped.strip(bytes(60), [Place("b", 4, "float32", (3, 1), (0, 1))])
    with pytest.raises(EngineError, match=r"takes b of shape \[3, 1\], not \[3\]"):
        stripped.whole(other, WEIGHTS)
    with pytest.raises(EngineError, match="takes weights b, and there are none"):
        stripped.whole(cut, {})


def test_the_header_says_what_is_where() -> None:
    norm = BatchNorm("bn", "bn.running_mean", "bn.running_var", None, "bn.bias", None, 1e-3)
    cut = stripped.strip(bytes(60), [Place("b", 35, "float16", (3,), (0,))], [norm])
    assert cut[:21] == b"alexc-stripped-plan 2"
    header = json.loads(cut[29 : 29 + int.from_bytes(cut[21:29], "little")])
    assert header == {
        "bytes": 60,
        "weights": [{"name": "b", "offset": 35, "type": "float16", "shape": [3], "axes": [0]}],
        "batch_norms": [
            {
                "name": "bn",
                "running_mean": "bn.running_mean",
                "running_var": "bn.running_var",
                "weight": None,
                "bias": "bn.bias",
                "before": None,
                "eps": 1e-3,
            }
        ],
    }
    assert stripped.parse(cut).batch_norms == (norm,)


def test_what_a_batch_norm_comes_to_is_put_in() -> None:
    norm = BatchNorm("bn", "mean", "var", "gamma", "beta", None, 0.25)
    plain = BatchNorm("plain", "mean", "var", None, None, None, 0.25)
    behind = BatchNorm("behind", "mean", "var", "gamma", "beta", "added", 0.25)
    weights = {
        "mean": np.array([1, -2], np.float32),
        "var": np.array([2, 3.75], np.float32),
        "gamma": np.array([3, 4], np.float32),
        "beta": np.array([0.5, 0], np.float32),
        "added": np.array([-1, 0.25], np.float32),
    }
    names = ("bn.scale", "bn.shift", "plain.scale", "plain.shift", "behind.shift")
    places = [Place(name, 8 * at, "float32", (2,), (0,)) for at, name in enumerate(names)]
    cut = stripped.strip(bytes(44), places, [norm, plain, behind])
    # √2.25 is 1.5, and √4 is 2.
    expected = np.array([2, 2, -1.5, 4, 2 / 3, 0.5, -2 / 3, 1, -3.5, 4.5, 0], np.float32)
    assert bytes(stripped.whole(cut, weights)) == expected.tobytes()
    with pytest.raises(EngineError, match="takes weights gamma, and there are none"):
        stripped.whole(cut, {name: array for name, array in weights.items() if name != "gamma"})
    with pytest.raises(EngineError, match="the weights of bn are of another net"):
        stripped.whole(cut, weights | {"var": np.ones(3, np.float32)})
    with pytest.raises(EngineError, match="the weights of bn are of another net"):
        stripped.whole(cut, {name: array.reshape(1, 2) for name, array in weights.items()})


def test_a_plan_of_the_first_format_is_read_and_one_of_a_later_refused() -> None:
    header = (
        b'{"bytes": 12, "weights": [{"name": "b", "offset": 4, "type": "float16",'
        b' "shape": [3], "axes": [0]}]}'
    )
    rest = len(header).to_bytes(8, "little") + header + b"planok"
    made = stripped.whole(b"alexc-stripped-plan 1" + rest, {"b": np.ones(3, np.float32)})
    assert made == b"plan" + np.ones(3, np.float16).tobytes() + b"ok"
    with pytest.raises(EngineError, match=r"version '3' of its format; this .* reads 1 and 2"):
        stripped.whole(b"alexc-stripped-plan 3" + rest, {})


# ---- in a session --------------------------------------------------------------------------------


def test_a_session_puts_the_bundles_weights_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = small_bundle.weights()["conv.bias"]
    with gpu_machine(monkeypatch, tmp_path / "cache") as machine:
        plan = machine.does.plan
        whole = plan[:4] + own.tobytes() + plan[4:]
        machine.does.plan = whole
        with staged(tmp_path / "small") as stage:
            small_bundle.fill(stage.folder)
            cut = stripped.strip(whole, [Place("conv.bias", 4, "float32", (5,), (0,))])
            (stage.folder / small_bundle.PLAN).write_bytes(cut)
            stage.commit(small_bundle.MANIFEST)
        with machine.open(tmp_path / "small") as opened:
            assert list(opened.run(small_bundle.images(3))) == ["scores", "conv"]
        shutil.rmtree(tmp_path / "small")
        with staged(tmp_path / "small") as stage:
            small_bundle.fill(stage.folder)
            cut = stripped.strip(whole, [Place("conv.bias", 4, "float32", (2, 2), (0, 1))])
            (stage.folder / small_bundle.PLAN).write_bytes(cut)
            stage.commit(small_bundle.MANIFEST)
        with pytest.raises(EngineError, match=r"can't load .*: the plan takes conv.bias of shape"):
            machine.open(tmp_path / "small")


def test_other_weights_take_the_kernels_that_were_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = small_bundle.weights()
    with gpu_machine(monkeypatch, tmp_path / "cache") as machine:
        for change in (1, 2):
            trained = own | {"conv.bias": own["conv.bias"] * np.float32(change)}
            machine.does.plan = b"plan" + trained["conv.bias"].tobytes() + b"end"
            place = Place("conv.bias", 4, "float32", (5,), (0,))
            with staged(tmp_path / str(change)) as stage:
                small_bundle.fill(stage.folder)
                store.write(stage.folder / WEIGHTS_FILE, trained)
                (stage.folder / small_bundle.PLAN).write_bytes(
                    stripped.strip(machine.does.plan, [place])
                )
                stage.commit(small_bundle.MANIFEST)
            with machine.open(tmp_path / str(change)) as opened:
                opened.run(small_bundle.images(3))
        assert len(list((tmp_path / "cache" / "kernels").iterdir())) == 1
