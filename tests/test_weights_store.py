"""Weights files: what is written is read by others, and whatever is read is checked or refused."""

from __future__ import annotations

import contextlib
import json
import os
import struct
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from alexc.diagnostics import AlexcError, UsageError
from alexc.graph.graph import Graph
from alexc.ops.conv import Conv
from alexc.ops.dense import Linear
from alexc.ops.norm import BatchNorm
from alexc.ops.structure import Flatten
from alexc.weights.header import MAX_HEADER_BYTES
from alexc.weights.store import Extent, extents, read, write

Tensors = dict[str, NDArray[Any]]


def small_graph() -> Graph:
    return Graph.build(
        "small",
        (3, 7, 5),
        [
            ("conv1", Conv(out_channels=4, kernel_size=(3, 2)), ("input",)),
            ("bn1", BatchNorm(), ("conv1",)),
            ("flat", Flatten(), ("bn1",)),
            ("fc2", Linear(out_features=6), ("flat",)),
        ],
        ("fc2",),
    )


def small_weights(graph: Graph) -> Tensors:
    stream = np.random.default_rng(5)
    return {
        name: stream.standard_normal(parameter.shape, dtype=np.float32)
        for name, parameter in graph.parameters.items()
    }


def raw_file(path: Path, header: Any, data: bytes = b"") -> Path:
    """A file with this header (bytes as they are, anything else as JSON) and these bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(shape: list[int], first: int, last: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}


def codes(error: AlexcError) -> list[str]:
    return [diagnostic.code for diagnostic in error.diagnostics]


# ---- writing -------------------------------------------------------------------------------------


def test_the_safetensors_library_reads_what_is_written(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    weights = small_weights(small_graph())
    write(tmp_path / "w.safetensors", weights)
    loaded = load_file(tmp_path / "w.safetensors")
    assert set(loaded) == set(weights)
    for name, array in weights.items():
        np.testing.assert_array_equal(loaded[name], array, strict=True)


def test_what_the_safetensors_library_writes_is_read(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    graph = small_graph()
    weights = small_weights(graph)
    save_file(weights, tmp_path / "w.safetensors", metadata={"format": "np", "who": "someone"})
    for name, array in read(tmp_path / "w.safetensors", graph).items():
        np.testing.assert_array_equal(array, weights[name], strict=True)


def test_the_same_tensors_give_the_same_bytes_in_the_order_given(tmp_path: Path) -> None:
    weights = small_weights(small_graph())
    write(tmp_path / "a", weights)
    write(tmp_path / "b", {name: array.copy() for name, array in weights.items()})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert list(extents(tmp_path / "a")) == list(weights)
    backwards = dict(reversed(weights.items()))
    assert (
        list(write(tmp_path / "c", backwards)) == list(extents(tmp_path / "c")) == list(backwards)
    )


def test_extents_point_at_the_bytes_of_each_tensor(tmp_path: Path) -> None:
    weights = small_weights(small_graph())
    returned = write(tmp_path / "w", weights)
    assert returned == extents(tmp_path / "w")
    data = (tmp_path / "w").read_bytes()
    for name, extent in returned.items():
        assert extent.dtype == "F32"
        assert extent.shape == weights[name].shape
        assert data[extent.offset : extent.offset + extent.length] == weights[name].tobytes()
    assert min(extent.offset for extent in returned.values()) % 64 == 0


def test_arrays_that_are_views_and_odd_shapes_are_written_as_their_values(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    tensors: Tensors = {
        "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "strided": np.arange(10, dtype=np.float32)[::-3],
        "scalar": np.array(2.5, np.float32),
        "empty": np.empty((3, 0, 2), np.float32),
        "half": np.array([1.5, -2], np.float16),
        "bytes": np.array([[1, 2, 3]], np.uint8),
        "größe": np.ones(2, np.float32),
    }
    written = write(tmp_path / "w", tensors)
    assert written == extents(tmp_path / "w")
    for name, array in load_file(tmp_path / "w").items():
        np.testing.assert_array_equal(array, tensors[name], strict=True)


def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w"
    path.write_bytes(b"precious")

    def no_space(*_: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", no_space)
    with pytest.raises(AlexcError) as caught:
        write(path, small_weights(small_graph()))
    assert caught.value.exit_code == 1
    assert codes(caught.value) == ["file/unwritable"]
    assert "No space left on device" in str(caught.value)
    assert path.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_write_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Path) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "w", small_weights(small_graph()))
    assert not list(tmp_path.iterdir())


def test_writing_into_no_folder_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file or directory"):
        write(tmp_path / "nowhere" / "w", small_weights(small_graph()))


def test_a_pipe_or_device_is_never_replaced_by_a_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(UsageError, match="it is not an ordinary file"):
        write(pipe, small_weights(small_graph()))
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


def test_a_file_is_replaced_by_tensors_mapped_from_itself(tmp_path: Path) -> None:
    graph = small_graph()
    weights = small_weights(graph)
    write(tmp_path / "w", dict(reversed(weights.items())))
    write(tmp_path / "w", read(tmp_path / "w", graph))
    for name, array in read(tmp_path / "w", graph).items():
        np.testing.assert_array_equal(array, weights[name], strict=True)


# ---- reading -------------------------------------------------------------------------------------


def test_weights_are_read_in_the_order_of_the_graph(tmp_path: Path) -> None:
    graph = small_graph()
    weights = small_weights(graph)
    write(tmp_path / "w", dict(reversed(weights.items())))
    assert list(read(tmp_path / "w", graph)) == list(graph.parameters)


def test_arrays_may_be_changed_and_the_file_stays(tmp_path: Path) -> None:
    graph = small_graph()
    write(tmp_path / "w", small_weights(graph))
    before = (tmp_path / "w").read_bytes()
    for array in read(tmp_path / "w", graph).values():
        array += 1
    assert (tmp_path / "w").read_bytes() == before


def test_sixteen_bits_are_widened_exactly(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    graph = small_graph()
    rounded = {
        name: torch.from_numpy(array).to(torch.bfloat16 if "conv" in name else torch.float16)
        for name, array in small_weights(graph).items()
    }
    rounded["fc2.bias"][0] = 2.0**-24  # the least number of float16, denormal there
    save_file(rounded, tmp_path / "w")
    for name, array in read(tmp_path / "w", graph).items():
        np.testing.assert_array_equal(array, rounded[name].float().numpy(), strict=True)


def test_an_unaligned_file_is_read_all_the_same(tmp_path: Path) -> None:
    graph = Graph.build(
        "g", (3,), [("fc", Linear(out_features=2, bias=False), ("input",))], ("fc",)
    )
    text = json.dumps({"fc.weight": entry([2, 3], 0, 24)})
    text += " " * (1 + -len(text) % 4)
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    raw_file(tmp_path / "w", text.encode(), values.tobytes())
    array = read(tmp_path / "w", graph)["fc.weight"]
    np.testing.assert_array_equal(array, values, strict=True)
    assert array.flags.aligned


def test_the_count_of_batches_of_a_state_dict_is_passed_over(tmp_path: Path) -> None:
    graph = small_graph()
    weights = small_weights(graph) | {"bn1.num_batches_tracked": np.array(77, np.int64)}
    write(tmp_path / "w", weights)
    assert list(read(tmp_path / "w", graph)) == list(graph.parameters)


def change(**changes: Any) -> Callable[[Tensors], Tensors]:
    """The small net's weights with some replaced, or removed by None; `_` stands for the dot."""

    def changed(weights: Tensors) -> Tensors:
        named = {name.replace("_", ".", 1): value for name, value in changes.items()}
        return {name: value for name, value in (weights | named).items() if value is not None}

    return changed


def with_value(name: str, index: tuple[int, ...], value: float) -> Callable[[Tensors], Tensors]:
    def changed(weights: Tensors) -> Tensors:
        weights[name][index] = value
        return weights

    return changed


@pytest.mark.parametrize(
    ("changed", "code", "words"),
    [
        (change(fc2_bias=None), "weights/missing", "fc2.bias (6) is not in "),
        (
            change(conv1_bias=None, conv1_biass=np.ones(4, np.float32)),
            "weights/missing",
            "did you mean conv1.biass, which the file holds?",
        ),
        (
            change(fc2_bias=None, other_b=np.ones(6, np.float32)),
            "weights/missing",
            "other.b is the one tensor left in the file with this shape; rename it to fc2.bias",
        ),
        (change(fc3_bias=np.ones(9, np.float32)), "weights/extra", "fc3.bias (9) is in "),
        (
            change(fc2_bias=np.ones(7, np.float32)),
            "weights/shape",
            "and 6 in the spec",
        ),
        (
            change(fc2_weight=np.ones((80, 6), np.float32)),
            "weights/shape",
            "the file's is the transpose: (in, out) where PyTorch writes (out, in)",
        ),
        (
            change(conv1_weight=np.ones((4, 18), np.float32)),
            "weights/shape",
            "both have the same number of values",
        ),
        (change(fc2_bias=np.ones(6)), "weights/dtype", "fc2.bias is stored as F64 in "),
        (change(fc2_bias=np.ones(6, np.int8)), "weights/dtype", "float32, float16 and bfloat16"),
        (
            with_value("conv1.weight", (3, 2, 1, 0), np.nan),
            "weights/not-finite",
            "conv1.weight[3, 2, 1, 0] is nan in ",
        ),
        (
            with_value("bn1.running_var", (2,), -np.inf),
            "weights/not-finite",
            "1 of 4 values of bn1.running_var are not finite",
        ),
    ],
)  # fmt: skip
def test_each_misfit_is_told(
    tmp_path: Path, changed: Callable[[Tensors], Tensors], code: str, words: str
) -> None:
    graph = small_graph()
    write(tmp_path / "w", changed(small_weights(graph)))
    with pytest.raises(AlexcError) as caught:
        read(tmp_path / "w", graph)
    assert codes(caught.value)[0] == code
    assert words in str(caught.value)
    assert caught.value.exit_code == 1


def test_infinities_of_both_signs_and_sixteen_bits_are_found(tmp_path: Path) -> None:
    graph = small_graph()
    weights = small_weights(graph)
    weights["fc2.weight"][4, 70], weights["fc2.weight"][5, 1] = np.inf, -np.inf
    weights["conv1.weight"] = weights["conv1.weight"].astype(np.float16)
    weights["conv1.weight"][0, 2, 0, 1] = np.inf
    write(tmp_path / "w", weights)
    with pytest.raises(AlexcError) as caught:
        read(tmp_path / "w", graph)
    assert codes(caught.value) == ["weights/not-finite"] * 2
    assert "conv1.weight[0, 2, 0, 1] is inf" in str(caught.value)
    assert "fc2.weight[4, 70] is inf" in str(caught.value)
    assert "2 of 480 values" in str(caught.value)


def test_values_whose_sum_overflows_are_finite(tmp_path: Path) -> None:
    graph = small_graph()
    weights = small_weights(graph)
    weights["fc2.weight"][:] = np.finfo(np.float32).max
    write(tmp_path / "w", weights)
    assert np.isfinite(read(tmp_path / "w", graph)["fc2.weight"]).all()


def test_all_faults_come_in_one_go(tmp_path: Path) -> None:
    graph = small_graph()
    weights = with_value("bn1.weight", (1,), np.nan)(small_weights(graph))
    changed = change(
        conv1_bias=None,
        conv9_bias=np.ones(31, np.float32),
        fc2_bias=np.ones(7, np.float32),
        bn1_bias=np.ones(4),
    )
    write(tmp_path / "w", changed(weights))
    with pytest.raises(AlexcError) as caught:
        read(tmp_path / "w", graph)
    assert sorted(codes(caught.value)) == [
        "weights/dtype",
        "weights/extra",
        "weights/missing",
        "weights/not-finite",
        "weights/shape",
    ]


def test_a_file_of_very_many_strangers_is_told_shortly(tmp_path: Path) -> None:
    graph = small_graph()
    strangers: Mapping[str, NDArray[Any]] = {
        f"layer{number}.weight": np.ones(1, np.float32) for number in range(5_000)
    }
    write(tmp_path / "w", strangers)
    with pytest.raises(AlexcError) as caught:
        read(tmp_path / "w", graph)
    assert len(caught.value.diagnostics) == len(graph.parameters) + 41
    assert caught.value.diagnostics[-1].message == "and 4,960 more tensors like these"


# ---- files that are not what they say ------------------------------------------------------------


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    for call in (extents, lambda path: read(path, small_graph())):
        with pytest.raises(UsageError) as caught:
            call(tmp_path / "none.safetensors")
        assert codes(caught.value) == ["file/missing"]


def test_what_is_no_ordinary_file_is_a_usage_error(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (tmp_path, pipe, Path("/dev/zero")):
        with pytest.raises(UsageError, match="is not an ordinary file"):
            extents(path)


GOOD = {"a": entry([2], 0, 8), "b": entry([1, 3], 8, 20)}


@pytest.mark.parametrize(
    ("header", "size", "words"),
    [
        (b"", 0, "header is not JSON"),
        (b"{", 0, "header is not JSON"),
        (b"[1, 2]", 0, "header is not a mapping"),
        (b'{"a": \xff}', 0, "header is not JSON"),
        (b'{"a": NaN}', 0, "NaN is no number of JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", 0, "header is not JSON"),
        (b"[" * 200_000, 0, "nested too deeply"),
        (b'{"a":' * 100_000, 0, "nested too deeply"),
        (b'{"a": 1, "a": 1}', 0, "a key is given twice"),
        ({"a": 1}, 0, "tensor a: its entry must hold"),
        ({"a": {"dtype": "F32", "shape": []}}, 0, "tensor a: its entry must hold"),
        ({"a": entry([2], 0, 8) | {"extra": 1}}, 8, "tensor a: its entry must hold"),
        ({"a": entry([2], 0, 8, "Q7")}, 8, "the type Q7 is unknown"),
        ({"a": entry([2], 0, 8) | {"dtype": ["F32"]}}, 8, "is unknown"),
        ({"a": entry([-2], 0, 8)}, 8, "shape must be"),
        ({"a": entry([True, 2], 0, 8)}, 8, "shape must be"),
        ({"a": entry([2.0], 0, 8)}, 8, "shape must be"),  # type: ignore[list-item]
        ({"a": entry([10**30], 0, 8)}, 8, "shape must be"),
        ({"a": entry([1] * 33, 0, 4)}, 4, "shape must be"),
        ({"a": entry([2**62] * 32, 0, 8)}, 8, "takes "),
        ({"a": entry([2], 8, 0)}, 8, "data_offsets must be"),
        ({"a": entry([2], 0, 8) | {"data_offsets": [0, 4, 8]}}, 8, "data_offsets must be"),
        ({"a": entry([2], 0, 8) | {"data_offsets": 8}}, 8, "data_offsets must be"),
        ({"a": entry([3], 0, 8)}, 8, "takes 12 bytes, and its data_offsets hold 8"),
        (GOOD | {"b": entry([1, 3], 4, 16)}, 16, "tensor b overlaps the tensor before it"),
        (GOOD | {"b": entry([2], 0, 8)}, 8, "tensor b overlaps the tensor before it"),
        (GOOD | {"b": entry([1, 3], 12, 24)}, 24, "tensor b leaves a gap"),
        ({"a": entry([2], 4, 12)}, 12, "tensor a leaves a gap"),
        (GOOD, 19, "it is cut off"),
        (GOOD, 21, "bytes follow that belong to no tensor"),
        ({"a": entry([2**61], 0, 2**63 - 1)}, 8, "takes "),
        ({"a": entry([2**60], 0, 2**62)}, 8, "it is cut off"),
        ({"a\nb\x1b[31m": entry([2], 0, 8)}, 8, "its name holds characters that can't be printed"),
        (b'{"\\ud800": ' + json.dumps(entry([2], 0, 8)).encode() + b"}", 8, "can't be printed"),
    ],
)  # fmt: skip
def test_a_header_that_lies_is_refused(tmp_path: Path, header: Any, size: int, words: str) -> None:
    path = raw_file(tmp_path / "w", header, bytes(size))
    for call in (lambda: extents(path), lambda: read(path, small_graph())):
        with pytest.raises(AlexcError) as caught:
            call()
        assert codes(caught.value) == ["weights/unreadable"]
        assert words in caught.value.diagnostics[0].message
        caught.value.diagnostics[0].message.encode()  # can be printed at all
        assert caught.value.diagnostics[0].message.replace(" ", "").isprintable()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "it has 0 bytes"),
        (b"\0" * 7, "it has 7 bytes"),
        (struct.pack("<Q", 2**63) + b"{}", "claims 9,223,372,036,854,775,808 bytes"),
        (struct.pack("<Q", 3) + b"{}", "claims 3 bytes and the file has 2 more"),
        (b"PK\x03\x04" + bytes(100), "a pickle of torch.save"),
        (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19." + bytes(100), "a pickle of torch.save"),
    ],
)
def test_a_file_that_begins_wrongly_is_refused(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "w"
    path.write_bytes(data)
    with pytest.raises(AlexcError) as caught:
        extents(path)
    assert codes(caught.value) == ["weights/unreadable"]
    assert words in str(caught.value)


def test_a_huge_header_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "w"
    with path.open("wb") as file:  # a sparse file: it takes no room on the disk
        file.write(struct.pack("<Q", 4 * MAX_HEADER_BYTES))
        file.truncate(8 * MAX_HEADER_BYTES)
    tracemalloc.start()
    with pytest.raises(AlexcError, match=f"at most {MAX_HEADER_BYTES:,} are read"):
        extents(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


def test_every_cut_of_a_file_is_refused(tmp_path: Path) -> None:
    graph = Graph.build("g", (3,), [("fc", Linear(out_features=2), ("input",))], ("fc",))
    write(tmp_path / "w", small_weights(graph))
    whole = (tmp_path / "w").read_bytes()
    for size in range(len(whole)):
        (tmp_path / "cut").write_bytes(whole[:size])
        with pytest.raises(AlexcError) as caught:
            read(tmp_path / "cut", graph)
        assert codes(caught.value) == ["weights/unreadable"]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_header_never_gives_anything_but_extents_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = raw_file(tmp_path_factory.getbasetemp() / "damaged", GOOD, bytes(20))
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(whole)
    with contextlib.suppress(AlexcError):
        for extent in extents(path).values():
            assert isinstance(extent, Extent)
            assert 0 <= extent.offset <= extent.offset + extent.length <= len(whole)
