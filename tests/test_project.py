"""The files around the code agree with it and with each other."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import alexc

ROOT = Path(__file__).resolve().parents[1]

# Import name → name of the distribution, where the two differ.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "ruamel": "ruamel-yaml",
    "tensorrt_rtx": "tensorrt-rtx",
    "cuda": "cuda-python",
    "google": "protobuf",
    "pydantic_core": "pydantic",  # pins it exactly
}

# The runtime tries these at run time, and alexc says which extra to install when they are missing.
OPTIONAL = {"onnxruntime", "openvino", "tensorrt", "cuda", "matplotlib", "datasets"}


def _project() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project


def _requirements(*extras: str) -> list[Requirement]:
    project = _project()
    lines = list(project["dependencies"])
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    return [Requirement(line) for line in lines]


def _pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pins}


def _imported_packages(folder: str) -> set[str]:
    """Top-level names of the foreign packages that the Python files below `folder` import."""
    found = set()
    for file in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.partition(".")[0])
    own = {"alexc", "alexc_runtime", "benchmarks", "tests", "__future__"}
    return found - sys.stdlib_module_names - own


def _distribution(package: str) -> str:
    return canonicalize_name(DISTRIBUTIONS.get(package, package))


def test_the_version_is_said_once_in_three_places() -> None:
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert [alexc.__version__, released[0]] == [_project()["version"]] * 2


@pytest.mark.parametrize("folder", ["alexc", "runtime"])
def test_what_the_code_imports_is_declared(folder: str) -> None:
    declared = {canonicalize_name(requirement.name) for requirement in _requirements()}
    imported = _imported_packages(folder) - OPTIONAL
    assert {package for package in imported if _distribution(package) not in declared} == set()


def test_what_the_tests_import_is_declared() -> None:
    extras = _requirements("cpu", "gpu", "openvino", "dev")
    declared = {canonicalize_name(requirement.name) for requirement in extras}
    # pytest itself depends on packaging.
    imported = _imported_packages("tests") - {"packaging"}
    assert {package for package in imported if _distribution(package) not in declared} == set()


def test_every_dependency_has_one_tested_version_that_its_bound_allows() -> None:
    pins = _pins()
    requirements = _requirements("cpu", "gpu", "openvino", "dev")
    faults = [
        str(requirement)
        for requirement in requirements
        if pins.get(canonicalize_name(requirement.name), "") not in requirement.specifier
    ]
    assert faults == []


def test_constraints_hold_no_build_for_one_device() -> None:
    # torch==2.13.0 is met by 2.13.0+cpu and by 2.13.0+cu130; the other way round it is not.
    assert [version for version in _pins().values() if "+" in version] == []


def test_make_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^\.PHONY: (.*)$", makefile, re.M)[0].split())
    listed = set(re.findall(r"^  make (\S+)", _make("help"), re.M))
    assert listed == targets


def test_make_build_runs_the_main_job() -> None:
    assert ".venv/bin/alexc build specs/alexnet.yaml" in _make("--dry-run", "build")


def test_ci_runs_the_checks_and_the_tests() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    lines = script.read_text().splitlines()
    assert {"make check", "make test"} <= {" ".join(line.split()[:2]) for line in lines}


def _make(*arguments: str) -> str:
    ended = subprocess.run(
        ["make", "--no-print-directory", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout
