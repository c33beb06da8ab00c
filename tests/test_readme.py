"""Every command and every file in README.md does what it says, run as a reader would run it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def commands() -> list[tuple[str, str]]:
    """Each `$ command` of the README's transcripts with what it is shown to print."""
    found = []
    for block in blocks("console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append((command, output.strip()))
    return found


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the specs, the README's own files, a photograph, and the first build done."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "specs", folder / "specs")
    (folder / "pyproject.toml").touch()  # what a spec's `extends` may not leave
    for text in blocks("yaml"):
        name = re.search(r"^# (\S+\.yaml)$", text, re.MULTILINE)
        assert name is not None, "each YAML block of the README names its file in a comment"
        (folder / name[1]).write_text(text, encoding="utf-8")
    pixels = np.random.default_rng(3).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "photo.jpg")
    build = run("alexc build specs/alexnet.yaml", folder)
    assert build.returncode == 0, build.stderr
    return folder


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    program, *arguments = command.split()
    if Path(program).name == "alexc":
        # The same entry point as the script's, by the interpreter that runs the tests.
        start = "from alexc.cli.main import main; main()"
        words = [sys.executable, "-c", start, *arguments]
    else:
        words = [program, *arguments]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)


def test_make_build_is_the_build_that_these_tests_run() -> None:
    make = subprocess.run(
        ["make", "--dry-run", "build"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert make.stdout.strip().endswith("alexc build specs/alexnet.yaml")


@pytest.mark.parametrize(
    "command, shown", [(c, o) for c, o in commands() if not c.startswith("make ")]
)
def test_a_command_prints_what_the_readme_shows(project: Path, command: str, shown: str) -> None:
    ran = run(command, project)
    assert ran.returncode == (1 if "broken.yaml" in command else 0), ran.stderr
    printed = without_errors(ran.stdout + "\n" + ran.stderr)
    for line in without_errors(shown).splitlines():
        if line.strip() not in ("", "…"):
            assert line.rstrip() in printed


def without_errors(text: str) -> str:
    """A transcript with the errors of layers and their shares left out: processors differ."""
    return re.sub(r"\d\.\de[+-]\d\d +\d+%", "0.0e+00   0%", text)


def test_the_python_example_runs(project: Path) -> None:
    (example,) = blocks("python")
    ran = subprocess.run(
        [sys.executable, "-c", example + "\nprint(logits.shape)"],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == "(1, 1000)"


def test_every_command_of_the_command_line_is_in_the_table() -> None:
    from alexc.cli.main import COMMANDS

    listed = set(re.findall(r"^\| `alexc (\w+)", README, re.MULTILINE))
    assert listed == set(COMMANDS)


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
