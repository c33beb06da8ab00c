"""Imports files that are wrong in every way: each must end soon, in a spec or in an error.

    python -m tests.campaigns.fuzz_import --cases 50000 --seed 0

Every case takes a good file of one format and changes it: a word, a number or a line of it, or
roughly: bits and bytes, pieces cut out, doubled or moved, pieces of other files put in, everything
replaced by chance. Every 500th case is one of the monsters: nesting without end, lengths that lie,
megabytes of nothing, nets of 5,000 layers. A case fails if something else than an AlexcError
escapes, if it takes longer than two seconds of processor time, or if the process ever holds more
than 500 MB. Prints what makes a failure again; exit status 1 if there is any.
"""

from __future__ import annotations

import argparse
import re
import resource
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alexc.diagnostics import AlexcError
from alexc.importers.caffe.data import read_mean
from alexc.importers.foreign import Request
from alexc.importers.formats import read_foreign
from alexc.importers.writer import write
from alexc.lower.to_onnx import serialize, to_onnx
from alexc.passes.inference import inference
from alexc.weights import store
from tests.import_samples.writing import blob, caffemodel, field, floats, old_caffemodel
from tests.random_graphs import random_graph, random_weights

SAMPLES = Path(__file__).resolve().parents[1] / "import_samples"
MOST_SECONDS = 2.0
MOST_BYTES = 500 * 2**20
ONE_MONSTER_IN = 500

Rng = np.random.Generator


@dataclass(frozen=True)
class Seed:
    """A good file, and how it is imported once it is changed: `name` is what it will be called."""

    name: str
    data: bytes
    run: Callable[[Path, Path], None]


def seeds(chance: Rng, folder: Path, *, pickles: bool) -> list[Seed]:
    """One good file of each kind, and some of the nets that each format can hold.

    Those that PyTorch writes only if asked for, since importing PyTorch takes seconds.
    """
    found = [
        Seed(path.name, path.read_bytes(), _imported)
        for path in sorted((SAMPLES / "caffe").glob("*.prototxt"))
    ]
    weights = {
        "conv1": ("Convolution", _drawn(chance, (8, 3, 3, 3), (8,))),
        "conv2": ("Convolution", _drawn(chance, (6, 4, 3, 1), (6,))),
        "fc3": ("InnerProduct", _drawn(chance, (5, 54), (5,))),
    }
    found.append(Seed("w.caffemodel", caffemodel(weights), _weights_of("small.prototxt")))
    old = {
        "conv1/3x3": (4, _drawn(chance, (3, 2, 3, 3), (3,))),
        "fc": (14, _drawn(chance, (4, 18), (4,))),
    }
    found.append(Seed("old.caffemodel", old_caffemodel(old), _weights_of("old.prototxt")))
    found.append(Seed("net.caffemodel", _whole_caffemodel(chance), _imported))
    found += [
        Seed(path.name, path.read_bytes(), _imported_with_size)
        for path in sorted((SAMPLES / "cuda-convnet").glob("*.cfg"))
    ]
    for number in range(6):
        found.append(Seed(f"model{number}.onnx", _onnx(chance, folder), _imported))
    found.append(Seed("mean.binaryproto", blob(np.ones((3, 4, 5), np.float32)), _mean))
    np.save(folder / "mean.npy", np.ones((3, 4, 5), np.float32))
    found.append(Seed("mean.npy", (folder / "mean.npy").read_bytes(), _mean))
    store.write(
        folder / "w.safetensors", dict(zip("ab", _drawn(chance, (3, 2), (3,)), strict=True))
    )
    found.append(Seed("w.safetensors", (folder / "w.safetensors").read_bytes(), _imported))
    return found + (_pickles(folder) if pickles else [])


def _drawn(
    chance: Rng, *shapes: tuple[int, ...]
) -> list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    return [chance.normal(size=shape).astype(np.float32) for shape in shapes]


def _whole_caffemodel(chance: Rng) -> bytes:
    weight, bias = _drawn(chance, (4, 3, 3, 3), (4,))
    layer = field(1, "c") + field(2, "Convolution") + field(3, "data") + field(4, "c")
    convolution = field(106, field(1, 4), field(4, 3))
    blobs = field(7, blob(weight)) + field(7, blob(bias))
    unpacked = b"".join(field(5, float(value)) for value in bias) + field(1, 4)
    data = field(100, field(1, 0.5), field(5, 104.0), field(5, 117.0), field(5, 123.0))
    return (
        field(1, "net") + field(3, "data") + field(8, field(1, b"\x01\x03\x08\x07"))
        + field(100, layer, convolution, blobs)
        + field(100, field(1, "d"), field(2, "Data"), field(4, "data"), data)
        + field(100, field(1, "b"), field(2, "Bias"), field(7, unpacked), field(7, floats(5, bias)))
    )  # fmt: skip


def _onnx(chance: Rng, folder: Path) -> bytes:
    graph = inference(random_graph(chance))
    extents = store.write(folder / "weights.safetensors", random_weights(chance, graph))
    model = to_onnx(graph, extents)
    for tensor in model.graph.initializer:
        if tensor.external_data and chance.random() < 0.5:
            raw = np.zeros(list(tensor.dims), np.float32).tobytes()
            del tensor.external_data[:]
            tensor.ClearField("data_location")
            tensor.raw_data = raw
    return serialize(model)


def _pickles(folder: Path) -> list[Seed]:
    import torch

    state = {"stem.weight": torch.ones(4, 2, 3, 3), "stem.bias": torch.ones(4)}
    torch.save(state, folder / "w.pth")
    torch.save(state, folder / "old.pth", _use_new_zipfile_serialization=False)
    return [Seed(name, (folder / name).read_bytes(), _imported) for name in ("w.pth", "old.pth")]


# ---- how each is imported ------------------------------------------------------------------------


def _imported(path: Path, out: Path) -> None:
    write(read_foreign(path, Request()), out, replace=True)


def _imported_with_size(path: Path, out: Path) -> None:
    write(read_foreign(path, Request(input_shape=(3, 17, 14))), out, replace=True)


def _weights_of(prototxt: str) -> Callable[[Path, Path], None]:
    def run(path: Path, out: Path) -> None:
        net = read_foreign(SAMPLES / "caffe" / prototxt, Request(weights=path))
        write(net, out, replace=True)

    return run


def _mean(path: Path, _: Path) -> None:
    read_mean(path)


# ---- monsters ------------------------------------------------------------------------------------

_HEAD = b'input: "data" input_shape { dim: 1 dim: 3 dim: 32 dim: 32 }\n'


def _chain(layers: int, kind: str, rest: str = "") -> bytes:
    """A net of so many layers, each reading the one before."""
    tops = ["data", *(f"t{i}" for i in range(layers))]
    lines = (
        f'layer {{ name: "l{i}" type: "{kind}" bottom: "{tops[i]}" top: "{tops[i + 1]}" {rest} }}'
        for i in range(layers)
    )
    return _HEAD + "\n".join(lines).encode()


def _nodes(*nodes: bytes) -> bytes:
    """An ONNX model of these nodes, from x to y."""
    size = field(2, *(field(1, field(1, n)) for n in (1, 3, 8, 8)))
    x = field(11, field(1, "x"), field(2, field(1, field(1, 1), size)))
    return field(8, field(2, 17)) + field(7, *nodes, x, field(12, field(1, "y")))


def _node_chain(layers: int, op: str) -> bytes:
    names = ["x", *(f"t{i}" for i in range(layers - 1)), "y"]
    return _nodes(
        *(
            field(1, field(1, names[i]), field(1, names[i]), field(2, names[i + 1]), field(4, op))
            for i in range(layers)
        )
    )


MONSTERS: dict[str, Callable[[], bytes]] = {
    "nested.prototxt": lambda: b"layer {" * 500_000,
    "word.prototxt": lambda: b"a" * 3_999_999,
    "text.prototxt": lambda: b'name: "' + b"x" * 3_999_000 + b'"',
    "escaped.prototxt": lambda: b'name: "' + b"\\x" * 1_900_000 + b'"',
    "comments.prototxt": lambda: b"#\n" * 1_999_999,
    "layers.prototxt": lambda: b"layer{}" * 570_000,
    "list.prototxt": lambda: b"input_dim: [" + b"1," * 1_900_000 + b"]",
    "bottoms.prototxt": lambda: _chain(1, "ReLU", 'bottom: "q" ' * 190_000),
    "concat.prototxt": lambda: _chain(1, "Concat", 'bottom: "data" ' * 190_000),
    "relu.prototxt": lambda: _chain(5_000, "ReLU"),
    "unknown.prototxt": lambda: _chain(5_000, "Thing"),
    "name.prototxt": lambda: _chain(1, "n" * 1_000_000),
    "binary.prototxt": lambda: bytes(3_999_999),
    "claims.caffemodel": lambda: b"\xa2\x06\xff\xff\xff\xff\x7f",
    "zeros.caffemodel": lambda: bytes(20_000_000),
    "names.caffemodel": lambda: b"\x0a\x00" * 10_000_000,
    "layers.caffemodel": lambda: b"\xa2\x06\x00" * 6_000_000,
    "unpacked.caffemodel": lambda: field(100, field(7, b"\x2d\0\0\0\0" * 4_000_000)),
    "mixed.caffemodel": lambda: field(100, field(7, b"\x2d\0\0\0\0\x08\x01" * 2_000_000)),
    "varints.caffemodel": lambda: field(4, b"\x01" * 20_000_000),
    "relu.onnx": lambda: _node_chain(30_000, "Relu"),
    "identity.onnx": lambda: _node_chain(30_000, "Identity"),
    "add.onnx": lambda: _node_chain(20_000, "Add"),
    "mul.onnx": lambda: _node_chain(20_000, "Mul"),
    "nodes.onnx": lambda: field(7, b"\x0a\x00" * 10_000_000),
    "sections.cfg": lambda: b"".join(b"[%d]\n" % i for i in range(60_000)),
    "keys.cfg": lambda: b"[a]\n" + b"".join(b"k%d=1\n" % i for i in range(50_000)),
    "zip.pth": lambda: b"PK\x03\x04" + bytes(10_000_000),
    "marks.pth": lambda: b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." + b"(" * 10_000_000,
}


# ---- how they are changed ------------------------------------------------------------------------

_NUMBERS = (b"0", b"-1", b"1", b"99999999999999999999", b"2147483648", b"1e400", b"nan", b"0x7f")
_PLAIN_NUMBERS = (b"0", b"1", b"2", b"3", b"5", b"7", b"64", b"0.5", b"-1", b"4000", b"1e9")
_WORDS = (b"{", b"}", b"[", b"]", b"<", b":", b'"', b"'", b"\\", b"#", b"\0", b"\xff\xfe", b"\n")


def mutated(data: bytes, others: list[bytes], chance: Rng) -> bytes:
    """The file with one or a few changes, from a bit to everything."""
    if chance.random() < 0.6:
        return _with_another_word(data, chance)
    changed = bytearray(data)
    for _ in range(int(chance.integers(1, 6))):
        _change(changed, others, chance)
    return bytes(changed)


def _with_another_word(data: bytes, chance: Rng) -> bytes:
    """The file with one to three words, numbers, lines or bytes changed: mostly well formed."""
    for _ in range(int(chance.integers(1, 4))):
        kind = chance.random()
        words = list(re.finditer(rb"[A-Za-z_]\w+", data))
        numbers = list(re.finditer(rb"[0-9.]+", data))
        lines = data.split(b"\n")
        if kind < 0.3 and numbers:
            found = numbers[int(chance.integers(len(numbers)))]
            new = _PLAIN_NUMBERS[int(chance.integers(len(_PLAIN_NUMBERS)))]
            data = data[: found.start()] + new + data[found.end() :]
        elif kind < 0.6 and words:
            found, other = (words[int(i)] for i in chance.integers(len(words), size=2))
            data = data[: found.start()] + other.group() + data[found.end() :]
        elif kind < 0.8 and len(lines) > 3:
            first = int(chance.integers(len(lines)))
            last = first + int(chance.integers(1, 8))
            lines[first:last] = lines[first:last] * int(chance.choice([0, 2]))
            data = b"\n".join(lines)
        elif data:
            changed = bytearray(data)
            changed[int(chance.integers(len(data)))] = int(chance.integers(256))
            data = bytes(changed)
    return data


def _change(data: bytearray, others: list[bytes], chance: Rng) -> None:
    def position() -> int:
        return int(chance.integers(len(data) + 1))

    def stretch() -> slice:
        first = position()
        return slice(first, first + int(chance.geometric(0.05)))

    kind = int(chance.integers(12))
    if kind == 0 and data:
        where = int(chance.integers(len(data)))
        data[where] ^= 1 << int(chance.integers(8))
    elif kind == 1:
        data[stretch()] = b""
    elif kind == 2:
        piece = bytes(data[stretch()])
        data[position() : position()] = piece * int(chance.integers(1, 40))
    elif kind == 3:
        where = position()
        data[where:where] = chance.bytes(int(chance.geometric(0.1)))
    elif kind == 4:
        del data[position() :]
    elif kind == 5:
        other = others[int(chance.integers(len(others)))]
        first = int(chance.integers(len(other) + 1))
        where = position()
        data[where:where] = other[first : first + int(chance.geometric(0.01))]
    elif kind == 6:
        where = position()
        data[where:where] = _WORDS[int(chance.integers(len(_WORDS)))] * int(chance.integers(1, 80))
    elif kind == 7:  # a number of a text
        digits = [i for i, byte in enumerate(data) if chr(byte).isdecimal()]
        if digits:
            where = int(chance.choice(digits))
            data[where : where + 1] = _NUMBERS[int(chance.integers(len(_NUMBERS)))]
    elif kind == 8:  # a length of a binary message
        where = position()
        data[where : where + 1] = bytes([0xFF] * int(chance.integers(1, 10)) + [0x7F])
    elif kind == 9 and data:
        data[stretch()] = bytes([int(chance.integers(256))]) * int(chance.integers(1, 30))
    elif kind == 10:
        lines = bytes(data).split(b"\n")
        chance.shuffle(lines)
        data[:] = b"\n".join(lines)
    elif kind == 11 and chance.random() < 0.2:
        data[:] = chance.bytes(int(chance.integers(0, 4000)))


# ---- the campaign --------------------------------------------------------------------------------


@dataclass
class Outcome:
    """What came of a run of cases."""

    cases: int = 0
    imported: int = 0
    refused: Counter[str] | None = None
    failures: list[str] | None = None
    slowest: float = 0.0

    @property
    def largest(self) -> int:
        """Bytes that the process held at most.

        Where Linux says it: getrusage counts what the process held before it became this program.
        """
        status = Path("/proc/self/status")
        if status.exists():
            peak = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE)
            if peak is not None:
                return int(peak[1]) * 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run(cases: int, seed: int, *, pickles: bool = True) -> Outcome:
    """So many cases, all from one number."""
    outcome = Outcome(refused=Counter(), failures=[])
    assert outcome.refused is not None
    assert outcome.failures is not None
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        every = seeds(np.random.default_rng(seed), folder, pickles=pickles)
        others = [one.data for one in every]
        for case in range(cases):
            chance = np.random.default_rng([seed, case])
            chosen = every[case % len(every)]
            if case % ONE_MONSTER_IN == ONE_MONSTER_IN - 1:
                name, made = list(MONSTERS.items())[case // ONE_MONSTER_IN % len(MONSTERS)]
                chosen = Seed(name, b"", _imported)
                data = made()
            else:
                data = mutated(chosen.data, others, chance)
            path = folder / chosen.name
            path.write_bytes(data)
            del data
            started = time.process_time()
            try:
                chosen.run(path, folder / "out" / "net.yaml")
                outcome.imported += 1
            except AlexcError as error:
                outcome.refused[error.diagnostics[0].code] += 1
                str(error)  # its text must be made too
            except Exception:  # noqa: BLE001  (whatever escapes is what is looked for)
                outcome.failures.append(
                    f"case {case} of seed {seed} ({chosen.name}):\n{traceback.format_exc()}"
                )
            seconds = time.process_time() - started
            outcome.cases += 1
            outcome.slowest = max(outcome.slowest, seconds)
            if seconds > MOST_SECONDS:
                message = f"case {case} of seed {seed} ({chosen.name}) took {seconds:.1f} s"
                outcome.failures.append(message)
    if outcome.largest > MOST_BYTES:
        outcome.failures.append(f"the process came to hold {outcome.largest / 2**20:,.0f} MB")
    return outcome


def main() -> int:
    """Run the campaign and print what came of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    started = time.perf_counter()
    outcome = run(arguments.cases, arguments.seed)
    assert outcome.refused is not None
    assert outcome.failures is not None
    for failure in outcome.failures[:20]:
        print(failure)
    print(
        f"{outcome.cases:,} files in {time.perf_counter() - started:.0f} s: {outcome.imported:,} "
        f"imported, {outcome.refused.total():,} refused, {len(outcome.failures)} failures; the "
        f"slowest took {outcome.slowest:.2f} s, the largest {outcome.largest / 2**20:,.0f} MB"
    )
    for code, count in outcome.refused.most_common():
        print(f"  {count:7,}  {code}")
    return 1 if outcome.failures else 0


if __name__ == "__main__":
    sys.exit(main())
