"""Graph → SVG: fold, measure, place, and draw what came of it.

It refuses nets whose wires would need more room than a picture has.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

from alexc.diagnostics import fault
from alexc.graph.diagram.boxes import Box, fold
from alexc.graph.diagram.cards import Card, make_cards
from alexc.graph.diagram.layout import Link, TooManyPlaces, assign_ranks, place
from alexc.graph.diagram.lettering import shorten, text_width
from alexc.graph.diagram.markup import (
    EDGE,
    FAINT_INK,
    FONTS,
    GROUND,
    PAGE,
    TEXT_SIZE,
    TITLE_SIZE,
    element,
    escape,
    group,
    number,
    rectangle,
    text,
)
from alexc.graph.diagram.painting import paint_card, paint_legend, paint_wires, scale_of
from alexc.graph.diagram.routing import Arrangement, Spot, route
from alexc.graph.graph import Graph
from alexc.ops.base import format_shape

_MARGIN = 24.0
_HEADING = 58.0  # height of the title and what stands below it
_FRAME_SIDE, _FRAME_FOOT, _FRAME_HEAD = 10.0, 8.0, 24.0  # from its boxes to a frame


def svg(graph: Graph) -> str:
    """The drawing of `graph`, a whole SVG document.

    Raises AlexcError (`diagram/too-large`) where layers read others so far away that the wires
    would need more places than a picture has.
    """
    boxes = fold(graph)
    links = _links(boxes)
    ranks = assign_ranks(len(boxes), links)
    frames = _frames(boxes)
    while True:
        cards = make_cards(boxes, {member for members in frames.values() for member in members})
        headroom = {min(ranks[i] for i in members): _FRAME_HEAD for members in frames.values()}
        try:
            places = place([card.footprint for card in cards], links, ranks)
        except TooManyPlaces as error:
            raise fault(
                "diagram/too-large",
                f"{graph.name} can't be drawn: {error}",
                help="`alexc inspect` without --diagram prints every layer",
            ) from None
        arrangement = route(places, headroom)
        broken = _broken_frames(arrangement.spots, frames)
        if not broken:
            return _document(graph, cards, arrangement, frames)
        frames = {prefix: frames[prefix] for prefix in frames if prefix not in broken}


def _links(boxes: Sequence[Box]) -> list[Link]:
    """Who reads whom, column by column."""
    links = []
    for target, box in enumerate(boxes):
        for source in dict.fromkeys(box.sources):
            outs: Sequence[int | None] = (0, 1) if boxes[source].columns == 2 else (None,)
            intos: Sequence[int | None] = (0, 1) if box.columns == 2 else (None,)
            own = len(outs) == len(intos) == 2 and box.reads_own_column
            strands = tuple((out, into) for out in outs for into in intos if not own or out == into)
            links.append(Link(source, target, strands))
    return links


# ---- frames --------------------------------------------------------------------------------------


def _frames(boxes: Sequence[Box]) -> dict[str, list[int]]:
    """Prefix of names → its boxes, where there are two or more."""
    members: dict[str, list[int]] = defaultdict(list)
    for index, box in enumerate(boxes):
        prefix, slash, _ = box.name.rpartition("/")
        if slash:
            members[prefix].append(index)
    return {prefix: indices for prefix, indices in members.items() if len(indices) > 1}


def _broken_frames(spots: Sequence[Spot], frames: Mapping[str, Sequence[int]]) -> set[str]:
    """Frames that can't be drawn, since they would hold a box of others or touch another frame.

    Of two frames that touch, the one that holds a box of others goes first. A sweep from top to
    bottom, so that a net of thousands of frames is no matter.
    """
    owner = {member: prefix for prefix, members in frames.items() for member in members}
    things = [(spot, owner.get(index, ""), False) for index, spot in enumerate(spots)]
    for prefix, members in frames.items():
        things.append((_outline([spots[i] for i in members]), prefix, True))
    things.sort(key=lambda thing: thing[0].top)
    holding: set[str] = set()
    touching: set[str] = set()
    beside: list[tuple[Spot, str, bool]] = []  # what reaches down to here
    for thing in things:
        spot, prefix, is_frame = thing
        beside = [other for other in beside if other[0].bottom > spot.top]
        for other, other_prefix, other_is_frame in beside:
            if prefix == other_prefix or other.right <= spot.left or spot.right <= other.left:
                continue
            if is_frame and other_is_frame:
                touching.add(max(prefix, other_prefix))
            elif is_frame:
                holding.add(prefix)
            elif other_is_frame:
                holding.add(other_prefix)
        beside.append(thing)
    return holding or touching


def _outline(spots: Sequence[Spot]) -> Spot:
    left = min(spot.left for spot in spots) - _FRAME_SIDE
    right = max(spot.right for spot in spots) + _FRAME_SIDE
    top = min(spot.top for spot in spots) - _FRAME_HEAD
    bottom = max(spot.bottom for spot in spots) + _FRAME_FOOT
    return Spot(left, top, right - left, bottom - top, (left + right) / 2)


def _paint_label(prefix: str, outline: Spot, room: float) -> str:
    """A frame's name, with some of the frame's ground, since a wire may pass behind it."""
    label = shorten(prefix, room, TEXT_SIZE, bold=True)
    x, y = outline.left + _FRAME_SIDE, outline.top + 15
    width = text_width(label, TEXT_SIZE, bold=True)
    ground = rectangle(Spot(x - 3, y - 11, width + 6, 14, x), fill=GROUND)
    return group(prefix, [ground, text(x, y, label, fill=FAINT_INK, bold=True)])


# ---- the whole -----------------------------------------------------------------------------------


def _document(
    graph: Graph,
    cards: Sequence[Card],
    arrangement: Arrangement,
    frames: Mapping[str, Sequence[int]],
) -> str:
    totals = (
        f"{graph.parameter_count:,} parameters · {graph.macs:,} MACs per image · "
        f"{len(graph.nodes)} layers"
    )
    name_width = text_width(graph.name, TITLE_SIZE, bold=True)
    room = math.ceil(max(arrangement.width, name_width, text_width(totals, TEXT_SIZE)))
    width = room + 2 * _MARGIN
    left, top = _MARGIN + (room - arrangement.width) / 2, _MARGIN + _HEADING
    legend_top = top + arrangement.height + 34
    legend, legend_height = paint_legend(cards, _MARGIN, legend_top, room)
    height = math.ceil(legend_top + legend_height + _MARGIN)

    spots = arrangement.spots
    outlines = {prefix: _outline([spots[i] for i in frames[prefix]]) for prefix in frames}
    page = Spot(0.5, 0.5, width - 1, height - 1, width / 2)
    scale = scale_of(cards)
    drawing = [
        *(rectangle(outline, fill=GROUND, stroke=EDGE, rx=8) for outline in outlines.values()),
        *paint_wires(arrangement.wires, cards),
    ]
    for prefix, outline in outlines.items():
        # Wires may enter the leftmost cards: the label ends before.
        entries = [
            spots[i].centre + min(cards[i].footprint.ports, default=0.0) for i in frames[prefix]
        ]
        drawing.append(_paint_label(prefix, outline, min(entries) - outline.left - 24))
    for card, spot in zip(cards, spots, strict=True):
        drawing.append(paint_card(card, spot, scale))
    parts = [
        element("title", escape(f"The net {graph.name}")),
        element("desc", escape(_description(graph))),
        rectangle(page, fill=PAGE, stroke=EDGE, rx=10),
        text(_MARGIN, _MARGIN + 16, graph.name, size=TITLE_SIZE, bold=True),
        text(_MARGIN, _MARGIN + 36, totals, fill=FAINT_INK),
        element("g", "\n".join(drawing), transform=f"translate({number(left)} {number(top)})"),
        *legend,
    ]
    whole = element(
        "svg",
        "\n" + "\n".join(parts) + "\n",
        xmlns="http://www.w3.org/2000/svg",
        width=width,
        height=height,
        viewBox=f"0 0 {number(width)} {number(height)}",
        role="graphics-document document",
        font_family=FONTS,
        font_size=TEXT_SIZE,
    )
    return whole + "\n"


def _description(graph: Graph) -> str:
    outputs = [f"{name} {format_shape(graph.shapes[name])}" for name in graph.outputs]
    return (
        f"{graph.name} takes an image of {format_shape(graph.input_shape)} and has "
        f"{len(graph.nodes)} layers, {graph.parameter_count:,} parameters and {graph.macs:,} MACs "
        f"per image. Data flows from top to bottom. Outputs: {', '.join(outputs)}."
    )
