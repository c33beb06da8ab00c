"""Misspelt names: which of the known ones was probably meant.

A file in which everything is wrong must not take longer to judge than a good one, so no word is
compared with every name. Names are indexed by their spellings with one letter left out; a word is
looked up by its own spellings with up to two left out. That finds a wrong, a missing, a surplus and
a swapped letter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import SequenceMatcher
from functools import cached_property
from itertools import combinations, islice

_LONGEST_WORD = 64
_LONGEST_FOR_TWO = 20  # beyond, only one letter is left out: the ways to leave out two are too many
_MOST_CANDIDATES = 8  # of one spelling: conv1, conv2, … are all one letter from `conv`
_FEW_NAMES = 64  # so many can be looked through for one that holds the word, or is held by it
_LEAST_RATIO = 0.6


class Names:
    """The names that a word at some place of a spec may be."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = tuple(names)

    def nearest(self, word: str) -> str | None:
        """The name that `word` was probably meant to be, or None if it is like none of them."""
        folded = _fold(word[: _LONGEST_WORD + 1])
        if not folded or len(folded) > _LONGEST_WORD:
            return None
        near: dict[str, None] = {}
        for count in range(3):
            for spelling in _shortened(folded, count):
                near.update(dict.fromkeys(self._spellings.get(spelling, ())))
            if near:  # with fewer letters left out it is nearer
                break
        if len(self._names) <= _FEW_NAMES and len(folded) >= 3:
            for name in self._names:
                # `kernel` for kernel_size, `conv2d` for conv, `norm` for batch_norm
                part, whole = sorted((folded, _fold(name)), key=len)
                if len(part) >= 3 and part in whole:
                    near[name] = None
        ranked = [(SequenceMatcher(None, folded, _fold(name)).ratio(), name) for name in near]
        best = max(ranked, key=lambda pair: pair[0], default=(0.0, ""))
        return best[1] if best[0] >= _LEAST_RATIO else None

    def did_you_mean(self, word: str) -> str | None:
        """The question that a diagnostic asks, or None if there is nothing to ask."""
        name = self.nearest(word)
        return f"did you mean {name}?" if name is not None and name != word else None

    @cached_property
    def _spellings(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name in self._names:
            folded = _fold(name)
            for spelling in (folded, *_shortened(folded, 1)):
                names = found.setdefault(spelling, [])
                if len(names) < _MOST_CANDIDATES and name not in names:
                    names.append(name)
        return found


def _fold(word: str) -> str:
    """The word without what a hand gets wrong most: case, and the marks between its parts."""
    return "".join(c for c in word.casefold() if c.isalnum())


def _shortened(word: str, count: int) -> Iterator[str]:
    """What is left of the word without `count` letters, if that is two thirds of it or more."""
    if count > len(word) // 3 or (count > 1 and len(word) > _LONGEST_FOR_TWO):
        return
    for left in combinations(word, len(word) - count):
        yield "".join(left)


def listing(names: Iterable[str], joint: str = "and", *, most: int = 20) -> str:
    """`a, b and c`, cut after so many."""
    words = list(islice(names, most + 1))
    if len(words) > most:
        return ", ".join(words[:most]) + ", …"
    return f" {joint} ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def clip(text: str, most: int = 60) -> str:
    """A word of the file as a message can hold it: on one line, printable, not too long."""
    if len(text) <= most and text.isprintable():
        return text
    shown = "".join(c if c.isprintable() else "�" for c in text[: most + 1])
    return shown if len(shown) <= most else shown[: most - 1] + "…"
