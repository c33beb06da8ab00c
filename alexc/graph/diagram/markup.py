"""SVG as text: elements, and the letters and colours that all parts of a diagram share.

Presentation attributes only, no style sheet and no ids: so a diagram can stand in a page beside
others, and simple viewers draw it too.
"""

from __future__ import annotations

from collections.abc import Sequence

from alexc.graph.diagram.routing import Spot
from alexc.graph.diagram.wording import Family

FONTS = "Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', 'Noto Sans CJK SC', sans-serif"
TITLE_SIZE, NAME_SIZE, TEXT_SIZE, SMALL_SIZE = 20.0, 13.0, 11.0, 10.0

# The background is part of the drawing, so that it reads alike on a light and on a dark page.
PAGE, PAPER, GROUND, EDGE = "#f7f8fa", "#ffffff", "#eef1f5", "#d5dae1"
INK, FAINT_INK, WIRE = "#1b2430", "#526070", "#6b7888"

# Family → the colour of its lines and letters, and a tint of it to lay letters on.
COLORS: dict[Family, tuple[str, str]] = {
    "input": ("#3f4c5c", "#e4e8ee"),
    "convolution": ("#1f5fa8", "#dbe9f8"),
    "fully connected": ("#6b3fa8", "#eae1f7"),
    "pooling": ("#1d6f45", "#d9f0e3"),
    "normalisation": ("#0d6570", "#d6eff2"),
    "activation": ("#a82f4a", "#fbe2e8"),
    "dropout": ("#55606e", "#e8ebef"),
    "joining": ("#8a5200", "#fdecc8"),
    "reshaping": ("#5c5a00", "#f0efc4"),
    "other": ("#55606e", "#e8ebef"),
}


def number(value: float) -> str:
    """At most one decimal: the text must not depend on the last bits of a float."""
    text = f"{value:.1f}"
    return "0" if text == "-0.0" else text.removesuffix(".0")


def escape(text: str) -> str:
    """Text for XML, which has no place for control characters and lone surrogates."""
    legal = "".join(c if c == "\n" or c.isprintable() else "�" for c in text)
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        legal = legal.replace(character, entity)
    return legal


def element(tag: str, inside: str = "", /, **attributes: str | float) -> str:
    """One element about finished markup. Underscores in attributes' names stand for hyphens."""
    words = [tag]
    for name, value in attributes.items():
        text = escape(value) if isinstance(value, str) else number(value)
        words.append(f'{name.replace("_", "-")}="{text}"')
    head = " ".join(words)
    return f"<{head}>{inside}</{tag}>" if inside else f"<{head}/>"


def group(title: str, parts: Sequence[str]) -> str:
    """Parts that belong together, under a title that viewers show and screen readers speak."""
    return element("g", "\n".join([element("title", escape(title)), *parts]))


def rectangle(spot: Spot, **attributes: str | float) -> str:
    """A rectangle in a place of the layout."""
    return element(
        "rect", x=spot.left, y=spot.top, width=spot.width, height=spot.height, **attributes
    )


def text(
    x: float,
    y: float,
    content: str,
    *,
    size: float = TEXT_SIZE,
    fill: str = INK,
    bold: bool = False,
    anchor: str = "",
) -> str:
    """A line of text whose baseline starts at (x, y), or ends or has its middle there."""
    attributes: dict[str, str | float] = {"x": x, "y": y, "fill": fill}
    if size != TEXT_SIZE:
        attributes["font_size"] = size
    if bold:
        attributes["font_weight"] = "bold"
    if anchor:
        attributes["text_anchor"] = anchor
    return element("text", escape(content), **attributes)
