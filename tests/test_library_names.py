"""Every name that we use of TensorRT is in TensorRT: 10, 11 and the one for RTX that is installed.

The names are read off the sources, where what is TensorRT's is annotated `Any`. Those of TensorRT
10 and 11 stand in `library_names/`, as tests/write_library_names.py found them in the bindings; of
TensorRT for RTX the library itself is asked.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from alexc.engines import tensorrt
from alexc.engines.tensorrt.words import TYPES

ROOT = Path(__file__).resolve().parents[1]
ROOMS = (
    "alexc/engines/tensorrt/*.py",
    "runtime/alexc_runtime/engines/tensorrt*.py",
    "runtime/alexc_runtime/engines/launches.py",
    "alexc/verify/backends/tensorrt*.py",
)

# Names that TensorRT for RTX has alone, and that are asked of no other.
ONLY_RTX = {
    "ComputeCapability",
    "DynamicShapesKernelSpecializationStrategy",
    "EAGER",
    "EngineInvalidityDiagnostics",
    "EngineValidity",
    "INVALID",
    "IRuntimeCache",
    "REQUIRE_USER_ALLOCATION",
    "create_runtime_cache",
    "deserialize",
    "dynamic_shapes_kernel_specialization_strategy",
    "get_engine_validity",
    "is_stream_capturable",
    "num_compute_capabilities",
    "set_compute_capability",
    "set_runtime_cache",
}


class _Names(ast.NodeVisitor):
    """Names that are asked of values annotated `Any`, and of whatever comes of these."""

    def __init__(self, fields: set[str], functions: set[str], own: set[str]) -> None:
        self.fields, self.functions, self.own = fields, functions, own
        self.found: dict[str, int] = {}
        self._known: list[set[str]] = [set()]

    def _foreign(self, node: ast.AST | None) -> bool:
        match node:
            case ast.Name(id=name):
                return any(name in names for names in self._known)
            case ast.Attribute(value=value, attr=name):
                return name in self.fields or self._foreign(value)
            case ast.Call(func=ast.Name(id="getattr"), args=[value, *_]):
                return self._foreign(value)
            case ast.Call(func=ast.Name(id=name)) if name in self.functions:
                return True
            case ast.Call(func=value) | ast.Subscript(value=value) | ast.Starred(value=value):
                return self._foreign(value)
            case ast.BoolOp(values=values):
                return any(map(self._foreign, values))
            case ast.IfExp(body=body, orelse=orelse):
                return self._foreign(body) or self._foreign(orelse)
        return False

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        arguments = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
        self._known.append({a.arg for a in arguments if _is_any(a.annotation, several=True)})
        self.generic_visit(node)
        self._known.pop()

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if _is_any(node.annotation) and isinstance(node.target, ast.Name):
            self._known[-1].add(node.target.id)
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        values: list[ast.AST] = [node.value]
        targets: list[ast.AST] = list(node.targets)
        if isinstance(node.value, ast.Tuple) and isinstance(node.targets[0], ast.Tuple):
            values, targets = list(node.value.elts), list(node.targets[0].elts)
        for value, target in zip(values * len(targets), targets, strict=False):
            if not self._foreign(value):
                continue
            if isinstance(target, ast.Name):
                self._known[-1].add(target.id)
            elif isinstance(target, ast.Attribute):
                self.fields.add(target.attr)
        self.generic_visit(node)

    def visit_For(self, node: ast.For) -> None:
        self._bind(node.target, node.iter)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        self._bind(node.target, node.iter)
        self.generic_visit(node)

    def visit_ListComp(self, node: ast.ListComp) -> None:
        self._comprehension(node)

    def visit_SetComp(self, node: ast.SetComp) -> None:
        self._comprehension(node)

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> None:
        self._comprehension(node)

    def visit_DictComp(self, node: ast.DictComp) -> None:
        for each in (*node.generators, node.key, node.value):
            self.visit(each)

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp) -> None:
        for each in (*node.generators, node.elt):  # what is bound before what uses it
            self.visit(each)

    def _bind(self, target: ast.expr, values: ast.expr) -> None:
        match target, values:
            case ast.Tuple(elts=[_, inner]), ast.Call(func=ast.Name(id="enumerate"), args=[each]):
                self._bind(inner, each)
            case ast.Name(id=name), _ if self._foreign(values):
                self._known[-1].add(name)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if self._foreign(node.value):
            self._note(node.attr, node.lineno)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        asked: list[ast.expr] = []
        if isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr"):
            asked = node.args[1:2] if self._foreign(node.args[0]) else []
        elif isinstance(node.func, ast.Attribute) and node.func.attr == "get":
            asked = node.args[:1] if self._foreign(node.func.value) else []
        for value in asked:
            if isinstance(value, ast.Constant):
                self._note(str(value.value), node.lineno)
        self.generic_visit(node)

    def _note(self, name: str, line: int) -> None:
        if name not in self.own and not name.startswith("__"):
            self.found.setdefault(name, line)


def _is_any(annotation: ast.expr | None, several: bool = False) -> bool:
    match annotation:
        case ast.Name(id="Any"):
            return True
        case ast.Subscript(value=ast.Name(id="Sequence" | "Iterable" | "Iterator"), slice=inner):
            return several and _is_any(inner)
    return False


def _sources() -> Iterator[tuple[Path, ast.Module]]:
    for pattern in ROOMS:
        for path in sorted(ROOT.glob(pattern)):
            yield path, ast.parse(path.read_text(encoding="utf-8"))


def used() -> dict[str, str]:
    """The names that we use of the libraries, and where."""
    found: dict[str, str] = {}
    sources = list(_sources())
    # What is no name of the library's: Python's own, and what our classes that it calls have.
    own = {name for kind in (str, bytes, int, dict, list, set) for name in dir(kind)}
    fields: set[str] = set()
    functions: set[str] = set()
    for _, tree in sources:
        for node in ast.walk(tree):
            match node:
                case ast.ClassDef(bases=[ast.Attribute(), *_]):
                    own |= {
                        inner.target.attr
                        for inner in ast.walk(node)
                        if isinstance(inner, ast.AnnAssign)
                        and isinstance(inner.target, ast.Attribute)
                    }
                case ast.ClassDef(body=body):
                    for inner in body:
                        match inner:
                            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation):
                                fields |= {name} if _is_any(annotation) else set()
                case ast.AnnAssign(target=ast.Attribute(attr=name), annotation=annotation):
                    fields |= {name} if _is_any(annotation) else set()
                case ast.FunctionDef(name=name, returns=returns):
                    functions |= {name} if _is_any(returns, several=True) else set()
    for _, tree in sources:
        _Names(fields, functions, own).visit(tree)  # which adds the fields that are set to such
    for path, tree in sources:
        visitor = _Names(fields, functions, own)
        visitor.visit(tree)
        for name, line in visitor.found.items():
            found.setdefault(name, f"{path.relative_to(ROOT)}:{line}")
    return found


def _listed(file: Path) -> set[str]:
    lines = file.read_text(encoding="utf-8").splitlines()
    return {name for line in lines if not line.startswith("#") for name in line.split()}


LISTS = sorted((ROOT / "tests" / "library_names").glob("tensorrt-*.txt"))


def test_there_are_lists_of_both_versions() -> None:
    assert [file.name.split(".")[0] for file in LISTS] == ["tensorrt-10", "tensorrt-11"]


def test_the_sources_use_what_is_looked_for() -> None:
    names = used()
    assert len(names) > 60, sorted(names)
    for name in ("TF32", "STRIP_PLAN", "set_shape", "get_missing_weights", "IProgressMonitor"):
        assert name in names, name


@pytest.mark.parametrize("file", LISTS, ids=lambda file: str(file.stem))
def test_every_name_is_in_tensorrt(file: Path) -> None:
    listed = _listed(file)
    # A name may be kept as the end of another.
    ends = {name[-length:] for name in listed for length in range(2, len(name))}
    missing = {
        name: place
        for name, place in (used() | dict.fromkeys(TYPES, "words.py")).items()
        if name not in listed and name not in ends
    }
    assert missing.keys() == ONLY_RTX, missing


def test_the_lists_tell_what_is_there_from_what_is_not() -> None:
    ten, eleven = map(_listed, LISTS)
    # TensorRT 11 has no precisions to set any more: they stand in the model.
    assert "FP16" in ten
    assert not {name for name in eleven if name.endswith("FP16")}


def test_every_name_is_in_tensorrt_for_rtx() -> None:
    if obstacle := tensorrt.flavours()["tensorrt_rtx"].obstacle:
        pytest.skip(obstacle)
    library = sys.modules["tensorrt_rtx"]
    there = set(dir(library))
    for thing in vars(library).values():
        if isinstance(thing, type):
            there |= set(dir(thing))
            there |= {name for inner in vars(thing).values() for name in dir(inner)}
    missing = {name: place for name, place in used().items() if name not in there}
    assert not missing
    assert there >= ONLY_RTX
