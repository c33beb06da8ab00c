"""Gives `alexc check` files that no one should write, and demands an answer to each.

    python -m tests.campaigns.fuzz_check --inputs 100000

Every input goes the way of the command, in process. None may end in anything but a verdict (exit
status 0, 1 or 2), take a second of processor time, or bring the process to 300 MB. What breaks that
is printed with the number that makes it again:

    python -m tests.campaigns.fuzz_check --only 4711

The inputs: random bytes and YAML tokens; real specs with bytes flipped, words swapped, lines
removed, keys repeated, huge numbers, other alphabets; specs of random layers, most of them wrong;
and every 500th one of the monsters: alias bombs, nesting 10,000 deep, 10 MB, nets of 5,000 layers
good and bad, chains of `extends`, blocks that multiply.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import typer

from alexc.cli.check import check
from alexc.ops import OPS
from alexc.source import MAX_BYTES
from alexc.spec.model import Header
from alexc.spec.write import to_flow
from alexc_runtime.cores import affinity

MOST_SECONDS = 1.0
MOST_MEGABYTES = 300
ONE_MONSTER_IN = 500

_ROOT = Path(__file__).resolve().parents[2]
_TOKENS = [
    *("a", "b: ", "- ", "{", "}", "[", "]", ", ", ": ", "\n", "\n  ", "\n    ", '"', "'", "#"),
    *(" # c", "|", "|\n  x\n", ">\n", "&x ", "*x", "!t ", "!!str ", "? ", "---\n", "...\n", "<<: "),
    *(
        "%YAML 1.2\n",
        "\t",
        "1e-4",
        "null",
        "~",
        "é",
        "注释",
        "\\n",
        "k: v\n",
        "- i\n",
        "\r\n",
        "\r",
    ),
    *("'it''s'", '"\\x41"', '"\\ud800"', "::", "a:b", "\x00", "\x85", "\u2028", "\ufeff", "$p"),
]
_HEAD = "alexc: 1\nname: n\ninput: {channels: 3, height: 32, width: 32}\n"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one input: the exit status, or what went wrong."""

    number: int
    status: int
    seconds: float
    complaint: str | None


# ---- inputs --------------------------------------------------------------------------------------


@cache
def _seeds() -> list[bytes]:
    """Real specs, and bad ones; as many of these as of those."""
    good, bad = (
        [file.read_bytes() for file in sorted(_ROOT.glob(pattern))]
        for pattern in ("specs/**/*.yaml", "tests/bad_specs/*/spec.yaml")
    )
    return good * (len(bad) // len(good)) + bad


def _junk(r: random.Random) -> bytes:
    return r.randbytes(r.choice([0, 1, 7, 100, 2000]))


def _token_soup(r: random.Random) -> bytes:
    soup = "".join(r.choice(_TOKENS) for _ in range(r.randint(1, 30)))
    return (r.choice(["", "k: ", _HEAD + "layers:\n  "]) + soup).encode("utf-8", "surrogatepass")


def _mutant(r: random.Random) -> bytes:
    data = bytearray(r.choice(_seeds()))
    for _ in range(r.choice([1, 1, 1, 2, 5])):
        r.choice(_MUTATIONS)(r, data)
    return bytes(data)


def _flip(r: random.Random, data: bytearray) -> None:
    if data:
        data[r.randrange(len(data))] ^= 1 << r.randrange(8)


def _insert(r: random.Random, data: bytearray) -> None:
    at = r.randint(0, len(data))
    data[at:at] = r.choice(_TOKENS).encode("utf-8", "surrogatepass")


def _cut(r: random.Random, data: bytearray) -> None:
    at = r.randint(0, len(data))
    del data[at : at + r.choice([1, 2, 5, 20, 100_000])]


def _repeat(r: random.Random, data: bytearray) -> None:
    start = r.randint(0, len(data))
    data[start:start] = data[start : start + r.randint(1, 60)] * r.choice([1, 1, 2, 20])


def _shuffle_lines(r: random.Random, data: bytearray) -> None:
    lines = bytes(data).split(b"\n")
    i, j = r.randrange(len(lines)), r.randrange(len(lines))
    match r.randrange(4):
        case 0:
            lines[i], lines[j] = lines[j], lines[i]
        case 1:
            lines.insert(i, lines[j])
        case 2:
            del lines[i]
        case _:
            lines[i] = b" " * r.randint(0, 5) + lines[i]
    data[:] = b"\n".join(lines)


def _replace_word(r: random.Random, data: bytearray) -> None:
    words = bytes(data).split(b" ")
    word = r.choice([*_VALUES, *Header.model_fields, *OPS, "after", "block", "extends", "inputs"])
    words[r.randrange(len(words))] = word.encode()
    data[:] = b" ".join(words)


def _splice(r: random.Random, data: bytearray) -> None:
    other = r.choice(_seeds())
    at = r.randint(0, len(data))
    start = r.randint(0, len(other))
    data[at:at] = other[start : start + r.randint(0, 400)]


_MUTATIONS = (_flip, _insert, _cut, _repeat, _shuffle_lines, _replace_word, _splice)

_VALUES = [
    *("0", "1", "2", "3", "-1", "5.0", "1e-4", "99999999999", "1" + "0" * 400, "1e999", ".inf"),
    *(".nan", "true", "no", "null", '""', '"3"', "x", "relu", "[]", "{}", "[3, 5]", "[1, [2]]"),
    *("{a: 1}", "2147483647", "9223372036854775807", "(3, 3)", "same", "3,5", "'注'", "[null]"),
    *("{top: 1}", "{normal: 0.01}", "element", "input", "[input, input]", "$x", "*a", "'a/b'"),
]


def _random_spec(r: random.Random) -> bytes:
    """A spec of random layers with random fields, most of which fit."""
    odd = r.choice([0.0, 0.02, 0.3])  # how often something is as it should not be
    lines = [
        "alexc: 2" if r.random() < odd else "alexc: 1",
        "name: " + (r.choice(["a b", "'注'", "1"]) if r.random() < odd else "n"),
        f"input: {{channels: {_value(r, ['3', '4'], odd)}, height: 32, width: 32}}",
    ]
    if r.random() < odd:
        lines.append(f"{r.choice(list(Header.model_fields))}: {r.choice(_VALUES)}")
    names = [f"l{i}" for i in range(r.randint(1, 12))]
    lines.append("layers:")
    for name in names:
        kind = r.choice(["conv", "conv", "max_pool", *OPS])
        fields = {
            field: _value(r, [to_flow(e) for e in info.examples or ["2"]], odd)
            for field, info in OPS[kind].model_fields.items()
            if info.is_required() or r.random() < 0.3
        }
        if r.random() < odd:
            field = r.choice(["inputs", "init", "kernal_size", "after", "block", "p", "x"])
            fields[field] = r.choice([*_VALUES, *names])
        if kind in ("add", "concat") or r.random() < 0.1:
            fields["inputs"] = f"[{r.choice(names)}, {r.choice(['input', *names])}]"
        rest = "".join(f", {field}: {value}" for field, value in fields.items())
        lines.append(f"  {name}: {{op: {kind}{rest}}}")
    return "\n".join(lines).encode()


def _value(r: random.Random, good: list[str], odd: float) -> str:
    return r.choice(_VALUES if r.random() < odd else good)


# ---- monsters: some write further files where the process stands ---------------------------------


def _alias_bomb() -> str:
    """Ten times ten times ten …: 10³⁰ values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for level in range(1, 30):
        aliases = ", ".join([f"*a{level - 1}"] * 10)
        lines.append(f"a{level}: &a{level} [{aliases}]")
    return _HEAD + "\n".join(lines)


def _alias_bomb_below_the_limit() -> str:
    """As many values as are allowed, in every layer the same ones."""
    layers = "".join(f"  l{i}: *big\n" for i in range(900))
    big = ", ".join(f"k{i}: 1" for i in range(100))
    return _HEAD + f"x: &big {{op: relu, {big}}}\nlayers:\n{layers}"


def _deep(opening: str, closing: str = "") -> Callable[[], str]:
    return lambda: _HEAD + "deep: " + opening * 10_000 + closing * 10_000


def _huge() -> str:
    return _HEAD + "description: >\n" + "  a word\n" * 1_200_000


def _just_below_the_limit(line: str) -> Callable[[], str]:
    count = (MAX_BYTES - 100 - len(_HEAD)) // (len(line) + 5)
    return lambda: _HEAD + "layers:\n" + "".join(line % i + "\n" for i in range(count))


def _good_net(layers: int) -> str:
    lines = [_HEAD, "layers:"]
    for i in range(0, layers, 5):
        lines += [
            f"  conv{i}: {{op: conv, out_channels: 16, kernel_size: 3, padding: 1, groups: 1}}",
            f"  bn{i}: {{op: batch_norm, eps: 1e-4}}",
            f"  relu{i}: relu",
            f"  drop{i}: {{op: dropout, p: 0.5}}",
            f"  add{i}: {{op: add, inputs: [relu{i}, drop{i}]}}",
        ]
    return "\n".join(lines)


def _long_net() -> str:
    return _good_net(5000)


def _net_with_fault(pattern: str, replacement: str) -> Callable[[], str]:
    return lambda: _good_net(5000).replace(pattern, replacement)


def _circle() -> str:
    lines = [f"  l{i}: {{op: relu, inputs: l{i + 1}}}" for i in range(5000)]
    return _HEAD + "layers:\n" + "\n".join(lines) + "\n  l5000: {op: relu, inputs: l0}"


def _everything_adds_everything() -> str:
    everything = ", ".join(f"l{i}" for i in range(300))
    lines = [f"  l{i}: {{op: add, inputs: [{everything}]}}" for i in range(300)]
    return _HEAD + "layers:\n" + "\n".join(lines)


def _many_mismatches() -> str:
    sources = "".join(
        f"  c{i}: {{op: conv, out_channels: {i + 1}, kernel_size: 1, inputs: input}}\n"
        for i in range(300)
    )
    everything = ", ".join(f"c{i}" for i in range(300))
    adds = "".join(f"  a{i}: {{op: add, inputs: [{everything}]}}\n" for i in range(250))
    return _HEAD + "layers:\n" + sources + adds


def _many_warnings() -> str:
    allow = "".join(f"  - {{lint: lint/idle-drop, layer: l{i}, reason: x}}\n" for i in range(5000))
    layers = "".join(f"  l{i}: {{op: dropout, p: 0}}\n" for i in range(5000))
    return _HEAD + "allow:\n" + allow + "layers:\n" + layers


def _wrong_facts() -> str:
    facts = "".join(f"    x{i}: [1, 2, 3]\n" for i in range(5000))
    return _good_net(1000) + "\nexpect:\n  shapes:\n" + facts


def _blocks(inner: int, uses: int, parameter: str = "1") -> Callable[[], str]:
    def write() -> str:
        layers = "".join(f"      r{i}: {{op: relu, x: $p}}\n" for i in range(inner))
        used = "".join(f"  u{i}: {{block: b, p: {parameter}}}\n" for i in range(uses))
        block = f"blocks:\n  b:\n    parameters: [p]\n    layers:\n{layers}"
        return _HEAD + block + "layers:\n" + used

    return write


def _large_parameter() -> str:
    """A block that repeats what it is given, which repeats what it holds."""
    value = "[" + ", ".join("x" * 300) + "]"
    return _blocks(1000, 100, value)()


def _many_parameters() -> str:
    names = ", ".join(f"p{i}" for i in range(100))
    uses = "".join(f"  u{i}: {{block: b}}\n" for i in range(9000))
    block = f"blocks: {{b: {{parameters: [{names}], layers: {{r: relu}}}}}}\n"
    return _HEAD + block + "layers:\n" + uses


def _unknown_blocks() -> str:
    blocks = "".join(f"  b{i}: {{layers: {{r: relu}}}}\n" for i in range(9000))
    uses = "".join(f"  u{i}: {{block: c{i}}}\n" for i in range(9000))
    return _HEAD + "blocks:\n" + blocks + "layers:\n" + uses


def _chain(files: int, size: int) -> Callable[[], str]:
    def write() -> str:
        for i in range(files):
            layers = "".join(f"  l{j}: {{op: relu}}\n" for j in range(size))
            base = f"extends: c{i + 1}.yaml\n" if i + 1 < files else _HEAD[9:]
            text = f"alexc: 1\n{base}layers:\n{layers}"
            Path(f"c{i}.yaml").write_text(text, encoding="utf-8")
        return "alexc: 1\nname: n\nextends: c0.yaml\n"

    return write


def _moves(patch: str) -> Callable[[], str]:
    def write() -> str:
        base = _HEAD + "layers:\n" + "".join(f"  l{i}: relu\n" for i in range(8000))
        Path("base.yaml").write_text(base, encoding="utf-8")
        lines = "".join("  " + patch.replace("#", str(i)) + "\n" for i in range(8000))
        return f"alexc: 1\nname: n\nextends: base.yaml\nlayers:\n{lines}"

    return write


def _circle_of_files() -> str:
    Path("other.yaml").write_text("extends: spec.yaml\n", encoding="utf-8")
    return "alexc: 1\nname: n\nextends: other.yaml\n"


def _long_names() -> str:
    lines = "".join(
        f"  {'x' * 150}{i}: {{op: {'y' * 150}, inputs: {'z' * 150}}}\n" for i in range(1500)
    )
    return _HEAD + "layers:\n" + lines


def _one_long_text() -> str:
    return _HEAD + "layers: {a: {op: " + "x" * 900_000 + ", inputs: " + "y" * 90_000 + "}}"


MONSTERS: list[Callable[[], str]] = [
    _alias_bomb,
    _alias_bomb_below_the_limit,
    _deep("["),
    _deep("[", "]"),
    _deep("{a: ", "}"),
    _deep("- "),
    _deep("\n "),
    _huge,
    _just_below_the_limit("  l%05d: relu"),
    _just_below_the_limit("  l%05d: {op: conv, out_channels: 1, kernel_size: 1}"),
    _just_below_the_limit("  l%05d: {opp: rellu, kernal: [x], inputs: nowhere}"),
    _just_below_the_limit("k%05d: {a: 1}"),
    _just_below_the_limit("  l%05d: {op: lrn}"),
    _just_below_the_limit("  - %05d"),
    _long_net,
    _net_with_fault("padding: 1", "paddin: 1"),
    _net_with_fault("padding: 1", "padding: 0"),
    _net_with_fault("relu", "rellu"),
    _net_with_fault("inputs: [relu", "inputs: [rellu"),
    _net_with_fault("groups: 1", "groups: 3"),
    _net_with_fault("add", "l"),
    _circle,
    _everything_adds_everything,
    _many_mismatches,
    _many_warnings,
    _wrong_facts,
    _blocks(1000, 1000),
    _blocks(1, 9000),
    _blocks(9000, 1),
    _large_parameter,
    _many_parameters,
    _unknown_blocks,
    _chain(30, 10),
    _chain(16, 3000),
    _moves("l#: {after: l7999}"),
    _moves("m#: {op: relu, before: l#}"),
    _moves("m#: null"),
    _moves("l#: {after: m#}"),
    _circle_of_files,
    _long_names,
    _one_long_text,
]

_SMALL = (_junk, _token_soup, _mutant, _mutant, _mutant, _random_spec, _random_spec)


def write_input(number: int, folder: Path) -> Path:
    """The file that the number names, in the folder where the process stands."""
    file = folder / "spec.yaml"
    r = random.Random(number)
    if number % ONE_MONSTER_IN == 0:
        text = MONSTERS[number // ONE_MONSTER_IN % len(MONSTERS)]()
        file.write_text(text, encoding="utf-8")
    else:
        file.write_bytes(r.choice(_SMALL)(r))
    return file


# ---- the run -------------------------------------------------------------------------------------


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """A project with copies of the specs, in which the process stands."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pyproject.toml").touch()
        for file in _ROOT.glob("specs/**/*.yaml"):
            shutil.copy(file, folder)
        before = Path.cwd()
        os.chdir(folder)
        try:
            yield folder
        finally:
            os.chdir(before)


def peak_megabytes() -> float:
    """The most memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def try_input(
    number: int,
    folder: Path,
    most_seconds: float = MOST_SECONDS,
    most_megabytes: float = MOST_MEGABYTES,
) -> Outcome:
    """Check one input, as the command does, and judge what came of it."""
    file = write_input(number, folder)
    status, complaint = -1, None
    out, err = io.StringIO(), io.StringIO()
    started = time.process_time()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            check([file.relative_to(folder)], json=number % 2 == 1)
        complaint = "ended without an exit status"
    except typer.Exit as end:
        status = end.exit_code
    except BaseException:  # noqa: BLE001  (whatever it is, it is what is looked for)
        complaint = traceback.format_exc(limit=-4)
    seconds = time.process_time() - started
    megabytes = peak_megabytes()
    if complaint is None:
        text = out.getvalue() + err.getvalue()
        if status not in (0, 1, 2):
            complaint = f"exit status {status}"
        elif not text:
            complaint = "said nothing"
        elif seconds > most_seconds:
            complaint = f"took {seconds:.2f} s"
        elif megabytes > most_megabytes:
            complaint = f"brought the process to {megabytes:.0f} MB"
        else:
            try:
                text.encode()
            except UnicodeEncodeError as error:
                complaint = f"said what can't be printed: {error}"
    return Outcome(number, status, seconds, complaint)


def _try_many(numbers: range) -> list[Outcome]:
    with workplace() as folder:
        return [try_input(number, folder) for number in numbers]


def main() -> int:
    """Run the campaign and print what it found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--only", type=int, help="try this one alone and show its file")
    parser.add_argument("--workers", type=int, default=len(affinity()))
    arguments = parser.parse_args()
    if arguments.only is not None:
        with workplace() as folder:
            outcome = try_input(arguments.only, folder)
            print(repr((folder / "spec.yaml").read_bytes()[:2000]))
        print(outcome)
        return int(outcome.complaint is not None)
    started = time.perf_counter()
    last = arguments.first + arguments.inputs
    parts = [range(n, min(n + 1000, last)) for n in range(arguments.first, last, 1000)]
    statuses: Counter[int] = Counter()
    complaints = 0
    slowest = Outcome(-1, 0, 0.0, None)
    # A fresh process for each part, so that one's memory isn't laid to another's charge.
    context = multiprocessing.get_context("spawn")
    with context.Pool(arguments.workers, maxtasksperchild=1) as pool:
        for done, outcomes in enumerate(pool.imap_unordered(_try_many, parts), 1):
            for outcome in outcomes:
                statuses[outcome.status] += 1
                slowest = max(slowest, outcome, key=lambda o: o.seconds)
                if outcome.complaint is not None:
                    complaints += 1
                    print(f"{outcome.number}: {outcome.complaint}", flush=True)
            if sys.stderr.isatty():
                print(f"\r{done} of {len(parts)} thousand", end="", file=sys.stderr)
    counts = ", ".join(f"{count:,} ended in {status}" for status, count in sorted(statuses.items()))
    print(f"{sum(statuses.values()):,} inputs in {time.perf_counter() - started:.0f} s: {counts}")
    print(f"slowest: {slowest.number}, {slowest.seconds:.2f} s; complaints: {complaints}")
    return int(complaints > 0)


if __name__ == "__main__":
    sys.exit(main())
