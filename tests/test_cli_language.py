"""The commands of the language, as their users see them: check, inspect, new, diff, schema."""

from __future__ import annotations

import gc
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alexc.frontend import load_net
from alexc.spec.schema import json_schema
from tests.command_line import Alexc, alexc
from tests.small_specs import HEAD, Project, project

__all__ = ["alexc", "project"]

SPECS = Path(__file__).resolve().parents[1] / "specs"
GOOD = HEAD + "layers:\n  conv1: {op: conv, out_channels: 4, kernel_size: 3}\n  relu1: relu\n"
BAD = GOOD.replace("relu1: relu", "relu1: rellu")
WARNED = GOOD + "  drop: {op: dropout, p: 0}\n"


# ---- check ---------------------------------------------------------------------------------------


def test_check_says_what_it_finds(alexc: Alexc, project: Project) -> None:
    for name, text in (("good", GOOD), ("bad", BAD), ("warned", WARNED)):
        project.write(text, f"{name}.yaml")
    ran = alexc("check", "good.yaml", "bad.yaml", "warned.yaml")
    assert ran.status == 1
    assert ran.out == "good.yaml: ok\nbad.yaml: 1 error\nwarned.yaml: ok, 1 warning\n"
    assert ran.err == (
        "error[layer/unknown-op]: relu1: there is no op rellu\n"
        " --> bad.yaml:6:10\n"
        "  |\n"
        "6 |   relu1: rellu\n"
        "  |          ^^^^^\n"
        "  = help: did you mean relu?\n"
        "\n"
        "warning[lint/idle-dropout]: drop: with p: 0 it drops nothing\n"
        " --> warned.yaml:7:26\n"
        "  |\n"
        "7 |   drop: {op: dropout, p: 0}\n"
        "  |                          ^\n"
        "  = help: remove it\n"
        "\n"
    )


def test_check_as_json(alexc: Alexc, project: Project) -> None:
    project.write(GOOD, "good.yaml")
    project.write(BAD, "bad.yaml")
    ran = alexc("check", "--json", "good.yaml", "bad.yaml")
    assert ran.status == 1
    assert ran.json == {
        "files": [
            {"file": "good.yaml", "ok": True, "diagnostics": []},
            {
                "file": "bad.yaml",
                "ok": False,
                "diagnostics": [
                    {
                        "code": "layer/unknown-op",
                        "severity": "error",
                        "message": "relu1: there is no op rellu",
                        "file": "bad.yaml",
                        "line": 6,
                        "column": 10,
                        "notes": [],
                        "help": "did you mean relu?",
                    }
                ],
            },
        ]
    }


def test_a_missing_file_is_wrong_usage(alexc: Alexc, project: Project) -> None:
    project.write(BAD, "bad.yaml")
    ran = alexc("check", "bad.yaml", "none.yaml", "--json")
    assert ran.status == 2
    missing = ran.json["files"][1]["diagnostics"][0]
    assert (missing["code"], missing["file"], missing["line"]) == ("file/missing", None, None)
    assert alexc("check", ".").err == "error[file/unreadable]: .: Is a directory\n\n"
    assert alexc("check").status == 2
    assert alexc("inspect", "none.yaml").err == (
        "error[file/missing]: there is no file none.yaml\n\n"
    )


def test_many_faults_are_shown_in_part(alexc: Alexc, project: Project) -> None:
    layers = "".join(f"  l{i}: {{op: relu, slope: 1}}\n" for i in range(60))
    project.write(HEAD + "layers:\n" + layers)
    ran = alexc("check", "spec.yaml")
    assert ran.err.count("error[") == 50
    assert ran.err.endswith("… and 10 more; --json lists them all\n\n")
    assert ran.out == "spec.yaml: 60 errors\n"
    assert len(alexc("check", "--json", "spec.yaml").json["files"][0]["diagnostics"]) == 60


def test_time_grows_with_the_number_of_layers(project: Project) -> None:
    """Twice the layers take twice the time, and a thousand far less than 1.5 s."""

    def seconds(layers: int) -> float:
        lines = [HEAD, "layers:"]
        for i in range(0, layers, 4):
            lines += [
                f"  conv{i}: {{op: conv, out_channels: 8, kernel_size: 3, padding: 1}}",
                f"  bn{i}: {{op: batch_norm, eps: 1e-4}}",
                f"  relu{i}: relu",
                f"  add{i}: {{op: add, inputs: [relu{i}, bn{i}]}}",
            ]
        path = project.write("\n".join(lines))
        best = 1e9
        # The collector walks all that this process holds, which is none of the spec's doing.
        gc.disable()
        try:
            for _ in range(4):
                started = time.process_time()
                load_net(path)
                best = min(best, time.process_time() - started)
        finally:
            gc.enable()
        return best

    few, many = seconds(1000), seconds(4000)
    assert few < 0.75
    assert many < 4 * 1.75 * few


def test_the_command_itself_is_quick(project: Project) -> None:
    """The whole process, with interpreter and imports; the bar is 0.3 s on a quiet machine."""
    project.write(GOOD)
    program = (
        "import sys, time; sys.argv = ['alexc', 'check', 'spec.yaml']\n"
        "from alexc.cli.main import main\n"
        "try: main()\nfinally: print(time.process_time())\n"
    )
    ended = [
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        for _ in range(3)
    ]
    assert min(float(run.stdout.splitlines()[-1]) for run in ended) < 0.6


# ---- inspect -------------------------------------------------------------------------------------


def test_inspect_resolved_prints_a_spec_that_is_the_same_net(
    alexc: Alexc, project: Project
) -> None:
    path = SPECS / "alexnet-2012.yaml"
    ran = alexc("inspect", "--resolved", path)
    assert ran.status == 0
    assert load_net(path).graph.digest() == project.load(ran.out).graph.digest()
    assert alexc("inspect", "--resolved", "--json", path).json == load_net(path).spec.to_json()


# ---- new -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", sorted(SPECS.glob("**/*.yaml")), ids=lambda path: path.stem)
def test_new_writes_a_variant_that_passes_check(alexc: Alexc, project: Project, base: Path) -> None:
    for file in SPECS.glob("*.yaml"):
        project.write(file.read_text(encoding="utf-8"), f"nets/{file.name}")
    project.write(base.read_text(encoding="utf-8"), f"nets/{base.name}")
    ran = alexc("new", "my-variant", "--from", f"nets/{base.name}")
    assert ran.status == 0, ran.err
    assert ran.out.startswith("nets/my-variant.yaml: a variant of ")
    assert alexc("check", "nets/my-variant.yaml").out == "nets/my-variant.yaml: ok\n"
    old, new = (load_net(Path(f"nets/{name}")) for name in (base.name, "my-variant.yaml"))
    assert new.spec.name == "my-variant"
    assert new.graph.digest() == old.graph.digest()


def test_the_example_in_a_new_spec_works(alexc: Alexc, project: Project) -> None:
    project.write(GOOD, "base.yaml")
    alexc("new", "wide", "--from", "base.yaml")
    text = Path("wide.yaml").read_text(encoding="utf-8")
    example = re.sub(
        r"^#   ?", "", text[text.index("#   layers") : text.index("# changes")], flags=re.M
    )
    net = project.load(text.partition("expect:")[0] + example.replace("#\n", ""), "wide.yaml")
    names = {node.name: node.op for node in net.graph.nodes}
    assert list(names) == ["conv1", "extra"]
    assert names["conv1"].model_dump()["out_channels"] == 8


def test_the_example_of_what_to_remove_is_a_layer_to_do_without(
    alexc: Alexc, project: Project
) -> None:
    project.write(GOOD + "  drop1: {op: dropout, p: 0.3}\n  tanh1: tanh\n", "base.yaml")
    assert alexc("new", "dry", "--from", "base.yaml").status == 0
    assert "#     drop1: null\n" in Path("dry.yaml").read_text(encoding="utf-8")


def test_new_never_overwrites(alexc: Alexc, project: Project) -> None:
    project.write(GOOD, "base.yaml")
    project.write("mine", "variant.yaml")
    ran = alexc("new", "variant", "--from", "base.yaml")
    assert ran.status == 2
    assert ran.err.startswith("error[new/exists]: variant.yaml exists already")
    assert Path("variant.yaml").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("name", ["", "a b", "../x", ".hidden", "-x", "a/b", "x\n"])
def test_new_refuses_names_that_are_none(alexc: Alexc, project: Project, name: str) -> None:
    project.write(GOOD, "base.yaml")
    ran = alexc("new", "--from", "base.yaml", "--", name)
    assert ran.status == 2
    assert "error[new/name]" in ran.err
    assert sorted(path.name for path in project.folder.iterdir()) == ["base.yaml", "pyproject.toml"]


@pytest.mark.parametrize("name", ["1", "null", "注", "a.b", "x" * 90])
def test_new_quotes_what_needs_quotes(alexc: Alexc, project: Project, name: str) -> None:
    project.write(GOOD, "a #1: base.yaml")
    assert alexc("new", name, "--from", "a #1: base.yaml").status == 0
    assert load_net(Path(f"{name}.yaml")).spec.name == name


def test_new_leaves_nothing_where_it_can_t_write(alexc: Alexc, project: Project) -> None:
    project.write(GOOD, "base.yaml")
    ran = alexc("new", "v", "--from", "base.yaml", "--out", "none/v.yaml")
    assert (ran.status, ran.err) == (
        2,
        "error[file/unwritable]: none/v.yaml: No such file or directory\n\n",
    )
    outside = project.folder.parent / "elsewhere" / "v.yaml"
    outside.parent.mkdir(exist_ok=True)
    ran = alexc("new", "v", "--from", "base.yaml", "--out", outside)
    assert ran.status == 1
    assert "leaves the project" in ran.err
    assert not outside.exists()


def test_new_of_a_bad_spec_says_what_is_wrong_with_it(alexc: Alexc, project: Project) -> None:
    project.write(BAD, "bad.yaml")
    ran = alexc("new", "v", "--from", "bad.yaml")
    assert ran.status == 1
    assert "error[layer/unknown-op]" in ran.err
    assert not Path("v.yaml").exists()


def test_new_names_the_schema_where_the_project_keeps_it(alexc: Alexc, project: Project) -> None:
    project.write("{}", "docs/alexc.schema.json")
    project.write(GOOD, "specs/base.yaml")
    ran = alexc("new", "v", "--from", "specs/base.yaml", "--json")
    assert ran.json == {"file": "specs/v.yaml", "extends": "specs/base.yaml"}
    first = Path("specs/v.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert first == "# yaml-language-server: $schema=../docs/alexc.schema.json"


# ---- diff ----------------------------------------------------------------------------------------


def test_what_the_project_is_is_told_where_a_spec_would_leave_it(
    alexc: Alexc, project: Project
) -> None:
    project.write(f"extends: ../base.yaml\n{GOOD}", "nets/a.yaml")
    inside = "the project is the folder with .git or pyproject.toml: .."
    project.write(f"extends: ../../base.yaml\n{GOOD}", "nets/b.yaml")
    assert inside in alexc("check", "nets/b.yaml").err
    Path("pyproject.toml").unlink()
    alone = "the project is the spec's own folder, as none above it has .git or pyproject.toml"
    assert alone in alexc("check", "nets/a.yaml").err


def test_diff_shows_layers_and_totals(alexc: Alexc, project: Project) -> None:
    project.write(GOOD, "a.yaml")
    project.write(GOOD.replace("out_channels: 4", "out_channels: 6, bias: false"), "b.yaml")
    ran = alexc("diff", "a.yaml", "b.yaml")
    assert ran.status == 0
    lines = [" ".join(line.split()) for line in ran.out.splitlines()]
    assert [line for line in lines if line and not line.startswith("─")] == [
        "layer before after",
        "~ conv1 out_channels: 4 out_channels: 6",
        "bias: true bias: false",
        "output: 4×15×11 output: 6×15×11",
        "parameters: 112 parameters: 162",
        "macs: 17,820 macs: 26,730",
        "~ relu1 output: 4×15×11 output: 6×15×11",
        "parameters 112 → 162 (+50)",
        "macs 17,820 → 26,730 (+8,910)",
    ]
    found = alexc("diff", "--json", "a.yaml", "b.yaml").json
    assert (found["same"], found["parameters"], found["macs"]) == (
        False,
        [112, 162],
        [17820, 26730],
    )
    assert [layer["layer"] for layer in found["layers"]] == ["conv1", "relu1"]


def test_diff_shows_padding_as_it_is_written(alexc: Alexc, project: Project) -> None:
    for name, padding in (("a", "1"), ("b", "[2, 3]"), ("c", "{top: 1, right: 2}")):
        text = GOOD.replace("out_channels: 4", f"out_channels: 4, padding: {padding}")
        project.write(text, f"{name}.yaml")
    even = " ".join(alexc("diff", "a.yaml", "b.yaml").out.split())
    assert "padding: 1×1 padding: 2×3" in even
    assert "padding: top 1," in alexc("diff", "a.yaml", "c.yaml").out


def test_diff_of_the_same_net(alexc: Alexc, project: Project) -> None:
    project.write(GOOD, "a.yaml")
    project.write(GOOD.replace("small", "other"), "b.yaml")
    assert alexc("diff", "a.yaml", "b.yaml").out == "small and other are the same net\n"
    assert alexc("diff", "--json", "a.yaml", "b.yaml").json["same"] is True


def test_diff_of_a_bad_spec(alexc: Alexc, project: Project) -> None:
    project.write(GOOD, "a.yaml")
    project.write(BAD, "b.yaml")
    assert alexc("diff", "a.yaml", "b.yaml").status == 1


# ---- schema --------------------------------------------------------------------------------------


def test_schema_prints_the_schema(alexc: Alexc) -> None:
    ran = alexc("schema")
    assert (ran.status, json.loads(ran.out)) == (0, json_schema())
    assert alexc("schema", "--json").json == json_schema()


@pytest.mark.parametrize("command", ["check", "inspect", "new", "diff", "schema"])
def test_every_command_explains_itself(alexc: Alexc, command: str) -> None:
    ran = alexc(command, "--help")
    assert ran.status == 0
    assert f"alexc {command}" in ran.out
