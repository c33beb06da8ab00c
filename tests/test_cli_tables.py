"""Tables at every width: words fold, figures never; brackets are text; files have no padding."""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path

import pytest
from rich.console import Console

from alexc.cli.tables import pairs, show, table
from tests.command_line import Alexc, alexc

__all__ = ["alexc"]  # a fixture, which pytest finds here by its name

SPECS = Path(__file__).parent.parent / "specs"
WIDE = "inception_5b/relu_3x3_reduce"
FIGURES = ("724,406,816", "1.16 MB")


def printed(width: int, *spare: str) -> list[str]:
    file = io.StringIO()
    made = table("layer", "MACs", "memory", figures=("MACs", "memory"), footers={"MACs": "7"})
    made.add_row("a word and some others", *FIGURES)
    show(Console(file=file, width=width, markup=False), made, spare)
    return file.getvalue().splitlines()


@pytest.mark.parametrize("width", [12, 24, 31, 44, 46, 200])
def test_no_figure_is_cut_and_words_fold(width: int) -> None:
    lines = printed(width)
    assert any("724,406,816  1.16 MB" in line for line in lines)
    words = " ".join(line.split("724,406,816")[0].strip() for line in lines[3:])
    assert words.replace("7", "").split() == ["a", "word", "and", "some", "others"]
    if width >= 31:
        assert max(map(len, lines)) <= width


def test_spare_columns_go_one_by_one_where_there_is_no_room() -> None:
    everything, fewer, fewest = (printed(width, "memory", "MACs") for width in (44, 28, 12))
    assert "memory" in everything[1]
    assert "wider" not in " ".join(everything)
    assert fewer[1].split() == ["layer", "MACs"]
    assert " ".join(" ".join(fewer).split()).endswith("on a wider terminal, and with --json")
    assert fewest[1].split() == ["layer"]
    assert max(map(len, fewest)) <= 12


def test_long_words_fold_where_they_must() -> None:
    file = io.StringIO()
    made = table("layer", "op")
    made.add_row(WIDE, "relu")
    show(Console(file=file, width=30), made)
    assert WIDE[:20] in file.getvalue()
    assert WIDE not in file.getvalue()


def test_columns_of_words_share_what_room_there_is() -> None:
    """None is squeezed below its longest word while another one has more than that."""
    file = io.StringIO()
    made = table("layer", "op", "inputs", "MACs", figures=("MACs",))
    made.add_row("pool", "adaptive_avg_pool", "flatten, features, pooled", "724,406,816")
    show(Console(file=file, width=54), made)
    lines = [line.rstrip() for line in file.getvalue().splitlines()]
    assert max(map(len, lines)) <= 54
    assert "adaptive_avg_pool" in file.getvalue()


def test_of_what_nothing_is_said_is_left_out() -> None:
    file = io.StringIO()
    show(Console(file=file, width=40), pairs([("seed", "7"), ("labels", ""), ("seed", "9")]))
    assert file.getvalue().split() == ["seed", "7", "seed", "9"]


def test_a_big_net_keeps_its_figures_on_a_narrow_page(
    alexc: Alexc, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = alexc("inspect", SPECS / "alexnet.yaml").out
    assert max(map(len, out.splitlines())) <= 80
    assert "724,406,816" in out
    assert "195×195" in out
    out = alexc("inspect", SPECS / "zoo" / "resnet18.yaml").out
    assert max(map(len, out.splitlines())) <= 80
    assert "11,689,512  1,814,073,344" in out


@pytest.mark.parametrize("columns", ["", "0", "-3", "wide"])
def test_a_file_is_as_wide_as_is_needed(
    alexc: Alexc, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    out = alexc("inspect", SPECS / "zoo" / "resnet18.yaml").out
    rows = out.splitlines()
    assert rows == [line.rstrip() for line in rows]
    assert sum(line.startswith(" layer1_0/add ") for line in rows) == 1


def test_brackets_in_a_spec_are_text(alexc: Alexc, tmp_path: Path) -> None:
    spec = tmp_path / "small.yaml"
    spec.write_text(
        "alexc: 1\nname: small\nsource: see [/red] and [bold]\n"
        "input: {channels: 3, height: 23, width: 19}\n"
        "layers: {conv1: {op: conv, out_channels: 7, kernel_size: 3}}\n"
    )
    ran = alexc("inspect", spec)
    assert ran.status == 0
    assert ran.out.splitlines()[0] == "small  see [/red] and [bold]"


@pytest.mark.parametrize("command", ["verify", "data pca"])
def test_help_breaks_lines_where_the_page_ends(
    alexc: Alexc, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    ran = alexc(*command.split(), "--help")
    assert ran.status == 0
    lines = [line.strip() for line in ran.out.split("╭")[0].splitlines()]
    *_, paragraph = "\n".join(lines).strip().split("\n\n")
    text = paragraph.splitlines()
    assert len(text) > 1
    for line, following in pairwise(text):
        assert len(line) + 1 + len(following.split()[0]) > 78, line
