"""How wires run between the ranks of a diagram, and how far down each rank stands.

Between two ranks wires run straight down, or turn twice. Each source has a track of its own to turn
in; wires from column to column go straight across, since their crossing is what they have to say.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from alexc.graph.diagram.layout import LANE, Piece, Places

_LEAD = 12.0  # pixels from a rank to the first track below it
_TRACK = 8.0  # from track to track
_ARROW = 16.0  # from the last track to the rank below it
_DIAGONAL = 30.0  # more, where wires cross from column to column


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a box stands. `centre` is that of its text, which a bar that has grown keeps."""

    left: float
    top: float
    width: float
    height: float
    centre: float

    @property
    def right(self) -> float:
        return self.left + self.width

    @property
    def bottom(self) -> float:
        return self.top + self.height


@dataclass(frozen=True, slots=True)
class Wire:
    """A piece of a wire, between two ranks. `arrives` if it ends at a box."""

    source: int
    points: tuple[tuple[float, float], ...]
    arrives: bool


@dataclass(frozen=True, slots=True)
class Arrangement:
    """The finished geometry, in pixels from the top left corner."""

    width: float
    height: float
    spots: tuple[Spot, ...]
    wires: tuple[Wire, ...]


def route(places: Places, headroom: Mapping[int, float]) -> Arrangement:
    """The finished drawing of these places. `headroom` is free space wanted above a rank."""
    shift = -min(places.left)
    tops: list[float] = []
    bottoms: list[float] = []
    gaps: list[tuple[list[_Strand], float]] = []  # below each rank: its lines and first track
    y = headroom.get(0, 0.0)
    for rank, row in enumerate(places.rows):
        tops.append(y)
        y += max((places.boxes[p].height for p in row if places.is_box(p)), default=0.0)
        bottoms.append(y)
        strands = _strands(places, row)
        tracks = _assign_tracks(strands)
        first = y + _LEAD
        gaps.append((strands, first))
        if rank + 1 < len(places.rows):
            crossing = _DIAGONAL if any(strand.diagonal for strand in strands) else 0.0
            y = first + max(0, tracks - 1) * _TRACK + crossing + _ARROW
            y += headroom.get(rank + 1, 0.0)

    spots = tuple(
        Spot(
            places.left[box] + shift,
            tops[places.rank[box]],
            places.right[box] - places.left[box],
            footprint.height,
            places.centre[box] + shift,
        )
        for box, footprint in enumerate(places.boxes)
    )
    wires = []
    for rank, (strands, first) in enumerate(gaps):
        for strand in strands:
            upper, lower = strand.piece.upper, strand.piece.lower
            begin = spots[upper].bottom if places.is_box(upper) else tops[rank]
            start, end, foot = strand.start + shift, strand.end + shift, tops[rank + 1]
            points = [(start, begin)]
            if strand.diagonal:
                points += [(start, bottoms[rank] + 4), (end, foot - _ARROW / 2)]
            elif not strand.straight:
                turn = first + strand.track * _TRACK
                points += [(start, turn), (end, turn)]
            points.append((start if strand.straight else end, foot))
            wires.append(Wire(places.source[upper], tuple(points), places.is_box(lower)))
    return Arrangement(max(places.right) + shift, y, spots, tuple(wires))


@dataclass(slots=True)
class _Strand:
    """One line between two ranks."""

    piece: Piece
    out: int | None
    into: int | None
    start: float
    end: float
    track: int = -1

    @property
    def straight(self) -> bool:
        return abs(self.start - self.end) < 0.5

    @property
    def diagonal(self) -> bool:
        """Whether it goes over from one column to the other."""
        return self.out is not None and self.into is not None and self.out != self.into


class _Net:
    """Lines of one source that share a track."""

    def __init__(self, strands: list[_Strand]) -> None:
        self.strands = strands
        self.starts = sorted({strand.start for strand in strands})
        self.ends = sorted({strand.end for strand in strands})
        self.low = min(self.starts[0], self.ends[0])
        self.high = max(self.starts[-1], self.ends[-1])


def _strands(places: Places, row: Sequence[int]) -> list[_Strand]:
    """All lines that leave the places of a rank downwards."""
    strands = []
    for upper in row:
        for piece in places.below[upper]:
            for out, into in piece.strands:
                # Each end of a bar follows the other end of the wire, as far as it can.
                start = places.departure(upper, out, places.centre[piece.lower])
                end = places.arrival(piece.lower, into, start)
                start = places.departure(upper, out, end)
                strands.append(_Strand(piece, out, into, start, end))
    return strands


def _assign_tracks(strands: Sequence[_Strand]) -> int:
    """Give every line that turns a track, numbered from above; return how many there are.

    Lines of one source share a track. Where one line starts above the place in which another ends,
    its track is the upper one, or both would be drawn over each other.
    """
    bundles: dict[tuple[int, float], list[_Strand]] = defaultdict(list)
    for strand in strands:
        if not strand.straight and not strand.diagonal:
            # Lines that leave a box at one point, and lines from its columns to one point.
            joins = strand.out is not None and strand.into is None
            meeting = strand.end if joins else strand.start
            bundles[strand.piece.upper, meeting].append(strand)
    nets = [_Net(lines) for _, lines in sorted(bundles.items(), key=lambda item: item[0][1])]
    above = _blockers(nets)
    order = _from_above(above)
    track_of: dict[int, int] = {}
    spans: list[list[tuple[float, float]]] = []  # of each track's nets
    for index in order:
        net = nets[index]
        track = max((track_of[other] + 1 for other in above[index] if other in track_of), default=0)
        while track < len(spans) and any(
            net.low < high + LANE and low < net.high + LANE for low, high in spans[track]
        ):
            track += 1
        spans += [[] for _ in range(track + 1 - len(spans))]
        spans[track].append((net.low, net.high))
        track_of[index] = track
        for strand in net.strands:
            strand.track = track
    return len(spans)


def _blockers(nets: Sequence[_Net]) -> list[set[int]]:
    """For each net the others that start above a place in which it ends."""
    starts = sorted((start, index) for index, net in enumerate(nets) for start in net.starts)
    blockers: list[set[int]] = []
    for index, net in enumerate(nets):
        found = set()
        for end in net.ends:
            for position in range(bisect_left(starts, (end - LANE / 2, 0)), len(starts)):
                start, other = starts[position]
                if start >= end + LANE / 2:
                    break
                found.add(other)
        blockers.append(found - {index})
    return blockers


def _from_above(above: Sequence[set[int]]) -> list[int]:
    """An order in which each follows all that must be above it.

    Where some block each other in a ring, the first of them is taken: two lines will touch.
    """
    below: list[list[int]] = [[] for _ in above]
    for index, others in enumerate(above):
        for other in others:
            below[other].append(index)
    missing = [len(others) for others in above]
    free = [index for index, count in enumerate(missing) if count == 0]
    order: list[int] = []
    taken = set(free)
    for first in range(len(above) + 1):
        while free:
            index = heapq.heappop(free)
            order.append(index)
            for follower in below[index]:
                missing[follower] -= 1
                if missing[follower] == 0 and follower not in taken:
                    taken.add(follower)
                    heapq.heappush(free, follower)
        if first < len(above) and first not in taken:
            taken.add(first)
            free = [first]
    return order
