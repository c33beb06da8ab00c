"""The parts of a diagram, drawn: cards with their blocks and labels, wires, the legend."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from alexc.graph.diagram.cards import BLOCK, CHIP, CHIP_ROW, GUTTER, LINES, Card, Chip, half
from alexc.graph.diagram.lettering import text_width
from alexc.graph.diagram.markup import (
    COLORS,
    EDGE,
    FAINT_INK,
    NAME_SIZE,
    PAPER,
    SMALL_SIZE,
    TEXT_SIZE,
    WIRE,
    element,
    escape,
    group,
    number,
    rectangle,
    text,
)
from alexc.graph.diagram.routing import Spot, Wire
from alexc.ops.base import Shape, format_shape

_CORNER = 6.0  # radius where a wire turns and of a card's corners
_ARROW_WIDTH, _ARROW_HEIGHT = 7.0, 7.0


@dataclass(frozen=True, slots=True)
class Scale:
    """The largest image side and the most channels or features of a net."""

    side: int
    depth: int


def scale_of(cards: Sequence[Card]) -> Scale:
    """The scale on which all blocks of a diagram are drawn."""
    shapes = [card.box.shape for card in cards]
    sides = [max(shape[1:]) for shape in shapes if len(shape) == 3]
    return Scale(max(sides, default=1), max(shape[0] for shape in shapes))


# ---- cards ---------------------------------------------------------------------------------------


def paint_card(card: Card, spot: Spot, scale: Scale) -> str:
    """A card: its block, name and summary on the left, shape and parameters on the right."""
    line, tint = COLORS[card.family]
    if card.box.columns == 2:
        parts = _paint_columns(card, spot, scale)
        left = spot.left + card.side + GUTTER
    else:
        core = spot.centre - card.footprint.width / 2
        middle = core + (BLOCK - 10) / 2, spot.top + spot.height / 2
        if card.footprint.is_bar:
            parts = [rectangle(spot, fill=tint, stroke=line, rx=_CORNER)]
        else:
            parts = [rectangle(spot, fill=PAPER, stroke=line, rx=_CORNER), _left_part(spot, tint)]
        parts += _paint_block(card.box.shape, *middle, scale, line)
        left = core + BLOCK
    right = left + card.room
    parts.append(text(left, spot.top + 21, card.name, size=NAME_SIZE, bold=True))
    parts.append(text(right, spot.top + 21, card.shape, size=NAME_SIZE, anchor="end"))
    parts.append(text(left, spot.top + 37, card.summary, fill=line))
    if card.parameters:
        parts.append(text(right, spot.top + 37, card.parameters, fill=FAINT_INK, anchor="end"))
    for chip in card.chips:
        parts.append(_paint_chip(chip, left, spot.top + LINES - 2 + chip.row * CHIP_ROW))
    return group(card.title, parts)


def _paint_columns(card: Card, spot: Spot, scale: Scale) -> list[str]:
    """Two blocks, each with the shape of its half, at the two ends of the text."""
    line, tint = COLORS[card.family]
    shape = half(card.box.shape)
    inner = spot.left + card.side - _CORNER
    between = Spot(inner, spot.top, spot.width - 2 * (inner - spot.left), spot.height, spot.centre)
    parts = [rectangle(between, fill=PAPER, stroke=EDGE)]
    for left in (spot.left, spot.right - card.side):
        middle = left + card.side / 2
        column = Spot(left, spot.top, card.side, spot.height, middle)
        parts.append(rectangle(column, fill=tint, stroke=line, rx=_CORNER))
        parts += _paint_block(shape, middle, spot.top + (spot.height - 14) / 2, scale, line)
        caption = format_shape(shape)
        parts.append(text(middle, spot.bottom - 7, caption, size=SMALL_SIZE, anchor="middle"))
    return parts


def _left_part(spot: Spot, tint: str) -> str:
    """The tint under a card's block, inside the card's outline."""
    round_, width, height = _CORNER - 0.7, BLOCK - 10, spot.height - 1.4
    turn = number(round_)
    path = (
        f"M{number(spot.left + 0.7 + width)} {number(spot.top + 0.7)}h{number(round_ - width)}"
        f"q-{turn} 0 -{turn} {turn}v{number(height - 2 * round_)}"
        f"q0 {turn} {turn} {turn}h{number(width - round_)}z"
    )
    return element("path", d=path, fill=tint)


def _paint_chip(chip: Chip, left: float, top: float) -> str:
    line, tint = COLORS[chip.family]
    middle = left + chip.x + chip.width / 2
    outline = Spot(left + chip.x, top, chip.width, CHIP, middle)
    letters = text(middle, top + 11.5, chip.text, size=SMALL_SIZE, fill=line, anchor="middle")
    return group(chip.title, [rectangle(outline, fill=tint, rx=CHIP / 2), letters])


def _paint_block(shape: Shape, x: float, y: float, scale: Scale, color: str) -> list[str]:
    """The tensor as a solid about (x, y): front as large as the image, depth by its channels."""
    share = math.log2(shape[0] + 1) / math.log2(scale.depth + 1)
    if len(shape) == 3:
        height, width = (3 + 20 * math.sqrt(side / scale.side) for side in shape[1:])
        depth = 2 + 9 * share
    else:
        height, width, depth = 6 + 22 * share, 4.0, 3.0
    # Rounded first: the three faces must meet in the same points.
    left, top = number(x - (width + depth) / 2), number(y - (height - depth) / 2)
    edge = number(float(left) + float(number(width)))
    w, h, d = number(width), number(height), number(depth)
    faces = (
        (f"M{left} {top}h{w}v{h}h-{w}z", 0.45),
        (f"M{left} {top}l{d} -{d}h{w}l-{d} {d}z", 0.15),
        (f"M{edge} {top}l{d} -{d}v{h}l-{d} {d}z", 0.3),
    )
    solid = "".join(element("path", d=path, fill_opacity=f"{opacity}") for path, opacity in faces)
    return [
        element("g", solid, fill=color, stroke=color, stroke_width=0.8, stroke_linejoin="round")
    ]


# ---- wires ---------------------------------------------------------------------------------------


def paint_wires(wires: Sequence[Wire], cards: Sequence[Card]) -> list[str]:
    """All wires, each under the name and shape of its tensor, then the heads of the arrows."""
    parts = []
    for wire in wires:
        box = cards[wire.source].box
        tensor = box.layers[-1] if box.layers else box
        title = element("title", escape(f"{tensor.name} {format_shape(tensor.shape)}"))
        parts.append(element("path", title, d=_path(wire)))
    lines = element("g", "\n".join(parts), fill="none", stroke=WIRE, stroke_width=1.4)
    heads = "".join(
        f"M{number(x - _ARROW_WIDTH / 2)} {number(y - _ARROW_HEIGHT)}h{number(_ARROW_WIDTH)}"
        f"l-{number(_ARROW_WIDTH / 2)} {number(_ARROW_HEIGHT)}z"
        for x, y in sorted({wire.points[-1] for wire in wires if wire.arrives})
    )
    return [lines, element("path", d=heads, fill=WIRE)] if wires else []


def _path(wire: Wire) -> str:
    """The wire with round corners, ending inside the head of its arrow."""
    points = list(wire.points)
    if wire.arrives:
        points[-1] = (points[-1][0], points[-1][1] - _ARROW_HEIGHT + 2)
    path = f"M{_point(points[0])}"
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        radius = min(_CORNER, math.dist(before, corner) / 2, math.dist(corner, after) / 2)
        path += f"L{_point(_along(corner, before, radius))}"
        path += f"Q{_point(corner)} {_point(_along(corner, after, radius))}"
    return path + f"L{_point(points[-1])}"


def _point(point: tuple[float, float]) -> str:
    return f"{number(point[0])} {number(point[1])}"


def _along(
    start: tuple[float, float], end: tuple[float, float], length: float
) -> tuple[float, float]:
    share = length / (math.dist(start, end) or 1.0)
    return start[0] + (end[0] - start[0]) * share, start[1] + (end[1] - start[1]) * share


# ---- legend --------------------------------------------------------------------------------------


def paint_legend(
    cards: Sequence[Card], left: float, top: float, room: float
) -> tuple[list[str], float]:
    """What colours, blocks and wires mean, `room` pixels wide; with its height."""
    used = {card.family for card in cards} | {chip.family for card in cards for chip in card.chips}
    parts = [element("path", d=f"M{_point((left, top - 14))}h{number(room)}", stroke=EDGE)]
    x, y = left, top
    for name, (line, tint) in COLORS.items():
        if name not in used:
            continue
        width = 20 + text_width(name, TEXT_SIZE)
        if x > left and x + width > left + room:
            x, y = left, y + 20
        parts.append(rectangle(Spot(x, y, 14, 12, x + 7), fill=tint, stroke=line, rx=3))
        parts.append(text(x + 20, y + 10, name, fill=FAINT_INK))
        x += width + 16
    y += 18
    for words in _wrap(_explanations(cards), room):
        y += 16
        parts.append(text(left, y, words, fill=FAINT_INK))
    return parts, y - top


def _explanations(cards: Sequence[Card]) -> str:
    words = (
        "On the right of a card: the shape of its output, channels×height×width, and its number of "
        "parameters. A block is as high as the image and as deep as it has channels."
    )
    if any(card.box.columns == 2 for card in cards):
        words += " Two blocks are two groups of channels; wires say which reads which."
    return words


def _wrap(words: str, room: float) -> Iterable[str]:
    line = ""
    for word in words.split(" "):
        longer = f"{line} {word}".strip()
        if line and text_width(longer, TEXT_SIZE) > room:
            yield line
            line = word
        else:
            line = longer
    yield line
