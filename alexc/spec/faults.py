"""Pydantic's errors as Diagnostics: one for each mistake, placed at the value that made it.

The message says what is wanted and what is there; the help says how to write it, from what the
field says of itself. What belongs to one mistake (the branches of a union, the field that a
misspelt one was meant to be) is told once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from alexc.diagnostics import Diagnostic, Place
from alexc.source import Listing, Mapping, Node, Scalar, locate, plain, resolve
from alexc.spec.forms import Form
from alexc.spec.names import Names, clip, listing
from alexc.spec.write import to_flow

# Words of other frameworks for what is meant here.
SYNONYMS = {
    "act": "relu",
    "average_pool": "avg_pool",
    "bn": "batch_norm",
    "convolution": "conv",
    "dense": "linear",
    "fc": "linear",
    "fully_connected": "linear",
    "gemm": "linear",
    "inner_product": "linear",
    "local_response_norm": "lrn",
    "local_response_normalization": "lrn",
    "localresponsenorm": "lrn",
    "eltwise": "add",
    "global_avg_pool": "adaptive_avg_pool",
    "cat": "concat",
    "reshape": "flatten",
    "view": "flatten",
    # fields
    "bias_term": "bias",
    "use_bias": "bias",
    "dilations": "dilation",
    "dilation_rate": "dilation",
    "dropout_ratio": "p",
    "rate": "p",
    "epsilon": "eps",
    "filters": "out_channels",
    "kernel_shape": "kernel_size",
    "ksize": "kernel_size",
    "local_size": "size",
    "depth_radius": "size",
    "n": "size",
    "num_output": "out_channels",
    "num_outputs": "out_channels",
    "group": "groups",
    "pads": "padding",
    "pool_size": "kernel_size",
    "type": "op",
    "units": "out_features",
    "bottom": "inputs",
    "from": "inputs",
}
# What `num_output` is where there are no channels.
_SECOND_SYNONYMS = {"num_output": "out_features", "num_outputs": "out_features"}

# Pydantic's kinds of errors → our codes.
_CODES = {
    "distribution": "init/distribution",
    "even_window": "lrn/even-window",
    "extra_forbidden": "spec/unknown-field",
    "finite_number": "spec/range",
    "greater_than": "spec/range",
    "greater_than_equal": "spec/range",
    "less_than": "spec/range",
    "less_than_equal": "spec/range",
    "literal_error": "spec/choice",
    "missing": "spec/missing-field",
    "not_positive": "spec/range",
    "recipe": "train/recipe",
    "string_pattern_mismatch": "spec/pattern",
    "string_too_long": "spec/length",
    "string_too_short": "spec/length",
    "too_long": "spec/length",
    "too_short": "spec/length",
}
_LIMITS = {
    "greater_than": "greater than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "finite_number": "a finite number",
    "string_too_long": "at most {max_length} characters long",
}
# A file with more faults is no spec. To find out what each was meant to be would take too long.
MAX_FAULTS = 1000

# The owner of fields that need no other name: those of the spec itself.
ROOT = "the spec"

_OTHER_TRUTHS = {"yes", "no", "on", "off", "y", "n", "t", "f"}


def did_you_mean(word: str, names: Iterable[str]) -> str | None:
    """The question that a diagnostic asks about a word that is none of the few `names`."""
    known = tuple(names)
    folded = re.sub(r"[\d.]+[dD]?\Z", "", word.replace("-", "_").lower())
    for table in (SYNONYMS, _SECOND_SYNONYMS):
        if table.get(folded) in known:
            return f"here that is called {table[folded]}"
    return _names(known).did_you_mean(word)


@lru_cache(maxsize=64)
def _names(names: tuple[str, ...]) -> Names:
    return Names(names)


def translate(
    error: ValidationError,
    model: type[BaseModel],
    node: Node,
    owner: str,
    *,
    at: tuple[str, ...] = (),
    missing_at: Place | None = None,
    also: Iterable[str] = (),
) -> list[Diagnostic]:
    """The faults that `model` found in the value at `at` within `node`, in the order of the file.

    `owner` says in messages whose fields these are; `also` are keys beside the model's fields.
    A missing field is reported at `missing_at`, by default at the mapping that lacks it.
    """
    form = Form.of(model)
    missing: dict[tuple[int | str, ...], list[str]] = {}
    unknown: list[ErrorDetails] = []
    values: dict[Place, list[ErrorDetails]] = {}
    holders: set[tuple[int | str, ...]] = set()  # values that hold one with a fault of its own
    for detail in error.errors(include_url=False)[:MAX_FAULTS]:
        location = _in_file(node, at, detail["loc"])
        if detail["type"] == "extra_forbidden":
            unknown.append(detail)
        elif detail["type"] == "missing" and isinstance(detail["loc"][-1], str):
            missing.setdefault(detail["loc"][:-1], []).append(detail["loc"][-1])
        else:
            values.setdefault(locate(node, (*at, *location)), []).append(detail)
            holders.update(tuple(location[:length]) for length in range(len(location)))

    faults = []
    tuples = any(
        _is_tuple(_node_at(node, _path(node, at, d))) for ds in values.values() for d in ds
    )
    for detail in unknown:
        *above, name = detail["loc"]
        if tuples and str(name).endswith(")"):  # the rest of a (3, 5), of which the value tells
            continue
        inner = _form_at(form, above)
        names = [*inner.fields, *(() if above else also)]
        help = did_you_mean(str(name), names)
        if help is not None:
            # A misspelt field is unknown, and the one that was meant is missing: one fault.
            meant = help.rpartition(" ")[2].removesuffix("?")
            lacking = missing.get(tuple(above), [])
            if meant in lacking:
                lacking.remove(meant)
        else:
            help = f"its fields are {listing(names)}" if names else "it has no fields"
        place = locate(node, (*at, *detail["loc"]), key=True)
        message = f"{_subject(owner, above)} has no field {clip(str(name))}"
        faults.append(Diagnostic("spec/unknown-field", message, place, help=help))
    for path, fields in missing.items():
        if fields:
            where = missing_at if missing_at and not path else locate(node, (*at, *path))
            faults.append(_missing(form, path, fields, where, owner))
    for place, details in values.items():
        if tuple(_in_file(node, at, details[0]["loc"])) in holders:
            continue  # another branch of a union would have taken no list at all
        faults.append(_value(form, node, at, details, place, owner))
    return faults


def _in_file(node: Node, at: tuple[str, ...], path: Iterable[int | str]) -> list[int | str]:
    """The steps of pydantic's path that are steps in the file.

    The others name a branch of a union, or a part of a value that is written as a whole.
    """
    node = _node_at(node, at)
    steps: list[int | str] = []
    for step in path:
        if isinstance(node, Mapping) and step in node.entries:
            node = node.entries[str(step)].value
        elif isinstance(node, Listing) and isinstance(step, int) and step < len(node.items):
            node = node.items[step]
        else:
            continue
        steps.append(step)
    return steps


def _path(node: Node, at: tuple[str, ...], detail: ErrorDetails) -> list[int | str]:
    return [*at, *_in_file(node, at, detail["loc"])]


def _is_tuple(node: Node) -> bool:
    """Whether it is the first half of a list in Python's brackets."""
    return isinstance(node, Scalar) and isinstance(node.value, str) and node.value.startswith("(")


def _form_at(form: Form, path: Iterable[int | str]) -> Form:
    for step in path:
        form = form.at(step)
    return form


def _missing(
    form: Form, path: tuple[int | str, ...], fields: list[str], place: Place, owner: str
) -> Diagnostic:
    inner = _form_at(form, path)
    examples = [f"{name}: {inner.at(name).example or '…'}" for name in fields]
    help = "for example " + ", ".join(examples)
    if len(fields) == 1 and (description := inner.at(fields[0]).description):
        help = f"{description}\n{help}"
    message = f"{_subject(owner, path)} needs {listing(fields)}"
    return Diagnostic("spec/missing-field", message, place, help=help)


def _value(
    form: Form,
    node: Node,
    at: tuple[str, ...],
    details: list[ErrorDetails],
    place: Place,
    owner: str,
) -> Diagnostic:
    """The fault of one value; `details` are all that pydantic says of it."""
    detail = details[0]
    kind = detail["type"]
    path = _in_file(node, at, detail["loc"])
    value = _node_at(node, (*at, *path))
    field = _form_at(form, path)
    subject = _subject(owner, path)
    context: dict[str, Any] = detail.get("ctx") or {}
    code = kind if "/" in kind else _CODES.get(kind, "spec/type")
    if kind == "missing":  # of a pair
        code = "spec/length"
    elif code == "spec/type" and field.choices and isinstance(value, Scalar):
        code = "spec/choice"
    context = {name: _number(limit) for name, limit in context.items()}
    help: str | None = None
    if code in ("spec/type", "spec/choice"):
        message = f"{subject} must be {field}, and is {_shown(value)}"
        help = _hint(field, value)
    elif kind in _LIMITS:
        message = f"{subject} must be {_LIMITS[kind].format(**context)}, and is {_shown(value)}"
    elif code == "spec/length" and isinstance(value, Listing) and value.items:
        count = len(value.items)
        message = f"{subject} must be {field}, and has {count} value{'s' * (count > 1)}"
    elif code == "spec/length":
        message = f"{subject} is empty"
    elif code == "spec/pattern":
        message = f"{subject} can't be {_shown(value)}"
        fitting = re.sub(r"[^\w.-]+", "-", str(detail["input"])).strip("-.")[:40]
        help = "letters, digits, _, . and -, a letter, digit or _ first"
        help += f": {fitting}" if fitting else ""
    else:  # a check of our own, which says all there is to say
        message = f"{subject}: {detail['msg']}"
        help = context.get("help")
        return Diagnostic(code, message, place, help=help)
    return Diagnostic(code, message, place, help=help or _about(form, path))


def _number(limit: Any) -> Any:
    """A limit as an author would write it: 1 and not 1.0."""
    return int(limit) if isinstance(limit, float) and limit.is_integer() else limit


def _node_at(node: Node, path: Iterable[int | str]) -> Node:
    for step in path:
        if isinstance(node, Mapping):
            node = node.entries[str(step)].value
        elif isinstance(node, Listing):
            node = node.items[int(step)]
    return node


def _subject(owner: str, path: Iterable[int | str]) -> str:
    """`the spec: expect.shapes.pool5[0]`, items counted from 0, as Python has it."""
    name = ""
    for step in path:
        name += f"[{step}]" if isinstance(step, int) else f".{clip(step)}" if name else clip(step)
    if not name:
        return owner
    return name if owner == ROOT else f"{owner}: {name}"


def _about(form: Form, path: list[int | str]) -> str | None:
    """What the field that the path leads to says of itself."""
    for length in range(len(path), 0, -1):
        field = _form_at(form, path[:length])
        name = path[length - 1]
        if field.description and isinstance(name, str):
            example = f"\nfor example {name}: {field.example}" if field.example else ""
            return field.description + example
    return None


def _hint(field: Form, value: Node) -> str | None:
    """What was probably meant, for the mistakes that people make."""
    if isinstance(value, Mapping) and field.takes("array"):
        return "write a list: each entry on a line that begins with a dash, or all in [ ]"
    if not isinstance(value, Scalar):
        return None
    word = value.value
    if field.takes("array") and isinstance(word, str) and not field.takes("integer"):
        return f"write a list: [{clip(word)}]"
    number = field.takes("integer") or field.takes("number")
    if isinstance(word, str):
        if field.takes("boolean") and word.lower() in _OTHER_TRUTHS:
            truth = "true" if word.lower() in ("yes", "on", "y", "t") else "false"
            return f"in YAML 1.2 {word} is a word like any other; write {truth}"
        if number:
            if isinstance(_resolved(word), int | float):
                return f"take the quotes away: {word}"
            if re.fullmatch(r"\d[\d_,' ]*\d", word):
                return f"write the digits alone: {re.sub('[^0-9]', '', word)}"
            if _is_tuple(value):
                return "a list has square brackets: [3, 5]"
            if word.lower() == "same":
                return "say how many pixels: half the kernel_size, rounded down, keeps the size"
        if field.choices and (nearest := Names(field.choices).did_you_mean(word)):
            return nearest
    if isinstance(word, float) and number and word.is_integer() and abs(word) < 2**53:
        return f"write it as a whole number: {int(word)}"
    if word is None:
        return "give it a value, or remove the line"
    return None


def _resolved(word: str) -> Any:
    try:
        return resolve(word)
    except ValueError:
        return None


def _shown(node: Node) -> str:
    """The value as the file has it, cut where it is long."""
    if isinstance(node, Scalar):
        is_text = isinstance(node.value, str)
        text = json.dumps(node.value, ensure_ascii=False) if is_text else node.raw or "null"
    elif node.size > 40:
        return "a long mapping" if isinstance(node, Mapping) else f"a list of {len(node.items)}"
    else:
        text = to_flow(plain(node))
    return text if len(text) <= 40 else text[:39] + "…"
