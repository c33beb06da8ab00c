"""Warnings: each rule fires where it should, nowhere else, and is silenced with a reason."""

from __future__ import annotations

import pytest

from alexc.graph.lint import LINTS
from tests.small_specs import HEAD, Project, project

__all__ = ["project"]

PIXELS = "preprocess: {mean: [123.68, 116.78, 103.94]}\n"
SCALED = "preprocess: {scale: 0.017, mean: [2.1, 2.0, 1.8]}\n"
LRN = "{op: lrn, size: 5, alpha: 1e-4, beta: 0.75, k: 2, alpha_per: element}"

# code, layers (the layer at fault is `it`), and what else the spec says
FIRES = [
    ("dropped-pixels", "it: {op: conv, out_channels: 4, kernel_size: 4, stride: 4}", ""),
    ("dropped-pixels", "it: {op: max_pool, kernel_size: 2}", ""),
    ("dropped-pixels", "it: {op: avg_pool, kernel_size: [1, 2]}", ""),
    ("dropped-pixels", "it: {op: max_pool, kernel_size: [3, 2], stride: [2, 2]}", ""),
    (
        "bias-before-batch-norm",
        "it: {op: conv, out_channels: 4, kernel_size: 3}|bn: batch_norm",
        "",
    ),
    ("bias-before-batch-norm", "f: flatten|it: {op: linear, out_features: 4}|bn: batch_norm", ""),
    ("unused-layer", "a: relu|it: tanh|b: {op: relu, inputs: a}", ""),
    ("fp16-overflow", f"a: relu|it: {LRN}", PIXELS + "precision: {it: fp16}\n"),
    (
        "fp16-overflow",
        f"it: {LRN}",
        "preprocess: {channels: bgr}\nprecision: {it: fp16}\n",
    ),
    (
        "heavy-layer",
        "f: flatten|it: {op: linear, out_features: 4000}|g: {op: linear, out_features: 5}",
        "",
    ),
    ("idle-dropout", "it: {op: dropout, p: 0}", ""),
    ("softmax-output", "f: flatten|it: softmax", ""),
]
SILENT = [
    "it: {op: conv, out_channels: 4, kernel_size: 3, stride: 2}",
    "it: {op: conv, out_channels: 4, kernel_size: 3, stride: 4, padding: {bottom: 2, right: 2}}",
    "it: {op: max_pool, kernel_size: 2, ceil_mode: true}",
    "it: {op: conv, out_channels: 4, kernel_size: 1, stride: 5}",  # the gaps are meant
    "it: {op: conv, out_channels: 4, kernel_size: 3, bias: false}|bn: batch_norm",
    "it: {op: conv, out_channels: 4, kernel_size: 3}|bn: batch_norm|a: {op: add, inputs: [it, bn]}",
    f"it: {LRN}",  # without preprocessing nothing is known of the input
    f"a: tanh|it: {LRN}",
    "f: flatten|a: {op: linear, out_features: 5}|s: softmax|b: {op: linear, out_features: 3}",
    "it: dropout",
]


def spec(layers: str, rest: str) -> str:
    lines = "".join(f"  {layer}\n" for layer in layers.split("|"))
    return f"{HEAD}{rest}layers:\n{lines}"


def allow(code: str, layer: str | None) -> str:
    where = f", layer: {layer}" if layer else ""
    return f"allow: [{{lint: lint/{code}{where}, reason: a test}}]\n"


@pytest.mark.parametrize(("code", "layers", "rest"), FIRES)
def test_a_rule_fires_at_its_layer(project: Project, code: str, layers: str, rest: str) -> None:
    (warning,) = project.said_of(spec(layers, rest))
    assert (warning.code, warning.severity) == (f"lint/{code}", "warning")
    assert warning.message.startswith(("it:", "it "))
    assert warning.place is not None
    line = warning.place.source.lines[warning.place.line - 1]
    assert line.startswith(("  it:", "precision: {it:"))


@pytest.mark.parametrize("layer", [None, "it"])
@pytest.mark.parametrize(("code", "layers", "rest"), FIRES)
def test_a_rule_is_silenced(
    project: Project, code: str, layers: str, rest: str, layer: str | None
) -> None:
    assert project.codes(spec(layers, rest) + allow(code, layer)) == []


@pytest.mark.parametrize("layers", SILENT)
def test_no_rule_fires_without_need(project: Project, layers: str) -> None:
    rest = SCALED if "lrn" in layers and "tanh" not in layers else ""
    assert project.codes(spec(layers, rest)) == []


def test_every_rule_is_tried() -> None:
    assert {f"lint/{code}" for code, _, _ in FIRES} == set(LINTS)


def test_an_allowance_elsewhere_silences_nothing(project: Project) -> None:
    layers = "a: {op: dropout, p: 0}|b: {op: dropout, p: 0.0}"
    found = project.said_of(spec(layers, "") + allow("idle-dropout", "b"))
    assert [(d.code, d.message[:1]) for d in found] == [("lint/idle-dropout", "a")]


def test_an_allowance_needs_a_reason(project: Project) -> None:
    text = spec("it: {op: dropout, p: 0}", "")
    assert project.codes(text + "allow: [{lint: lint/idle-dropout}]\n") == ["spec/missing-field"]
    empty = "allow: [{lint: lint/idle-dropout, reason: ''}]\n"
    assert project.codes(text + empty) == ["spec/length"]


@pytest.mark.parametrize(
    ("allowance", "code", "help"),
    [
        (
            "{lint: lint/idle-droput, reason: x}",
            "lint/unknown-code",
            "did you mean lint/idle-dropout?",
        ),
        ("{lint: idle-dropout, reason: x}", "lint/unknown-code", "did you mean lint/idle-dropout?"),
        ("{lint: lint/idle-dropout, reason: x}", "lint/unused-allowance", "remove it"),
        (
            "{lint: lint/idle-dropout, layer: rellu, reason: x}",
            "lint/unused-allowance",
            "did you mean relu?",
        ),
    ],
)
def test_an_allowance_that_allows_nothing_is_told(
    project: Project, allowance: str, code: str, help: str
) -> None:
    (warning,) = project.said_of(spec("relu: relu", "") + f"allow: [{allowance}]\n")
    assert (warning.code, warning.help) == (code, help)


def test_dropped_pixels_are_told_with_inputs_that_fit(project: Project) -> None:
    (warning,) = project.said_of(
        "alexc: 1\nname: n\ninput: {channels: 3, height: 224, width: 224}\n"
        "layers:\n  it: {op: conv, out_channels: 96, kernel_size: 11, stride: 4}\n"
    )
    assert warning.message == "it: the last row and column of 224 are read by no window"
    assert warning.notes == ("(224 − 11) / 4 leaves 1 over",)
    assert warning.help == "inputs of 223 or 227 rows divide; or add padding"
