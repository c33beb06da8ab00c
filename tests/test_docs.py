"""docs/spec.md and docs/tutorial.md do what they say, and say what the models do."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from alexc.graph.lint import LINTS
from alexc.ops import OPS
from alexc.spec.model import Header
from tests.command_line import Alexc, alexc
from tests.small_specs import Project, project
from tests.write_docs import DOCS, schema_json, spec_md

__all__ = ["alexc", "project"]

SPEC = (DOCS / "spec.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def test_what_is_generated_is_up_to_date() -> None:
    assert spec_md() == SPEC, "run make docs"
    assert schema_json() == (DOCS / "alexc.schema.json").read_text(encoding="utf-8")


def test_the_reference_names_every_op_key_and_warning() -> None:
    for name in (*OPS, *LINTS, *Header.model_fields):
        assert f"`{name}`" in SPEC
    for op in OPS.values():
        for field in op.model_fields:
            assert f"| `{field}` |" in SPEC


def _lines(text: str) -> list[str]:
    """Without blank lines, and what tables are padded with behind."""
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def _follow(alexc: Alexc, text: str) -> None:
    """Write the files and run the commands of a page, in their order."""
    for language, block in FENCE.findall(text):
        if language == "yaml":
            name = re.match(r"# (\S+)\n", block)
            assert name is not None, f"a file without a name:\n{block}"
            Path(name[1]).write_text(block, encoding="utf-8")
        elif language == "console":
            command, _, shown = block.removeprefix("$ ").partition("\n")
            ran = alexc(*command.split()[1:])
            printed = ran.out if "…\n" in shown else ran.err + ran.out
            expected, found = _lines(shown), _lines(printed)
            if "…" in expected:
                expected.remove("…")
                found = [line for line in found if line in expected]
            assert found == expected, command
        elif language == "python":
            exec(compile(block, "tutorial.md", "exec"), {})


def test_the_examples_of_the_reference(alexc: Alexc, project: Project) -> None:
    _follow(alexc, SPEC)
    assert sorted(path.stem for path in project.folder.glob("*.yaml")) == sorted(
        re.findall(r"^# (\w+)\.yaml$", SPEC, re.MULTILINE)
    )


PAGES = [*sorted(DOCS.glob("*.md")), *(DOCS.parent / n for n in ("README.md", "CHANGELOG.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def _anchors(page: Path) -> set[str]:
    """What a link may name of a page: its headings, as hosts of Markdown write them in links."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        if anchor:
            assert anchor in _anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_prose_is_wrapped_at_100_columns(page: Path) -> None:
    """But for tables, links that are longer, and what `make bench` writes."""
    if page.name == "performance.md":
        return
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    long = [line for line in text.splitlines() if len(line) > 100 and not line.startswith("|")]
    assert [line for line in long if " " in line.strip() and "](http" not in line] == []


@pytest.mark.slow
def test_the_tutorial(alexc: Alexc, project: Project) -> None:
    shutil.copytree(DOCS.parent / "specs", "specs")
    _follow(alexc, (DOCS / "tutorial.md").read_text(encoding="utf-8"))
    assert (project.folder / "build" / "lenet-lrn" / "manifest.json").exists()
