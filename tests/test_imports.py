"""Which room imports what, and when.

The way of the data runs one way, so a room imports only from those before it; a heavy package is
imported only by the rooms that own it, and only when its work is asked for.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Every module of alexc belongs to one of these, in the order of the data. A room may import itself
# and what stands before it.
ROOMS = (
    "alexc.diagnostics",
    "alexc.files",
    "alexc.folders",
    "alexc.source",
    "alexc.ops",
    "alexc.spec",
    "alexc.graph",
    "alexc.frontend",
    "alexc.passes",
    "alexc.weights",
    "alexc.lower",
    "alexc.engines",
    "alexc.verify",
    "alexc.calibrate",
    "alexc.model",
    "alexc.bundle",
    "alexc.triton",
    "alexc.plan",
    "alexc.assembly",
    "alexc.build",
    "alexc.train",
    "alexc.importers",
    "alexc.cli",
)

# Packages that are slow to import, and the rooms that may import them at all.
OWNERS = {
    "jsonschema": (),
    "matplotlib": ("alexc.verify", "alexc.plan", "alexc.train"),
    "onnx": (
        "alexc.lower.to_onnx",
        "alexc.lower.onnx_model",
        "alexc.engines",
        "alexc.verify",
        "alexc.model",
        "alexc.bundle",
        "alexc.plan",
        "alexc.importers",
    ),
    "onnxruntime": (
        "alexc.engines",
        "alexc.verify",
        "alexc.plan",
        "alexc_runtime.engines",
    ),
    "openvino": ("alexc.engines", "alexc.verify", "alexc.plan", "alexc_runtime.engines"),
    "PIL": ("alexc_runtime.preprocess", "alexc.train", "alexc.verify"),
    "safetensors": ("alexc.weights", "alexc.importers", "alexc.train"),
    "tensorrt": ("alexc.engines", "alexc.verify", "alexc.plan", "alexc_runtime.engines"),
    "tensorrt_rtx": ("alexc.engines", "alexc.verify", "alexc.plan", "alexc_runtime.engines"),
    "torch": (
        "alexc.lower.to_torch",
        "alexc.lower.torch_modules",
        "alexc.verify",
        "alexc.calibrate",
        "alexc.plan",
        "alexc.train",
        "alexc.importers",
    ),
}

# What `import alexc_runtime` may load beside the standard library.
RUNTIME_MAY_LOAD = {"alexc_runtime", "numpy"}


def _module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    parts = parts[1:] if parts[0] == "runtime" else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and full name of everything imported, at any depth, for types only or not."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            # Relative imports are banned by the linter.
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


def _within(module: str, room: str) -> bool:
    return module == room or module.startswith(room + ".")


def _room(module: str) -> str | None:
    """The room of a module of alexc. The package itself, which holds the version, has none."""
    return next((room for room in ROOMS if _within(module, room)), None)


def faults(module: str, text: str) -> list[str]:
    """What is wrong with the imports of the module with this source text, one line a fault."""
    found = []
    room = _room(module)
    if _within(module, "alexc") and module not in ("alexc", "alexc.__main__") and room is None:
        found.append(f"{module} is in no room: give it a place in ROOMS")
    for line, imported in _imports(ast.parse(text)):
        start = f"{module}:{line} imports {imported}"
        target = _room(imported)
        if _within(module, "alexc_runtime") and _within(imported, "alexc"):
            found.append(f"{start}: the runtime is deployed without alexc")
        elif room and target and ROOMS.index(target) > ROOMS.index(room):
            found.append(f"{start}: {room} comes before {target} on the way of the data")
        package = imported.partition(".")[0]
        owners = OWNERS.get(package)
        if owners is not None and not any(_within(module, owner) for owner in owners):
            allowed = ", ".join(owners) or "none"
            found.append(f"{start}: {package} belongs to other rooms ({allowed})")
    return found


def _sources() -> list[Path]:
    return sorted([*ROOT.glob("alexc/**/*.py"), *ROOT.glob("runtime/**/*.py")])


@pytest.mark.parametrize("file", _sources(), ids=_module_name)
def test_rooms_import_what_they_may(file: Path) -> None:
    found = faults(_module_name(file), file.read_text(encoding="utf-8"))
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "text", "expected"),
    [
        (
            "alexc.ops.conv",
            "from alexc.graph.graph import Graph",
            (
                "alexc.ops.conv:1 imports alexc.graph.graph.Graph: "
                "alexc.ops comes before alexc.graph on the way of the data"
            ),
        ),
        (
            "alexc.spec.model",
            "def f():\n    import torch.nn",
            (
                "alexc.spec.model:2 imports torch.nn: torch belongs to other rooms "
                "(alexc.lower.to_torch, alexc.lower.torch_modules, alexc.verify, alexc.calibrate, "
                "alexc.plan, alexc.train, alexc.importers)"
            ),
        ),
        (
            "alexc_runtime.session",
            "from alexc import bundle",
            "alexc_runtime.session:1 imports alexc.bundle: the runtime is deployed without alexc",
        ),
        (
            "alexc.attic",
            "import json",
            "alexc.attic is in no room: give it a place in ROOMS",
        ),
    ],
)
def test_a_wrong_import_is_named_with_its_rule(module: str, text: str, expected: str) -> None:
    assert faults(module, text) == [expected]


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("alexc.graph.graph", "from alexc.ops.base import Op"),
        ("alexc.ops.conv", "from alexc.ops.base import Op"),
        ("alexc.cli.check", "from alexc import __version__"),
        ("alexc.bundle", "from alexc_runtime import manifest"),
        ("alexc.lower.to_torch", "import torch"),
        ("alexc_runtime.engines.tensorrt", "def f():\n    import tensorrt_rtx"),
    ],
)
def test_a_right_import_is_let_through(module: str, text: str) -> None:
    assert faults(module, text) == []


# ---- what a command really loads -----------------------------------------------------------------


def _loaded_by(statement: str) -> set[str]:
    """Top-level packages in a fresh interpreter that has run the statement."""
    program = (
        f"import json, sys\ntry:\n    {statement}\nexcept SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        "names = sorted({name.partition('.')[0] for name in sys.modules})\n"
        "print('\\n' + json.dumps(names))"  # on a line of its own, whatever came before
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return set(json.loads(ended.stdout.splitlines()[-1]))


def _loaded_by_alexc(*arguments: str) -> set[str]:
    command = ["alexc", *arguments]
    return _loaded_by(f"sys.argv = {command!r}; from alexc.cli.main import main; main()")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["check", "--help"],
        ["check", "specs/alexnet.yaml"],
        ["check", "--json", "specs/alexnet.yaml"],
        ["inspect", "specs/alexnet.yaml"],
        ["diff", "specs/alexnet.yaml", "specs/caffenet.yaml"],
        ["schema"],
    ],
    ids=" ".join,
)
def test_light_commands_load_nothing_heavy(arguments: list[str]) -> None:
    assert not _loaded_by_alexc(*arguments) & {*OWNERS, "numpy"}


def test_the_version_needs_no_command() -> None:
    assert "pydantic" not in _loaded_by_alexc("--version")


def test_the_runtime_loads_only_numpy() -> None:
    foreign = _loaded_by("import alexc_runtime") - _loaded_by("import numpy")
    assert foreign - sys.stdlib_module_names <= RUNTIME_MAY_LOAD
