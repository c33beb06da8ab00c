"""Where the boxes of a diagram stand: their ranks, their order in each, and how far right.

Boxes stand in ranks from top to bottom, each below all that it reads. A wire that passes a rank has
a lane there, as a box has a place, so no wire crosses a box. Everything follows from the order of
the boxes: the same input gives the same picture.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

# Boxes and lanes in all. A net of hundreds of layers that all read each other is no picture.
MAX_PLACES = 20_000

_BETWEEN = 26.0  # pixels between two neighbours of a rank
LANE = 10.0  # width of a lane
# How far from a bar's ends wires meet it, at least. They leave elsewhere than they arrive: where
# two bars stand in line, a wire would else hide another.
_ARRIVES, _LEAVES = 28.0, 18.0

_ORDER_SWEEPS = 8
_PLACE_SWEEPS = 6

# How much a wire wants to be straight: a lane, which has no reason to bend; a box with its only
# reader; a fork or a join; a bypass, which makes room for the layers that it goes around.
_LANE_WEIGHT, _CHAIN_WEIGHT, _FORK_WEIGHT, _BYPASS_WEIGHT = 8.0, 5.0, 3.0, 1.0


class TooManyPlaces(Exception):  # noqa: N818  (the caller makes a Diagnostic of it)
    """The wires would need more than MAX_PLACES lanes."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """The room that a box needs.

    `ports` are where wires meet its columns, from its centre. A bar may grow sideways, so that the
    wires it joins arrive straight.
    """

    width: float
    height: float
    ports: tuple[float, ...] = ()
    is_bar: bool = False


@dataclass(frozen=True, slots=True)
class Link:
    """`target` reads `source`; strands go from port to port, None being the centre."""

    source: int
    target: int
    strands: tuple[tuple[int | None, int | None], ...] = ((None, None),)


def assign_ranks(count: int, links: Sequence[Link]) -> list[int]:
    """The rank of each box: below all that it reads, and no higher than its readers ask for.

    Boxes are numbered in topological order. A box with one source moves down to its first reader,
    so that the last layers of parallel branches stand side by side.
    """
    sources: list[set[int]] = [set() for _ in range(count)]
    readers: list[set[int]] = [set() for _ in range(count)]
    for link in links:
        sources[link.target].add(link.source)
        readers[link.source].add(link.target)
    ranks = [0] * count
    for box in range(count):
        ranks[box] = max((ranks[source] + 1 for source in sources[box]), default=0)
    for box in reversed(range(count)):
        if readers[box] and len(sources[box]) == 1:
            ranks[box] = min(ranks[reader] for reader in readers[box]) - 1
    return ranks


@dataclass(frozen=True, slots=True)
class Piece:
    """The part of one or more wires between a place and a place of the next rank."""

    upper: int
    lower: int
    strands: tuple[tuple[int | None, int | None], ...]
    weight: float


def place(boxes: Sequence[Footprint], links: Sequence[Link], ranks: Sequence[int]) -> Places:
    """Places for all boxes and the lanes of wires between them, neighbours at a distance.

    Raises TooManyPlaces where the wires need more lanes than a picture can have.
    """
    places = Places(boxes, links, ranks)
    places.order()
    places.settle()
    places.grow_bars()
    return places


class Places:
    """Boxes and lanes, numbered on, boxes first. Readers of one source share its lane.

    Once `place` has made it, `left`, `right` and `centre` say where each stands from left to right,
    and `rows` which stand in each rank.
    """

    def __init__(
        self, boxes: Sequence[Footprint], links: Sequence[Link], ranks: Sequence[int]
    ) -> None:
        self.boxes = boxes
        self.rank = list(ranks)
        self.source = list(range(len(boxes)))  # the box whose wire a lane holds
        self.pieces: list[Piece] = []
        self.priority = list(range(len(boxes)))  # ties are broken in the order of the spec
        self._lay_wires(links)
        count = len(self.rank)
        self.above: list[list[Piece]] = [[] for _ in range(count)]
        self.below: list[list[Piece]] = [[] for _ in range(count)]
        for piece in self.pieces:
            self.above[piece.lower].append(piece)
            self.below[piece.upper].append(piece)
        self.left = [0.0] * count
        self.right = [0.0] * count
        self.centre = [0.0] * count
        self.rows: list[list[int]] = [[] for _ in range(max(self.rank) + 1)]
        for place in sorted(range(count), key=lambda p: (self.rank[p], self.priority[p])):
            self.rows[self.rank[place]].append(place)

    def is_box(self, place: int) -> bool:
        return place < len(self.boxes)

    def half(self, place: int) -> float:
        return (self.boxes[place].width if self.is_box(place) else LANE) / 2

    def _lay_wires(self, links: Sequence[Link]) -> None:
        """Make the lanes and the pieces, with how much each piece wants to be straight."""
        by_source: dict[int, list[Link]] = defaultdict(list)
        sources = [0] * len(self.boxes)
        for link in links:
            by_source[link.source].append(link)
            sources[link.target] += 1
        for source, read in by_source.items():
            first = self.rank[source]
            lanes = [source, *self._lay_lanes(source, read)]  # at rank first, first + 1, …
            forks = len(read) > 1
            far = [link for link in read if self.rank[link.target] > first + 1]
            # A bypass goes around layers, from where they fork to where they join.
            bypasses = {link.target for link in far if forks and sources[link.target] > 1}
            for upper, lower in pairwise(lanes):
                if upper != source:
                    weight = _LANE_WEIGHT
                elif len(bypasses) == len(far):
                    weight = _BYPASS_WEIGHT
                else:
                    weight = _FORK_WEIGHT if forks else _CHAIN_WEIGHT
                self.pieces.append(Piece(upper, lower, ((None, None),), weight))
            for link in read:
                upper = lanes[self.rank[link.target] - first - 1]
                strands = link.strands if upper == source else ((None, None),)
                if link.target in bypasses:
                    weight = _BYPASS_WEIGHT
                else:
                    fork = forks and upper == source
                    join = sources[link.target] > 1
                    weight = _FORK_WEIGHT if fork or join else _CHAIN_WEIGHT
                self.pieces.append(Piece(upper, link.target, strands, weight))

    def _lay_lanes(self, source: int, read: list[Link]) -> list[int]:
        """The lanes of a source, down to its last reader.

        Where neighbours don't say which of two places comes first, a lane stands for the foremost
        of the readers that it leads to.
        """
        waiting = sorted(read, key=lambda link: self.rank[link.target])
        foremost = waiting[-1].target
        lanes = []
        for rank in range(self.rank[foremost] - 1, self.rank[source], -1):
            while waiting and self.rank[waiting[-1].target] > rank:
                foremost = min(foremost, waiting.pop().target)
            if len(self.rank) >= MAX_PLACES:
                raise TooManyPlaces(f"boxes and wires need more than {MAX_PLACES:,} places")
            lanes.append(len(self.rank))
            self.rank.append(rank)
            self.source.append(source)
            self.priority.append(foremost)
        return lanes[::-1]

    # ---- the order in each rank ------------------------------------------------------------------

    def order(self) -> None:
        """Sort each rank by the mean position of its neighbours, and keep what crosses least."""
        position = [0.0] * len(self.rank)
        for row in self.rows:
            self._sort(row, position, self.above)
        best, fewest = [list(row) for row in self.rows], self._crossings()
        for sweep in range(_ORDER_SWEEPS):
            if fewest == 0:
                break
            upwards = sweep % 2 == 0
            for row in reversed(self.rows) if upwards else self.rows:
                self._sort(row, position, self.below if upwards else self.above)
            if (crossings := self._crossings()) < fewest:
                best, fewest = [list(row) for row in self.rows], crossings
        self.rows = best

    def _sort(self, row: list[int], position: list[float], beside: list[list[Piece]]) -> None:
        def mean(place: int) -> float:
            near = [self._other(piece, place) for piece in beside[place]]
            return sum(position[p] for p in near) / len(near) if near else position[place]

        row.sort(key=mean)
        for index, place in enumerate(row):
            position[place] = index

    def _other(self, piece: Piece, place: int) -> int:
        return piece.lower if piece.upper == place else piece.upper

    def _crossings(self) -> int:
        """Pairs of pieces that cross."""
        position = {place: index for row in self.rows for index, place in enumerate(row)}
        crossings = 0
        for row in self.rows:
            ends: list[int] = []  # of the pieces so far, from left to right above, sorted below
            for place in row:
                own = sorted(position[piece.lower] for piece in self.below[place])
                for end in own:
                    crossings += len(ends) - bisect_right(ends, end)
                for end in own:
                    insort(ends, end)
        return crossings

    # ---- the place from left to right ------------------------------------------------------------

    def settle(self) -> None:
        """Choose centres that make wires straight, weighted, where the order leaves room."""
        best: list[float] = []
        least = float("inf")
        for sweep in range(_PLACE_SWEEPS):
            # The first time nothing is known yet of the ranks below.
            sides = (self.above, self.below) if sweep else (self.above,)
            for row in self.rows if sweep % 2 == 0 else reversed(self.rows):
                self._settle_row(row, [self._wants(place, *sides) for place in row])
            bends = sum(
                piece.weight * abs(self.centre[piece.upper] - self.centre[piece.lower])
                for piece in self.pieces
            )
            if bends < least - 0.5:
                best, least = list(self.centre), bends
        self.centre = best
        for place, centre in enumerate(best):
            self.left[place] = centre - self.half(place)
            self.right[place] = centre + self.half(place)

    def _wants(self, place: int, *sides: list[list[Piece]]) -> list[tuple[float, float]]:
        """Centres that the place's neighbours would give it, with their weights."""
        wants = [
            (self.centre[self._other(piece, place)], piece.weight)
            for beside in sides
            for piece in beside[place]
        ]
        return wants or [(self.centre[place], 0.01)]

    def _settle_row(self, row: list[int], wants: list[list[tuple[float, float]]]) -> None:
        """The centres that are nearest to what is wanted, in the row's order and none too close.

        Isotonic regression under absolute differences: neighbours that would overlap are pooled,
        and a pool moves to the weighted median of what its members want.
        """
        pools: list[tuple[float, list[tuple[float, float]], list[tuple[int, float]]]] = []
        offset = 0.0
        for index, place in enumerate(row):
            if index:
                offset += self.half(row[index - 1]) + _BETWEEN + self.half(place)
            wanted = [(centre - offset, weight) for centre, weight in wants[index]]
            members = [(place, offset)]
            level = _median(wanted)
            while pools and pools[-1][0] > level:
                _, others, before = pools.pop()
                wanted = others + wanted
                members = before + members
                level = _median(wanted)
            pools.append((level, wanted, members))
        for level, _, members in pools:
            for place, shift in members:
                self.centre[place] = level + shift

    def grow_bars(self) -> None:
        """Widen each bar, as far as its neighbours let it, to all that it joins and its readers."""
        for row in self.rows:
            for index, place in enumerate(row):
                if not self.is_box(place) or not self.boxes[place].is_bar:
                    continue
                into = [x for piece in self.above[place] for x in self._ends(piece.upper)]
                out = [x for piece in self.below[place] for x in self._ends(piece.lower)]
                left = min([x - _ARRIVES for x in into] + [x - _LEAVES for x in out])
                right = max([x + _ARRIVES for x in into] + [x + _LEAVES for x in out])
                if index:
                    left = max(left, self.right[row[index - 1]] + _BETWEEN)
                if index + 1 < len(row):
                    right = min(right, self.left[row[index + 1]] - _BETWEEN)
                self.left[place] = min(left, self.left[place])
                self.right[place] = max(right, self.right[place])

    def _ends(self, place: int) -> list[float]:
        """Where wires meet the place."""
        ports = self.boxes[place].ports if self.is_box(place) else ()
        return [self.centre[place] + port for port in ports or (0.0,)]

    def arrival(self, place: int, port: int | None, start: float) -> float:
        """Where a wire that comes from `start` meets the place."""
        return self._meet(place, port, start, _ARRIVES)

    def departure(self, place: int, port: int | None, end: float) -> float:
        """Where a wire that goes to `end` leaves the place."""
        return self._meet(place, port, end, _LEAVES)

    def _meet(self, place: int, port: int | None, other: float, inset: float) -> float:
        centre = self.centre[place]
        if not self.is_box(place):
            return centre
        if port is not None:
            return centre + self.boxes[place].ports[port]
        if self.boxes[place].is_bar:
            return min(max(other, self.left[place] + inset), self.right[place] - inset)
        return centre


def _median(points: Iterable[tuple[float, float]]) -> float:
    """The weighted median of (value, weight) pairs; the middle of it where it is a stretch."""
    ordered = sorted(points)
    half = sum(weight for _, weight in ordered) / 2
    below, low = 0.0, None
    for value, weight in ordered:
        below += weight
        if low is None and below >= half - 1e-9:
            low = value
        if below > half + 1e-9:
            return value if low is None else (low + value) / 2
    return ordered[-1][0] if low is None else low
