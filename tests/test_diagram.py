"""A diagram is read back from its SVG: what it says must be what the graph is."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexc.diagnostics import AlexcError
from alexc.frontend import load_net
from alexc.graph.diagram import svg
from alexc.graph.diagram.boxes import fold
from alexc.graph.diagram.layout import Footprint, Link, place
from alexc.graph.diagram.lettering import shorten, text_width
from alexc.graph.diagram.markup import COLORS, FAINT_INK, GROUND, INK, PAGE, PAPER
from alexc.graph.diagram.routing import route
from alexc.graph.diagram.wording import facts, family, summary
from alexc.graph.graph import Graph, Node, make_node
from alexc.ops import OPS
from alexc.ops.base import Array, Op, Padding, Shape, format_shape
from alexc.ops.conv import Conv
from alexc.ops.dense import Linear
from alexc.ops.norm import BatchNorm, Lrn
from alexc.ops.pointwise import Dropout, Relu, Softmax, Tanh
from alexc.ops.pool import AdaptiveAvgPool, AvgPool, MaxPool
from alexc.ops.structure import Add, Concat, Flatten
from tests.command_line import Alexc, alexc

__all__ = ["alexc"]

ROOT = Path(__file__).resolve().parents[1]
SPECS = sorted((ROOT / "specs").glob("**/*.yaml"))
Layer = tuple[str, Op, tuple[str, ...]]


# ---- reading a diagram ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Area:
    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: Area, by: float = 0.5) -> bool:
        return (
            min(self.right, other.right) - max(self.left, other.left) > by
            and min(self.bottom, other.bottom) - max(self.top, other.top) > by
        )

    def holds(self, other: Area) -> bool:
        return (
            self.left <= other.left + 0.1
            and other.right <= self.right + 0.1
            and self.top <= other.top + 0.1
            and other.bottom <= self.bottom + 0.1
        )


@dataclass(frozen=True)
class Line:
    """A line of text, as wide as it may become."""

    text: str
    area: Area


@dataclass(frozen=True)
class Chip:
    line: Line
    area: Area
    title: str


@dataclass(frozen=True)
class Card:
    title: str
    area: Area
    columns: tuple[Area, ...]
    lines: tuple[Line, ...]
    chips: tuple[Chip, ...]

    @property
    def texts(self) -> list[str]:
        return [line.text for line in self.lines]

    @property
    def layer(self) -> str:
        """The whole name of the layer that the card is of."""
        return self.title.partition(":")[0]

    @property
    def layers(self) -> set[str]:
        """The layer and those folded into its card."""
        return {self.layer, *(chip.title.partition(":")[0] for chip in self.chips)}


@dataclass(frozen=True)
class Wire:
    tensor: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Diagram:
    cards: tuple[Card, ...]
    wires: tuple[Wire, ...]
    frames: dict[str, Area]


def tag(element: ET.Element) -> str:
    return element.tag.removeprefix("{http://www.w3.org/2000/svg}")


def children(element: ET.Element, wanted: str) -> list[ET.Element]:
    return [child for child in element if tag(child) == wanted]


def area(rect: ET.Element) -> Area:
    x, y, width, height = (float(rect.attrib[key]) for key in ("x", "y", "width", "height"))
    return Area(x, y, x + width, y + height)


def line(text: ET.Element) -> Line:
    content, x, y = text.text or "", float(text.attrib["x"]), float(text.attrib["y"])
    size = float(text.attrib.get("font-size", 11))
    width = text_width(content, size, bold="font-weight" in text.attrib)
    share = {"start": 0.0, "middle": 0.5, "end": 1.0}[text.attrib.get("text-anchor", "start")]
    left = x - share * width
    return Line(content, Area(left, y - 0.75 * size, left + width, y + 0.2 * size))


def title(element: ET.Element) -> str:
    (found,) = children(element, "title")
    return found.text or ""


def points(path: str) -> tuple[tuple[float, float], ...]:
    """The corners of a wire, round ones by their control points."""
    found = []
    for letter, numbers in re.findall(r"([MLQ])([^MLQ]*)", path):
        values = [float(number) for number in numbers.split()]
        found.append((values[0], values[1]))
        if letter == "Q":
            found.append((values[2], values[3]))
    return tuple(found)


def read_card(group: ET.Element) -> Card:
    rects = [area(rect) for rect in children(group, "rect")]
    outline = Area(
        min(rect.left for rect in rects),
        min(rect.top for rect in rects),
        max(rect.right for rect in rects),
        max(rect.bottom for rect in rects),
    )
    chips = [chip for chip in children(group, "g") if children(chip, "title")]
    return Card(
        title(group),
        outline,
        tuple(rects[1:]),
        tuple(line(text) for text in children(group, "text")),
        tuple(
            Chip(line(children(c, "text")[0]), area(children(c, "rect")[0]), title(c))
            for c in chips
        ),
    )


def read(text: str) -> Diagram:
    root = ET.fromstring(text)
    (drawing,) = [group for group in children(root, "g") if "transform" in group.attrib]
    outlines = [area(rect) for rect in children(drawing, "rect")]
    cards: list[Card] = []
    wires: list[Wire] = []
    frames: dict[str, Area] = {}
    for group in children(drawing, "g"):
        if group.attrib.get("fill") == "none":
            wires = [Wire(title(p), points(p.attrib["d"])) for p in children(group, "path")]
        elif len(children(group, "text")) == 1:
            frames[title(group)] = outlines[len(frames)]
        else:
            cards.append(read_card(group))
    return Diagram(tuple(cards), tuple(wires), frames)


def edges(diagram: Diagram) -> set[tuple[str, str]]:
    """(tensor, layer that reads it), by following every wire from card to card."""
    found = set()
    by_tensor = defaultdict(list)
    for wire in diagram.wires:
        by_tensor[wire.tensor].append(wire.points)
    for tensor, pieces in by_tensor.items():
        ends = {piece[-1] for piece in pieces}
        for piece in pieces:
            (x, y), (x_end, y_end) = piece[0], piece[-1]
            owners = [c for c in diagram.cards if abs(c.area.bottom - y) < 0.2 and on(c, x)]
            if (x, y) not in ends:
                (owner,) = owners
                assert tensor.split(" ")[0] in owner.layers
            for card in diagram.cards:
                if abs(card.area.top - 5 - y_end) < 0.2 and on(card, x_end):
                    found.add((tensor.split(" ")[0], card.layer))
    return found


def on(card: Card, x: float) -> bool:
    return card.area.left < x < card.area.right


def crossed(wire: Wire, card: Card) -> bool:
    """Whether a wire runs through the inside of a card."""
    inside = Area(card.area.left + 1, card.area.top + 1, card.area.right - 1, card.area.bottom - 1)
    for (x1, y1), (x2, y2) in zip(wire.points, wire.points[1:], strict=False):
        box = Area(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
        if (
            box.left < inside.right
            and inside.left < box.right
            and box.top < inside.bottom
            and inside.top < box.bottom
        ):
            return True
    return False


def expected_edges(graph: Graph) -> set[tuple[str, str]]:
    """The edges between boxes: those inside of a box are not drawn."""
    heads = {layer.name: box.name for box in fold(graph) for layer in box.layers}
    return {
        (source, heads[node.name])
        for node in graph.nodes
        for source in node.inputs
        if heads.get(source) != heads[node.name]
    }


def check(graph: Graph) -> Diagram:
    """What must hold of every diagram."""
    diagram = read(svg(graph))
    assert edges(diagram) == expected_edges(graph)
    drawn = {layer for card in diagram.cards for layer in card.layers}
    assert {"input", *(node.name for node in graph.nodes)} <= drawn
    for index, card in enumerate(diagram.cards):
        assert not any(card.area.overlaps(other.area) for other in diagram.cards[:index])
        assert not any(crossed(wire, card) for wire in diagram.wires)
        boxes = [text.area for text in card.lines] + [chip.area for chip in card.chips]
        for position, box in enumerate(boxes):
            assert card.area.holds(box), card.title
            assert not any(box.overlaps(other) for other in boxes[:position]), card.title
        for chip in card.chips:
            assert chip.area.holds(chip.line.area)
    for name, frame in diagram.frames.items():
        for card in diagram.cards:
            belongs = card.layer.rpartition("/")[0] == name
            assert frame.holds(card.area) if belongs else not frame.overlaps(card.area)
    return diagram


def card_of(diagram: Diagram, layer: str) -> Card:
    (found,) = [card for card in diagram.cards if card.layer == layer]
    return found


# ---- the nets that come with alexc ---------------------------------------------------------------


@pytest.mark.parametrize("spec", SPECS, ids=lambda path: path.stem)
def test_the_diagram_of_a_spec_says_what_the_net_is(spec: Path) -> None:
    graph = load_net(spec).graph
    diagram = check(graph)
    for card in diagram.cards[1:]:
        node = graph.by_name[card.layer]
        assert format_shape(node.shape) in card.texts
        assert not node.parameter_count or f"{node.parameter_count:,}" in card.texts
        shown = f"{node.name.rpartition('/')[0]}/" if node.name not in card.texts else ""
        assert node.name.removeprefix(shown) in card.texts


def test_alexnet_is_drawn_in_two_columns() -> None:
    diagram = read(svg(load_net(ROOT / "specs/alexnet.yaml").graph))
    in_columns = [card.layer for card in diagram.cards if card.columns]
    assert in_columns == "conv1 pool1 conv2 pool2 conv3 conv4 conv5 pool5".split()
    for layer, half in (("conv1", "48×55×55"), ("conv2", "128×27×27"), ("conv3", "192×13×13")):
        assert card_of(diagram, layer).texts.count(half) == 2

    lines = defaultdict(list)
    for wire in diagram.wires:
        lines[wire.tensor].append((wire.points[0][0], wire.points[-1][0]))
    # conv2, conv4 and conv5 read their own column, conv3 and fc6 both; conv1 is read by both.
    for tensor in ("pool1 96×27×27", "relu3 384×13×13", "relu4 384×13×13"):
        (left, left_end), (right, right_end) = lines[tensor]
        assert left == left_end < right == right_end
    assert len(lines["pool2 256×13×13"]) == 4
    assert len({start for start, _ in lines["flatten 9216"]}) == 2
    assert len({end for _, end in lines["flatten 9216"]}) == 1
    assert len({end for _, end in lines["input 3×227×227"]}) == 2


def test_alexnet_says_what_each_layer_does_and_holds() -> None:
    diagram = read(svg(load_net(ROOT / "specs/alexnet.yaml").graph))
    assert [card.texts for card in diagram.cards[:3]] == [
        ["input", "3×227×227", "image"],
        ["48×55×55", "48×55×55", "conv1", "96×55×55", "conv 11×11 /4", "34,944"],
        ["48×27×27", "48×27×27", "pool1", "96×27×27", "max 3×3 /2"],
    ]
    assert card_of(diagram, "conv2").texts[2:] == [
        "conv2",
        "256×27×27",
        "conv 5×5, pad 2, 2 groups",
        "307,456",
    ]
    chips = [chip.line.text for chip in card_of(diagram, "conv1").chips]
    assert chips == ["relu1", "norm1 LRN 5 channels"]
    assert [chip.line.text for chip in card_of(diagram, "fc6").chips] == [
        "relu6",
        "drop6 dropout 0.5",
    ]
    assert [chip.line.text for chip in card_of(diagram, "fc8").chips] == ["output"]
    assert "beta 0.75, k 2, alpha_per element" in card_of(diagram, "conv1").chips[1].title
    assert "border between the columns" in card_of(diagram, "conv1").chips[1].title


def test_googlenet_stands_in_frames_with_four_branches_side_by_side() -> None:
    diagram = read(svg(load_net(ROOT / "specs/zoo/googlenet.yaml").graph))
    modules = "3a 3b 4a 4b 4c 4d 4e 5a 5b".split()
    assert list(diagram.frames) == ["conv2", *(f"inception_{module}" for module in modules)]
    for module in modules:
        last = [
            card_of(diagram, f"inception_{module}/{name}").area
            for name in ("1x1", "3x3", "5x5", "pool_proj")
        ]
        assert len({area.top for area in last}) == 1
        assert [area.left for area in last] == sorted(area.left for area in last)
        joined = card_of(diagram, f"inception_{module}/output")
        assert joined.area.left < last[0].right
        assert last[3].left < joined.area.right
        assert joined.texts[0] == "output"


def test_resnet_keeps_its_trunk_straight_beside_what_goes_around() -> None:
    diagram = read(svg(load_net(ROOT / "specs/zoo/resnet18.yaml").graph))
    through = [wire for wire in diagram.wires if wire.tensor.startswith("layer1_0/relu1 ")]
    assert {len(wire.points) for wire in through} == {2}
    assert all(wire.points[0][0] == wire.points[-1][0] for wire in through)
    starts = {
        wire.points[0][0] for wire in diagram.wires if wire.tensor.startswith("layer1_0/relu ")
    }
    assert len(starts) == 2  # to layer1_1/conv1, and around it


def test_the_drawing_in_the_documentation_is_what_the_command_draws(
    alexc: Alexc, tmp_path: Path
) -> None:
    drawn = tmp_path / "alexnet.svg"
    ran = alexc("inspect", ROOT / "specs/alexnet.yaml", "--diagram", drawn)
    assert ran.status == 0
    assert drawn.read_bytes() == (ROOT / "docs/alexnet.svg").read_bytes(), (
        "alexc inspect specs/alexnet.yaml --diagram docs/alexnet.svg draws it anew"
    )


# ---- any net -------------------------------------------------------------------------------------


def chain(*ops: tuple[str, Op], shape: Shape = (4, 9, 11), outputs: tuple[str, ...] = ()) -> Graph:
    layers: list[Layer] = []
    for name, op in ops:
        layers.append((name, op, (layers[-1][0] if layers else "input",)))
    return Graph.build("net", shape, layers, outputs or (layers[-1][0],))


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Graphs of any wiring: chains, branches, ways around, several outputs, groups, prefixes."""
    layers: list[Layer] = []
    known = ["input"]
    for index in range(draw(st.integers(1, 16))):
        sources = draw(st.lists(st.sampled_from(known[-6:]), min_size=1, max_size=3))
        ops: list[Op] = [
            Conv(out_channels=4, kernel_size=(3, 3), padding=Padding(top=2, left=2), groups=groups)
            for groups in (1, 2)
        ]
        ops += [Relu(), Dropout(), BatchNorm(), Tanh()]
        op = draw(st.sampled_from(ops)) if len(sources) == 1 else Add()
        prefix = draw(st.sampled_from(["", "", "", "a/", "b/", "a/c/"]))
        name = f"{prefix}{draw(st.sampled_from(['layer', '卷积', 'x']))}{index}"
        layers.append((name, op, tuple(sources)))
        known.append(name)
    names = [name for name, _, _ in layers]
    read = {source for _, _, sources in layers for source in sources}
    outputs = {name for name in names if name not in read}
    outputs |= draw(st.sets(st.sampled_from(names), max_size=2))
    return Graph.build("net", (4, 9, 11), layers, tuple(n for n in names if n in outputs))


@settings(max_examples=80)
@given(graphs())
def test_any_wiring_can_be_read_back(graph: Graph) -> None:
    diagram = check(graph)
    marked = {
        card.layer for card in diagram.cards if any(c.line.text == "output" for c in card.chips)
    }
    heads = {layer.name: box.name for box in fold(graph) for layer in box.layers}
    assert marked == {heads[output] for output in graph.outputs}


@settings(max_examples=10)
@given(graphs())
def test_the_same_net_is_drawn_the_same(graph: Graph) -> None:
    again = Graph.build(graph.name, graph.input_shape, graph.layers(), graph.outputs)
    assert svg(graph) == svg(again)


def test_only_a_layer_that_nothing_else_reads_is_folded() -> None:
    conv = Conv(out_channels=4, kernel_size=(1, 1))
    graph = Graph.build(
        "net",
        (4, 9, 11),
        [
            ("first", Relu(), ("input",)),
            ("conv", conv, ("first",)),
            ("norm", BatchNorm(), ("conv",)),
            ("relu", Relu(), ("norm",)),
            ("tanh", Tanh(), ("relu",)),  # relu has two readers
            ("sum", Add(), ("relu", "tanh")),
            ("drop", Dropout(), ("sum",)),
            ("soft", Softmax(), ("drop",)),  # drop is an output
            ("flat", Flatten(), ("soft",)),
        ],
        ("drop", "flat"),
    )
    boxes = [" ".join(layer.name for layer in box.layers) for box in fold(graph)]
    assert boxes == ["", "first", "conv norm relu", "tanh", "sum drop", "soft flat"]
    check(graph)


def test_columns_end_where_a_layer_mixes_them() -> None:
    def conv(groups: int) -> Conv:
        return Conv(out_channels=4, kernel_size=(1, 1), groups=groups)

    graph = chain(
        ("mixed", conv(1)),
        ("before", conv(1)),
        ("pool", MaxPool(kernel_size=(2, 2))),
        ("halves", conv(2)),
        ("average", AvgPool(kernel_size=(2, 2))),
        ("four", conv(4)),
    )
    columns = {box.name: box.columns for box in fold(graph)}
    assert columns == {
        "input": 1,
        "mixed": 1,
        "before": 2,
        "pool": 2,
        "halves": 2,
        "average": 2,
        "four": 1,
    }
    check(graph)


def test_a_frame_that_would_hold_other_layers_is_left_out_and_names_are_whole() -> None:
    conv = Conv(out_channels=4, kernel_size=(1, 1))
    graph = chain(
        ("a/one", conv), ("other", conv), ("a/two", conv), ("b/one", conv), ("b/two", conv)
    )
    diagram = check(graph)
    assert list(diagram.frames) == ["b"]
    assert [card.texts[0] for card in diagram.cards[1:]] == [
        "a/one",
        "other",
        "a/two",
        "one",
        "two",
    ]


def test_a_prefix_within_a_prefix_gets_the_frame() -> None:
    conv = Conv(out_channels=4, kernel_size=(1, 1))
    names = ("a/one", "a/b/one", "a/b/two", "a/two")
    assert list(check(chain(*((name, conv) for name in names))).frames) == ["a/b"]


def test_long_names_are_cut_in_the_middle_and_whole_in_the_title() -> None:
    long, chinese = "layer_" + "long_" * 18 + "end", "卷" * 60 + "末"
    conv = Conv(out_channels=4, kernel_size=(1, 1))
    diagram = check(chain((long, conv), (chinese, conv), ("act" * 30, Tanh())))
    first, second = (card.texts[0] for card in diagram.cards[1:])
    assert re.fullmatch(r"layer_\S+…\S+_end", first)
    assert re.fullmatch(r"卷+…卷+末", second)
    assert diagram.cards[1].layer == long


def test_any_text_makes_a_well_formed_file() -> None:
    name = "a<b>&\"'\x00\x1b\ud800\ufffe]]>"
    text = svg(chain((name, Relu())))
    root = ET.fromstring(text.encode())
    assert "a<b>&\"'����]]>: relu" in [e.text and e.text.splitlines()[0] for e in root.iter()]


def test_a_file_needs_nothing_but_a_viewer() -> None:
    text = svg(load_net(ROOT / "specs/alexnet.yaml").graph)
    root = ET.fromstring(text)
    assert {tag(element) for element in root.iter()} <= set(
        "svg title desc g rect path text".split()
    )
    attributes = {name for element in root.iter() for name in element.attrib}
    assert not attributes & set("id class style href src onload".split())
    assert "url(" not in text
    assert text.count("http") == 1
    assert [tag(child) for child in root][:3] == ["title", "desc", "rect"]
    assert "60,965,224 parameters" in (children(root, "desc")[0].text or "")
    page = area(children(root, "rect")[0])
    assert (page.right + 0.5, page.bottom + 0.5) == tuple(
        float(root.attrib[key]) for key in ("width", "height")
    )


def test_the_legend_names_the_families_that_are_used() -> None:
    text = svg(chain(("conv", Conv(out_channels=4, kernel_size=(1, 1))), ("bn", BatchNorm())))
    legend = [e.text for e in children(ET.fromstring(text), "text")]
    assert [word for word in legend if word in COLORS] == ["input", "convolution", "normalisation"]


def test_a_wire_turns_above_another_that_ends_below_its_start() -> None:
    boxes = [Footprint(60, 20)] * 4
    links = [Link(0, 2), Link(1, 3)]
    places = place(boxes, links, [0, 0, 1, 1])
    places.centre = [0.0, 200.0, 200.0, 400.0]  # the first ends where the second starts
    places.left = [centre - 30 for centre in places.centre]
    first, second = route(places, {}).wires
    assert first.points[-1][0] == second.points[0][0]
    assert first.points[1][1] > second.points[1][1] + 5


def test_wires_without_end_are_refused() -> None:
    layers: list[Layer] = [("a0", Add(), ("input", "input"))]
    for index in range(1, 300):
        layers.append((f"a{index}", Add(), tuple(f"a{before}" for before in range(index)) * 2))
    graph = Graph.build("knot", (1, 2, 3), layers, ("a299",))
    with pytest.raises(AlexcError) as caught:
        svg(graph)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "diagram/too-large"
    assert diagnostic.message == (
        "knot can't be drawn: boxes and wires need more than 20,000 places"
    )


# ---- words ---------------------------------------------------------------------------------------


def described() -> Iterator[tuple[Op, tuple[Shape, ...], str]]:
    image = (6, 9, 11)
    yield Conv(out_channels=8, kernel_size=(3, 5)), (image,), "conv 3×5"
    yield (
        Conv(out_channels=8, kernel_size=(3, 3), stride=(2, 1), padding=Padding(top=1, bottom=1)),
        (image,),
        "conv 3×3 /2×1, pad 1×0",
    )
    yield (
        Conv(out_channels=6, kernel_size=(2, 2), dilation=(2, 2), groups=6, bias=False),
        (image,),
        "conv 2×2, dilation 2, 6 groups",
    )
    yield (
        Conv(out_channels=6, kernel_size=(2, 2), padding=Padding(left=1), dilation=(1, 3)),
        (image,),
        "conv 2×2, pad left 1, dilation 1×3",
    )
    yield Linear(out_features=5), ((7,),), "linear 7 → 5"
    yield MaxPool(kernel_size=(3, 3), ceil_mode=True), (image,), "max 3×3 /3, ceil"
    yield AvgPool(kernel_size=(2, 3), stride=(1, 1)), (image,), "average 2×3"
    yield AdaptiveAvgPool(output_size=(1, 1)), (image,), "global average"
    yield AdaptiveAvgPool(output_size=(2, 3)), (image,), "average to 2×3"
    lrn = {"size": 5, "alpha": 1e-4, "beta": 0.75, "k": 2.0, "alpha_per": "window"}
    yield Lrn.model_validate(lrn), (image,), "LRN 5 channels"
    yield Lrn.model_validate(lrn | {"region": "within_channel"}), (image,), "LRN 5×5 pixels"
    yield BatchNorm(), (image,), "batch norm"
    yield Dropout(p=0.25), (image,), "dropout 0.25"
    yield Flatten(), (image,), "flatten to 594"
    yield Add(), (image, image, image), "sum of 3"
    yield Concat(), (image, (2, 9, 11)), "concat 6 + 2"
    yield Concat(), ((2,),) * 7, "concat of 7"


@pytest.mark.parametrize("op, shapes, words", list(described()), ids=lambda value: str(value)[:40])
def test_a_summary_says_what_a_layer_does(op: Op, shapes: tuple[Shape, ...], words: str) -> None:
    inputs = tuple(f"in{index}" for index in range(len(shapes)))
    assert summary(make_node("layer", op, inputs, shapes)) == words


def test_facts_say_all_that_was_set() -> None:
    conv = Conv(out_channels=8, kernel_size=(3, 5), padding=Padding(top=1), bias=False)
    node: Node = make_node("conv1", conv, ("in",), ((6, 9, 11),))
    assert facts(node) == [
        "conv1: conv (out_channels 8, kernel_size 3×5, padding top 1, bias no)",
        "in 6×9×11 → 8×8×7",
        "720 parameters: weight 8×6×3×5",
        "40,320 MACs per image",
    ]


@pytest.mark.parametrize("op", OPS.values(), ids=lambda op: op.kind)
def test_every_op_has_its_family(op: type[Op]) -> None:
    assert family(op.model_construct()) != "other"


def test_an_op_of_no_family_is_drawn_by_its_kind_and_fields() -> None:
    class Scale(Op):
        kind = "scale_by"
        factor: float = 1.0

        def output_shape(self, *inputs: Shape) -> Shape:
            return inputs[0]

        def reference(self, inputs: Sequence[Array], parameters: Mapping[str, Array]) -> Array:
            assert not parameters
            return inputs[0] * self.factor

    graph = chain(("conv", Conv(out_channels=4, kernel_size=(1, 1))), ("s", Scale(factor=0.5)))
    assert check(graph).cards[2].texts[2] == "scale by factor 0.5"


# ---- letters and colours -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, bold, em",
    [  # advances of DejaVu Sans, which the table must not fall short of
        ("m", False, 0.974),
        ("W", True, 1.103),
        ("0123456789", False, 6.362),
        ("0123456789", True, 6.958),
        ("×", False, 0.838),
        ("conv1", True, 0.593 + 0.687 + 0.712 + 0.652 + 0.696),
        ("卷积层", False, 3.0),
        ("é", False, 0.615),
        ("e\u0301", False, 0.615),
        ("Щ", False, 1.064),
        ("ｗ", False, 1.0),
    ],
)
def test_text_is_measured_wide_enough_and_not_by_half_too_wide(
    text: str, bold: bool, em: float
) -> None:
    width = text_width(text, 10, bold=bold)
    assert 10 * em <= width + 0.05
    assert width <= 15 * em


def test_text_is_shortened_to_both_of_its_ends() -> None:
    assert shorten("convolution", 1000, 10) == "convolution"
    cut = shorten("first_convolution_9", 60, 10)
    assert cut.startswith("fir")
    assert cut.endswith("_9")
    assert "…" in cut
    assert text_width(cut, 10) <= 60
    assert shorten("convolution", 1, 10) == "…"


def contrast(one: str, other: str) -> float:
    """WCAG's ratio of the lightness of two colours."""

    def light(color: str) -> float:
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        r, g, b = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    dark, bright = sorted((light(one), light(other)))
    return (bright + 0.05) / (dark + 0.05)


def test_letters_stand_out_from_what_they_lie_on() -> None:
    for line, tint in COLORS.values():
        for letters, ground in ((line, tint), (line, PAPER), (INK, tint)):
            assert contrast(letters, ground) >= 4.5, (letters, ground)
    for ground in (PAGE, GROUND, PAPER):
        assert contrast(FAINT_INK, ground) >= 4.5


# ---- the command ---------------------------------------------------------------------------------


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "net.yaml"
    path.write_text(
        "alexc: 1\nname: net\ninput: {channels: 3, height: 9, width: 11}\n"
        "layers:\n  conv1: {op: conv, out_channels: 5, kernel_size: 3}\n  relu1: relu\n",
        encoding="utf-8",
    )
    return path


def test_inspect_writes_the_diagram_and_says_so(alexc: Alexc, spec: Path) -> None:
    target = spec.parent / "图.svg"
    target.write_text("<svg>what was there before</svg>")
    ran = alexc("inspect", spec, "--diagram", target, "--json")
    assert ran.status == 0
    assert ran.json["name"] == "net"  # stdout holds the result alone
    assert str(target) in ran.err
    check(load_net(spec).graph)
    assert target.read_text(encoding="utf-8") == svg(load_net(spec).graph)
    assert sorted(path.name for path in spec.parent.iterdir()) == ["net.yaml", "图.svg"]


def test_inspect_refuses_a_directory(alexc: Alexc, spec: Path) -> None:
    ran = alexc("inspect", spec, "--diagram", spec.parent)
    assert (ran.status, ran.out) == (2, "")
    assert "error[inspect/diagram]" in ran.err
    assert "is a directory" in ran.err
    assert f"--diagram {spec.parent / 'net.svg'}" in ran.err


def test_inspect_says_where_it_cannot_write(alexc: Alexc, spec: Path) -> None:
    ran = alexc("inspect", spec, "--diagram", spec.parent / "none" / "net.svg")
    assert (ran.status, ran.out) == (2, "")
    assert "error[file/unwritable]" in ran.err


def test_a_bad_spec_leaves_the_old_diagram(alexc: Alexc, spec: Path) -> None:
    target = spec.parent / "net.svg"
    target.write_text("what was there before")
    spec.write_text(spec.read_text().replace("kernel_size: 3", "kernel_size: 30"))
    assert alexc("inspect", spec, "--diagram", target).status == 1
    assert target.read_text() == "what was there before"


def test_the_diagram_replaces_drawings_only(alexc: Alexc, spec: Path) -> None:
    before = spec.read_text()
    ran = alexc("inspect", spec, "--diagram", spec)
    assert ran.status == 2
    assert "exists and is no SVG file" in ran.err
    assert spec.read_text() == before
