"""What each card says, cut to the size that all cards of a diagram share."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from alexc.graph.diagram.boxes import Box
from alexc.graph.diagram.layout import Footprint
from alexc.graph.diagram.lettering import shorten, text_width
from alexc.graph.diagram.markup import NAME_SIZE, SMALL_SIZE, TEXT_SIZE
from alexc.graph.diagram.wording import Family, facts, family, summary
from alexc.graph.graph import Node
from alexc.ops.base import Shape, format_shape
from alexc.ops.norm import Lrn

BLOCK = 54.0  # width of the part of a card that holds the block
GUTTER = 12.0  # between text and what stands beside it
LINES = 46.0  # height of a card with its two lines
CHIP, CHIP_ROW = 16.0, 20.0  # height of a label, and from one row of labels to the next

_CHIP_PADDING, _CHIP_SPACE = 6.0, 5.0
_SPACE = 14.0  # least between the left and the right text of a line
_NARROWEST, _WIDEST = 130.0, 300.0  # of a card's text


@dataclass(frozen=True, slots=True)
class Chip:
    """The label of a folded layer, or of an output; `x` and `row` are its place in the text."""

    text: str
    family: Family
    title: str
    x: float
    row: int
    width: float


@dataclass(frozen=True, slots=True)
class Card:
    """A box with its texts. Name over summary on the left, shape over parameters on the right."""

    box: Box
    family: Family
    name: str
    shape: str
    summary: str
    parameters: str
    title: str
    chips: tuple[Chip, ...]
    room: float  # width of the text
    side: float  # width of each column, where there are two
    footprint: Footprint


def make_cards(boxes: Sequence[Box], framed: Collection[int]) -> list[Card]:
    """A card for each box. Those in a frame leave out the part of the name that the frame says."""
    names = [_name(box.name, index in framed) for index, box in enumerate(boxes)]
    summaries = [summary(box.layers[0]) if box.layers else "image" for box in boxes]
    shapes = [format_shape(box.shape) for box in boxes]
    counts = [_count(box.layers[0]) if box.layers else "" for box in boxes]

    # All cards are as wide as the widest needs, so that they line up.
    upper = [
        text_width(name, NAME_SIZE, bold=True) + _SPACE + text_width(shape, NAME_SIZE)
        for name, shape in zip(names, shapes, strict=True)
    ]
    lower = [
        text_width(does, TEXT_SIZE) + _SPACE + text_width(count, TEXT_SIZE)
        for does, count in zip(summaries, counts, strict=True)
    ]
    room = math.ceil(min(max(_NARROWEST, *upper, *lower), _WIDEST))
    halves = [format_shape(half(box.shape)) for box in boxes if box.columns == 2]
    label = max((text_width(text, SMALL_SIZE) for text in halves), default=0.0)
    side = math.ceil(max(label + 2 * GUTTER, BLOCK))

    cards = []
    for index, box in enumerate(boxes):
        chips = _chips(box, room, framed=index in framed)
        name_room = room - _SPACE - text_width(shapes[index], NAME_SIZE)
        summary_room = room - _SPACE - text_width(counts[index], TEXT_SIZE)
        cards.append(
            Card(
                box=box,
                family=family(box.layers[0].op) if box.layers else "input",
                name=shorten(names[index], name_room, NAME_SIZE, bold=True),
                shape=shapes[index],
                summary=shorten(summaries[index], summary_room, TEXT_SIZE),
                parameters=counts[index],
                title=_title(box),
                chips=chips,
                room=room,
                side=side,
                footprint=_footprint(box, room, side, rows=chips[-1].row + 1 if chips else 0),
            )
        )
    return cards


def half(shape: Shape) -> Shape:
    """The shape of one of two columns."""
    return (shape[0] // 2, *shape[1:])


def _footprint(box: Box, room: float, side: float, rows: int) -> Footprint:
    height = LINES + rows * CHIP_ROW
    if box.columns == 2:
        centre = room / 2 + GUTTER + side / 2
        return Footprint(2 * centre + side, height, ports=(-centre, centre))
    return Footprint(BLOCK + room + GUTTER, height, is_bar=len(set(box.sources)) > 1)


def _name(name: str, framed: bool) -> str:
    return name.rpartition("/")[2] if framed else name


def _count(layer: Node) -> str:
    return f"{layer.parameter_count:,}" if layer.parameter_count else ""


def _title(box: Box) -> str:
    if not box.layers:
        return f"input: {format_shape(box.shape)}"
    lines = facts(box.layers[0])
    if box.columns == 2:
        share = "half" if box.reads_own_column else "all"
        lines.append(f"in two columns, each of which reads {share} of the channels")
    return "\n".join(lines)


def _chips(box: Box, room: float, *, framed: bool) -> tuple[Chip, ...]:
    """Labels in rows, each row as full as it goes."""
    wanted: list[tuple[str, Family, str]] = []
    for layer in box.layers[1:]:
        lines = facts(layer)
        if box.columns == 2 and isinstance(op := layer.op, Lrn) and op.region == "across_channels":
            lines.append("windows at the border between the columns see both of them")
        wanted.append((_chip_text(layer, framed=framed), family(layer.op), "\n".join(lines)))
    if box.is_output:
        wanted.append(("output", "input", f"{box.layers[-1].name} is an output of the net"))

    chips: list[Chip] = []
    x, row = 0.0, 0
    for text, of_family, title in wanted:
        text = shorten(text, room - 2 * _CHIP_PADDING, SMALL_SIZE)
        width = text_width(text, SMALL_SIZE) + 2 * _CHIP_PADDING
        if x + width > room and x > 0:
            x, row = 0.0, row + 1
        chips.append(Chip(text, of_family, title, x, row, width))
        x += width + _CHIP_SPACE
    return tuple(chips)


def _chip_text(layer: Node, *, framed: bool) -> str:
    """Name, summary and parameters: `norm1 LRN 5 channels`, but `relu1` says all by its name."""
    name, does = _name(layer.name, framed), summary(layer)
    if does.lower() in name.lower():
        text = name
    else:
        text = does if does.lower().startswith(name.lower()) else f"{name} {does}"
    return f"{text} · {_count(layer)}" if layer.parameter_count else text
