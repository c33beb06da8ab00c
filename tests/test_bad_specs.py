"""Every diagnostic of the spec language, word for word.

A folder of `bad_specs/` holds a spec with a fault, `expected.txt` with what is said of it, and
`tokens.txt` with what each diagnostic points at: `file:line:column: token`, written by hand. After
a deliberate change of the texts,

    .venv/bin/python -m tests.test_bad_specs

writes them anew (never the tokens); read the difference before you commit it.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import chdir
from functools import cache
from pathlib import Path

import pytest

from alexc.diagnostics import AlexcError, Diagnostic, render
from alexc.frontend import load_net
from alexc.source import MAX_BYTES
from alexc.spec.faults import MAX_FAULTS

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "tests" / "bad_specs"
CASES = sorted(path.name for path in FOLDER.iterdir() if path.is_dir())

# The rooms of the spec language, and its commands.
SOURCES = [
    *ROOT.glob("alexc/source/*.py"),
    *ROOT.glob("alexc/ops/*.py"),
    *ROOT.glob("alexc/spec/*.py"),
    *ROOT.glob("alexc/graph/*.py"),
    ROOT / "alexc" / "frontend.py",
    *(ROOT / "alexc" / "cli" / f"{name}.py" for name in ("check", "diff", "new", "schema")),
]
# Usage faults have no spec; tests/test_cli_language.py holds their texts.
USAGE = {"file/missing", "file/unreadable", "new/exists", "new/name"}

HEAD = "alexc: 1\nname: small\ninput: {channels: 3, height: 32, width: 32}\n"


# ---- specs that are too large to lie in a folder -------------------------------------------------


def _too_large() -> str:
    return HEAD + "# " + "x" * MAX_BYTES + "\n"


def _too_many_values() -> str:
    """Ten anchors, each of ten times the one before it: 10¹⁰ values in half a kilobyte."""
    lines = ["a0: &a0 [" + ", ".join("x" * 10) + "]"]
    for level in range(1, 10):
        aliases = ", ".join([f"*a{level - 1}"] * 10)
        lines.append(f"a{level}: &a{level} [{aliases}]")
    return HEAD + "\n".join(lines) + "\n"


def _too_deep() -> str:
    return HEAD + "deep: " + "[" * 10_000 + "]" * 10_000 + "\n"


def _blocks_too_large() -> str:
    inner = "".join(f"      relu{i}: relu\n" for i in range(1000))
    uses = "".join(f"  part{i}: {{block: many}}\n" for i in range(1000))
    return HEAD + f"blocks:\n  many:\n    layers:\n{inner}layers:\n{uses}"


def _too_many_faults() -> str:
    lines = "".join(f"  layer{i}: {{op: relu, slope: {i}}}\n" for i in range(2 * MAX_FAULTS))
    return HEAD + "layers:\n" + lines


def _long_key() -> str:
    return HEAD + "layers:\n  " + "x" * 2000 + ": relu\n"


def _long_chain() -> str:
    files = len(str(MAX_BYTES)) * 3
    for number in range(1, files):
        text = f"alexc: 1\nname: n{number}\nextends: n{number + 1}.yaml\n"
        Path(f"n{number}.yaml").write_text(text, encoding="utf-8")
    Path(f"n{files}.yaml").write_text(HEAD, encoding="utf-8")
    return "alexc: 1\nname: n0\nextends: n1.yaml\n"


def _large_chain() -> str:
    for number in (1, 2):
        padding = "# " + "x" * (MAX_BYTES // 2) + "\n"
        text = f"alexc: 1\nname: n{number}\nextends: n{number + 1}.yaml\n{padding}"
        Path(f"n{number}.yaml").write_text(text, encoding="utf-8")
    return "alexc: 1\nname: n0\nextends: n1.yaml\n"


def _many_parameters() -> str:
    names = ", ".join(f"p{i}" for i in range(200))
    return (
        HEAD
        + f"blocks: {{b: {{parameters: [{names}], layers: {{r: relu}}}}}}\nlayers: {{r: relu}}\n"
    )


LARGE: dict[str, Callable[[], str]] = {
    "block-definition.parameters": _many_parameters,
    "block-too-large": _blocks_too_large,
    "extends-too-large": _large_chain,
    "extends-too-long": _long_chain,
    "spec-too-many-faults": _too_many_faults,
    "yaml-depth": _too_deep,
    "yaml-key.long": _long_key,
    "yaml-too-large": _too_large,
    "yaml-too-many-values": _too_many_values,
}


# ---- what is said --------------------------------------------------------------------------------


def diagnose(name: str, project: Path) -> list[Diagnostic]:
    """The diagnostics of a case, which is run in the folder `project` as a user would run it."""
    folder = FOLDER / name
    project.mkdir()
    (project / "pyproject.toml").touch()  # what makes a folder a project
    if folder.exists():
        shutil.copytree(folder, project, dirs_exist_ok=True)
    with chdir(project):
        if name in LARGE:
            Path("spec.yaml").write_text(LARGE[name](), encoding="utf-8")
        try:
            return list(load_net(Path("spec.yaml")).warnings)
        except AlexcError as error:
            return list(error.diagnostics)


def text_of(diagnostics: list[Diagnostic]) -> str:
    """As `alexc check` prints them, cut where there are many."""
    shown = [render(diagnostic) + "\n" for diagnostic in diagnostics[:10]]
    if len(diagnostics) > len(shown):
        shown += [f"… {len(diagnostics) - 11:,} more …\n", render(diagnostics[-1]) + "\n"]
    return "\n".join(shown)


def _tokens(diagnostics: list[Diagnostic], project: Path) -> Iterator[str]:
    for diagnostic in diagnostics:
        place = diagnostic.place
        if place is not None:
            data = (project / place.source.path).read_bytes().decode("utf-8-sig")
            line = re.split("\r\n|\n|\r", data)[place.line - 1]
            token = line[place.column - 1 :][: place.length]
            yield f"{place.source.path}:{place.line}:{place.column}: {token}"


@pytest.mark.parametrize("name", sorted({*CASES, *LARGE}))
def test_bad_spec(name: str, tmp_path: Path) -> None:
    project = tmp_path / "project"
    diagnostics = diagnose(name, project)
    assert diagnostics, "the spec is good"
    expected = FOLDER / name / "expected.txt"
    assert text_of(diagnostics) == expected.read_text(encoding="utf-8")
    tokens = FOLDER / name / "tokens.txt"
    if tokens.exists():
        lines = tokens.read_bytes().decode().split("\n")[:-1]
        assert list(_tokens(diagnostics, project)) == lines
    topic = name.partition(".")[0]
    if topic in {code.replace("/", "-") for code in _codes()}:
        assert topic in {diagnostic.code.replace("/", "-") for diagnostic in diagnostics}


@pytest.mark.parametrize("name", [name for name in CASES if name not in LARGE])
def test_bad_spec_says_what_it_points_at(name: str) -> None:
    if name != "yaml-encoding":  # which has no place: the text can't be read
        assert (FOLDER / name / "tokens.txt").exists()


@cache
def _codes() -> set[str]:
    """Every code that stands in the sources of the language."""
    code = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*/[a-z0-9]+(-[a-z0-9]+)*")
    return {
        node.value
        for file in SOURCES
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if code.fullmatch(node.value)
    }


def test_every_code_has_a_bad_spec() -> None:
    shown = set()
    for name in {*CASES, *LARGE}:
        text = (FOLDER / name / "expected.txt").read_text(encoding="utf-8")
        shown |= set(re.findall(r"^(?:error|warning)\[([^]]+)\]:", text, re.M))
    assert _codes() - USAGE == shown
    assert len(shown) >= 40


def _rewrite() -> None:
    for name in sorted({*CASES, *LARGE}):
        with tempfile.TemporaryDirectory() as folder:
            text = text_of(diagnose(name, Path(folder) / "project"))
        path = FOLDER / name / "expected.txt"
        path.parent.mkdir(exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}", file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    os.environ["NO_COLOR"] = "1"
    _rewrite()
