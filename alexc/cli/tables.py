"""Tables for people: where there is no room words fold, but no figure is ever cut.

A table that is still too wide is printed all the same, and the terminal wraps its lines.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

# Words up to this length stay whole: the names of layers and engines, but not the path of a file.
_LONGEST_WORD = 20

_UNLIMITED = 10_000


def table(
    *columns: str,
    figures: Collection[str] = (),
    footers: Mapping[str, str] | None = None,
    title: str | None = None,
) -> Table:
    """An empty table. The columns among `figures` stand to the right; `footers` go by column."""
    from rich import box
    from rich.table import Table

    made = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        show_footer=footers is not None,
        title=title,
        title_justify="left",
    )
    for name in columns:
        right = name in figures
        made.add_column(
            name,
            footer=(footers or {}).get(name, ""),
            justify="right" if right else "left",
            no_wrap=right,
            overflow="fold",
        )
    return made


def pairs(rows: Iterable[tuple[str, str]]) -> Table:
    """Names and what is said of each, the names dim; of what nothing is said is left out."""
    from rich.table import Table

    made = Table.grid(padding=(0, 2, 0, 0))
    made.add_column(style="dim")
    made.add_column(overflow="fold")
    for name, value in rows:
        if value:
            made.add_row(name, value)
    return made


def show(out: Console, shown: Table, spare: Sequence[str] = ()) -> set[str]:
    """Print a table that `table` or `pairs` has made, each column no narrower than it may be.

    Columns in `spare` are left out, the first one first, while the table is too wide for the
    terminal; a line then says so. Gives the names of those left out.
    """
    from rich.measure import Measurement

    unlimited = out.options.update(width=_UNLIMITED)
    for column in shown.columns:
        cells = (column.header, column.footer, *column.cells)
        widths = [Measurement.get(out, unlimited, cell) for cell in cells]
        if column.no_wrap:
            column.min_width = max(width.maximum for width in widths)
        else:
            column.min_width = min(_LONGEST_WORD, max(width.minimum for width in widths))
    left_out: set[str] = set()
    for name in spare:
        if _narrowest(out, shown) <= out.width:
            break
        left_out.add(name)
        kept = [column for column in shown.columns if column.header != name]
        # A column knows its place: the last one has no padding behind.
        shown.columns = [replace(column, _index=index) for index, column in enumerate(kept)]
    if (needed := _narrowest(out, shown)) > out.width:
        shown.width = needed  # or else rich drops columns
    else:
        _share_out(out, shown, out.width - needed)
    out.print(shown, crop=False)
    if left_out:
        out.print("more columns on a wider terminal, and with --json")
    return left_out


def _narrowest(out: Console, shown: Table) -> int:
    """The width of a table whose columns are as narrow as they may be."""
    from rich.measure import Measurement

    narrow = copy(shown)
    narrow.columns = [replace(column, width=column.min_width) for column in shown.columns]
    return Measurement.get(out, out.options.update(width=_UNLIMITED), narrow).minimum


def _share_out(out: Console, shown: Table, room: int) -> None:
    """Give columns what they would like beyond the least, as evenly as `room` allows.

    Rich takes from the widest first, below what a column may be, and then prints a wider table.
    """
    from rich.measure import Measurement

    unlimited = out.options.update(width=_UNLIMITED)
    wanted = []
    for index, column in enumerate(shown.columns):
        cells = (column.header, column.footer, *column.cells)
        liked = max(Measurement.get(out, unlimited, cell).maximum for cell in cells)
        wanted.append((max(0, liked - (column.min_width or 0)), index))
    for place, (more, index) in enumerate(sorted(wanted)):
        given = min(more, room // (len(wanted) - place))
        shown.columns[index].width = (shown.columns[index].min_width or 0) + given
        room -= given
