"""Files that are wrong on purpose: each ends soon, in an error that names it.

The campaign in `tests/campaigns/fuzz_import.py`, `make fuzz-import`, does it for 50,000 files.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from alexc.diagnostics import AlexcError
from alexc.importers import prototext, wire
from alexc.importers.caffe.schema import SCHEMAS
from alexc.importers.foreign import Request
from alexc.importers.formats import ENDINGS, read_foreign
from alexc.importers.naming import allowed_name
from alexc.spec.model import check_layer_name
from tests.campaigns.fuzz_import import MONSTERS, MOST_SECONDS
from tests.import_samples.writing import field, varint


def test_changed_files_end_in_a_spec_or_an_error() -> None:
    # In a process of its own, whose memory is not that of the tests before.
    ran = subprocess.run(
        [sys.executable, "-m", "tests.campaigns.fuzz_import", "--cases", "300", "--seed", "2012"],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize(
    "name",
    [
        "nested.prototxt",
        "text.prototxt",
        "layers.prototxt",
        "claims.caffemodel",
        "unpacked.caffemodel",
        "varints.caffemodel",
        "add.onnx",
        "keys.cfg",
        "marks.pth",
    ],
)
def test_monsters_are_refused_soon(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(MONSTERS[name]())
    started = time.process_time()
    with pytest.raises(AlexcError) as caught:
        read_foreign(path, Request())
    assert time.process_time() - started < MOST_SECONDS
    assert len(str(caught.value)) < 20_000


@pytest.mark.parametrize("ending", [*ENDINGS, ".gguf", ""])
@pytest.mark.parametrize("content", [b"", b"\0", b"hello", b"\xff" * 100, "层 {".encode()])
def test_any_bytes_under_any_ending(tmp_path: Path, ending: str, content: bytes) -> None:
    path = tmp_path / f"file{ending}"
    path.write_bytes(content)
    with pytest.raises(AlexcError):
        read_foreign(path, Request())


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_folder_is_no_file(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"folder{ending}"
    path.mkdir()
    with pytest.raises(AlexcError) as caught:
        read_foreign(path, Request())
    assert caught.value.exit_code == 2


# ---- the two readers -----------------------------------------------------------------------------


def wire_fault(data: bytes) -> str:
    with pytest.raises(AlexcError) as caught:
        wire.decode(memoryview(data), "x", SCHEMAS["Net"], SCHEMAS)
    return caught.value.diagnostics[0].message


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\x80", "x: byte 0: a number is cut off"),
        (b"\xff" * 11, "x: byte 0: a number has no end"),
        (b"\x00\x00", "x: byte 0: a field has the number 0"),
        (field(1, "net")[:-1], "x: byte 0: name claims 3 bytes and 2 are left"),
        (varint(1 << 3 | 3), "x: byte 0: field 1 has the type 3, which is none"),
        (field(1, b"\xff"), "x: byte 2: the text of name is not UTF-8"),
        (field(4, "abc") + field(4, b"\x80"), "x: byte 7: a number is cut off"),
        (field(5, "abc"), "x: byte 2: force_backward is one number and comes as bytes"),
        (field(1, 7), "x: byte 0: name is of another type than the format says"),
        (varint(1 << 3 | 5) + b"\0\0\0", "x: byte 0: a number of 4 bytes is cut off"),
        (
            field(100, field(7, field(5, b"abc"))),
            "x: byte 7: data can't be of 3 bytes",
        ),
    ],
)
def test_a_damaged_message_names_the_byte(data: bytes, expected: str) -> None:
    assert wire_fault(data) == expected


def test_numbers_that_are_not_packed_are_read_like_packed_ones() -> None:
    numbers = b"".join(field(5, float(n)) for n in range(1000))
    data = field(1, 1) + numbers + field(2, 3) + field(5, 1000.0)
    message = wire.decode(memoryview(data), "x", SCHEMAS["Blob"], SCHEMAS)
    assert message.numbers("data") == [float(n) for n in range(1001)]
    assert (message.integer("num"), message.integer("channels")) == (1, 3)


def test_a_message_in_parts_is_their_sum() -> None:
    data = field(6, field(1, 0)) + field(6, field(2, 3)) + field(6, field(3, "a"), field(3, "b"))
    state = wire.decode(memoryview(data), "x", SCHEMAS["Net"], SCHEMAS).message("state")
    assert (state.text("phase"), state.integer("level")) == ("TRAIN", 3)
    assert state.texts("stage") == ["a", "b"]


def test_negative_numbers_are_twos_complement() -> None:
    message = wire.decode(memoryview(field(1, -5)), "x", SCHEMAS["BlobShape"], SCHEMAS)
    assert message.integers("dim") == [-5]


TEXT = """
name: 'it' "'s" "\\x41\\101\\n"   # texts side by side are one
state { level: 0x10 stage: ["a", 'b'], stage: "c"; }
input_dim: [1, -2] input_dim: 010
force_backward: true
input_shape < dim: 3 > input_shape: { dim: 4 }
"""


def test_the_text_form_in_all_its_spellings() -> None:
    net = prototext.parse(TEXT, "x", SCHEMAS["Net"], SCHEMAS)
    assert net.text("name") == "it'sAA\n"
    assert net.message("state").integer("level") == 16
    assert net.message("state").texts("stage") == ["a", "b", "c"]
    assert net.integers("input_dim") == [1, -2, 8]
    assert net.flag("force_backward") is True
    assert [shape.integers("dim") for shape in net.messages("input_shape")] == [[3], [4]]


def test_every_wrong_value_of_a_text_is_told_at_once() -> None:
    text = 'name: 3\ninput_dim: 1.5\nforce_backward: perhaps\ninput_shape: 7\nstate { level: "a" }'
    with pytest.raises(AlexcError) as caught:
        prototext.parse(text, "x", SCHEMAS["Net"], SCHEMAS)
    assert [(d.place.line, d.message) for d in caught.value.diagnostics if d.place] == [
        (1, "name is a text in quotes, and is 3"),
        (2, "input_dim is a whole number, and is 1.5"),
        (3, "force_backward is true or false, and is perhaps"),
        (4, "input_shape is a message in braces, and is 7"),
        (5, "level is a whole number, and is a"),
    ]


@pytest.mark.parametrize(
    "name", ["conv1", "a/b", "input", "train", "1", "1e5", "no", "null", "", "///", "层", "a.b",
             "-x", "_", "x" * 300, "a b", "\n", "forward/", "true", "__class__"],
    ids=ascii,
)  # fmt: skip
def test_names_are_made_such_that_the_language_allows_them(name: str) -> None:
    made = allowed_name(name)
    assert made is None or check_layer_name(made) is None
    assert made is not None or not any(c.isalnum() for c in name)
