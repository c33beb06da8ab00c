"""How wide text is, when nobody knows which font a viewer will draw it in.

The widths are those of DejaVu Sans, rounded up: of the fonts that viewers fall back to it is the
widest in common use, so what fits by these widths fits in Arial, Helvetica, Liberation and Segoe.
"""

from __future__ import annotations

import unicodedata
from functools import cache

# Advance in hundredths of the font size → the characters that need at most that much.
_REGULAR = {
    32: "'ijlIJ ,.·",
    37: "/:;\\|f-",
    42: "()[]t!²r",
    50: '"*_`–',
    55: "szc?L",
    60: "Fkvxy",
    64: "PTYaeo$0123456789ESbdghnpqu{}β",
    70: "KαABVXZCR",
    78: "UNH&DG",
    84: "OQw#+<=>^~×→",
    100: "M%mW@…",
}
_BOLD = {
    38: "' ijl/\\|,.IJ·",
    46: ":;-f²!()[]",
    53: 't_`r–"*',
    60: "?zcs",
    67: "Lxvyk",
    72: "aeEFToα$0123456789bdghnpqu{}β",
    78: "SYZCPBAKRVX",
    86: "UG#+<=>DHN^~×→OQ",
    100: "&w@M…",
    111: "%mW",
}


@cache
def _advances(bold: bool) -> dict[str, int]:
    groups = _BOLD if bold else _REGULAR
    return {character: width for width, characters in groups.items() for character in characters}


def _advance(character: str, bold: bool) -> int:
    known = _advances(bold).get(character)
    if known is not None:
        return known
    category = unicodedata.category(character)
    if category in ("Mn", "Me", "Cf"):  # accents that lie over the letter before, joiners
        return 0
    if category == "So":  # pictures
        return 140
    if unicodedata.east_asian_width(character) in "WF":  # Chinese, Japanese, Korean: a square
        return 100
    return 110 if bold or character.isupper() else 90


def text_width(text: str, size: float, *, bold: bool = False) -> float:
    """Pixels that `text` takes at most, in a font of `size` pixels."""
    return sum(_advance(character, bold) for character in text) * size / 100


def shorten(text: str, room: float, size: float, *, bold: bool = False) -> str:
    """`text` itself if it fits into `room` pixels, else its two ends about a `…`.

    The ends say most: names of layers differ in their first word or in their number.
    """
    if text_width(text, size, bold=bold) <= room:
        return text
    for kept in range(len(text) - 1, 1, -1):
        head = (kept + 1) // 2
        candidate = text[:head] + "…" + text[len(text) - (kept - head) :]
        if text_width(candidate, size, bold=bold) <= room:
            return candidate
    return "…"
